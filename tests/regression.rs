//! A test for each bug that reached the main branch.

use std::fs::File;

use nix::sys::signal::{Signal, kill};

use crate::harness::{Node, Setup, until};

/// Requests and lines that the node has taken so far.
fn requests(node: &Node) -> u64 {
    let status = node.status();
    let workers = status["workers"].as_array().unwrap();
    workers.iter().filter_map(|worker| worker["requests"].as_u64()).sum()
}

/// Sends a line whose answer is not waited for, and waits until the node has taken it.
fn leave_waiting(node: &Node, line: &str) -> crate::harness::Client {
    let before = requests(node);
    let mut client = node.sidechannel();
    client.send(line);
    until("the line was taken", || requests(node) > before);
    client
}

/// A file whose digest takes a while.
fn store_large(node: &Node, path: &str) {
    File::create(node.file(path)).and_then(|file| file.set_len(200 << 20)).unwrap();
}

#[test]
fn answer_before_a_line_that_is_too_long_goes_to_its_own_client() {
    let node = Setup::new().workers("1").start();
    let mut long = node.sidechannel();
    long.send([b"hello\n".as_slice(), &[b'x'; 5000]].concat());
    assert_eq!(long.line(), "ERROR: unknown command: hello\r\n");
    long.closes();
    node.client().get("/").expect(200);
}

#[test]
fn fsck_client_that_leaves_while_queued_does_not_end_the_queue() {
    let node = Node::start();
    store_large(&node, "/dev1/large");
    node.store("/dev1/a", "a");
    let mut first = leave_waiting(&node, "MD5 /dev1/large fsck\n");
    let queued = leave_waiting(&node, "MD5 /dev1/a fsck\n");
    let mut last = leave_waiting(&node, "MD5 /dev1/a fsck\n");
    queued.reset();
    assert!(first.line().starts_with("/dev1/large MD5="));
    assert_eq!(last.line(), "/dev1/a MD5=0cc175b9c0f1b6a831c399e269772661\r\n");
}

#[test]
fn fsck_client_that_leaves_during_its_digest_does_not_end_the_queue() {
    let node = Node::start();
    store_large(&node, "/dev1/large");
    node.store("/dev1/a", "a");
    let running = leave_waiting(&node, "MD5 /dev1/large fsck\n");
    let mut last = leave_waiting(&node, "MD5 /dev1/a fsck\n");
    running.reset();
    assert_eq!(last.line(), "/dev1/a MD5=0cc175b9c0f1b6a831c399e269772661\r\n");
}

#[test]
fn unwanted_chunked_body_past_the_limit_is_not_taken_for_requests() {
    let node = Node::start();
    let inside = "GET / HTTP/1.1\r\n\r\n".repeat(8192);
    for request in ["MKCOL /dev1/a", "GET /dev1/..", "DELETE /"] {
        let mut client = node.client();
        let size = inside.len();
        let head = format!("{request} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n");
        client.try_send(head + &inside);
        let answer = client.answer();
        assert!(matches!(answer.status, 400 | 403), "{request}: {answer:?}");
        assert_eq!(answer.header("Connection"), Some("close"), "{request}");
        client.closes();
    }
}

#[test]
fn devices_that_do_not_exist_cost_no_threads() {
    let node = Setup::new().workers("1").start();
    let mut client = node.client();
    for devid in 1000..1200 {
        client.get(&format!("/dev{devid}/a")).expect(404);
        client.put(&format!("/dev{devid}/a"), "x").expect(404);
    }
    let threads: usize = node
        .workers()
        .iter()
        .map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count())
        .sum();
    assert!(threads < 40, "{threads} threads");
}

/// A worker that goes alone gives its idle connections to the others, watchers included.
#[test]
fn connections_of_a_worker_that_is_replaced_live_on() {
    let node = Setup::new().workers("2").start();
    let mut clients: Vec<_> = (0..20).map(|_| node.client()).collect();
    clients.iter_mut().for_each(|client| client.stays_open());
    let mut watchers: Vec<_> = (0..4).map(|_| node.sidechannel()).collect();
    for watcher in &mut watchers {
        watcher.send("watch\n");
        until("a group", || watcher.line() == ".\n");
    }
    let worker = node.workers()[0];
    kill(worker, Signal::SIGQUIT).unwrap();
    node.event("worker_exited");
    clients.iter_mut().for_each(|client| client.stays_open());
    for watcher in &mut watchers {
        until("another group", || watcher.line() == ".\n");
    }
}
