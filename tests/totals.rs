//! What a node has done in all never falls, whatever becomes of its workers and masters.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::chain::{Chain, is_gone};
use crate::harness::{Setup, has_python, until};

/// Each of a node's totals, by name.
fn totals(chain: &Chain) -> Vec<(String, u64)> {
    named(&chain.node.status()["totals"])
}

fn named(totals: &Value) -> Vec<(String, u64)> {
    let totals = totals.as_object().expect("they are there").iter();
    totals.map(|(name, count)| (name.clone(), count.as_u64().unwrap())).collect()
}

fn total(chain: &Chain, name: &str) -> u64 {
    chain.node.status()["totals"][name].as_u64().unwrap()
}

/// Ten requests more, of new connections.
fn ten_more(chain: &Chain, expected: &mut u64) {
    for _ in 0..10 {
        chain.node.client().get("/dev1/a").expect(200);
    }
    *expected += 10;
    counts(chain, *expected);
}

/// An answer of one byte may be read before it is counted, and its byte later than the request: who
/// is killed at that moment does not.
fn counts(chain: &Chain, expected: u64) {
    for name in ["requests", "bytes_out"] {
        until(name, || {
            let total = total(chain, name);
            assert!(total <= expected, "{name}: {total} of {expected}");
            total == expected
        });
    }
}

/// Reads the status all the time, and fails when anything falls.
struct Observer {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<usize>,
}

impl Observer {
    fn of(chain: &Chain) -> Observer {
        let (path, stop) = (chain.path("status.sock"), Arc::<AtomicBool>::default());
        let stopped = Arc::clone(&stop);
        Observer { stop, thread: thread::spawn(move || observe(&path, &stopped)) }
    }

    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn observe(path: &PathBuf, stop: &AtomicBool) -> usize {
    let (mut before, mut looks) = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        // A master that was killed answers no more.
        let Ok(stream) = UnixStream::connect(path) else { continue };
        let Ok(document) = serde_json::from_reader::<_, Value>(stream) else { continue };
        let now = named(&document["totals"]);
        for ((name, before), (_, now)) in before.iter().zip(&now) {
            assert!(now >= before, "{name} fell from {before} to {now} in look {looks}");
        }
        (before, looks) = (now, looks + 1);
    }
    looks
}

#[test]
fn totals_go_on_through_upgrades_reloads_crashes_and_kills() {
    for workers in ["device", "1"] {
        let chain = Chain::start(Setup::new().workers(workers));
        chain.node.store("/dev1/a", "a");
        let observer = Observer::of(&chain);
        let mut expected = 0;
        ten_more(&chain, &mut expected);
        let seen = chain.seen();
        kill(chain.node.workers()[0], Signal::SIGKILL).unwrap();
        chain.node.event_after(seen, "worker_started");
        for _ in 0..2 {
            ten_more(&chain, &mut expected);
            chain.upgrade();
            counts(&chain, expected);
            ten_more(&chain, &mut expected);
            let seen = chain.seen();
            kill(chain.master(), Signal::SIGHUP).unwrap();
            chain.node.event_after(seen, "reloaded");
        }
        // The successor counts its predecessor's while that serves too, and the other way round
        // when it has gone.
        let (_, new) = chain.begin_upgrade();
        ten_more(&chain, &mut expected);
        let seen = chain.seen();
        kill(new, Signal::SIGQUIT).unwrap();
        chain.node.event_after(seen, "upgrade_failed");
        counts(&chain, expected);
        ten_more(&chain, &mut expected);
        let (old, _) = chain.begin_upgrade();
        kill(old, Signal::SIGKILL).unwrap();
        until("the old master to go", || is_gone(old));
        ten_more(&chain, &mut expected);
        chain.upgrade();
        ten_more(&chain, &mut expected);
        assert_eq!((total(&chain, "restarts"), total(&chain, "errors")), (1, 0));
        assert_eq!(total(&chain, "bytes_out"), expected);
        assert!(totals(&chain).len() >= 8);
        println!("{workers}: {expected} requests, {} looks", observer.end());
    }
}

/// Where the board is in no file, totals end with their master; nothing else does.
#[test]
fn without_a_file_of_memory_only_the_totals_do_not_go_on() {
    if !has_python() {
        return;
    }
    let calls = [nix::libc::SYS_memfd_create];
    let chain = Chain::start(Setup::new().refused(&calls, nix::libc::EPERM));
    chain.node.store("/dev1/a", "a");
    let mut expected = 0;
    ten_more(&chain, &mut expected);
    chain.node.logs("totals will not go on in an upgrade");
    chain.upgrade();
    expected = 0;
    ten_more(&chain, &mut expected);
}
