//! `Expect: 100-continue`.

use std::time::{Duration, Instant};

use crate::harness::Node;

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn continue_is_sent_as_soon_as_the_put_would_be_accepted() {
    let node = Node::start();
    let mut client = node.client();
    let begun = Instant::now();
    client.send("PUT /dev1/a HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    let answer = client.answer();
    assert!(begun.elapsed() < Duration::from_millis(500), "curl would not have waited so long");
    assert_eq!((answer.line.as_str(), answer.headers.len()), ("HTTP/1.1 100 Continue", 0));
    client.ask("abc").expect_and(201, "keep-alive");
    assert_eq!(node.content("/dev1/a"), b"abc");
    client.stays_open();
}

#[test]
fn continue_is_sent_for_a_chunked_put_too() {
    let node = Node::start();
    let mut client = node.client();
    let head = "PUT /dev1/a HTTP/1.1\r\nTransfer-Encoding: chunked\r\nexpect: 100-Continue\r\n\r\n";
    assert_eq!(client.ask(head).status, 100);
    client.ask("3\r\nabc\r\n0\r\n\r\n").expect_and(201, "keep-alive");
    assert_eq!(node.content("/dev1/a"), b"abc");
}

#[test]
fn a_body_that_did_not_wait_for_continue_is_taken() {
    let node = Node::start();
    let mut client = node.client();
    client.send("PUT /dev1/a HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc");
    let answer = client.answer();
    let answer = if answer.status == 100 { client.answer() } else { answer };
    answer.expect_and(201, "keep-alive");
    client.stays_open();
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn a_put_that_would_be_refused_gets_its_answer_instead_of_continue() {
    let node = Node::start();
    for (path, status) in [("/dev9/a", 404), ("/dev1/", 400), ("/dev1/a..b", 403)] {
        let begun = Instant::now();
        node.closes_after(
            format!("PUT {path} HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"),
            status,
        );
        assert!(begun.elapsed() < Duration::from_millis(500), "curl would not have waited so long");
    }
}
