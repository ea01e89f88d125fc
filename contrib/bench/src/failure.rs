//! What ends a run, and the flag that Ctrl-C sets.

use std::fmt::{self, Display};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// Why a run ended, as a sentence for whoever started it.
#[derive(Debug)]
pub struct Failure(String);

/// What everything that can end a run returns.
pub type Outcome<T> = Result<T, Failure>;

/// Says what was being done when something failed.
pub trait Context<T> {
    /// Puts this in front of the reason.
    fn context(self, doing: impl Display) -> Outcome<T>;
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

impl Failure {
    /// A failure with this sentence.
    pub fn new(reason: impl Display) -> Failure {
        Failure(reason.to_string())
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::new(error)
    }
}

impl From<nix::Error> for Failure {
    fn from(error: nix::Error) -> Failure {
        Failure::new(error.desc())
    }
}

impl<T, E: Display> Context<T> for Result<T, E> {
    fn context(self, doing: impl Display) -> Outcome<T> {
        self.map_err(|reason| Failure(format!("{doing}: {reason}")))
    }
}

/// Makes Ctrl-C and SIGTERM end the run in order: what is mounted and started is taken down.
pub fn heed_signals() -> Outcome<()> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed)).context("signal handler")
}

/// Fails once a signal has come. Called in every loop that lasts.
pub fn go_on() -> Outcome<()> {
    match INTERRUPTED.load(Ordering::Relaxed) {
        true => Err(Failure::new("interrupted")),
        false => Ok(()),
    }
}
