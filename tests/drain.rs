//! Graceful quit.

use std::fs::File;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{Node, Setup, pattern, until};

const SIGNALS: [Signal; 3] = [Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGINT];

#[test]
fn an_idle_node_ends_at_once_with_status_0_and_events() {
    for signal in SIGNALS {
        let mut node = Node::start();
        let begun = Instant::now();
        node.signal(signal);
        assert_eq!(node.wait_for_exit().code(), Some(0), "{signal}");
        assert!(begun.elapsed() < Duration::from_secs(3), "{signal} took {:?}", begun.elapsed());
        for kind in ["draining", "worker_exited", "stopped"] {
            node.event(kind);
        }
    }
}

#[test]
fn idle_connections_are_closed() {
    let mut node = Node::start();
    let (mut fresh, mut used, mut side) = (node.client(), node.client(), node.sidechannel());
    used.stays_open();
    node.signal(Signal::SIGQUIT);
    used.closes();
    fresh.closes();
    side.closes();
    assert_eq!(node.wait_for_exit().code(), Some(0));
}

#[test]
fn a_half_sent_head_is_finished() {
    for signal in SIGNALS {
        let mut node = Node::start();
        node.store("/dev1/a", "a");
        let mut client = node.client();
        client.ask("GET / HTTP/1.1\r\n\r\nGET /dev1/a HT").expect(200);
        node.signal(signal);
        node.event("draining");
        refuses_connections(&node);
        let answer = client.ask("TP/1.1\r\n\r\n").expect(200);
        assert_eq!(answer.body, b"a");
        client.closes();
        assert_eq!(node.wait_for_exit().code(), Some(0));
    }
}

#[test]
fn a_half_sent_body_is_finished() {
    for workers in ["1", "device", "3"] {
        let mut node = Setup::new().workers(workers).start();
        let mut client = node.client();
        let head = "PUT /dev2/a HTTP/1.1\r\nContent-Length: 8\r\nExpect: 100-continue\r\n\r\n";
        client.ask(head).expect(100);
        client.send("half");
        node.signal(Signal::SIGQUIT);
        node.event("draining");
        refuses_connections(&node);
        client.ask("done").expect(201);
        client.closes();
        drop(client);
        assert_eq!(node.wait_for_exit().code(), Some(0));
        assert_eq!(node.content("/dev2/a"), b"halfdone");
    }
}

#[test]
fn a_half_read_answer_is_finished() {
    let mut node = Node::start();
    let content = pattern(32 << 20);
    node.store("/dev1/big", &content);
    let mut client = node.client();
    client.send("GET /dev1/big HTTP/1.1\r\n\r\n");
    client.take_through(b"\r\n\r\n");
    node.signal(Signal::SIGTERM);
    node.event("draining");
    refuses_connections(&node);
    assert!(client.take(content.len()) == content);
    client.closes();
    assert_eq!(node.wait_for_exit().code(), Some(0));
}

#[test]
fn pipelined_requests_are_finished() {
    let mut node = Node::start();
    let content = pattern(16 << 20);
    node.store("/dev1/big", &content);
    let mut client = node.client();
    let big = "GET /dev1/big HTTP/1.1\r\n\r\n";
    client.send(format!("{big}GET / HTTP/1.1\r\n\r\nGET /dev2/no HTTP/1.1\r\n\r\n{big}"));
    client.take_through(b"\r\n\r\n");
    node.signal(Signal::SIGQUIT);
    node.event("draining");
    assert!(client.take(content.len()) == content);
    client.answer().expect(200);
    client.answer().expect(404);
    assert!(client.answer().body == content);
    client.closes();
    assert_eq!(node.wait_for_exit().code(), Some(0));
}

#[test]
fn a_second_term_ends_it_at_once() {
    let mut node = Node::start();
    let mut client = node.client();
    client.ask("GET / HTTP/1.1\r\n\r\nGET /").expect(200);
    node.signal(Signal::SIGTERM);
    node.event("draining");
    refuses_connections(&node);
    let begun = Instant::now();
    node.signal(Signal::SIGTERM);
    node.wait_for_exit();
    client.closes();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[test]
fn a_drain_lasts_no_longer_than_drain_timeout() {
    let mut node = Setup::new().arg("--drain-timeout=0.5").start();
    let mut client = node.client();
    client.ask("GET / HTTP/1.1\r\n\r\nGET /").expect(200);
    let begun = Instant::now();
    node.signal(Signal::SIGQUIT);
    assert_eq!(node.wait_for_exit().code(), Some(0));
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(400) && took < Duration::from_secs(5), "{took:?}");
}

/// The rest of a body and the next request in one packet: both are read from the socket after the
/// drain has begun.
#[test]
fn a_request_behind_the_rest_of_a_body_is_answered() {
    const GET: &str = "GET /dev1/a HTTP/1.1\r\n\r\n";
    let requests = [
        ("PUT /dev1/b HTTP/1.1\r\nContent-Length: 5\r\n\r\n", "hello", 201),
        ("PUT /dev1/b HTTP/1.1\r\nContent-Length: 5\r\n\r\nhel", "lo", 201),
        ("PUT /dev1/c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n0\r\n\r\n", 201),
        ("PUT /dev9/b HTTP/1.1\r\nContent-Length: 5\r\n\r\n", "hello", 404),
        ("DELETE /dev1/no HTTP/1.1\r\nContent-Length: 5\r\n\r\n", "hello", 404),
        ("GET /dev1/a HTTP/1.1\r\nContent-Length: 5\r\n\r\n", "hello", 200),
        ("HEAD", " /dev9/no HTTP/1.1\r\n\r\n", 404),
        ("MKCOL /dev1/d HTTP/1.1\r\nContent-Length: 5\r\n\r\n", "hello", 400),
    ];
    for workers in ["1", "device"] {
        for (head, rest, status) in requests {
            let mut node = Setup::new().workers(workers).start();
            node.store("/dev1/a", "a");
            let mut client = node.client();
            client.ask(format!("GET / HTTP/1.1\r\n\r\n{head}")).expect(200);
            node.signal(Signal::SIGQUIT);
            node.event("draining");
            refuses_connections(&node);
            client.send(format!("{rest}{GET}"));
            match head.starts_with("HEAD") {
                true => client.answer_to_head().expect(status),
                false => client.answer().expect(status),
            };
            assert_eq!(client.answer().expect(200).body, b"a", "{head}");
            client.closes();
            assert_eq!(node.wait_for_exit().code(), Some(0));
        }
    }
}

/// Their answers are sent; what they do next is nobody's business any more.
#[test]
fn connections_that_only_linger_hold_nothing_up() {
    let mut node = Node::start();
    let (mut garbage, mut side, mut more) = (node.client(), node.sidechannel(), node.client());
    garbage.ask("garbage\r\n\r\n").expect(400);
    garbage.closes();
    more.ask("GET / HTTP/1.0\r\n\r\nGET / HTTP/1.1\r\n\r\n").expect(200);
    more.closes();
    let begun = Instant::now();
    side.send("shutdown\n");
    side.closes();
    assert_eq!(node.wait_for_exit().code(), Some(0));
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    drop((garbage, side, more));
}

/// All that an operator may have going on at once.
#[test]
fn everything_in_progress_ends_as_it_should() {
    const MIB: usize = 1024 * 1024;
    let mut node = Node::start();
    node.store("/dev1/a", "a");
    let large = pattern(100 * MIB);
    node.store("/dev1/large", &large);
    for n in 0..4 {
        let file = File::create(node.file(&format!("/dev2/digest{n}"))).unwrap();
        file.set_len(100 << 20).unwrap();
    }
    let mut slow = node.client();
    slow.send("GET /dev1/large HTTP/1.1\r\n\r\n");
    slow.take_through(b"\r\n\r\n");
    let mut trickle = node.client();
    let put = "PUT /dev2/t HTTP/1.1\r\nContent-Length: 6\r\nExpect: 100-continue\r\n\r\n";
    trickle.ask(put).expect(100);
    trickle.send("t");
    let mut half = node.client();
    half.ask("GET / HTTP/1.1\r\n\r\nGET /dev1/a HT").expect(200);
    let mut fsck: Vec<_> = (0..4).map(|_| node.sidechannel()).collect();
    for (n, client) in fsck.iter_mut().enumerate() {
        client.send(format!("MD5 /dev2/digest{n} fsck\n"));
    }
    let mut watcher = node.sidechannel();
    watcher.send("watch\n");
    until("a group", || watcher.line() == ".\n");
    node.signal(Signal::SIGQUIT);
    node.event("draining");
    watcher.rest(); // Up to the end, which comes before the others are done.
    for letter in ["r", "i", "c", "k"] {
        trickle.send(letter);
        assert!(trickle.is_silent_for(Duration::from_millis(100)));
    }
    trickle.ask("l").expect_and(201, "close");
    assert_eq!(half.ask("TP/1.1\r\n\r\n").expect_and(200, "close").body, b"a");
    for (n, client) in fsck.iter_mut().enumerate() {
        assert!(client.line().starts_with(&format!("/dev2/digest{n} MD5=")));
        client.closes();
    }
    assert!(slow.take(100 * MIB) == large, "the answer is not whole");
    drop((slow, trickle, half));
    assert_eq!(node.wait_for_exit().code(), Some(0));
    assert_eq!(node.content("/dev2/t"), b"trickl");
}

fn refuses_connections(node: &Node) {
    until("connections to be refused", || TcpStream::connect(node.http()).is_err());
}
