//! Workers and nodes that leave while disk threads are stuck.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{BACK, answered, check_times, owner, owns, prepare, serves_again, stuck_clients};
use crate::chain::is_gone;
use crate::harness::{Client, Mode, Node, Sick, in_each_mode, until};

/// Threads per device, by default.
const THREADS: usize = 10;
const DRAIN: Duration = Duration::from_secs(2);
/// Time to stop, kill and reap, beyond `drain_timeout`, on a busy machine.
const MARGIN: Duration = Duration::from_secs(3);
/// The stall clock must not help.
const LEAVING: [&str; 2] = ["--drain-timeout=2", "--stall-timeout=60"];

#[test]
fn a_node_quits_though_threads_are_stuck_and_its_port_is_free() {
    in_each_mode(&LEAVING, |sick| {
        prepare(sick);
        let _stuck = stuck_threads(sick);
        let mut half = half_sent(&sick.node);
        let begun = Instant::now();
        sick.node.signal(Signal::SIGQUIT);
        sick.node.event("draining");
        half.ask("done").expect(201);
        until("the master to go", || is_gone(sick.node.pid()));
        let took = begun.elapsed();
        assert!(took < DRAIN + MARGIN, "workers={}: {took:?}", sick.workers);
        TcpListener::bind(sick.node.http()).expect("the port is free");
        TcpListener::bind(sick.node.address("mgmt")).expect("the port is free");
    });
}

#[test]
fn a_worker_is_replaced_though_threads_are_stuck() {
    for signal in [Signal::SIGQUIT, Signal::SIGKILL] {
        in_each_mode(&LEAVING, |sick| {
            prepare(sick);
            let _stuck = stuck_threads(sick);
            let mut half = (signal == Signal::SIGQUIT).then(|| half_sent(&sick.node));
            let old = owner(&sick.node, "dev1");
            let begun = Instant::now();
            kill(old, signal).unwrap();
            half.iter_mut().for_each(|half| drop(half.ask("done").expect(201)));
            until(&format!("another worker, {signal}, workers={}", sick.workers), || {
                sick.node
                    .all_events("worker_started")
                    .iter()
                    .any(|event| event["pid"] != old.as_raw() && owns(event, "dev1"))
            });
            let took = begun.elapsed();
            println!("workers={}, {signal}: replaced after {took:?}", sick.workers);
            assert!(took < DRAIN + MARGIN, "workers={}, {signal}: {took:?}", sick.workers);
            for _ in 0..10 {
                sick.node.client().put("/dev2/new", "new").expect(201);
            }
            let released = Instant::now();
            sick.disk.set(Mode::Work);
            serves_again(sick, released);
        });
    }
}

#[test]
fn a_new_worker_takes_over_a_stalled_device_as_stalled() {
    in_each_mode(&["--stall-timeout=1"], |sick| {
        prepare(sick);
        let _stuck = stuck_threads(sick);
        sick.node.event("device_stalled");
        let seen = sick.node.events.so_far().len();
        kill(owner(&sick.node, "dev1"), Signal::SIGKILL).unwrap();
        sick.node.event_after(seen, "worker_started");
        let ready = Instant::now();
        let mut times = Vec::new();
        while ready.elapsed() < BACK {
            let begun = Instant::now();
            sick.node.client().get("/dev1/kept").expect(503);
            sick.node.client().get("/dev1/usage").expect(503);
            times.push(begun.elapsed());
        }
        check_times("refusals by a new worker", &times);
        assert!(sick.node.all_events("device_recovered").is_empty());
        let released = Instant::now();
        sick.disk.set(Mode::Work);
        serves_again(sick, released);
        sick.node.event("device_recovered");
    });
}

#[test]
fn an_upgrade_does_not_wait_for_stuck_threads() {
    in_each_mode(&[&LEAVING[..], &["--pidfile={dir}/pid"]].concat(), |sick| {
        prepare(sick);
        let _stuck = stuck_threads(sick);
        let mut half = half_sent(&sick.node);
        sick.node.signal(Signal::SIGUSR2);
        let successor = Successor(sick.node.event("upgrade_ready"));
        let begun = Instant::now();
        sick.node.signal(Signal::SIGQUIT);
        half.ask("done").expect(201);
        until("the old master to go", || is_gone(sick.node.pid()));
        let took = begun.elapsed();
        assert!(took < DRAIN + MARGIN, "workers={}: {took:?}", sick.workers);
        for _ in 0..10 {
            sick.node.client().put("/dev2/new", "new").expect(201);
        }
        let released = Instant::now();
        sick.disk.set(Mode::Work);
        serves_again(sick, released);
        drop(successor);
    });
}

/// Those who waited for it have their answers by then; idle connections follow, in the usual time.
#[test]
fn an_upgrade_beside_a_stalled_device_is_as_quick_as_any() {
    in_each_mode(&["--stall-timeout=1", "--pidfile={dir}/pid"], |sick| {
        prepare(sick);
        let mut idle = [sick.node.client(), sick.node.client()];
        idle.iter_mut().for_each(Client::stays_open);
        let mut stuck = stuck_clients(sick, 30);
        sick.node.event("device_stalled");
        stuck.iter_mut().for_each(answered);
        sick.node.signal(Signal::SIGUSR2);
        let successor = Successor(sick.node.event("upgrade_ready"));
        let begun = Instant::now();
        sick.node.signal(Signal::SIGQUIT);
        until("the old master to go", || is_gone(sick.node.pid()));
        let took = begun.elapsed();
        println!("workers={}: gone after {took:?}", sick.workers);
        assert!(took < BACK, "workers={}: {took:?}", sick.workers);
        idle.iter_mut().for_each(Client::stays_open);
        idle[0].get("/dev1/kept").expect(503);
        sick.disk.set(Mode::Work);
        serves_again(sick, Instant::now());
        drop(successor);
    });
}

/// The new master, as its `upgrade_ready` event names it. Dropping this ends it.
struct Successor(Value);

impl Drop for Successor {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.0["pid"].as_i64().unwrap_or_default() as i32);
        // The second makes it leave at once; an error means that it has gone.
        for _ in 0..2 {
            let _ = kill(pid, Signal::SIGTERM);
        }
        until("the successor to go", || is_gone(pid));
    }
}

/// A PUT to dev2 that lacks its last bytes.
fn half_sent(node: &Node) -> Client {
    let mut client = node.client();
    let head = "PUT /dev2/half HTTP/1.1\r\nContent-Length: 8\r\nExpect: 100-continue\r\n\r\n";
    client.ask(head).expect(100);
    client.send("half");
    client
}

/// Clients that hold all disk threads of dev1.
fn stuck_threads(sick: &Sick) -> Vec<Client> {
    let clients = stuck_clients(sick, 2 * THREADS);
    until("all threads to be stuck", || {
        let waiting = sick.node.status()["devices"][0]["in_flight"].as_u64();
        waiting >= Some(clients.len() as u64) && sick.disk.held() > 0
    });
    clients
}
