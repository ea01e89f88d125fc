//! What a tracker does all day, at ten times its speed.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use md5::{Digest, Md5};

use crate::harness::{Answer, Client, Node, Setup, content_md5, fid_path, pattern};

const DEVICES: u32 = 8;
/// A tracker's 2.5 s and 15 s, a tenth of them.
const MONITOR: Duration = Duration::from_millis(250);
const WRITABLE: Duration = Duration::from_millis(1500);
/// The tracker gives up on a host when usage takes longer than this.
const USAGE_LIMIT: Duration = Duration::from_secs(3);
/// Files that clients have stored before.
const FILES: u64 = 64;

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn a_tracker_s_day_passes_without_an_error_or_a_lost_connection() {
    let long = ["RMOGSTORED_LONG", "CI"]
        .iter()
        .any(|key| std::env::var(key).is_ok_and(|value| value == "1" || value == "true"));
    let length = Duration::from_secs(if long { 60 } else { 10 });
    println!("{} s at ten times a tracker's speed", length.as_secs());
    let node = Setup::new().devices(DEVICES as usize).start();
    let day = Day { node: &node, ends: Instant::now() + length, slowest: Mutex::default() };
    store_files(&node);
    thread::scope(|scope| {
        scope.spawn(|| day.monitor());
        scope.spawn(|| day.watch(length));
        scope.spawn(|| day.fsck());
        for device in 1..=DEVICES {
            let day = &day;
            scope.spawn(move || day.test_writing(device));
        }
        for pool in 0..3 {
            let day = &day;
            scope.spawn(move || day.replicate(pool));
        }
    });
    let slowest = *day.slowest.lock().unwrap();
    println!("slowest usage answer: {slowest:?}");
    assert!(slowest < USAGE_LIMIT, "usage took {slowest:?}");
    the_node_is_well(&node);
}

/// What goes on until it ends. A connection that is lost, or an answer that is not the right
/// one, is a panic.
struct Day<'a> {
    node: &'a Node,
    ends: Instant,
    slowest: Mutex<Duration>,
}

impl Day<'_> {
    /// The turns of something that is done every so often.
    fn every(&self, pace: Duration) -> impl Iterator<Item = usize> {
        let (begun, ends) = (Instant::now(), self.ends);
        let turns = (0_u32..).take_while(move |_| Instant::now() < ends);
        turns.map(move |turn| {
            // Pace, not synchronisation.
            thread::sleep((begun + pace * turn).saturating_duration_since(Instant::now()));
            turn as usize
        })
    }

    /// Usage of each device, over one connection.
    fn monitor(&self) {
        let mut client = self.node.client();
        for turn in self.every(MONITOR) {
            for device in 1..=DEVICES {
                let asked = Instant::now();
                let answer = get(&mut client, &format!("/dev{device}/usage"));
                // Before the first look at a disk there is nothing to tell, which is 10 s at most.
                if turn > 0 {
                    let text = String::from_utf8(kept(answer, 200).body).unwrap();
                    let number = |key: &str| {
                        let line = text.lines().find_map(|line| line.strip_prefix(key));
                        line.and_then(|value| value.parse::<u64>().ok()).unwrap_or_default()
                    };
                    assert!(number("used: ") > 0 && number("total: ") > 0, "{text}");
                }
                let mut slowest = self.slowest.lock().unwrap();
                *slowest = asked.elapsed().max(*slowest);
            }
        }
    }

    /// MKCOL, PUT, GET it back, PUT with a wrong Content-MD5: all on one connection.
    fn test_writing(&self, device: u32) {
        let mut client = self.node.client();
        for turn in self.every(WRITABLE) {
            let folder = format!("/dev{device}/test-write");
            kept(client.mkcol(&format!("{folder}/")), 400);
            let path = format!("{folder}/test-write-{:02}", turn % 100);
            let body = format!("time={turn};device={device}");
            kept(client.put(&path, &body), 201);
            assert_eq!(kept(get(&mut client, &path), 200).body, body.as_bytes());
            let wrong = format!("Content-MD5: {}\r\n", content_md5("something else"));
            kept(client.put_with(&format!("{folder}/test-md5"), &wrong, "!"), 400);
            kept(get(&mut client, &format!("{folder}/test-md5")), 404);
            kept(client.delete(&path), 204);
        }
    }

    /// A group each second, whatever else goes on.
    fn watch(&self, length: Duration) {
        let mut client = self.node.sidechannel();
        client.send("watch\n");
        let mut groups = 0;
        while Instant::now() < self.ends {
            client.take_through(b".\n");
            while client.line() != ".\n" {}
            groups += 2;
        }
        let expected = length.as_secs();
        assert!(groups + 2 >= expected && groups <= expected + 3, "{groups} in {expected} s");
    }

    /// HEAD or size, then the digest at low priority.
    fn fsck(&self) {
        let (mut client, mut side) = (self.node.client(), self.node.sidechannel());
        for turn in self.every(Duration::from_millis(20)) {
            let fid = turn as u64 % FILES;
            let (path, body) = (path_of(fid), body_of(fid));
            match turn % 2 {
                0 => side.send(format!("size {path}\r\nMD5 {path} fsck\r\n")),
                _ => {
                    side.send(format!("MD5 {path} fsck\r\n"));
                    let answer = client.head(&path).expect_and(200, "keep-alive");
                    assert_eq!(answer.header("Content-Length"), Some(&*body.len().to_string()));
                }
            }
            if turn % 2 == 0 {
                assert_eq!(side.line(), format!("{path} {}\r\n", body.len()));
            }
            assert_eq!(side.line(), format!("{path} MD5={}\r\n", hex(&body)));
        }
    }

    /// Copies files from device to device, as a tracker's worker does: two pooled connections,
    /// HTTP/1.0, head and body in packets of their own.
    fn replicate(&self, pool: u64) {
        let (mut from, mut to) = (self.node.client(), self.node.client());
        for turn in self.every(Duration::from_millis(30)) {
            let fid = (turn as u64 * 3 + pool) % FILES;
            let body = kept(get(&mut from, &path_of(fid)), 200).body;
            assert!(body == body_of(fid), "fid {fid} has other content");
            let device = 1 + (fid as u32 + 1 + turn as u32 % (DEVICES - 1)) % DEVICES;
            let copy = fid_path(device, 1_000_000 * (pool + 1) + fid);
            let md5 = match turn % 2 {
                0 => format!("Content-MD5: {}\r\n", content_md5(&body)),
                _ => String::new(),
            };
            let length = body.len();
            to.send(format!(
                "PUT {copy} HTTP/1.0\r\nConnection: keep-alive\r\nContent-length: {length}\r\n{md5}\r\n"
            ));
            to.send(&body);
            kept(to.answer(), 201);
            assert!(kept(get(&mut from, &copy), 200).body == body, "{copy} is another file");
            if turn % 3 == 0 {
                kept(to.delete(&copy), 204);
                kept(get(&mut to, &copy), 404);
            }
        }
    }
}

fn store_files(node: &Node) {
    let mut client = node.client();
    for fid in 0..FILES {
        kept(client.put(&path_of(fid), body_of(fid)), 201);
    }
}

fn path_of(fid: u64) -> String {
    fid_path(1 + fid as u32 % DEVICES, fid + 1)
}

/// From nothing to some hundred KiB.
fn body_of(fid: u64) -> Vec<u8> {
    pattern((fid * fid * 61) as usize)
}

/// As trackers and their pools ask.
fn get(client: &mut Client, path: &str) -> Answer {
    client.ask(format!("GET {path} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"))
}

/// Insists on the status and on a connection that survives.
fn kept(answer: Answer, status: u16) -> Answer {
    answer.expect_and(status, "keep-alive")
}

fn hex(body: &[u8]) -> String {
    Md5::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn the_node_is_well(node: &Node) {
    let status = node.status();
    for worker in status["workers"].as_array().unwrap() {
        assert_eq!((worker["errors"].as_u64(), worker["restarts"].as_u64()), (Some(0), Some(0)));
    }
    let log = node.stderr.so_far();
    let bad = log.iter().filter(|line| line.contains("error:") || line.contains("warn:"));
    assert_eq!(bad.count(), 0, "{log:#?}");
    assert!(node.all_events("worker_exited").is_empty());
}
