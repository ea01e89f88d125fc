//! PUT with a Content-Range.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::harness::{Node, content_md5, pattern};

#[test]
fn a_content_range_is_written_in_place() {
    let node = Node::start();
    node.store("/dev1/a", "0123456789");
    let inode = fs::metadata(node.file("/dev1/a")).unwrap().ino();
    let mut client = node.client();
    for (range, body, content) in [
        ("bytes 2-4/*", "xyz", "01xyz56789"),
        ("bytes 0-0/10", "A", "A1xyz56789"),
        ("bytes 8-11/12", "wxyz", "A1xyz567wxyz"),
    ] {
        let line = format!("Content-Range: {range}\r\n");
        client.put_with("/dev1/a", &line, body).expect_and(201, "keep-alive");
        assert_eq!(node.content("/dev1/a"), content.as_bytes());
    }
    assert_eq!(fs::metadata(node.file("/dev1/a")).unwrap().ino(), inode, "replaced");
}

#[test]
fn a_content_range_makes_a_missing_file() {
    let node = Node::start();
    let mut client = node.client();
    client.put_with("/dev1/new/a", "Content-Range: bytes 3-5/*\r\n", "xyz").expect(201);
    assert_eq!(node.content("/dev1/new/a"), b"\0\0\0xyz");
}

#[test]
fn a_large_file_can_be_opened_empty_and_filled_by_ranges() {
    let node = Node::start();
    let content = pattern(1 << 20);
    let mut client = node.client();
    client.ask("PUT /dev1/big HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").expect(201);
    for (piece, bytes) in content.chunks(1 << 18).enumerate().collect::<Vec<_>>().into_iter().rev()
    {
        let from = piece << 18;
        let line = format!("Content-Range: bytes {from}-{}/*\r\n", from + bytes.len() - 1);
        client.put_with("/dev1/big", &line, bytes).expect_and(201, "keep-alive");
    }
    assert!(client.get("/dev1/big").body == content);
}

#[test]
fn a_content_range_that_does_not_match_its_length_is_400() {
    let node = Node::start();
    for (range, length) in [
        ("bytes 0-4/*", 4),
        ("bytes 0-4/*", 6),
        ("bytes 4-0/*", 5),
        ("bytes 0-4", 5),
        ("bytes */5", 5),
        ("0-4/*", 5),
        ("bytes 0-4/3", 5),
        ("bytes a-b/*", 5),
        ("bytes 0-4/x", 5),
    ] {
        let line = format!("Content-Range: {range}\r\n");
        let answer = node.client().put_with("/dev1/f/a", &line, vec![b'x'; length]);
        assert_eq!(answer.status, 400, "{range} with {length} bytes");
    }
    assert!(!node.file("/dev1/f").exists());
}

#[test]
fn a_content_range_without_a_length_is_400() {
    let node = Node::start();
    let answer = node.client().ask("PUT /dev1/a HTTP/1.1\r\nContent-Range: bytes 0-4/*\r\n\r\n");
    assert_eq!(answer.status, 400);
    let chunked = "Content-Range: bytes 0-4/*\r\n";
    let answer = node.client().put_chunked("/dev1/a", chunked, "5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(answer.status, 400);
    assert!(!node.file("/dev1/a").exists());
}

#[test]
fn content_md5_is_checked_on_ranges_too() {
    let node = Node::start();
    let lines = format!("Content-Range: bytes 0-2/*\r\nContent-MD5: {}\r\n", content_md5("abc"));
    node.client().put_with("/dev1/a", &lines, "abc").expect_and(201, "keep-alive");
    let mut client = node.client();
    client.put_with("/dev1/a", &lines, "xyz").expect_and(400, "keep-alive");
    client.stays_open();
}

#[test]
fn a_range_that_no_file_can_hold_is_507() {
    let node = Node::start();
    node.store("/dev1/a", "old");
    const MAX: u64 = i64::MAX as u64;
    for path in ["/dev1/a", "/dev1/new"] {
        for md5 in [String::new(), format!("Content-MD5: {}\r\n", content_md5("x"))] {
            let range = format!("Content-Range: bytes {MAX}-{MAX}/*\r\n{md5}");
            node.client().put_with(path, &range, "x").expect_and(507, "close");
            let range = format!("Content-Range: bytes {0}-{0}/{1}\r\n{md5}", MAX + 1, MAX + 2);
            node.client().put_with(path, &range, "x").expect_and(507, "close");
        }
    }
    assert_eq!(node.content("/dev1/a"), b"old");
    assert!(!node.file("/dev1/new").exists());
    assert_eq!(node.logged("ERROR") + node.logged("error"), 0);
}
