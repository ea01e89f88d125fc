//! Devices that come and go, disks that are mounted and unmounted.

use std::fs;
use std::time::{Duration, Instant};

use super::digest;
use super::numbers::{usage_of, usage_text};
use crate::harness::{Node, Setup, can_mount, skipped, until};
use crate::load::Link;

/// Within so long the node finds out by itself what has become of its devices.
const NOTICED: Duration = Duration::from_secs(10);

#[test]
fn devices_that_come_and_go_are_noticed() {
    for workers in ["device", "2"] {
        let setup = Setup::new().workers(workers).env("MOG_DISK_USAGE_INTERVAL", "1");
        let node = setup.start();
        let status = |path: &str| status_on_a_new_connection(&node, path);
        usage_text(&node, "/dev2");
        let begun = Instant::now();
        fs::create_dir(node.file("/dev3")).unwrap();
        fs::rename(node.file("/dev2"), node.file("/old")).unwrap();
        until("dev3 to have a usage file", || {
            node.file("/dev3/usage").exists() && status("/dev3/usage") == Some(200)
        });
        until("dev2 to be forgotten", || status("/dev2/usage") == Some(404));
        until("dev2 not to be watched", || watched(&node) == [1, 3]);
        assert!(begun.elapsed() < NOTICED, "{:?}, {workers}", begun.elapsed());
        let mut client = node.client();
        client.put("/dev3/a", "a").expect(201);
        assert_eq!(client.put("/dev2/a", "a").status, 404);
        assert!(!node.file("/dev2").exists());
        fs::rename(node.file("/old"), node.file("/dev2")).unwrap();
        let begun = Instant::now();
        until("dev2 to be back", || status("/dev2/usage") == Some(200));
        assert!(begun.elapsed() < NOTICED, "{:?}, {workers}", begun.elapsed());
    }
}

#[test]
fn a_folder_made_after_the_start_shows_at_once() {
    for workers in ["device", "2"] {
        let node = Setup::new().workers(workers).start();
        // By the clock alone each would take two seconds: it is made just after a look.
        let fastest = (3..=10).map(|device| {
            let (begun, name) = (Instant::now(), format!("dev{device}"));
            fs::create_dir(node.file(&format!("/{name}"))).unwrap();
            until("it to be known", || is_listed(&node, &name));
            begun.elapsed()
        });
        let fastest = fastest.min().unwrap();
        println!("{workers}: {fastest:?}");
        assert!(fastest < Duration::from_secs(1), "{fastest:?}, {workers}");
    }
}

#[test]
fn an_idle_device_can_be_unmounted_and_another_one_mounted() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    for workers in ["device", "2"] {
        let node = Setup::new()
            .workers(workers)
            .env("MOG_DISK_USAGE_INTERVAL", "1")
            .mount("mount -t tmpfs -o size=2m first {dir}/dev1")
            .start();
        let mut client = node.client();
        client.put("/dev1/a", "first").expect(201);
        for _ in 0..50 {
            assert_eq!(client.get("/dev1/a").expect(200).body, b"first");
        }
        assert_eq!(usage_of(&node, "/dev1").get("device"), "first");
        let begun = Instant::now();
        until("it to be unmounted", || node.in_its_mounts("umount {dir}/dev1").is_ok());
        println!("unmounted after {:?}", begun.elapsed());
        node.in_its_mounts("mount -t tmpfs -o size=3m second {dir}/dev1").unwrap();
        node.in_its_mounts("echo second >{dir}/dev1/b").unwrap();
        let begun = Instant::now();
        until("the new disk to be used", || client.get("/dev1/b").status == 200);
        until("its numbers", || usage_of(&node, "/dev1").number("total") == 3072);
        until("its name", || usage_of(&node, "/dev1").get("device") == "second");
        assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());
        client.put("/dev1/c", "c").expect(201);
        node.in_its_mounts("grep -q c {dir}/dev1/c").unwrap();
    }
}

#[test]
fn a_disk_mounted_onto_a_busy_device_is_used() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    let node = Setup::new().mount("true").start();
    let (mut client, mut side) = (node.client(), node.sidechannel());
    client.put("/dev1/a", "below").expect(201);
    assert_eq!(client.get("/dev1/a").expect(200).body, b"below");
    node.in_its_mounts("mount -t tmpfs -o size=3m above {dir}/dev1; echo above >{dir}/dev1/a")
        .unwrap();
    let begun = Instant::now();
    // Never idle: reads and writes go on all the time.
    until("the disk to be used for reads", || client.get("/dev1/a").expect(200).body == b"above\n");
    until("the disk to be used for writes", || {
        client.put("/dev1/w", "w").expect(201);
        node.in_its_mounts("test -e {dir}/dev1/w").is_ok()
    });
    until("the disk to be used by the sidechannel", || {
        side.send("size /dev1/a\nMD5 /dev1/a\n");
        let (size, md5) = (side.line(), side.line());
        size == "/dev1/a 6\r\n" && md5.contains(&digest("md5sum", b"above\n"))
    });
    until("its numbers", || usage_of(&node, "/dev1").number("total") == 3072);
    println!("used after {:?}", begun.elapsed());
    assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());
    drop(client);
    until("it to be unmounted", || node.in_its_mounts("umount {dir}/dev1").is_ok());
    // A disk is missing: what lies below it is neither shown nor added to.
    let mut client = node.client();
    // What is stored in the folder below could not be found again once the disk is back.
    until("the bare mount point to be refused", || client.get("/dev1/a").status == 503);
    client.put("/dev1/b", "b").expect(503);
    assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());
    node.in_its_mounts("mount -t tmpfs -o size=3m above {dir}/dev1; echo back >{dir}/dev1/a")
        .unwrap();
    until("the disk to be back", || client.get("/dev1/a").body == b"back\n");
    assert!(!node.file("/dev1/b").exists(), "stored below the mount");
}

/// The devices that the master knows.
fn is_listed(node: &Node, name: &str) -> bool {
    node.status()["devices"].as_array().unwrap().iter().any(|device| device["device"] == name)
}

/// `None` when the connection was lost: the worker of a device that has gone closes those that it
/// holds.
fn status_on_a_new_connection(node: &Node, path: &str) -> Option<u16> {
    let request = format!("GET {path} HTTP/1.1\r\n\r\n");
    Link::open(node.http()).ask(request.as_bytes()).ok().map(|reply| reply.status)
}

/// The device ids of a group of `watch`.
fn watched(node: &Node) -> Vec<u32> {
    let mut client = node.sidechannel();
    client.send("watch\n");
    let lines = std::iter::from_fn(|| Some(client.line()).filter(|line| line != ".\n"));
    lines.map(|line| line.split('\t').next().unwrap().parse().unwrap()).collect()
}
