//! 2.4: what ends a PUT in its middle, while the node flushes: its worker is killed, its disk becomes
//! read-only by hand or by an error. The client has the right answer or none, the old file is whole,
//! what was acknowledged is on the disk as it is in that moment, and the next worker sweeps the rest.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use fuser::Errno;
use nix::sys::signal::{Signal, kill};

use crate::harness::real_disk::{FsKind, Image, Op, RealDisk, RealSick, Which};
use crate::harness::{Client, fid_path, names_in, pattern, skipped, until};
use crate::load::{Ends, total};

const MODES: [&str; 2] = ["--fsync=file", "--fsync=batch"];
/// Each of them has a file that is there, and one that is not.
const CLIENTS: u64 = 6;
const SIZE: usize = 50_000;
/// In MiB.
const DISK: u64 = 512;

/// Where a PUT is when something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Half of its body has come.
    Body,
    /// Its content is on the way to the disk.
    Writing,
    /// It waits for a flush.
    Flushing,
}

/// A client's PUT of a body that nobody else has.
struct Wish {
    client: Client,
    path: String,
    body: Vec<u8>,
    replaces: bool,
}

/// What became of it, and what may be there for it.
struct Answer {
    path: String,
    old: Option<Vec<u8>>,
    new: Vec<u8>,
    /// If there is one.
    status: Option<u16>,
}

fn on_each_mode(test: impl Fn(&str) + Sync) {
    if let Some(reason) = RealDisk::missing(FsKind::Ext4) {
        return skipped(&reason);
    }
    thread::scope(|scope| {
        for mode in MODES {
            let test = &test;
            scope.spawn(move || test(mode));
        }
    });
}

fn start(mode: &str) -> RealSick {
    let sick = RealSick::start_on(RealDisk::make(FsKind::Ext4, DISK), "1", &[mode]);
    for number in 0..CLIENTS {
        sick.node.client().put(&old_path(number), old()).expect(201);
    }
    sick
}

fn old_path(number: u64) -> String {
    fid_path(1, 1000 * (number % 2) + number)
}

fn old() -> Vec<u8> {
    pattern(SIZE)
}

fn new(number: u64, version: usize) -> Vec<u8> {
    let mut body = pattern(SIZE + 1 + version)[1 + version..].to_vec();
    body[..8].copy_from_slice(&number.to_be_bytes());
    body
}

#[test]
fn worker_that_is_killed_takes_nothing_with_it() {
    on_each_mode(|mode| {
        for moment in [Moment::Body, Moment::Writing, Moment::Flushing] {
            let sick = start(mode);
            let wishes = begin(&sick, moment);
            let seen = sick.node.events.so_far().len();
            kill(sick.node.workers()[0], Signal::SIGKILL).unwrap();
            let image = sick.disk.image();
            sick.disk.mend(); // It cannot end while the disk holds it.
            sick.node.event_after(seen, "worker_started");
            let what = format!("{mode}, killed in {moment:?}");
            let answers: Vec<_> = wishes.into_iter().map(Wish::answer).collect();
            let told = answers.iter().map(|answer| answer.status);
            println!("{what}: {:?}", told.collect::<Vec<_>>());
            RealDisk::of_image(FsKind::Ext4, image).inside(|root| check(root, &answers, &what));
            sick.node.client().put("/dev1/next", "next").expect(201);
            swept(&sick, &what);
            check(&sick.dev1(), &answers, &what);
        }
    });
}

/// The clients' PUTs, all of which have come to this point.
fn begin(sick: &RealSick, moment: Moment) -> Vec<Wish> {
    match moment {
        Moment::Body => {}
        Moment::Writing => sick.disk.hang(&[Op::Write]),
        Moment::Flushing => sick.disk.hang(&[Op::Flush]),
    }
    let before = total(&sick.node, "bytes_in");
    let wishes: Vec<_> = (0..2 * CLIENTS).map(|number| Wish::new(sick, number)).collect();
    // The next worker would take those that have not been accepted.
    until("all to be accepted", || total(&sick.node, "connections") >= 2 * CLIENTS);
    let length = if moment == Moment::Body { SIZE / 2 } else { SIZE };
    let begun = wishes.into_iter().map(|wish| wish.send(length)).collect();
    match moment {
        Moment::Writing => sick.disk.wait_for_held(Op::Write, 1),
        Moment::Flushing => sick.disk.wait_for_held(Op::Flush, 1),
        Moment::Body => {
            let all = (2 * CLIENTS) * length as u64;
            until("the halves", || total(&sick.node, "bytes_in") - before >= all);
        }
    }
    begun
}

impl Wish {
    fn new(sick: &RealSick, number: u64) -> Wish {
        let replaces = number < CLIENTS;
        let path = if replaces { old_path(number) } else { fid_path(1, 7000 + number) };
        Wish { client: sick.node.client(), path, body: new(number, 1), replaces }
    }

    fn send(mut self, length: usize) -> Wish {
        let head = format!("PUT {} HTTP/1.1\r\nContent-Length: {SIZE}\r\n\r\n", self.path);
        self.client.send([head.as_bytes(), &self.body[..length]].concat());
        self
    }

    fn answer(mut self) -> Answer {
        let line = self.client.line_or_end();
        let status = line.and_then(|line| line.split(' ').nth(1)?.parse().ok());
        Answer { path: self.path, old: self.replaces.then(old), new: self.body, status }
    }
}

/// The disk has what was acknowledged, and of the rest the old or the new.
fn check(root: &Path, answers: &[Answer], what: &str) {
    for Answer { path, old, new, status } in answers {
        let found = fs::read(root.join(path.trim_start_matches("/dev1/"))).ok();
        let is_new = found.as_ref() == Some(new);
        let right = match status {
            Some(201) => is_new,
            None | Some(500) => is_new || found == *old,
            Some(_) => false,
        };
        assert!(right, "{what}: {path} {status:?}, {:?}", found.map(|found| found.len()));
    }
}

/// Nothing stays under a temporary name.
fn swept(sick: &RealSick, what: &str) {
    let temporary = sick.dev1().join(".rmogstored_tmp");
    until(&format!("{what}: the sweep"), || !temporary.exists() || names_in(&temporary).is_empty());
}

/// What a client knows of its file: the version that was acknowledged last, and the one after it,
/// if it was begun.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    last: usize,
    begun: usize,
}

/// Clients replace their files until all are refused; what each of them knows then. `turn` is called
/// once some have been acknowledged.
fn replaced_until(sick: &RealSick, pause: Duration, turn: impl FnOnce()) -> BTreeMap<u64, Known> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = Ends(&over);
        let over = &over;
        let replace =
            |number| (number, scope.spawn(move || replace_often(sick, number, pause, over)));
        let clients: Vec<_> = (0..CLIENTS).map(replace).collect();
        until("some to be stored", || sick.node.client().get(&old_path(0)).body[..8] == [0; 8]);
        turn();
        over.store(true, SeqCst);
        clients.into_iter().map(|(number, client)| (number, client.join().unwrap())).collect()
    })
}

/// Until it is refused after the turn, or a few times before.
fn replace_often(sick: &RealSick, number: u64, pause: Duration, over: &AtomicBool) -> Known {
    let (mut known, mut refused) = (Known::default(), 0);
    while refused < 3 && !(over.load(SeqCst) && refused > 0) {
        known.begun = known.last + 1;
        let answer = sick.node.client().put(&old_path(number), new(number, known.begun));
        match answer.status {
            201 => known.last = known.begun,
            500 => refused += 1,
            status => panic!("{status}"),
        }
        thread::sleep(pause); // The pace.
    }
    known
}

/// Each file is the last version that was acknowledged, or the one after it.
fn check_versions(root: &Path, known: &BTreeMap<u64, Known>, what: &str) {
    for (number, Known { last, begun }) in known {
        let found = fs::read(root.join(old_path(*number).trim_start_matches("/dev1/"))).unwrap();
        let version = |version: usize| if version == 0 { old() } else { new(*number, version) };
        let right = (*last..=*begun).any(|it| found == version(it));
        assert!(right, "{what}: file {number} is neither {last} nor {begun}: {}", found.len());
    }
}

/// The kernel takes a device from nobody who writes to it: it is tried until there is a moment in
/// which nobody does.
#[test]
fn disk_that_is_made_read_only_refuses_and_keeps_what_it_has() {
    on_each_mode(|mode| {
        let sick = start(mode);
        let remount =
            |how: &str| sick.node.in_its_mounts(&format!("mount -o remount,{how} {{dir}}/dev1"));
        let pause = Duration::from_millis(100);
        let turn = || until("a moment", || remount("ro").is_ok());
        let known = replaced_until(&sick, pause, turn);
        println!("{mode}, remounted: {known:?}");
        sick.node.client().put("/dev1/new/file", "x").expect(500);
        check_versions(&sick.dev1(), &known, mode);
        let image = sick.disk.image();
        RealDisk::of_image(FsKind::Ext4, image).inside(|root| check_versions(root, &known, mode));
        remount("rw").unwrap();
        sick.node.client().put("/dev1/new/file", "x").expect(201);
        swept(&sick, mode);
    });
}

/// The disk after it failed, mounted by the next node: nothing acknowledged is lost, nothing is left.
fn check_next_node(image: Image, mode: &str, known: &BTreeMap<u64, Known>, what: &str) {
    let disk = RealDisk::of_image(FsKind::Ext4, image);
    disk.inside(|root| check_versions(root, known, what));
    let sick = RealSick::start_on(disk, "1", &[mode]);
    sick.node.client().put("/dev1/next", "next").expect(201);
    swept(&sick, what);
    check_versions(&sick.dev1(), known, what);
}

#[test]
fn disk_that_becomes_read_only_by_an_error_refuses_and_keeps_what_it_has() {
    on_each_mode(|mode| {
        for n in [1, 2, 5, 9] {
            let sick = start(mode);
            let set = "mount -o remount,errors=remount-ro {dir}/dev1";
            sick.node.in_its_mounts(set).unwrap();
            let known = replaced_until(&sick, Duration::ZERO, || {
                sick.disk.fail(Op::Write, Which::From(n), Errno::EIO);
                let refused = || sick.node.status()["devices"][0]["errors"].as_u64();
                until("a refusal of all", || refused().is_some_and(|count| count >= CLIENTS));
            });
            let what = format!("{mode}, writes fail from the {n}th on");
            println!("{what}: {known:?}");
            sick.node.client().put("/dev1/new/file", "x").expect(500);
            // The journal is written at the latest now.
            let _ = sick.node.in_its_mounts("sync -f {dir}/dev1");
            let image = sick.disk.image();
            for number in 0..CLIENTS {
                sick.node.client().get(&old_path(number)).expect(200);
            }
            sick.disk.mend();
            sick.node.client().put("/dev1/new/file", "x").expect(500);
            drop(sick);
            check_next_node(image, mode, &known, &what);
        }
    });
}

/// Any write, of whomever: data, or a part of the journal in which there is more than one PUT.
#[test]
fn one_write_that_fails_under_many_takes_back_nothing() {
    const VERSIONS: usize = 4;
    on_each_mode(|mode| {
        for n in [1, 2, 3, 5, 7, 8, 9, 11] {
            let sick = start(mode);
            sick.disk.fail(Op::Write, Which::Nth(n), Errno::EIO);
            let replace = |number| {
                let mut known = Known::default();
                for version in 1..=VERSIONS {
                    known.begun = version;
                    let answer = sick.node.client().put(&old_path(number), new(number, version));
                    match answer.status {
                        201 => known.last = version,
                        500 => {}
                        status => panic!("{status}"),
                    }
                }
                (number, known)
            };
            let known: BTreeMap<_, _> = thread::scope(|scope| {
                let replace = &replace;
                let clients = (0..CLIENTS).map(|number| scope.spawn(move || replace(number)));
                let clients: Vec<_> = clients.collect();
                clients.into_iter().map(|client| client.join().unwrap()).collect()
            });
            let what = format!("{mode}, write {n} fails");
            let told = known.values().map(|known| known.last).collect::<Vec<_>>();
            println!("{what}: acknowledged {told:?} of {VERSIONS}");
            assert!(sick.disk.failed(Op::Write) > 0, "{what}: no write");
            let image = sick.disk.image();
            drop(sick);
            check_next_node(image, mode, &known, &what);
        }
    });
}
