//! Workers die by SIGKILL at random moments, under load. No file is ever seen torn, no PUT that
//! was acknowledged is lost, nothing is left behind, and the node is back at once.

use std::fs;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::{Node, Setup, content_md5, fid_path, names_in, until};
use crate::load::{Chance, Link, Reply, process};

/// How often a worker is killed in each of the two storms.
const KILLS: usize = 100;
/// How soon after that the node must serve what the worker owned.
const BACK: Duration = Duration::from_secs(2);
/// Longest pause before the next kill: long enough for some requests, so that it may come
/// anywhere in one of them.
const PAUSE_MICROS: usize = 250_000;
const DEVICES: usize = 3;
const FILES: usize = 960;
/// Most of them wait for a dead worker, at any time.
const WRITERS: usize = 8;
const READERS: usize = 6;
const FOLDER: &str = "0/000/000";

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn workers_per_device_may_be_killed_at_any_moment() {
    storm("device");
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn two_workers_may_be_killed_at_any_moment() {
    storm("2");
}

/// What all threads of a storm share.
struct Storm {
    node: Node,
    files: Vec<Versions>,
    over: AtomicBool,
    stored: AtomicU64,
    read: AtomicU64,
    lost: AtomicU64,
}

/// A file that one thread replaces, version by version.
struct Versions {
    fid: u64,
    path: String,
    /// The last version that was begun.
    begun: AtomicU64,
    /// The last one that was acknowledged or seen: nothing older may ever be seen again.
    known: AtomicU64,
}

/// One worker and what it owns.
struct Victim {
    worker: u64,
    pid: Pid,
    device: String,
}

/// Ends the load when the thread that holds it ends, in whatever way.
struct EndsLoad<'a>(&'a Storm);

fn storm(workers: &str) {
    let seed = Chance::seed();
    let storm = Storm::new(Setup::new().devices(DEVICES).workers(workers).start());
    let victims = storm.victims();
    let times = KILLS.div_ceil(victims.len());
    let kills = times * victims.len();
    thread::scope(|scope| {
        let _end = EndsLoad(&storm);
        let storm = &storm;
        for number in 0..WRITERS {
            scope.spawn(move || storm.write(number, Chance::new(seed + number as u64)));
        }
        for number in 0..READERS {
            scope.spawn(move || storm.read(Chance::new(seed + 100 + number as u64)));
        }
        let killers = victims.into_iter().map(|victim| {
            let chance = Chance::new(seed + 200 + victim.worker);
            scope.spawn(move || storm.kill_again_and_again(victim, times, chance))
        });
        // Spawned all before the first is waited for.
        let killers: Vec<_> = killers.collect();
        killers.into_iter().for_each(|killer| killer.join().expect("no killer fails"));
    });
    storm.check_what_is_left(kills);
}

impl Drop for EndsLoad<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, SeqCst);
    }
}

impl Storm {
    fn new(node: Node) -> Storm {
        let zero = || AtomicU64::new(0);
        Storm {
            node,
            files: (0..FILES).map(Versions::new).collect(),
            over: AtomicBool::new(false),
            stored: zero(),
            read: zero(),
            lost: zero(),
        }
    }

    fn victims(&self) -> Vec<Victim> {
        let status = self.node.status();
        let workers = status["workers"].as_array().expect("a list");
        workers.iter().map(Victim::of).collect()
    }

    /// PUTs new files and replaces old ones, all of them this thread's own.
    fn write(&self, number: usize, mut chance: Chance) {
        let _end = EndsLoad(self);
        let mine: Vec<_> = self.files.iter().skip(number).step_by(WRITERS).collect();
        let mut link = None;
        let mut made = 1;
        while !self.over.load(SeqCst) {
            let is_new = made < mine.len() && chance.below(4) == 0;
            made += usize::from(is_new);
            let file = mine[if is_new { made - 1 } else { chance.below(made) }];
            let version = file.begun.fetch_add(1, SeqCst) + 1;
            match self.ask(&mut link, &file.put(version)) {
                Some(reply) => {
                    assert_eq!(reply.status, 201, "PUT {}", file.path);
                    file.known.fetch_max(version, SeqCst);
                    self.stored.fetch_add(1, SeqCst);
                }
                // Stored or not: both is right.
                None => _ = self.lost.fetch_add(1, SeqCst),
            }
        }
    }

    fn read(&self, mut chance: Chance) {
        let _end = EndsLoad(self);
        let mut link = None;
        while !self.over.load(SeqCst) {
            let file = &self.files[chance.below(self.files.len())];
            let known = file.known.load(SeqCst);
            let request = format!("GET {} HTTP/1.1\r\n\r\n", file.path);
            if let Some(reply) = self.ask(&mut link, request.as_bytes()) {
                file.check(&reply, known);
                self.read.fetch_add(1, SeqCst);
            }
        }
    }

    /// One request; `None` when its worker was killed. The connection is kept when it may be.
    fn ask(&self, link: &mut Option<Link>, request: &[u8]) -> Option<Reply> {
        let mut open = link.take().unwrap_or_else(|| Link::open(self.node.http()));
        let reply = open.ask(request).ok()?;
        *link = reply.keep.then_some(open);
        Some(reply)
    }

    fn kill_again_and_again(&self, mut victim: Victim, times: usize, mut chance: Chance) {
        let _end = EndsLoad(self);
        for _ in 0..times {
            // Nothing is waited for: this makes the moment a random one.
            thread::sleep(Duration::from_micros(chance.below(PAUSE_MICROS) as u64));
            let seen = self.node.events.so_far().len();
            let killed = victim.pid;
            let begun = Instant::now();
            kill(killed, Signal::SIGKILL).expect("the worker is there");
            let exited = self.event_of(&victim, seen, "worker_exited");
            assert_eq!((&exited["pid"], &exited["signal"]), (&killed.as_raw().into(), &9.into()));
            assert!(!fs::exists(format!("/proc/{killed}")).unwrap_or(true), "{killed} is a zombie");
            let started = self.event_of(&victim, seen, "worker_started");
            victim.pid = pid_of(&started);
            self.serves(&victim);
            let taken = begun.elapsed();
            assert!(taken < BACK, "worker {} was away for {taken:?}", victim.worker);
            self.check_folders();
        }
    }

    fn event_of(&self, victim: &Victim, seen: usize, kind: &str) -> Value {
        let found = self.node.events.look(seen, kind, |line| {
            let event: Value = serde_json::from_str(line).expect("events are JSON");
            (event["event"] == kind && event["worker"] == victim.worker).then_some(event)
        });
        found.unwrap_or_else(|| panic!("the node has ended"))
    }

    /// Stores a file where only this worker can. Another worker, which may have accepted the
    /// connection, may be killed over it.
    fn serves(&self, victim: &Victim) {
        let path = format!("/{}/alive", victim.device);
        let request = format!("PUT {path} HTTP/1.1\r\nContent-Length: 1\r\n\r\nx");
        until("the device to be served", || {
            self.ask(&mut None, request.as_bytes()).is_some_and(|reply| reply.status == 201)
        });
    }

    /// Folders of FIDs hold nothing else, at any moment.
    fn check_folders(&self) {
        for device in 1..=DEVICES {
            let folder = self.node.docroot().join(format!("dev{device}")).join(FOLDER);
            let names = if folder.exists() { names_in(&folder) } else { Vec::new() };
            let strange = names.iter().find(|name| !is_fid(name));
            assert!(strange.is_none(), "{strange:?} in {}", folder.display());
        }
    }

    fn check_what_is_left(&self, kills: usize) {
        let node = &self.node;
        let exits = node.all_events("worker_exited");
        assert_eq!(exits.len(), kills);
        assert!(exits.iter().all(|exit| exit["signal"] == 9), "a worker ended by itself");
        assert_eq!(node.status()["pid"], node.pid().as_raw());
        assert_eq!(process::zombies_of(node.pid()), Vec::<String>::new());
        let mut link = Link::open(node.http());
        for file in &self.files {
            let request = format!("GET {} HTTP/1.1\r\n\r\n", file.path);
            let reply = link.ask(request.as_bytes()).expect("nobody is killed any more");
            file.check(&reply, file.known.load(SeqCst));
        }
        self.check_folders();
        self.check_temporary_names();
        let kills = kills as u64;
        let [stored, read, lost] = [&self.stored, &self.read, &self.lost].map(|n| n.load(SeqCst));
        println!("{kills} kills: {stored} stored, {read} read, {lost} PUTs cut off");
        assert!(stored > kills && read > kills && lost > 0, "too little load");
    }

    /// What a kill in the middle of a replacement leaves goes when its device is next opened.
    fn check_temporary_names(&self) {
        let folders: Vec<_> = (1..=DEVICES)
            .map(|device| self.node.docroot().join(format!("dev{device}/.rmogstored_tmp")))
            .filter(|folder| folder.exists())
            .collect();
        until("temporary names to be swept", || {
            (1..=DEVICES)
                .all(|device| self.node.client().delete(&format!("/dev{device}/x")).status == 404)
                && folders.iter().all(|folder| names_in(folder).is_empty())
        });
    }
}

impl Versions {
    fn new(number: usize) -> Versions {
        let fid = number as u64 + 1;
        let path = fid_path(1 + (number % DEVICES) as u32, fid);
        assert!(path.contains(FOLDER));
        Versions { fid, path, begun: AtomicU64::new(0), known: AtomicU64::new(0) }
    }

    /// A request that stores this version: small or not so small, half of them with a digest.
    fn put(&self, version: u64) -> Vec<u8> {
        let content = content(self.fid, version);
        let digest = match version % 2 {
            0 => format!("Content-MD5: {}\r\n", content_md5(&content)),
            _ => String::new(),
        };
        let (path, length) = (&self.path, content.len());
        let head = format!("PUT {path} HTTP/1.1\r\nContent-Length: {length}\r\n{digest}\r\n");
        [head.into_bytes(), content].concat()
    }

    /// Insists on one whole version, no older than `known`.
    fn check(&self, reply: &Reply, known: u64) {
        let path = &self.path;
        if reply.status == 404 {
            return assert_eq!(known, 0, "{path} is lost");
        }
        assert_eq!(reply.status, 200, "GET {path}");
        let begun = self.begun.load(SeqCst);
        let version = version_in(&reply.body);
        let version = version.unwrap_or_else(|| panic!("{path} has no version: {:?}", reply.body));
        assert!(reply.body == content(self.fid, version), "{path} is torn, version {version}");
        assert!((known..=begun).contains(&version), "{path}: {version}, not {known} to {begun}");
        self.known.fetch_max(version, SeqCst);
    }
}

impl Victim {
    fn of(worker: &Value) -> Victim {
        let device = worker["devices"][0].as_str().expect("every worker owns a device").to_owned();
        Victim { worker: worker["worker"].as_u64().expect("a number"), pid: pid_of(worker), device }
    }
}

fn pid_of(worker: &Value) -> Pid {
    Pid::from_raw(worker["pid"].as_i64().expect("a process id") as i32)
}

/// Content that tells which one it is and cannot be mixed up with any other.
fn content(fid: u64, version: u64) -> Vec<u8> {
    let mut chance = Chance::new(fid << 32 | version);
    let most = if chance.below(5) == 0 { 400_000 } else { 6000 };
    let length = chance.below(most);
    let mut content = format!("{version} of {fid}, then {length}\n").into_bytes();
    content.extend(chance.bytes(length));
    content
}

fn version_in(content: &[u8]) -> Option<u64> {
    let digits = content.split(|byte| *byte == b' ').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn is_fid(name: &str) -> bool {
    name.strip_suffix(".fid").is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()))
}
