//! What the kernel and the sandbox around the process allow, found out once by trying.
//!
//! A call that is missing (`ENOSYS`) and one that a seccomp filter refuses (`EPERM`, in some
//! sandboxes another errno) are the same to us: the door is closed and the other way is taken. An
//! `EPERM` of a file is something else, so it is asked here, on what nobody can be refused: the
//! root folder, a bad descriptor, a process that does not exist. Nothing is changed by it.
//!
//! What depends on the filesystem alone (O_TMPFILE, RWF_NOWAIT) shows on the device; such a door is
//! closed here when no filesystem could open it.
//!
//! [`VARIABLE`] closes doors for tests, as if the kernel said `ENOSYS`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, SpliceFFlags, open, renameat2, splice};
use nix::sys::stat::Mode;
use nix::unistd::linkat;

use super::raw;

/// Names of doors, with commas between them, that are closed to the process. For tests only.
pub const VARIABLE: &str = "RMOGSTORED_CLOSED";

/// A way that may be closed, and what is done then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Door {
    /// openat2(2), Linux 5.6. Else step by step.
    Openat2,
    /// Its RESOLVE_CACHED, Linux 5.12. Else every file is opened by a disk thread.
    ResolveCached,
    /// preadv2(2) with RWF_NOWAIT, Linux 4.14. Else what mincore(2) shows is sent by sendfile(2).
    Preadv2,
    /// cachestat(2), Linux 6.5. Else mincore(2).
    Cachestat,
    /// The mount's number in statx(2), Linux 5.8. Else fdinfo, or the filesystem's number.
    Statx,
    /// O_TMPFILE, Linux 3.11. Else a temporary name.
    Tmpfile,
    /// linkat(2) of a descriptor, for everybody since Linux 6.10. Else through /proc/self/fd.
    Linkat,
    /// linkat(2) of a name in /proc/self/fd. Where neither is there, no O_TMPFILE is used.
    LinkatProc,
    /// renameat2(2) with RENAME_NOREPLACE, Linux 3.15. Else a second name.
    Renameat2,
    /// sync_file_range(2). Else fdatasync(2).
    SyncFileRange,
    /// splice(2). Else bodies are copied on their way to a file.
    Splice,
    /// ioprio_set(2). Else digests for fsck have the disk as everybody has.
    IoprioSet,
    /// sched_setscheduler(2). Else disk threads interrupt the loop on a busy processor.
    SchedSetscheduler,
    /// sched_setattr(2). Else turns of long work are as long as all others.
    SchedSetattr,
}

const ALL: [Door; 14] = [
    Door::Openat2,
    Door::ResolveCached,
    Door::Preadv2,
    Door::Cachestat,
    Door::Statx,
    Door::Tmpfile,
    Door::Linkat,
    Door::LinkatProc,
    Door::Renameat2,
    Door::SyncFileRange,
    Door::Splice,
    Door::IoprioSet,
    Door::SchedSetscheduler,
    Door::SchedSetattr,
];

/// What this process has found: the bits of closed doors, and [`KNOWN`].
static STATE: AtomicU32 = AtomicU32::new(0);
const KNOWN: u32 = 1 << 31;

/// A process id that no process has: pid_max is 2^22 at most.
pub(super) const NOBODY: libc::pid_t = libc::pid_t::MAX;

/// Doors that are closed, as a number that processes can share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed(pub u32);

impl Door {
    /// Its name in `status`, in the log and in [`VARIABLE`].
    pub fn name(self) -> &'static str {
        match self {
            Door::Openat2 => "openat2",
            Door::ResolveCached => "resolve_cached",
            Door::Preadv2 => "preadv2",
            Door::Cachestat => "cachestat",
            Door::Statx => "statx",
            Door::Tmpfile => "tmpfile",
            Door::Linkat => "linkat",
            Door::LinkatProc => "linkat_proc",
            Door::Renameat2 => "renameat2",
            Door::SyncFileRange => "sync_file_range",
            Door::Splice => "splice",
            Door::IoprioSet => "ioprio_set",
            Door::SchedSetscheduler => "sched_setscheduler",
            Door::SchedSetattr => "sched_setattr",
        }
    }

    /// Tries it, the first time that any door is asked for; never waits for a disk.
    pub fn is_open(self) -> bool {
        let state = match STATE.load(Relaxed) {
            0 => look().0 | KNOWN,
            known => known,
        };
        state & self.bit() == 0
    }

    fn bit(self) -> u32 {
        1 << self as u8
    }

    /// Any other answer than a refusal says that there is such a call.
    fn attempt(self, root: BorrowedFd<'_>) -> io::Result<()> {
        const NOTHING: u64 = 0;
        match self {
            Door::Openat2 => opens(root, raw::BENEATH),
            Door::ResolveCached => opens(root, raw::CACHED),
            // `root` is an O_PATH descriptor, which can be neither read nor written: EBADF.
            Door::Preadv2 => raw::preadv2(root, &mut [], NOTHING, libc::RWF_NOWAIT).map(drop),
            Door::Cachestat => raw::cachestat(root, NOTHING, NOTHING).map(drop),
            Door::SyncFileRange => raw::sync_file_range(root, NOTHING, NOTHING, 0),
            Door::Splice => Ok(splice(root, None, root, None, 1, SpliceFFlags::empty()).map(drop)?),
            Door::Statx => raw::mount_id(root)?.map(drop).ok_or(Errno::ENOSYS.into()),
            Door::Tmpfile => Ok(()),
            // The new name is one that cannot be made: EEXIST.
            Door::Linkat => Ok(linkat(root, c"", AT_FDCWD, c"/", AtFlags::AT_EMPTY_PATH)?),
            Door::LinkatProc => {
                let name = format!("/proc/self/fd/{}", root.as_raw_fd());
                let flags = AtFlags::AT_SYMLINK_FOLLOW;
                Ok(linkat(AT_FDCWD, name.as_str(), AT_FDCWD, c"/", flags)?)
            }
            Door::Renameat2 => {
                let flags = RenameFlags::RENAME_NOREPLACE;
                Ok(renameat2(AT_FDCWD, c"/", AT_FDCWD, c"/", flags)?)
            }
            // ESRCH
            Door::IoprioSet => raw::set_io_priority(NOBODY, raw::LOWEST),
            Door::SchedSetscheduler => raw::set_batch(NOBODY),
            Door::SchedSetattr => raw::set_attributes(NOBODY, &raw::attributes()?),
        }
    }
}

impl Closed {
    /// The names, in a settled order.
    pub fn names(self) -> Vec<&'static str> {
        ALL.into_iter().filter(|door| self.0 & door.bit() != 0).map(Door::name).collect()
    }

    /// The same doors and one more.
    pub fn and(self, door: Door) -> Closed {
        Closed(self.0 | door.bit())
    }

    /// Whether a door is among them.
    pub fn has(self, door: Door) -> bool {
        self.0 & door.bit() != 0
    }
}

/// Tries every door and remembers what it found. A worker does so when it has become what it is:
/// its user decides too.
pub fn look() -> Closed {
    let forced = std::env::var(VARIABLE).unwrap_or_default();
    let closed = try_all(&forced);
    STATE.store(closed.0 | KNOWN, Relaxed);
    closed
}

fn try_all(forced: &str) -> Closed {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    // Without a root folder nothing can be told, and nothing else will work.
    let root: Option<OwnedFd> = open("/", flags, Mode::empty()).ok();
    let mut closed = Closed::default();
    for door in ALL {
        let is_forced = forced.split(',').any(|name| name.trim() == door.name());
        let refused = root.as_ref().is_some_and(|root| is_refusal(door.attempt(root.as_fd())));
        if is_forced || refused {
            closed = closed.and(door);
        }
    }
    if closed.has(Door::Openat2) {
        closed = closed.and(Door::ResolveCached);
    }
    if closed.has(Door::Linkat) && closed.has(Door::LinkatProc) {
        closed = closed.and(Door::Tmpfile);
    }
    closed
}

fn opens(root: BorrowedFd<'_>, resolve: u64) -> io::Result<()> {
    raw::openat2(root, c".", libc::O_PATH | libc::O_DIRECTORY, 0, resolve).map(drop)
}

/// What kernels say that do not know a call or a flag of it, and filters that do not allow it.
/// `ENOENT`: of linkat(2) only, for those who may not name a descriptor, and without /proc.
fn is_refusal(answer: io::Result<()>) -> bool {
    const REFUSALS: [i32; 7] = [
        libc::ENOSYS,
        libc::EPERM,
        libc::EACCES,
        libc::EINVAL,
        libc::E2BIG,
        libc::EOPNOTSUPP,
        libc::ENOENT,
    ];
    answer.is_err_and(|e| e.raw_os_error().is_some_and(|errno| REFUSALS.contains(&errno)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_recent_kernel_has_is_found_open() {
        let closed = try_all("");
        // As old as the oldest machine that runs the tests; some are missing in containers.
        for door in [Door::Renameat2, Door::SyncFileRange, Door::LinkatProc] {
            assert!(!closed.has(door), "{door:?} in {:?}", closed.names());
        }
    }

    #[test]
    fn each_door_is_closed_by_its_name() {
        for door in ALL {
            let closed = try_all(&format!("nothing, {}", door.name()));
            assert!(closed.has(door), "{door:?}");
            assert!(closed.names().contains(&door.name()));
        }
        assert!(try_all("openat2").has(Door::ResolveCached));
        assert!(try_all("linkat,linkat_proc").has(Door::Tmpfile));
    }

    #[test]
    fn refusals_are_told_from_other_answers() {
        for errno in [libc::ENOSYS, libc::EPERM] {
            assert!(is_refusal(Err(io::Error::from_raw_os_error(errno))));
        }
        for errno in [libc::EBADF, libc::ESRCH, libc::EEXIST, libc::EBUSY, libc::EAGAIN] {
            assert!(!is_refusal(Err(io::Error::from_raw_os_error(errno))));
        }
        assert!(!is_refusal(Ok(())));
    }
}
