//! A docroot whose own filesystem stops answering: the master has no business there.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::chain::is_gone;
use crate::harness::real_disk::LoopWatch;
use crate::harness::{Client, MODES, Mode, Node, STATUS_FD, Setup, SlowFs, has_fuse, skipped};
use crate::harness::{until, until_some};

const LISTENERS: &str = "httplisten = 127.0.0.1:0\nmgmtlisten = 127.0.0.1:0\n";
/// The master lists docroots every few seconds.
const LISTED: Duration = Duration::from_secs(7);
const AT_ONCE: Duration = Duration::from_secs(1);
/// Beyond the drain's time: to stop, kill and reap.
const MARGIN: Duration = Duration::from_secs(4);

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn a_silent_docroot_keeps_no_master() {
    hang_and_quit(Signal::SIGQUIT);
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn a_silent_docroot_keeps_nobody_from_ending_it() {
    hang_and_quit(Signal::SIGTERM);
}

fn hang_and_quit(signal: Signal) {
    if !has_fuse() {
        return skipped("not root, or no /dev/fuse");
    }
    std::thread::scope(|scope| {
        for workers in MODES {
            scope.spawn(move || hang(workers, signal));
        }
    });
}

fn hang(workers: &'static str, signal: Signal) {
    let setup = Setup::bare().arg("--multi").arg(STATUS_FD).workers(workers);
    let setup = setup.arg("--status-socket={dir}/status.sock").arg("--drain-timeout=2");
    for site in ["sick", "well"] {
        fs::create_dir_all(setup.folder().join(site)).unwrap();
    }
    let disk = SlowFs::mount(&setup.folder().join("sick"));
    fs::create_dir(setup.folder().join("sick/dev1")).unwrap();
    fs::create_dir(setup.folder().join("well/dev2")).unwrap();
    let setup = setup.config_named("a.conf", &format!("docroot = {{dir}}/sick\n{LISTENERS}"));
    let setup = setup.config_named("b.conf", &format!("docroot = {{dir}}/well\n{LISTENERS}"));
    let node = setup.start();
    let disk = disk; // It goes before the node, whatever comes.
    let well = well(&node);
    let mut client = Client::connect(well);
    client.put("/dev2/kept", "kept").expect(201);
    let watch = LoopWatch::start(&node);
    disk.set(Mode::Hang);
    let hung = Instant::now();
    until("somebody to look at it", || disk.held() > 0);
    while hung.elapsed() < LISTED {
        client.get("/dev2/kept").expect(200);
        status(&node);
    }
    watch.end();
    respawns(&node, well);
    let told = Instant::now();
    for _ in 0..if signal == Signal::SIGTERM { 2 } else { 1 } {
        node.signal(signal);
        node.event("draining");
    }
    until("the master to go", || is_gone(node.pid()));
    let took = told.elapsed();
    println!("workers={workers}, {signal}: gone after {took:?}");
    assert!(took < Duration::from_secs(2) + MARGIN, "workers={workers}: {took:?}");
    disk.set(Mode::Work);
}

/// Where the sound docroot is served.
fn well(node: &Node) -> std::net::SocketAddr {
    let events = node.all_events("listening");
    let found = events.iter().find(|event| {
        event["service"] == "http" && event["docroot"].as_str().unwrap().ends_with("well")
    });
    found.unwrap()["address"].as_str().unwrap().parse().unwrap()
}

fn status(node: &Node) -> Value {
    let (asked, mut text) = (Instant::now(), String::new());
    let mut socket = UnixStream::connect(node.docroot().join("status.sock")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    socket.read_to_string(&mut text).expect("the master answers");
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    serde_json::from_str(&text).unwrap()
}

fn respawns(node: &Node, well: std::net::SocketAddr) {
    let owner = crate::stall::owner(node, "dev2");
    let seen = node.events.so_far().len();
    kill(owner, Signal::SIGKILL).unwrap();
    node.event_after(seen, "worker_started");
    let mut client = until_some("a worker", || {
        let mut client = Client::connect(well);
        (client.get("/dev2/kept").status == 200).then_some(client)
    });
    client.put("/dev2/new", "new").expect(201);
}
