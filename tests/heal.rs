//! 5: disks that fail, are unmounted, go read-only, fill up or are slow, and heal without a
//! restart.

use std::time::{Duration, Instant};

use crate::harness::{
    Client, Kind, LoopDisk, Mode, Node, Setup, SlowFs, can_mount, has_fuse, in_each_mode, skipped,
    until,
};
use crate::stall::{answered, prepare};

/// How soon a disk that was mounted is used: PROTOCOL.md section 4.
const NOTICED: Duration = Duration::from_secs(10);

#[test]
fn errors_of_a_disk_are_its_own_and_go_with_it() {
    in_each_mode(&[], |sick| {
        prepare(sick);
        let (mut client, mut other) = (sick.node.client(), sick.node.client());
        sick.disk.set_only(&[Kind::Read], Mode::Fail);
        client.get("/dev1/kept").expect_and(500, "keep-alive");
        client.head("/dev1/kept");
        let mut side = sick.node.sidechannel();
        side.send("MD5 /dev1/kept\n");
        assert_eq!(side.line(), "ERR read /dev1/kept at 0 failed\r\n");
        sick.disk.set(Mode::Fail);
        client.get("/dev1/kept").expect_and(500, "keep-alive");
        client.delete("/dev1/kept").expect_and(500, "keep-alive");
        sick.node.client().put("/dev1/new", "new").expect(500);
        for _ in 0..5 {
            other.put("/dev2/new", "new").expect(201);
            assert_eq!(other.get("/dev2/new").body, b"new");
            other.get("/dev3/usage").expect(200);
        }
        sick.node.logs("/dev1/kept");
        sick.disk.set(Mode::Work);
        assert_eq!(client.get("/dev1/kept").expect(200).body, b"kept");
        client.put("/dev1/new", "new").expect(201);
    });
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn a_slow_disk_refuses_what_it_cannot_do_in_time_and_is_not_stalled() {
    in_each_mode(&["--max-queue=20"], |sick| {
        prepare(sick);
        sick.disk.set_only(&[Kind::Read], Mode::Crawl(Duration::from_millis(300)));
        let mut clients: Vec<_> = (0..60).map(|_| sick.node.client()).collect();
        for client in &mut clients {
            client.send("GET /dev1/kept HTTP/1.1\r\n\r\n");
        }
        let mut other = sick.node.client();
        for _ in 0..20 {
            let begun = Instant::now();
            assert_eq!(other.get("/dev2/kept").expect(200).body, b"kept");
            assert!(begun.elapsed() < Duration::from_millis(250), "{:?}", begun.elapsed());
        }
        let statuses: Vec<_> = clients.iter_mut().map(|client| client.answer().status).collect();
        let count = |status| statuses.iter().filter(|s| **s == status).count();
        // Twenty wait; ten more if threads have begun before the next requests come.
        assert!(count(200) >= 20 && count(503) >= 10, "{statuses:?}");
        assert_eq!(count(200) + count(503), clients.len());
        sick.disk.set(Mode::Work);
        clients.iter_mut().for_each(|client| drop(client.get("/dev1/kept").expect(200)));
        assert!(sick.node.all_events("device_stalled").is_empty());
    });
}

#[test]
fn one_device_serves_while_all_others_hang() {
    if !has_fuse() {
        return skipped("not root, or no /dev/fuse");
    }
    for workers in crate::harness::MODES {
        let setup = Setup::new().devices(4).workers(workers).arg("--stall-timeout=0.5");
        let mount = |device| SlowFs::mount(&setup.folder().join(format!("dev{device}")));
        let disks: Vec<_> = (1..=3).map(mount).collect();
        let node = setup.start();
        let mut client = node.client();
        for device in 1..=4 {
            client.put(&format!("/dev{device}/a"), "a").expect(201);
        }
        disks.iter().for_each(|disk| disk.set(Mode::Hang));
        let mut stuck: Vec<_> = (0..90)
            .map(|number| {
                let mut client = node.client();
                client.send(format!("GET /dev{}/a HTTP/1.1\r\n\r\n", 1 + number % 3));
                client
            })
            .collect();
        until("three stalls", || node.all_events("device_stalled").len() == 3);
        for _ in 0..20 {
            client.put("/dev4/b", "b").expect(201);
            assert_eq!(client.get("/dev4/b").body, b"b");
            client.get("/dev4/usage").expect(200);
            for device in 1..=3 {
                client.get(&format!("/dev{device}/a")).expect_and(503, "keep-alive");
            }
        }
        disks.iter().for_each(|disk| disk.set(Mode::Work));
        stuck.iter_mut().for_each(answered);
        for device in 1..=3 {
            let path = format!("/dev{device}/a");
            until("it to serve", || client.get(&path).status == 200);
        }
    }
}

// --- a real disk ---------------------------------------------------------------------------

/// A node with an ext4 of its own under dev3; nothing where that cannot be.
fn with_ext4(test: impl Fn(&Node, &LoopDisk, &mut Client) + Sync) {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    std::thread::scope(|scope| {
        for workers in crate::harness::MODES {
            let test = &test;
            scope.spawn(move || {
                let disk = match LoopDisk::make(16) {
                    Ok(disk) => disk,
                    Err(why) => return skipped(&why),
                };
                let node = Setup::new()
                    .devices(4)
                    .workers(workers)
                    .env("MOG_DISK_USAGE_INTERVAL", "1")
                    .mount(&format!("mount {} {{dir}}/dev3", disk.device))
                    .start();
                let mut client = node.client();
                client.put("/dev3/kept", "kept").expect(201);
                test(&node, &disk, &mut client);
                client.get("/dev2/missing").expect(404);
                assert!(node.all_events("worker_exited").is_empty());
            });
        }
    });
}

/// Trackers would think that it lives.
#[test]
fn a_device_that_is_gone_has_no_usage() {
    for workers in ["1", "device"] {
        let node = Setup::new().workers(workers).start();
        let mut client = node.client();
        until("its usage", || client.get("/dev2/usage").status == 200);
        std::fs::rename(node.file("/dev2"), node.file("/gone")).unwrap();
        until("it to be missed", || node.client().get("/dev2/usage").status == 404);
        assert_eq!(node.client().get("/dev1/usage").status, 200);
        std::fs::rename(node.file("/gone"), node.file("/dev2")).unwrap();
        until("its usage again", || node.client().get("/dev2/usage").status == 200);
    }
}

#[test]
fn a_disk_that_is_unmounted_and_mounted_again_heals() {
    with_ext4(|node, disk, client| {
        node.in_its_mounts("umount -l {dir}/dev3").unwrap();
        let gone = Instant::now();
        until("it to be missed", || client.get("/dev3/kept").status == 503);
        assert!(gone.elapsed() < NOTICED, "{:?}", gone.elapsed());
        // Stored on the bare mount point it would fill the root disk and be lost.
        node.client().put("/dev3/new", "new").expect(503);
        until("no usage", || node.client().get("/dev3/usage").status != 200);
        until("its state to be told", || node.status()["devices"][2]["state"] == "unmounted");
        client.put("/dev2/new", "new").expect(201);
        assert_eq!(node.in_its_mounts("ls -A {dir}/dev3").unwrap(), "");
        node.in_its_mounts(&format!("mount {} {{dir}}/dev3", disk.device)).unwrap();
        let back = Instant::now();
        until("it to serve", || client.get("/dev3/kept").status == 200);
        until("it to store", || node.client().put("/dev3/new", "new").status == 201);
        until("its usage", || client.get("/dev3/usage").status == 200);
        assert_eq!(node.status()["devices"][2]["state"], "ok");
        assert!(back.elapsed() < NOTICED, "{:?}", back.elapsed());
        node.in_its_mounts("test -e {dir}/dev3/new").unwrap();
        let log = node.stderr.so_far();
        let told = |what: &str| log.iter().filter(|line| line.contains(what)).count();
        assert!(told("dev3 was a mount and is a bare folder now: 503") > 0, "{log:#?}");
        assert!(told("dev3 is mounted again") > 0, "{log:#?}");
        assert_eq!(told("No medium found"), 0, "{log:#?}");
    });
}

#[test]
fn a_disk_that_goes_read_only_heals() {
    with_ext4(|node, _, client| {
        until("it to be remounted", || {
            node.in_its_mounts("mount -o remount,ro {dir}/dev3").is_ok()
        });
        node.client().put("/dev3/new", "new").expect_and(500, "close");
        assert_eq!(client.get("/dev3/kept").expect(200).body, b"kept");
        client.delete("/dev3/kept").expect_and(500, "keep-alive");
        client.get("/dev3/usage").expect(200);
        node.in_its_mounts("mount -o remount,rw {dir}/dev3").unwrap();
        let healed = Instant::now();
        until("it to store", || node.client().put("/dev3/new", "new").status == 201);
        assert!(healed.elapsed() < NOTICED, "{:?}", healed.elapsed());
    });
}

#[test]
fn a_full_disk_heals_when_there_is_room_again() {
    with_ext4(|node, _, client| {
        // All of it, what is kept for root too: the node runs as root here.
        let full = node.in_its_mounts("dd if=/dev/zero of={dir}/dev3/filler bs=4k || true");
        full.unwrap();
        let body = vec![7; 64 * 1024];
        node.client().put("/dev3/new", &body).expect_and(507, "close");
        client.get("/dev3/new").expect(404);
        assert_eq!(client.get("/dev3/kept").expect(200).body, b"kept");
        client.get("/dev3/usage").expect(200);
        client.put("/dev2/new", &body).expect(201);
        client.delete("/dev3/filler").expect(204);
        let freed = Instant::now();
        until("it to store", || node.client().put("/dev3/new", &body).status == 201);
        assert!(freed.elapsed() < NOTICED, "{:?}", freed.elapsed());
        assert!(client.get("/dev3/new").expect(200).body == body);
        let statuses = |node: &Node| node.all_events("device_stalled").len();
        assert_eq!(statuses(node), 0);
    });
}
