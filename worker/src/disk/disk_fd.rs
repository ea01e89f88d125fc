//! Descriptors of what is on a device: read, written and closed by who may wait for it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::stat::{FileStat, fstat};
use nix::sys::uio::{pread, pwrite};

use crate::disk::errands;
use crate::disk::on_disk::OnDisk;
use crate::sys::disk::{may_begin, may_write};
use crate::sys::pipe::Pipe;

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

    /// splice(2) of all that a pipe holds, which is `len` bytes. After an error some of it may be
    /// in the pipe still.
    pub fn write_pipe_at(
        &self,
        on: &OnDisk,
        pipe: &Pipe,
        mut len: usize,
        mut offset: u64,
    ) -> io::Result<()> {
        while len > 0 {
            match pipe.drain(self.get(on), offset, may_write("splice", len)?) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    len -= n;
                    offset += n as u64;
                }
                // A filesystem that has no such call.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                    return self.copy_pipe_at(on, pipe, len, offset);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn copy_pipe_at(
        &self,
        on: &OnDisk,
        pipe: &Pipe,
        mut len: usize,
        mut offset: u64,
    ) -> io::Result<()> {
        let mut buffer = vec![0; len.min(64 * 1024)];
        while len > 0 {
            let most = len.min(buffer.len());
            let n = pipe.read(&mut buffer[..most])?;
            self.write_all_at(on, &buffer[..n], offset)?;
            len -= n;
            offset += n as u64;
        }
        Ok(())
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
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use super::*;

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

    #[test]
    fn what_a_pipe_holds_is_written_whole_with_splice_and_without() {
        let (folder, on) = (tempfile::tempdir().unwrap(), OnDisk::in_test());
        let data: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        for cannot_splice in [false, true] {
            let (near, mut far) = UnixStream::pair().unwrap();
            let mut options = File::options();
            // To a file for appending nothing can be spliced, splice(2).
            options
                .read(true)
                .write(true)
                .append(cannot_splice)
                .create(true)
                .truncate(!cannot_splice);
            let name = folder.path().join(cannot_splice.to_string());
            let file = DiskFd::new(options.open(name).unwrap().into());
            let pipe = Pipe::new(256 * 1024, 4096).unwrap();
            let (mut left, mut at) = (&data[..], 0);
            while !left.is_empty() {
                let (now, later) = left.split_at(left.len().min(30_000));
                far.write_all(now).unwrap();
                let n = pipe.fill(near.as_fd(), pipe.size()).unwrap();
                assert_eq!(n, now.len());
                file.write_pipe_at(&on, &pipe, n, at).unwrap();
                (left, at) = (later, at + n as u64);
            }
            let mut found = vec![0; data.len() + 1];
            assert_eq!(file.read_at(&on, &mut found, 0).unwrap(), data.len());
            assert!(found[..data.len()] == data, "{cannot_splice}");
        }
    }
}
