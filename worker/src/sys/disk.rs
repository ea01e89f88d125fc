//! Calls on a disk, each behind [`may_begin`]: tests make the n-th of them fail. In other builds
//! that is nothing at all.

use std::ffi::CStr;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};

use nix::NixPath;
use nix::fcntl::{AtFlags, OFlag, RenameFlags};
use nix::sys::stat::Mode;
use nix::sys::time::TimeSpec;
use nix::unistd::UnlinkatFlags;

/// To be asked before a call on a disk, by the name of its manual page.
#[cfg(not(test))]
#[inline(always)]
pub fn may_begin(_: &'static str) -> nix::Result<()> {
    Ok(())
}

/// The same for a write: how many of so many bytes are taken.
#[cfg(not(test))]
#[inline(always)]
pub fn may_write(_: &'static str, len: usize) -> nix::Result<usize> {
    Ok(len)
}

#[cfg(test)]
pub use faults::{may_begin, may_write};

/// openat(2).
pub fn openat(dir: impl AsFd, path: &CStr, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
    may_begin("openat")?;
    nix::fcntl::openat(dir, path, flags, mode)
}

/// renameat(2).
pub fn renameat(from: impl AsFd, old: &CStr, to: impl AsFd, new: &CStr) -> nix::Result<()> {
    may_begin("renameat")?;
    nix::fcntl::renameat(from, old, to, new)
}

/// renameat2(2).
pub fn renameat2(
    from: impl AsFd,
    old: &CStr,
    to: impl AsFd,
    new: &CStr,
    flags: RenameFlags,
) -> nix::Result<()> {
    may_begin("renameat2")?;
    nix::fcntl::renameat2(from, old, to, new, flags)
}

/// linkat(2).
pub fn linkat(
    from: impl AsFd,
    old: &CStr,
    to: impl AsFd,
    new: &CStr,
    flags: AtFlags,
) -> nix::Result<()> {
    may_begin("linkat")?;
    nix::unistd::linkat(from, old, to, new, flags)
}

/// unlinkat(2).
pub fn unlinkat(
    dir: impl AsFd,
    name: &(impl NixPath + ?Sized),
    flags: UnlinkatFlags,
) -> nix::Result<()> {
    may_begin("unlinkat")?;
    nix::unistd::unlinkat(dir, name, flags)
}

/// symlinkat(2).
pub fn symlinkat(target: &CStr, dir: impl AsFd, name: &CStr) -> nix::Result<()> {
    may_begin("symlinkat")?;
    nix::unistd::symlinkat(target, dir, name)
}

/// mkdirat(2).
pub fn mkdirat(dir: impl AsFd, name: &(impl NixPath + ?Sized), mode: Mode) -> nix::Result<()> {
    may_begin("mkdirat")?;
    nix::sys::stat::mkdirat(dir, name, mode)
}

/// futimens(3): times of access and of change.
pub fn futimens(file: impl AsFd, access: &TimeSpec, change: &TimeSpec) -> nix::Result<()> {
    may_begin("futimens")?;
    nix::sys::stat::futimens(file, access, change)
}

/// fdatasync(2).
pub fn fdatasync(file: impl AsFd) -> nix::Result<()> {
    may_begin("fdatasync")?;
    nix::unistd::fdatasync(file)
}

/// fsync(2).
pub fn fsync(file: impl AsFd) -> nix::Result<()> {
    may_begin("fsync")?;
    nix::unistd::fsync(file)
}

/// syncfs(2).
pub fn syncfs(file: impl AsFd) -> nix::Result<()> {
    may_begin("syncfs")?;
    nix::unistd::syncfs(file)
}

/// close(2). The descriptor is gone whatever it says.
pub fn close(file: impl IntoRawFd) -> nix::Result<()> {
    let closed = nix::unistd::close(file);
    may_begin("close").and(closed)
}

/// Calls that fail on command: those of the thread that gave it.
#[cfg(test)]
pub mod faults {
    use nix::errno::Errno;
    use std::cell::Cell;

    /// What becomes of a call.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Fault {
        /// It does nothing and says this.
        Error(Errno),
        /// A write takes half; other calls do what they should.
        Short,
    }

    #[derive(Clone, Copy)]
    struct Plan {
        /// Calls until then.
        left: usize,
        fault: Fault,
        /// All later ones too.
        lasts: bool,
        struck: Option<&'static str>,
    }

    thread_local! {
        static PLAN: Cell<Option<Plan>> = const { Cell::new(None) };
    }

    /// The n-th call from now on, the next being the first, goes wrong; `lasts`: and all after it.
    pub fn from_call(n: usize, fault: Fault, lasts: bool) {
        PLAN.set(Some(Plan { left: n, fault, lasts, struck: None }));
    }

    /// Nothing goes wrong any more. Returns the first call that did.
    pub fn end() -> Option<&'static str> {
        PLAN.take()?.struck
    }

    /// See the builds without tests.
    pub fn may_begin(call: &'static str) -> nix::Result<()> {
        match strike(call) {
            Some(Fault::Error(errno)) => Err(errno),
            Some(Fault::Short) | None => Ok(()),
        }
    }

    /// See the builds without tests.
    pub fn may_write(call: &'static str, len: usize) -> nix::Result<usize> {
        match strike(call) {
            Some(Fault::Error(errno)) => Err(errno),
            Some(Fault::Short) => Ok(len.div_ceil(2)),
            None => Ok(len),
        }
    }

    fn strike(call: &'static str) -> Option<Fault> {
        let mut plan = PLAN.get()?;
        let strikes = plan.left == 1 || plan.left == 0 && plan.lasts;
        plan.left = plan.left.saturating_sub(1);
        if strikes {
            plan.struck = plan.struck.or(Some(call));
        }
        PLAN.set(Some(plan));
        strikes.then_some(plan.fault)
    }
}
