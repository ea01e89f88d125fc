//! The sidechannel, line by line. Digests in the long run are in `digest`, `watch` in `watch`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;

use nix::unistd::Pid;

use crate::harness::{Client, Node, Setup, until};

const A_SHA: &str = "SHA-1=aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d";
const LONGEST: usize = 4096;

/// Lines and the answers that section 3 gives; the parser's own tests read the same table.
#[path = "../worker/src/sidechannel/line/table.rs"]
mod lines;

/// A node where the rows of the table hold, and its modes of work.
fn node(workers: &str) -> Node {
    let node = Setup::new().devices(3).workers(workers).start();
    node.store("/dev1/a", "hello");
    node.store("/dev2/d/b", "");
    node.store("/dev1/0/000/000/0000000123.fid", "fid");
    node.store("/dev2/1/234/567/12345678901234567890.fid", "twenty digits, 20 b.");
    node
}

/// The rows of the table that are answered with a line.
fn rows(node: &Node) -> Vec<(Vec<u8>, Vec<u8>)> {
    let folder = fs::metadata(node.file("/dev2/d")).unwrap().size().to_string();
    let rows = lines::rows().into_iter().filter(|row| !row.answer.starts_with(b"<"));
    rows.map(|row| {
        let answer = match row.answer.strip_suffix(b"{folder}") {
            Some(start) => [start, folder.as_bytes()].concat(),
            None => row.answer,
        };
        (row.line, [&answer, &b"\r\n"[..]].concat())
    })
    .collect()
}

/// The lines of the table whose answer is something else.
fn lines_for(answer: &str) -> Vec<Vec<u8>> {
    let rows = lines::rows().into_iter().filter(|row| row.answer == answer.as_bytes());
    rows.map(|row| row.line).collect()
}

/// Every seventh of the short rows: cutting takes a connection for each byte.
fn short_rows(node: &Node) -> Vec<(String, String)> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok();
    let short = rows(node).into_iter().filter(|(line, _)| line.len() < 60).step_by(7);
    let short = short.filter(|(line, _)| !line.ends_with(b"\r"));
    short.filter_map(|(line, answer)| Some((text(line)?, text(answer)?))).collect()
}

fn joined<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    parts.into_iter().collect()
}

#[test]
fn each_line_of_the_table_is_answered_byte_for_byte() {
    for workers in ["device", "1"] {
        let node = node(workers);
        let rows = rows(&node);
        assert!(rows.len() >= 200);
        let mut kept = node.sidechannel();
        for (line, answer) in &rows {
            let told = line.escape_ascii();
            for end in [&b"\n"[..], b"\r\n"] {
                if line.ends_with(b"\r") && end == b"\n" {
                    continue; // that would be an end of CRLF
                }
                kept.send([line, end].concat());
                let came = kept.take_through(b"\n");
                assert_eq!(
                    came.escape_ascii().to_string(),
                    answer.escape_ascii().to_string(),
                    "{told}"
                );
            }
            let mut client = node.sidechannel();
            client.send([line, &b"\r\n"[..]].concat());
            assert!(client.take_through(b"\n") == *answer, "{told} on a new connection");
        }
    }
}

#[test]
fn each_line_of_the_table_for_the_stream_starts_it() {
    let node = node("device");
    let lines = lines_for("<watch>");
    assert!(lines.len() > 3);
    for line in lines {
        let mut client = node.sidechannel();
        client.send([&line, &b"\r\nsize /dev1/a\n"[..]].concat());
        client.send("hello\n");
        // What comes are groups of the stream alone.
        for _ in 0..2 {
            let group = String::from_utf8(client.take_through(b".\n")).unwrap();
            let devices: Vec<&str> = group.lines().filter_map(|l| l.split('\t').next()).collect();
            assert_eq!(devices, ["1", "2", "3", "."], "{}: {group:?}", line.escape_ascii());
        }
    }
}

#[test]
fn all_rows_pipelined_are_answered_in_order() {
    for workers in ["device", "cpu", "1"] {
        let node = node(workers);
        let rows = rows(&node);
        let answers = rows.iter().map(|(_, answer)| answer.as_slice()).collect::<Vec<_>>().concat();
        let lines = rows.iter().map(|(line, _)| [line, &b"\r\n"[..]].concat());
        let lines = lines.collect::<Vec<_>>().concat();
        let mut client = node.sidechannel();
        for _ in 0..3 {
            client.send(&lines);
            let came = client.take(answers.len());
            assert!(came == answers, "{workers}: {}", came.escape_ascii());
        }
    }
}

#[test]
fn lines_may_be_cut_at_every_byte() {
    let node = node("device");
    let rows = short_rows(&node);
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
    let rows = short_rows(&node);
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
        let word = "x".repeat(LONGEST);
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
    let lines = lines_for("<end>").into_iter().map(|line| String::from_utf8(line).unwrap());
    for line in lines.zip(["\n", "\r\n"].iter().cycle()).map(|(line, end)| line + end) {
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
    for (said, threads) in [("3", 3), ("101", 3), ("0", 3), ("1", 1), ("6", 6)] {
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
