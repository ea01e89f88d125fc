//! System calls that a kernel may lack or a sandbox forbid, as they are: whoever uses one asks its
//! [door](super::doors) first.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

/// Symbolic links may not leave the starting directory: openat2(2).
pub const BENEATH: u64 = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
/// As [`BENEATH`], and not into what is mounted below.
pub const SAME_MOUNT: u64 = BENEATH | libc::RESOLVE_NO_XDEV;
/// As [`SAME_MOUNT`], and only what is in the dentry cache: never waits for the disk.
pub const CACHED: u64 = SAME_MOUNT | libc::RESOLVE_CACHED;

/// Lowest level of the best-effort class: behind everything else, but never starved as the idle
/// class can be on a busy disk.
pub(super) const LOWEST: i64 = (2 << 13) | 7;
/// IOPRIO_WHO_PROCESS; 0 is the calling thread.
pub(super) const WHO: i64 = 1;

/// What cachestat(2) is asked: `struct cachestat_range` of linux/mman.h.
#[repr(C)]
struct CacheRange {
    offset: u64,
    len: u64,
}

/// What it answers: `struct cachestat`, in pages.
#[repr(C)]
#[derive(Default)]
struct CacheCounts {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// The number of cachestat(2), Linux 6.5, which is the same on every architecture but alpha.
const SYS_CACHESTAT: libc::c_long = 451;

#[expect(unsafe_code, reason = "openat2")]
pub(super) fn openat2(
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: i32,
    mode: u32,
    resolve: u64,
) -> io::Result<OwnedFd> {
    // SAFETY: `open_how` is plain integers, for which zero is valid.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = u64::from(mode);
    how.resolve = resolve;
    let (fd, size) = (dir.as_raw_fd(), size_of::<libc::open_how>());
    // SAFETY: both pointers are valid for the call; the size is that of `how`.
    let result =
        unsafe { libc::syscall(libc::SYS_openat2, fd, path.as_ptr(), &raw const how, size) };
    let opened = check(result)?;
    // SAFETY: a new descriptor of ours.
    Ok(unsafe { OwnedFd::from_raw_fd(opened as i32) })
}

#[expect(unsafe_code, reason = "preadv2")]
pub(super) fn preadv2(
    file: BorrowedFd<'_>,
    into: &mut [MaybeUninit<u8>],
    offset: u64,
    flags: i32,
) -> io::Result<usize> {
    let part = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: one iovec over memory that is ours and writable for its whole length.
    let n = unsafe { libc::preadv2(file.as_raw_fd(), &raw const part, 1, offset as i64, flags) };
    Ok(check(n as libc::c_long)? as usize)
}

#[expect(unsafe_code, reason = "cachestat")]
pub(super) fn cachestat(file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<u64> {
    let range = CacheRange { offset, len };
    let mut counts = CacheCounts::default();
    // SAFETY: both structures are laid out as the kernel's and outlive the call.
    let result = unsafe {
        let (range, counts) = (&raw const range, &raw mut counts);
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range, counts, 0)
    };
    check(result).map(|_| counts.cached)
}

#[expect(unsafe_code, reason = "sync_file_range")]
pub(super) fn sync_file_range(
    file: BorrowedFd<'_>,
    offset: u64,
    len: u64,
    flags: u32,
) -> io::Result<()> {
    // SAFETY: takes integers only.
    let result =
        unsafe { libc::sync_file_range(file.as_raw_fd(), offset as i64, len as i64, flags) };
    check(result.into()).map(|_| ())
}

/// Of a thread; 0 is the calling one.
#[expect(unsafe_code, reason = "sched_setscheduler")]
pub(super) fn set_batch(thread: libc::pid_t) -> io::Result<()> {
    // SAFETY: plain integers, for which zero is valid: the priority that this policy wants.
    let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: the structure outlives the call.
    let result =
        unsafe { libc::sched_setscheduler(thread, libc::SCHED_BATCH, &raw const parameters) };
    check(result.into()).map(|_| ())
}

/// Policy, nice value and turn of the calling thread: sched_getattr(2).
#[expect(unsafe_code, reason = "sched_getattr")]
pub(super) fn attributes() -> io::Result<libc::sched_attr> {
    let size = size_of::<libc::sched_attr>();
    // SAFETY: plain integers, for which zero is valid.
    let mut found: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most `size` bytes into the structure; 0 is the calling thread.
    check(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut found, size, 0) })?;
    Ok(found)
}

/// Of a thread; 0 is the calling one.
#[expect(unsafe_code, reason = "sched_setattr")]
pub(super) fn set_attributes(thread: libc::pid_t, attributes: &libc::sched_attr) -> io::Result<()> {
    // SAFETY: the structure says how long it is and outlives the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, thread, attributes, 0) }).map(|_| ())
}

/// Of a thread; 0 is the calling one.
#[expect(unsafe_code, reason = "ioprio_set")]
pub(super) fn set_io_priority(thread: libc::pid_t, priority: i64) -> io::Result<()> {
    // SAFETY: takes integers only.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO, i64::from(thread), priority) };
    check(result).map(|_| ())
}

#[expect(unsafe_code, reason = "statx")]
pub(super) fn mount_id(fd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let mut facts = MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    let (fd, wanted, room) = (fd.as_raw_fd(), libc::STATX_MNT_ID, facts.as_mut_ptr());
    // SAFETY: the path is NUL-terminated, `room` has the size of what the kernel writes.
    let result = unsafe { libc::statx(fd, c"".as_ptr(), flags, wanted, room) };
    check(result.into())?;
    // SAFETY: integers only, zero at first, and the kernel has filled them in.
    let facts = unsafe { facts.assume_init() };
    Ok((facts.stx_mask & libc::STATX_MNT_ID != 0).then_some(facts.stx_mnt_id))
}
