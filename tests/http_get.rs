//! GET and HEAD.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::time::{Duration, SystemTime};

use nix::sys::stat::{Mode, SFlag, mknod};

use crate::harness::{Answer, Node, Setup, fid_path, pattern, skipped};

const TEN: &str = "0123456789";

#[test]
fn root_is_an_empty_file_of_the_epoch() {
    let node = Node::start();
    let answer = node.client().get("/").expect_and(200, "keep-alive");
    assert_eq!(answer.header("Last-Modified"), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
    assert_eq!(answer.header("Content-Length"), Some("0"));
}

#[test]
fn a_range_on_root_is_ignored() {
    let node = Node::start();
    for range in ["bytes=0-5", "bytes=5-", "bytes=-1", "bytes=-0"] {
        let answer = node.client().get_with("/", &format!("Range: {range}\r\n")).expect(200);
        assert_eq!(answer.header("Content-Length"), Some("0"));
    }
}

#[test]
fn files_of_all_sizes_come_back_whole() {
    let node = Node::start();
    let mut client = node.client();
    for (fid, length) in [0, 1, 4095, 4096, 4097, 65_536, 1 << 20, (9 << 20) + 1].iter().enumerate()
    {
        let (path, content) = (fid_path(1, fid as u64), pattern(*length));
        node.store(&path, &content);
        let answer = client.get(&path).expect_and(200, "keep-alive");
        assert!(answer.body == content, "{length} bytes differ");
    }
}

#[test]
fn a_large_answer_survives_being_read_in_pieces() {
    let node = Node::start();
    let content = pattern(20 << 20);
    node.store("/dev1/big", &content);
    let mut client = node.client();
    client.send("GET /dev1/big HTTP/1.1\r\n\r\n");
    client.take_through(b"\r\n\r\n");
    for piece in content.chunks(3 << 20) {
        assert!(client.take(piece.len()) == piece);
    }
    client.stays_open();
}

#[test]
fn directories_are_403() {
    let node = Node::start();
    fs::create_dir(node.file("/dev1/folder")).unwrap();
    fs::create_dir(node.file("/folder")).unwrap();
    for path in ["/dev1", "/dev1/", "/dev1/folder", "/dev1/folder/", "/folder"] {
        node.stays_after(format!("GET {path} HTTP/1.1\r\n\r\n"), 403);
    }
}

#[test]
fn a_fifo_is_403_and_hangs_nobody() {
    let node = Node::start();
    nix::unistd::mkfifo(&node.file("/dev1/fifo"), Mode::S_IRWXU).unwrap();
    let mut client = node.client();
    assert_eq!(client.get("/dev1/fifo").status, 403);
    assert_eq!(client.head("/dev1/fifo").status, 403);
    client.stays_open();
}

#[test]
fn a_socket_is_403() {
    let node = Node::start();
    let _socket = UnixListener::bind(node.file("/dev1/socket")).unwrap();
    node.stays_after("GET /dev1/socket HTTP/1.1\r\n\r\n", 403);
}

#[test]
fn a_device_node_is_403() {
    let node = Node::start();
    let zero = nix::sys::stat::makedev(1, 5);
    if mknod(&node.file("/dev1/zero"), SFlag::S_IFCHR, Mode::S_IRWXU, zero).is_err() {
        return skipped("device nodes cannot be made here");
    }
    node.stays_after("GET /dev1/zero HTTP/1.1\r\n\r\n", 403);
}

#[test]
fn files_right_under_the_docroot_are_served() {
    let node = Node::start();
    node.store("/somefile", "some");
    assert_eq!(node.client().get("/somefile").expect_and(200, "keep-alive").body, b"some");
    assert_eq!(node.client().get("/nofile").status, 404);
}

#[test]
fn symlinks_inside_their_device_are_followed() {
    let node = Node::start();
    node.store("/dev1/a/file", "there");
    symlink("a/file", node.file("/dev1/relative")).unwrap();
    symlink("a", node.file("/dev1/folder")).unwrap();
    symlink("../file", node.file("/dev1/a/up")).unwrap();
    symlink("a/file", node.file("/dev1/file")).unwrap();
    symlink(node.file("/dev1/a/file"), node.file("/dev1/absolute")).unwrap();
    for path in ["/dev1/relative", "/dev1/folder/file", "/dev1/a/up", "/dev1/absolute"] {
        assert_eq!(node.client().get(path).expect(200).body, b"there", "{path}");
    }
}

#[test]
fn symlinks_that_leave_their_device_are_403() {
    let node = Node::start();
    node.store("/dev2/secret", "secret");
    node.store("/outside", "secret");
    symlink("../dev2/secret", node.file("/dev1/other")).unwrap();
    symlink("../outside", node.file("/dev1/above")).unwrap();
    symlink(node.file("/dev2/secret"), node.file("/dev1/absolute")).unwrap();
    symlink("/etc/passwd", node.file("/dev1/passwd")).unwrap();
    symlink("/etc", node.file("/dev1/etc")).unwrap();
    symlink("/etc/passwd", node.file("/passwd")).unwrap();
    for path in ["/dev1/other", "/dev1/above", "/dev1/absolute", "/dev1/passwd", "/dev1/etc/passwd"]
    {
        node.stays_after(format!("GET {path} HTTP/1.1\r\n\r\n"), 403);
    }
    node.stays_after("GET /passwd HTTP/1.1\r\n\r\n", 403);
}

#[test]
fn a_device_may_be_a_symlink_itself() {
    let disk = tempfile::tempdir().unwrap();
    fs::create_dir(disk.path().join("a")).unwrap();
    fs::write(disk.path().join("a/file"), "there").unwrap();
    symlink("a/file", disk.path().join("link")).unwrap();
    symlink(disk.path().join("a/file"), disk.path().join("absolute")).unwrap();
    let setup = Setup::new();
    symlink(disk.path(), setup.folder().join("dev3")).unwrap();
    let node = setup.start();
    let mut client = node.client();
    for path in ["/dev3/a/file", "/dev3/link", "/dev3/absolute"] {
        assert_eq!(client.get(path).expect(200).body, b"there", "{path}");
    }
    assert_eq!(client.put("/dev3/b/new", "new").status, 201);
    assert_eq!(fs::read(disk.path().join("b/new")).unwrap(), b"new");
}

#[test]
fn what_is_missing_is_404() {
    let node = Node::start();
    node.store("/dev1/file", "a");
    for path in ["/dev1/no", "/dev1/no/deeper", "/dev1/file/below", "/dev9/a", "/dev1/file/"] {
        node.stays_after(format!("GET {path} HTTP/1.1\r\n\r\n"), 404);
    }
    symlink("nowhere", node.file("/dev1/dangling")).unwrap();
    node.stays_after("GET /dev1/dangling HTTP/1.1\r\n\r\n", 404);
}

#[test]
fn what_may_not_be_read_is_403() {
    let node = Setup::new().without_privilege().start();
    node.store("/dev1/unreadable", "a");
    node.store("/dev1/closed/file", "a");
    fs::set_permissions(node.file("/dev1/unreadable"), Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(node.file("/dev1/closed"), Permissions::from_mode(0o000)).unwrap();
    node.stays_after("GET /dev1/unreadable HTTP/1.1\r\n\r\n", 403);
    node.stays_after("GET /dev1/closed/file HTTP/1.1\r\n\r\n", 403);
    fs::set_permissions(node.file("/dev1/closed"), Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn other_errors_are_500_with_one_log_line() {
    let node = Node::start();
    symlink("loop", node.file("/dev1/loop")).unwrap();
    node.stays_after("GET /dev1/loop HTTP/1.1\r\n\r\n", 500);
    node.logs("/dev1/loop");
    let lines = node.stderr.so_far();
    assert_eq!(lines.iter().filter(|line| line.contains("/dev1/loop")).count(), 1, "{lines:#?}");
}

#[test]
fn head_gives_the_head_of_get_without_a_body() {
    let node = Node::start();
    node.store("/dev1/a", TEN);
    for headers in ["", "Range: bytes=2-5\r\n", "Range: bytes=50-\r\n", "Range: bytes=x\r\n"] {
        for path in ["/", "/dev1/a", "/dev1", "/dev1/no"] {
            let mut client = node.client();
            let head = client.head_with(path, headers);
            client.stays_open();
            let get = client.get_with(path, headers);
            assert_eq!((&head.line, without_date(&head)), (&get.line, without_date(&get)));
        }
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_sent_closes_the_connection() {
    let node = Node::start();
    let size = 256 << 20;
    File::create(node.file("/dev1/shrinks")).unwrap().set_len(size).unwrap();
    let mut client = node.client();
    client.send("GET /dev1/shrinks HTTP/1.1\r\n\r\n");
    client.take_through(b"\r\n\r\n");
    client.take(1 << 20);
    let file = File::options().write(true).open(node.file("/dev1/shrinks")).unwrap();
    file.set_len(2 << 20).unwrap();
    let got = client.rest().len() as u64 + (1 << 20);
    assert!(got < size, "{got} bytes of {size}: padded");
    node.logs("/dev1/shrinks");
}

#[test]
fn a_file_that_grows_while_it_is_sent_is_sent_as_announced() {
    let node = Node::start();
    let size = 64 << 20;
    let file = File::create(node.file("/dev1/grows")).unwrap();
    file.set_len(size).unwrap();
    let mut client = node.client();
    client.send("GET /dev1/grows HTTP/1.1\r\n\r\n");
    client.take_through(b"\r\n\r\n");
    file.set_len(2 * size).unwrap();
    client.take(size as usize);
    client.stays_open();
}

#[test]
fn a_replaced_file_is_seen_at_once() {
    let node = Node::start();
    let mut client = node.client();
    for round in 0..100 {
        client.put("/dev1/a", format!("round {round}")).expect(201);
        assert_eq!(client.get("/dev1/a").body, format!("round {round}").into_bytes());
    }
}

#[test]
fn ranges_inside_the_file_are_206() {
    let ten = TenDigits::store();
    for (range, body, shown) in [
        ("bytes=0-0", "0", "bytes 0-0/10"),
        ("bytes=2-5", "2345", "bytes 2-5/10"),
        ("bytes=0-9", TEN, "bytes 0-9/10"),
        ("bytes=9-", "9", "bytes 9-9/10"),
        ("bytes=0-", TEN, "bytes 0-9/10"),
        ("bytes=-1", "9", "bytes 9-9/10"),
        ("bytes=-9", "123456789", "bytes 1-9/10"),
        ("bytes=5-10", "56789", "bytes 5-9/10"),
        ("bytes=5-9223372036854775807", "56789", "bytes 5-9/10"),
    ] {
        let answer = ten.with(&format!("Range: {range}\r\n")).expect_and(206, "keep-alive");
        assert_eq!(answer.header("Content-Range"), Some(shown));
        assert_eq!(answer.body, body.as_bytes());
    }
}

#[test]
fn ranges_outside_the_file_are_416() {
    let ten = TenDigits::store();
    for range in [
        "bytes=10-",
        "bytes=10-20",
        "bytes=99-",
        "bytes=5-4",
        "bytes=-0",
        "bytes=-",
        "bytes=9223372036854775808-",
        "bytes=0-9223372036854775808",
        "bytes=-9223372036854775808",
        "bytes=99999999999999999999999999-",
    ] {
        let answer = ten.with(&format!("Range: {range}\r\n")).expect_and(416, "keep-alive");
        assert_eq!(answer.header("Content-Range"), Some("bytes */10"), "{range}");
    }
}

#[test]
fn ranges_that_are_not_for_us_give_the_whole_file() {
    let ten = TenDigits::store();
    for range in ["bytes=-11", "bytes=-99", "bytes=0-1,3-4", "bytes=0-0,-1", "lines=1-2", "x=y"] {
        let answer = ten.with(&format!("Range: {range}\r\n")).expect_and(200, "keep-alive");
        assert_eq!(answer.body, TEN.as_bytes(), "{range}");
    }
}

#[test]
fn nonsense_ranges_are_400() {
    let ten = TenDigits::store();
    for range in ["bytes=-5-5", "bytes=323", "bytes=4qasd", "bytes=a-b"] {
        ten.with(&format!("Range: {range}\r\n")).expect_and(400, "keep-alive");
    }
}

#[test]
fn an_empty_file_has_no_satisfiable_range() {
    let node = Node::start();
    node.store("/dev1/empty", "");
    let mut client = node.client();
    client.get("/dev1/empty").expect(200);
    let answer = client.get_with("/dev1/empty", "Range: bytes=0-\r\n").expect(416);
    assert_eq!(answer.header("Content-Range"), Some("bytes */0"));
}

#[test]
fn ranges_of_large_files_are_cut_exactly() {
    let node = Node::start();
    let content = pattern(3 << 20);
    node.store("/dev1/big", &content);
    let mut client = node.client();
    for (from, to) in [(0, 0), (4095, 4096), (65_535, 200_000), (1, (3 << 20) - 1)] {
        let line = format!("Range: bytes={from}-{to}\r\n");
        assert!(client.get_with("/dev1/big", &line).expect(206).body == content[from..=to]);
    }
}

#[test]
fn if_modified_since_gives_304_when_not_newer() {
    let (node, [before, at, after]) = ten_with_times();
    let mut client = node.client();
    let mut status =
        |date: &str| client.get_with("/dev1/a", &format!("If-Modified-Since: {date}\r\n")).status;
    assert_eq!([status(&before), status(&at), status(&after)], [200, 304, 304]);
    assert_eq!(status("nonsense"), 200);
}

#[test]
fn if_unmodified_since_gives_412_when_newer() {
    let (node, [before, at, after]) = ten_with_times();
    let mut client = node.client();
    let mut status =
        |date: &str| client.get_with("/dev1/a", &format!("If-Unmodified-Since: {date}\r\n")).status;
    assert_eq!([status(&before), status(&at), status(&after)], [412, 200, 200]);
    assert_eq!(status("nonsense"), 200);
}

#[test]
fn if_range_with_another_date_gives_the_whole_file() {
    let (node, [before, at, _]) = ten_with_times();
    let mut client = node.client();
    let mut status = |date: &str| {
        let lines = format!("Range: bytes=1-2\r\nIf-Range: {date}\r\n");
        client.get_with("/dev1/a", &lines).status
    };
    assert_eq!([status(&at), status(&before), status("\"etag\"")], [206, 200, 200]);
}

#[test]
fn dates_are_understood_in_all_three_forms() {
    let (node, _) = ten_with_times();
    let mut client = node.client();
    for date in [
        "Sun, 09 Sep 2001 01:46:40 GMT",
        "Sunday, 09-Sep-01 01:46:40 GMT",
        "Sun Sep  9 01:46:40 2001",
    ] {
        let answer = client.get_with("/dev1/a", &format!("If-Modified-Since: {date}\r\n"));
        assert_eq!(answer.expect(304).header("Connection"), Some("keep-alive"));
    }
}

/// A node with a file of ten digits.
struct TenDigits(Node);

impl TenDigits {
    fn store() -> TenDigits {
        let node = Node::start();
        node.store("/dev1/a", TEN);
        TenDigits(node)
    }

    /// Asks for the file with more header lines.
    fn with(&self, headers: &str) -> Answer {
        let mut client = self.0.client();
        let answer = client.get_with("/dev1/a", headers);
        client.stays_open();
        answer
    }
}

/// The ten digits with a known time, and the seconds before, at and after it.
fn ten_with_times() -> (Node, [String; 3]) {
    let node = Node::start();
    node.store("/dev1/a", TEN);
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_000_500);
    File::options().write(true).open(node.file("/dev1/a")).unwrap().set_modified(at).unwrap();
    let second = Duration::from_secs(1);
    (node, [at - second, at, at + second].map(httpdate::fmt_http_date))
}

fn without_date(answer: &Answer) -> Vec<&(String, String)> {
    answer.headers.iter().filter(|(name, _)| name != "Date").collect()
}
