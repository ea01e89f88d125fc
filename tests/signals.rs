//! Signals, process titles, workers that stand still, orphans.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::chain::is_gone;
use crate::harness::{Node, Setup, until};

fn title(pid: Pid) -> String {
    let shown = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&shown).trim_end_matches('\0').to_owned()
}

#[test]
fn titles_tell_who_is_who() {
    let mut node = Setup::new().workers("device").start();
    assert_eq!(title(node.pid()), "rmogstored: master");
    let workers = node.workers();
    until("the workers' titles", || {
        let mut titles: Vec<String> = workers.iter().map(|pid| title(*pid)).collect();
        titles.sort();
        titles == ["rmogstored: worker dev1", "rmogstored: worker dev2"]
    });
    let mut half = node.client();
    half.ask("GET / HTTP/1.1\r\n\r\nGET / HT").expect(200);
    node.signal(Signal::SIGQUIT);
    node.event("draining");
    assert_eq!(title(node.pid()), "rmogstored: master shutting down");
    until("a draining worker's title", || {
        workers.iter().any(|pid| title(*pid).ends_with(" shutting down"))
    });
    half.ask("TP/1.1\r\n\r\n").expect(200);
    assert_eq!(node.wait_for_exit().code(), Some(0));
}

#[test]
fn usr1_disturbs_nobody() {
    let node = Node::start();
    let mut client = node.client();
    (0..10).for_each(|_| {
        node.signal(Signal::SIGUSR1);
        client.stays_open();
    });
}

#[test]
fn worker_that_stands_still_is_told_of_once_and_left_alone() {
    let node = Setup::new().workers("2").start();
    let victim = node.workers()[0];
    kill(victim, Signal::SIGSTOP).unwrap();
    let stuck = node.event("worker_stuck");
    assert_eq!(stuck["pid"], victim.as_raw());
    assert!(stuck["age_ms"].as_u64().unwrap() >= 5000, "{stuck}");
    node.logs("stands still");
    kill(victim, Signal::SIGCONT).unwrap();
    assert_eq!(node.event("worker_alive")["pid"], victim.as_raw());
    assert_eq!(node.all_events("worker_stuck").len(), 1);
    assert!(node.workers().contains(&victim));
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn orphans_finish_what_they_can_in_five_seconds() {
    let mut node = Setup::new().workers("2").start();
    let workers = node.workers();
    let (mut ends, mut never) = (node.client(), node.client());
    for half in [&mut ends, &mut never] {
        half.ask("GET / HTTP/1.1\r\n\r\nGET / HT").expect(200);
    }
    node.signal(Signal::SIGKILL);
    node.wait_for_exit();
    let begun = Instant::now();
    ends.ask("TP/1.1\r\n\r\n").expect(200);
    until("the workers to go", || workers.iter().all(|pid| is_gone(*pid)));
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(7), "{took:?}");
    assert!(took > Duration::from_secs(3), "the request in progress had no time: {took:?}");
    never.rest();
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn killed_node_can_be_started_again_at_once() {
    let mut node = Node::start();
    let (http, workers) = (node.http(), node.workers());
    let mut half = node.client();
    half.ask("GET / HTTP/1.1\r\n\r\nGET / HT").expect(200);
    node.signal(Signal::SIGKILL);
    node.wait_for_exit();
    let begun = Instant::now();
    let next = Setup::new().http(&http.to_string()).start();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    next.client().stays_open();
    half.ask("TP/1.1\r\n\r\n").expect(200);
    until("the old workers to go", || workers.iter().all(|pid| is_gone(*pid)));
}
