//! Logs that take nothing: a full disk, a limit, a pipe that nobody reads, a disk that hangs. No
//! request suffers, and what is lost is counted.

use std::fs;
use std::io::Read;
use std::time::Instant;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::{ask, setup};
use crate::harness::{
    self, Kind, Node, Setup, SlowFs, can_mount, has_fuse, pattern, skipped, until,
};

/// So many requests on one connection, answered at once.
fn busy(node: &Node, requests: u64) {
    let begun = Instant::now();
    let mut client = node.client();
    (0..requests).for_each(|n| ask(&mut client, n));
    client.put("/dev1/a", pattern(100_000)).expect(201);
    assert_eq!(client.get("/dev1/a").body, pattern(100_000));
    assert!(begun.elapsed() < harness::DEADLINE);
}

fn lost(node: &Node) -> u64 {
    let status = node.status();
    let total = status["totals"]["accesslog_lost"].as_u64().unwrap();
    let workers = status["workers"].as_array().unwrap();
    let sum: u64 = workers.iter().map(|w| w["accesslog_lost"].as_u64().unwrap()).sum();
    assert!(total <= sum, "{status}");
    sum
}

#[test]
fn a_device_that_is_full_costs_lines_alone() {
    let node = Setup::new().arg("--accesslog=/dev/full").start();
    busy(&node, 100);
    until("all lines are counted", || lost(&node) == 102);
    let line = node.logs("lines lost");
    assert!(line.contains("accesslog = /dev/full: ") && line.contains("No space left"), "{line}");
}

#[test]
fn a_disk_that_is_full_costs_lines_alone() {
    if !can_mount() {
        return skipped("no mount namespaces");
    }
    let setup = Setup::new().arg("--accesslog={dir}/log/access.log").workers("2");
    fs::create_dir(setup.folder().join("log")).unwrap();
    let node = setup.mount("mount -t tmpfs -o size=64k none {dir}/log").start();
    busy(&node, 1000);
    let log = format!("/proc/{}/root{}/log/access.log", node.pid(), node.docroot().display());
    // What is there, and what is not, is all.
    until("all lines are accounted for", || {
        let text = fs::read_to_string(&log).unwrap();
        let whole = text.lines().filter(|line| line.split('"').count() == 7 && has_end(line));
        whole.count() as u64 + lost(&node) == 1002
    });
    assert!(lost(&node) > 100);
}

/// Ends as lines do: with the worker's number.
fn has_end(line: &str) -> bool {
    line.rsplit(' ').next().is_some_and(|word| word.parse::<u16>().is_ok())
        && (line.contains(" hot ") || line.contains(" disk "))
}

#[test]
fn a_limit_of_file_sizes_costs_lines_alone() {
    let node = setup().shell("ulimit -f 8").start();
    let mut client = node.client();
    (0..200).for_each(|n| ask(&mut client, n));
    until("lost lines", || lost(&node) > 0);
    assert!(node.logs("lines lost").contains("File too large"));
}

#[test]
fn a_pipe_that_nobody_reads_costs_lines_alone() {
    let setup = setup();
    let pipe = setup.folder().join("access.log");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let node = setup.start();
    busy(&node, 1000);
    until("lost lines", || lost(&node) > 0);
    // Whoever comes reads whole lines.
    let mut reader = fs::OpenOptions::new().read(true).open(&pipe).unwrap();
    let mut piece = vec![0; 60_000];
    let read = reader.read(&mut piece).unwrap();
    let text = String::from_utf8_lossy(&piece[..read]);
    assert!(text.lines().count() > 100);
    let whole = |line: &str| line.starts_with("127.0.0.1 - - [");
    assert!(text.lines().all(whole), "{text}");
}

#[test]
fn a_log_on_a_disk_that_hangs_costs_lines_alone() {
    if !has_fuse() {
        return skipped("not root, or no /dev/fuse");
    }
    let setup = Setup::new().arg("--accesslog={dir}/log/access.log").workers("2");
    fs::create_dir(setup.folder().join("log")).unwrap();
    let disk = SlowFs::mount(&setup.folder().join("log"));
    let node = setup.start();
    ask(&mut node.client(), 1);
    disk.set_only(&[Kind::Change], harness::Mode::Hang);
    busy(&node, 100);
    until("a write that hangs", || disk.held() > 0);
    // More than may wait: 1 MiB in each worker.
    busy(&node, 12_000);
    until("lost lines", || lost(&node) > 0);
    let before = lost(&node);
    disk.set(harness::Mode::Work);
    busy(&node, 100);
    let log = node.docroot().join("log/access.log");
    until("all lines are accounted for", || {
        let lines = fs::read_to_string(&log).map_or(0, |text| text.lines().count());
        lines as u64 + lost(&node) == 1 + 102 + 12_002 + 102
    });
    println!("{before} of 12207 lines lost while the disk hung");
}
