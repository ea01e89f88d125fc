//! Conditional requests, with dates of all times.

use std::fs::{self, File};
use std::thread;
use std::time::{Duration, SystemTime};

use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use crate::harness::{Client, Node, content_md5, names_in};

const LONG_AGO: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const FAR_OFF: &str = "Fri, 01 Jan 2100 00:00:00 GMT";
const TEN: &str = "0123456789";

/// A node with a file of ten digits.
fn node() -> Node {
    let node = Node::start();
    node.store("/dev1/a", TEN);
    node
}

/// Sets the file's time, in seconds since 1970.
fn set_time(node: &Node, path: &str, seconds: i64) {
    let (at, file) = (TimeSpec::new(seconds, 500_000_000), node.file(path));
    utimensat(nix::fcntl::AT_FDCWD, &file, &at, &at, UtimensatFlags::FollowSymlink).unwrap();
}

fn statuses(node: &Node, table: &[(&str, u16)], ask: impl Fn(&mut Client, &str) -> u16) {
    let mut client = node.client();
    for (lines, status) in table {
        let lines: String = lines.split('|').map(|line| format!("{line}\r\n")).collect();
        assert_eq!(ask(&mut client, &lines), *status, "{lines:?}");
    }
    client.stays_open();
}

#[test]
fn get_and_head_judge_conditions_in_their_order() {
    let node = node();
    let table = [
        ("If-Modified-Since: FAR", 304),
        ("If-None-Match: \"a\"|If-Modified-Since: FAR", 200),
        ("If-Modified-Since: FAR|If-None-Match: W/\"a\", \"b\"", 200),
        ("If-None-Match: \"*\"|If-Modified-Since: FAR", 200),
        ("If-None-Match: \"a\"", 200),
        ("If-None-Match: *", 304),
        ("if-none-match:*", 304),
        ("If-None-Match: *|If-Modified-Since: AGO", 304),
        ("If-Unmodified-Since: AGO", 412),
        ("If-Unmodified-Since: AGO|If-None-Match: *", 412),
        ("If-Match: *", 200),
        ("If-Match: \"a\"", 412),
        ("If-Match: *|If-Unmodified-Since: AGO", 200),
        ("If-Match: *|If-Modified-Since: FAR", 304),
    ];
    let ask = |client: &mut Client, lines: &str, path: &str| {
        let lines = lines.replace("FAR", FAR_OFF).replace("AGO", LONG_AGO);
        let status = client.get_with(path, &lines).status;
        assert_eq!(client.head_with(path, &lines).status, status, "{lines:?}");
        status
    };
    // Twice: from the disk, and from what the node keeps open.
    for _ in 0..2 {
        statuses(&node, &table, |client, lines| ask(client, lines, "/dev1/a"));
    }
    let mut client = node.client();
    for (lines, _) in table {
        let lines: String = lines.split('|').map(|line| format!("{line}\r\n")).collect();
        assert_eq!(ask(&mut client, &lines, "/dev1/none"), 404, "{lines:?}");
    }
}

#[test]
fn put_with_if_none_match_any_makes_a_file_and_never_replaces_one() {
    let node = node();
    let mut client = node.client();
    let only_new = "If-None-Match: *\r\n";
    client.put_with("/dev1/a", only_new, "other").expect_and(412, "keep-alive");
    client.put_with("/dev1/x/y/new", only_new, "new").expect_and(201, "keep-alive");
    client.put_with("/dev1/x/y/new", only_new, "newer").expect_and(412, "keep-alive");
    client.put_chunked("/dev1/a", only_new, "5\r\nother\r\n0\r\n\r\n").expect(412);
    let mut client = node.client();
    let wrong = format!("{only_new}Content-MD5: {}\r\n", content_md5("another"));
    client.put_with("/dev1/none", &wrong, "new").expect_and(400, "keep-alive");
    assert!(!node.file("/dev1/none").exists());
    let right = format!("{only_new}Content-MD5: {}\r\n", content_md5("new"));
    client.put_with("/dev1/b", &right, "new").expect_and(201, "keep-alive");
    client.put_with("/dev1/b", "If-None-Match: \"a\"\r\n", "third").expect(201);
    assert_eq!((node.content("/dev1/a"), node.content("/dev1/b")), (TEN.into(), b"third".into()));
    assert_eq!(node.content("/dev1/x/y/new"), b"new");
    // A name that leads nowhere is taken too.
    std::os::unix::fs::symlink("nowhere", node.file("/dev1/link")).unwrap();
    client.put_with("/dev1/link", only_new, "x").expect(412);
    assert!(node.file("/dev1/link").is_symlink() && !node.file("/dev1/nowhere").exists());
    client.put_with("/dev1/x", only_new, "x").expect(403);
    client.put_with("/dev9/a", only_new, "x").expect(404);
}

#[test]
fn put_in_place_with_if_none_match_any_makes_a_file_and_never_writes_into_one() {
    let node = node();
    let mut client = node.client();
    for md5 in [String::new(), format!("Content-MD5: {}\r\n", content_md5("xyz"))] {
        let lines = format!("If-None-Match: *\r\nContent-Range: bytes 2-4/*\r\n{md5}");
        client.put_with("/dev1/a", &lines, "xyz").expect_and(412, "keep-alive");
        assert_eq!(node.content("/dev1/a"), TEN.as_bytes());
        client.put_with("/dev1/new", &lines, "xyz").expect(201);
        client.put_with("/dev1/new", &lines, "xyz").expect(412);
        assert_eq!(node.content("/dev1/new"), b"\0\0xyz");
        fs::remove_file(node.file("/dev1/new")).unwrap();
    }
}

#[test]
fn a_client_that_waits_for_continue_is_told_412_instead() {
    let node = node();
    let put = |lines: &str| {
        let wait = "Content-Length: 5\r\nExpect: 100-continue\r\n";
        format!("PUT /dev1/a HTTP/1.1\r\n{wait}{lines}\r\n\r\n")
    };
    node.closes_after(put("If-None-Match: *"), 412);
    node.closes_after(put(&format!("If-Unmodified-Since: {LONG_AGO}")), 412);
    let mut client = node.client();
    client.ask(put(&format!("If-Unmodified-Since: {FAR_OFF}"))).expect(100);
    client.ask("other").expect_and(201, "keep-alive");
    assert_eq!(node.content("/dev1/a"), b"other");
}

#[test]
fn a_file_that_comes_to_exist_during_the_upload_stays() {
    let node = node();
    let mut client = node.client();
    let head = "HTTP/1.1\r\nContent-Length: 5\r\nIf-None-Match: *\r\n\r\n";
    client.send(format!("PUT /dev1/late {head}he"));
    // An answer on another connection to the same disk thread's device: the first is under way.
    until_put_is_open(&node);
    node.client().put("/dev1/late", "first").expect(201);
    client.ask("llo").expect_and(412, "keep-alive");
    assert_eq!(node.content("/dev1/late"), b"first");
    assert_eq!(names_in(&node.file("/dev1")).iter().filter(|name| *name == "late").count(), 1);
}

/// A deleted file that a process of the node has open, or one with a temporary name.
fn until_put_is_open(node: &Node) {
    let opened = |pid: nix::unistd::Pid| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|to| {
            let to = to.to_string_lossy().into_owned();
            to.starts_with(node.file("/dev1").to_str().unwrap())
                && (to.ends_with("(deleted)") || to.contains(".rmogstored_tmp/"))
        })
    };
    crate::harness::until("the upload to begin", || node.workers().into_iter().any(opened));
}

#[test]
fn of_many_that_create_one_file_at_once_one_succeeds() {
    let node = node();
    for round in 0..20 {
        let path = format!("/dev1/race{round}");
        let put = |n: usize| {
            let body = format!("client {n}");
            node.client().put_with(&path, "If-None-Match: *\r\n", &body).status
        };
        let found: Vec<u16> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || put(n))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let made: Vec<usize> = (0..8).filter(|n| found[*n] == 201).collect();
        assert_eq!((made.len(), found.iter().filter(|s| **s == 412).count()), (1, 7), "{found:?}");
        assert_eq!(node.content(&path), format!("client {}", made[0]).into_bytes());
    }
}

#[test]
fn put_and_delete_honour_if_unmodified_since_and_if_match() {
    let node = node();
    let ago = format!("If-Unmodified-Since: {LONG_AGO}\r\n");
    let far = format!("If-Unmodified-Since: {FAR_OFF}\r\n");
    let mut client = node.client();
    let mut delete = |path: &str, lines: &str| {
        client.ask(format!("DELETE {path} HTTP/1.1\r\n{lines}\r\n")).status
    };
    for lines in [&ago, "If-Match: \"a\"\r\n", "If-None-Match: *\r\n"] {
        assert_eq!(delete("/dev1/a", lines), 412, "{lines:?}");
        assert_eq!(delete("/dev1/none", lines), 404, "{lines:?}");
        assert_eq!(node.client().put_with("/dev1/a", lines, "b").status, 412, "{lines:?}");
        let range = format!("{lines}Content-Range: bytes 0-0/*\r\n");
        assert_eq!(node.client().put_with("/dev1/a", &range, "b").status, 412, "{lines:?}");
    }
    assert_eq!(node.content("/dev1/a"), TEN.as_bytes());
    assert_eq!(node.client().put_with("/dev1/none", "If-Match: *\r\n", "b").status, 412);
    assert!(!node.file("/dev1/none").exists());
    for lines in [&far, "If-Match: *\r\n", "If-None-Match: \"a\"\r\n", "If-Unmodified-Since: x\r\n"]
    {
        node.store("/dev1/a", TEN);
        node.client().put_with("/dev1/a", lines, "b").expect_and(201, "keep-alive");
        assert_eq!(delete("/dev1/a", lines), 204, "{lines:?}");
    }
    // Without a file there is no time that a date could be compared with.
    node.client().put_with("/dev1/a", &ago, "b").expect(201);
    // A GET's condition is none of a PUT.
    let since = format!("If-Modified-Since: {FAR_OFF}\r\n");
    node.client().put_with("/dev1/a", &since, "c").expect(201);
    assert_eq!(delete("/dev1/a", &since), 204);
}

#[test]
fn a_file_that_changes_during_the_upload_is_not_replaced_if_it_must_not_have() {
    let node = node();
    set_time(&node, "/dev1/a", 1_000_000_000);
    let mut client = node.client();
    let head =
        "HTTP/1.1\r\nContent-Length: 5\r\nIf-Unmodified-Since: Sun, 09 Sep 2001 01:46:40 GMT";
    client.send(format!("PUT /dev1/a {head}\r\n\r\nhe"));
    until_put_is_open(&node);
    set_time(&node, "/dev1/a", 1_000_000_001);
    client.ask("llo").expect_and(412, "keep-alive");
    assert_eq!(node.content("/dev1/a"), TEN.as_bytes());
}

#[test]
fn dates_before_1970_are_dates() {
    let node = node();
    let dates = [
        (-1, "Wed, 31 Dec 1969 23:59:59 GMT", "Wed, 31 Dec 1969 23:59:58 GMT"),
        (-86_400 * 365, "Wed, 01 Jan 1969 00:00:00 GMT", "Tue, 31 Dec 1968 23:59:59 GMT"),
        (-2_000_000_000, "Thu, 16 Aug 1906 20:26:40 GMT", "Thu Aug 16 20:26:39 1906"),
    ];
    for (seconds, at, before) in dates {
        set_time(&node, "/dev1/a", seconds);
        let mut client = node.client();
        let answer = client.get("/dev1/a").expect(200);
        assert_eq!(answer.header("Last-Modified"), Some(at));
        for (field, status_at, status_before) in
            [("If-Modified-Since", 304, 200), ("If-Unmodified-Since", 200, 412)]
        {
            for (date, status) in [(at, status_at), (before, status_before)] {
                let answer = client.get_with("/dev1/a", &format!("{field}: {date}\r\n"));
                assert_eq!(answer.status, status, "{field}: {date}, the file's is {at}");
            }
        }
        for (date, status) in [(at, 206), (before, 200)] {
            let lines = format!("Range: bytes=1-2\r\nIf-Range: {date}\r\n");
            assert_eq!(client.get_with("/dev1/a", &lines).status, status, "If-Range: {date}");
        }
        let old = format!("If-Unmodified-Since: {before}\r\n");
        client.put_with("/dev1/a", &old, "x").expect_and(412, "keep-alive");
        client.ask(format!("DELETE /dev1/a HTTP/1.1\r\n{old}\r\n")).expect(412);
    }
}

#[test]
fn a_date_before_1970_is_older_than_any_file_of_today() {
    let node = node();
    let old = "Wed, 31 Dec 1969 23:59:59 GMT";
    let mut client = node.client();
    client.get_with("/dev1/a", &format!("If-Unmodified-Since: {old}\r\n")).expect(412);
    client
        .ask(format!("DELETE /dev1/a HTTP/1.1\r\nIf-Unmodified-Since: {old}\r\n\r\n"))
        .expect(412);
    let lines = format!("Range: bytes=1-2\r\nIf-Range: {old}\r\n");
    assert_eq!(client.get_with("/dev1/a", &lines).expect(200).body, TEN.as_bytes());
    // An exact match of a later date, to the second.
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_000_500);
    File::options().write(true).open(node.file("/dev1/a")).unwrap().set_modified(at).unwrap();
    for (date, status) in [("01:46:39", 200), ("01:46:40", 206), ("01:46:41", 200)] {
        let lines = format!("Range: bytes=1-2\r\nIf-Range: Sun, 09 Sep 2001 {date} GMT\r\n");
        assert_eq!(node.client().get_with("/dev1/a", &lines).status, status, "{date}");
    }
}
