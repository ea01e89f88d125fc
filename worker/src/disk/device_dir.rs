//! The directory of a device, opened, and what was found out about its filesystem.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, Statfs, XFS_SUPER_MAGIC, fstatfs,
};
use nix::sys::statvfs::FsFlags;

use crate::clock;
use crate::disk::disk_fd::DiskFd;
use crate::disk::on_disk::OnDisk;
use crate::sys::doors::{Closed, Door};

/// A descriptor of the device's directory and what was found out about the filesystem.
#[derive(Debug)]
pub struct DeviceDir {
    fd: DiskFd,
    opened: Instant,
    /// What a loop may do there.
    traits: Traits,
    /// O_TMPFILE works, as far as is known.
    anonymous_files: AtomicBool,
    /// A disk thread has opened a file since the filesystem was mounted: [`DeviceDir::is_tried`].
    tried: AtomicBool,
}

/// What a loop may do with the files of a filesystem that are in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// Opens and reads of cached files do no I/O here.
    pub inline_reads: bool,
    /// Reading updates access times unless O_NOATIME is given.
    pub updates_atime: bool,
    /// sendfile(2) of resident pages takes no lock that a writer of the file holds.
    pub sends_unlocked: bool,
}

impl Traits {
    fn of(filesystem: &Statfs) -> Traits {
        let kind = filesystem.filesystem_type();
        let quiet = FsFlags::ST_NOATIME | FsFlags::ST_RDONLY;
        Traits {
            inline_reads: answers_from_cache(kind) && can_look(kind),
            updates_atime: !filesystem.flags().intersects(quiet),
            sends_unlocked: kind != XFS_SUPER_MAGIC,
        }
    }
}

impl DeviceDir {
    /// Opens it without keeping it.
    pub fn open(on: &OnDisk, path: &Path) -> io::Result<DeviceDir> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = DiskFd::new(open(path, flags, Mode::empty())?);
        let traits = match fstatfs(fd.get(on)) {
            // A sandbox forbids to ask.
            Err(Errno::ENOSYS | Errno::EPERM) => Traits::default(),
            filesystem => Traits::of(&filesystem?),
        };
        let anonymous_files = AtomicBool::new(Door::Tmpfile.is_open());
        let tried = AtomicBool::new(false);
        Ok(DeviceDir { fd, opened: clock::instant(), traits, anonymous_files, tried })
    }

    /// One that another process has opened, where files have been opened since.
    pub fn adopted(fd: DiskFd, traits: Traits) -> DeviceDir {
        let anonymous_files = AtomicBool::new(Door::Tmpfile.is_open());
        DeviceDir {
            fd,
            opened: clock::instant(),
            traits,
            anonymous_files,
            tried: AtomicBool::new(true),
        }
    }

    /// What a loop may do there.
    #[inline]
    pub fn traits(&self) -> Traits {
        self.traits
    }

    /// Whether O_TMPFILE works, as far as is known.
    pub fn has_anonymous_files(&self) -> bool {
        self.anonymous_files.load(Relaxed)
    }

    /// O_TMPFILE does not work, or does.
    pub fn set_anonymous_files(&self, has: bool) {
        self.anonymous_files.store(has, Relaxed);
    }

    /// How long ago it was opened.
    pub fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// The number of its filesystem.
    pub fn number(&self, on: &OnDisk) -> io::Result<u64> {
        Ok(self.fd.stat(on)?.st_dev)
    }

    /// What was known of the directory before counts for this one too, if the filesystem is the
    /// same. Whether it is: that was held open, so it has not been unmounted meanwhile.
    pub fn follow(&self, on: &OnDisk, before: &DeviceDir) -> io::Result<bool> {
        let same = self.number(on)? == before.number(on)?;
        self.tried.store(same && before.is_tried(), Relaxed);
        if same && !before.anonymous_files.load(Relaxed) {
            self.anonymous_files.store(false, Relaxed);
        }
        Ok(same)
    }

    /// Its descriptor, for who may wait.
    pub fn get(&self, on: &OnDisk) -> BorrowedFd<'_> {
        self.fd.get(on)
    }

    /// What the filesystem cannot do that the kernel can, as far as is known.
    pub fn closed(&self) -> Closed {
        match self.anonymous_files.load(Relaxed) || !Door::Tmpfile.is_open() {
            true => Closed::default(),
            false => Closed::default().and(Door::Tmpfile),
        }
    }

    /// A file has been opened.
    pub fn note_open(&self, _: &OnDisk) {
        self.tried.store(true, Relaxed);
    }

    /// True when a file has been opened since the filesystem was mounted. The first open notes the
    /// name of the mount in a journal transaction (`ext4_sample_last_mounted`): not in a loop.
    pub fn is_tried(&self) -> bool {
        self.tried.load(Relaxed)
    }

    /// The same for [`crate::disk::harmless`].
    pub(in crate::disk) fn in_loop(&self) -> BorrowedFd<'_> {
        self.fd.in_loop()
    }
}

/// Filesystems whose open and fstat of a cached file do no I/O. FUSE and network filesystems send
/// a message and wait for the answer; f2fs takes the inode's lock when a file is opened; tmpfs has
/// no RWF_NOWAIT, and its pages may be in the swap.
fn answers_from_cache(kind: FsType) -> bool {
    [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC].contains(&kind)
}

/// Whether the kernel lets a loop open and read what is in memory.
fn can_look(kind: FsType) -> bool {
    let sends_unlocked = kind != XFS_SUPER_MAGIC;
    Door::ResolveCached.is_open() && (sends_unlocked || Door::Preadv2.is_open())
}
