//! After `umount -l` the last close is the unmount, with its sync of everything that is dirty.

use std::path::Path;
use std::thread;
use std::time::Duration;

use super::{neighbours, settle};
use crate::harness::real_disk::{FsKind, LoopWatch, Op, RealSick, on_real_disks};
use crate::harness::{Client, fid_path};

const KINDS: [FsKind; 2] = [FsKind::Ext4, FsKind::Xfs];
const FILES: u64 = 20;
const SIZE: usize = 2 << 20;
/// A directory that is not used goes after a second; then the sync takes as long as it takes.
const WATCHED: Duration = Duration::from_secs(5);

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn a_slow_disk_is_unmounted_beside_the_loops() {
    on_real_disks(
        &KINDS,
        &["--stall-timeout=60"],
        |_: &Path| {},
        |sick| {
            let slow = |sick: &RealSick| sick.disk.bandwidth(8 << 20);
            unmount(sick, slow, false);
        },
    );
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn a_dead_disk_is_unmounted_beside_the_loops() {
    on_real_disks(
        &KINDS,
        &["--stall-timeout=60"],
        |_: &Path| {},
        |sick| {
            unmount(sick, |sick| sick.disk.hang(&[Op::Write, Op::Flush]), false);
        },
    );
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn kept_files_and_folders_of_a_dead_disk_are_let_go_beside_the_loops() {
    on_real_disks(
        &KINDS,
        &["--stall-timeout=60"],
        |_: &Path| {},
        |sick| {
            unmount(sick, |sick| sick.disk.hang(&[Op::Write, Op::Flush]), true);
        },
    );
}

fn unmount(sick: &RealSick, spoil: impl Fn(&RealSick), keeps: bool) {
    settle(&sick.node);
    let body = vec![7; SIZE];
    let mut client = sick.node.client();
    for fid in 0..FILES {
        client.put(&fid_path(1, fid), &body).expect(201);
    }
    if keeps {
        clients_of_all_workers(sick).iter_mut().for_each(ask_twice);
    }
    let watch = LoopWatch::start(&sick.node);
    spoil(sick);
    // More that is dirty, in memory alone.
    client.put(&fid_path(1, FILES), &body[..4096]).expect(201);
    thread::scope(|scope| {
        let _mended = sick.disk.mended_at_last();
        // Who unmounts waits too where nobody else has the disk open.
        scope.spawn(|| sick.node.in_its_mounts("umount -l {dir}/dev1").unwrap());
        neighbours::are_untouched_for(&sick.node, WATCHED, &sick.name());
    });
    watch.end();
}

/// A connection for each device, which begins at the device's owner.
fn clients_of_all_workers(sick: &RealSick) -> Vec<Client> {
    let client = |device: u32| {
        let mut client = sick.node.client();
        client.get(&format!("/dev{device}/kept")).expect(200);
        client
    };
    (1..=4).map(client).collect()
}

/// What is asked for again stays open.
fn ask_twice(client: &mut Client) {
    for fid in [0, 0, 1, 1, FILES - 1, FILES - 1] {
        assert_eq!(client.get(&fid_path(1, fid)).expect(200).body.len(), SIZE);
        client.head(&fid_path(1, fid)).expect(200);
    }
}
