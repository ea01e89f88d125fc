//! Which mount a descriptor is on.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::check;
use super::doors::Door;

/// The mount's number in mountinfo, as the kernel says it with the file's facts: statx(2), since
/// Linux 5.8. `None`: it does not.
pub fn id(fd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    if Door::Statx.is_open() { ask(fd) } else { Ok(None) }
}

#[expect(unsafe_code, reason = "statx")]
pub(super) fn ask(fd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
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
