//! A disk is stalled when an operation takes `stall_timeout` *and none completes for as long*:
//! however long its queue, while it serves it is not.

use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use super::{ready, settle, writes};
use crate::harness::real_disk::{FsKind, Op, RealDisk, RealSick, Tree};
use crate::harness::{Client, MODES, Node, fid_path, skipped};
use crate::load::Ends;

/// Uploads to a disk of so many bytes per second.
struct Uploads {
    bandwidth: u64,
    count: u64,
    size: usize,
    stall_timeout: &'static str,
    aio_threads: &'static str,
}

/// Shorter where nobody has patience: then everything is so, `stall_timeout` too.
fn is_long() -> bool {
    std::env::var_os("RMOGSTORED_LONG").is_some()
}

fn uploads(bandwidth: u64, count: u64, aio_threads: &'static str) -> Uploads {
    let (size, stall_timeout) = if is_long() { (80_000_000, "5") } else { (20_000_000, "1") };
    Uploads { bandwidth, count, size, stall_timeout, aio_threads }
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn twelve_uploads_to_a_disk_of_twenty_megabytes_per_second() {
    upload(&uploads(20_000_000, 12, "10"));
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn thirty_uploads_to_a_disk_of_sixty_megabytes_per_second() {
    upload(&uploads(60_000_000, 30, "10"));
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn thirty_uploads_with_forty_threads() {
    upload(&uploads(60_000_000, 30, "40"));
}

fn upload(uploads: &Uploads) {
    if let Some(reason) = RealDisk::missing(FsKind::Ext4) {
        return skipped(&reason);
    }
    thread::scope(|scope| {
        for workers in MODES {
            scope.spawn(move || upload_in(uploads, workers));
        }
    });
}

fn upload_in(uploads: &Uploads, workers: &'static str) {
    let disk = RealDisk::make(FsKind::Ext4, 4096);
    let stall_timeout = format!("--stall-timeout={}", uploads.stall_timeout);
    let aio_threads = format!("--aio-threads={}", uploads.aio_threads);
    let sick = RealSick::start_on(disk, workers, &[&stall_timeout, &aio_threads]);
    settle(&sick.node);
    sick.disk.bandwidth(uploads.bandwidth);
    let (begun, over) = (Instant::now(), AtomicBool::new(false));
    let (polls, small) = thread::scope(|scope| {
        let _mended = sick.disk.mended_at_last();
        let _end = Ends(&over);
        let node = &sick.node;
        let tracker = scope.spawn(|| poll_usage(node, &over));
        let smalls = scope.spawn(|| put_small(node, &over));
        let uploader = |fid| scope.spawn(move || put_large(node, fid, uploads.size));
        let uploaders: Vec<_> = (0..uploads.count).map(uploader).collect();
        uploaders.into_iter().for_each(|uploader| uploader.join().unwrap());
        over.store(true, Relaxed);
        (tracker.join().unwrap(), smalls.join().unwrap())
    });
    let stalls = sick.node.all_events("device_stalled").len();
    let refused = |statuses: &[u16]| statuses.iter().filter(|status| **status == 503).count();
    println!(
        "{}: {:?}, {stalls} stalls, {} of {} polls and {} of {} small PUTs refused",
        sick.name(),
        begun.elapsed(),
        refused(&polls),
        polls.len(),
        refused(&small),
        small.len()
    );
    assert_eq!((stalls, refused(&polls), refused(&small)), (0, 0, 0), "{}", sick.name());
    assert!(polls.len() > 10, "{polls:?}");
}

fn put_large(node: &Node, fid: u64, size: usize) {
    let mut client = patient(node);
    let piece = vec![7; 1 << 20];
    client.send(format!("PUT {} HTTP/1.1\r\nContent-Length: {size}\r\n\r\n", fid_path(1, fid)));
    let mut left = size;
    while left > 0 {
        let part = left.min(piece.len());
        client.send(&piece[..part]);
        left -= part;
    }
    client.answer().expect(201);
}

/// For one that has a slow disk to itself.
fn patient(node: &Node) -> Client {
    let client = node.client();
    let patience = Some(Duration::from_secs(120));
    client.stream().set_read_timeout(patience).unwrap();
    client.stream().set_write_timeout(patience).unwrap();
    client
}

fn poll_usage(node: &Node, over: &AtomicBool) -> Vec<u16> {
    let (mut client, mut statuses) = (node.client(), Vec::new());
    while !over.load(Relaxed) {
        statuses.push(client.get("/dev1/usage").status);
        thread::sleep(Duration::from_millis(100)); // The pace.
    }
    statuses
}

fn put_small(node: &Node, over: &AtomicBool) -> Vec<u16> {
    let (mut number, mut statuses) = (0, Vec::new());
    while !over.load(Relaxed) {
        number += 1;
        statuses.push(patient(node).put(&format!("/dev1/small{number}"), "small").status);
        thread::sleep(Duration::from_millis(300)); // The pace.
    }
    statuses
}

// --- one that serves some and hangs others ---

const SIZE: usize = 4096;
const STALL: Duration = Duration::from_secs(1);
/// The rule's: an operation that has been stuck for so many times `stall_timeout` is given up.
const GIVEN_UP: u32 = 6;
/// The clock that looks at it, and a busy machine.
const MARGIN: Duration = Duration::from_secs(2);

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn a_disk_that_serves_four_of_ten_is_not_stalled_and_the_others_are_given_up() {
    let tree = Tree { fids: 1..3000, size: SIZE };
    for kind in [FsKind::Ext4, FsKind::Xfs] {
        if let Some(reason) = RealDisk::missing(kind) {
            skipped(&reason);
            continue;
        }
        thread::scope(|scope| {
            for workers in MODES {
                let tree = &tree;
                scope.spawn(move || {
                    let args = ["--stall-timeout=1"];
                    let sick = RealSick::start(kind, workers, &args, writes(tree));
                    ready(&sick, tree);
                    serve_some(&sick, tree);
                });
            }
        });
    }
}

/// Six of ten disk threads are stuck; the rest serve.
fn serve_some(sick: &RealSick, tree: &Tree) {
    let mut paths = tree.paths(1).into_iter();
    let over = AtomicBool::new(false);
    sick.disk.hang_next(Op::Read, 6);
    let together = Barrier::new(6);
    let stuck: Vec<_> = paths.by_ref().take(6).collect();
    let (answers, polls) = thread::scope(|scope| {
        let _mended = sick.disk.mended_at_last();
        let _end = Ends(&over);
        let tracker = scope.spawn(|| poll_usage(&sick.node, &over));
        let stuck: Vec<_> = stuck
            .iter()
            .map(|path| scope.spawn(|| (together.wait(), time_of(&sick.node, path)).1))
            .collect();
        sick.disk.wait_for_held(Op::Read, 6);
        let (begun, mut client) = (Instant::now(), sick.node.client());
        while begun.elapsed() < GIVEN_UP * STALL + MARGIN {
            client.get(&paths.next().expect("enough of them")).expect(200);
            thread::sleep(Duration::from_millis(20)); // The pace.
        }
        assert_eq!(sick.disk.held(Op::Read), 6, "they hang still");
        assert!(stuck.iter().all(|client| client.is_finished()), "{}: no answer", sick.name());
        over.store(true, Relaxed);
        let answers: Vec<_> = stuck.into_iter().map(|client| client.join().unwrap()).collect();
        (answers, tracker.join().unwrap())
    });
    println!("{}: {answers:?}", sick.name());
    assert!(sick.node.all_events("device_stalled").is_empty(), "{}", sick.name());
    assert!(polls.iter().all(|status| *status == 200), "{}: {polls:?}", sick.name());
    for (status, took) in answers {
        assert_eq!(status, 503, "{}", sick.name());
        assert!(took > (GIVEN_UP - 1) * STALL, "{}: given up after {took:?}", sick.name());
    }
}

fn time_of(node: &Node, path: &str) -> (u16, Duration) {
    let asked = Instant::now();
    let status = patient(node).get(path).status;
    (status, asked.elapsed())
}
