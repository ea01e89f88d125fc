//! The only unsafe code of this crate: fork, signal dispositions, timers, the environment,
//! descriptors by number, descriptors of processes.
#![expect(unsafe_code, reason = "fork, sigaction, close_range, _exit and environment changes")]

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, Pid};

/// The first descriptor after the standard streams.
pub(crate) const FIRST: RawFd = 3;

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
    let (first, flag) = (FIRST.cast_unsigned(), libc::CLOSE_RANGE_CLOEXEC as libc::c_int);
    // SAFETY: changes flags only; no descriptor is closed or opened.
    unsafe { libc::close_range(first, libc::c_uint::MAX, flag) };
}

/// Closes every descriptor from 3 on that is not in `kept`.
pub(crate) fn close_all_but(kept: &BTreeSet<RawFd>) {
    let mut from = FIRST;
    for &fd in kept {
        if from < fd {
            close_between(from, fd - 1);
        }
        from = fd.saturating_add(1);
    }
    close_between(from, RawFd::MAX);
}

/// In one call since Linux 5.9; one by one where that is missing or forbidden.
fn close_between(from: RawFd, to: RawFd) {
    // SAFETY: as for `close`.
    let done = unsafe { libc::close_range(from.cast_unsigned(), to.cast_unsigned(), 0) } == 0;
    if done {
        return;
    }
    match open_descriptors() {
        Ok(open) => open.into_iter().filter(|fd| (from..=to).contains(fd)).for_each(close),
        Err(_) => (from..=to.min(largest_descriptor())).for_each(close),
    }
}

fn close(fd: RawFd) {
    // SAFETY: no object of this process owns it: it is called at the start, when nothing is open
    // but what the caller keeps.
    unsafe { libc::close(fd) };
}

fn open_descriptors() -> io::Result<Vec<RawFd>> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        open.extend(entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    Ok(open)
}

/// Past the soft limit there may be some that were opened under a higher one. A million closes
/// take a moment; more than that no process has by default: fs.nr_open in proc(5).
fn largest_descriptor() -> RawFd {
    const MOST: u64 = 1 << 20;
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(MOST, |(_, hard)| hard.min(MOST));
    RawFd::try_from(limit).unwrap_or(RawFd::MAX)
}

/// Lets every signal that was ignored do what it does by default: exec(2) keeps that alone.
/// Handlers are this process's own.
pub(crate) fn reset_ignored_signals() {
    for number in 1..=libc::SIGRTMAX() {
        // SAFETY: plain integers and pointers, for which zero is a value.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: asks only, and writes to a structure that lives.
        let known = unsafe { libc::sigaction(number, std::ptr::null(), &mut action) } == 0;
        if known && action.sa_sigaction == libc::SIG_IGN {
            // SAFETY: no handler function is installed.
            unsafe { libc::signal(number, libc::SIG_DFL) };
        }
    }
}

/// Timers of setitimer(2) and alarm(2) go on over exec.
pub(crate) fn stop_timers() {
    // SAFETY: plain integers, for which zero is a value: "no timer".
    let none: libc::itimerval = unsafe { std::mem::zeroed() };
    for which in [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF] {
        // SAFETY: reads a structure that lives; the old value is not asked for.
        unsafe { libc::setitimer(which, &none, std::ptr::null_mut()) };
    }
}

/// A descriptor of a process: pidfd_open(2).
pub(crate) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    match RawFd::try_from(fd) {
        // SAFETY: the call has just made it, close-on-exec, and nobody else knows of it.
        Ok(fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A signal to the process of a descriptor: pidfd_send_signal(2).
pub(crate) fn pidfd_send_signal(process: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    let (fd, number, flags) = (process.as_raw_fd(), signal as libc::c_int, 0);
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open for as long as it is borrowed; no siginfo is given.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, number, none, flags) };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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
