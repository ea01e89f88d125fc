//! Usage of a device whose disk hangs from the start: trackers take a node that does not answer
//! it for dead.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use super::settle;
use crate::chain::{Chain, is_gone};
use crate::harness::{MODES, Mode, Node, Setup, SlowFs, has_fuse, skipped, until};

/// Where a tracker gives up on a device, not yet on the node.
const AT_ONCE: Duration = Duration::from_millis(500);

fn in_each_mode(test: impl Fn(&'static str) + Sync) {
    if !has_fuse() {
        return skipped("not root, or no /dev/fuse");
    }
    std::thread::scope(|scope| {
        for workers in MODES {
            let test = &test;
            scope.spawn(move || test(workers));
        }
    });
}

#[test]
fn a_node_that_starts_beside_a_hung_disk_answers_usage() {
    in_each_mode(|workers| {
        let setup = Setup::new().devices(4).workers(workers).arg("--stall-timeout=30");
        let disk = SlowFs::mount(&setup.folder().join("dev2"));
        disk.set(Mode::Hang);
        let node = setup.start();
        let disk = disk; // It goes before the node, whatever comes.
        for _ in 0..5 {
            assert_eq!(usage(&node, 2).0, 503, "workers={workers}");
        }
        let mut client = node.client();
        until("the others' numbers", || client.get("/dev1/usage").status == 200);
        disk.set(Mode::Work);
        until("its numbers", || client.get("/dev2/usage").status == 200);
    });
}

#[test]
fn a_successor_has_its_predecessors_numbers() {
    in_each_mode(|workers| {
        let setup = Setup::new().devices(4).workers(workers).arg("--stall-timeout=30");
        let disk = SlowFs::mount(&setup.folder().join("dev2"));
        let chain = Chain::start(setup);
        let disk = disk; // It goes before the node, whatever comes.
        settle(&chain.node);
        let (_, before) = usage(&chain.node, 2);
        disk.set(Mode::Hang);
        let (old, _) = chain.begin_upgrade();
        kill(old, Signal::SIGQUIT).unwrap();
        // Those that it has accepted are its own to the end.
        for _ in 0..5 {
            let (status, text) = usage(&chain.node, 2);
            assert_eq!(status, 200, "workers={workers}");
            assert_eq!(numbers(&text), numbers(&before));
        }
        until("the predecessor to go", || is_gone(old));
        for _ in 0..5 {
            let (status, text) = usage(&chain.node, 2);
            assert_eq!(status, 200, "workers={workers}");
            assert_eq!(numbers(&text), numbers(&before));
            usage(&chain.node, 1);
        }
        disk.set(Mode::Work);
    });
}

/// As a tracker asks, and as fast as it wants it.
fn usage(node: &Node, device: u32) -> (u16, String) {
    let asked = Instant::now();
    let mut client = node.client();
    let answer = client.ask(format!("GET /dev{device}/usage HTTP/1.0\r\n\r\n"));
    assert!(asked.elapsed() < AT_ONCE, "dev{device}: {:?}", asked.elapsed());
    (answer.status, String::from_utf8(answer.body).unwrap())
}

/// All but the time.
fn numbers(usage: &str) -> Vec<&str> {
    usage.lines().filter(|line| !line.starts_with("time:")).collect()
}
