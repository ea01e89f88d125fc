//! On XFS a read takes the inode's lock, which a write in progress has. Who is kept by a disk
//! while he has it keeps all readers, even of what is in memory.

use std::time::Duration;

use super::{neighbours, settle};
use crate::harness::real_disk::{FsKind, LoopWatch, Op, on_real_disks};
use crate::harness::{fid_path, pattern};

const SIZE: usize = 8 << 20;
const FID: u64 = 5_000;
/// Of what is resident: small, and large enough for sendfile.
const RANGES: [(usize, usize); 3] = [(0, 4095), (0, 65_535), (4096, 200_000)];

#[test]
fn a_write_that_waits_for_the_disk_keeps_no_loop() {
    let path = fid_path(1, FID);
    let file = path.trim_start_matches("/dev1/");
    let write = |device: &std::path::Path| {
        std::fs::create_dir_all(device.join(file).parent().unwrap()).unwrap();
        std::fs::write(device.join(file), pattern(SIZE)).unwrap();
    };
    on_real_disks(&[FsKind::Xfs, FsKind::Ext4], &["--stall-timeout=60"], write, |sick| {
        settle(&sick.node);
        for (first, last) in RANGES {
            let range = format!("Range: bytes={first}-{last}\r\n");
            sick.node.client().get_with(&path, &range).expect(206);
        }
        let watch = LoopWatch::start(&sick.node);
        sick.disk.hang(&[Op::Read]);
        // Within a page that is not in memory: the rest of it is read first.
        let mut writer = sick.node.client();
        let at = SIZE - 5000;
        writer.send(format!(
            "PUT {path} HTTP/1.1\r\nContent-Range: bytes {at}-{}/*\r\nContent-Length: 10\r\n\r\n",
            at + 9
        ));
        writer.send("0123456789");
        sick.disk.wait_for_held(Op::Read, 1);
        let mut readers = Vec::new();
        for (first, last) in RANGES {
            let mut reader = sick.node.client();
            reader.send(format!("GET {path} HTTP/1.1\r\nRange: bytes={first}-{last}\r\n\r\n"));
            readers.push(reader);
        }
        neighbours::are_untouched_for(&sick.node, Duration::from_secs(1), &sick.name());
        sick.disk.mend();
        writer.answer().expect(201);
        for (reader, (first, last)) in readers.iter_mut().zip(RANGES) {
            assert!(reader.answer().expect(206).body == pattern(last + 1)[first..]);
        }
        watch.end();
    });
}
