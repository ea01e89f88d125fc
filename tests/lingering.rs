//! A connection that has had its last answer holds up no quit, whatever its client does.

use std::io::Write;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{Client, Node, Setup};

/// Each ends with an answer that closes.
const LAST: [(&str, u16); 4] = [
    ("garbage\r\n\r\n", 400),
    ("GET / HTTP/1.0\r\n\r\n", 200),
    ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", 200),
    ("GET / HTTP/9.9\r\n\r\n", 400),
];

fn quits_soon(mut node: Node, what: &str) {
    let begun = Instant::now();
    node.signal(Signal::SIGQUIT);
    assert_eq!(node.wait_for_exit().code(), Some(0));
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(4), "{what}: {took:?}");
}

fn answered(node: &Node, request: &str, status: u16) -> Client {
    let mut client = node.client();
    client.ask(request).expect(status);
    client
}

#[test]
fn client_that_does_not_close_holds_up_no_quit() {
    for workers in ["1", "device"] {
        let node = Setup::new().workers(workers).start();
        let clients = LAST.map(|(request, status)| answered(&node, request, status));
        let half_closed = answered(&node, LAST[0].0, LAST[0].1);
        half_closed.stream().shutdown(Shutdown::Write).unwrap();
        quits_soon(node, workers);
        drop(clients);
    }
}

#[test]
fn client_that_goes_on_sending_holds_up_no_quit() {
    let node = Setup::new().workers("1").start();
    let client = answered(&node, LAST[0].0, LAST[0].1);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) && (&mut client.stream()).write_all(b"more").is_ok()
            {
                thread::sleep(Duration::from_millis(1));
            }
        });
        quits_soon(node, "more");
        stop.store(true, Ordering::Relaxed);
    });
}
