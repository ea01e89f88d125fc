//! Requests: what is understood, what is refused, and what becomes of the connection.

use std::io::Write;
use std::time::Duration;

use crate::harness::{Node, pattern};

/// 100 Continue.
mod expect;
/// Paths.
mod targets;

const MAX_HEAD: usize = 65_534;

#[test]
fn every_method_is_known() {
    let node = Node::start();
    node.store("/dev1/a", "a");
    let mut client = node.client();
    assert_eq!(client.get("/dev1/a").status, 200);
    assert_eq!(client.head("/dev1/a").status, 200);
    assert_eq!(client.put("/dev1/b", "b").status, 201);
    assert_eq!(client.delete("/dev1/a").status, 204);
    assert_eq!(client.mkcol("/dev1/c").status, 400);
}

#[test]
fn other_methods_are_501_and_close() {
    let node = Node::start();
    for method in ["POST", "OPTIONS", "PROPFIND", "TRACE", "get", "GETS", "G"] {
        node.closes_after(format!("{method} /dev1/a HTTP/1.1\r\n\r\n"), 501);
    }
}

#[test]
fn http_1_1_persists_unless_told_to_close() {
    let node = Node::start();
    node.stays_after("GET / HTTP/1.1\r\n\r\n", 200);
    node.closes_after("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", 200);
}

#[test]
fn http_1_0_closes_unless_told_to_persist() {
    let node = Node::start();
    node.closes_after("GET / HTTP/1.0\r\n\r\n", 200);
    node.stays_after("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200);
}

#[test]
fn connection_is_a_list_in_any_case_with_repeats_and_strangers() {
    let node = Node::start();
    for list in ["Keep-Alive, keep-alive", "KEEP-ALIVE", "TE,keep-alive , foo", "x,,keep-alive"] {
        node.stays_after(format!("GET / HTTP/1.0\r\nConnection: {list}\r\n\r\n"), 200);
    }
    for list in ["TE, close", "CLOSE", "close,close", "foo ,\tClose", "keep-alive, close"] {
        node.closes_after(format!("GET / HTTP/1.1\r\nConnection: {list}\r\n\r\n"), 200);
    }
    node.closes_after("GET / HTTP/1.1\r\nConnection: TE\r\nconnection: close\r\n\r\n", 200);
    let repeated = "Connection: close\r\nConnection: keep-alive\r\nConnection: close";
    node.closes_after(format!("GET / HTTP/1.1\r\n{repeated}\r\n\r\n"), 200);
    let repeated = "Connection: TE\r\nConnection: Keep-Alive\r\nConnection: keep-alive";
    node.stays_after(format!("GET / HTTP/1.0\r\n{repeated}\r\n\r\n"), 200);
    node.stays_after("GET / HTTP/1.1\r\nConnection: closed, not-close\r\n\r\n", 200);
}

#[test]
fn header_names_come_in_any_case() {
    let node = Node::start();
    node.closes_after("GET / HTTP/1.1\r\ncOnNeCtIoN:close\r\n\r\n", 200);
    node.stays_after("PUT /dev1/a HTTP/1.1\r\ncontent-LENGTH:   3  \r\n\r\nabc", 201);
    assert_eq!(node.content("/dev1/a"), b"abc");
}

#[test]
fn a_thousand_pipelined_requests_are_answered_in_order() {
    let node = Node::start();
    for n in 0..10 {
        node.store(&format!("/dev{}/f{n}", 1 + n % 2), format!("content {n}"));
    }
    let path = |n: usize| format!("/dev{}/f{}", 1 + n % 2, n % 10);
    let all: String = (0..1000).map(|n| format!("GET {} HTTP/1.1\r\n\r\n", path(n))).collect();
    let mut client = node.client();
    client.send(all);
    for n in 0..1000 {
        assert_eq!(client.answer().body, format!("content {}", n % 10).into_bytes());
    }
}

#[test]
fn pipelined_requests_of_all_kinds_keep_their_order() {
    let node = Node::start();
    let mut client = node.client();
    for round in 0..50 {
        let device = 1 + round % 2;
        client.send(format!(
            "PUT /dev{device}/p HTTP/1.1\r\nContent-Length: 2\r\n\r\n{round:02}\
             GET /dev{device}/p HTTP/1.1\r\n\r\n\
             MKCOL /dev{device}/p HTTP/1.1\r\n\r\n\
             DELETE /dev{device}/p HTTP/1.1\r\n\r\n\
             GET /dev{device}/p HTTP/1.1\r\n\r\n"
        ));
        assert_eq!(client.answer().status, 201);
        assert_eq!(client.answer().expect(200).body, format!("{round:02}").into_bytes());
        assert_eq!(client.answer().status, 400);
        assert_eq!(client.answer().status, 204);
        assert_eq!(client.answer().status, 404);
    }
}

#[test]
fn a_client_that_does_not_read_is_not_read_from() {
    let node = Node::start();
    let content = pattern(256 * 1024);
    node.store("/dev1/big", &content);
    let filler = "x".repeat(32 * 1024);
    let request = format!("GET /dev1/big HTTP/1.1\r\nFiller: {filler}\r\n\r\n").into_bytes();
    let mut client = node.client();
    client.stream().set_write_timeout(Some(Duration::from_millis(700))).unwrap();
    let mut sent = 0;
    while sent < 2000 && client.stream().write_all(&request).is_ok() {
        sent += 1;
    }
    assert!((40..2000).contains(&sent), "{sent} requests were taken without an answer being read");
    for _ in 0..sent {
        assert!(client.answer().expect(200).body == content);
    }
}

#[test]
fn a_client_that_shut_its_writing_side_still_gets_its_answers() {
    let node = Node::start();
    let content = pattern(8 << 20);
    node.store("/dev1/big", &content);
    let mut client = node.client();
    client
        .send("GET / HTTP/1.1\r\n\r\nGET /dev1/big HTTP/1.1\r\n\r\nGET /dev2/no HTTP/1.1\r\n\r\n");
    client.finish_sending();
    assert_eq!(client.answer().status, 200);
    assert!(client.answer().body == content);
    assert_eq!(client.answer().status, 404);
    client.closes();
}

#[test]
fn a_put_followed_by_the_end_of_the_writing_side_is_carried_out() {
    let node = Node::start();
    let mut client = node.client();
    client.send("PUT /dev1/a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc");
    client.finish_sending();
    client.answer().expect(201);
    client.closes();
    assert_eq!(node.content("/dev1/a"), b"abc");
}

#[test]
fn lines_that_end_in_a_bare_lf_are_400_and_close() {
    let node = Node::start();
    node.closes_after("GET / HTTP/1.1\n\r\n\r\n", 400);
    node.closes_after("GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n", 400);
}

#[test]
fn later_minor_versions_are_served_as_1_1() {
    let node = Node::start();
    for minor in 1..=9 {
        let answer = node.stays_after(format!("GET / HTTP/1.{minor}\r\n\r\n"), 200);
        assert_eq!(answer.line, "HTTP/1.1 200 OK");
        node.closes_after(format!("GET / HTTP/1.{minor}\r\nConnection: close\r\n\r\n"), 200);
        let put = format!("PUT /dev1/a HTTP/1.{minor}\r\nContent-Length: 1\r\n\r\n");
        node.stays_after(put + "x", 201);
    }
    // The preface of HTTP/2 is nothing that we speak.
    node.closes_after("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400);
    for version in ["HTTP/0.9", "HTTP/2.0", "HTTP/3.1", "HTTP/1.", "HTTP/1.x", "HTTP/1.1.1"] {
        node.closes_after(format!("GET / {version}\r\n\r\n"), 400);
    }
}

#[test]
fn a_head_of_65534_bytes_is_accepted() {
    let node = Node::start();
    node.stays_after(head_of(MAX_HEAD), 200);
}

#[test]
fn a_head_of_65535_bytes_is_400_and_closes() {
    let node = Node::start();
    node.closes_after(head_of(MAX_HEAD + 1), 400);
    let unfinished = &head_of(MAX_HEAD + 100)[..=MAX_HEAD];
    node.closes_after(unfinished, 400);
}

#[test]
fn the_limit_of_a_head_counts_from_its_own_first_byte() {
    let node = Node::start();
    let mut client = node.client();
    client.send([head_of(MAX_HEAD), head_of(MAX_HEAD), head_of(MAX_HEAD + 1)].concat());
    client.answer().expect_and(200, "keep-alive");
    client.answer().expect_and(200, "keep-alive");
    client.answer().expect_and(400, "close");
}

#[test]
fn a_head_may_have_4094_headers() {
    let node = Node::start();
    let headers = "H: value\r\n".repeat(4093);
    node.closes_after(format!("GET / HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"), 200);
}

#[test]
fn a_head_may_come_one_byte_at_a_time() {
    let node = Node::start();
    let mut client = node.client();
    for byte in b"PUT /dev1/slow HTTP/1.1\r\nHost: n\r\nContent-Length: 3\r\n\r\nabc" {
        client.send([*byte]);
    }
    client.answer().expect_and(201, "keep-alive");
    for byte in b"GET /dev1/slow HTTP/1.1\r\n\r\n" {
        client.send([*byte]);
    }
    assert_eq!(client.answer().body, b"abc");
}

#[test]
fn garbage_is_400_and_closes() {
    let node = Node::start();
    let requests: [&[u8]; 12] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP\r\n\r\n",
        b"GET / HTTX/1.1\r\n\r\n",
        b"GET / HTTP/1.1 \r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b"GET /\tHTTP/1.1\r\n\r\n",
        b"G\xffT / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\n: no name\r\n\r\n",
    ];
    for request in requests {
        node.closes_after(request, 400);
    }
}

#[test]
fn chunked_beside_content_length_wins_and_closes() {
    let node = Node::start();
    let mut client = node.client();
    client.send(
        "PUT /dev1/a HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    );
    client.answer().expect_and(201, "close");
    client.closes();
    assert_eq!(node.content("/dev1/a"), b"hello");
}

#[test]
fn doubtful_lengths_are_400_and_close() {
    let node = Node::start();
    for lines in [
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: 12a\r\n",
        "Content-Length: a\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x3\r\n",
        "Content-Length: 1 2\r\n",
        "Content-Length: \r\n",
    ] {
        refused_with_nothing_stored(&node, lines, 400);
    }
}

#[test]
fn doubtful_header_lines_are_400_and_close() {
    let node = Node::start();
    for lines in [
        "A: b\r\n folded\r\n",
        "A: b\r\n\tfolded\r\n",
        "Content-Length : 3\r\n",
        "A : b\r\n",
        "Transfer-Encoding : chunked\r\n",
        " A: b\r\n",
        "A: b\rC: d\r\n",
        "A: b\r\r\n",
        "A: \0\r\n",
        "A\0: b\r\n",
    ] {
        refused_with_nothing_stored(&node, lines, 400);
    }
}

#[test]
fn other_transfer_encodings_are_501_and_close() {
    let node = Node::start();
    for coding in ["gzip", "identity", "gzip, chunked", "chunked, gzip", "xchunked", "chunked;q=1"]
    {
        refused_with_nothing_stored(&node, &format!("Transfer-Encoding: {coding}\r\n"), 501);
    }
}

#[test]
fn numbers_past_63_bits_are_507_and_close() {
    let node = Node::start();
    for number in ["9223372036854775808", "18446744073709551616", "99999999999999999999999"] {
        let length = format!("Content-Length: {number}\r\n\r\n");
        node.closes_after(format!("PUT /dev1/a HTTP/1.1\r\n{length}"), 507);
        node.closes_after(format!("GET / HTTP/1.1\r\n{length}"), 507);
        let range = format!("Content-Range: bytes {number}-{number}/*\r\nContent-Length: 1\r\n");
        node.closes_after(format!("PUT /dev1/a HTTP/1.1\r\n{range}\r\n"), 507);
    }
    for size in ["8000000000000000", "ffffffffffffffff", "10000000000000000000"] {
        let head = "PUT /dev1/a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        node.closes_after(format!("{head}{size}\r\n"), 507);
    }
    assert!(!node.file("/dev1/a").exists());
}

#[test]
fn bodies_that_nobody_asked_for_are_thrown_away() {
    let node = Node::start();
    for (method, status) in [("GET", 200), ("DELETE", 403), ("MKCOL", 400)] {
        for length in [0, 1, 5000, 65_536] {
            let head = format!("{method} / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
            let body = vec![b'G'; length];
            node.stays_after([head.into_bytes(), body].concat(), status);
        }
    }
    let mut client = node.client();
    client.send("HEAD / HTTP/1.1\r\nContent-Length: 4\r\n\r\nGET ");
    client.answer_to_head().expect_and(200, "keep-alive");
    client.stays_open();
}

#[test]
fn bodies_that_nobody_asked_for_may_be_chunked() {
    let node = Node::start();
    let coded = "Transfer-Encoding: chunked\r\n\r\n5;x\r\nGET /\r\n1\r\n \r\n0\r\nT: t\r\n\r\n";
    node.stays_after(format!("GET / HTTP/1.1\r\n{coded}"), 200);
    node.stays_after(format!("DELETE /dev1/no HTTP/1.1\r\n{coded}"), 404);
}

#[test]
fn bodies_that_nobody_asked_for_close_past_64_kib() {
    let node = Node::start();
    for (method, status) in [("GET", 200), ("DELETE", 403), ("MKCOL", 400)] {
        let head = format!("{method} / HTTP/1.1\r\nContent-Length: 65537\r\n\r\n");
        node.closes_after(head, status);
    }
    let mut client = node.client();
    client.send("HEAD / HTTP/1.1\r\nContent-Length: 65537\r\n\r\n");
    client.answer_to_head().expect_and(200, "close");
    client.closes();
}

/// A request for `/` whose head has exactly so many bytes.
fn head_of(length: usize) -> Vec<u8> {
    let (begin, end) = ("GET / HTTP/1.1\r\nFiller: ", "\r\n\r\n");
    let filler = "f".repeat(length - begin.len() - end.len());
    format!("{begin}{filler}{end}").into_bytes()
}

fn refused_with_nothing_stored(node: &Node, lines: &str, status: u16) {
    let head = format!("PUT /dev1/refused HTTP/1.1\r\n{lines}\r\n");
    node.closes_after(&head, status);
    assert!(!node.file("/dev1/refused").exists(), "{lines:?} stored something");
    node.closes_after(head.replace("PUT /dev1/refused", "GET /"), status);
}
