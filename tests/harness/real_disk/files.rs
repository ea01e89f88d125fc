//! Files on such a disk, and what of them is in memory.

use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};

use crate::harness::{fid_path, pattern};

const BLOCK: i64 = 4096;

/// Files of one size, named as a device's files are.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Their numbers.
    pub fids: Range<u64>,
    /// The size of each.
    pub size: usize,
}

impl Tree {
    /// Writes them below a device's folder.
    pub fn write(&self, device: &Path) {
        let content = pattern(self.size);
        for fid in self.fids.clone() {
            let file = device.join(below_device(fid));
            if fid % 1000 == 0 || fid == self.fids.start {
                fs::create_dir_all(file.parent().expect("below the device")).expect("room");
            }
            let mut file = File::create(file).expect("room");
            file.write_all(&content).expect("room");
        }
    }

    /// The URL paths of them on a device.
    pub fn paths(&self, device: u32) -> Vec<String> {
        self.fids.clone().map(|fid| fid_path(device, fid)).collect()
    }

    /// Brings the names and facts into memory, and no content.
    pub fn look_at(&self, device: &Path) {
        for fid in self.fids.clone() {
            let facts = fs::metadata(device.join(below_device(fid))).expect("it was written");
            assert_eq!(facts.len(), self.size as u64);
        }
    }

    /// Takes the content out of memory, names and facts not.
    pub fn forget(&self, device: &Path) {
        self.fids.clone().for_each(|fid| cold_pages(&device.join(below_device(fid))));
    }
}

/// Takes a file's content out of memory; it must have been written to disk.
fn cold_pages(file: &Path) {
    let file = File::open(file).expect("a file");
    let file = file.as_fd();
    posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("a regular file");
}

/// Writes a file of so many extents, a block each with holes between: a list of extents too long
/// for the inode, which is read from the disk when the content is first looked at.
pub fn holes(file: &Path, extents: usize) {
    fs::create_dir_all(file.parent().expect("below the device")).expect("room");
    let mut file = File::create(file).expect("room");
    file.write_all(&pattern(2 * extents * BLOCK as usize)).expect("room");
    file.sync_all().expect("a sound disk");
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    for extent in 0..extents as i64 {
        fallocate(&file, flags, (2 * extent + 1) * BLOCK, BLOCK).expect("it can have holes");
    }
    file.sync_all().expect("a sound disk");
}

/// A FID path without its device.
fn below_device(fid: u64) -> PathBuf {
    let path = fid_path(1, fid);
    PathBuf::from(path.trim_start_matches("/dev1/"))
}
