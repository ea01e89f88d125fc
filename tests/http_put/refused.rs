//! PUT where the disk or the system does not take it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::harness::{Node, Setup, can_mount, names_in, pattern, skipped};

#[test]
fn a_full_disk_is_507_and_closes() {
    if !can_mount() {
        return skipped("no mount namespaces here");
    }
    let node = Setup::new().mount("mount -t tmpfs -o size=256k none {dir}/dev1").start();
    let mut client = node.client();
    client.put("/dev1/f/a", pattern(100_000)).expect_and(201, "keep-alive");
    let mut second = node.client();
    let length = 1 << 20;
    second.try_send(
        [
            format!("PUT /dev1/f/a HTTP/1.1\r\nContent-Length: {length}\r\n\r\n").into(),
            pattern(length),
        ]
        .concat(),
    );
    second.answer().expect_and(507, "close");
    second.closes();
    let line = node.logs("/dev1/f/a");
    assert!(line.contains("No space left"), "{line}");
    assert!(client.get("/dev1/f/a").expect(200).body == pattern(100_000));
    assert_eq!(names_in(&inside(&node, "/dev1/f")), ["a"]);
    assert_eq!(client.put("/dev1/f/b", "small").status, 201, "space was not given back");
}

#[test]
fn a_file_past_the_size_limit_is_507_and_closes() {
    let node = Setup::new().shell("ulimit -f 128").start();
    let mut client = node.client();
    let head = "PUT /dev1/a HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n";
    client.try_send([head.into(), pattern(1_000_000)].concat());
    client.answer().expect_and(507, "close");
    client.closes();
    node.logs("/dev1/a");
    assert!(!node.file("/dev1/a").exists());
    assert_eq!(node.client().put("/dev1/a", "small").status, 201);
    assert!(node.all_events("worker_exited").is_empty());
}

#[test]
fn a_read_only_device_is_500_and_closes() {
    if !can_mount() {
        return skipped("no mount namespaces here");
    }
    let node = Setup::new().mount("mount -t tmpfs -o ro none {dir}/dev1").start();
    node.closes_after("PUT /dev1/f/a HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", 500);
    node.closes_after("PUT /dev1/a HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", 500);
    let line = node.logs("/dev1/f/a"); // The other one is counted.
    assert!(line.contains("Read-only"), "{line}");
    assert_eq!(node.client().put("/dev2/a", "x").status, 201);
}

#[test]
fn a_folder_that_may_not_be_written_is_refused() {
    let node = Setup::new().without_privilege().start();
    fs::create_dir(node.file("/dev1/f")).unwrap();
    fs::set_permissions(node.file("/dev1/f"), fs::Permissions::from_mode(0o500)).unwrap();
    let answer = node.client().put("/dev1/f/a", "x");
    assert!(matches!(answer.status, 403 | 500), "{answer:?}");
}

/// A path as the node's own mount namespace has it.
fn inside(node: &Node, path: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root{}", node.pid(), node.file(path).display()))
}
