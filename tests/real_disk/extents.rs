//! The list of a file's extents, where it is too long for the inode, is read from the disk when
//! the content is first looked at, by whoever looks.

use std::time::Duration;

use super::{neighbours, settle};
use crate::harness::real_disk::{FsKind, LoopWatch, Op, holes, on_real_disks};
use crate::harness::{fid_path, pattern};

const EXTENTS: usize = 40;
const FID: u64 = 4_000;

#[test]
fn a_file_whose_extents_are_not_known_keeps_no_loop() {
    let kinds = [FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs];
    let path = fid_path(1, FID);
    let below = path.trim_start_matches("/dev1/");
    on_real_disks(
        &kinds,
        &["--stall-timeout=60"],
        |device| holes(&device.join(below), EXTENTS),
        |sick| {
            settle(&sick.node);
            std::fs::metadata(sick.dev1().join(below)).expect("it was written");
            let watch = LoopWatch::start(&sick.node);
            sick.disk.hang(&[Op::Read]);
            let mut client = sick.node.client();
            client.send(format!("GET {path} HTTP/1.1\r\nRange: bytes=0-99\r\n\r\n"));
            sick.disk.wait_for_held(Op::Read, 1);
            neighbours::are_untouched_for(&sick.node, Duration::from_secs(1), &sick.name());
            sick.disk.mend();
            assert_eq!(client.answer().expect(206).body, pattern(100));
            watch.end();
        },
    );
}
