//! One device as this process sees it. The loop thread and the disk threads share it; the lock is
//! held for moving a pointer, never over a system call that can block.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat, stat};
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, FsType, TMPFS_MAGIC, XFS_SUPER_MAGIC,
    fstatfs,
};
use nix::sys::statvfs::FsFlags;

use crate::disk::busy::{self, Disk};
use crate::disk::commit;
use crate::spec::DeviceKey;

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
    dir: Mutex<Option<Arc<DeviceDir>>>,
    swept: AtomicBool,
    /// It has a usage file, and requests for that are answered from memory.
    pub usage: bool,
    /// A look at it is under way or waits for a thread.
    pub looking: AtomicBool,
    /// Something was stored or removed since the last look.
    pub changed: AtomicBool,
    looked: Mutex<Looked>,
}

#[derive(Debug, Default)]
struct Looked {
    at: Option<Instant>,
    written: Option<Instant>,
    disk: Option<(u64, Disk)>,
    trouble: Option<String>,
    /// It was a mount once: [`Device::insist_on_mount`].
    mounted: bool,
    /// It is none now.
    bare: bool,
}

/// A descriptor of the device's directory and what was found out about the filesystem.
#[derive(Debug)]
pub struct DeviceDir {
    fd: OwnedFd,
    opened: Instant,
    /// Opens and reads of cached files do no I/O here.
    pub inline_reads: bool,
    /// Reading updates access times unless O_NOATIME is given.
    pub updates_atime: bool,
    /// O_TMPFILE works, as far as is known.
    pub anonymous_files: AtomicBool,
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
            dir: Mutex::new(None),
            swept: AtomicBool::new(false),
            usage: usage && key.devid > 0,
            looking: AtomicBool::new(false),
            changed: AtomicBool::new(false),
            looked: Mutex::default(),
        }
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
    /// the number of a filesystem that has gone may be given to the next one. Disk threads.
    pub fn disk(&self, dir: &DeviceDir, afresh: bool) -> Disk {
        let st_dev = fstat(dir).map_or(0, |facts| facts.st_dev);
        let known = self.looked().disk.clone();
        match known {
            Some((number, disk)) if number == st_dev && !afresh => disk,
            _ => {
                let disk = busy::disk_of(st_dev);
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
        self.lock().clone().filter(|dir| dir.opened.elapsed() < STALE)
    }

    /// The directory, opened now if need be. Disk threads only: this waits for the disk.
    pub fn dir(&self) -> io::Result<Arc<DeviceDir>> {
        if let Some(dir) = self.lock().clone().filter(|dir| dir.opened.elapsed() < FRESH) {
            return Ok(dir);
        }
        let opened = DeviceDir::open(&self.path).and_then(|dir| self.insist_on_mount(dir));
        let dir = opened.inspect_err(|_| self.drop_dir())?;
        let dir = Arc::new(dir);
        self.sweep_once(&dir);
        *self.lock() = Some(Arc::clone(&dir));
        Ok(dir)
    }

    /// Refuses the bare mount point of a disk that has been unmounted: what is stored there fills
    /// the root disk, and cannot be found again once the disk is back. `ENOMEDIUM`, "No medium
    /// found". Disk threads.
    pub fn insist_on_mount(&self, dir: DeviceDir) -> io::Result<DeviceDir> {
        let folder = self.path.parent().unwrap_or(&self.path);
        let is_mount = stat(folder)?.st_dev != fstat(&dir)?.st_dev;
        let mut looked = self.looked();
        looked.mounted |= is_mount;
        let bare = looked.mounted && !is_mount && self.key.devid > 0;
        if std::mem::replace(&mut looked.bare, bare) != bare {
            let path = self.path.display();
            match bare {
                true => log::error!(
                    "{path} was a mount and is a bare folder now: 503 until it is mounted again"
                ),
                false => log::info!("{path} is mounted again"),
            }
        }
        if bare { Err(Errno::ENOMEDIUM.into()) } else { Ok(dir) }
    }

    /// Removes what killed processes left, before this one leaves anything. Disk threads.
    pub fn sweep_once(&self, dir: &DeviceDir) {
        if !self.swept.swap(true, Relaxed) {
            commit::sweep(dir, &self.path);
        }
    }

    /// True when the directory should be opened anew before it gets too old for cached reads.
    pub fn wants_refresh(&self) -> bool {
        self.lock().as_ref().is_none_or(|dir| dir.opened.elapsed() >= FRESH)
    }

    /// Takes over a directory that the owner has opened and sent. Loop thread.
    pub fn adopt_dir(&self, fd: OwnedFd, inline_reads: bool, updates_atime: bool) {
        let dir = DeviceDir {
            fd,
            opened: Instant::now(),
            inline_reads,
            updates_atime,
            anonymous_files: AtomicBool::new(true),
        };
        *self.lock() = Some(Arc::new(dir));
    }

    /// Lets the descriptor go, so that the device can be unmounted.
    pub fn drop_dir(&self) {
        self.lock().take();
    }

    fn looked(&self) -> MutexGuard<'_, Looked> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<DeviceDir>>> {
        self.dir.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeviceDir {
    /// Opens it without keeping it. Disk threads.
    pub fn open(path: &Path) -> io::Result<DeviceDir> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = open(path, flags, Mode::empty())?;
        let filesystem = fstatfs(&fd)?;
        let quiet = FsFlags::ST_NOATIME | FsFlags::ST_RDONLY;
        Ok(DeviceDir {
            fd,
            opened: Instant::now(),
            inline_reads: answers_from_cache(filesystem.filesystem_type()),
            updates_atime: !filesystem.flags().intersects(quiet),
            anonymous_files: AtomicBool::new(true),
        })
    }
}

impl AsFd for DeviceDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Filesystems whose open and fstat of a cached file do no I/O. FUSE and network filesystems send
/// a message and wait for the answer.
fn answers_from_cache(kind: FsType) -> bool {
    [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC, TMPFS_MAGIC]
        .contains(&kind)
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
        assert_eq!(device.dir().unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::create_dir(docroot.path().join("dev3")).unwrap();
        let first = device.dir().unwrap();
        assert!(Arc::ptr_eq(&first, &device.dir().unwrap()));
        assert!(Arc::ptr_eq(&first, &device.dir_at_hand().unwrap()));
        device.drop_dir();
        assert!(device.dir_at_hand().is_none());
        assert!(!Arc::ptr_eq(&first, &device.dir().unwrap()));
    }

    #[test]
    fn docroot_itself_counts_as_device_zero() {
        let key = DeviceKey { site: SiteId(0), devid: 0 };
        assert_eq!(Device::new(key, Path::new("/srv"), false).path(), Path::new("/srv"));
    }
}
