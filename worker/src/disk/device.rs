//! One device as this process sees it. The loop thread and the disk threads share it; the lock is
//! held for moving a pointer, never over a system call that can block.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock;
use crate::disk::busy::{self, Disk};
use crate::disk::device_dir::{DeviceDir, Traits};
use crate::disk::disk_fd::DiskFd;
use crate::disk::errands;
use crate::disk::mounted::Guard;
use crate::disk::on_disk::OnDisk;
use crate::disk::temporary;
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
    key: DeviceKey,
    path: PathBuf,
    dirs: Mutex<Dirs>,
    swept: AtomicBool,
    /// It has a usage file, and requests for that are answered from memory.
    usage: bool,
    /// A look at it is under way or waits for a thread.
    looking: AtomicBool,
    /// Something was stored or removed since the last look.
    changed: AtomicBool,
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

    /// Which one.
    #[inline]
    pub fn key(&self) -> DeviceKey {
        self.key
    }

    /// Whether it has a usage file, which is answered from memory.
    #[inline]
    pub fn has_usage(&self) -> bool {
        self.usage
    }

    /// Something was stored or removed: a look is needed, now or when a second is over.
    pub fn note_change(&self) {
        self.changed.store(true, Relaxed);
    }

    /// Whether that has been since the last look.
    pub fn has_changed(&self) -> bool {
        self.changed.load(Relaxed)
    }

    /// Whoever is about to look at it, or to have a thread do so: true when nobody else does.
    pub fn begin_look(&self) -> bool {
        let free = !self.looking.swap(true, Relaxed);
        if free {
            self.changed.store(false, Relaxed);
        }
        free
    }

    /// The look is over.
    pub fn end_look(&self) {
        self.looking.store(false, Relaxed);
    }

    /// True, and the clock starts anew, when the last look is at least `interval` ago.
    pub fn look_is_due(&self, interval: Duration) -> bool {
        let mut looked = self.looked();
        let due = looked.at.is_none_or(|at| at.elapsed() >= interval);
        if due {
            looked.at = Some(clock::instant());
        }
        due
    }

    /// The same for looks that end in the usage file.
    pub fn file_is_due(&self, interval: Duration) -> bool {
        let mut looked = self.looked();
        let due = looked.written.is_none_or(|at| at.elapsed() >= interval);
        if due {
            looked.written = Some(clock::instant());
        }
        due
    }

    /// The disk under the device; `afresh`: looked up even if nothing seems to have changed, for
    /// the number of a filesystem that has gone may be given to the next one.
    pub fn disk(&self, on: &OnDisk, dir: &DeviceDir, afresh: bool) -> Disk {
        let st_dev = dir.number(on).unwrap_or_default();
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
        self.lock().current.clone().filter(|dir| dir.age() < STALE)
    }

    /// True when the owner has said lately that a loop has nothing to look for here.
    pub fn is_shut(&self) -> bool {
        self.lock().shut.is_some_and(|at| at.elapsed() < FRESH)
    }

    /// The owner has said so.
    pub fn shut(&self) {
        let mut dirs = self.lock();
        dirs.shut = Some(clock::instant());
        dirs.retire();
    }

    /// The directory, opened now if need be: this waits for the disk.
    pub fn dir(&self, on: &OnDisk) -> io::Result<Arc<DeviceDir>> {
        if let Some(dir) = self.lock().current.clone().filter(|dir| dir.age() < FRESH) {
            return Ok(dir);
        }
        let opened = DeviceDir::open(on, &self.path).and_then(|dir| self.insist_on_mount(on, dir));
        let before = self.lock().current.clone();
        if let (Ok(dir), Some(before)) = (&opened, before) {
            self.swept.fetch_and(dir.follow(on, &before)?, Relaxed);
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
        self.lock().current.as_ref().is_none_or(|dir| dir.age() >= FRESH)
    }

    /// Takes over a directory that the owner has opened and sent. The one before it is to be let
    /// go by a disk thread. Loop thread.
    pub fn adopt_dir(&self, fd: DiskFd, traits: Traits) {
        let dir = DeviceDir::adopted(fd, traits);
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
