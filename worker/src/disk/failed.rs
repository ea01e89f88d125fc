//! A call on a disk that failed: which one, and why.

use std::fmt;
use std::io;

/// What the operator reads, and what the answer is made from.
#[derive(Debug)]
pub struct Failed {
    /// The system call, as its manual page is called.
    pub call: &'static str,
    /// What it said.
    pub error: io::Error,
}

/// Results that learn the name of their call.
pub trait InCall<T> {
    /// Names the call.
    fn in_call(self, call: &'static str) -> Result<T, Failed>;
}

impl Failed {
    /// The number of the error, if it is the kernel's.
    pub fn errno(&self) -> Option<i32> {
        self.error.raw_os_error()
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, self.error)
    }
}

impl<T, E: Into<io::Error>> InCall<T> for Result<T, E> {
    fn in_call(self, call: &'static str) -> Result<T, Failed> {
        self.map_err(|error| Failed { call, error: error.into() })
    }
}

/// What a disk, or the filesystem on it, says when it is broken: errno(3), and blk_errors in the
/// kernel's block/blk-core.c. XFS and ext4 say EUCLEAN and EBADMSG for what is damaged. ETIMEDOUT
/// is left out: a socket says it too.
pub fn is_of_disk(errno: i32) -> bool {
    matches!(
        errno,
        libc::EIO
            | libc::EUCLEAN
            | libc::EBADMSG
            | libc::EILSEQ
            | libc::ENODATA
            | libc::EREMOTEIO
            | libc::ENOLINK
            | libc::ESHUTDOWN
    )
}

/// Short of descriptors or memory: that is not the disk's fault, nor the file's.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}
