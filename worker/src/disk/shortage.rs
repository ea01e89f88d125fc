//! Threads that cannot be had: a limit of processes is reached, the memory is used up. Every request
//! meets it then, so it is told once, and how often it happened a while later.

use std::fmt::Display;
use std::io;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::clock;

/// Lines are as far apart as this at least.
const INTERVAL: Duration = Duration::from_secs(10);

static SHORTAGE: Mutex<Shortage> = Mutex::new(Shortage { told: None, untold: 0 });

#[derive(Debug)]
struct Shortage {
    told: Option<Instant>,
    /// What has happened since.
    untold: u64,
}

/// No thread could be started for what `whom` names.
pub fn note(whom: impl Display, error: &io::Error) {
    match with(|shortage| shortage.note(clock::instant())) {
        Some(0) => log::error!("no thread could be started for {whom}: {error}"),
        Some(untold) => {
            log::error!(
                "no thread could be started for {whom}: {error}, and {untold} times before"
            );
        }
        None => {}
    }
}

/// Tells the rest when it is time. Called by the clock.
pub fn tell() {
    if let Some(untold) = with(|shortage| shortage.rest(clock::instant())) {
        let seconds = INTERVAL.as_secs();
        log::error!("no thread could be started: {untold} times more in {seconds} s or longer");
    }
}

fn with<T>(action: impl FnOnce(&mut Shortage) -> T) -> T {
    action(&mut SHORTAGE.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Shortage {
    /// One more. `Some`: it is to be told, with so many that were not.
    fn note(&mut self, now: Instant) -> Option<u64> {
        if self.is_quiet(now) {
            self.told = Some(now);
            return Some(std::mem::take(&mut self.untold));
        }
        self.untold += 1;
        None
    }

    fn rest(&mut self, now: Instant) -> Option<u64> {
        if self.untold == 0 || !self.is_quiet(now) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }

    fn is_quiet(&self, now: Instant) -> bool {
        self.told.is_none_or(|told| now.saturating_duration_since(told) >= INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_is_told_once_and_most_of_them_in_a_count() {
        let mut shortage = Shortage { told: None, untold: 0 };
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(shortage.rest(at(0)), None);
        assert_eq!(shortage.note(at(0)), Some(0));
        assert_eq!(shortage.note(at(1)), None);
        assert_eq!(shortage.note(at(9)), None);
        assert_eq!(shortage.rest(at(9)), None);
        assert_eq!(shortage.rest(at(10)), Some(2));
        assert_eq!(shortage.rest(at(30)), None);
        assert_eq!(shortage.note(at(30)), Some(0));
        assert_eq!(shortage.note(at(31)), None);
        assert_eq!(shortage.note(at(41)), Some(1));
    }
}
