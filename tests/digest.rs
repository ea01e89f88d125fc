//! Digests: what they say, how fast, and fsck's queue.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use md5::{Digest, Md5};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::harness::{Client, DEADLINE, Node, Setup, pattern, shell, skipped, until};

const MIB: u64 = 1 << 20;
/// What ordinary questions may take while fsck's digests run, on a busy machine.
const PROMPTLY: Duration = Duration::from_secs(10);
/// A test build against OpenSSL's assembler: far below what a release build is held to.
const LEAST_SPEED: f64 = 0.5;

#[test]
fn digests_are_those_that_openssl_finds() {
    let node = Node::start();
    for length in [0, 1, 55, 64, 4096, 262_144, 262_145, (16 << 20) + 1] {
        node.store("/dev1/a", pattern(length));
        for (command, option) in [("MD5", "-md5"), ("SHA-1", "-sha1")] {
            let mut client = node.sidechannel();
            client.send(format!("{command} /dev1/a\r\n"));
            let digest = openssl(&node, option);
            assert_eq!(client.line(), format!("/dev1/a {command}={digest}\r\n"), "{length} bytes");
        }
    }
}

#[test]
fn a_file_that_may_not_be_read_is_no_digest() {
    let node = Setup::new().without_privilege().start();
    node.store("/dev1/secret", "x");
    shell(&format!("chmod 000 {}", node.file("/dev1/secret").display())).unwrap();
    let mut client = node.sidechannel();
    client.send("MD5 /dev1/secret\n");
    let answer = client.line();
    assert!(!answer.contains("MD5=9dd4e461268c8034f5c8564e155c67a6"), "{answer}");
    client.send("size /dev1/none\n");
    assert_eq!(client.line(), "/dev1/none -1\r\n");
}

#[test]
fn fsck_has_one_digest_per_device_at_a_time_in_order() {
    for workers in ["1", "device"] {
        let node = Setup::new().workers(workers).start();
        let files = large_files(&node, 12);
        let mut clients = queue_up(&node, &files);
        let (_, last) = clients.split_at_mut(11);
        others_are_served(&node, &mut last[0]);
        in_order(&mut clients, &files);
    }
}

#[test]
fn fsck_of_one_device_does_not_wait_for_that_of_another() {
    let node = Node::start();
    let files = large_files(&node, 6);
    node.store("/dev2/small", "hello");
    let mut clients = queue_up(&node, &files);
    let mut other = node.sidechannel();
    other.send("SHA-1 /dev2/small fsck\n");
    assert!(other.line().starts_with("/dev2/small SHA-1=aaf4"));
    assert!(clients[5].is_silent_for(Duration::from_millis(1)), "it waited");
    in_order(&mut clients, &files);
}

#[test]
fn clients_that_leave_fsck_s_queue_are_skipped() {
    let node = Node::start();
    let files = large_files(&node, 8);
    let mut clients = queue_up(&node, &files);
    // The first while its digest runs, the others while they wait.
    for (at, politely) in [(6, true), (4, false), (2, true), (0, false)] {
        let leaver = clients.remove(at);
        if politely { drop(leaver) } else { leaver.reset() }
    }
    let stayers: Vec<_> = [1, 3, 5, 7].iter().map(|at| files[*at].clone()).collect();
    in_order(&mut clients, &stayers);
    // The queue is whole again.
    let mut late = node.sidechannel();
    late.send(format!("MD5 {} fsck\n", files[7].path));
    assert_eq!(late.line(), files[7].answer());
}

#[test]
fn a_client_that_leaves_while_its_fsck_digest_is_sent_is_skipped() {
    let node = Setup::new().workers("1").start();
    let files = large_files(&node, 3);
    for _ in 0..20 {
        let mut leaver = node.sidechannel();
        leaver.send("MD5 /dev1/none fsck\n".repeat(50));
        leaver.reset();
    }
    let mut clients = queue_up(&node, &files);
    in_order(&mut clients, &files);
}

#[test]
fn one_connection_may_ask_for_many_fsck_digests() {
    let node = Node::start();
    node.store("/dev1/a", "hello");
    node.store("/dev2/b", "");
    let mut client = node.sidechannel();
    client.send("MD5 /dev1/a fsck\nMD5 /dev2/b fsck\nMD5 /dev1/no fsck\n".repeat(100));
    for _ in 0..100 {
        assert_eq!(client.line(), "/dev1/a MD5=5d41402abc4b2a76b9719d911017c592\r\n");
        assert_eq!(client.line(), "/dev2/b MD5=d41d8cd98f00b204e9800998ecf8427e\r\n");
        assert_eq!(client.line(), "/dev1/no MD5=-1\r\n");
    }
}

#[test]
fn queued_fsck_digests_are_finished_on_quit() {
    let mut node = Node::start();
    let files = large_files(&node, 6);
    let mut clients = queue_up(&node, &files);
    node.signal(Signal::SIGQUIT);
    node.event("draining");
    assert!(clients[5].is_silent_for(Duration::from_millis(1)), "over before the signal");
    in_order(&mut clients, &files);
    clients.iter_mut().for_each(Client::closes);
    drop(clients);
    assert_eq!(node.wait_for_exit().code(), Some(0));
}

#[test]
fn fsck_digests_have_lowered_disk_priority_and_others_have_not() {
    if shell("command -v ionice").is_err() {
        return skipped("no ionice");
    }
    let node = Setup::new().workers("1").start();
    let files = large_files(&node, 2);
    for (reason, low) in [(" fsck", true), ("", false)] {
        let mut client = node.sidechannel();
        client.send(format!("MD5 {}{reason}\n", files[0].path));
        let mut seen = false;
        until("a digest or its priority", || {
            seen |= disk_priorities(&node).iter().any(|class| is_low(class));
            seen && low || !client.is_silent_for(Duration::from_millis(1))
        });
        assert_eq!(seen, low, "with reason {reason:?}");
        assert_eq!(client.line(), files[0].answer());
        // The thread has its own again a moment after the answer.
        until("no low priority", || !disk_priorities(&node).iter().any(|class| is_low(class)));
    }
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn speed_is_of_the_order_of_openssl_s() {
    let node = Node::start();
    let size = 256 * MIB;
    sparse(&node, "/dev1/a", size);
    openssl(&node, "-md5");
    let mut best = [Duration::MAX; 2];
    for _ in 0..3 {
        let begun = Instant::now();
        let theirs = openssl(&node, "-md5");
        best[0] = best[0].min(begun.elapsed());
        let mut client = node.sidechannel();
        let begun = Instant::now();
        client.send("MD5 /dev1/a\n");
        assert_eq!(client.line(), format!("/dev1/a MD5={theirs}\r\n"));
        best[1] = best[1].min(begun.elapsed());
    }
    let [theirs, ours] = best.map(|time| (size / MIB) as f64 / time.as_secs_f64());
    println!("MD5: {ours:.0} MiB/s, openssl {theirs:.0} MiB/s, ratio {:.2}", ours / theirs);
    assert!(ours / theirs >= LEAST_SPEED, "{ours:.0} against {theirs:.0} MiB/s");
}

/// A file that takes a while, and its digest.
#[derive(Clone)]
struct Large {
    path: String,
    md5: String,
}

impl Large {
    fn answer(&self) -> String {
        format!("{} MD5={}\r\n", self.path, self.md5)
    }
}

/// Each smaller than the one before: side by side, the last would be done first.
fn large_files(node: &Node, count: u64) -> Vec<Large> {
    let sizes = (0..count).rev().map(|step| (16 + 4 * step) * MIB);
    let digests = digests_of_zeros(16 * MIB, 4 * MIB, count);
    let file = |size| {
        let path = format!("/dev1/l{size}");
        sparse(node, &path, size);
        Large { path, md5: digests[&size].clone() }
    };
    sizes.map(file).collect()
}

fn digests_of_zeros(first: u64, step: u64, count: u64) -> HashMap<u64, String> {
    let zeros = vec![0; MIB as usize];
    let mut hasher = Md5::new();
    let mut found = HashMap::new();
    let mut hashed = 0;
    for size in (0..count).map(|number| first + number * step) {
        while hashed < size {
            hasher.update(&zeros);
            hashed += MIB;
        }
        let digest = hasher.clone().finalize();
        found.insert(size, digest.iter().map(|byte| format!("{byte:02x}")).collect());
    }
    found
}

fn sparse(node: &Node, path: &str, size: u64) {
    File::create(node.file(path)).unwrap().set_len(size).unwrap();
}

/// One client per file, queued in the files' order: the node has counted each one's line before
/// the next one asks.
fn queue_up(node: &Node, files: &[Large]) -> Vec<Client> {
    let ask = |file: &Large| {
        let mut client = node.sidechannel();
        let before = requests(node);
        client.send(format!("MD5 {} fsck\n", file.path));
        until("the line to be looked at", || requests(node) > before);
        client
    };
    files.iter().map(ask).collect()
}

fn requests(node: &Node) -> u64 {
    let status = node.status();
    let workers = status["workers"].as_array().unwrap();
    workers.iter().map(|worker| worker["requests"].as_u64().unwrap()).sum()
}

/// While `waiting` still waits for its fsck digest, everything else has its answer.
fn others_are_served(node: &Node, waiting: &mut Client) {
    node.store("/dev1/small", "hello");
    let begun = Instant::now();
    let mut client = node.sidechannel();
    client.send("size /dev1/small\nMD5 /dev1/small\nSHA-1 /dev1/small\n");
    assert_eq!(client.line(), "/dev1/small 5\r\n");
    assert_eq!(client.line(), "/dev1/small MD5=5d41402abc4b2a76b9719d911017c592\r\n");
    assert!(client.line().starts_with("/dev1/small SHA-1="));
    assert_eq!(node.client().get("/dev1/small").expect(200).body, b"hello");
    assert_eq!(node.client().put("/dev1/put", "x").status, 201);
    let took = begun.elapsed();
    assert!(waiting.is_silent_for(Duration::from_millis(1)), "all digests were over before");
    assert!(took < PROMPTLY, "{took:?}");
}

/// Whenever one has its answer, all before it have theirs: the node sends each before it begins
/// the next one.
fn in_order(clients: &mut [Client], files: &[Large]) {
    let begun = Instant::now();
    loop {
        let ready = readable(clients);
        let first_without = ready.iter().position(|ready| !ready).unwrap_or(ready.len());
        assert!(!ready[first_without..].contains(&true), "out of order: {ready:?}");
        if first_without == ready.len() {
            break;
        }
        assert!(begun.elapsed() < DEADLINE, "no more answers after {ready:?}");
        wait_for(&clients[first_without]);
    }
    for (client, file) in clients.iter_mut().zip(files) {
        assert_eq!(client.line(), file.answer());
    }
}

/// Which have something to read, asked from the last to the first: an answer that comes in the
/// meantime makes nobody seem early.
fn readable(clients: &mut [Client]) -> Vec<bool> {
    let mut ready: Vec<bool> = clients
        .iter()
        .rev()
        .map(|client| {
            let mut asked = [PollFd::new(client.stream().as_fd(), PollFlags::POLLIN)];
            poll(&mut asked, PollTimeout::ZERO).unwrap() > 0
        })
        .collect();
    ready.reverse();
    ready
}

fn wait_for(client: &Client) {
    let mut asked = [PollFd::new(client.stream().as_fd(), PollFlags::POLLIN)];
    poll(&mut asked, PollTimeout::from(500_u16)).unwrap();
}

/// The digest of `/dev1/a`.
fn openssl(node: &Node, option: &str) -> String {
    let line = format!("openssl dgst -r {option} {}", node.file("/dev1/a").display());
    let output = shell(&line).unwrap();
    output.split(' ').next().unwrap().to_owned()
}

/// The I/O priorities of all disk threads.
fn disk_priorities(node: &Node) -> Vec<String> {
    let tasks = node
        .workers()
        .into_iter()
        .flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten());
    let disks = tasks.filter(|task| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("disk"))
    });
    let names = disks.map(|task| task.file_name().to_string_lossy().into_owned());
    names.filter_map(|tid| shell(&format!("ionice -p {tid}")).ok()).collect()
}

/// As ionice(1) words it: `idle`, or `best-effort: prio 7`.
fn is_low(class: &str) -> bool {
    class.starts_with("idle") || class.trim().ends_with("prio 7")
}
