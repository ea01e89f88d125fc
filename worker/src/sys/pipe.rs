//! A pipe as a place for bytes that no one looks at: splice(2) moves them from a socket into it and
//! from it into a file, by reference where it can.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::{pipe2, read};

/// A pipe, and how much it can hold.
#[derive(Debug)]
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    size: usize,
}

impl Pipe {
    /// One that holds `most` bytes, or as many as can be had, at least `least`: who is not root shares
    /// `fs.pipe-user-pages-soft` with all of the same user, pipe(7). `EPERM`: not even that.
    pub fn new(most: usize, least: usize) -> io::Result<Pipe> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let mut wanted = most;
        while wanted >= least {
            let size = FcntlArg::F_SETPIPE_SZ(wanted.try_into().unwrap_or(i32::MAX));
            match fcntl(&writer, size) {
                Ok(size) => return Ok(Pipe { reader, writer, size: size.unsigned_abs() as usize }),
                Err(Errno::EPERM) => wanted /= 2,
                Err(e) => return Err(e.into()),
            }
        }
        Err(Errno::EPERM.into())
    }

    /// Bytes that it can hold at most.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Takes in what the socket has now, at most `len` bytes. The pipe must be empty, for a full one
    /// is `EAGAIN` too. 0: the peer has shut down its writing side. `EAGAIN`: nothing is there now.
    pub fn fill(&self, socket: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
        again(|| splice(socket, None, &self.writer, None, len, SpliceFFlags::SPLICE_F_NONBLOCK))
    }

    /// Writes at most `len` bytes of what it holds to the file, at `offset`. `EINVAL`: the filesystem
    /// cannot.
    pub fn drain(&self, file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize> {
        let mut at = offset.cast_signed();
        again(|| splice(&self.reader, None, file, Some(&mut at), len, SpliceFFlags::empty()))
    }

    /// read(2) of what it holds.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        again(|| read(&self.reader, buffer))
    }
}

fn again(mut call: impl FnMut() -> nix::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}
