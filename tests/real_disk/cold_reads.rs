//! Cold files of a hanging disk, by the hundreds. `RWF_NOWAIT` asks the disk for what it reads
//! ahead, and asking waits once the device has as many requests as it takes.

use std::time::{Duration, Instant};

use super::neighbours::{self, Load};
use super::{ask_all, connect, ready, writes};
use crate::harness::real_disk::{FsKind, LoopWatch, Op, RealDisk, RealSick, Tree};
use crate::harness::{MODES, pattern, skipped, until};

const SIZE: usize = 4096;
/// The disk threads of a device, by default.
const THREADS: usize = 10;
const MOST_LOST: f64 = 0.1;
/// What is no difference between two p99.
const NOISE: Duration = Duration::from_micros(500);
/// Until a quiet moment shows what the node can do.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn six_hundred_on_ext4_cost_the_others_nothing() {
    in_turn(FsKind::Ext4, 600);
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn six_hundred_on_xfs_cost_the_others_nothing() {
    in_turn(FsKind::Xfs, 600);
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn six_hundred_on_btrfs_cost_the_others_nothing() {
    in_turn(FsKind::Btrfs, 600);
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn six_thousand_on_ext4_cost_the_others_nothing() {
    in_turn(FsKind::Ext4, 6000);
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn six_thousand_on_xfs_cost_the_others_nothing() {
    in_turn(FsKind::Xfs, 6000);
}

/// One mode after the other, for each would disturb the others' figures.
fn in_turn(kind: FsKind, count: usize) {
    if let Some(reason) = RealDisk::missing(kind) {
        return skipped(&reason);
    }
    let tree = Tree { fids: 1..count as u64 + 1, size: SIZE };
    for workers in MODES {
        let args = ["--stall-timeout=60", "--max-queue=10000"];
        let sick = RealSick::start(kind, workers, &args, writes(&tree));
        ready(&sick, &tree);
        hang(&sick, &tree);
    }
}

fn hang(sick: &RealSick, tree: &Tree) {
    let paths = tree.paths(1);
    let mut clients = connect(&sick.node, paths.len());
    let before = neighbours::measure(&sick.node);
    let watch = LoopWatch::start(&sick.node);
    sick.disk.hang(&[Op::Read]);
    ask_all(&mut clients, &paths);
    sick.disk.wait_for_held(Op::Read, THREADS);
    let asked = || sick.node.status()["devices"][0]["in_flight"].as_u64();
    until("all of them to wait", || asked() >= Some(paths.len() as u64));
    compare(sick, before);
    watch.end();
    sick.disk.mend();
    for client in &mut clients {
        assert!(client.answer().expect(200).body == pattern(SIZE));
    }
}

/// What else the machine does comes and goes; what the disk costs would stay.
fn compare(sick: &RealSick, before: Load) {
    let begun = Instant::now();
    loop {
        let during = neighbours::measure(&sick.node);
        println!("{}: {before:?}, then {during:?}", sick.name());
        let enough = during.per_second > before.per_second * (1.0 - MOST_LOST);
        if enough && during.p99 < before.p99.mul_f64(1.0 + MOST_LOST) + NOISE {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{}: {before:?}, then {during:?}", sick.name());
    }
}
