//! The sidechannel, line by line. Digests in the long run are in `digest`, `watch` in `watch`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;

use nix::unistd::Pid;

use crate::harness::{Client, Node, Setup, until};

const A: &str = "MD5=5d41402abc4b2a76b9719d911017c592";
const A_SHA: &str = "SHA-1=aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d";
const DOTS: &str = "ERROR: uri invalid (contains ..)";
const LONGEST: usize = 4096;

/// A node where the rows of the table hold, and its modes of work.
fn node(workers: &str) -> Node {
    let node = Setup::new().devices(3).workers(workers).start();
    node.store("/dev1/a", "hello");
    node.store("/dev2/d/b", "");
    node
}

/// Each row of section 3 that is a line for a line.
fn table(node: &Node) -> Vec<(String, String)> {
    let folder = fs::metadata(node.file("/dev2/d")).unwrap().size();
    let none = "/dev3/0/000/000/0000000001.fid";
    let big_fid = "/dev16777215/9/999/999/99999999999999999999.fid";
    let too_long = "/dev1/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let rows = [
        ("size /dev1/a", "/dev1/a 5".to_owned()),
        ("size /dev2/d/b", "/dev2/d/b 0".into()),
        ("size /dev2/d", format!("/dev2/d {folder}")),
        ("size /dev2/d/none", "/dev2/d/none -1".into()),
        ("size /dev2/d/b/under-a-file", "/dev2/d/b/under-a-file -1".into()),
        (&format!("size {none}"), format!("{none} -1")),
        (&format!("size {big_fid}"), format!("{big_fid} -1")),
        ("MD5 /dev1/a", format!("/dev1/a {A}")),
        ("MD5 /dev1/a fsck", format!("/dev1/a {A}")),
        ("MD5 /dev1/a replicate", format!("/dev1/a {A}")),
        ("SHA-1 /dev1/a", format!("/dev1/a {A_SHA}")),
        ("SHA-1 /dev1/a fsck", format!("/dev1/a {A_SHA}")),
        ("MD5 /dev2/d/b", "/dev2/d/b MD5=d41d8cd98f00b204e9800998ecf8427e".into()),
        (&format!("MD5 {none}"), format!("{none} MD5=-1")),
        (&format!("MD5 {none} fsck"), format!("{none} MD5=-1")),
        (&format!("SHA-1 {none}"), format!("{none} SHA-1=-1")),
        ("MD5 /dev2/d", "ERR read /dev2/d at 0 failed".into()),
        ("SHA-1 /dev2/d fsck", "ERR read /dev2/d at 0 failed".into()),
        ("size /dev1/../dev1/a", DOTS.into()),
        ("MD5 /dev1/../dev1/a", DOTS.into()),
        ("SHA-1 /../a fsck", DOTS.into()),
        (&format!("size {too_long}"), DOTS.into()),
        (&format!("MD5 {too_long}"), DOTS.into()),
        (&format!("SHA-1 {too_long}"), DOTS.into()),
        ("server aio_threads = 4", String::new()),
        ("server aio_threads=5", String::new()),
        ("SERVER AIO_THREADS =6", String::new()),
        ("Server Aio_Threads= 7", String::new()),
        ("server aio_threads = 0", String::new()),
        ("server aio_threads = 101", String::new()),
        ("", String::new()),
        ("  \t ", String::new()),
        ("hello there", "ERROR: unknown command: hello".into()),
        ("size", "ERROR: unknown command: size".into()),
        ("md5 /dev1/a", "ERROR: unknown command: md5".into()),
        ("GET / HTTP/1.1", "ERROR: unknown command: GET".into()),
    ];
    rows.into_iter().map(|(line, answer)| (line.to_owned(), answer + "\r\n")).collect()
}

fn joined<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    parts.into_iter().collect()
}

#[test]
fn each_row_alone_with_lf_and_with_crlf() {
    for workers in ["device", "1"] {
        let node = node(workers);
        let mut kept = node.sidechannel();
        for (line, answer) in table(&node) {
            for end in ["\n", "\r\n"] {
                let mut client = node.sidechannel();
                client.send(format!("{line}{end}"));
                assert_eq!(client.line(), answer, "{line:?} and {end:?}, {workers}");
                kept.send(format!("{line}{end}"));
                assert_eq!(kept.line(), answer, "{line:?} and {end:?} on a used connection");
            }
        }
    }
}

#[test]
fn all_rows_pipelined_are_answered_in_order() {
    for workers in ["device", "cpu", "1"] {
        let node = node(workers);
        let rows = table(&node);
        let answers = joined(rows.iter().map(|(_, answer)| answer.as_str()));
        for end in ["\n", "\r\n"] {
            let lines = joined(rows.iter().flat_map(|(line, _)| [line.as_str(), end]));
            let mut client = node.sidechannel();
            for _ in 0..3 {
                client.send(&lines);
                let came = client.take(answers.len());
                assert_eq!(String::from_utf8_lossy(&came), answers, "{workers}, {end:?}");
            }
        }
    }
}

#[test]
fn lines_may_be_cut_at_every_byte() {
    let node = node("device");
    let rows = table(&node);
    for end in ["\n", "\r\n"] {
        let lines = joined(rows.iter().flat_map(|(line, _)| [line.as_str(), end]));
        for cut in 1..lines.len() {
            cut_at(&node, &rows, &lines, cut);
        }
    }
}

/// The first piece has been looked at when the whole lines in it are answered.
fn cut_at(node: &Node, rows: &[(String, String)], lines: &str, cut: usize) {
    let mut client = node.sidechannel();
    client.send(&lines[..cut]);
    let whole = lines[..cut].matches('\n').count();
    for (number, (line, answer)) in rows.iter().enumerate() {
        if number == whole {
            client.send(&lines[cut..]);
        }
        assert_eq!(&client.line(), answer, "{line:?}, cut before byte {cut}");
    }
}

#[test]
fn lines_may_come_byte_by_byte() {
    let node = node("device");
    let rows = table(&node);
    let mut client = node.sidechannel();
    for (line, _) in &rows {
        line.bytes().chain(*b"\r\n").for_each(|byte| client.send([byte]));
    }
    for (line, answer) in &rows {
        assert_eq!(&client.line(), answer, "{line:?}");
    }
}

#[test]
fn ten_thousand_pipelined_sizes_of_several_owners_come_in_order() {
    const COUNT: usize = 10_000;
    for workers in ["device", "cpu"] {
        let node = Setup::new().devices(4).workers(workers).start();
        for file in 0..40 {
            node.store(&sized(file), "x".repeat(file * 7));
        }
        // A walk that changes the device with nearly every line; every ninth file is missing.
        let walk = (0..COUNT).map(|step| step * 17 % 45);
        let mut lines = walk.clone().map(|file| format!("size {}\r\n", sized(file)));
        let lines: String = lines.by_ref().collect();
        let client = node.sidechannel();
        let mut sender = client.stream().try_clone().unwrap();
        let mut client = client;
        thread::scope(|scope| {
            scope.spawn(move || std::io::Write::write_all(&mut sender, lines.as_bytes()).unwrap());
            for (number, file) in walk.enumerate() {
                let size = if file < 40 { (file * 7).to_string() } else { "-1".to_owned() };
                assert_eq!(client.line(), format!("{} {size}\r\n", sized(file)), "line {number}");
            }
        });
    }
}

fn sized(file: usize) -> String {
    format!("/dev{}/s/{file}", 1 + file % 4)
}

#[test]
fn a_line_may_have_4096_bytes_and_no_more() {
    let node = Node::start();
    let mut client = node.sidechannel();
    for end in ["\n", "\r\n"] {
        let word = "x".repeat(LONGEST + 1 - end.len());
        client.send(format!("{word}{end}"));
        assert_eq!(client.line(), format!("ERROR: unknown command: {word}\r\n"));
    }
    for tail in ["\n", ""] {
        let mut client = node.sidechannel();
        client.send("\n");
        assert_eq!(client.line(), "\r\n");
        client.try_send("x".repeat(LONGEST + 1) + tail);
        client.closes();
    }
    client.send("size /dev1/none\n");
    assert_eq!(client.line(), "/dev1/none -1\r\n");
}

#[test]
fn a_long_line_that_drips_is_closed_too() {
    let node = Node::start();
    let mut client = node.sidechannel();
    let mut sent = 0;
    while client.try_send([b'x'; 64]) {
        sent += 64;
        assert!(sent < 8 << 20, "{sent} bytes were taken for a line");
    }
    client.closes();
}

#[test]
fn a_client_that_has_finished_sending_gets_its_answers() {
    let node = node("device");
    let mut client = node.sidechannel();
    client.send("size /dev1/a\nMD5 /dev2/d/b\nSHA-1 /dev1/a\nsize /dev3/none\n");
    client.finish_sending();
    assert_eq!(client.line(), "/dev1/a 5\r\n");
    assert_eq!(client.line(), "/dev2/d/b MD5=d41d8cd98f00b204e9800998ecf8427e\r\n");
    assert_eq!(client.line(), format!("/dev1/a {A_SHA}\r\n"));
    assert_eq!(client.line(), "/dev3/none -1\r\n");
    client.closes();
}

#[test]
fn shutdown_ends_the_whole_node() {
    for line in ["shutdown\n", "shutdown\r\n", "shutdown graceful\r\n"] {
        let mut node = Node::start();
        let (mut half, mut client) = (node.client(), node.sidechannel());
        half.ask("GET / HTTP/1.1\r\n\r\nGET / HT").expect(200);
        client.send(format!("size /dev1/no\n{line}"));
        assert_eq!(client.line(), "/dev1/no -1\r\n");
        client.closes();
        drop(client);
        node.event("draining");
        half.ask("TP/1.1\r\n\r\n").expect(200);
        half.closes();
        drop(half);
        assert_eq!(node.wait_for_exit().code(), Some(0), "{line:?}");
    }
}

#[test]
fn other_words_after_shutdown_do_nothing() {
    let node = Node::start();
    let mut client = node.sidechannel();
    client.send("shutdown now\nshutdown graceful please\n");
    assert_eq!(client.line(), "ERROR: unknown command: shutdown\r\n");
    assert_eq!(client.line(), "ERROR: unknown command: shutdown\r\n");
    client.send("\n");
    assert_eq!(client.line(), "\r\n");
    node.client().stays_open();
}

#[test]
fn aio_threads_bounds_the_disk_threads_of_every_worker() {
    let node = Setup::new().devices(2).start();
    for device in 1..=2 {
        for file in 0..8 {
            let path = format!("/dev{device}/f{file}");
            fs::File::create(node.file(&path)).unwrap().set_len(48 << 20).unwrap();
        }
    }
    // Said on one connection, which one worker serves; it holds for the other one too.
    for (said, threads) in [("3", 3), ("101", 3), ("x", 3), ("0", 3), ("1", 1), ("6", 6)] {
        let mut client = node.sidechannel();
        client.send(format!("server aio_threads = {said}\r\n"));
        assert_eq!(client.line(), "\r\n");
        for device in 1..=2 {
            busy_threads_reach(&node, device, threads, said);
        }
    }
}

/// Keeps eight digests of a device going until as many threads as allowed work on it, then sees
/// that there never are more. Setting the number is not synchronous: that comes first.
fn busy_threads_reach(node: &Node, device: usize, threads: usize, said: &str) {
    let mut clients: Vec<Client> = (0..8).map(|_| node.sidechannel()).collect();
    let ask = |clients: &mut Vec<Client>| {
        for (file, client) in clients.iter_mut().enumerate() {
            client.send(format!("MD5 /dev{device}/f{file}\n"));
        }
    };
    let what = format!("{threads} threads for dev{device} after {said:?}");
    ask(&mut clients);
    until(&what, || disk_threads(node, device) == threads);
    let pending = clients.last_mut().unwrap();
    while pending.is_silent_for(std::time::Duration::from_millis(5)) {
        assert!(disk_threads(node, device) <= threads, "more than {what}");
    }
    clients.iter_mut().for_each(|client| assert!(client.line().contains("MD5=")));
}

/// How many disk threads there are for a device in the whole node.
fn disk_threads(node: &Node, device: usize) -> usize {
    let name = format!("disk dev{device}\n");
    let named = |pid: Pid| {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        tasks
            .filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|n| n == name))
            .count()
    };
    node.workers().into_iter().map(named).sum()
}
