//! Upgrades that go otherwise than planned, and the connections meanwhile: another version, a
//! successor that dies at each step, two at once.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::chain::{Chain, is_gone};
use crate::harness::{Client, Setup, until};
use crate::load::process;
use crate::upgrade_follow::Kept;

/// An upload of two bytes, of which one is there.
fn upload(chain: &Chain) -> Client {
    let mut client = chain.node.client();
    let head = "Content-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    client.ask(format!("PUT /dev2/up HTTP/1.1\r\n{head}")).expect(100);
    client.send("o");
    client
}

fn kill_all(master: Pid) {
    let workers = process::children_of(master);
    // The workers first: without their master they would hand over and go.
    for pid in workers.into_iter().chain([master]) {
        kill(pid, Signal::SIGKILL).unwrap();
    }
}

/// A successor of another version, one behind a program that lets nothing of it through, and one
/// that hears of a descriptor which is none: politely closed, and nothing else.
#[test]
fn without_a_common_language_connections_are_closed_politely() {
    for words in [
        "RMOGSTORED_SUCCESSION=9${RMOGSTORED_SUCCESSION#1}; export RMOGSTORED_SUCCESSION",
        "unset RMOGSTORED_SUCCESSION",
        "RMOGSTORED_SUCCESSION=1,999,$PPID; export RMOGSTORED_SUCCESSION",
    ] {
        let chain = Chain::start(Setup::new());
        chain.node.store("/dev1/a", "a");
        chain.replace_by_script(&format!("{words}\nexec {{dir}}/real \"$@\""));
        let (mut idle, mut used, mut side) =
            (chain.node.client(), chain.node.client(), chain.node.sidechannel());
        idle.stays_open();
        side.send("size /dev1/a\n");
        assert_eq!(side.line(), "/dev1/a 1\r\n");
        let mut busy = upload(&chain);
        used.stays_open();
        let (old, new) = chain.begin_upgrade();
        kill(old, Signal::SIGQUIT).unwrap();
        chain.node.event("draining");
        until("an answer that says so", || {
            used.get("/dev1/a").expect(200).header("Connection") == Some("close")
        });
        used.closes();
        idle.closes();
        side.closes();
        busy.ask("k").expect_and(201, "close");
        busy.closes();
        until("the old master to go", || is_gone(old));
        assert_eq!(chain.master(), new);
        chain.node.client().get("/dev2/up").expect_and(200, "keep-alive");
    }
}

/// It fails before it serves: nobody notices.
#[test]
fn successor_that_dies_before_it_serves_is_not_noticed() {
    let chain = Chain::start(Setup::new());
    let mut kept = Kept::of(&chain.node);
    let mut busy = upload(&chain);
    for script in [
        "exit 3",                                                    // at once
        "kill -9 $$",                                                // killed
        "exec {dir}/nothing",                                        // cannot execute
        "exec {dir}/real \"$@\" --no-such-option",                   // usage
        "exec {dir}/real \"$@\" --docroot=/no/such/folder",          // configuration
        "exec {dir}/real \"$@\" --httplisten=127.0.0.1:1 --user=99", // cannot bind or become
    ] {
        chain.replace_by_script(script);
        chain.failed_upgrade();
        kept.go_on();
        kept.begin();
    }
    chain.replace_by_script("exec {dir}/real \"$@\"");
    // The moments between its start and its being ready, as they come.
    for delay in 0..12 {
        let seen = chain.seen();
        let old = chain.master();
        kill(old, Signal::SIGUSR2).unwrap();
        let started = chain.node.event_after(seen, "upgrade_started");
        let new = Pid::from_raw(started["pid"].as_i64().unwrap() as i32);
        std::thread::sleep(Duration::from_millis(delay * 3));
        kill(new, Signal::SIGKILL).unwrap();
        chain.node.event_after(seen, "upgrade_failed");
        assert_eq!(chain.master(), old);
        kept.go_on();
        kept.begin();
    }
    busy.ask("k").expect_and(201, "keep-alive");
    chain.upgrade();
    busy.get("/dev2/up").expect_and(200, "keep-alive");
    kept.go_on();
}

/// It is killed with what it has been given: that is lost, and nothing else.
#[test]
fn what_a_killed_successor_was_given_is_all_that_is_lost() {
    let chain = Chain::start(Setup::new());
    chain.node.store("/dev1/a", "a");
    let mut given: Vec<_> = (0..6).map(|_| chain.node.client()).collect();
    given.iter_mut().for_each(Client::stays_open);
    let mut busy: Vec<_> = (0..3).map(|_| upload(&chain)).collect();
    let (old, new) = chain.begin_upgrade();
    kill(old, Signal::SIGWINCH).unwrap();
    given.iter_mut().for_each(Client::stays_open);
    until("the successor to have them", || {
        let given = chain.node.status()["workers"].as_array().unwrap().clone();
        given.iter().map(|worker| worker["connections"].as_u64().unwrap()).sum::<u64>() == 6
    });
    let seen = chain.seen();
    kill_all(new);
    chain.node.event_after(seen, "upgrade_failed");
    given.iter_mut().for_each(Client::closes);
    for client in &mut busy {
        client.ask("k").expect_and(201, "keep-alive");
    }
    let seen = chain.seen();
    kill(old, Signal::SIGHUP).unwrap();
    chain.node.event_after(seen, "reloaded");
    busy.iter_mut().for_each(Client::stays_open);
    chain.upgrade();
    busy.iter_mut().for_each(Client::stays_open);
}

/// The same when the old master was told to go: those in progress are answered, and closed.
#[test]
fn uploads_are_answered_though_the_successor_is_killed_in_the_drain() {
    let mut chain = Chain::start(Setup::new());
    let mut busy: Vec<_> = (0..3).map(|_| upload(&chain)).collect();
    let (old, new) = chain.begin_upgrade();
    kill(old, Signal::SIGQUIT).unwrap();
    chain.node.event("draining");
    let seen = chain.seen();
    kill_all(new);
    chain.node.event_after(seen, "upgrade_failed");
    for client in &mut busy {
        client.ask("k").expect_and(201, "close");
        client.closes();
    }
    assert_eq!(chain.node.wait_for_exit().code(), Some(0));
}

/// USR2 to the new master is refused as long as the old one has something to finish.
#[test]
fn third_generation_comes_when_the_first_has_gone() {
    let chain = Chain::start(Setup::new());
    let mut kept = Kept::of(&chain.node);
    let mut busy = upload(&chain);
    let (old, new) = chain.begin_upgrade();
    kill(old, Signal::SIGQUIT).unwrap();
    until("the new pid file", || chain.master() == new);
    kept.go_on();
    kept.begin();
    kill(new, Signal::SIGUSR2).unwrap();
    chain.node.logs(&format!("upgrade already running on PID:{old}"));
    kept.go_on();
    kept.begin();
    busy.ask("k").expect_and(201, "keep-alive");
    until("the old master to go", || is_gone(old));
    chain.node.logs(&format!("PID {old} has gone"));
    chain.upgrade();
    chain.upgrade();
    busy.get("/dev2/up").expect_and(200, "keep-alive");
    kept.go_on();
}

/// A reload during an upgrade, of either node, and an upgrade during a reload.
#[test]
fn reloads_and_upgrades_at_once_lose_nobody() {
    for workers in ["device", "1"] {
        let chain = Chain::start(Setup::new().workers(workers));
        let mut kept = Kept::of(&chain.node);
        for _ in 0..3 {
            // HUP and USR2 at the same moment.
            let (seen, old) = (chain.seen(), chain.master());
            kill(old, Signal::SIGHUP).unwrap();
            kill(old, Signal::SIGUSR2).unwrap();
            let ready = chain.node.event_after(seen, "upgrade_ready");
            let new = Pid::from_raw(ready["pid"].as_i64().unwrap() as i32);
            kept.go_on();
            kept.begin();
            // Both nodes of the upgrade, and then the end of the old one.
            kill(old, Signal::SIGHUP).unwrap();
            kill(new, Signal::SIGHUP).unwrap();
            kill(old, Signal::SIGQUIT).unwrap();
            until("the old master to go", || is_gone(old));
            kept.go_on();
            kept.begin();
        }
    }
}
