//! Which mount a descriptor is on.

use std::io;
use std::os::fd::BorrowedFd;

use super::doors::Door;
use super::raw::mount_id;

/// The mount's number in mountinfo, as the kernel says it with the file's facts: statx(2), since
/// Linux 5.8. `None`: it does not.
pub fn id(fd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    if Door::Statx.is_open() { mount_id(fd) } else { Ok(None) }
}
