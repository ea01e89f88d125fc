//! The log says who asked for a quit, and what cut connections off.

use nix::sys::signal::Signal;

use crate::chain::is_gone;
use crate::harness::{Node, Setup, until};

#[test]
fn draining_names_the_signal_and_its_sender() {
    for signal in [Signal::SIGQUIT, Signal::SIGTERM] {
        let mut node = Node::start();
        node.signal(signal);
        let own = std::process::id();
        let line = node.logs(&format!("draining: {signal} from PID {own} ("));
        assert!(line.contains(", user "), "{line}");
        let event = node.event("draining");
        assert!(event["by"].as_str().unwrap().starts_with(&format!("{signal} from PID {own}")));
        node.wait_for_exit();
    }
}

#[test]
fn draining_names_the_sidechannel_s_peer() {
    let mut node = Node::start();
    let mut manager = node.sidechannel();
    let own = manager.stream().local_addr().unwrap();
    manager.send("shutdown\r\n");
    node.logs(&format!("draining: shutdown from {own}"));
    node.wait_for_exit();
}

/// What was configured has nothing to do with it.
#[test]
fn orphans_do_not_blame_the_drain_timeout() {
    let mut node = Setup::new().workers("1").start();
    let worker = node.workers()[0];
    let mut half = node.client();
    half.ask("GET / HTTP/1.1\r\n\r\nGET / HT").expect(200);
    node.signal(Signal::SIGKILL);
    node.wait_for_exit();
    until("the worker to go", || is_gone(worker));
    node.logs("the master is gone: 1 connections are cut off");
    assert_eq!(node.logged("drain_timeout"), 0);
}
