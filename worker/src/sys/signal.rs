//! Signals as events: signalfd(2).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Blocked signals that arrive as events of a descriptor.
#[derive(Debug)]
pub struct Signals(SignalFd);

/// A signal that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Which.
    pub signal: Signal,
    /// The process that sent it, 0 if it cannot be seen from here, and its user; `None`: the kernel.
    pub sender: Option<(u32, u32)>,
}

impl Signals {
    /// Blocks `signals` in the calling thread, and in those it starts, and opens their descriptor.
    pub fn new(signals: &[Signal]) -> io::Result<Signals> {
        let set: SigSet = signals.iter().copied().collect();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None)?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Signals(SignalFd::with_flags(&set, flags)?))
    }

    /// The next signal that is pending, if any.
    pub fn next(&self) -> Option<Signal> {
        self.receive().map(|received| received.signal)
    }

    /// The next signal that is pending, if any, and who sent it. SIGWINCH counts only when a process sent it: the
    /// kernel sends it to whatever runs in a terminal whose window changes its size.
    pub fn receive(&self) -> Option<Received> {
        loop {
            let info = self.0.read_signal().ok().flatten()?;
            let signal = Signal::try_from(info.ssi_signo as i32).ok()?;
            let by_kernel = info.ssi_code == libc::SI_KERNEL;
            if signal != Signal::SIGWINCH || !by_kernel {
                let sender = (!by_kernel).then_some((info.ssi_pid, info.ssi_uid));
                return Some(Received { signal, sender });
            }
        }
    }
}

/// Lets a write past RLIMIT_FSIZE fail with EFBIG instead of ending the process: setrlimit(2).
#[expect(unsafe_code, reason = "signal dispositions")]
pub fn ignore_file_size_signal() {
    // SAFETY: ignoring a signal runs no handler, which is what could be unsafe.
    let ignored = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
    if let Err(e) = ignored {
        log::warn!("cannot ignore SIGXFSZ: {e}");
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
