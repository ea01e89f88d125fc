//! Connections follow a worker that goes while its node stays: replaced, retired, or at rest.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use crate::chain::is_gone;
use crate::harness::{Client, Setup, narrow_connection, skipped, until};
use crate::load::process;
use crate::upgrade_follow::Kept;

#[test]
fn connections_wait_while_the_node_rests() {
    for workers in ["device", "1"] {
        let node = Setup::new().workers(workers).start();
        let mut kept = Kept::of(&node);
        for round in 0..2 {
            kept.go_on();
            node.signal(Signal::SIGWINCH);
            until("the workers to go", || node.workers().is_empty());
            kept.used.send("GET /dev1/a HTTP/1.1\r\n\r\n");
            assert!(kept.used.is_silent_for(Duration::from_millis(50)));
            node.signal(Signal::SIGHUP);
            until("new workers", || node.all_events("reloaded").len() > round);
            kept.used.answer().expect_and(200, "keep-alive");
            kept.begin();
        }
    }
}

#[test]
fn connections_follow_the_replacement_of_workers() {
    for workers in ["device", "cpu", "1"] {
        let node = Setup::new().workers(workers).start();
        let mut kept = Kept::of(&node);
        for _ in 0..2 {
            let all = node.workers();
            for worker in &all {
                let seen = node.events.so_far().len();
                kill(*worker, Signal::SIGQUIT).unwrap();
                node.event_after(seen, "worker_started");
                assert!(is_gone(*worker));
            }
            kept.go_on();
            kept.begin();
        }
    }
}

#[test]
fn connections_follow_the_retirement_of_a_device() {
    let node = Setup::new().devices(3).start();
    let mut kept = Kept::of(&node);
    let mut there = node.client();
    for _ in 0..3 {
        there.put("/dev3/x", "x").expect_and(201, "keep-alive");
        let seen = node.events.so_far().len();
        fs::remove_dir_all(node.docroot().join("dev3")).unwrap();
        node.event_after(seen, "worker_exited");
        there.get("/dev1/a").expect_and(200, "keep-alive");
        fs::create_dir(node.docroot().join("dev3")).unwrap();
        node.event_after(seen, "worker_started");
        kept.go_on();
        kept.begin();
    }
}

/// The worker that is to go has a transfer to finish, and until then nobody else to serve for it.
#[test]
fn connections_beside_a_long_transfer_are_answered_while_their_worker_goes() {
    let node = Setup::new().workers("1").start();
    node.store("/dev1/a", "a");
    let (mut upload, mut idle) = (node.client(), node.client());
    idle.stays_open();
    upload
        .ask("PUT /dev1/up HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        .expect(100);
    let worker = node.workers()[0];
    kill(worker, Signal::SIGQUIT).unwrap();
    for _ in 0..5 {
        idle.send("GET /dev1/a HTTP/1.1\r\n\r\n");
        idle.answer().expect_and(200, "keep-alive");
        assert!(idle.is_silent_for(Duration::from_millis(100)), "the pace");
    }
    let seen = node.events.so_far().len();
    upload.ask("body").expect_and(201, "keep-alive");
    node.event_after(seen, "worker_started");
    assert!(is_gone(worker));
    idle.get("/dev1/up").expect_and(200, "keep-alive");
    upload.get("/dev1/up").expect_and(200, "keep-alive");
}

/// The same while the node rests: HUP brings workers to which they go at once.
#[test]
fn connections_beside_a_long_transfer_go_to_the_workers_that_hup_brings() {
    let node = Setup::new().workers("1").start();
    node.store("/dev1/a", "a");
    let (mut upload, mut idle) = (node.client(), node.client());
    upload
        .ask("PUT /dev1/up HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        .expect(100);
    let worker = node.workers()[0];
    node.signal(Signal::SIGWINCH);
    node.event("resting");
    for _ in 0..5 {
        idle.get("/dev1/a").expect_and(200, "keep-alive");
        assert!(idle.is_silent_for(Duration::from_millis(100)), "the pace");
    }
    node.signal(Signal::SIGHUP);
    node.event("reloaded");
    kill(worker, Signal::SIGSTOP).unwrap();
    kill(worker, Signal::SIGCONT).unwrap();
    (0..5).for_each(|_| drop(idle.get("/dev1/a").expect_and(200, "keep-alive")));
    upload.ask("body").expect_and(201, "keep-alive");
    until("the old worker to go", || is_gone(worker));
    idle.get("/dev1/up").expect_and(200, "keep-alive");
    upload.get("/dev1/up").expect_and(200, "keep-alive");
}

/// The kernel has only so many descriptors of one user under way: unix(7), ETOOMANYREFS. Those that
/// find no room are closed, and the workers go all the same.
#[test]
fn connections_that_find_no_room_are_closed_and_the_workers_go() {
    const COUNT: usize = 1000;
    if !process::allow_descriptors(COUNT as u64 + 200) {
        return skipped("so many descriptors are not allowed");
    }
    let mut setup = Setup::new().shell("ulimit -n 600").workers("2");
    if nix::unistd::geteuid().is_root() {
        setup = setup.through(&["setpriv", "--bounding-set=-net_admin,-sys_admin,-sys_resource"]);
    }
    let node = setup.start();
    let mut clients: Vec<_> = (0..COUNT).map(|_| node.client()).collect();
    clients.iter_mut().for_each(Client::stays_open);
    let begun = Instant::now();
    node.signal(Signal::SIGWINCH);
    until("the workers to go", || node.workers().is_empty());
    println!("gone after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    node.signal(Signal::SIGHUP);
    node.event("reloaded");
    let kept = clients.into_iter().map(keeps).filter(|kept| *kept).count();
    println!("{kept} of {COUNT} follow");
    assert!((200..COUNT).contains(&kept), "{kept}: there was to be room for most, not for all");
    node.client().stays_open();
}

/// It takes nothing of what it is sent, and is in nobody's way.
#[test]
fn a_watcher_that_does_not_read_holds_up_no_drain() {
    let setup = Setup::new();
    let folders = (0..800).map(|n| setup.folder().join(format!("dev{}", 16_770_000 + n)));
    folders.for_each(|folder| fs::create_dir(folder).unwrap());
    let mut node = setup.workers("1").env("MOG_DISK_USAGE_INTERVAL", "3600").start();
    let mut deaf = narrow_connection(node.address("mgmt"));
    deaf.write_all(b"watch\n").unwrap();
    let mut witness = node.sidechannel();
    witness.send("watch\n");
    // Of 12 kB each: more than the kernel keeps for it.
    (0..4).for_each(|_| drop(witness.take_through(b"\n.\n")));
    drop(witness);
    let begun = Instant::now();
    node.signal(Signal::SIGQUIT);
    assert_eq!(node.wait_for_exit().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

/// Whether it is answered; a closed one gets the end of the stream.
fn keeps(mut client: Client) -> bool {
    client.try_send("GET / HTTP/1.1\r\n\r\n") && client.line_or_end().is_some()
}
