//! Who may wait for a disk is a type. What may wait takes [`OnDisk`], which only a disk thread has;
//! a device's descriptor is a [`DiskFd`], which gives itself away to nobody else.
//!
//! The few calls that do no harm to a loop are in [`crate::disk::harmless`], each with its proof.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::stat::{FileStat, fstat};
use nix::sys::uio::{pread, pwrite};

use crate::disk::errands;
use crate::sys::disk::{may_begin, may_write};

/// The calling thread is a disk thread: it may wait. Neither copied nor sent elsewhere.
pub struct OnDisk(PhantomData<*const ()>);

thread_local! {
    static HERE: Cell<bool> = const { Cell::new(false) };
}

impl OnDisk {
    /// For a thread that does nothing but disk work, at its start.
    pub(in crate::disk) fn begin() -> OnDisk {
        HERE.set(true);
        OnDisk(PhantomData)
    }

    /// A test may wait.
    #[cfg(test)]
    pub(crate) fn in_test() -> OnDisk {
        OnDisk::begin()
    }

    /// Whether the calling thread has one.
    pub(in crate::disk) fn is_here() -> bool {
        HERE.get()
    }
}

impl fmt::Debug for OnDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnDisk")
    }
}

/// A descriptor of something on a device. Its last close frees the blocks of a removed file, and
/// on a device that was unmounted lazily it is the unmount: it is closed by disk threads.
#[derive(Debug)]
pub struct DiskFd(Option<OwnedFd>);

impl DiskFd {
    /// Takes over a descriptor.
    pub fn new(fd: OwnedFd) -> DiskFd {
        DiskFd(Some(fd))
    }

    /// The descriptor itself, for who may wait.
    pub fn get(&self, _: &OnDisk) -> BorrowedFd<'_> {
        self.fd()
    }

    /// The same for [`crate::disk::harmless`].
    pub(in crate::disk) fn in_loop(&self) -> BorrowedFd<'_> {
        self.fd()
    }

    /// A close that [`crate::disk::harmless`] has found to be no last one.
    pub(in crate::disk) fn close_in_loop(mut self) {
        self.0.take();
    }

    /// Has somebody else close it, who may wait.
    pub fn close_elsewhere(mut self) {
        if let Some(fd) = self.0.take() {
            errands::run(move |_| drop(fd));
        }
    }

    /// fstat(2).
    pub fn stat(&self, on: &OnDisk) -> io::Result<FileStat> {
        may_begin("fstat")?;
        Ok(fstat(self.get(on))?)
    }

    /// pread(2).
    pub fn read_at(&self, on: &OnDisk, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            may_begin("pread")?;
            match pread(self.get(on), buffer, offset as i64) {
                Err(Errno::EINTR) => {}
                read => return Ok(read?),
            }
        }
    }

    /// pwrite(2), until all is written.
    pub fn write_all_at(&self, on: &OnDisk, mut data: &[u8], mut offset: u64) -> io::Result<()> {
        while !data.is_empty() {
            let some = &data[..may_write("pwrite", data.len())?];
            match pwrite(self.get(on), some, offset as i64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    data = &data[n..];
                    offset += n as u64;
                }
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_ref().expect("only taken out by what consumes it").as_fd()
    }
}

impl Drop for DiskFd {
    /// In a loop this is an error of ours, which a release build survives.
    fn drop(&mut self) {
        if self.0.is_none() || OnDisk::is_here() {
            return;
        }
        debug_assert!(std::thread::panicking(), "a device's descriptor is dropped by a loop");
        DiskFd(self.0.take()).close_elsewhere();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn file() -> OwnedFd {
        tempfile::tempfile().unwrap().into()
    }

    #[test]
    #[cfg(debug_assertions)]
    fn descriptor_dropped_by_a_loop_is_an_error() {
        let dropped = std::thread::spawn(|| drop(DiskFd::new(file()))).join();
        assert!(dropped.is_err());
    }

    #[test]
    fn descriptor_that_a_loop_gives_away_is_closed_elsewhere() {
        let (reader, writer) = io::pipe().unwrap();
        DiskFd::new(writer.into()).close_elsewhere();
        let begun = Instant::now();
        let mut ends = [nix::poll::PollFd::new(reader.as_fd(), nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut ends, 10_000u16).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(10), "still open");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let on = OnDisk::in_test();
        let file = DiskFd::new(file());
        file.write_all_at(&on, b"0123456789", 5).unwrap();
        let mut buffer = [0; 4];
        assert_eq!(file.read_at(&on, &mut buffer, 8).unwrap(), 4);
        assert_eq!((&buffer, file.stat(&on).unwrap().st_size), (b"3456", 15));
    }
}
