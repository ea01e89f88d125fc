//! The folder in which a disk thread has stored last. FIDs come in order, so that the next file
//! often goes there too: it need not be found and opened again. Kept for a tenth of a second at
//! most, while the thread has something to do, and as long as the device's directory is the same
//! one. Disk threads only.
//!
//! Whoever renames a folder by hand has files stored there for so long, as with an upload that
//! begins before that. One that was removed is found out by the calls themselves: `ENOENT`.

use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::clock;
use crate::disk::device_dir::DeviceDir;
use crate::disk::disk_fd::DiskFd;
use crate::disk::on_disk::OnDisk;

/// A folder is opened again after so long.
const LIFE: Duration = Duration::from_millis(100);

thread_local! {
    static RECENT: RefCell<Option<Recent>> = const { RefCell::new(None) };
}

#[derive(Debug)]
struct Recent {
    device: Weak<DeviceDir>,
    path: CString,
    folder: Arc<DiskFd>,
    opened: Duration,
}

impl Recent {
    fn is_for(&self, device: &Arc<DeviceDir>, path: &CStr) -> bool {
        self.path.as_c_str() == path
            && self.device.as_ptr() == Arc::as_ptr(device)
            && clock::coarse().saturating_sub(self.opened) < LIFE
    }
}

/// The folder at a path below the device, if this thread has it.
pub fn known(device: &Arc<DeviceDir>, path: &CStr) -> Option<Arc<DiskFd>> {
    RECENT.with_borrow(|recent| {
        let recent = recent.as_ref().filter(|recent| recent.is_for(device, path));
        recent.map(|recent| Arc::clone(&recent.folder))
    })
}

/// Keeps one that was just opened there, in place of any other.
pub fn keep(on: &OnDisk, device: &Arc<DeviceDir>, path: CString, folder: DiskFd) -> Arc<DiskFd> {
    forget(on);
    let folder = Arc::new(folder);
    let kept = Recent {
        device: Arc::downgrade(device),
        path,
        folder: Arc::clone(&folder),
        opened: clock::coarse(),
    };
    RECENT.set(Some(kept));
    folder
}

/// Whether this thread has one.
pub fn is_kept() -> bool {
    RECENT.with_borrow(Option::is_some)
}

/// Closes what this thread has.
pub fn forget(_: &OnDisk) {
    drop(RECENT.take());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::folders::FOLDER;
    use crate::sys::file::{BENEATH, open_below};

    #[test]
    fn it_is_known_by_its_path_and_the_device_s_directory() {
        let on = &OnDisk::in_test();
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("a")).unwrap();
        let device = Arc::new(DeviceDir::open(on, root.path()).unwrap());
        let open = || DiskFd::new(open_below(device.get(on), c"a", FOLDER, 0, BENEATH).unwrap());
        assert!(known(&device, c"a").is_none() && !is_kept());
        // Within its life, which a busy machine may outlast.
        assert!((0..50).any(|_| {
            let kept = keep(on, &device, c"a".to_owned(), open());
            known(&device, c"a").is_some_and(|known| Arc::ptr_eq(&known, &kept))
        }));
        assert!(is_kept() && known(&device, c"b").is_none());
        let again = Arc::new(DeviceDir::open(on, root.path()).unwrap());
        assert!(known(&again, c"a").is_none());
        forget(on);
        assert!(known(&device, c"a").is_none() && !is_kept());
    }
}
