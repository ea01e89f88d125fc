//! The forked child that becomes a successor: what it finds, and its execve(2).

use std::ffi::{CStr, CString, OsStr};
use std::io::{self, PipeWriter, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::execve;
use rmogstored_worker::control::Channel;

use super::{Supervisor, successor_stderr};
use crate::legacy::{self, Legacy};
use crate::notify::WATCHDOG_PID;
use crate::successor::AnyPort;
use crate::{inherit, succession, successor, sys};

/// Exit status of a child that could not become the successor: as of a shell.
pub(super) const CANNOT_EXECUTE: i32 = 127;

/// What a successor finds, besides the listeners and its pipe.
pub(super) struct Left {
    pub legacy: Option<OwnedFd>,
    pub succession: Option<Channel>,
}

impl Left {
    fn descriptors(&self) -> [Option<BorrowedFd<'_>>; 2] {
        [self.legacy.as_ref().map(AsFd::as_fd), self.succession.as_ref().map(AsFd::as_fd)]
    }
}

impl Supervisor {
    /// What the successor is told of the devices, if it can be.
    pub(super) fn legacy(&self) -> Option<OwnedFd> {
        let legacy = Legacy::of(&self.board, |site| self.plan.devices.docroot(site));
        let left = legacy.left().inspect_err(|e| {
            log::warn!("upgrade: cannot leave what is known of the devices: {e}");
        });
        left.ok()
    }

    /// In the forked child. Nothing here may be dropped that removes something of the master's.
    pub(super) fn become_successor(
        &self,
        path: &CStr,
        words: &[CString],
        mut pipe: PipeWriter,
        stderr: &PipeWriter,
        left: Left,
    ) -> ! {
        sys::close_all_on_exec();
        let listeners = self.plan.all_listeners().map(|(fd, ..)| fd);
        let [legacy, succession] = left.descriptors();
        let others = [Some(pipe.as_fd()), self.events.to_inherit(), legacy, succession];
        let kept = listeners.chain(others.into_iter().flatten());
        let result =
            kept.map(|fd| fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))).find(Result::is_err);
        let environment =
            self.environment(pipe.as_fd(), successor_stderr::speak(stderr).is_ok(), &left);
        sys::restore(&[Signal::SIGPIPE, Signal::SIGXFSZ]);
        let errno = match (result, SigSet::empty().thread_set_mask()) {
            (Some(Err(errno)), _) | (_, Err(errno)) => errno,
            _ => execve(path, words, &environment).unwrap_err(),
        };
        let path = OsStr::from_bytes(path.to_bytes()).display();
        let error = io::Error::from(errno);
        // The master sees the exit status too.
        let _ = writeln!(pipe, "because cannot execute {path}: {error}");
        sys::leave_at_once(CANNOT_EXECUTE)
    }

    fn environment(&self, pipe: BorrowedFd<'_>, speaks: bool, left: &Left) -> Vec<CString> {
        let listeners = || self.plan.all_listeners();
        let numbers: Vec<String> = listeners().map(|(fd, ..)| fd.as_raw_fd().to_string()).collect();
        let generation = self.policy.newest() + 1;
        let mut told = format!("{},{generation}", pipe.as_raw_fd());
        if speaks {
            told.push_str(&format!(",{}", successor::STDERR_IS_STDIN));
        }
        for (fd, purpose, wanted) in listeners().filter(|(.., wanted)| wanted.port() == 0) {
            let fd = fd.as_raw_fd();
            told.push_str(&format!(",{}", AnyPort { fd, purpose, wanted }));
        }
        let mut all: Vec<(_, _)> = std::env::vars_os().collect();
        let mut set = |name: &str, value: String| {
            all.retain(|(known, _)| known != name);
            all.push((name.into(), value.into()));
        };
        set(inherit::VARIABLE, numbers.join(","));
        set(successor::VARIABLE, told);
        let [legacy, succession] = left.descriptors();
        if let Some(legacy) = legacy {
            set(legacy::VARIABLE, legacy.as_raw_fd().to_string());
        }
        if let Some(end) = succession {
            set(succession::VARIABLE, succession::announcement(end));
        }
        if std::env::var_os(WATCHDOG_PID).is_some() {
            set(WATCHDOG_PID, std::process::id().to_string());
        }
        let line = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            CString::new([name.as_bytes(), value.as_bytes()].join(&b'=')).ok()
        };
        all.into_iter().filter_map(line).collect()
    }
}
