//! The only unsafe code: a scheduling policy.
#![expect(unsafe_code, reason = "sched_setscheduler, which nix does not wrap")]

use std::io;

/// Lets the calling thread have its processor whenever it can run, or no longer.
pub fn come_first(first: bool) -> io::Result<()> {
    const MODEST: libc::c_int = 10;
    let (policy, priority) =
        if first { (libc::SCHED_FIFO, MODEST) } else { (libc::SCHED_OTHER, 0) };
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: reads the parameters during the call; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
