//! The only unsafe code of this crate: system calls that nix does not wrap, one file per kind; and
//! those on disks that it does, in [`disk`].

mod beneath;
pub mod disk;
pub mod doors;
pub mod file;
pub mod memory;
pub mod mount;
pub mod opaque;
pub mod pipe;
pub mod priority;
mod raw;
pub mod shm;
pub mod signal;
pub mod socket;
pub mod title;

use std::io;

/// Turns the -1 of a system call into the error in `errno`.
pub(crate) fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
