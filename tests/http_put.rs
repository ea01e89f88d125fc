//! PUT.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::harness::{
    Client, Node, Setup, can_mount, content_md5, fid_path, names_in, pattern, skipped, until,
};

/// Content-Range.
mod ranges;
/// Full, read-only, forbidden.
mod refused;

#[test]
fn a_put_file_has_what_was_sent() {
    let node = Node::start();
    let mut client = node.client();
    for (fid, length) in [0, 1, 4096, 65_536, 65_537, 1 << 20, (10 << 20) + 7].iter().enumerate() {
        let (path, content) = (fid_path(1, fid as u64), pattern(*length));
        client.put(&path, &content).expect_and(201, "keep-alive");
        assert!(node.content(&path) == content, "{length} bytes differ");
        assert!(client.get(&path).expect(200).body == content);
    }
}

#[test]
fn targets_outside_a_device_are_400() {
    let node = Node::start();
    for path in ["/", "/file", "/dev1", "/dev1/", "/dev1/a/", "/dev/a", "/devx/a", "/dev0/a"] {
        let answer = node.client().put(path, "x");
        assert_eq!(answer.status, 400, "{path}");
    }
    assert_eq!(node.client().put("/dev16777216/a", "x").status, 400);
    assert_eq!(node.client().put("/dev01/a", "x").status, 400);
    assert!(!node.file("/file").exists() && !node.file("/dev1/a").exists());
}

#[test]
fn a_missing_device_is_404_and_never_created() {
    let node = Node::start();
    let mut client = node.client();
    client.put("/dev9/a/b", "x").expect_and(404, "keep-alive");
    client.stays_open();
    assert!(!node.file("/dev9").exists());
}

#[test]
fn missing_folders_are_made() {
    let node = Node::start();
    assert_eq!(node.client().put("/dev1/a/b/c/d/e/file", "deep").status, 201);
    assert_eq!(node.content("/dev1/a/b/c/d/e/file"), b"deep");
}

#[test]
fn modes_are_what_umask_leaves() {
    let node = Setup::new().shell("umask 027").start();
    node.client().put("/dev1/new/file", "x").expect(201);
    assert_eq!(mode(&node, "/dev1/new"), 0o750);
    assert_eq!(mode(&node, "/dev1/new/file"), 0o640);
    node.client().put_with("/dev1/new/ranged", "Content-Range: bytes 0-0/*\r\n", "x").expect(201);
    assert_eq!(mode(&node, "/dev1/new/ranged"), 0o640);
}

#[test]
fn an_open_umask_leaves_everything() {
    let node = Setup::new().shell("umask 0").start();
    node.client().put("/dev1/new/file", "x").expect(201);
    assert_eq!((mode(&node, "/dev1/new"), mode(&node, "/dev1/new/file")), (0o777, 0o666));
}

#[test]
fn a_put_over_a_file_replaces_it() {
    let node = Node::start();
    let mut client = node.client();
    client.put("/dev1/f/a", "a long old content").expect(201);
    let old = fs::metadata(node.file("/dev1/f/a")).unwrap().ino();
    client.put("/dev1/f/a", "new").expect_and(201, "keep-alive");
    assert_eq!(client.get("/dev1/f/a").body, b"new");
    assert_ne!(fs::metadata(node.file("/dev1/f/a")).unwrap().ino(), old, "changed in place");
    assert_eq!(names_in(&node.file("/dev1/f")), ["a"]);
}

#[test]
fn a_put_over_a_directory_is_refused() {
    let node = Node::start();
    node.store("/dev1/folder/file", "x");
    let mut client = node.client();
    client.put("/dev1/folder", "x").expect_and(403, "keep-alive");
    client.send("PUT /dev1/folder HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n");
    client.answer().expect_and(403, "keep-alive");
    client.answer().expect(200);
    let expecting =
        "PUT /dev1/folder HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    client.ask(expecting).expect_and(403, "close");
    client.closes();
    // A link to one is replaced as any file is.
    symlink("folder", node.file("/dev1/link")).unwrap();
    let mut client = node.client();
    client.ask(expecting.replace("folder", "link")).expect(100);
    client.ask("abc").expect(201);
    assert_eq!(names_in(&node.file("/dev1/folder")), ["file"]);
}

#[test]
fn a_put_under_a_file_is_refused() {
    let node = Node::start();
    node.store("/dev1/file", "x");
    let answer = node.client().put("/dev1/file/below", "x");
    assert!((400..=500).contains(&answer.status), "{answer:?}");
    assert_eq!(node.content("/dev1/file"), b"x");
}

#[test]
fn a_put_through_a_symlink_stays_on_its_device() {
    let node = Node::start();
    symlink("../dev2", node.file("/dev1/other")).unwrap();
    let answer = node.client().put("/dev1/other/file", "x");
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(!node.file("/dev2/file").exists());
}

#[test]
fn readers_see_the_old_file_until_the_new_one_is_whole() {
    let node = Node::start();
    node.store("/dev1/a", "old");
    let (mut writer, mut reader) = (node.client(), node.client());
    writer.send("PUT /dev1/a HTTP/1.1\r\nContent-Length: 8\r\nExpect: 100-continue\r\n\r\n");
    writer.answer().expect(100);
    for byte in b"new file" {
        assert_eq!(reader.get("/dev1/a").body, b"old");
        writer.send([*byte]);
    }
    writer.answer().expect(201);
    assert_eq!(reader.get("/dev1/a").body, b"new file");
}

#[test]
fn a_client_that_vanishes_leaves_nothing_and_two_log_lines() {
    let node = Node::start();
    node.store("/dev1/f/old", "old");
    let (mut client, path) = (node.client(), "/dev1/f/old");
    let from = client.stream().local_addr().unwrap();
    client.send(format!("PUT {path} HTTP/1.1\r\nContent-Length: 100\r\n\r\nhello"));
    client.finish_sending();
    client.closes();
    node.logs(&format!("PUT {path} failed from {from} after 5 bytes: premature EOF"));
    let line = node.logs(&format!("ms from {from} for PUT {path}"));
    let (_, age) = line.split_once("last_data_recv=").expect("its name");
    let age: u32 = age.split("ms").next().unwrap().parse().expect("milliseconds");
    assert!(age < 10_000, "{line}");
    assert_eq!(node.content(path), b"old");
    assert_eq!(names_in(&node.file("/dev1/f")), ["old"]);
}

#[test]
fn a_client_that_resets_is_logged_with_the_error() {
    let node = Node::start();
    let mut client = node.client();
    let from = client.stream().local_addr().unwrap();
    client.send("PUT /dev1/r HTTP/1.1\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n");
    client.answer().expect(100);
    client.reset();
    let line = node.logs(&format!("PUT /dev1/r failed from {from} after 0 bytes: "));
    assert!(!line.ends_with(": ") && !line.contains("premature"), "{line}");
    node.logs(&format!("ms from {from} for PUT /dev1/r"));
    assert!(!node.file("/dev1/r").exists());
}

#[test]
fn a_chunked_client_that_vanishes_leaves_nothing() {
    let node = Node::start();
    for coded in ["", "5", "5\r\n", "5\r\nhel", "5\r\nhello\r\n", "5\r\nhello\r\n0\r\n"] {
        let mut client = node.client();
        let head = "PUT /dev1/f/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send(format!("{head}{coded}"));
        client.finish_sending();
        client.closes();
    }
    assert!(!node.file("/dev1/f/x").exists());
    assert!(leftovers(&node, "/dev1/f").is_empty());
}

#[test]
fn a_worker_killed_in_mid_put_leaves_nothing() {
    let node = Node::start();
    node.store("/dev1/f/old", "old");
    let mut client = node.client();
    client.send("PUT /dev1/f/old HTTP/1.1\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n");
    client.answer().expect(100);
    client.send("half");
    for worker in node.workers() {
        kill(worker, Signal::SIGKILL).unwrap();
    }
    client.closes();
    assert_eq!(node.content("/dev1/f/old"), b"old");
    assert_eq!(leftovers(&node, "/dev1/f"), ["old"]);
    assert_eq!(node.client().put("/dev1/f/old", "new").status, 201);
}

#[test]
fn the_right_content_md5_is_accepted() {
    let node = Node::start();
    let mut client = node.client();
    for (fid, length) in [0, 3, 100_000].iter().enumerate() {
        let (path, content) = (fid_path(1, fid as u64), pattern(*length));
        let line = format!("Content-MD5: {}\r\n", content_md5(&content));
        client.put_with(&path, &line, &content).expect_and(201, "keep-alive");
        assert!(node.content(&path) == content);
    }
}

#[test]
fn a_wrong_content_md5_keeps_the_old_file_and_the_connection() {
    let node = Node::start();
    node.store("/dev1/f/a", "old");
    let mut client = node.client();
    for round in 0..5 {
        let line = format!("Content-MD5: {}\r\n", content_md5("something else"));
        client.put_with("/dev1/f/a", &line, "new").expect_and(400, "keep-alive");
        client.put_with("/dev1/f/b", &line, "new").expect_and(400, "keep-alive");
        assert_eq!(client.get("/dev1/f/a").body, b"old", "round {round}");
    }
    assert_eq!(names_in(&node.file("/dev1/f")), ["a"]);
}

#[test]
fn a_malformed_content_md5_is_400_and_closes() {
    let node = Node::start();
    let good = content_md5("x");
    for value in [
        "",
        "abc",
        &good[..23],
        &good[1..],
        &format!("{good}="),
        "*aDeIpH4rm0BuxVPFwzQFQ==",
        "dd4EpHipm0BuxVPFwzQFQxx=",
        "dd4EpHipm0BuxVPFwzQFQxxx",
    ] {
        let head = "PUT /dev1/a HTTP/1.1\r\nContent-Length: 1\r\n";
        node.closes_after(format!("{head}Content-MD5: {value}\r\n\r\nx"), 400);
    }
    assert!(!node.file("/dev1/a").exists());
}

#[test]
fn a_put_without_a_length_makes_an_empty_file_at_once() {
    let node = Node::start();
    node.store("/dev1/a", "old");
    node.stays_after("PUT /dev1/a HTTP/1.1\r\n\r\n", 201);
    assert_eq!(node.content("/dev1/a"), b"");
    node.closes_after("PUT /dev1/b HTTP/1.0\r\n\r\n", 201);
    assert_eq!(node.content("/dev1/b"), b"");
}

#[test]
fn trackers_put_head_and_body_in_separate_packets_over_http_1_0() {
    let node = Node::start();
    let mut client = node.client();
    for round in 0..20 {
        let path = fid_path(1 + round % 2, u64::from(round));
        client.send(format!(
            "PUT {path} HTTP/1.0\r\nConnection: keep-alive\r\nContent-length: 4\r\n\r\n"
        ));
        client.send("data");
        client.answer().expect_and(201, "keep-alive");
        assert_eq!(node.content(&path), b"data");
    }
}

#[test]
fn usage_numbers_follow_a_put_and_a_delete() {
    if !can_mount() {
        return skipped("no mount namespaces here");
    }
    let node = Setup::new()
        .env("MOG_DISK_USAGE_INTERVAL", "3600")
        .mount("mount -t tmpfs -o size=64m none {dir}/dev1")
        .start();
    let mut client = node.client();
    until("the first look", || client.get("/dev1/usage").status == 200);
    let before = used(&mut client);
    client.put("/dev1/a", pattern(8 << 20)).expect(201);
    until("the numbers to rise", || used(&mut client) >= before + 8 * 1024);
    client.delete("/dev1/a").expect(204);
    until("the numbers to fall", || used(&mut client) < before + 4 * 1024);
}

#[test]
fn a_slow_sender_is_stored_whole() {
    let node = Node::start();
    let content = pattern(50_000);
    let mut client = node.client();
    client.send(format!("PUT /dev1/a HTTP/1.1\r\nContent-Length: {}\r\n\r\n", content.len()));
    for piece in content.chunks(5_000) {
        client.send(piece);
        let last = content.ends_with(piece);
        assert!(last || client.is_silent_for(Duration::from_millis(20)), "answered too early");
    }
    client.answer().expect(201);
    assert!(node.content("/dev1/a") == content);
}

fn mode(node: &Node, path: &str) -> u32 {
    fs::metadata(node.file(path)).unwrap().mode() & 0o7777
}

/// What is in a folder of the node, which may not be there at all.
fn leftovers(node: &Node, path: &str) -> Vec<String> {
    let folder = node.file(path);
    if folder.exists() { names_in(&folder) } else { Vec::new() }
}

fn used(client: &mut Client) -> u64 {
    let text = String::from_utf8(client.get("/dev1/usage").expect(200).body).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("used: "));
    line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no number in {text}"))
}

#[test]
fn slashes_in_a_row_between_folders_are_one() {
    let node = Node::start();
    for (path, file) in [
        ("/dev1/a//c/b", "/dev1/a/c/b"),
        ("/dev1//d/e//f", "/dev1/d/e/f"),
        ("/dev1///g", "/dev1/g"),
        ("/dev1/h////i///j", "/dev1/h/i/j"),
        ("/dev1/k/./l//./m", "/dev1/k/l/m"),
        ("//dev1//n//o", "/dev1/n/o"),
    ] {
        let mut client = node.client();
        client.put(path, path).expect_and(201, "keep-alive");
        assert_eq!(node.content(file), path.as_bytes());
        assert_eq!(client.get(file).expect(200).body, path.as_bytes());
        client.put_with(path, "Content-Range: bytes 0-0/*\r\n", "x").expect(201);
        client.delete(path).expect(204);
        client.delete(file).expect(404);
    }
}
