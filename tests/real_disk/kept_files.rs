//! What a worker keeps open: it is looked at whenever it is used, so that what is done by hand is
//! seen at once; and it is let go, also while changes of other names are stuck.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::settle;
use crate::harness::real_disk::{FsKind, LoopWatch, Op, RealDisk, RealSick, Tree};
use crate::harness::{Client, MODES, Node, Setup, fid_path, skipped};
use crate::load::process;

const ROUNDS: usize = 20;

/// Asks from every worker, twice, so that all of them keep it open.
fn heat(clients: &mut [Client], path: &str) {
    for client in clients {
        for _ in 0..2 {
            client.get(path).expect(200);
            client.head(path).expect(200);
        }
    }
}

/// What is done by hand to the file, and what a GET gives then.
type ByHand = fn(&Path) -> Option<&'static str>;

const BY_HAND: [(&str, ByHand); 5] = [
    ("removed", |file| {
        fs::remove_file(file).unwrap();
        None
    }),
    ("grown", |file| {
        let mut file = File::options().append(true).open(file).unwrap();
        file.write_all(b" and more").unwrap();
        Some("first and more")
    }),
    ("cut", |file| {
        File::options().write(true).open(file).unwrap().set_len(2).unwrap();
        Some("fi")
    }),
    ("rewritten", |file| {
        fs::write(file, "other").unwrap();
        Some("other")
    }),
    ("replaced", |file| {
        let new = file.with_extension("new");
        fs::write(&new, "newer").unwrap();
        fs::rename(new, file).unwrap();
        Some("newer")
    }),
];

#[test]
fn what_is_done_by_hand_is_seen_at_once() {
    for workers in MODES {
        let node = Setup::new().devices(4).workers(workers).start();
        settle(&node);
        let mut clients = clients_of_all_workers(&node);
        for round in 0..ROUNDS {
            let (what, by_hand) = BY_HAND[round % BY_HAND.len()];
            let path = fid_path(1, round as u64);
            clients[0].put(&path, "first").expect(201);
            heat(&mut clients, &path);
            let expected = by_hand(&node.file(&path));
            for client in &mut clients {
                let who = format!("{what}, workers={workers}");
                let status = if expected.is_some() { 200 } else { 404 };
                let answer = client.head(&path);
                assert_eq!(answer.status, status, "{who}: {answer:?}");
                let answer = client.get(&path);
                assert_eq!(answer.status, status, "{who}: {answer:?}");
                if let Some(expected) = expected {
                    let body = String::from_utf8_lossy(&answer.body);
                    assert_eq!(body, expected, "{who}");
                }
            }
        }
    }
}

/// A connection for each device, which begins at the device's owner.
fn clients_of_all_workers(node: &Node) -> Vec<Client> {
    let client = |device: u32| {
        let mut client = node.client();
        client.get(&format!("/dev{device}/kept")).expect(200);
        client
    };
    (1..=4).map(client).collect()
}

// --- stuck changes of other names ---

const HOT: Tree = Tree { fids: 1..2000, size: 4096 };
const STUCK: u64 = 10;
const COLD: Tree = Tree { fids: 5000..5000 + STUCK, size: 4096 };
/// Longer than the device has to be found stalled.
const TIME: Duration = Duration::from_secs(4);
/// Of one turn, and of what else a node opens.
const FEW: usize = 300;

#[test]
fn stuck_deletes_leave_no_descriptors_of_other_files_behind() {
    for kind in [FsKind::Ext4, FsKind::Xfs] {
        if let Some(reason) = RealDisk::missing(kind) {
            skipped(&reason);
            continue;
        }
        std::thread::scope(|scope| {
            for workers in MODES {
                scope.spawn(move || delete(kind, workers));
            }
        });
    }
}

fn delete(kind: FsKind, workers: &'static str) {
    let fill = |device: &Path| {
        HOT.write(device);
        COLD.write(device);
    };
    // All of the device's disk threads will be stuck.
    let sick = RealSick::start(kind, workers, &["--stall-timeout=3"], fill);
    settle(&sick.node);
    let (hot, mut client) = (HOT.paths(1), sick.node.client());
    let before = descriptors(&sick) + hot.len(); // All of them may be kept.
    for _ in 0..3 {
        hot.iter().for_each(|path| drop(client.get(path).expect(200)));
    }
    let watch = LoopWatch::start(&sick.node);
    sick.disk.hang(&[Op::Read]);
    let mut deletes: Vec<_> = (0..STUCK).map(|_| sick.node.client()).collect();
    for (client, path) in deletes.iter_mut().zip(COLD.paths(1)) {
        client.send(format!("DELETE {path} HTTP/1.1\r\nConnection: close\r\n\r\n"));
    }
    sick.disk.wait_for_held(Op::Read, 1);
    let (begun, mut most, mut count) = (Instant::now(), 0, 0);
    for path in hot.iter().cycle().take_while(|_| begun.elapsed() < TIME) {
        let status = client.get(path).status;
        assert!(matches!(status, 200 | 503), "{}: {status}", sick.name());
        count += 1;
        if count % 100 == 1 {
            most = most.max(descriptors(&sick));
        }
    }
    println!("{}: {before} descriptors at most, {most} found, {count} GETs", sick.name());
    watch.end();
    sick.disk.mend();
    for client in &mut deletes {
        let mut end = Vec::new();
        // An answer, or a close where nobody knew.
        let _ = client.stream().read_to_end(&mut end);
        assert!(end.is_empty() || end.starts_with(b"HTTP/1.1 "), "{}", sick.name());
    }
    assert!(most < before + FEW, "{}: more than {before}: {most}", sick.name());
}

fn descriptors(sick: &RealSick) -> usize {
    sick.node.workers().into_iter().map(process::descriptors).sum()
}
