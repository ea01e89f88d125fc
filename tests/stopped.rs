//! 7: workers that were stopped (SIGSTOP) hold up no quit, reload or upgrade.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::chain::{Chain, is_gone};
use crate::harness::{Node, Setup, until};

fn stopped(node: &Node) -> Pid {
    let victim = node.workers()[0];
    kill(victim, Signal::SIGSTOP).unwrap();
    victim
}

#[test]
fn quit_and_termination_do_not_wait_for_a_worker_that_was_stopped() {
    for signal in [Signal::SIGQUIT, Signal::SIGTERM] {
        for workers in ["1", "3", "device"] {
            let mut node = Setup::new().workers(workers).start();
            let victim = stopped(&node);
            node.signal(signal);
            assert_eq!(node.wait_for_exit().code(), Some(0), "{signal}, {workers}");
            assert!(is_gone(victim));
        }
    }
}

/// It is let go on, not killed: what it has in progress is finished.
#[test]
fn request_in_progress_in_a_stopped_worker_is_finished() {
    let mut node = Setup::new().workers("1").start();
    let mut half = node.client();
    half.ask("GET / HTTP/1.1\r\n\r\nGET / HT").expect(200);
    stopped(&node);
    node.signal(Signal::SIGQUIT);
    node.logs("is stopped and is to drain: SIGCONT");
    half.ask("TP/1.1\r\n\r\n").expect(200);
    assert_eq!(node.wait_for_exit().code(), Some(0));
}

/// As a debugger does, or somebody who stops all processes of a name over and over.
#[test]
fn worker_that_is_stopped_again_and_again_is_killed() {
    let mut node = Setup::new().workers("2").start();
    let mut half = node.client();
    half.ask("GET / HTTP/1.1\r\n\r\nGET / HT").expect(200);
    let workers = node.workers();
    // One that has gone needs no signal.
    let stop_all = || workers.iter().for_each(|pid| _ = kill(*pid, Signal::SIGSTOP));
    stop_all();
    let begun = Instant::now();
    node.signal(Signal::SIGQUIT);
    until("the workers' end", || {
        stop_all();
        workers.iter().all(|pid| is_gone(*pid))
    });
    assert_eq!(node.wait_for_exit().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    node.logs("stays stopped");
}

#[test]
fn reload_replaces_a_stopped_worker() {
    let node = Setup::new().workers("2").start();
    let victim = stopped(&node);
    node.signal(Signal::SIGHUP);
    node.event("reloaded");
    until("the stopped one to go", || is_gone(victim));
    node.client().stays_open();
    until("it to be reaped", || !node.workers().contains(&victim));
    let second = node.workers()[0];
    // WINCH sends all away.
    kill(second, Signal::SIGSTOP).unwrap();
    node.signal(Signal::SIGWINCH);
    until("the stopped one to go", || is_gone(second));
}

#[test]
fn upgrade_ends_beside_a_stopped_worker() {
    let chain = Chain::start(Setup::new());
    let victim = stopped(&chain.node);
    chain.upgrade();
    assert!(is_gone(victim));
    chain.node.client().stays_open();
}

/// The successor itself, before it is ready.
#[test]
fn stopped_successor_holds_up_no_quit() {
    let mut chain = Chain::start(Setup::new());
    chain.replace_by_script("kill -STOP $$\nexec {dir}/real \"$@\"");
    chain.node.signal(Signal::SIGUSR2);
    let successor = chain.node.event("upgrade_started")["pid"].as_i64().unwrap();
    chain.node.signal(Signal::SIGQUIT);
    assert_eq!(chain.node.wait_for_exit().code(), Some(0));
    until("the successor's end", || is_gone(Pid::from_raw(successor as i32)));
}
