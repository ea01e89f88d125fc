//! Filesystems with a journal that keeps things in order. When a file's data has been written out,
//! the journal has its new size and place before any name that it is given later; whoever has the
//! newest change committed has all that were made before; and the disk is flushed before a commit is
//! valid. Asks /proc and /sys only.

use std::fs;
use std::path::Path;

use nix::sys::stat::{major, minor};
use nix::sys::statfs::{EXT4_SUPER_MAGIC, Statfs, XFS_SUPER_MAGIC};

/// Where the kernel lists the journals of ext4, as `DISK-INODE` those that are on the disk itself.
const JOURNALS: &str = "/proc/fs/jbd2";

/// Whether the filesystem is such a one: by its answer to fstatfs(2), and its number. What does not
/// answer, as a sandbox may forbid to ask, is none.
pub fn keeps_order(filesystem: nix::Result<Statfs>, number: u64) -> bool {
    #[cfg(test)]
    if ASSUMED.get() {
        return true;
    }
    match filesystem.map(|known| known.filesystem_type()) {
        Ok(XFS_SUPER_MAGIC) => true,
        Ok(EXT4_SUPER_MAGIC) => has_journal_inside(number),
        _ => false,
    }
}

#[cfg(test)]
thread_local! {
    /// In this thread each filesystem is taken for such a one, to see what is done then.
    pub static ASSUMED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// One on another disk is committed without a flush of this one, and ext2 has none.
fn has_journal_inside(number: u64) -> bool {
    let node = format!("/sys/dev/block/{}:{}", major(number), minor(number));
    let Ok(target) = fs::read_link(node) else { return false };
    let journals = fs::read_dir(JOURNALS).into_iter().flatten().flatten();
    let names = journals.map(|entry| entry.file_name().to_string_lossy().into_owned());
    is_among(&target, names)
}

fn is_among(device: &Path, mut journals: impl Iterator<Item = String>) -> bool {
    let Some(device) = device.file_name().and_then(|name| name.to_str()) else { return false };
    journals.any(|journal| journal.rsplit_once('-').is_some_and(|(disk, _)| disk == device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    fn found(device: &str, journals: &[&str]) -> bool {
        is_among(Path::new(device), journals.iter().map(|name| (*name).to_owned()))
    }

    #[test]
    fn journal_is_found_by_its_disk() {
        let there = ["sda1-8", "dm-10-8", "dm-3", "nvme0n1p2-8"];
        for disk in ["../../devices/a/block/sda/sda1", "../../virtual/block/dm-10", "nvme0n1p2"] {
            assert!(found(disk, &there), "{disk}");
        }
    }

    #[test]
    fn journal_of_another_disk_or_on_another_disk_is_none() {
        let there = ["sda1-8", "dm-10-8", "dm-3"];
        for disk in ["block/sda", "block/dm-1", "block/dm-3", "block/sda11", "block/sda1-8", "/"] {
            assert!(!found(disk, &there), "{disk}");
        }
    }

    #[test]
    fn what_is_not_told_is_no_order() {
        for errno in [Errno::EPERM, Errno::ENOSYS, Errno::EIO] {
            assert!(!keeps_order(Err(errno), 0), "{errno}");
        }
    }
}
