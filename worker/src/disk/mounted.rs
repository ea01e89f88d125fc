//! Whether a device's folder is where its disk should be. What is stored on the bare mount point
//! of an unmounted disk fills another one, and cannot be found again once the disk is back.
//!
//! A device counts as mounted when its folder is another filesystem's than the folder above it,
//! or lies on one that is neither the docroot's nor the root's: `dev1 -> /mnt/big/dev1`. It is
//! bare when it was mounted, is no mount itself now, and lies on the filesystem that the mount
//! was on, on the docroot's or on the root's.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{fstat, fstatat, stat};
use nix::sys::statvfs::fstatvfs;

use crate::disk::on_disk::OnDisk;
use crate::scoreboard::{DeviceSlot, Mount};

/// Folders between a device and the root of its mount.
const MOST_STEPS: usize = 32;

/// Refuses a device that is not mounted.
#[derive(Debug, Default)]
pub struct Guard {
    slot: Option<&'static DeviceSlot>,
    /// For a device without a slot.
    own: Mount,
    require: bool,
}

/// Where a folder is, by the numbers of filesystems.
#[derive(Debug)]
struct Place {
    here: u64,
    /// The docroot's, and the one of `/`.
    usual: [u64; 2],
    is_mount: bool,
    /// What it is mounted on, or the mount that it lies in.
    on: Option<u64>,
}

impl Guard {
    /// What is known is kept in the slot. `require`: there must be a mount from the start.
    pub fn new(slot: Option<&'static DeviceSlot>, require: bool) -> Guard {
        Guard { slot, own: Mount::default(), require }
    }

    /// `ENOMEDIUM`, "No medium found", where the folder is not the disk's. Logs when that changes.
    pub fn admit(&self, _: &OnDisk, path: &Path, folder: BorrowedFd<'_>) -> io::Result<()> {
        let docroot = path.parent().unwrap_or(path);
        let place = Place::of(folder, docroot)?;
        let known = self.slot.map_or(&self.own, |slot| &slot.mount);
        let was = known.on();
        let bare = was.is_some_and(|on| !place.is_mount && (place.here == on || place.is_usual()));
        let missing = self.require && !place.is_mount && place.is_usual();
        if known.refuse(bare || missing) {
            let path = path.display();
            match (bare, missing) {
                (true, _) => log::error!(
                    "{path} was a mount and is a bare folder now: 503 until it is mounted again, \
                    or forgotten (rmogstored device --forget)"
                ),
                (_, true) => log::error!(
                    "{path} is no mount, as require_mount demands: 503 until a disk is mounted"
                ),
                _ => log::info!("{path} is mounted {}", was.map_or("now", |_| "again")),
            }
        }
        if bare || missing {
            return Err(Errno::ENOMEDIUM.into());
        }
        if place.is_mount || !place.is_usual() {
            let id = fstatvfs(folder).map_or(0, |facts| facts.filesystem_id());
            let before = known.note(place.on.unwrap_or(place.usual[0]), id);
            if before != 0 && before != id {
                log::info!("{}: another filesystem is mounted there now", path.display());
            }
        }
        Ok(())
    }
}

impl Place {
    fn of(folder: BorrowedFd<'_>, docroot: &Path) -> io::Result<Place> {
        let here = fstat(folder)?.st_dev;
        let of_docroot = stat(docroot)?.st_dev;
        let usual = [of_docroot, stat("/").map_or(of_docroot, |facts| facts.st_dev)];
        let steps = if usual.contains(&here) { 1 } else { MOST_STEPS };
        let other = first_other_above(folder, here, steps);
        let is_mount = other.is_some_and(|(steps, _)| steps == 1);
        Ok(Place { here, usual, is_mount, on: other.map(|(_, on)| on) })
    }

    fn is_usual(&self) -> bool {
        self.usual.contains(&self.here)
    }
}

/// Goes up until the filesystem is another one: how many steps, and its number. `None`: not within
/// so many, or the way up is closed.
fn first_other_above(folder: BorrowedFd<'_>, here: u64, most: usize) -> Option<(usize, u64)> {
    let mut up = "..".to_owned();
    let mut below = None;
    for steps in 1..=most {
        let facts = fstatat(folder, up.as_str(), AtFlags::empty()).ok()?;
        if facts.st_dev != here {
            return Some((steps, facts.st_dev));
        }
        if below.replace(facts.st_ino) == Some(facts.st_ino) {
            return None; // the root
        }
        up.push_str("/..");
    }
    None
}
