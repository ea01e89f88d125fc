//! A clean start: daemon(7). What a parent may have left to this process without meaning to, and
//! what would hurt the node or keep the parent's own things alive, is put right.
//!
//! Kept on purpose: standard streams, the descriptors that are announced, umask, limits, the
//! environment, and in the foreground the terminal and the folder. rmogstored(8) has the table.

use std::collections::BTreeSet;
use std::os::fd::RawFd;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};

use crate::sys::FIRST;
use crate::{inherit, legacy, succession, successor, sys};

/// Signals and timers. To be called while there is one thread, before anything is written: a
/// file at its limit ends a process that does not ignore SIGXFSZ.
pub fn begin() {
    inherit::started_as();
    sys::reset_ignored_signals();
    sys::ignore(&[Signal::SIGPIPE, Signal::SIGXFSZ]);
    // What is blocked stays so over exec. It cannot fail.
    let _ = SigSet::empty().thread_set_mask();
    sys::stop_timers();
}

/// Closes every descriptor but the standard streams, the status pipe and what the environment
/// announces. To be called while this process has opened nothing of its own but the pipe to its
/// predecessor.
pub fn close_strangers(status_fd: Option<RawFd>) {
    let mut kept: BTreeSet<RawFd> = inherit::announced_descriptors();
    kept.extend(status_fd);
    kept.extend(successor::descriptor());
    kept.extend(legacy::announced());
    kept.extend(succession::announced());
    kept.retain(|fd| *fd >= FIRST);
    sys::close_all_but(&kept);
}

/// The umask, if it takes rights from the node itself.
pub fn umask_against_owner() -> Option<u32> {
    let now = umask(Mode::empty());
    umask(now);
    now.intersects(Mode::S_IRWXU).then(|| now.bits())
}
