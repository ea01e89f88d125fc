//! One device as this process sees it. The loop thread and the disk threads share it; the lock is
//! held for moving a pointer, never over a system call that can block.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, Statfs, XFS_SUPER_MAGIC, fstatfs,
};
use nix::sys::statvfs::FsFlags;

use crate::disk::busy::{self, Disk};
use crate::disk::errands;
use crate::disk::mounted::Guard;
use crate::disk::on_disk::{DiskFd, OnDisk};
use crate::disk::temporary;
use crate::spec::DeviceKey;
use crate::sys::doors::{Closed, Door};

/// From this age on a directory descriptor is not used for new operations, so that a disk mounted
/// over it, or under its name, is found.
const FRESH: Duration = Duration::from_secs(4);
/// Past this age it is not even good for cached reads.
const STALE: Duration = Duration::from_secs(8);

/// A device: `devN` of a docroot, or the docroot itself.
#[derive(Debug)]
pub struct Device {
    /// Which one.
    pub key: DeviceKey,
    path: PathBuf,
    dirs: Mutex<Dirs>,
    swept: AtomicBool,
    /// It has a usage file, and requests for that are answered from memory.
    pub usage: bool,
    /// A look at it is under way or waits for a thread.
    pub looking: AtomicBool,
    /// Something was stored or removed since the last look.
    pub changed: AtomicBool,
    looked: Mutex<Looked>,
    guard: Guard,
}

#[derive(Debug, Default)]
struct Looked {
    at: Option<Instant>,
    written: Option<Instant>,
    disk: Option<(u64, Disk)>,
    trouble: Option<String>,
}

/// The directories of a device that are open.
#[derive(Debug, Default)]
struct Dirs {
    current: Option<Arc<DeviceDir>>,
    /// Not used for anything new. They stay here until nobody else has them, so that the last one
    /// to let go of a directory is always [`Device::let_go`].
    retired: Vec<Arc<DeviceDir>>,
    /// The owner has said that nothing is read in a loop here.
    shut: Option<Instant>,
}

impl Dirs {
    fn retire(&mut self) {
        self.retired.extend(self.current.take());
    }
}

/// A descriptor of the device's directory and what was found out about the filesystem.
#[derive(Debug)]
pub struct DeviceDir {
    fd: DiskFd,
    opened: Instant,
    /// What a loop may do there.
    pub traits: Traits,
    /// O_TMPFILE works, as far as is known.
    pub anonymous_files: AtomicBool,
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

impl Device {
    /// Describes the device; touches nothing.
    pub fn new(key: DeviceKey, docroot: &Path, usage: bool) -> Device {
        let path = match key.devid {
            0 => docroot.to_path_buf(),
            devid => docroot.join(format!("dev{devid}")),
        };
        Device {
            key,
            path,
            dirs: Mutex::default(),
            swept: AtomicBool::new(false),
            usage: usage && key.devid > 0,
            looking: AtomicBool::new(false),
            changed: AtomicBool::new(false),
            looked: Mutex::default(),
            guard: Guard::default(),
        }
    }

    /// The same, with what tells whether it may be used.
    pub fn guarded(mut self, guard: Guard) -> Device {
        self.guard = guard;
        self
    }

    /// True, and the clock starts anew, when the last look is at least `interval` ago.
    pub fn look_is_due(&self, interval: Duration) -> bool {
        let mut looked = self.looked();
        let due = looked.at.is_none_or(|at| at.elapsed() >= interval);
        if due {
            looked.at = Some(Instant::now());
        }
        due
    }

    /// The same for looks that end in the usage file.
    pub fn file_is_due(&self, interval: Duration) -> bool {
        let mut looked = self.looked();
        let due = looked.written.is_none_or(|at| at.elapsed() >= interval);
        if due {
            looked.written = Some(Instant::now());
        }
        due
    }

    /// The disk under the device; `afresh`: looked up even if nothing seems to have changed, for
    /// the number of a filesystem that has gone may be given to the next one.
    pub fn disk(&self, on: &OnDisk, dir: &DeviceDir, afresh: bool) -> Disk {
        let st_dev = dir.fd.stat(on).map_or(0, |facts| facts.st_dev);
        let known = self.looked().disk.clone();
        match known {
            Some((number, disk)) if number == st_dev && !afresh => disk,
            _ => {
                let disk = busy::disk_of(dir.get(on), st_dev);
                self.looked().disk = Some((st_dev, disk.clone()));
                disk
            }
        }
    }

    /// Logs what is wrong with the device when that changes, not at every look.
    pub fn note_trouble(&self, trouble: Option<&str>) {
        let mut looked = self.looked();
        if looked.trouble.as_deref() != trouble {
            if let Some(trouble) = trouble {
                log::warn!("{}: {trouble}", self.path.display());
            }
            looked.trouble = trouble.map(str::to_owned);
        }
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory for a read that must not block, if it is open and not too old. Loop thread.
    pub fn dir_at_hand(&self) -> Option<Arc<DeviceDir>> {
        self.lock().current.clone().filter(|dir| dir.opened.elapsed() < STALE)
    }

    /// True when the owner has said lately that a loop has nothing to look for here.
    pub fn is_shut(&self) -> bool {
        self.lock().shut.is_some_and(|at| at.elapsed() < FRESH)
    }

    /// The owner has said so.
    pub fn shut(&self) {
        let mut dirs = self.lock();
        dirs.shut = Some(Instant::now());
        dirs.retire();
    }

    /// The directory, opened now if need be: this waits for the disk.
    pub fn dir(&self, on: &OnDisk) -> io::Result<Arc<DeviceDir>> {
        if let Some(dir) = self.lock().current.clone().filter(|dir| dir.opened.elapsed() < FRESH) {
            return Ok(dir);
        }
        let opened = DeviceDir::open(on, &self.path).and_then(|dir| self.insist_on_mount(on, dir));
        let before = self.lock().current.clone();
        if let (Ok(dir), Some(before)) = (&opened, before) {
            // The filesystem has not been unmounted meanwhile: that was held open.
            let same = dir.fd.stat(on)?.st_dev == before.fd.stat(on)?.st_dev;
            dir.tried.store(same && before.is_tried(), Relaxed);
            if same && !before.anonymous_files.load(Relaxed) {
                dir.anonymous_files.store(false, Relaxed);
            }
            self.swept.fetch_and(same, Relaxed);
        }
        self.lock().retire();
        self.let_go(on);
        // One that comes back may have been left in any state.
        let dir = Arc::new(opened.inspect_err(|_| self.swept.store(false, Relaxed))?);
        self.sweep_once(on, &dir);
        let mut dirs = self.lock();
        dirs.retire(); // Another thread's, opened at the same time.
        dirs.current = Some(Arc::clone(&dir));
        Ok(dir)
    }

    /// Closes the directories that nobody uses any more.
    pub fn let_go(&self, _: &OnDisk) {
        let mut unused = Vec::new();
        self.lock().retired.retain(|dir| {
            // A count of one is final: nobody takes a retired one.
            let used = Arc::strong_count(dir) > 1;
            if !used {
                unused.push(Arc::clone(dir));
            }
            used
        });
        drop(unused); // The lock, which the loop takes, is free.
    }

    /// Refuses a folder that is not the disk's: [`Guard::admit`]. The docroot's own is what it is.
    pub fn insist_on_mount(&self, on: &OnDisk, dir: DeviceDir) -> io::Result<DeviceDir> {
        if self.key.devid > 0 {
            self.guard.admit(on, &self.path, dir.get(on))?;
        }
        Ok(dir)
    }

    /// Removes what killed processes left, and what this one could not remove before the device
    /// went away.
    pub fn sweep_once(&self, on: &OnDisk, dir: &DeviceDir) {
        if !self.swept.swap(true, Relaxed) {
            temporary::sweep(on, dir, &self.path);
        }
    }

    /// True when the directory should be opened anew before it gets too old for cached reads.
    pub fn wants_refresh(&self) -> bool {
        self.lock().current.as_ref().is_none_or(|dir| dir.opened.elapsed() >= FRESH)
    }

    /// Takes over a directory that the owner has opened and sent. The one before it is to be let
    /// go by a disk thread. Loop thread.
    pub fn adopt_dir(&self, fd: DiskFd, traits: Traits) {
        let dir = DeviceDir {
            fd,
            opened: Instant::now(),
            traits,
            anonymous_files: AtomicBool::new(Door::Tmpfile.is_open()),
            tried: AtomicBool::new(true),
        };
        let mut dirs = self.lock();
        dirs.retire();
        dirs.current = Some(Arc::new(dir));
    }

    /// Has no more use for the directory, so that the device can be unmounted once a disk thread
    /// has let it go. Loop thread.
    pub fn retire_dir(&self) {
        self.lock().retire();
    }

    /// True while any directory of the device is open here: it cannot be unmounted.
    pub fn holds_dir(&self) -> bool {
        let dirs = self.lock();
        dirs.current.is_some() || !dirs.retired.is_empty()
    }

    /// True when a disk thread should be asked for [`Device::let_go`].
    pub fn has_retired(&self) -> bool {
        !self.lock().retired.is_empty()
    }

    fn looked(&self) -> MutexGuard<'_, Looked> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Dirs> {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Device {
    /// The last one to know a device that is not listed may be the loop.
    fn drop(&mut self) {
        let mut dirs = std::mem::take(&mut *self.lock());
        dirs.retire();
        if !dirs.retired.is_empty() {
            errands::run(move |_| drop(dirs));
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
        Ok(DeviceDir { fd, opened: Instant::now(), traits, anonymous_files, tried })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::SiteId;

    #[test]
    fn directory_is_opened_once_and_again_after_it_was_dropped() {
        let docroot = tempfile::tempdir().unwrap();
        let device = Device::new(DeviceKey { site: SiteId(0), devid: 3 }, docroot.path(), false);
        assert!(device.dir_at_hand().is_none());
        let on = OnDisk::in_test();
        assert_eq!(device.dir(&on).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::create_dir(docroot.path().join("dev3")).unwrap();
        let first = device.dir(&on).unwrap();
        assert!(Arc::ptr_eq(&first, &device.dir(&on).unwrap()));
        assert!(Arc::ptr_eq(&first, &device.dir_at_hand().unwrap()));
        device.retire_dir();
        assert!(device.has_retired());
        device.let_go(&on);
        assert!(device.has_retired(), "the test has it");
        drop(first);
        device.let_go(&on);
        assert!(!device.has_retired());
        assert!(device.dir_at_hand().is_none());
        device.dir(&on).unwrap();
    }

    #[test]
    fn docroot_itself_counts_as_device_zero() {
        let key = DeviceKey { site: SiteId(0), devid: 0 };
        assert_eq!(Device::new(key, Path::new("/srv"), false).path(), Path::new("/srv"));
    }
}
