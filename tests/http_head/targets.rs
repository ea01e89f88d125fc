//! Targets: paths and whole URLs, what is allowed in them and how long they may be.

use crate::harness::{Node, fid_path};

#[test]
fn targets_may_be_absolute_with_a_host_of_any_length() {
    let node = Node::start();
    node.store("/dev1/a", "a");
    let long = "h".repeat(5000);
    for host in ["h", "h:7500", "[::1]:80", "node-1.example.com", &long, &format!("{long}:80")] {
        node.stays_after(format!("GET http://{host}/dev1/a HTTP/1.1\r\n\r\n"), 200);
    }
    node.stays_after("GET http://h///dev1/a HTTP/1.1\r\n\r\n", 200);
}

#[test]
fn a_host_alone_is_the_root_and_ports_are_any_number() {
    let node = Node::start();
    node.store("/dev1/a", "x");
    let long = "h".repeat(40_000);
    for host in ["host", "host:80", "host:", "host:99999", "[::1]", "[::1]:7500", &long] {
        let answer = node.stays_after(format!("GET http://{host} HTTP/1.1\r\n\r\n"), 200);
        assert_eq!(answer.header("Last-Modified"), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
        node.stays_after(format!("GET http://{host}/dev1/a HTTP/1.1\r\n\r\n"), 200);
        node.stays_after(format!("GET http://{host}//dev1/no HTTP/1.1\r\n\r\n"), 404);
        node.stays_after(format!("DELETE http://{host} HTTP/1.1\r\n\r\n"), 403);
    }
    for host in ["", ":80", "host:port", "host:8o", "[::1", "u@host", "host?x"] {
        node.closes_after(format!("GET http://{host} HTTP/1.1\r\n\r\n"), 400);
        node.closes_after(format!("GET http://{host}/dev1/a HTTP/1.1\r\n\r\n"), 400);
    }
}

#[test]
fn the_limit_of_a_path_does_not_count_what_stands_before_it() {
    let node = Node::start();
    let longest = format!("dev1/{}", "a".repeat(31));
    node.store(&format!("/{longest}"), "x");
    for before in ["/", "////", "http://host/", "http://host:80///"] {
        node.stays_after(format!("GET {before}{longest} HTTP/1.1\r\n\r\n"), 200);
        node.stays_after(format!("GET {before}{longest}a HTTP/1.1\r\n\r\n"), 400);
    }
}

#[test]
fn leading_slashes_collapse_however_many() {
    let node = Node::start();
    node.store("/dev1/a", "a");
    for count in [1, 2, 3, 60, 5000] {
        let slashes = "/".repeat(count);
        node.stays_after(format!("GET {slashes}dev1/a HTTP/1.1\r\n\r\n"), 200);
    }
    node.stays_after("HEAD // HTTP/1.1\r\n\r\n", 200);
}

#[test]
fn only_the_listed_bytes_are_allowed_in_a_path() {
    let node = Node::start();
    for byte in 0..=255_u8 {
        let request = [b"GET /dev1/a", &[byte][..], b"c HTTP/1.1\r\n\r\n"].concat();
        if byte.is_ascii_alphanumeric() || b"/.-".contains(&byte) {
            node.stays_after(request, 404);
        } else {
            node.closes_after(request, 400);
        }
    }
}

#[test]
fn targets_that_are_no_absolute_path_are_400_and_close() {
    let node = Node::start();
    for target in ["dev1/a", "*", "ftp://h/dev1/a", "https://h/dev1/a", "h:80", "./dev1/a"] {
        node.closes_after(format!("GET {target} HTTP/1.1\r\n\r\n"), 400);
    }
}

#[test]
fn paths_have_at_most_37_bytes() {
    let node = Node::start();
    let longest = "/dev1/".to_owned() + &"a".repeat(31);
    assert_eq!(longest.len(), 37);
    assert_eq!(node.client().get(&longest).status, 404);
    assert_eq!(node.client().get(&(longest.clone() + "a")).status, 400);
    assert_eq!(node.client().put(&longest, "x").status, 201);
    assert_eq!(node.client().put(&(longest + "a"), "x").status, 400);
    assert_eq!(node.client().get("/dev16777215/0/000/000/0123456789.fid").status, 404);
}

#[test]
fn fids_have_up_to_20_digits() {
    let node = Node::start();
    let last = fid_path(1, u64::MAX);
    assert_eq!(last, "/dev1/1/844/674/18446744073709551615.fid");
    let mut client = node.client();
    assert_eq!(client.put(&last, "last").status, 201);
    assert_eq!(client.get(&last).body, b"last");
    assert_eq!(client.get("/dev16777215/1/844/674/18446744073709551615.fid").status, 404);
    assert_eq!(node.client().get("/dev1/1/844/674/184467440737095516150.fid").status, 400);
}

#[test]
fn long_paths_that_only_resemble_a_fid_are_400() {
    let node = Node::start();
    for path in [
        "/dev16777215/2/844/674/18446744073709551615.fid",
        "/dev16777215/1/844/675/18446744073709551615.fid",
        "/dev16777215/1/844/674/18446744073709551615.fix",
        "/dev16777215/1/844/674/1844674407370955161a.fid",
        "/dev16777215/18/44/674/18446744073709551615.fid",
        "/dex16777215/1/844/674/18446744073709551615.fid",
        "/dev1/aaa/bbb/ccc/ddd/1/844/674/18446744073709551615.fid",
    ] {
        assert_eq!(node.client().get(path).status, 400, "{path}");
    }
}

#[test]
fn two_dots_anywhere_are_403_and_stay() {
    let node = Node::start();
    for path in ["/..", "/../x", "/dev1/../dev2/a", "/dev1/..", "/dev1/a..b", "/...", "/dev1/a.."] {
        for method in ["GET", "DELETE", "MKCOL"] {
            node.stays_after(format!("{method} {path} HTTP/1.1\r\n\r\n"), 403);
        }
        assert_eq!(node.client().head(path).expect_and(403, "keep-alive").body, b"");
    }
    assert_eq!(node.client().put("/dev1/../dev2/a", "x").status, 403);
}
