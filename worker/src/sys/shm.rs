//! The shared mapping behind the scoreboard.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use zerocopy::FromZeros;

/// Maps zeroed memory, shared with every process forked later. It is never unmapped: it lives as
/// long as the process.
pub(crate) fn shared<T: FromZeros + Sync>() -> io::Result<&'static T> {
    map(None)
}

/// The same in a file of memory, close-on-exec, whose size nobody can change.
///
/// # Errors
/// See memfd_create(2), and ftruncate(2), which heeds `RLIMIT_FSIZE`.
pub(crate) fn shared_in_file<T: FromZeros + Sync>() -> io::Result<(&'static T, OwnedFd)> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create("rmogstored", flags)?);
    file.set_len(size_of::<T>() as u64)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok((map(Some(&file))?, file.into()))
}

/// Of a file of that size which is zeroed, or nameless memory.
#[expect(unsafe_code, reason = "mmap")]
fn map<T: FromZeros + Sync>(file: Option<&File>) -> io::Result<&'static T> {
    const { assert!(align_of::<T>() <= 4096) };
    let flags = if file.is_some() { 0 } else { libc::MAP_ANONYMOUS };
    // SAFETY: a fresh mapping of the right size at an address of the kernel's choice.
    let address = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size_of::<T>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | flags,
            file.map_or(-1, AsRawFd::as_raw_fd),
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: page aligned, which is enough, and never unmapped, nor is its file made shorter, which
    // is sealed; zeroes are valid for `FromZeros`, and what is `Sync` may be changed by others, here
    // other processes.
    Ok(unsafe { &*address.cast::<T>() })
}
