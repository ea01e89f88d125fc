//! What happens again and again is told now and then, with how often it has happened.

use std::time::{Duration, Instant};

/// One kind of it.
#[derive(Debug)]
pub struct Repeated {
    interval: Duration,
    told: Option<Instant>,
    /// What has happened since.
    untold: u64,
}

impl Repeated {
    /// Nothing has happened yet; it is told this often at most.
    pub const fn new(interval: Duration) -> Repeated {
        Repeated { interval, told: None, untold: 0 }
    }

    /// Once more. `Some`: it is to be told, with so many that were not.
    pub fn note(&mut self, now: Instant) -> Option<u64> {
        if self.is_quiet(now) {
            self.told = Some(now);
            return Some(std::mem::take(&mut self.untold));
        }
        self.untold += 1;
        None
    }

    /// So many are to be told by themselves: nothing has happened that could tell them.
    pub fn rest(&mut self, now: Instant) -> Option<u64> {
        if self.untold == 0 || !self.is_quiet(now) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }

    /// True when the next one is told.
    pub fn is_quiet(&self, now: Instant) -> bool {
        self.told.is_none_or(|told| now.saturating_duration_since(told) >= self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_and_most_of_it_in_a_count() {
        let mut repeated = Repeated::new(Duration::from_secs(10));
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(repeated.rest(at(0)), None);
        assert_eq!(repeated.note(at(0)), Some(0));
        assert_eq!(repeated.note(at(1)), None);
        assert_eq!(repeated.note(at(9)), None);
        assert_eq!(repeated.rest(at(9)), None);
        assert_eq!(repeated.rest(at(10)), Some(2));
        assert_eq!(repeated.rest(at(30)), None);
        assert_eq!(repeated.note(at(30)), Some(0));
        assert_eq!(repeated.note(at(31)), None);
        assert_eq!(repeated.note(at(41)), Some(1));
    }
}
