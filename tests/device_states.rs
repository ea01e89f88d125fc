//! What status, events and log say of a device with which something is wrong.

use std::process::Command;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::chain::is_gone;
use crate::harness::{Mode, Node, Setup, Sick, binary, can_mount, in_each_mode, skipped, until};
use crate::stall::owner;

fn device(node: &Node, name: &str) -> Value {
    let devices = node.status()["devices"].clone();
    let found = devices.as_array().unwrap().iter().find(|device| device["device"] == name);
    found.expect("it is listed").clone()
}

fn is(node: &Node, name: &str, state: &str) {
    until(state, || device(node, name)["state"] == state);
}

fn count(node: &Node, name: &str, what: &str) -> u64 {
    device(node, name)[what].as_u64().unwrap()
}

/// A node whose dev1 is a file system in memory of so many bytes.
fn small(size: &str) -> Option<Node> {
    if !can_mount() {
        skipped("mounting needs root");
        return None;
    }
    let mount = format!("mount -t tmpfs -o size={size} none {{dir}}/dev1");
    Some(Setup::new().env("MOG_DISK_USAGE_INTERVAL", "1").mount(&mount).start())
}

/// How many requests the log tells of in lines with these words, and in how many lines.
fn told(node: &Node, words: &str) -> (u64, usize) {
    let lines = node.stderr.so_far();
    let lines: Vec<_> = lines.iter().filter(|line| line.contains(words)).collect();
    let number = |text: &str| text.trim().rsplit(' ').next().and_then(|word| word.parse().ok());
    let requests = lines.iter().map(|line| {
        let before = |mark| line.split_once(mark).and_then(|(before, _)| number(before));
        match (before(" times more"), before(" time more"), before(" times before")) {
            (Some(more), ..) | (_, Some(more), _) => more,
            (.., Some(earlier)) => earlier + 1,
            _ => 1,
        }
    });
    (requests.sum(), lines.len())
}

#[test]
fn full_device_is_told_in_few_lines_and_counted() {
    let Some(node) = small("1m") else { return };
    is(&node, "dev1", "ok");
    let before = device(&node, "dev1")["since"].as_f64().unwrap();
    let body = vec![7; 100 * 1024];
    let mut refused = 0;
    for number in 0..200 {
        let path = format!("/dev1/file{number}");
        refused += u64::from(node.client().put(&path, &body).status == 507);
    }
    assert!(refused > 150, "{refused}");
    until("all of them in the log", || told(&node, "No space left").0 == refused);
    let (_, lines) = told(&node, "No space left");
    assert!(lines < 20, "{lines} lines for {refused} requests");
    assert_eq!(
        (count(&node, "dev1", "no_space"), count(&node, "dev1", "errors")),
        (refused, refused)
    );
    assert_eq!((count(&node, "dev2", "errors"), count(&node, "dev1", "write_errors")), (0, 0));
    node.in_its_mounts("dd if=/dev/zero of={dir}/dev1/filler bs=4k || true").unwrap();
    node.client().put("/dev1/more", &body).expect(507);
    is(&node, "dev1", "full");
    assert!(device(&node, "dev1")["since"].as_f64().unwrap() > before);
    assert_eq!(node.event("device_full")["device"], "dev1");
    node.client().delete("/dev1/filler").expect(204);
    is(&node, "dev1", "ok");
    assert_eq!(node.event("device_recovered")["from"], "full");
}

/// Also what was counted in the last second of a worker.
#[test]
fn errors_that_have_no_line_yet_are_told_at_the_end() {
    let Some(mut node) = small("64k") else { return };
    let body = vec![7; 100 * 1024];
    for number in 0..40 {
        node.client().put(&format!("/dev1/file{number}"), &body).expect(507);
    }
    node.signal(Signal::SIGQUIT);
    node.wait_for_exit();
    until("all of them in the log", || told(&node, "No space left").0 == 40);
}

#[test]
fn read_only_device_is_told() {
    let Some(node) = small("1m") else { return };
    node.client().put("/dev1/a", "a").expect(201);
    node.in_its_mounts("mount -o remount,ro {dir}/dev1").unwrap();
    assert!(node.client().put("/dev1/b", "b").status >= 400);
    is(&node, "dev1", "read-only");
    assert_eq!(node.event("device_read_only")["device"], "dev1");
    node.logs("dev1 is mounted read-only");
    node.client().get("/dev1/a").expect(200);
    node.in_its_mounts("mount -o remount,rw {dir}/dev1").unwrap();
    is(&node, "dev1", "ok");
    assert_eq!(node.event("device_recovered")["from"], "read-only");
    node.client().put("/dev1/b", "b").expect(201);
}

#[test]
fn unmounted_device_has_its_events() {
    let Some(node) = small("1m") else { return };
    node.client().put("/dev1/a", "a").expect(201);
    node.in_its_mounts("umount -l {dir}/dev1").unwrap();
    until("it to be missed", || node.client().get("/dev1/a").status == 503);
    is(&node, "dev1", "unmounted");
    assert_eq!(node.event("device_unmounted")["device"], "dev1");
    node.in_its_mounts("mount -t tmpfs none {dir}/dev1").unwrap();
    is(&node, "dev1", "ok");
    assert_eq!(node.event("device_recovered")["from"], "unmounted");
}

fn clear(node: &Node, name: &str) -> (bool, String) {
    let socket = node.docroot().join("status.sock");
    let output = Command::new(binary()).args(["device", "--clear", name]).arg(socket).output();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.success(), text)
}

/// Errors of its disk: counted there, told once a second, and many of them make it failing.
#[test]
fn disk_with_many_errors_is_failing_until_somebody_says_that_it_is_mended() {
    in_each_mode(&["--pidfile={dir}/pid"], |sick: &Sick| {
        let node = &sick.node;
        node.client().put("/dev1/a", "a").expect(201);
        let (cleared, text) = clear(node, "dev1");
        assert!(!cleared && text.contains("dev1 is not failing"), "{text}");
        sick.disk.set(Mode::Fail);
        for _ in 0..3 {
            node.client().get("/dev1/a").expect(500);
            node.client().put("/dev1/b", "b").expect(500);
        }
        is(node, "dev1", "failing");
        sick.disk.set(Mode::Work);
        assert_eq!(node.event("device_failing")["device"], "dev1");
        node.logs("dev1 is failing: its disk had many errors within a minute");
        let (read, written) =
            (count(node, "dev1", "read_errors"), count(node, "dev1", "write_errors"));
        assert!(read >= 3 && written >= 3, "{read}, {written}");
        let (_, lines) = told(node, "Input/output error");
        assert!(lines <= 5, "{lines} lines");
        until("it to be served", || node.client().get("/dev1/a").status == 200);
        // A successor knows it.
        let old = node.pid();
        node.signal(Signal::SIGUSR2);
        node.event("upgrade_ready");
        node.signal(Signal::SIGQUIT);
        until("the old master to go", || is_gone(old));
        is(node, "dev1", "failing");
        assert!(count(node, "dev1", "read_errors") >= read);
        let (cleared, text) = clear(node, "dev1");
        assert!(cleared, "{text}");
        assert_eq!(device(node, "dev1")["state"], "ok");
        assert_eq!(node.event("device_recovered")["from"], "failing");
        let pid = node.status()["pid"].as_i64().unwrap() as i32;
        kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        until("the successor to go", || is_gone(nix::unistd::Pid::from_raw(pid)));
    });
}

#[test]
fn devices_of_workers_that_are_not_there_are_unowned() {
    let node = Setup::new().start();
    is(&node, "dev1", "ok");
    node.signal(Signal::SIGWINCH);
    is(&node, "dev1", "unowned");
    node.signal(Signal::SIGHUP);
    is(&node, "dev1", "ok");
}

/// A worker that stands still says so by itself: in the status it is stuck.
#[test]
fn worker_that_stands_still_is_stuck() {
    let node = Setup::new().start();
    node.client().get("/dev1/no").expect(404);
    let worker = owner(&node, "dev1");
    kill(worker, Signal::SIGSTOP).unwrap();
    until("its state", || node.status()["workers"][0]["state"] == "stuck");
    kill(worker, Signal::SIGCONT).unwrap();
    until("its state", || node.status()["workers"][0]["state"] == "running");
    assert!(node.client().get("/dev1/no").expect(404).body.is_empty());
}
