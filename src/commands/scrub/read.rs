//! Reading from the disk and not from the memory, without taking anybody's memory away.
//!
//! With O_DIRECT, where the filesystem has it. Where it has not (and on btrfs, which reads
//! compressed files through the page cache all the same): posix_fadvise(2), DONTNEED, before a
//! piece is read, so that it comes from the disk, and after it too, unless it was in memory before.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, PosixFadviseAdvice, fcntl, openat, posix_fadvise};
use nix::sys::stat::Mode;
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, fstatfs};
use rmogstored_worker::sys::file::View;

/// The most that is read at once.
pub const PIECE: usize = 1 << 20;
/// What positions, lengths and memory are multiples of: no disk's sectors are larger.
pub const ALIGNMENT: usize = 4096;

/// Reads files of one device.
pub struct Reader {
    room: Vec<u8>,
    start: usize,
    direct: bool,
}

/// A file that is being read.
pub struct Source {
    file: File,
    /// Its pages, to ask which are in memory; only where they matter.
    view: Option<View>,
}

/// Where a read failed.
#[derive(Debug)]
pub struct BadPlace {
    /// The first byte that cannot be read, to within 4096 bytes.
    pub offset: u64,
    /// What the kernel says.
    pub error: io::Error,
}

impl Reader {
    /// For the files of a filesystem.
    pub fn new(device: BorrowedFd<'_>) -> Reader {
        let room = vec![0; PIECE + ALIGNMENT];
        let start = room.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        let btrfs = fstatfs(device).is_ok_and(|it| it.filesystem_type() == BTRFS_SUPER_MAGIC);
        Reader { room, start, direct: !btrfs }
    }

    /// Opens a file of a folder, which may have become anything meanwhile.
    pub fn open(&mut self, folder: BorrowedFd<'_>, name: &CStr) -> io::Result<Source> {
        let mut file = None;
        if self.direct {
            match open_quietly(folder, name, OFlag::O_DIRECT) {
                // open(2): the filesystem does not support O_DIRECT.
                Err(Errno::EINVAL | Errno::EOPNOTSUPP) => self.direct = false,
                opened => file = Some(opened?),
            }
        }
        let file = match file {
            Some(file) => file,
            None => open_quietly(folder, name, OFlag::empty())?,
        };
        let mut source = Source { file, view: None };
        if !self.direct {
            source.prepare()?;
        }
        Ok(source)
    }

    /// Reads up to `want` bytes, a multiple of [`ALIGNMENT`]. Fewer came: the file ends there, or
    /// what follows is bad, which the next read tells. A piece that fails is read once more in small steps.
    pub fn read(
        &mut self,
        source: &mut Source,
        offset: u64,
        want: usize,
    ) -> Result<usize, BadPlace> {
        match self.read_once(source, offset, want) {
            Ok(length) => Ok(length),
            Err(_) => self.read_in_steps(source, offset, want),
        }
    }

    fn read_in_steps(
        &mut self,
        source: &mut Source,
        offset: u64,
        want: usize,
    ) -> Result<usize, BadPlace> {
        let mut done = 0;
        while done < want {
            let at = offset + done as u64;
            let read = self.read_once(source, at, ALIGNMENT);
            let length = read.map_err(|error| BadPlace { offset: at, error })?;
            done += length;
            if length < ALIGNMENT {
                break;
            }
        }
        Ok(done)
    }

    fn read_once(&mut self, source: &mut Source, offset: u64, want: usize) -> io::Result<usize> {
        if !self.direct {
            return self.read_around_the_cache(source, offset, want);
        }
        match source.file.read_at(&mut self.room[self.start..self.start + want], offset) {
            // Some say so only now.
            Err(e) if e.raw_os_error() == Some(Errno::EINVAL as i32) => {
                self.direct = false;
                let flags = OFlag::from_bits_retain(fcntl(&source.file, FcntlArg::F_GETFL)?);
                fcntl(&source.file, FcntlArg::F_SETFL(flags - OFlag::O_DIRECT))?;
                source.prepare()?;
                self.read_around_the_cache(source, offset, want)
            }
            read => read,
        }
    }

    fn read_around_the_cache(
        &mut self,
        source: &Source,
        offset: u64,
        want: usize,
    ) -> io::Result<usize> {
        let was_in_memory = source.is_in_memory(offset, want);
        source.forget(offset, want);
        let read = source.file.read_at(&mut self.room[self.start..self.start + want], offset);
        if !was_in_memory {
            source.forget(offset, want);
        }
        read
    }
}

impl Source {
    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// For reading through the page cache: no readahead, whose pages would look like somebody
    /// else's.
    fn prepare(&mut self) -> io::Result<()> {
        let _ = posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM);
        let facts = self.file.metadata()?;
        // To those who neither own a file nor may write it the kernel calls everything resident.
        let user = nix::unistd::geteuid();
        let told = user.is_root() || user.as_raw() == facts.uid();
        self.view = told.then(|| View::new(self.file.as_fd(), facts.len())).flatten();
        Ok(())
    }

    fn is_in_memory(&self, offset: u64, length: usize) -> bool {
        let size = self.file.metadata().map_or(0, |facts| facts.len());
        let length = (length as u64).min(size.saturating_sub(offset));
        length > 0 && self.view.as_ref().is_some_and(|view| view.is_resident(offset, length))
    }

    /// Only advice: where it does nothing, nothing can be done.
    fn forget(&self, offset: u64, length: usize) {
        let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        let _ = posix_fadvise(&self.file, offset as i64, length as i64, advice);
    }
}

/// Never waits for a FIFO, follows no link, and changes no access time where that is allowed.
fn open_quietly(folder: BorrowedFd<'_>, name: &CStr, how: OFlag) -> nix::Result<File> {
    let flags = how
        | OFlag::O_RDONLY
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_NOCTTY
        | OFlag::O_CLOEXEC;
    match openat(folder, name, flags | OFlag::O_NOATIME, Mode::empty()) {
        Err(Errno::EPERM) => openat(folder, name, flags, Mode::empty()).map(File::from),
        opened => opened.map(File::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn resident(file: &File, length: usize) -> bool {
        View::new(file.as_fd(), length as u64).unwrap().is_resident(0, length as u64)
    }

    fn read_all(reader: &mut Reader, folder: &File, name: &CStr) -> Vec<u8> {
        let mut source = reader.open(folder.as_fd(), name).unwrap();
        let mut content = Vec::new();
        loop {
            let length = reader.read(&mut source, content.len() as u64, PIECE).unwrap();
            content.extend(&reader.room[reader.start..reader.start + length]);
            if length < PIECE {
                return content;
            }
        }
    }

    /// `direct` is only wished for: the filesystem of the temporary folder decides.
    fn leaves_memory_as_it_was(direct: bool) {
        let scratch = tempfile::tempdir().unwrap();
        let folder = File::open(scratch.path()).unwrap();
        let content: Vec<u8> = (0..3 * PIECE + 777).map(|at| (at / 977) as u8).collect();
        for name in ["hot", "cold"] {
            fs::write(scratch.path().join(name), &content).unwrap();
            File::open(scratch.path().join(name)).unwrap().sync_all().unwrap();
        }
        let cold = File::open(scratch.path().join("cold")).unwrap();
        posix_fadvise(&cold, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
        let evicts = !resident(&cold, ALIGNMENT);
        let mut reader = Reader { direct, ..Reader::new(folder.as_fd()) };
        for name in [c"hot", c"cold"] {
            assert!(read_all(&mut reader, &folder, name) == content, "{name:?}");
        }
        let hot = File::open(scratch.path().join("hot")).unwrap();
        assert!(resident(&hot, PIECE), "direct: {direct}");
        assert!(!evicts || !resident(&cold, ALIGNMENT), "direct: {direct}");
    }

    #[test]
    fn hot_files_stay_in_memory_and_cold_ones_do_not_get_there() {
        leaves_memory_as_it_was(true);
        leaves_memory_as_it_was(false);
    }

    #[test]
    fn fifo_and_link_do_not_hang_and_are_not_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = File::open(scratch.path()).unwrap();
        nix::unistd::mkfifo(&scratch.path().join("fifo"), Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("fifo", scratch.path().join("link")).unwrap();
        let mut reader = Reader::new(folder.as_fd());
        let _ = reader.open(folder.as_fd(), c"fifo");
        let linked = reader.open(folder.as_fd(), c"link").map(|_| ()).unwrap_err();
        assert_eq!(linked.raw_os_error(), Some(Errno::ELOOP as i32));
    }
}
