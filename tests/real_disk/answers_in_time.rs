//! Whoever waits for a disk when it is declared stalled is answered then, whatever he asked for.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{connect, long, settle};
use crate::harness::real_disk::{EVERYTHING, FsKind, Tree, on_real_disks};
use crate::harness::{Client, Mode, Node, fid_path, in_each_mode, until};
use crate::load::{process, total};

const CLIENTS: usize = 500;
/// `stall_timeout` and a second.
const BOUND: Duration = Duration::from_secs(3);
/// What a busy machine may add.
const MARGIN: Duration = Duration::from_millis(700);
const ARGS: [&str; 1] = ["--stall-timeout=2"];
const SIZE: usize = 4096;
/// Names that are in memory, and names that are not, in other folders.
const KNOWN: Tree = Tree { fids: 1..600, size: SIZE };
const UNKNOWN: Tree = Tree { fids: 1000..1600, size: SIZE };
const FOLDER: u64 = 2000;
/// What of a large PUT has been sent before, and what is announced.
const FIRST: usize = 1 << 20;
const LARGE: usize = 12 << 20;

/// What a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Known,
    Unknown,
    Pipelined,
    Small,
    SmallInUnknown,
    Large,
    Delete,
    Md5,
    Fsck,
    Size,
}

const WISHES: [Wish; 10] = [
    Wish::Known,
    Wish::Unknown,
    Wish::Pipelined,
    Wish::Small,
    Wish::SmallInUnknown,
    Wish::Large,
    Wish::Delete,
    Wish::Md5,
    Wish::Fsck,
    Wish::Size,
];

/// One client and what it got.
struct Waiting {
    wish: Wish,
    path: String,
    client: Client,
    left: usize,
    got: Vec<u8>,
    over: bool,
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn everybody_has_an_answer_while_a_block_device_hangs() {
    let fill = |device: &Path| {
        KNOWN.write(device);
        UNKNOWN.write(device);
        Tree { fids: FOLDER..FOLDER + 1, size: SIZE }.write(device);
    };
    on_real_disks(&[FsKind::Ext4, FsKind::Xfs], &ARGS, fill, |sick| {
        settle(&sick.node);
        KNOWN.look_at(&sick.dev1());
        let hang = || sick.disk.hang(&EVERYTHING);
        hang_for_long(&sick.node, &sick.name(), hang, || sick.disk.mend());
    });
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn everybody_has_an_answer_while_every_call_hangs() {
    in_each_mode(&ARGS, |sick| {
        settle(&sick.node);
        let device = sick.node.file("/dev1");
        KNOWN.write(&device);
        UNKNOWN.write(&device);
        fs::create_dir_all(sick.node.file(&fid_path(1, FOLDER)).parent().unwrap()).unwrap();
        let (hang, mend) = (|| sick.disk.set(Mode::Hang), || sick.disk.set(Mode::Work));
        hang_for_long(&sick.node, &format!("FUSE, workers={}", sick.workers), hang, mend);
    });
}

fn hang_for_long(node: &Node, who: &str, hang: impl Fn(), mend: impl Fn()) {
    warm_up(node);
    let before = sizes(node);
    let mut all = waiting(node);
    hang();
    let begun = Instant::now();
    all.iter_mut().for_each(Waiting::ask);
    let asked = begun.elapsed();
    while begun.elapsed() < asked + BOUND + MARGIN && !all.iter().all(|one| one.over) {
        all.iter_mut().for_each(Waiting::go_on);
        std::thread::sleep(Duration::from_millis(5)); // The pace.
    }
    println!("{who}: asked within {asked:?}, all over after {:?}", begun.elapsed());
    let silent: Vec<_> = all.iter().filter(|one| !one.over).map(|one| one.wish).collect();
    let kinds = WISHES.map(|wish| (wish, silent.iter().filter(|s| **s == wish).count()));
    assert!(silent.is_empty(), "{who}: {} have no answer: {kinds:?}", silent.len());
    while begun.elapsed() < long(5, 60) {
        std::thread::sleep(Duration::from_millis(50)); // It hangs on.
        node.client().get("/dev1/usage").expect(503);
        node.client().get("/dev2/kept").expect(200);
    }
    mend();
    let mut client = node.client();
    until("dev1 to serve", || client.get("/dev1/kept").status == 200);
    until("stuck threads to come back", || node.status()["devices"][0]["in_flight"] == 0);
    let results: Vec<_> = all.iter().map(Waiting::is_right).collect();
    all.iter().for_each(|one| one.was_kept(&mut client, who));
    println!("{who}: {}", summary(&all, &results));
    drop((all, client));
    let after = sizes(node);
    println!("{who}: {before:?} then {after:?}");
    assert!(after.descriptors <= before.descriptors + 30, "{who}: {before:?} then {after:?}");
    assert!(after.threads <= before.threads + 6, "{who}: {before:?} then {after:?}");
    assert!(after.memory < before.memory + (8 << 20), "{who}: {before:?} then {after:?}");
}

fn waiting(node: &Node) -> Vec<Waiting> {
    let http = connect(node, CLIENTS);
    let all = http.into_iter().enumerate().map(|(number, client)| {
        let wish = WISHES[number % WISHES.len()];
        Waiting::new(node, wish, number as u64, client)
    });
    all.collect()
}

impl Waiting {
    fn new(node: &Node, wish: Wish, number: u64, http: Client) -> Waiting {
        let (known, unknown) = (fid_path(1, 1 + number), fid_path(1, UNKNOWN.fids.start + number));
        let (path, client) = match wish {
            Wish::Known | Wish::Pipelined => (known, http),
            Wish::Unknown | Wish::Delete => (unknown, http),
            Wish::Small | Wish::Large => (format!("/dev1/new{number}"), http),
            Wish::SmallInUnknown => (fid_path(1, FOLDER + 1 + number), http),
            Wish::Md5 | Wish::Fsck => (known, node.sidechannel()),
            Wish::Size => (unknown, node.sidechannel()),
        };
        let mut one = Waiting { wish, path, client, left: 0, got: Vec::new(), over: false };
        if wish == Wish::Large {
            one.client.send(put(&one.path, LARGE));
            one.client.send(vec![7; FIRST]);
            one.left = LARGE - FIRST;
        }
        one
    }

    fn ask(&mut self) {
        let path = &self.path;
        let request = match self.wish {
            Wish::Known | Wish::Unknown => format!("GET {path} HTTP/1.1\r\n\r\n"),
            Wish::Pipelined => format!("GET {path} HTTP/1.1\r\n\r\n").repeat(3),
            Wish::Delete => format!("DELETE {path} HTTP/1.1\r\n\r\n"),
            Wish::Small | Wish::SmallInUnknown => put(path, 3) + "new",
            Wish::Md5 => format!("MD5 {path}\r\n"),
            Wish::Fsck => format!("MD5 {path} fsck\r\n"),
            Wish::Size => format!("size {path}\r\n"),
            Wish::Large => String::new(),
        };
        self.client.send(request);
        self.client.stream().set_nonblocking(true).unwrap();
    }

    /// Sends more where there is more, and takes what has come.
    fn go_on(&mut self) {
        let mut stream: &TcpStream = self.client.stream();
        if self.left > 0 && !self.over {
            let more = vec![7; self.left.min(256 << 10)];
            self.left -= stream.write(&more).unwrap_or(0);
        }
        let mut room = [0; 16 << 10];
        match stream.read(&mut room) {
            Ok(0) => self.over = true,
            Ok(length) => self.got.extend(&room[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.over = true,
        }
        self.over |= self.answers() >= if self.wish == Wish::Pipelined { 3 } else { 1 };
    }

    fn answers(&self) -> usize {
        match self.wish {
            Wish::Md5 | Wish::Fsck | Wish::Size => usize::from(self.got.ends_with(b"\n")),
            _ => self.got.windows(9).filter(|part| part == b"HTTP/1.1 ").count(),
        }
    }

    /// The first line.
    fn first(&self) -> String {
        let line = self.got.split(|byte| *byte == b'\r').next().unwrap_or_default();
        String::from_utf8_lossy(line).into_owned()
    }

    /// Insists that what came is an answer, or for what cannot be known a close.
    fn is_right(&self) -> String {
        let first = self.first();
        let path = &self.path;
        let right = match self.wish {
            Wish::Md5 | Wish::Fsck => {
                first == "ERR device 1 stalled" || first.starts_with(&format!("{path} MD5="))
            }
            Wish::Size => first == "ERR device 1 stalled" || first == format!("{path} {SIZE}"),
            Wish::Known | Wish::Unknown | Wish::Pipelined => {
                first.starts_with("HTTP/1.1 503") || first.starts_with("HTTP/1.1 200")
            }
            Wish::Delete => {
                first.is_empty()
                    || first.starts_with("HTTP/1.1 503")
                    || first.starts_with("HTTP/1.1 204")
            }
            Wish::Small | Wish::SmallInUnknown | Wish::Large => {
                first.is_empty()
                    || first.starts_with("HTTP/1.1 503")
                    || first.starts_with("HTTP/1.1 201")
            }
        };
        assert!(right, "{:?} {path}: {first:?}", self.wish);
        first.split(' ').nth(1).unwrap_or("closed").to_owned()
    }

    /// Insists that a PUT that was refused is not there, and one that was confirmed is.
    fn was_kept(&self, client: &mut Client, who: &str) {
        let first = self.first();
        let is_put = matches!(self.wish, Wish::Small | Wish::SmallInUnknown | Wish::Large);
        let (refused, confirmed) = (first.contains(" 503 "), first.contains(" 201 "));
        if is_put && (refused || confirmed) {
            let answer = client.get(&self.path);
            let expected = if refused { 404 } else { 200 };
            assert_eq!(answer.status, expected, "{who}: {:?} {}: {first}", self.wish, self.path);
        }
        if self.wish == Wish::Delete && refused {
            client.get(&self.path).expect(200);
        }
    }
}

fn put(path: &str, length: usize) -> String {
    format!("PUT {path} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n")
}

fn summary(all: &[Waiting], results: &[String]) -> String {
    let mut counts = std::collections::BTreeMap::new();
    for (one, result) in all.iter().zip(results) {
        *counts.entry(format!("{:?} {result}", one.wish)).or_insert(0) += 1;
    }
    format!("{counts:?}")
}

/// What the first hundreds of connections cost once and for all.
fn warm_up(node: &Node) {
    let mut clients = connect(node, CLIENTS);
    for client in &mut clients {
        client.get("/dev1/kept").expect(200);
        client.put("/dev1/warm", vec![7; 64 << 10]).expect(201);
    }
}

#[derive(Debug)]
struct Sizes {
    threads: usize,
    descriptors: usize,
    memory: u64,
}

fn sizes(node: &Node) -> Sizes {
    until("the connections to be gone", || total(node, "connections") == 0);
    let workers = node.workers();
    let sum = |of: fn(nix::unistd::Pid) -> usize| workers.iter().map(|pid| of(*pid)).sum();
    until("idle disk threads to go", || workers.iter().all(|pid| process::disk_threads(*pid) <= 5));
    Sizes {
        threads: sum(process::disk_threads),
        descriptors: sum(process::descriptors),
        memory: workers.iter().map(|pid| process::private_memory(*pid)).sum(),
    }
}
