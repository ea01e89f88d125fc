//! Filesystems with a journal that keeps things in order. When a file's data has been written out,
//! the journal has its new size and place before any name that it is given later; whoever has the
//! newest change committed has all that were made before; and the disk is flushed before a commit is
//! valid. Asks /proc and /sys only.

use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{major, minor};
use nix::sys::statfs::{EXT4_SUPER_MAGIC, Statfs, XFS_SUPER_MAGIC};

/// Where the kernel lists the journals of ext4, as `DISK-INODE` those that are on the disk itself.
const JOURNALS: &str = "/proc/fs/jbd2";

/// Whether the filesystem is such a one: by its answer to fstatfs(2), and its number.
pub fn keeps_order(filesystem: nix::Result<Statfs>, number: u64) -> nix::Result<bool> {
    match filesystem {
        // A sandbox forbids to ask.
        Err(Errno::ENOSYS | Errno::EPERM) => Ok(false),
        Err(errno) => Err(errno),
        Ok(known) if known.filesystem_type() == XFS_SUPER_MAGIC => Ok(true),
        Ok(known) if known.filesystem_type() == EXT4_SUPER_MAGIC => Ok(has_journal_inside(number)),
        Ok(_) => Ok(false),
    }
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
    fn what_a_sandbox_does_not_tell_is_no_order() {
        assert_eq!(keeps_order(Err(Errno::EPERM), 0), Ok(false));
        assert_eq!(keeps_order(Err(Errno::ENOSYS), 0), Ok(false));
        assert_eq!(keeps_order(Err(Errno::EIO), 0), Err(Errno::EIO));
    }
}
