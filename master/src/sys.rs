//! The only unsafe code of this crate: fork, signal dispositions, the environment, descriptors
//! over exec.
#![expect(unsafe_code, reason = "fork, sigaction, close_range, _exit and environment changes")]

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

/// Lets no descriptor but the standard ones survive an exec. Before Linux 5.11 only those that
/// were opened so do not.
pub(crate) fn close_all_on_exec() {
    const FIRST: libc::c_uint = 3;
    // SAFETY: changes flags only; no descriptor is closed or opened.
    unsafe {
        libc::close_range(FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int)
    };
}

/// Ends a forked process without running what its parent wants done at its own end.
pub(crate) fn leave_at_once(status: i32) -> ! {
    // SAFETY: ends the process; nothing of it is used afterwards.
    unsafe { libc::_exit(status) }
}

fn dispose(signals: &[Signal], handler: SigHandler) {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    for &signal in signals {
        // SAFETY: no handler function is installed: the signal is ignored or has its default.
        // It cannot fail for the signals used here (only for KILL and STOP).
        let _ = unsafe { sigaction(signal, &action) };
    }
}
