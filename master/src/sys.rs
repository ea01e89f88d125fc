//! The only unsafe code of this crate: fork, signal dispositions, the environment.
#![expect(unsafe_code, reason = "fork, sigaction and environment changes")]

use std::io;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, Pid};

/// Forks. `None` in the child.
///
/// The master has one thread, so the child may go on with everything it inherited.
pub fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the process has one thread, so no lock is held and no structure half-changed by
    // another one at this moment.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Lets these signals do nothing, where they are not blocked.
pub(crate) fn ignore(signals: &[Signal]) {
    dispose(signals, SigHandler::SigIgn);
}

/// Lets these signals do what they do by default.
pub(crate) fn restore(signals: &[Signal]) {
    dispose(signals, SigHandler::SigDfl);
}

/// Takes a variable out of the environment, so that no process started later believes it.
pub(crate) fn forget_variable(name: &str) {
    // SAFETY: the master has one thread, so nobody reads the environment meanwhile.
    unsafe { std::env::remove_var(name) }
}

fn dispose(signals: &[Signal], handler: SigHandler) {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    for &signal in signals {
        // SAFETY: no handler function is installed: the signal is ignored or has its default.
        // It cannot fail for the signals used here (only for KILL and STOP).
        let _ = unsafe { sigaction(signal, &action) };
    }
}
