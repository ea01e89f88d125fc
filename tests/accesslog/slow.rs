//! `slow_log`: operations that took long, and what they waited for.

use std::time::Duration;

use crate::harness::{Kind, Mode, Setup, SlowFs, fid_path, has_fuse, pattern, skipped, until};

/// The milliseconds of a part in a line.
fn part(line: &str, name: &str) -> u64 {
    let rest = line.split(&format!(" {name} ")).nth(1).unwrap_or_else(|| panic!("{line}"));
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
    digits.unwrap().parse().unwrap()
}

const PARTS: [&str; 7] = ["queue", "open", "read", "write", "commit", "peer", "loop"];

/// The part that took longest.
fn longest(line: &str) -> &'static str {
    PARTS.into_iter().max_by_key(|name| part(line, name)).unwrap()
}

#[test]
fn what_was_slow_is_told_with_its_part() {
    if !has_fuse() {
        return skipped("not root, or no /dev/fuse");
    }
    let setup = Setup::new().arg("--slow-log=200ms").arg("--stall-timeout=10");
    let disk = SlowFs::mount(&setup.folder().join("dev1"));
    let node = setup.start();
    let mut client = node.client();
    let crawl = Mode::Crawl(Duration::from_millis(250));
    client.put(&fid_path(1, 1), "a").expect(201);
    assert_eq!(node.logged("slow: "), 0);

    disk.set_only(&[Kind::Read], crawl);
    client.get(&fid_path(1, 1)).expect(200);
    let line = node.logs(&format!("slow: GET {} of 127.0.0.1:", fid_path(1, 1)));
    assert!(line.contains(": 200 after ") && part(&line, "read") >= 250, "{line}");
    assert_eq!(longest(&line), "read", "{line}");

    disk.set(Mode::Work);
    disk.set_only(&[Kind::Look], crawl);
    // There is one line a second and device: the others are counted.
    let told = format!("slow: GET {} of", fid_path(1, 2));
    until("its line", || {
        client.get(&fid_path(1, 2)).expect(404);
        node.logged(&told) > 0
    });
    let line = node.logs(&told);
    assert_eq!(longest(&line), "open", "{line}");

    disk.set(Mode::Work);
    let mut stored: Vec<_> = (10..50).map(|fid| fid_path(1, fid)).collect();
    stored.iter().for_each(|path| _ = client.put(path, "a").expect(201));
    disk.set_only(&[Kind::Change], crawl);
    until("its line", || {
        client.delete(&stored.pop().expect("one a quarter of a second")).expect(204);
        node.logged("slow: DELETE ") > 0
    });
    let line = node.logs("slow: DELETE ");
    assert!(line.contains(": 204 after "), "{line}");
    assert_eq!(longest(&line), "commit", "{line}");
    let told = format!("slow: PUT {} of", fid_path(1, 4));
    until("its line", || {
        client.put(&fid_path(1, 4), pattern(400_000)).expect(201);
        node.logged(&told) > 0
    });
    let line = node.logs(&told);
    assert!(part(&line, "write") >= 250, "{line}");
}

#[test]
fn a_slow_peer_is_no_slow_operation() {
    let node = Setup::new().arg("--slow-log=300ms").start();
    let mut client = node.client();
    client.send("PUT /dev1/a HTTP/1.1\r\nContent-Length: 2\r\n\r\nx");
    assert!(client.is_silent_for(Duration::from_millis(500)));
    client.send("y");
    client.answer().expect(201);
    client.get("/dev1/a").expect(200);
    assert_eq!(node.logged("slow: "), 0, "{:#?}", node.stderr.so_far());
}
