//! A worker keeps a file open that was asked for again. What changes it through the node is seen
//! by every worker at once, what is changed by hand soon, and nothing is held for long.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::statvfs::statvfs;
use nix::unistd::Pid;

use crate::harness::{
    Answer, Client, DEADLINE, Node, Setup, can_mount, fid_path, pattern, skipped, until,
};
use crate::load::{Chance, process};

/// Shared out over one worker, two, and one for each device.
const MODES: [&str; 3] = ["1", "2", "device"];
const DEVICES: usize = 4;
/// How soon a change by hand is seen.
const NOTICED: Duration = Duration::from_millis(1500);
const MIB: usize = 1 << 20;

/// A node, and for each device one connection that goes to the device's owner and then asks for
/// files of the first device.
struct Crowd {
    node: Node,
    clients: Vec<Client>,
    path: String,
}

impl Crowd {
    fn start(setup: Setup, workers: &str) -> Crowd {
        // Where others use the disk too, it may keep a PUT waiting for seconds.
        let node = setup.devices(DEVICES).workers(workers).arg("--stall-timeout=60").start();
        let clients = (0..DEVICES).map(|_| node.client()).collect();
        Crowd { node, clients, path: fid_path(1, 7) }
    }

    /// Every connection asks for the file from its own place: twice with GET, then with HEAD.
    fn ask(&mut self) -> Vec<[Answer; 3]> {
        let asked = self.clients.iter_mut().enumerate();
        asked.map(|(index, client)| ask_from(client, index, &self.path)).collect()
    }

    /// Asks until every worker has the file open.
    fn heat(&mut self) {
        let file = identity(&self.inside());
        until("every worker to keep the file", || {
            self.ask();
            self.node.workers().into_iter().all(|pid| has_open(pid, file))
        });
    }

    /// The file as the node's mount namespace has it.
    fn inside(&self) -> PathBuf {
        let file = self.node.file(&self.path);
        PathBuf::from(format!("/proc/{}/root{}", self.node.pid(), file.display()))
    }

    fn all_get(&mut self, content: &[u8]) -> bool {
        self.ask().iter().flatten().all(|answer| answer.status == 200 && is(answer, content))
    }

    fn all_miss(&mut self) -> bool {
        self.ask().iter().flatten().all(|answer| answer.status == 404)
    }
}

/// Runs a test in all modes at the same time.
fn in_each_mode(setup: impl Fn() -> Setup + Sync, test: impl Fn(&mut Crowd) + Sync) {
    std::thread::scope(|scope| {
        for workers in MODES {
            let (setup, test) = (&setup, &test);
            scope.spawn(move || {
                let mut crowd = Crowd::start(setup(), workers);
                test(&mut crowd);
                assert!(crowd.node.all_events("worker_exited").is_empty());
            });
        }
    });
}

/// dev1 is a filesystem of its own, one on which files are kept open.
fn with_disk() -> Setup {
    Setup::new().mount(
        "truncate -s 64M {dir}/image; PATH=$PATH:/sbin:/usr/sbin mkfs.ext4 -q -F -m 0 {dir}/image; \
         mount -o loop {dir}/image {dir}/dev1",
    )
}

#[test]
fn a_deleted_file_is_gone_on_every_connection_at_once() {
    in_each_mode(Setup::new, |crowd| {
        let (mut writer, mut side) = (crowd.node.client(), crowd.node.sidechannel());
        for round in 0..1000 {
            let content = version(round);
            writer.put(&crowd.path, &content).expect(201);
            if round % 100 == 0 {
                crowd.heat();
            }
            assert!(crowd.all_get(&content), "round {round}");
            assert_eq!(size(&mut side, &crowd.path), content.len() as i64, "round {round}");
            writer.delete(&crowd.path).expect(204);
            assert_eq!(size(&mut side, &crowd.path), -1, "round {round}");
            assert!(crowd.all_miss(), "round {round}");
        }
    });
}

#[test]
fn a_replaced_file_is_new_on_every_connection_at_once() {
    in_each_mode(Setup::new, |crowd| {
        let (mut writer, mut side) = (crowd.node.client(), crowd.node.sidechannel());
        for round in 0..300 {
            let content = version(round);
            writer.put(&crowd.path, &content).expect(201);
            assert_eq!(size(&mut side, &crowd.path), content.len() as i64, "round {round}");
            assert!(crowd.all_get(&content), "round {round}");
            if round % 50 == 0 {
                crowd.heat();
            }
        }
    });
}

#[test]
fn a_replaced_file_has_its_own_time_on_every_connection() {
    in_each_mode(Setup::new, |crowd| {
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        crowd.node.store(&crowd.path, "old");
        let file = crowd.node.file(&crowd.path);
        File::options().write(true).open(&file).unwrap().set_modified(old).unwrap();
        crowd.heat();
        let told = |crowd: &mut Crowd, time| {
            let (time, answers) = (httpdate::fmt_http_date(time), crowd.ask());
            answers.iter().flatten().all(|answer| answer.header("Last-Modified") == Some(&time))
        };
        assert!(told(crowd, old));
        crowd.node.client().put(&crowd.path, "new").expect(201);
        assert!(told(crowd, fs::metadata(&file).unwrap().modified().unwrap()));
    });
}

#[test]
fn a_file_made_longer_in_place_is_longer_on_every_connection_at_once() {
    in_each_mode(Setup::new, |crowd| {
        let (mut writer, mut side) = (crowd.node.client(), crowd.node.sidechannel());
        let content = pattern(30_000);
        writer.put(&crowd.path, &content[..100]).expect(201);
        crowd.heat();
        for from in (100..content.len()).step_by(100) {
            let line = format!("Content-Range: bytes {from}-{}/*\r\n", from + 99);
            let piece = &content[from..from + 100];
            writer.put_with(&crowd.path, &line, piece).expect(201);
            assert_eq!(size(&mut side, &crowd.path), from as i64 + 100);
            assert!(crowd.all_get(&content[..from + 100]), "from {from}");
        }
    });
}

/// The writer's step `n` leaves version `n` of the file or, each third time, none. What a reader
/// sees must have been so at some moment between its question and the answer.
#[test]
fn readers_see_each_version_whole_and_none_out_of_its_time() {
    const STEPS: u64 = 300;
    in_each_mode(Setup::new, |crowd| {
        let (begun, done, reads) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let (path, mut writer) = (crowd.path.clone(), crowd.node.client());
        std::thread::scope(|scope| {
            for (index, client) in crowd.clients.iter_mut().enumerate() {
                let (path, begun, done, reads) = (&path, &begun, &done, &reads);
                scope.spawn(move || {
                    while done.load(SeqCst) < STEPS {
                        let from = done.load(SeqCst);
                        let answers = ask_from(client, index, path);
                        check_seen(&answers[..2], from, begun.load(SeqCst));
                        reads.fetch_add(1, SeqCst);
                    }
                });
            }
            let (_over, mut chance) = (Over(&done), Chance::new(7));
            for step in 1..=STEPS {
                begun.store(step, SeqCst);
                match step % 3 {
                    0 => writer.delete(&path).expect(204),
                    _ => writer.put(&path, version(step)).expect(201),
                };
                done.store(step, SeqCst);
                let enough = reads.load(SeqCst) + chance.below(2 * DEVICES) as u64;
                spin_until(|| reads.load(SeqCst) >= enough);
            }
        });
    });
}

/// Lets the readers go when the writer fails.
struct Over<'a>(&'a AtomicU64);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(u64::MAX, SeqCst);
    }
}

fn check_seen(answers: &[Answer], from: u64, to: u64) {
    for answer in answers {
        let possible = match answer.status {
            404 => (from..=to).any(|step| step % 3 == 0),
            200 => {
                let step = u64::from_be_bytes(answer.body[..8].try_into().unwrap());
                assert!(is(answer, &version(step)), "a mixture, begun as version {step}");
                (from..=to).contains(&step)
            }
            status => panic!("{status}"),
        };
        let seen = answer.body.get(..8);
        assert!(possible, "{} {seen:?} between steps {from} and {to}", answer.status);
    }
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn what_is_removed_or_replaced_by_hand_is_noticed() {
    let setup = || if can_mount() { with_disk() } else { Setup::new() };
    in_each_mode(setup, |crowd| {
        let (old, new) = (version(1), version(2));
        assert!(new.len() > old.len());
        crowd.node.client().put(&crowd.path, old).expect(201);
        crowd.heat();
        let beside = crowd.inside().with_extension("new");
        fs::write(&beside, &new).unwrap();
        let begun = Instant::now();
        fs::rename(&beside, crowd.inside()).unwrap();
        until("the new file everywhere", || crowd.all_get(&new));
        assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());

        crowd.heat();
        let begun = Instant::now();
        fs::remove_file(crowd.inside()).unwrap();
        until("the file to be missed everywhere", || crowd.all_miss());
        assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());
    });
}

/// The content of a small hot file is remembered when the file has not changed for two seconds.
#[test]
fn content_that_is_remembered_is_not_what_another_has_written() {
    if !can_mount() {
        return skipped("cannot mount");
    }
    in_each_mode(with_disk, |crowd| {
        let old = [b'1'; 4096];
        crowd.node.client().put(&crowd.path, old).expect(201);
        let file = crowd.inside();
        let age = || SystemTime::now().duration_since(file.metadata().unwrap().modified().unwrap());
        until("the file to be old", || age().is_ok_and(|age| age > Duration::from_millis(3100)));
        crowd.heat();
        assert!(crowd.all_get(&old));
        for number in b'2'..b'5' {
            fs::write(&file, [number; 4096]).unwrap();
            assert!(crowd.all_get(&[number; 4096]));
        }
    });
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn the_space_of_a_removed_file_is_free_soon() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    in_each_mode(with_disk, |crowd| {
        let mut writer = crowd.node.client();
        let by_hand = |crowd: &Crowd| fs::remove_file(crowd.inside()).unwrap();
        // By hand: the second that a file is kept, and the look a moment later.
        for (hand, bound) in [(false, Duration::from_secs(1)), (true, Duration::from_secs(2))] {
            writer.put(&crowd.path, pattern(MIB)).expect(201);
            crowd.heat();
            let folder = crowd.inside().parent().unwrap().to_owned();
            let wanted = free(&folder) + MIB as u64;
            let begun = Instant::now();
            match hand {
                true => by_hand(crowd),
                false => drop(writer.delete(&crowd.path).expect(204)),
            }
            until("the space", || free(&folder) >= wanted);
            assert!(begun.elapsed() < bound, "{:?}, by hand: {hand}", begun.elapsed());
        }
    });
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn a_device_can_be_unmounted_soon_after_its_files_were_hot() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    in_each_mode(with_disk, |crowd| {
        crowd.clients[0].put(&crowd.path, "hot").expect(201);
        crowd.heat();
        let last = Instant::now();
        until("it to be unmounted", || crowd.node.in_its_mounts("umount {dir}/dev1").is_ok());
        assert!(last.elapsed() < Duration::from_secs(2), "{:?}", last.elapsed());
        until("it to be missed", || {
            crowd.ask().iter().flatten().all(|answer| answer.status == 503)
        });
        crowd.node.client().put(&crowd.path, "lost").expect(503);
        assert_eq!(crowd.node.in_its_mounts("ls -A {dir}/dev1").unwrap(), "");
    });
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn files_kept_are_bounded_and_given_up_soon() {
    const FILES: u64 = 5000;
    const BATCH: u64 = 100;
    /// The connections of the status pipe and the like.
    const FEW: usize = 8;
    let node = Setup::new().workers("1").start();
    (0..FILES).for_each(|fid| node.store(&fid_path(1, fid), fid.to_string()));
    let (pid, mut client) = (node.workers()[0], node.client());
    client.stays_open();
    let base = process::descriptors(pid);
    let bound = base + most_kept(pid) + FEW;
    let mut peak = 0;
    for first in (0..FILES).step_by(BATCH as usize) {
        let get = |fid| format!("GET {} HTTP/1.1\r\n\r\n", fid_path(1, fid)).repeat(2);
        client.send((first..first + BATCH).map(get).collect::<String>());
        for fid in first..first + BATCH {
            for _ in 0..2 {
                assert_eq!(client.answer().expect(200).body, fid.to_string().as_bytes());
            }
        }
        peak = peak.max(process::descriptors(pid));
        assert!(peak <= bound, "{peak} descriptors, {base} at first");
    }
    let last = Instant::now();
    assert!(peak >= base + most_kept(pid).min(300) / 2, "only {peak}, {base} at first");
    until("the descriptors to be closed", || process::descriptors(pid) <= base);
    assert!(last.elapsed() < Duration::from_secs(2), "{:?}", last.elapsed());
}

/// An eighth of the descriptors that a process may have, 2048 at most.
fn most_kept(pid: Pid) -> usize {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let soft = line.split_whitespace().next().unwrap().parse::<usize>();
    (soft.unwrap_or(usize::MAX) / 8).clamp(8, 2048)
}

/// One connection is sent to the owner of its device and asks from there.
fn ask_from(client: &mut Client, index: usize, path: &str) -> [Answer; 3] {
    let move_there = format!("DELETE /dev{}/none HTTP/1.1\r\n\r\n", index + 1);
    let get = format!("GET {path} HTTP/1.1\r\n\r\n");
    let head = format!("HEAD {path} HTTP/1.1\r\n\r\n");
    client.send([move_there, get.repeat(2), head].concat());
    assert!(matches!(client.answer().status, 404 | 503));
    [client.answer(), client.answer(), client.answer_to_head()]
}

/// An answer with this content or, to HEAD, with its length.
fn is(answer: &Answer, content: &[u8]) -> bool {
    let length = content.len().to_string();
    let whole = answer.body.is_empty() || answer.body == content;
    whole && answer.header("Content-Length") == Some(&length)
}

/// A content whose every part tells its number, of a length that differs from its neighbours'.
/// Some are small enough to be read into the answer, others are sent from the page cache.
fn version(number: u64) -> Vec<u8> {
    let length = 8 + number as usize * 7919 % 40_000;
    number.to_be_bytes().into_iter().cycle().take(length).collect()
}

fn size(side: &mut Client, path: &str) -> i64 {
    side.send(format!("size {path}\n"));
    let line = side.line();
    let number = line.trim_end().strip_prefix(path).and_then(|rest| rest.trim().parse().ok());
    number.unwrap_or_else(|| panic!("{line:?}"))
}

fn identity(file: &Path) -> (u64, u64) {
    let facts = fs::metadata(file).unwrap();
    (facts.dev(), facts.ino())
}

fn has_open(pid: Pid, file: (u64, u64)) -> bool {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut facts = entries.filter_map(|entry| fs::metadata(entry.path()).ok());
    facts.any(|facts| (facts.dev(), facts.ino()) == file)
}

fn free(folder: &Path) -> u64 {
    let numbers = statvfs(folder).unwrap();
    numbers.blocks_free() * numbers.fragment_size()
}

/// As [`until`], for what takes microseconds.
fn spin_until(reached: impl Fn() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < DEADLINE, "the readers stand still");
        std::thread::yield_now();
    }
}
