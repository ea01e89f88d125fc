//! What devices are mounted from: usage and `watch` on filesystems of all kinds.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use crate::harness::{LoopDisk, Node, STATUS_FD, Setup, can_mount, skipped, until, until_some};

/// The lines of a usage file once there has been a first look.
fn usage(node: &Node, device: &str) -> HashMap<String, String> {
    let mut client = node.client();
    let text = until_some("a first look", || {
        let answer = client.get(&format!("/{device}/usage"));
        (answer.status == 200).then_some(answer.body)
    });
    let text = String::from_utf8(text).unwrap();
    let pairs: Vec<_> = text.lines().map(|line| line.split_once(": ").unwrap()).collect();
    let keys: Vec<&str> = pairs.iter().map(|(key, _)| *key).collect();
    let known = ["available", "device", "disk", "time", "total", "use", "used"];
    assert_eq!(keys, known, "{text:?}");
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn source(node: &Node, device: &str) -> String {
    usage(node, device)["device"].clone()
}

/// The loads of one group, in the order of the devices.
fn loads(node: &Node) -> Vec<String> {
    let mut client = node.sidechannel();
    client.send("watch\n");
    // The first has nothing to be compared with.
    client.take_through(b".\n");
    let group = String::from_utf8(client.take_through(b".\n")).unwrap();
    let loads = group.lines().filter_map(|line| line.split_once('\t'));
    loads.map(|(_, load)| load.to_owned()).collect()
}

fn setup() -> Setup {
    Setup::new().env("MOG_DISK_USAGE_INTERVAL", "1")
}

#[test]
fn btrfs_subvolumes_and_bind_mounts_are_on_their_disk() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    let disk = match LoopDisk::made_by("mkfs.btrfs -q -f", 256) {
        Ok(disk) => disk,
        Err(error) => return skipped(&format!("no btrfs on a loop device: {error}")),
    };
    let device = &disk.device;
    let node = setup()
        .devices(5)
        .mount(&format!("mount {device} {{dir}}/dev1"))
        .mount("btrfs subvolume create {dir}/dev1/sub >&2; mkdir {dir}/dev1/sub/folder")
        .mount(&format!("mount -o subvol=sub {device} {{dir}}/dev2"))
        .mount("mount --bind {dir}/dev1/sub/folder {dir}/dev3")
        .mount("rmdir {dir}/dev4; ln -s {dir}/dev1/sub {dir}/dev4")
        .mount("mount -t tmpfs tmpfs {dir}/dev5")
        .start();
    for number in 1..=4 {
        assert_eq!(source(&node, &format!("dev{number}")), *device, "dev{number}");
        let usage = usage(&node, &format!("dev{number}"));
        assert!(usage["available"] != "0" && usage["use"] != "100%", "{usage:?}");
    }
    let known = until_some("loads", || Some(loads(&node)).filter(|loads| loads[0] != "-"));
    let same = known[..4].iter().all(|load| *load == known[0]);
    assert!(same && known[4] == "-", "{known:?}");
    busy_disk_is_seen(&node, 4);
    let mut client = node.client();
    for number in 1..=4 {
        client.put(&format!("/dev{number}/a"), "a").expect(201);
        assert_eq!(client.get(&format!("/dev{number}/a")).expect(200).body, b"a");
    }
}

/// Work on the disk of dev1 shows in the loads of the first so many devices.
fn busy_disk_is_seen(node: &Node, devices: usize) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let work = || {
            let write = "dd if=/dev/zero of={dir}/dev1/x bs=32k count=500 oflag=direct 2>&1";
            while !over.load(Relaxed) {
                node.in_its_mounts(write).unwrap();
            }
        };
        scope.spawn(work);
        let busy = |load: &String| load.parse::<f64>().is_ok_and(|load| load > 5.0);
        let seen = (0..15).any(|_| loads(node)[..devices].iter().all(busy));
        over.store(true, Relaxed);
        assert!(seen, "dd keeps the disk busy, and it does not show");
    });
}

#[test]
fn a_name_that_is_no_text_hides_no_device() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    let odd = "odd=$(printf '{dir}/odd\\377'); mkdir \"$odd\"";
    let node = setup()
        .mount(&format!("{odd}; mount -t tmpfs \"$(printf 's\\376')\" \"$odd\""))
        .mount("mount -t tmpfs -o size=2m plain {dir}/dev1")
        .start();
    assert_eq!(source(&node, "dev1"), "plain");
    let dev2 = node.in_its_mounts("df --output=source {dir}/dev2 | tail -1").unwrap();
    assert_eq!(source(&node, "dev2"), dev2.trim());
}

#[test]
fn sources_of_any_bytes_are_one_line() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    let mount = |source: &str, device: &str| {
        format!("mount -t tmpfs \"$(printf '{source}x')\" {{dir}}/{device}")
    };
    let node = setup()
        .devices(6)
        .mount(&mount("a b\\\\c#", "dev1"))
        .mount(&mount("two\\nlines\\t", "dev2"))
        .mount(&mount("\\303\\244", "dev3"))
        .mount(&mount("bad\\377", "dev4"))
        .mount("mount -t tmpfs none {dir}/dev5")
        .mount("mount -t tmpfs below {dir}/dev6; mount -t tmpfs above {dir}/dev6")
        .start();
    let known = ["a b\\c#x", "two?lines?x", "\u{e4}x", "bad\u{fffd}x", "tmpfs", "above"];
    for (number, source_known) in (1..).zip(known) {
        assert_eq!(source(&node, &format!("dev{number}")), source_known, "dev{number}");
    }
}

#[test]
fn an_overlay_is_called_by_its_name() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    let node = setup()
        .mount("mount -t tmpfs tmpfs {dir}/dev2; cd {dir}/dev2; mkdir low up work; cd /")
        .mount(
            "mount -t overlay overlay -o lowerdir={dir}/dev2/low,upperdir={dir}/dev2/up,\
             workdir={dir}/dev2/work {dir}/dev1",
        )
        .start();
    assert_eq!([source(&node, "dev1"), source(&node, "dev2")], ["overlay", "tmpfs"]);
    assert_eq!(loads(&node), ["-", "-"]);
    node.client().put("/dev1/a", "a").expect(201);
}

#[test]
fn without_a_list_of_mounts_the_type_is_told() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    let node = setup()
        .mount("mount -t tmpfs -o size=2m named {dir}/dev1")
        .mount("mount -t tmpfs hidden /proc")
        .start();
    assert_eq!(source(&node, "dev1"), "tmpfs");
    node.client().put("/dev1/a", "a").expect(201);
}

#[test]
fn a_device_without_an_inode_left_is_full() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    let disk = match LoopDisk::made_by("mkfs.ext4 -q -F -N 16", 16) {
        Ok(disk) => disk,
        Err(error) => return skipped(&format!("no loop device: {error}")),
    };
    let fill = |device: &str| {
        format!("i=0; while echo x 2>/dev/null >{{dir}}/{device}/f$i; do i=$((i + 1)); done")
    };
    let node = setup()
        .mount("mount -t tmpfs -o size=4m,nr_inodes=8 tmpfs {dir}/dev1")
        .mount(&format!("mount {} {{dir}}/dev2", disk.device))
        .mount(&fill("dev1"))
        .mount(&fill("dev2"))
        .start();
    for device in ["dev1", "dev2"] {
        let found = usage(&node, device);
        assert_eq!((&*found["available"], &*found["use"]), ("0", "100%"), "{device}");
        assert!(found["used"] != "0" && found["used"] == found["total"], "{found:?}");
        assert_eq!(node.client().put(&format!("/{device}/more"), "x").status, 507);
        // Two less, of which the usage file may take one, and there is room again.
        for file in ["f0", "f1"] {
            node.client().delete(&format!("/{device}/{file}")).expect(204);
        }
        until("an inode to be seen", || usage(&node, device)["available"] != "0");
        node.client().put(&format!("/{device}/more"), "x").expect(201);
    }
}

#[test]
fn an_empty_device_has_no_number_that_is_0() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    let node = Setup::bare()
        .arg("--docroot={dir}")
        .arg("--httplisten=127.0.0.1:0")
        .arg("--mgmtlisten=127.0.0.1:0")
        .arg(STATUS_FD)
        // Mode 000: nothing is written there.
        .mount("mount -t tmpfs -o size=2m tmpfs {dir}/dev1; : >{dir}/dev1/usage")
        .mount("chmod 000 {dir}/dev1/usage; mount -t sysfs sysfs {dir}/dev2")
        .start();
    for device in ["dev1", "dev2"] {
        let found = usage(&node, device);
        assert!(found["used"] != "0" && found["total"] != "0", "{device}: {found:?}");
    }
}
