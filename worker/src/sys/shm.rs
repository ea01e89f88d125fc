//! The shared anonymous mapping behind the scoreboard.

use std::io;
use std::ptr;

use zerocopy::FromZeros;

/// Maps zeroed memory, shared with every process forked later. It is never unmapped: it lives as
/// long as the process.
#[expect(unsafe_code, reason = "mmap")]
pub(crate) fn shared<T: FromZeros + Sync>() -> io::Result<&'static T> {
    const { assert!(align_of::<T>() <= 4096) };
    // SAFETY: a fresh anonymous mapping of the right size at an address of the kernel's choice.
    let address = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size_of::<T>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: page aligned, which is enough, and never unmapped; zeroes are valid for `FromZeros`,
    // and what is `Sync` may be changed by others, here other processes.
    Ok(unsafe { &*address.cast::<T>() })
}
