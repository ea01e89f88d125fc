//! Large files: clients that are slow, stop or vanish, and the disk space that uploads take.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::statvfs::statvfs;

use crate::harness::{Client, Node, Setup, can_mount, fid_path, pattern, skipped, until};
use crate::load::{Chance, Ends, descriptors_at_rest, total};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// What the kernel is to hold for a client that reads slowly.
const WINDOW: usize = 16 * KIB;
/// What a client waits between two pieces.
const PAUSE: Duration = Duration::from_millis(2);
/// What a file may take beyond its content: its last block, and the map of its blocks.
const OVERHEAD: u64 = 64 * KIB as u64;

#[test]
fn a_large_file_arrives_whole_at_a_slow_client() {
    let node = Setup::new().workers("2").start();
    let lengths = [MIB, MIB + 1, 5 * MIB];
    for (fid, length) in lengths.iter().enumerate() {
        node.store(&fid_path(1, fid as u64), pattern(*length));
    }
    scope(|scope| {
        for (fid, length) in lengths.into_iter().enumerate() {
            for rests in [false, true] {
                let mut client = slow_client(&node);
                scope.spawn(move || check_slow_get(&mut client, fid as u64, length, rests));
            }
        }
    });
}

/// Two in a row, so that the first is known to have ended where it should.
fn check_slow_get(client: &mut Client, fid: u64, length: usize, rests: bool) {
    let request = format!("GET {} HTTP/1.1\r\n\r\n", fid_path(1, fid));
    let mut chance = Chance::new(fid);
    client.send(request.repeat(2));
    for most in [8 * KIB, 256 * KIB] {
        let answer = client.answer_to_head().expect(200);
        assert_eq!(answer.header("Content-Length"), Some(&*length.to_string()));
        let content = taken_in_pieces(client, length, most, rests, &mut chance);
        assert!(content == pattern(length), "{length} bytes differ");
    }
    client.stays_open();
}

fn taken_in_pieces(
    client: &mut Client,
    length: usize,
    most: usize,
    rests: bool,
    chance: &mut Chance,
) -> Vec<u8> {
    let mut content = Vec::new();
    while content.len() < length {
        let piece = (1 + chance.below(most)).min(length - content.len());
        content.extend(client.take(piece));
        if rests && content.len() > length / 2 && content.len() - piece <= length / 2 {
            sleep(Duration::from_millis(400));
        } else if chance.below(8) == 0 {
            sleep(PAUSE);
        }
    }
    content
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn a_client_that_reads_nothing_is_dropped_and_its_file_closed() {
    const TIMEOUT: Duration = Duration::from_millis(500);
    let node = Setup::new().workers("1").arg("--body-timeout=0.5").start();
    let at_rest = descriptors_at_rest(&node);
    node.store("/dev1/small", pattern(MIB));
    node.store("/dev1/large", pattern(16 * MIB));
    for (path, times) in [("/dev1/small", 16), ("/dev1/large", 1)] {
        let mut client = slow_client(&node);
        let begun = Instant::now();
        client.send(format!("GET {path} HTTP/1.1\r\n\r\n").repeat(times));
        client.take_through(b"\r\n\r\n");
        until("it to be dropped", || total(&node, "connections") == 0);
        let waited = begun.elapsed();
        assert!(waited > TIMEOUT * 9 / 10 && waited < 6 * TIMEOUT, "{path}: {waited:?}");
        assert!(client.rest().len() < 16 * MIB);
    }
    until("the files to be closed", || descriptors_at_rest(&node) <= at_rest);
}

#[test]
fn an_upload_in_odd_pieces_is_stored_whole_and_takes_no_more_room() {
    let node = patient_node();
    scope(|scope| {
        // Twice: a file that replaces another goes another way to its name. And one that takes
        // more than what is reserved at a time.
        for (fid, length, most, times) in
            [(1, MIB, 9001, 2), (2, 40 * MIB + 5, 400_001, 1), (3, 65 * MIB + 1, 4 * MIB, 1)]
        {
            let node = &node;
            scope.spawn(move || {
                (0..times).for_each(|_| check_slow_put(node, fid, length, most));
            });
        }
        scope.spawn(|| check_slow_chunks(&node, 4, MIB + 7, 9001));
    });
}

fn check_slow_put(node: &Node, fid: u64, length: usize, most: usize) {
    let (path, content) = (fid_path(1, fid), pattern(length));
    let mut client = node.client();
    client.send(format!("PUT {path} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n"));
    send_in_pieces(&mut client, &content, most, fid);
    client.answer().expect_and(201, "keep-alive");
    check_stored(node, &path, &content);
}

fn check_slow_chunks(node: &Node, fid: u64, length: usize, most: usize) {
    let (path, content) = (fid_path(1, fid), pattern(length));
    let mut chance = Chance::new(fid);
    let (mut coded, mut rest) = (Vec::new(), &content[..]);
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at((1 + chance.below(most)).min(rest.len()));
        coded.extend(format!("{:x}\r\n", chunk.len()).bytes().chain(chunk.iter().copied()));
        coded.extend(b"\r\n");
        rest = after;
    }
    coded.extend(b"0\r\n\r\n");
    let mut client = node.client();
    client.send(format!("PUT {path} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"));
    send_in_pieces(&mut client, &coded, most, fid);
    client.answer().expect_and(201, "keep-alive");
    check_stored(node, &path, &content);
}

fn send_in_pieces(client: &mut Client, mut rest: &[u8], most: usize, seed: u64) {
    let mut chance = Chance::new(seed);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at((1 + chance.below(most)).min(rest.len()));
        client.send(piece);
        sleep(PAUSE);
        rest = after;
    }
}

fn check_stored(node: &Node, path: &str, content: &[u8]) {
    let facts = fs::metadata(node.file(path)).unwrap();
    assert_eq!(facts.len(), content.len() as u64);
    let room = facts.blocks() * 512;
    assert!(room <= facts.len() + OVERHEAD, "{room} bytes taken by {}", facts.len());
    assert!(node.content(path) == content, "{path} differs");
}

#[test]
fn an_upload_whose_client_vanishes_leaves_neither_file_nor_loss_of_space() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    let node = small_disk("64m");
    node.client().put("/dev1/f/old", "old").expect(201);
    let before = free(&node);
    let body = pattern(3 * MIB);
    let counted = format!("Content-Length: {}\r\n\r\n", 40 * MIB);
    let chunked = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", 40 * MIB);
    for path in ["/dev1/f/old", "/dev1/f/new"] {
        for framing in [&counted, &chunked] {
            for resets in [false, true] {
                let mut client = node.client();
                client.send(format!("PUT {path} HTTP/1.1\r\n{framing}"));
                client.send(&body);
                until("the body to arrive", || free(&node) <= before - body.len() as u64);
                if resets {
                    client.reset();
                } else {
                    drop(client);
                }
                until("the space to be free", || free(&node) == before);
                assert_eq!(files(&node), ["old"]);
            }
        }
    }
    assert_eq!(node.client().get("/dev1/f/old").expect(200).body, b"old");
}

#[test]
fn a_body_that_does_not_fit_is_507_before_it_is_sent() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    let node = small_disk("16m");
    node.client().put("/dev1/f/old", "old").expect(201);
    let before = free(&node);
    for path in ["/dev1/f/old", "/dev1/f/new"] {
        let head = format!("PUT {path} HTTP/1.1\r\nContent-Length: {}\r\n\r\n", 100 * MIB);
        let mut client = node.client();
        client.send([head.as_bytes(), &pattern(1000)].concat());
        client.answer().expect_and(507, "close");
        client.finish_sending();
        client.closes();
        until("the space to be free", || free(&node) == before);
        assert_eq!(files(&node), ["old"]);
    }
    let mut client = node.client();
    assert_eq!(client.get("/dev1/f/old").expect(200).body, b"old");
    client.put("/dev1/f/new", pattern(8 * MIB)).expect_and(201, "keep-alive");
}

#[test]
fn a_body_that_stops_fitting_is_507_and_leaves_nothing() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    let node = small_disk("70m");
    let before = free(&node);
    let mut client = node.client();
    let length = 80 * MIB;
    client.send(format!("PUT /dev1/f/new HTTP/1.1\r\nContent-Length: {length}\r\n\r\n"));
    client.try_send(pattern(length));
    client.answer().expect_and(507, "close");
    until("the space to be free", || free(&node) == before);
    assert!(files(&node).is_empty());
}

/// More slow uploads than there are disk threads. What needs a disk thread beside them gets one.
#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn slow_uploads_do_not_keep_short_requests_waiting() {
    const UPLOADS: u64 = 12;
    const ROUNDS: u64 = 20;
    let node = patient_node();
    let cold = ColdFile::store(&node, "/dev1/cold");
    (0..ROUNDS).for_each(|n| node.store(&fid_path(1, n), "short-lived"));
    let mut client = node.client();
    let content = pattern(4 * MIB);
    let mut writers: Vec<_> = (0..UPLOADS).map(|_| node.client()).collect();
    for (n, writer) in writers.iter_mut().enumerate() {
        let length = content.len();
        writer.send(format!("PUT /dev1/w{n} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n"));
    }
    let measured = AtomicBool::new(false);
    let times = scope(|scope| {
        let trickle = scope.spawn(|| trickle(&mut writers, &content, &measured));
        let ends = Ends(&measured);
        until("the uploads to go on", || total(&node, "bytes_in") > UPLOADS * 16 * KIB as u64);
        let times = (0..ROUNDS).map(|n| short_requests(&mut client, &cold, n)).collect::<Vec<_>>();
        drop(ends);
        let slow = trickle.join().unwrap();
        assert!(slow < content.len(), "the uploads were over before the requests were");
        times.concat()
    });
    let late = times.iter().filter(|time| **time > Duration::from_millis(100)).count();
    // One in ten may be late: the disk and the processors have other users.
    assert!(late * 10 <= times.len(), "{times:?}");
    for (n, writer) in writers.iter_mut().enumerate() {
        writer.answer().expect_and(201, "keep-alive");
        assert!(node.content(&format!("/dev1/w{n}")) == content);
    }
}

/// Sends all bodies at once in small pieces until told to hurry; how far that was.
fn trickle(writers: &mut [Client], content: &[u8], hurry: &AtomicBool) -> usize {
    let pieces = content.chunks(2 * KIB).take_while(|_| !hurry.load(SeqCst));
    let mut slow = 0;
    for piece in pieces {
        writers.iter_mut().for_each(|writer| writer.send(piece));
        sleep(PAUSE / 2);
        slow += piece.len();
    }
    writers.iter_mut().for_each(|writer| writer.send(&content[slow..]));
    slow
}

/// A file that is not in memory, a name that is not, and a change.
fn short_requests(client: &mut Client, cold: &ColdFile, n: u64) -> Vec<Duration> {
    let timed = |(status, request): (u16, String)| {
        let begun = Instant::now();
        client.ask(request).expect(status);
        begun.elapsed()
    };
    sleep(5 * PAUSE);
    cold.chill();
    let requests = [
        (200, "GET /dev1/cold HTTP/1.1\r\n\r\n".to_owned()),
        (404, format!("GET /dev1/none{n} HTTP/1.1\r\n\r\n")),
        (204, format!("DELETE {} HTTP/1.1\r\n\r\n", fid_path(1, n))),
    ];
    requests.into_iter().map(timed).collect()
}

/// A file whose content only the disk has.
struct ColdFile(File);

impl ColdFile {
    fn store(node: &Node, path: &str) -> ColdFile {
        node.store(path, pattern(4 * KIB));
        let file = File::open(node.file(path)).unwrap();
        file.sync_data().unwrap();
        ColdFile(file)
    }

    /// The page cache gives up what is on the disk as well.
    fn chill(&self) {
        posix_fadvise(&self.0, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    }
}

/// A client for which the kernel holds little of what it has not read.
fn slow_client(node: &Node) -> Client {
    let client = node.client();
    setsockopt(client.stream(), sockopt::RcvBuf, &WINDOW).unwrap();
    client
}

/// Where others use the disk too, it may keep everybody waiting for seconds.
fn patient_node() -> Node {
    Setup::new().arg("--stall-timeout=60").start()
}

/// A node whose first device is so large, and has its usage file already.
fn small_disk(size: &str) -> Node {
    let mount = format!("mount -t tmpfs -o size={size} none {{dir}}/dev1");
    let node = Setup::new().env("MOG_DISK_USAGE_INTERVAL", "3600").mount(&mount).start();
    until("the usage file", || inside(&node, "/dev1/usage").exists());
    node
}

/// A path as the node's own mount namespace has it.
fn inside(node: &Node, path: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root{}", node.pid(), node.file(path).display()))
}

fn free(node: &Node) -> u64 {
    let numbers = statvfs(&inside(node, "/dev1")).unwrap();
    numbers.blocks_free() * numbers.fragment_size()
}

/// The names of all files on the first device, wherever they are.
fn files(node: &Node) -> Vec<String> {
    let found = node.in_its_mounts("find {dir}/dev1 -type f ! -name usage -printf '%f\\n'");
    found.unwrap().lines().map(str::to_owned).collect()
}
