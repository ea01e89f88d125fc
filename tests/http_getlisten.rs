//! The read-only port.

use crate::harness::{Client, Node, Setup};

#[test]
fn get_and_head_are_served() {
    let (node, mut client) = start();
    assert_eq!(client.get("/dev1/a").expect_and(200, "keep-alive").body, b"0123456789");
    assert_eq!(client.head("/dev1/a").header("Content-Length"), Some("10"));
    assert_eq!(client.get_with("/dev1/a", "Range: bytes=1-2\r\n").expect(206).body, b"12");
    assert_eq!(client.get("/dev1/no").status, 404);
    assert_eq!(node.client().put("/dev1/b", "b").status, 201, "the other port still writes");
    assert_eq!(client.get("/dev1/b").body, b"b");
}

#[test]
fn put_is_405_and_closes() {
    let (node, mut client) = start();
    client.send("PUT /dev1/b HTTP/1.1\r\nContent-Length: 1\r\n\r\nx");
    client.answer().expect_and(405, "close");
    client.closes();
    let mut client = Client::connect(node.address("httpget"));
    client.send("PUT /dev1/b HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n");
    client.answer().expect_and(405, "close");
    assert!(!node.file("/dev1/b").exists());
}

#[test]
fn delete_and_mkcol_are_405_and_stay() {
    let (node, mut client) = start();
    client.delete("/dev1/a").expect_and(405, "keep-alive");
    client.mkcol("/dev1/a").expect_and(405, "keep-alive");
    client.stays_open();
    assert!(node.file("/dev1/a").exists());
}

fn start() -> (Node, Client) {
    let node = Setup::new().config("httpgetlisten = 127.0.0.1:0\n").start();
    node.store("/dev1/a", "0123456789");
    let client = Client::connect(node.address("httpget"));
    (node, client)
}
