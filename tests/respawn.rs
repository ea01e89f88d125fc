//! Workers that die are replaced.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Node, Setup, until};

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn a_killed_worker_is_replaced_and_reported() {
    let node = Setup::new().workers("1").start();
    let old = node.workers()[0];
    let seen = node.events.so_far().len();
    let begun = Instant::now();
    kill(old, Signal::SIGKILL).unwrap();
    let exited = node.event_after(seen, "worker_exited");
    assert_eq!(exited["pid"], old.as_raw());
    assert_eq!(exited["signal"], 9);
    assert!(exited["status"].is_null(), "{exited}");
    let started = node.event_after(seen, "worker_started");
    assert_eq!(started["worker"], exited["worker"]);
    assert_ne!(started["pid"], old.as_raw());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    node.client().stays_open();
    assert!(!Path::new(&format!("/proc/{old}")).exists(), "{old} is a zombie");
    node.logs("SIGKILL");
}

#[test]
fn the_last_path_of_a_killed_worker_is_reported() {
    let node = Setup::new().workers("1").start();
    node.client().get("/dev1/last").expect(404);
    kill(node.workers()[0], Signal::SIGKILL).unwrap();
    assert_eq!(node.event("worker_exited")["last_path"], "/dev1/last");
}

#[test]
fn the_node_serves_while_one_of_its_workers_dies_again_and_again() {
    let node = Setup::new().workers("2").start();
    for round in 0..4 {
        let seen = node.events.so_far().len();
        let victim = node.workers()[round % 2];
        kill(victim, Signal::SIGKILL).unwrap();
        node.event_after(seen, "worker_started");
        let path = format!("/dev{}/f{round}", 1 + round % 2);
        assert_eq!(node.client().put(&path, "x").status, 201);
        assert_eq!(node.client().get(&path).body, b"x");
    }
    assert_eq!(node.all_events("worker_exited").len(), 4);
    assert!(zombies_of(node.pid()).is_empty());
}

#[test]
fn connections_that_arrive_while_there_is_no_worker_are_served() {
    let node = Setup::new().workers("1").start();
    kill(node.workers()[0], Signal::SIGKILL).unwrap();
    let mut clients: Vec<_> = (0..10).map(|_| node.client()).collect();
    let served = clients.iter_mut().filter_map(|client| {
        client.try_send("GET / HTTP/1.0\r\n\r\n");
        client.rest().starts_with(b"HTTP/1.1 200").then_some(())
    });
    assert!(served.count() >= 8, "only what the dying worker held may be lost");
}

#[test]
fn only_the_connections_of_a_killed_worker_are_lost() {
    let node = Setup::new().workers("device").start();
    let mut clients: Vec<_> = (0..2).map(|_| node.client()).collect();
    for (device, client) in clients.iter_mut().enumerate() {
        client.put(&format!("/dev{}/a", device + 1), "x").expect(201);
    }
    kill(worker_of(&node, "dev1"), Signal::SIGKILL).unwrap();
    clients[0].closes();
    clients[1].stays_open();
    assert_eq!(clients[1].get("/dev2/a").body, b"x");
    until("dev1 to be served again", || node.client().get("/dev1/a").status == 200);
}

#[test]
fn a_worker_told_to_quit_drains_and_is_replaced() {
    let node = Setup::new().workers("1").start();
    let old = node.workers()[0];
    let mut client = node.client();
    let head = "PUT /dev1/a HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    client.ask(head).expect(100);
    let seen = node.events.so_far().len();
    kill(old, Signal::SIGQUIT).unwrap();
    client.send("a");
    client.ask("b").expect(201);
    let exited = node.event_after(seen, "worker_exited");
    assert_eq!(
        (exited["pid"].as_i64(), exited["status"].as_i64()),
        (Some(old.as_raw().into()), Some(0))
    );
    node.event_after(seen, "worker_started");
    node.client().stays_open();
}

#[test]
fn workers_ignore_usr2_and_hup() {
    let node = Setup::new().workers("1").start();
    let worker = node.workers()[0];
    kill(worker, Signal::SIGUSR2).unwrap();
    kill(worker, Signal::SIGHUP).unwrap();
    for _ in 0..20 {
        node.client().stays_open();
    }
    assert_eq!(node.workers(), [worker]);
}

#[test]
fn workers_go_when_their_master_is_gone() {
    let mut node = Setup::new().workers("2").start();
    let (workers, mut client) = (Orphans(node.workers()), node.client());
    client.stays_open();
    node.signal(Signal::SIGKILL);
    node.wait_for_exit();
    client.closes();
    until("the workers to be gone", || !workers.0.iter().any(is_running));
}

#[test]
fn a_new_device_gets_a_worker_and_a_removed_one_loses_it() {
    let node = Setup::new().workers("device").start();
    let seen = node.events.so_far().len();
    let begun = Instant::now();
    fs::create_dir(node.file("/dev7")).unwrap();
    let started = node.event_after(seen, "worker_started");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(started["devices"][0], "dev7", "{started}");
    until("dev7 to be served", || node.client().put("/dev7/a", "x").status == 201);
    let seen = node.events.so_far().len();
    fs::remove_dir_all(node.file("/dev7")).unwrap();
    assert_eq!(node.event_after(seen, "worker_exited")["pid"], started["pid"]);
    node.client().get("/dev7/a").expect(404);
    node.client().stays_open();
}

/// Processes that nobody else ends should they not go by themselves.
struct Orphans(Vec<Pid>);

impl Drop for Orphans {
    fn drop(&mut self) {
        for pid in self.0.iter().filter(|pid| is_running(pid)) {
            // An error means that it has just gone.
            let _ = kill(*pid, Signal::SIGKILL);
        }
    }
}

fn worker_of(node: &Node, device: &str) -> Pid {
    let status = node.status();
    let workers = status["workers"].as_array().expect("a list");
    let owns = |devices: &serde_json::Value| {
        devices.as_array().is_some_and(|list| list.iter().any(|name| name == device))
    };
    let found = workers.iter().find(|worker| owns(&worker["devices"]));
    Pid::from_raw(found.and_then(|worker| worker["pid"].as_i64()).expect("an owner") as i32)
}

/// True for a process that is there and no zombie: orphans may find no one to reap them.
fn is_running(pid: &Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

fn zombies_of(parent: Pid) -> Vec<String> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let children = children.unwrap_or_default();
    let pids = children.split_whitespace().map(|pid| Pid::from_raw(pid.parse().expect("a pid")));
    pids.filter(|pid| !is_running(pid)).map(|pid| pid.to_string()).collect()
}
