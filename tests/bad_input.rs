//! Garbage: random bytes and requests with something wrong in them, by the thousand.

use std::collections::BTreeSet;
use std::net::{Shutdown, SocketAddr};
use std::thread;

use crate::harness::{Client, Node, Setup, until};
use crate::load::{Chance, descriptors_at_rest, memory_at_rest};

const REQUESTS: usize = 20_000;
/// As many come before anything is measured: buffers grow and threads start once, a leak does not
/// stop growing.
const WARM_UP: usize = REQUESTS;
const THREADS: usize = 4;
/// On one connection, at most.
const IN_A_ROW: usize = 3;
/// How much a worker may have grown by the end.
const GROWTH: u64 = 768 * 1024;

/// Statuses without which the garbage would not be what it should.
const REACHED: [u16; 9] = [100, 200, 201, 204, 206, 400, 404, 501, 507];

/// What is damaged.
const WHOLE: [&str; 15] = [
    "GET /dev1/a HTTP/1.1\r\nHost: n\r\n\r\n",
    "GET /dev2/0/000/000/0000000001.fid HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "GET /dev1/a HTTP/1.1\r\nRange: bytes=3-7\r\n\r\n",
    "GET /dev1/a HTTP/1.1\r\nRange: bytes=-5\r\nIf-Range: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n",
    "GET /dev1/usage HTTP/1.0\r\nIf-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n",
    "HEAD http://node.example:7500//dev1/a HTTP/1.1\r\nConnection: TE, keep-alive\r\n\r\n",
    "DELETE /dev1/b HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
    "MKCOL /dev1/test-write/ HTTP/1.0\r\nConnection: Keep-Alive, keep-alive\r\n\r\n",
    "PUT /dev1/b HTTP/1.1\r\nContent-Length: 10\r\n\r\n0123456789",
    "PUT /dev2/c HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nabcd",
    "PUT /dev2/c HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
    "PUT /dev2/d HTTP/1.1\r\nContent-Length: 0\r\nContent-MD5: 1B2M2Y8AsgTpgAmY7PhCfg==\r\n\r\n",
    "PUT /dev1/e HTTP/1.1\r\nContent-Range: bytes 4-7/*\r\nContent-Length: 4\r\n\r\nabcd",
    "PUT /dev1/f HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\na;x=y\r\n0123456789\r\n0\r\n\r\n",
    "PUT /dev2/g HTTP/1.1\r\nTrailer: Content-MD5\r\nTransfer-Encoding: chunked\r\n\r\n\
     0\r\nContent-MD5: 1B2M2Y8AsgTpgAmY7PhCfg==\r\n\r\n",
];

/// More than any number of ours can be.
const HUGE: &str = "99999999999999999999";

/// What is put where it does not belong.
const STRANGE: [&str; 19] = [
    "\r\n",
    "\n",
    "\r",
    "\0",
    " ",
    ":",
    "/",
    "..",
    "%2e",
    "\r\n ",
    "\u{ff}",
    "-",
    "=",
    ";",
    "7fffffffffffffff",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Expect: 100-continue\r\n",
    "HTTP/1.1",
];

#[test]
fn garbage_leaves_no_trace() {
    let seed = Chance::seed();
    let node = Setup::new().workers("device").start();
    let at_rest = descriptors_at_rest(&node);
    throw(&node, WARM_UP, seed);
    let answers = questionnaire(&node);
    let memory = memory_at_rest(&node);
    let statuses = throw(&node, REQUESTS, seed + 1000);
    println!("answers: {statuses:?}");
    for status in REACHED {
        assert!(statuses.contains(&status), "no {status} among {statuses:?}: too blunt");
    }
    assert_eq!(questionnaire(&node), answers);
    assert!(node.all_events("worker_exited").is_empty());
    // Directories of devices are closed a second after their last use.
    until("all descriptors to be closed", || descriptors_at_rest(&node) <= at_rest);
    for (before, after) in memory.iter().zip(memory_at_rest(&node)) {
        println!("{before} bytes before, {after} after");
        assert!(after < before + GROWTH, "{before} bytes before, {after} after");
    }
}

/// Throws so many, and says which statuses came back.
fn throw(node: &Node, requests: usize, seed: u64) -> BTreeSet<u16> {
    node.store("/dev1/a", "something to read");
    let address = node.http();
    let throw_some = |thread| throw_some(address, requests / THREADS, Chance::new(seed + thread));
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..THREADS as u64).map(|thread| scope.spawn(move || throw_some(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no wrong answer")).collect()
    })
}

fn throw_some(address: SocketAddr, requests: usize, mut chance: Chance) -> BTreeSet<u16> {
    let mut left = requests;
    let mut statuses = BTreeSet::new();
    while left > 0 {
        let row = left.min(1 + chance.below(IN_A_ROW));
        left -= row;
        let garbage: Vec<_> = (0..row).map(|_| garbage(&mut chance)).collect();
        statuses.extend(one_connection(address, &garbage.concat(), &mut chance));
    }
    statuses
}

/// Whatever was sent, the node says something that is HTTP, or nothing, and then closes. One
/// client in ten goes away instead of listening.
fn one_connection(address: SocketAddr, sent: &[u8], chance: &mut Chance) -> BTreeSet<u16> {
    let mut client = Client::connect(address);
    let (first, second) = sent.split_at(chance.below(sent.len() + 1));
    let taken = client.try_send(first) && client.try_send(second);
    if chance.below(10) == 0 {
        client.reset();
        return BTreeSet::new();
    }
    if taken {
        // Fails when the node has closed already, which is its right.
        let _ = client.stream().shutdown(Shutdown::Write);
    }
    let said = client.rest();
    let (sent, said) = (String::from_utf8_lossy(sent), String::from_utf8_lossy(&said));
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 "), "{said:?} to {sent:?}");
    assert!(!said.contains("HTTP/1.1 500"), "{said:?} to {sent:?}");
    statuses_in(&said)
}

fn statuses_in(said: &str) -> BTreeSet<u16> {
    let answers = said.split("HTTP/1.1 ").skip(1);
    answers.filter_map(|answer| answer.get(..3)?.parse().ok()).collect()
}

fn garbage(chance: &mut Chance) -> Vec<u8> {
    if chance.below(10) == 0 {
        let length = chance.below(300);
        return chance.bytes(length);
    }
    let mut bytes = chance.pick(&WHOLE).as_bytes().to_vec();
    for _ in 0..chance.below(4) {
        damage(&mut bytes, chance);
    }
    bytes
}

fn damage(bytes: &mut Vec<u8>, chance: &mut Chance) {
    let at = chance.below(bytes.len());
    let end = (at + 1 + chance.below(12)).min(bytes.len());
    match chance.below(8) {
        0 if at < bytes.len() => bytes[at] = chance.next() as u8,
        1 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
        2 => bytes.truncate(at),
        3 => _ = bytes.drain(at..end),
        4 => {
            let most = if chance.below(50) == 0 { 20_000 } else { 40 };
            let again = bytes[at..end].repeat(1 + chance.below(most));
            bytes.splice(at..at, again);
        }
        5 => {
            let other = chance.pick(&WHOLE).as_bytes();
            bytes.splice(at.., other[chance.below(other.len())..].iter().copied());
        }
        6 => {
            let digit = bytes[at..].iter().position(u8::is_ascii_digit).map_or(at, |n| at + n);
            bytes.splice(digit..digit, HUGE.bytes());
        }
        _ => _ = bytes.splice(at..at, chance.pick(&STRANGE).bytes()),
    }
}

/// Answers of each kind, without what time changes in them.
fn questionnaire(node: &Node) -> Vec<String> {
    let mut client = node.client();
    let mut answers = vec![
        client.put("/dev1/asked", "0123456789"),
        client.get("/dev1/asked"),
        client.get_with("/dev1/asked", "Range: bytes=2-4\r\n"),
        client.get_with("/dev1/asked", "Range: bytes=20-\r\n"),
        client.head("/dev1/asked"),
        client.put_with("/dev2/asked", "Content-MD5: 1B2M2Y8AsgTpgAmY7PhCfg==\r\n", "x"),
        client.put_chunked("/dev2/asked", "", "3\r\nabc\r\n0\r\n\r\n"),
        client.get("/dev2/asked"),
        client.mkcol("/dev1/folder/"),
        client.delete("/dev1/asked"),
        client.get("/dev1/asked"),
        client.get("/dev1/../asked"),
        node.closes_after("GET dev1 HTTP/1.1\r\n\r\n", 400),
        node.closes_after("BREW / HTTP/1.1\r\n\r\n", 501),
    ];
    for answer in &mut answers {
        answer.headers.retain(|(name, _)| name != "Date" && name != "Last-Modified");
    }
    answers.iter().map(|answer| format!("{answer:?}")).collect()
}
