//! The tests.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use serde_json::json;

use crate::harness::{Node, Setup, address, pid_in};

macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        /// Every test with its name.
        pub const ALL: &[(&str, fn())] = &[$((stringify!($name), $name)),*];
    };
}

tests! {
    node_is_ready_then_drains_and_exits_0,
    killed_workers_are_replaced_and_leave_no_zombie,
    worker_that_quits_is_replaced_without_counting_as_crashed,
    worker_that_keeps_crashing_is_respawned_with_growing_delay,
    worker_that_fails_at_the_start_fails_the_node,
    stubborn_worker_is_killed_after_the_drain_timeout,
    second_term_ends_it_at_once,
    sidechannel_shutdown_is_a_quit,
    aio_threads_reach_every_worker,
    loss_of_the_master_is_seen_by_every_worker,
    worker_holds_only_what_is_its_own,
    new_device_gets_a_worker_and_a_removed_one_loses_it,
    stall_and_recovery_of_a_device_are_told,
    status_socket_shows_the_node_and_is_removed,
    inherited_listener_is_taken_over,
    bad_inherited_descriptors_end_the_start,
    address_in_use_ends_the_start_before_any_fork,
}

fn count(events: &[serde_json::Value], kind: &str) -> usize {
    events.iter().filter(|event| event["event"] == kind).count()
}

fn node_is_ready_then_drains_and_exits_0() {
    let (mut node, before) = Setup::default().ready();
    let address = address(&before);
    assert_eq!(before[0]["event"], "listening");
    assert_eq!(before[0]["service"], "http");
    assert_eq!(before[0]["docroot"], node.folder.path().to_str().unwrap());
    assert_eq!(count(&before, "worker_started"), 2);
    assert_eq!(node.says("on_ready"), format!("on_ready: {address}"));
    TcpStream::connect(address).unwrap();
    node.signal(Signal::SIGTERM);
    node.until("draining");
    let (_, exits) = node.until("stopped");
    assert_eq!(count(&exits, "worker_exited"), 2);
    assert!(exits.iter().all(|exit| exit["status"] == 0 && exit["signal"].is_null()));
    assert_eq!(node.ended(), Some(0));
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

fn killed_workers_are_replaced_and_leave_no_zombie() {
    let (node, before) = Setup::default().ready();
    let started = before.iter().find(|event| event["event"] == "worker_started").unwrap();
    let mut victim = pid_in(started);
    for _ in 0..5 {
        kill(victim, Signal::SIGKILL).unwrap();
        let exited = node.until("worker_exited").0;
        assert_eq!(pid_in(&exited), victim);
        assert_eq!(exited["signal"], 9);
        assert!(exited["status"].is_null());
        assert_eq!(exited["last_path"], "/dev1/last");
        let again = node.until("worker_started").0;
        assert_eq!(again["worker"], exited["worker"]);
        victim = pid_in(&again);
    }
    let states = node.child_states();
    assert_eq!(states.len(), 2);
    assert!(!states.contains(&'Z'), "{states:?}");
}

fn worker_that_quits_is_replaced_without_counting_as_crashed() {
    let (node, before) = Setup { workers: "1", ..Setup::default() }.ready();
    let mut pid = pid_in(&before[1]);
    let began = Instant::now();
    for _ in 0..10 {
        kill(pid, Signal::SIGQUIT).unwrap();
        assert_eq!(node.until("worker_exited").0["status"], 0);
        pid = pid_in(&node.until("worker_started").0);
    }
    // With back-off these would have taken 23 s.
    assert!(began.elapsed().as_secs() < 10);
    assert_eq!(node.status()["workers"][0]["restarts"], 0);
}

fn worker_that_keeps_crashing_is_respawned_with_growing_delay() {
    let node = Setup { workers: "1", behaviour: "crashes", ..Setup::default() }.start();
    let time = |event: serde_json::Value| event["time"].as_f64().unwrap();
    let deaths: Vec<f64> = (0..5).map(|_| time(node.until("worker_exited").0)).collect();
    let gaps: Vec<f64> = deaths.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (gap, least) in gaps.iter().zip([0.0, 0.1, 0.2, 0.4]) {
        assert!(*gap >= least - 0.01, "{gaps:?}");
    }
    assert_eq!(node.status()["state"], "running");
}

fn worker_that_fails_at_the_start_fails_the_node() {
    let mut node = Setup { behaviour: "fails", ..Setup::default() }.start();
    node.says("worker 1 exited with status 7 before it was ready");
    assert_eq!(node.ended(), Some(1));
}

fn stubborn_worker_is_killed_after_the_drain_timeout() {
    let setup = Setup { workers: "1", behaviour: "stubborn", drain_ms: 200, ..Setup::default() };
    let (mut node, _) = setup.ready();
    node.signal(Signal::SIGQUIT);
    let draining = node.until("draining").0["time"].as_f64().unwrap();
    let exited = node.until("worker_exited").0;
    assert_eq!(exited["signal"], 9);
    assert!(exited["time"].as_f64().unwrap() - draining >= 0.19);
    assert_eq!(node.ended(), Some(0));
}

fn second_term_ends_it_at_once() {
    let (mut node, _) = Setup { behaviour: "stubborn", ..Setup::default() }.ready();
    node.signal(Signal::SIGTERM);
    node.until("draining");
    assert_eq!(node.status()["state"], "draining");
    node.signal(Signal::SIGINT);
    assert_eq!(node.until("worker_exited").0["signal"], 9);
    node.until("stopped");
    assert_eq!(node.ended(), Some(0));
}

fn sidechannel_shutdown_is_a_quit() {
    let mut node = Setup { behaviour: "shuts-down", ..Setup::default() }.start();
    node.until("stopped");
    assert_eq!(node.ended(), Some(0));
}

fn aio_threads_reach_every_worker() {
    let (node, _) = Setup { behaviour: "sets-threads", ..Setup::default() }.ready();
    let mut heard = [0, 1].map(|_| node.says("AioThreads"));
    heard.sort();
    assert_eq!(heard, [0, 1].map(|n| format!("{n} got AioThreads {{ threads: 33 }} false")));
}

fn loss_of_the_master_is_seen_by_every_worker() {
    let (mut node, _) = Setup { workers: "4", ..Setup::default() }.ready();
    node.signal(Signal::SIGKILL);
    assert_eq!(node.ended(), None);
}

/// Listener, control channel, own inbox, three peers and a signalfd of its own: the last worker
/// holds as few as the first.
fn worker_holds_only_what_is_its_own() {
    let (node, _) = Setup { workers: "4", behaviour: "tells", ..Setup::default() }.ready();
    for _ in 0..4 {
        assert_eq!(node.says("descriptors"), "descriptors: 7");
    }
}

fn new_device_gets_a_worker_and_a_removed_one_loses_it() {
    let setup = Setup { workers: "device", devices: &[1], ..Setup::default() };
    let (mut node, before) = setup.ready();
    assert_eq!(before[1]["devices"], json!(["dev1"]));
    std::fs::create_dir(node.folder.path().join("dev7")).unwrap();
    let second = node.until("worker_started").0;
    assert_eq!(second["devices"], json!(["dev7"]));
    assert_eq!(node.says("Peer"), "0 got Peer { worker: 1 } true");
    let owners = |node: &Node| {
        let devices = node.status()["devices"].take();
        let devices = devices.as_array().unwrap().iter();
        devices.map(|d| (d["device"].to_string(), d["owner"].as_u64())).collect::<Vec<_>>()
    };
    let expected = [("\"dev1\"".to_owned(), Some(0)), ("\"dev7\"".to_owned(), Some(1))];
    assert_eq!(owners(&node), expected);
    std::fs::remove_dir(node.folder.path().join("dev1")).unwrap();
    let exited = node.until("worker_exited").0;
    assert_eq!((&exited["worker"], &exited["status"]), (&json!(0), &json!(0)));
    assert_eq!(owners(&node), expected[1..]);
    node.signal(Signal::SIGTERM);
    assert_eq!(node.ended(), Some(0));
}

fn stall_and_recovery_of_a_device_are_told() {
    let setup = Setup { workers: "device", devices: &[1], behaviour: "stalls", ..Setup::default() };
    let (node, _) = setup.ready();
    let stalled = node.until("device_stalled").0;
    assert_eq!(stalled["device"], "dev1");
    assert_eq!(stalled["docroot"], node.folder.path().to_str().unwrap());
    assert_eq!(node.status()["devices"][0]["state"], "stalled");
    node.signal(Signal::SIGUSR1); // the worker takes it for a sign of life
    assert_eq!(node.until("device_recovered").0["device"], "dev1");
}

fn status_socket_shows_the_node_and_is_removed() {
    let setup = Setup { workers: "device", devices: &[3, 12], ..Setup::default() };
    let (mut node, before) = setup.ready();
    let mut status = node.status();
    assert_eq!(status["version"], 1);
    assert_eq!(status["pid"], node.pid().as_raw());
    assert_eq!(status["state"], "running");
    assert_eq!(status["listeners"][0]["address"], address(&before).to_string());
    let workers = status["workers"].as_array().unwrap();
    assert!(workers.iter().all(|worker| worker["state"] == "running"));
    assert_eq!(workers[1]["devices"], json!(["dev12"]));
    let docroot = node.folder.path().to_str().unwrap();
    let device = json!({"device": "dev12", "docroot": docroot, "owner": 1, "state": "ok",
        "in_flight": 0, "oldest_ms": 0, "inline_reads": null, "used_kib": null,
        "total_kib": null, "busy_percent": null, "closed": [], "errors": 0, "no_space": 0,
        "read_errors": 0, "write_errors": 0, "stalls": 0});
    let since = status["devices"][1].as_object_mut().unwrap().remove("since");
    assert!(since.is_some_and(|since| since.as_f64().is_some_and(|since| since > 1e9)));
    assert_eq!(status["devices"][1], device);
    node.signal(Signal::SIGQUIT);
    assert_eq!(node.ended(), Some(0));
    assert!(!node.socket_path().exists());
}

fn inherited_listener_is_taken_over() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let wanted = listener.local_addr().unwrap();
    let setup = Setup {
        listen: wanted.to_string(),
        inherited: Some("0".to_owned()),
        stdin: OwnedFd::from(listener).into(),
        ..Setup::default()
    };
    let (_node, before) = setup.ready();
    assert_eq!(address(&before), wanted);
    TcpStream::connect(wanted).unwrap();
}

fn bad_inherited_descriptors_end_the_start() {
    let cases = [("0,x", "invalid byte: 120"), ("", "failed to parse"), ("0,99", "getsockname")];
    for (value, complaint) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut node = Setup {
            inherited: Some(value.to_owned()),
            stdin: OwnedFd::from(listener).into(),
            ..Setup::default()
        }
        .start();
        node.says(complaint);
        assert_eq!(node.ended(), Some(1));
    }
}

fn address_in_use_ends_the_start_before_any_fork() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut node = Setup { listen: address.clone(), ..Setup::default() }.start();
    assert!(!node.says(&format!("cannot listen on {address}")).contains("in_worker"));
    assert_eq!(node.ended(), Some(1));
}
