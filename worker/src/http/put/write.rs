//! Writing the content of a PUT to a file as it comes: space reserved ahead, writeback behind.

use std::io;

use super::LARGE;
use super::writeback::{WINDOW, Writeback};
use crate::disk::commit::Incoming;
use crate::disk::failed::{Failed, InCall};
use crate::disk::on_disk::OnDisk;
use crate::disk::pool::Progress;
use crate::sys::file;
use crate::sys::pipe::Pipe;

/// Disk space is reserved in steps of this size: what a peer merely announces takes no more.
const RESERVED: u64 = 64 * 1024 * 1024;

/// A file, and how much of the content is in it.
#[derive(Debug)]
pub(super) struct FileWriter {
    incoming: Incoming,
    /// Where the content begins in this file.
    start: u64,
    /// The content is meant for another file, and copied there when it has been checked.
    is_spool: bool,
    written: u64,
    /// Where the disk space that has been reserved ends, counted as `written` is.
    reserved: u64,
    writeback: Writeback,
}

impl FileWriter {
    /// The content goes into this file, from `start` on.
    pub(super) fn new(incoming: Incoming, start: u64) -> FileWriter {
        let (written, reserved, writeback) = Default::default();
        FileWriter { incoming, start, is_spool: false, written, reserved, writeback }
    }

    /// The content waits in this file to be copied into another one.
    pub(super) fn spool(incoming: Incoming) -> FileWriter {
        FileWriter { is_spool: true, ..FileWriter::new(incoming, 0) }
    }

    pub(super) fn incoming(&self) -> &Incoming {
        &self.incoming
    }

    /// The same file, under which it can be given its name.
    pub(super) fn into_incoming(self) -> Incoming {
        self.incoming
    }

    pub(super) fn start(&self) -> u64 {
        self.start
    }

    pub(super) fn is_spool(&self) -> bool {
        self.is_spool
    }

    /// What is written can be seen at once under the final name.
    pub(super) fn is_in_place(&self) -> bool {
        !self.incoming.is_new()
    }

    /// Bytes of the content that it has.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// The turn is over, and the next one may be long in coming.
    pub(super) fn rest(&mut self) {
        self.incoming.rest();
    }

    /// Writes the next piece. `to_come`: how much is announced behind it.
    pub(super) fn write(
        &mut self,
        on: &OnDisk,
        progress: &Progress,
        data: &[u8],
        to_come: Option<u64>,
    ) -> Result<(), Failed> {
        let at = self.begin_piece(on, progress, data.len(), to_come)?;
        self.incoming.file().write_all_at(on, data, at).in_call("pwrite")?;
        self.end_piece(on, progress, data.len())
    }

    /// The same with all that a pipe holds, which is so much. After an error something may be left
    /// in it.
    pub(super) fn write_pipe(
        &mut self,
        on: &OnDisk,
        progress: &Progress,
        (pipe, len): (&Pipe, usize),
        to_come: Option<u64>,
    ) -> Result<(), Failed> {
        let at = self.begin_piece(on, progress, len, to_come)?;
        self.incoming.file().write_pipe_at(on, pipe, len, at).in_call("splice")?;
        self.end_piece(on, progress, len)
    }

    /// Returns where in the file the piece belongs.
    fn begin_piece(
        &mut self,
        on: &OnDisk,
        progress: &Progress,
        len: usize,
        to_come: Option<u64>,
    ) -> Result<u64, Failed> {
        progress.touch();
        if self.written >= self.reserved {
            self.reserved = self.reserve(on, to_come.map(|left| left + len as u64))?;
        }
        Ok(self.start + self.written)
    }

    fn end_piece(&mut self, on: &OnDisk, progress: &Progress, len: usize) -> Result<(), Failed> {
        self.written += len as u64;
        self.pace(on, progress).in_call("sync_file_range")
    }

    /// Reserves disk space for what comes next, which is cheaper than page by page as it is written,
    /// and keeps it in one piece. `ENOSPC`, `EDQUOT`: the body does not fit. Returns up to where.
    fn reserve(&self, on: &OnDisk, left: Option<u64>) -> Result<u64, Failed> {
        let left = left.filter(|_| self.incoming.is_new());
        let len = left.unwrap_or(0).min(RESERVED);
        if len < LARGE {
            return Ok(u64::MAX);
        }
        match file::reserve(self.incoming.file().get(on), self.start + self.written, len) {
            Ok(()) => Ok(self.written + len),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => {
                Err(e).in_call("fallocate")
            }
            Err(_) => Ok(u64::MAX), // The filesystem cannot; what else is wrong, the write will tell.
        }
    }

    /// An error that this is told of, nobody else is.
    fn pace(&mut self, on: &OnDisk, progress: &Progress) -> io::Result<()> {
        let start = self.start;
        while let Some(step) = self.writeback.due(self.written) {
            let file = self.incoming.file().get(on);
            progress.touch();
            file::start_writeback(file, start + step.start, WINDOW)?;
            if let Some(before) = step.wait {
                progress.pace(|| file::wait_writeback(file, start + before, WINDOW))?;
            }
        }
        Ok(())
    }

    /// Tells of an error of any part whose writeback has ended; the first part's has long ended.
    pub(super) fn check_writeback(&self, on: &OnDisk, progress: &Progress) -> Result<(), Failed> {
        if !self.writeback.has_begun() {
            return Ok(());
        }
        progress.touch();
        let file = self.incoming.file().get(on);
        file::wait_writeback(file, self.start, 1).in_call("sync_file_range")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::disk::device::Device;
    use crate::disk::flush::Flush;
    use crate::disk::path::DevPath;
    use crate::spec::{DeviceKey, Fsync, SiteId};

    const PATH: &[u8] = b"/dev1/0/000/000/0000000001.fid";

    /// A device, and a way to look at what an unnamed file on it is.
    struct Bench {
        docroot: tempfile::TempDir,
        device: Device,
        on: OnDisk,
        progress: Progress,
    }

    impl Bench {
        fn new() -> Bench {
            let docroot = tempfile::tempdir().unwrap();
            std::fs::create_dir(docroot.path().join("dev1")).unwrap();
            let key = DeviceKey { site: SiteId(0), devid: 1 };
            let device = Device::new(key, docroot.path(), false);
            Bench { docroot, device, on: OnDisk::in_test(), progress: Progress::in_test() }
        }

        fn flush(&self) -> Flush<'_> {
            Flush::new(Fsync::Off, &self.progress, false)
        }

        fn create(&self) -> Incoming {
            let path = DevPath::parse(PATH).unwrap();
            Incoming::create(&self.on, &self.device, &path, &self.flush()).unwrap()
        }

        fn write(&self, file: &mut FileWriter, data: &[u8], to_come: Option<u64>) {
            file.write(&self.on, &self.progress, data, to_come).unwrap();
        }

        fn blocks(&self, file: &FileWriter) -> u64 {
            file.incoming().file().stat(&self.on).unwrap().st_blocks.cast_unsigned() * 512
        }
    }

    #[test]
    fn content_begins_where_it_is_meant_to() {
        let bench = Bench::new();
        let mut file = FileWriter::new(bench.create(), 3);
        bench.write(&mut file, b"ab", Some(1));
        bench.write(&mut file, b"c", None);
        assert_eq!((file.written(), file.is_spool(), file.is_in_place()), (3, false, false));
        let path = DevPath::parse(PATH).unwrap();
        let incoming = file.into_incoming();
        incoming.commit(&bench.on, &bench.device, &path, &bench.flush(), || ()).unwrap();
        let name = bench.docroot.path().join(std::str::from_utf8(&PATH[1..]).unwrap());
        assert_eq!(std::fs::read(&name).unwrap(), b"\0\0\0abc");
        assert_eq!(std::fs::metadata(name).unwrap().size(), 6);
        let in_place = Incoming::in_place(&bench.on, &bench.device, &path).unwrap();
        assert!(FileWriter::new(in_place, 0).is_in_place());
    }

    #[test]
    fn spool_has_its_content_from_its_own_beginning() {
        let bench = Bench::new();
        let file = FileWriter::spool(bench.create());
        assert_eq!((file.start(), file.is_spool()), (0, true));
    }

    #[test]
    fn space_is_reserved_for_what_is_announced_and_is_large() {
        let bench = Bench::new();
        for (to_come, reserved) in [(Some(LARGE), LARGE), (None, 0), (Some(LARGE - 2), 0)] {
            let mut file = FileWriter::new(bench.create(), 0);
            bench.write(&mut file, b"x", to_come);
            let blocks = bench.blocks(&file);
            assert!((reserved..reserved + LARGE).contains(&blocks), "{to_come:?}: {blocks}");
        }
    }

    #[test]
    fn peer_that_announces_much_gets_a_step_only() {
        let bench = Bench::new();
        let mut file = FileWriter::new(bench.create(), 0);
        bench.write(&mut file, b"x", Some(1 << 40));
        assert!(bench.blocks(&file) < 2 * RESERVED);
        assert_eq!(file.reserved, RESERVED);
    }
}
