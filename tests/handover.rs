//! One connection goes back and forth between the owners of its devices.

use crate::harness::{Client, Setup, fid_path, until};
use crate::load::{descriptors_at_rest, total};

/// PUTs one by one, and as many again in batches.
const HALF: u64 = 5000;
const BATCH: u64 = 25;
/// Each file is replaced many times.
const FIDS: u64 = 50;

#[test]
fn a_connection_alternates_ten_thousand_times_between_owners() {
    let node = Setup::new().workers("device").start();
    let at_rest = descriptors_at_rest(&node);
    let mut client = node.client();
    for number in 0..HALF {
        client.put(&path(number), text(number)).expect_and(201, "keep-alive");
    }
    for first in (HALF..2 * HALF).step_by(BATCH as usize) {
        pipelined(&mut client, first);
    }
    let moved = total(&node, "handed_over");
    assert!(moved >= 2 * HALF - 1, "only {moved} hand-overs");
    for number in 2 * HALF - FIDS..2 * HALF {
        assert_eq!(node.content(&path(number)), text(number).as_bytes());
    }
    client.stays_open();
    drop(client);
    // Directories of devices are closed a second after their last use.
    until("all descriptors to be closed", || descriptors_at_rest(&node) <= at_rest);
    assert!(node.all_events("worker_exited").is_empty());
}

/// A batch in one go: each PUT is followed by a GET of what it wrote, then the next one replaces
/// a file on the other device. The bodies show the order.
fn pipelined(client: &mut Client, first: u64) {
    let requests: Vec<_> = (first..first + BATCH).map(put_and_get).collect();
    client.send(requests.concat());
    for number in first..first + BATCH {
        client.answer().expect_and(201, "keep-alive");
        let answer = client.answer().expect_and(200, "keep-alive");
        assert_eq!(String::from_utf8_lossy(&answer.body), text(number));
    }
}

fn put_and_get(number: u64) -> String {
    let (path, text) = (path(number), text(number));
    let length = text.len();
    format!(
        "PUT {path} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{text}\
         GET {path} HTTP/1.1\r\n\r\n"
    )
}

fn path(number: u64) -> String {
    fid_path(1 + (number % 2) as u32, number % FIDS)
}

fn text(number: u64) -> String {
    let filling = ".".repeat((number % 300) as usize);
    format!("the {number}th{filling}")
}

/// More connections than the owner has descriptors for: those without room wait in its inbox until
/// others have been closed, and are answered then.
#[test]
fn connections_handed_over_to_a_worker_without_descriptors_are_answered_all() {
    const CLIENTS: u64 = 70;
    let node = Setup::new().workers("device").shell("ulimit -n 64").start();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| node.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let path = fid_path(2, number as u64);
        client.send(format!("PUT {path} HTTP/1.1\r\nContent-Length: 2\r\n\r\nok"));
    }
    for (number, mut client) in clients.into_iter().enumerate() {
        let status = client.answer().status;
        assert!(matches!(status, 201 | 503), "client {number}: {status}");
    }
    assert!(node.all_events("worker_exited").is_empty());
    assert_eq!(node.logged("not whole"), 0);
}
