//! `statuslisten`: metrics and the status page, from a process of their own.

mod endpoints;
mod process;

use std::net::SocketAddr;
use std::path::Path;

use nix::unistd::Pid;

use crate::harness::{Answer, Client, Node, Setup};

const OPTION: &str = "--statuslisten=127.0.0.1:0";

/// The node that most of these tests use.
fn node() -> Node {
    watched(Setup::new().arg(OPTION))
}

/// Starts a node, and waits until its monitor has heard that it is ready.
fn watched(setup: Setup) -> Node {
    let node = setup.start();
    crate::harness::until("the monitor knows", || get(&node, "/readyz").status == 200);
    node
}

fn monitor(node: &Node) -> Client {
    Client::connect(node.address("status"))
}

fn get(node: &Node, path: &str) -> Answer {
    monitor(node).get(path)
}

fn text(answer: &Answer) -> String {
    String::from_utf8(answer.body.clone()).unwrap()
}

fn metrics(node: &Node) -> String {
    metrics_at(node.address("status"))
}

fn metrics_at(address: SocketAddr) -> String {
    text(&Client::connect(address).get("/metrics").expect(200))
}

/// The value of a sample, by its name and labels as they stand in the text.
fn sample(metrics: &str, name: &str) -> Option<f64> {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    metrics.lines().find_map(value)
}

fn status(node: &Node) -> serde_json::Value {
    serde_json::from_str(&text(&get(node, "/status.json").expect(200))).unwrap()
}

/// The monitor's process, from its last event.
fn pid(node: &Node) -> Pid {
    let started = node.all_events("monitor_started");
    Pid::from_raw(started.last().unwrap()["pid"].as_i64().unwrap() as i32)
}

fn is_there(pid: Pid) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
