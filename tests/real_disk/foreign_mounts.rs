//! Filesystems that are no device's: below one, and beside them.

use std::fs;
use std::time::Duration;

use super::neighbours::{self, AT_ONCE};
use super::settle;
use crate::harness::real_disk::LoopWatch;
use crate::harness::{Kind, MODES, Mode, Setup, SlowFs, has_fuse, skipped, until};

#[test]
fn one_below_a_device_keeps_nobody_else() {
    beside("dev1/sub");
}

#[test]
fn one_that_is_no_device_keeps_nobody_else() {
    beside("other");
}

fn beside(place: &str) {
    if !has_fuse() {
        return skipped("not root, or no /dev/fuse");
    }
    std::thread::scope(|scope| {
        for workers in MODES {
            // Whether the name is found and the open hangs, or the look at the name.
            for kinds in [&[Kind::Read][..], &[Kind::Look, Kind::Read, Kind::Change]] {
                scope.spawn(move || hang(place, workers, kinds));
            }
        }
    });
}

fn hang(place: &str, workers: &'static str, kinds: &[Kind]) {
    let setup = Setup::new().devices(4).workers(workers).arg("--stall-timeout=60");
    let folder = setup.folder().join(place);
    fs::create_dir_all(&folder).unwrap();
    let disk = SlowFs::mount_cached(&folder);
    fs::write(folder.join("file"), "content").unwrap();
    let node = setup.start();
    let disk = disk; // It goes before the node, whatever comes.
    settle(&node);
    // Its name is known from now on.
    node.client().get(&format!("/{place}/file")).expect(200);
    let watch = LoopWatch::start(&node);
    disk.set_only(kinds, Mode::Hang);
    let mut clients: Vec<_> = (0..4).map(|_| node.client()).collect();
    for client in &mut clients {
        client.send(format!("GET /{place}/file HTTP/1.1\r\n\r\n"));
    }
    until("it to hang", || disk.held() > 0);
    let who = format!("{place}, workers={workers}");
    neighbours::are_untouched_for(&node, Duration::from_secs(1), &who);
    let mut client = neighbours::client(&node);
    client.get("/dev1/kept").expect(200); // A disk thread may have had to start.
    let asked = std::time::Instant::now();
    client.get("/dev1/kept").expect(200);
    assert!(asked.elapsed() < AT_ONCE, "{who}: {:?}", asked.elapsed());
    disk.set(Mode::Work);
    for client in &mut clients {
        let answer = client.answer();
        assert!(matches!(answer.status, 200 | 503), "{who}: {answer:?}");
    }
    watch.end();
}
