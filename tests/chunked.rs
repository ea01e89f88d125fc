//! Chunked bodies, over the wire.

use crate::harness::{Client, Node, content_md5, pattern};

const HEAD: &str = "PUT /dev1/c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
const NEXT: &str = "GET /dev1/c HTTP/1.1\r\n\r\n";

#[test]
fn a_request_may_be_cut_at_every_byte() {
    let node = Node::start();
    let coded = "5;name=\"val\"\r\nhello\r\n00A\r\n0123456789\r\n0\r\nSome: trailer\r\n\r\n";
    let request = [HEAD, coded, NEXT].concat();
    let mut client = node.client();
    for cut in 0..=request.len() {
        let (first, second) = request.split_at(cut);
        read_apart(&mut client, first, second);
        client.answer().expect_and(201, "keep-alive");
        assert_eq!(client.answer().expect(200).body, b"hello0123456789", "cut at {cut}");
    }
}

#[test]
fn a_request_may_come_one_byte_at_a_time() {
    let node = Node::start();
    let mut client = node.client();
    for byte in [HEAD, "3\r\nabc\r\n2;x\r\nde\r\n0\r\nT: t\r\n\r\n", NEXT].concat().bytes() {
        client.send([byte]);
    }
    client.answer().expect_and(201, "keep-alive");
    assert_eq!(client.answer().body, b"abcde");
}

#[test]
fn the_next_request_may_be_in_the_same_packet() {
    let node = Node::start();
    let mut client = node.client();
    let round = [HEAD, "1\r\nx\r\n0\r\n\r\n", NEXT].concat();
    client.send(round.repeat(50));
    for _ in 0..50 {
        client.answer().expect_and(201, "keep-alive");
        assert_eq!(client.answer().body, b"x");
    }
}

#[test]
fn sizes_are_hex_in_either_case_with_leading_zeros() {
    let content = pattern(0xabc);
    for size in ["abc", "ABC", "aBc", "000000000000000000000000abc"] {
        let coded = [size.as_bytes(), b"\r\n", &content, b"\r\n0\r\n\r\n"].concat();
        stored(&coded, &content);
    }
}

#[test]
fn extensions_of_any_length_are_skipped() {
    let long = "e".repeat(200_000);
    for extension in [";a", ";a=b;c=\"d\"", &format!(";{long}"), &format!(";a={long}")] {
        stored(format!("3{extension}\r\nabc\r\n0{extension}\r\n\r\n").as_bytes(), b"abc");
    }
}

#[test]
fn an_empty_file_may_come_chunked() {
    stored(b"0\r\n\r\n", b"");
}

#[test]
fn a_large_file_of_many_sizes_of_chunks_is_stored_whole() {
    let content = pattern(3 << 20);
    let (mut coded, mut rest, mut size) = (Vec::new(), &content[..], 1);
    while !rest.is_empty() {
        let (chunk, later) = rest.split_at(size.min(rest.len()));
        coded.extend(format!("{:x}\r\n", chunk.len()).bytes());
        coded.extend(chunk);
        coded.extend(b"\r\n");
        rest = later;
        size = size * 7 % 70_001;
    }
    coded.extend(b"0\r\n\r\n");
    stored(&coded, &content);
}

#[test]
fn trailers_are_read_and_forgotten() {
    stored(b"1\r\nx\r\n0\r\nA: b\r\nContent-Length: 99\r\nC:d\r\n\r\n", b"x");
}

#[test]
fn trailers_have_the_limits_of_a_head() {
    let fits = "t".repeat(60_000);
    stored(format!("1\r\nx\r\n0\r\nT: {fits}\r\n\r\n").as_bytes(), b"x");
    let node = Node::start();
    let too_long = "t".repeat(70_000);
    node.closes_after(format!("{HEAD}1\r\nx\r\n0\r\nT: {too_long}"), 400);
    assert!(!node.file("/dev1/c").exists());
}

#[test]
fn malformed_trailers_are_400_and_close() {
    let node = Node::start();
    for trailer in ["no colon\r\n", "A : b\r\n", " A: b\r\n", "A: \0\r\n", "A: b\rc\r\n"] {
        node.closes_after(format!("{HEAD}1\r\nx\r\n0\r\n{trailer}\r\n"), 400);
    }
    assert!(!node.file("/dev1/c").exists());
}

#[test]
fn malformed_chunks_are_400_and_close() {
    let node = Node::start();
    for coded in [
        "x\r\n",
        "\r\nabc",
        "-1\r\n",
        "+1\r\nx",
        "0x1\r\nx",
        "1 1\r\n",
        "1\nx\r\n",
        "1\r\nxy\r\n",
        "1\r\nx0\r\n",
        "1\rx",
    ] {
        node.closes_after(format!("{HEAD}{coded}\r\n"), 400);
        assert!(!node.file("/dev1/c").exists(), "{coded:?} stored something");
    }
}

#[test]
fn content_md5_in_the_trailer_is_checked_announced_or_not() {
    let node = Node::start();
    for announcement in ["", "Trailer: Content-MD5\r\n", "trailer: foo, content-md5\r\n"] {
        let mut client = node.client();
        let coded = |text| format!("3\r\nabc\r\n0\r\nContent-MD5: {}\r\n\r\n", content_md5(text));
        client.put_chunked("/dev1/c", announcement, coded("abc")).expect_and(201, "keep-alive");
        client.put_chunked("/dev1/d", announcement, coded("xyz")).expect_and(400, "keep-alive");
        client.stays_open();
        assert!(!node.file("/dev1/d").exists());
    }
}

#[test]
fn content_md5_in_the_head_of_a_chunked_put_is_checked() {
    let node = Node::start();
    let line = |text| format!("Content-MD5: {}\r\n", content_md5(text));
    let mut client = node.client();
    client.put_chunked("/dev1/c", &line("abc"), "3\r\nabc\r\n0\r\n\r\n").expect(201);
    client
        .put_chunked("/dev1/c", &line("xyz"), "1\r\nn\r\n0\r\n\r\n")
        .expect_and(400, "keep-alive");
    client.stays_open();
    assert_eq!(node.content("/dev1/c"), b"abc");
}

#[test]
fn a_malformed_content_md5_in_the_trailer_is_400_and_closes() {
    let node = Node::start();
    node.closes_after(format!("{HEAD}1\r\nx\r\n0\r\nContent-MD5: short\r\n\r\n"), 400);
    assert!(!node.file("/dev1/c").exists());
}

#[test]
fn http_1_0_clients_may_send_chunks_too() {
    let node = Node::start();
    let head = "PUT /dev1/c HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    node.closes_after(format!("{head}1\r\nx\r\n0\r\n\r\n"), 201);
    assert_eq!(node.content("/dev1/c"), b"x");
}

/// Sends `first` in one segment with a whole request before it, whose answer tells that the
/// node has read that segment; then `second`.
fn read_apart(client: &mut Client, first: &str, second: &str) {
    client.ask(["GET / HTTP/1.1\r\n\r\n", first].concat()).expect(200);
    client.send(second);
}

fn stored(coded: &[u8], content: &[u8]) {
    let node = Node::start();
    let mut client = node.client();
    client.put_chunked("/dev1/c", "", coded).expect_and(201, "keep-alive");
    assert!(node.content("/dev1/c") == content);
    client.stays_open();
}
