//! SIGHUP and SIGWINCH: new workers beside the old, and none at all.

use std::fs;
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::chain::Load;
use crate::harness::{Client, Node, Setup, pattern, until};

/// The configuration of these tests; what is in the file is not on the command line.
const BASE: &str = "docroot = {dir}\nmgmtlisten = 127.0.0.1:0\nstatus_socket = {dir}/status.sock\n";

fn start(more: &str) -> Node {
    let text = format!("{BASE}httplisten = 127.0.0.1:0\n{more}");
    Setup::bare().arg(crate::harness::STATUS_FD).config(&text).start()
}

fn rewrite(node: &Node, text: &str) {
    let dir = node.docroot().to_str().unwrap();
    let text = format!("{BASE}{text}").replace("{dir}", dir);
    fs::write(node.docroot().join("node.conf"), text).unwrap();
}

/// HUP, and the first event of this kind after it.
fn reload(node: &Node, kind: &str) -> Value {
    let seen = node.events.so_far().len();
    node.signal(Signal::SIGHUP);
    node.event_after(seen, kind)
}

fn generations(node: &Node) -> Vec<u64> {
    let status = node.status();
    let workers = status["workers"].as_array().unwrap().iter();
    workers.map(|worker| worker["generation"].as_u64().unwrap()).collect()
}

/// Each of these workers drains, or has gone already. The node's status tells what the master has
/// said to them; the title changes once a worker has heard it.
fn drain(workers: &[Pid]) -> bool {
    workers.iter().all(|pid| {
        let title = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        title.is_empty() || title.contains("shutting down")
    })
}

#[test]
fn reload_replaces_the_workers_and_keeps_ports_and_requests() {
    let node = start("");
    let before = node.workers();
    let mut half = node.client();
    half.ask("PUT /dev1/a HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    rewrite(&node, "httplisten = 127.0.0.1:0\nmaxconns = 77\nbody_timeout = 7\n");
    assert_eq!(reload(&node, "reloaded")["generation"], 2);
    assert_eq!(node.status()["generation"], 2);
    until("the old workers to drain", || drain(&before));
    half.send("a");
    half.ask("b").expect_and(201, "keep-alive");
    until("the old workers to go", || generations(&node) == [2, 2]);
    half.stays_open();
    assert!(node.workers().iter().all(|pid| !before.contains(pid)));
    node.client().stays_open();
    assert_eq!(node.all_events("listening").len(), 2, "nothing was bound anew");
}

#[test]
fn reloads_under_load_are_not_noticed() {
    let node = start("");
    let load = Load::start(&node, 4);
    for _ in 0..20 {
        load.goes_on();
        reload(&node, "reloaded");
    }
    load.saw_nothing();
    until("the old workers to go", || generations(&node) == [21, 21]);
}

#[test]
fn maxconns_and_timeouts_are_those_of_the_new_file() {
    let node = start("workers = 1\n");
    rewrite(&node, "httplisten = 127.0.0.1:0\nworkers = 1\nheader_timeout = 200ms\nmaxconns = 2\n");
    reload(&node, "reloaded");
    until("the old workers to go", || generations(&node) == [2]);
    let mut slow = node.client();
    slow.send("GET / HT");
    slow.closes();
    let mut clients: Vec<Client> = (0..2).map(|_| node.client()).collect();
    clients.iter_mut().for_each(Client::stays_open);
    let mut third = node.client();
    third.send("GET / HTTP/1.1\r\n\r\n");
    assert!(third.is_silent_for(Duration::from_millis(300)), "maxconns is not 2");
    drop(clients);
    third.answer().expect(200);
}

#[test]
fn listener_that_moves_serves_at_its_new_port_and_not_at_the_old() {
    let node = start("");
    let old = node.http();
    rewrite(&node, "httplisten = 127.0.0.2:0\nhttpgetlisten = 127.0.0.1:0\n");
    let seen = node.events.so_far().len();
    reload(&node, "reloaded");
    let address = |service: &str| {
        let lines = &node.events.so_far()[seen..];
        let events = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut events = events.filter(|e| e["event"] == "listening" && e["service"] == service);
        events.next().unwrap()["address"].as_str().unwrap().parse().unwrap()
    };
    Client::connect(address("http")).put("/dev1/a", "x").expect(201);
    let mut readonly = Client::connect(address("httpget"));
    readonly.get("/dev1/a").expect(200);
    until("the old port to be closed", || TcpStream::connect(old).is_err());
    let mut side = node.sidechannel();
    side.send("size /dev1/a\r\n");
    assert_eq!(side.line(), "/dev1/a 1\r\n");
}

#[test]
fn docroot_is_added_and_removed_with_multi() {
    let first = "docroot = {dir}\nhttplisten = 127.0.0.1:0\nstatus_socket = {dir}/status.sock\n";
    let second = "docroot = {dir}/two\nhttplisten = 127.0.0.1:0\n";
    let setup = Setup::bare().arg(crate::harness::STATUS_FD).arg("--multi");
    fs::create_dir_all(setup.folder().join("two/dev9")).unwrap();
    // The second file is the first docroot's again: that is refused, so it must differ from start.
    let node = setup.config_named("one.conf", first).config_named("two.conf", second).start();
    let dir = node.docroot().to_str().unwrap().to_owned();
    fs::create_dir_all(node.docroot().join("three/dev5")).unwrap();
    fs::write(
        node.docroot().join("two.conf"),
        format!("docroot = {dir}/three\nhttplisten = 127.0.0.1:0\n"),
    )
    .unwrap();
    let load = Load::start(&node, 2);
    reload(&node, "reloaded");
    load.saw_nothing();
    let status = node.status();
    let listeners = status["listeners"].as_array().unwrap();
    let three = format!("{dir}/three");
    let added = listeners.iter().find(|listener| listener["docroot"] == three.as_str()).unwrap();
    let mut client = Client::connect(added["address"].as_str().unwrap().parse().unwrap());
    client.put("/dev5/a", pattern(1000)).expect(201);
    assert_eq!(fs::read(format!("{three}/dev5/a")).unwrap(), pattern(1000));
    client.put("/dev9/a", "x").expect(404);
    let devices: Vec<_> = status["devices"].as_array().unwrap().iter().collect();
    assert!(devices.iter().all(|device| device["device"] != "dev9"), "{devices:?}");
}

#[test]
fn broken_file_changes_nothing_and_is_named() {
    let node = start("");
    let before = node.workers();
    rewrite(&node, "httplisten = 127.0.0.1:0\nmaxconns = none\n");
    let failed = reload(&node, "reload_failed");
    assert!(failed["reason"].as_str().unwrap().contains("maxconns: 'none'"), "{failed}");
    assert!(node.logs("reload failed").contains("node.conf:"));
    assert_eq!(node.logged("maxconns: 'none'"), 1);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    rewrite(&node, &format!("httplisten = {}\n", taken.local_addr().unwrap()));
    let failed = reload(&node, "reload_failed");
    assert!(failed["reason"].as_str().unwrap().contains("cannot listen on"), "{failed}");
    assert_eq!(node.workers(), before);
    node.client().stays_open();
    rewrite(&node, "httplisten = 127.0.0.1:0\n");
    reload(&node, "reloaded");
}

#[test]
fn winch_sends_the_workers_home_and_hup_brings_new_ones() {
    let node = start("");
    let mut half = node.client();
    half.ask("GET / HTTP/1.1\r\n\r\nGET / HT").expect(200);
    node.signal(Signal::SIGWINCH);
    node.event("resting");
    half.ask("TP/1.1\r\n\r\n").expect(200);
    until("the workers to go", || node.workers().is_empty());
    assert_eq!(node.status()["state"], "resting");
    let mut waiting = node.client();
    waiting.send("GET / HTTP/1.1\r\n\r\n");
    // With a broken file there are workers again all the same.
    rewrite(&node, "maxconns = none\n");
    reload(&node, "reloaded");
    waiting.answer().expect(200);
    assert_eq!(node.status()["state"], "running");
}

#[test]
fn quit_ends_a_resting_node() {
    let mut node = start("");
    node.signal(Signal::SIGWINCH);
    node.event("resting");
    node.signal(Signal::SIGQUIT);
    assert_eq!(node.wait_for_exit().code(), Some(0));
}

#[test]
fn workers_that_die_in_a_reload_are_replaced() {
    let node = start("");
    for _ in 0..5 {
        let victim = node.workers()[0];
        node.signal(Signal::SIGHUP);
        let _ = kill(victim, Signal::SIGKILL);
        node.client().stays_open();
    }
    until("the newest generation alone", || {
        let all = generations(&node);
        all.len() == 2 && all.iter().all(|generation| *generation >= 2)
    });
    node.client().stays_open();
}
