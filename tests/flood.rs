//! Clients that say the same to the sidechannel as fast as they can.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{Node, Setup, until};

/// Two clients, each with its own word, until it is dropped or they are closed.
struct Flood {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Flood {
    fn of(node: &Node, lines: [&'static str; 2]) -> Flood {
        let stop = Arc::new(AtomicBool::new(false));
        let address = node.address("mgmt");
        let client = |line: &'static str| {
            let stop = stop.clone();
            thread::spawn(move || pour(address, line, &stop))
        };
        Flood { clients: lines.into_iter().map(client).collect(), stop }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.drain(..).for_each(|client| drop(client.join()));
    }
}

fn pour(address: SocketAddr, line: &str, stop: &AtomicBool) {
    let mut stream = TcpStream::connect(address).unwrap();
    let (lines, mut answers) = (line.repeat(1000), [0; 1 << 16]);
    stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    while !stop.load(Ordering::Relaxed) {
        let passes =
            |e: &std::io::Error| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        if stream.write(lines.as_bytes()).is_err_and(|e| !passes(&e)) {
            return;
        }
        match stream.read(&mut answers) {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) if passes(&e) => {}
            Err(_) => return,
        }
    }
}

/// The same, and two that change each other's mind for ever.
const FLOODS: [[&str; 2]; 2] = [
    ["server aio_threads = 5\r\n"; 2],
    ["server aio_threads = 5\r\n", "server aio_threads = 6\r\n"],
];

#[test]
fn quit_reaches_the_workers_of_a_node_that_is_flooded_with_commands() {
    for lines in FLOODS {
        let mut node = Setup::new().workers("3").start();
        let flood = Flood::of(&node, lines);
        // Long enough for thousands of messages each way.
        thread::sleep(Duration::from_secs(1));
        node.client().stays_open();
        let begun = Instant::now();
        node.signal(Signal::SIGQUIT);
        assert_eq!(node.wait_for_exit().code(), Some(0));
        let took = begun.elapsed();
        drop(flood);
        let lines = node.stderr.so_far().len();
        assert!(lines < 100, "{lines} lines");
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
}

#[test]
fn reload_of_a_flooded_node_replaces_all_workers() {
    let node = Setup::new().workers("2").start();
    let flood = Flood::of(&node, FLOODS[1]);
    let before = node.workers();
    node.signal(Signal::SIGHUP);
    node.event("reloaded");
    until("new workers alone", || {
        let now = node.workers();
        now.len() == 2 && before.iter().all(|pid| !now.contains(pid))
    });
    drop(flood);
    node.client().stays_open();
}
