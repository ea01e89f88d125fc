//! The disk that the other tests use does what it is told, on each filesystem.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use fuser::Errno;

use crate::harness::real_disk::{ENOUGH, EVERYTHING, Event, FsKind, Op, RealDisk, Tree, Which};
use crate::harness::{pattern, skipped};

const KINDS: [FsKind; 3] = [FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs];
const LARGE: usize = 4 << 20;

fn on_each(test: impl Fn(&RealDisk) + Sync) {
    thread::scope(|scope| {
        for kind in KINDS {
            let test = &test;
            scope.spawn(move || match RealDisk::missing(kind) {
                Some(reason) => skipped(&reason),
                None => test(&RealDisk::make(kind, ENOUGH)),
            });
        }
    });
}

#[test]
fn it_keeps_what_is_written() {
    on_each(|disk| {
        disk.inside(|root| fs::write(root.join("large"), pattern(LARGE)).unwrap());
        disk.inside(|root| assert!(fs::read(root.join("large")).unwrap() == pattern(LARGE)));
    });
}

#[test]
fn cold_reads_hang_and_are_released() {
    const FILES: usize = 100;
    let tree = Tree { fids: 1..FILES as u64 + 1, size: 4096 };
    on_each(|disk| {
        disk.inside(|root| tree.write(root));
        disk.inside(|root| {
            tree.look_at(root);
            disk.hang(&[Op::Read]);
            let paths = tree.paths(1);
            let file = |path: &String| root.join(path.trim_start_matches("/dev1/"));
            let files: Vec<_> = paths.iter().map(|path| File::open(file(path)).unwrap()).collect();
            thread::scope(|scope| {
                let _mended = disk.mended_at_last();
                for mut file in files {
                    scope.spawn(move || {
                        let mut content = Vec::new();
                        file.read_to_end(&mut content).unwrap();
                        assert!(content == pattern(4096));
                    });
                }
                // btrfs reads each file with a checksum that is found on the way.
                disk.wait_for_held(Op::Read, FILES.min(20));
                disk.release(&[Op::Read]);
            });
            assert_eq!(disk.held(Op::Read), 0);
        });
    });
}

#[test]
fn writes_hang_and_reads_do_not() {
    on_each(|disk| {
        disk.inside(|root| fs::write(root.join("there"), pattern(4096)).unwrap());
        disk.inside(|root| {
            let mut there = File::open(root.join("there")).unwrap();
            let mut file = File::create(root.join("new")).unwrap();
            disk.hang(&[Op::Write, Op::Flush]);
            thread::scope(|scope| {
                let _mended = disk.mended_at_last();
                scope.spawn(move || {
                    file.write_all(&pattern(LARGE)).unwrap();
                    file.sync_all().unwrap();
                });
                disk.wait_for_held(Op::Write, 1);
                there.read_to_end(&mut Vec::new()).unwrap();
                disk.release(&EVERYTHING);
            });
        });
    });
}

#[test]
fn a_slow_one_is_slow() {
    on_each(|disk| {
        disk.inside(|root| {
            disk.bandwidth(20 << 20);
            let begun = Instant::now();
            let mut file = File::create(root.join("new")).unwrap();
            file.write_all(&pattern(LARGE)).unwrap();
            file.sync_all().unwrap();
            assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
            disk.mend();
        });
    });
}

#[test]
fn each_operation_takes_its_time() {
    const TIME: Duration = Duration::from_millis(20);
    const FILES: u32 = 10;
    let tree = Tree { fids: 1..u64::from(FILES) + 1, size: 4096 };
    on_each(|disk| {
        disk.inside(|root| tree.write(root));
        disk.inside(|root| {
            tree.look_at(root);
            disk.latency(TIME, 1);
            for _ in 0..2 {
                let (begun, served) = (Instant::now(), disk.served(Op::Read));
                read_all(&tree, root);
                assert!(disk.served(Op::Read) >= served + u64::from(FILES));
                assert!(begun.elapsed() >= FILES * TIME, "{:?}", begun.elapsed());
                tree.forget(root);
            }
            disk.mend();
            disk.flush_takes(FILES * TIME);
            let begun = Instant::now();
            let file = File::create(root.join("new")).unwrap();
            file.sync_all().unwrap();
            assert!(begun.elapsed() >= FILES * TIME, "{:?}", begun.elapsed());
            disk.mend();
        });
    });
}

fn read_all(tree: &Tree, root: &Path) {
    for path in tree.paths(1) {
        let content = fs::read(root.join(path.trim_start_matches("/dev1/"))).unwrap();
        assert!(content == pattern(tree.size));
    }
}

#[test]
fn it_serves_some_and_hangs_the_rest() {
    let tree = Tree { fids: 1..101, size: 4096 };
    on_each(|disk| {
        disk.inside(|root| tree.write(root));
        disk.inside(|root| {
            tree.look_at(root);
            disk.share(Op::Read, 4, 10);
            thread::scope(|scope| {
                let _mended = disk.mended_at_last();
                for fid in tree.fids.clone() {
                    let one = Tree { fids: fid..fid + 1, size: tree.size };
                    scope.spawn(move || read_all(&one, root));
                }
                disk.wait_for_held(Op::Read, 10);
                assert!(disk.served(Op::Read) > 0);
            });
        });
    });
}

#[test]
fn a_copy_has_its_content() {
    on_each(|disk| {
        disk.inside(|root| fs::write(root.join("large"), pattern(LARGE)).unwrap());
        let copy = RealDisk::of_image(disk.kind(), disk.image());
        disk.inside(|root| fs::remove_file(root.join("large")).unwrap());
        copy.inside(|root| assert!(fs::read(root.join("large")).unwrap() == pattern(LARGE)));
    });
}

#[test]
fn chosen_writes_fail_and_fsync_tells() {
    on_each(|disk| {
        disk.inside(|root| {
            let mut file = File::create(root.join("new")).unwrap();
            file.sync_all().unwrap();
            file.write_all(&pattern(LARGE)).unwrap();
            disk.fail(Op::Write, Which::Nth(1), Errno::EIO);
            assert!(file.sync_all().is_err());
            disk.mend();
        });
    });
}

#[test]
fn a_power_cut_keeps_what_was_synced() {
    on_each(|disk| {
        disk.record();
        let (mut safe, mut end) = (0, 0);
        disk.inside(|root| {
            let mut file = File::create(root.join("synced")).unwrap();
            file.write_all(&pattern(LARGE)).unwrap();
            file.sync_all().unwrap();
            File::open(root).unwrap().sync_all().unwrap();
            safe = disk.recorded();
            fs::write(root.join("not"), pattern(LARGE)).unwrap();
            end = disk.recorded();
        });
        let recording = disk.recording().expect("recorded");
        assert!(recording.events().iter().any(|event| matches!(event, Event::FlushEnds(_))));
        let cuts = recording.boundaries();
        assert!(cuts.len() > 2, "{cuts:?}");
        let last = recording.events().len();
        for cut in [safe, end, last] {
            for keep in [true, false] {
                let image = recording.image(cut, |_| keep);
                let copy = RealDisk::of_image(disk.kind(), image);
                copy.inside(|root| {
                    assert!(fs::read(root.join("synced")).unwrap() == pattern(LARGE));
                });
            }
        }
    });
}
