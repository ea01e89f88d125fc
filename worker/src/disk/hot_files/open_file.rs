//! A file that is open for reading, with what was found out about it.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;

use nix::sys::stat::FileStat;

use super::Extent;
use super::content::Content;
use crate::clock::{self, HttpDate};
use crate::disk::disk_fd::DiskFd;
use crate::disk::harmless;
use crate::disk::on_disk::OnDisk;
use crate::scoreboard::Mark;
use crate::sys::file::View;

/// What an answer depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// In bytes.
    pub size: u64,
    /// In seconds since 1970.
    pub modified: i64,
    /// Not a folder, a FIFO or the like.
    pub regular: bool,
}

impl From<&FileStat> for Facts {
    fn from(stat: &FileStat) -> Facts {
        Facts {
            size: stat.st_size as u64,
            modified: stat.st_mtime,
            regular: stat.st_mode & libc::S_IFMT == libc::S_IFREG,
        }
    }
}

/// An open file with what was found out about it.
#[derive(Debug)]
#[repr(C)]
pub struct OpenFile {
    // What is compared at each use comes first, together.
    fd: DiskFd,
    times: Times,
    /// What answers need to know.
    pub facts: Facts,
    last_modified: HttpDate,
    content: Content,
    /// Its owner's user number.
    pub owner: u32,
    /// [`crate::disk::device_dir::Traits`] has it.
    pub sends_unlocked: bool,
    mark: Option<Mark>,
    view: OnceLock<Option<View>>,
}

/// When content and inode changed last, to the nanosecond.
type Times = [i64; 4];

fn times(stat: &FileStat) -> Times {
    [stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec]
}

impl OpenFile {
    /// `mark`: taken before the file was opened; `None` where changes are not counted.
    pub fn new(fd: DiskFd, stat: &FileStat, mark: Option<Mark>, sends_unlocked: bool) -> OpenFile {
        let (facts, owner, times) = (Facts::from(stat), stat.st_uid, times(stat));
        let last_modified = HttpDate::from_unix(facts.modified);
        let (view, content) = Default::default();
        OpenFile { fd, facts, last_modified, owner, sends_unlocked, times, mark, view, content }
    }

    /// What the head of an answer is made from.
    pub fn described(&self) -> (Facts, &HttpDate) {
        (self.facts, &self.last_modified)
    }

    /// True when no worker has changed it since, so that closing it frees no blocks.
    fn is_unchanged(&self) -> bool {
        self.mark.is_some_and(|mark| mark.stands())
    }

    /// True when it has a name and is what it was when it was opened.
    pub(super) fn is_as_it_was(&self) -> bool {
        harmless::stat(&self.fd).is_ok_and(|stat| self.is_like(&stat) && stat.st_nlink > 0)
    }

    fn is_like(&self, stat: &FileStat) -> bool {
        Facts::from(stat) == self.facts && times(stat) == self.times
    }

    /// Whether a part of it, and what is behind it up to the end, is in the page cache, as far as
    /// can be told: [`harmless::is_cached`].
    pub fn is_cached(&self, offset: u64) -> Option<bool> {
        harmless::is_cached(&self.fd, offset, self.facts.size)
    }

    /// Whether it is in the page cache and up to date from `offset` to its end:
    /// [`View::is_resident`] has the conditions.
    pub fn is_resident(&self, offset: u64) -> bool {
        let view = self.view.get_or_init(|| harmless::view(&self.fd, self.facts.size));
        let len = self.facts.size.saturating_sub(offset);
        view.as_ref().is_some_and(|view| view.is_resident(offset, len))
    }

    /// A part of its content, if that is remembered. It counts as long as the file is as it was.
    pub fn remembered(&self, part: Extent) -> Option<&[u8]> {
        self.content.part(part)
    }

    /// Remembers its whole content, which was just read, if it is small and has settled.
    pub fn remember(&self, content: &[u8]) {
        let [modified, _, changed, _] = self.times;
        let now = clock::unix_time().as_secs() as i64;
        self.content.keep(content, self.facts.size, modified.max(changed), now);
    }

    /// Reads in the loop what [`OpenFile::is_cached`].
    pub fn read_cached(&self, into: &mut Vec<u8>, len: usize, offset: u64) -> io::Result<usize> {
        harmless::read(&self.fd, into, len, offset)
    }

    /// Sends from the loop what [`OpenFile::is_resident`].
    pub fn send_resident(
        &self,
        to: BorrowedFd<'_>,
        offset: u64,
        count: usize,
    ) -> io::Result<usize> {
        harmless::send(to, &self.fd, offset, count)
    }

    /// The descriptor, for who may wait.
    pub fn get(&self, on: &OnDisk) -> BorrowedFd<'_> {
        self.fd.get(on)
    }

    /// pread(2).
    pub fn read_at(&self, on: &OnDisk, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.fd.read_at(on, buffer, offset)
    }

    /// Closes it in the loop, a moment after it was opened, if that frees nothing. The error gives
    /// it back: a disk thread must.
    pub fn close_fresh(self) -> Result<(), DiskFd> {
        match self.is_unchanged() {
            true => {
                harmless::close_unchanged(self.fd);
                Ok(())
            }
            false => self.close_kept(),
        }
    }

    /// The same for one that has been open long enough to be removed by hand.
    pub fn close_kept(self) -> Result<(), DiskFd> {
        let OpenFile { fd, facts, times: known, .. } = self;
        harmless::close(fd, |stat| Facts::from(stat) == facts && times(stat) == known)
    }

    /// The descriptor, to be closed where that may take its time.
    pub fn into_fd(self) -> DiskFd {
        self.fd
    }
}
