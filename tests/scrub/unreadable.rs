//! A real disk that answers EIO for some bytes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use fuser::Errno;

use super::tree::{aged, below};
use super::{Told, scrub};
use crate::harness::real_disk::{FsKind, Op, RealDisk, Which};
use crate::harness::skipped;

const BLOCK: usize = 4096;
const BLOCKS: u32 = 40;
/// The size of the disk, all of which is searched.
const MEBIBYTES: u64 = 512;

/// Each block says whose it is and which.
fn content(fid: u64) -> Vec<u8> {
    let block = |number: u32| {
        let head = mark(fid, number);
        let mut block = head.into_bytes();
        block.resize(BLOCK, b'.');
        block
    };
    (0..BLOCKS).flat_map(block).collect()
}

fn mark(fid: u64, block: u32) -> String {
    format!("<file {fid} block {block} of a scrub>")
}

/// Where a block of a file is on the disk.
fn place(disk: &RealDisk, fid: u64, block: u32) -> u64 {
    let (image, mark) = (disk.image(), mark(fid, block));
    let mut offsets = (0..image.size()).step_by(512);
    let found = offsets.find(|offset| image.read(*offset, mark.len()) == mark.as_bytes());
    found.expect("it has been written")
}

/// Scrubs the disk under the name dev7.
fn as_dev7(root: &Path, work: impl Fn(&str) -> Told) -> Told {
    let docroot = tempfile::tempdir().unwrap();
    let device = docroot.path().join("dev7");
    symlink(root, &device).unwrap();
    work(device.to_str().unwrap())
}

#[test]
fn bytes_that_the_disk_does_not_give_are_found_though_they_are_in_memory() {
    for kind in [FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs] {
        match RealDisk::missing(kind) {
            Some(reason) => skipped(&reason),
            None => bad_block(kind),
        }
    }
}

fn bad_block(kind: FsKind) {
    let disk = RealDisk::make(kind, MEBIBYTES);
    disk.inside(|root| {
        for fid in 1..=50 {
            let path = root.join(below(fid));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content(fid)).unwrap();
            aged(&path);
        }
    });
    let (bad, block) = (17, 23);
    let at = place(&disk, bad, block);
    let told = disk.inside(|root| {
        for fid in 1..=50 {
            assert!(fs::read(root.join(below(fid))).unwrap() == content(fid));
        }
        let bytes = at..at + BLOCK as u64;
        disk.fail(Op::Read, Which::Within(bytes), Errno::EIO);
        let told = as_dev7(root, |device| scrub(&[device]));
        disk.mend();
        told
    });
    assert_eq!((told.code, told.findings.len()), (Some(1), 1), "{}: {told:?}", kind.name());
    let finding = &told.findings[0];
    assert_eq!(
        (&finding["kind"], &finding["fid"]),
        (&"unreadable".into(), &bad.into()),
        "{told:?}"
    );
    assert_eq!(finding["offset"], u64::from(block) * BLOCK as u64, "{told:?}");
    assert_eq!(finding["errno"], 5, "{told:?}");
    assert_eq!(told.summary["files"], 50, "{told:?}");
}
