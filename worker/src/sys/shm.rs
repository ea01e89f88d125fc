//! The shared anonymous mapping behind the scoreboard.

use std::io;
use std::ptr;

use crate::scoreboard::Board;

/// Maps a zeroed board, shared with every process forked later. It is never unmapped: it lives
/// as long as the process.
#[expect(unsafe_code, reason = "mmap")]
pub(crate) fn shared_board() -> io::Result<&'static Board> {
    // SAFETY: a fresh anonymous mapping of the right size at an address of the kernel's choice.
    let address = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size_of::<Board>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: page aligned, zeroed, never unmapped; `Board` is made of integer atomics only, for
    // which all-zero bytes are valid and which other processes may change at any time.
    Ok(unsafe { &*address.cast::<Board>() })
}
