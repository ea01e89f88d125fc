//! A chunk extension that never ends: it counts against limits and turns as all bytes do, and a
//! peer who sends slowly does not make a disk look stalled.

use std::io::Write;
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::{Duration, Instant};

use super::neighbours;
use crate::harness::{MODES, Node, Setup, fid_path};
use crate::load::{Ends, process};

const CLIENTS: usize = 8;
/// PROTOCOL.md section 2.4: extensions of 16 MiB; and what the sockets of both sides hold.
const MOST: u64 = (16 << 20) + (12 << 20);
/// Several times `stall_timeout`.
const TIME: Duration = Duration::from_secs(3);
/// The clients are on the same machine: what a quarter of the turns keep is the node's own.
const TURNS: usize = 12;
const P99: Duration = Duration::from_millis(10);
/// Devices whose files the others ask for: the one that suffers, and another.
const OTHERS: [u32; 2] = [2, 1];

const GET: &str = "GET /dev1/kept HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;";
const PUT: &str = "PUT /dev1/new HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;";

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn eight_on_an_unwanted_body_harm_nobody() {
    in_each_mode(|node, workers| flood(node, workers, GET));
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn eight_on_a_put_harm_nobody() {
    in_each_mode(|node, workers| flood(node, workers, PUT));
}

#[test]
fn slow_ones_do_not_make_a_device_look_stalled() {
    in_each_mode(|node, workers| {
        let mut slow: Vec<_> = (0..CLIENTS).map(|_| node.client()).collect();
        slow.iter_mut().for_each(|client| client.send(PUT));
        let (begun, mut others) = (Instant::now(), node.client());
        while begun.elapsed() < TIME {
            slow.iter_mut().for_each(|client| {
                client.try_send("x");
            });
            others.get("/dev1/usage").expect(200);
            others.put("/dev1/other", "other").expect(201);
            thread::sleep(Duration::from_millis(20)); // What makes them slow.
        }
        never_stalled(node, workers);
    });
}

/// One mode after the other, for times are taken.
fn in_each_mode(test: impl Fn(&Node, &str)) {
    for workers in MODES {
        let node = Setup::new().devices(4).workers(workers).arg("--stall-timeout=1").start();
        super::settle(&node);
        test(&node, workers);
    }
}

fn flood(node: &Node, workers: &str, head: &str) {
    OTHERS
        .iter()
        .for_each(|device| drop(node.client().put(&fid_path(*device, 1), "kept").expect(201)));
    let memory = || node.workers().into_iter().map(process::private_memory).sum::<u64>();
    let (before, over, most) = (memory(), AtomicBool::new(false), AtomicU64::new(0));
    let p99 = thread::scope(|scope| {
        let _end = Ends(&over);
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    most.fetch_max(send_until_closed(node, head, &over), Relaxed);
                }
            });
        }
        favour_this_thread();
        let mut turns: Vec<_> = (0..TURNS).map(|_| p99_of_a_turn(node)).collect();
        turns.sort();
        turns[TURNS / 4]
    });
    let (after, most) = (memory(), most.load(Relaxed));
    println!("workers={workers}: p99 {p99:?}, swallowed {most}, memory {before} then {after}");
    never_stalled(node, workers);
    assert!(most < MOST, "workers={workers}: {most} bytes of one extension were taken");
    assert!(after < before + (8 << 20), "workers={workers}: {before} then {after}");
    assert!(p99 < P99, "workers={workers}: {p99:?}");
}

/// Eight threads that send all they can are in its way too: what is looked for is how long the node
/// takes. Root only.
fn favour_this_thread() {
    let thread = nix::unistd::gettid().to_string();
    let _ = Command::new("renice").args(["-n", "-15", "-p", &thread]).output();
}

fn p99_of_a_turn(node: &Node) -> Duration {
    let (begun, mut times) = (Instant::now(), Vec::new());
    let mut client = neighbours::client(node);
    while begun.elapsed() < TIME / TURNS as u32 {
        let asked = Instant::now();
        OTHERS.iter().for_each(|device| drop(client.get(&fid_path(*device, 1)).expect(200)));
        times.push(asked.elapsed() / OTHERS.len() as u32);
        thread::sleep(Duration::from_millis(2)); // The pace.
    }
    times.sort();
    times[times.len() * 99 / 100]
}

fn send_until_closed(node: &Node, head: &str, over: &AtomicBool) -> u64 {
    let client = node.client();
    let mut stream = client.stream();
    // A node that does not read is as good as one that closes.
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let (mut sent, junk) = (0, [b'x'; 64 << 10]);
    if stream.write_all(head.as_bytes()).is_err() {
        return 0;
    }
    while let Ok(length) = stream.write(&junk) {
        sent += length as u64;
        if over.load(Relaxed) {
            break;
        }
    }
    sent
}

fn never_stalled(node: &Node, workers: &str) {
    let stalls = node.all_events("device_stalled");
    assert!(stalls.is_empty(), "workers={workers}: {stalls:?}");
}
