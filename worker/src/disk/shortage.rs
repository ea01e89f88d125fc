//! Threads that cannot be had: a limit of processes is reached, the memory is used up. Every request
//! meets it then, so it is told once, and how often it happened a while later.

use std::fmt::Display;
use std::io;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use crate::clock;
use crate::disk::repeated::Repeated;

/// Lines are as far apart as this at least.
const INTERVAL: Duration = Duration::from_secs(10);

static SHORTAGE: Mutex<Repeated> = Mutex::new(Repeated::new(INTERVAL));

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

/// Tells the rest now: the worker ends.
pub fn tell_last() {
    if let Some(untold) = with(|shortage| shortage.rest(clock::instant() + INTERVAL)) {
        log::error!("no thread could be started: {untold} times more");
    }
}

fn with<T>(action: impl FnOnce(&mut Repeated) -> T) -> T {
    action(&mut SHORTAGE.lock().unwrap_or_else(PoisonError::into_inner))
}
