//! What requests cost in instructions, against recorded values: a regression shows without a
//! quiet machine. Counts are the worker's in user space, all its threads together.
//!
//! Each script runs with few rounds and with many; the difference is what requests cost, free of
//! start and end. callgrind counts: it is exact, needs no rights and shows the same processor
//! everywhere. (Virtual machines seldom have counters in hardware, and a single step of ptrace was
//! seen to take 80 us in one.) What valgrind 3.19 lacks is openat2, which a shim supplies.
//!
//! What depends on the scheduler is kept out: one processor, pauses that let threads meet in one
//! order, and no spinning on a mutex in the count. The loop's ticks remain: run beside much else it
//! takes longer, and shows a few per cent more. So `.ci/run` runs it alone.
//!
//! It takes a release build: `RMOGSTORED_RELEASE` names it, as `.ci/run` does. To record anew,
//! `UPDATE=1 cargo test --test tests instructions::requests -- --ignored` makes the build itself.

mod callgrind;
mod record;

use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use callgrind::Callgrind;
use record::{Record, Verdict, toolchain};

use crate::harness::{Answer, Client, Node, content_md5, fid_path, pattern, skipped, until};

/// Rounds of a script's two runs.
const FEW: u64 = 20;
const MANY: u64 = 220;
/// Before each request, so that the threads sleep that the one before woke.
const PAUSE: Duration = Duration::from_millis(1);
/// What the connections send with each request, as client libraries do.
const HEADERS: &str = "Host: storage7.example.com:7500\r\nUser-Agent: libwww-perl/6.68\r\n\
                       Accept: */*\r\nConnection: keep-alive\r\n";

/// One round of requests, and how many they are.
type Script = (&'static str, u64, fn(&mut Talk, u64));
const SCRIPTS: [Script; 3] = [
    ("read", READ_REQUESTS, read),
    ("write", WRITE_REQUESTS, write),
    ("size, range, large", LARGE_REQUESTS, size_range_large),
];

const SMALL: u64 = 1;
const PAGE: u64 = 2;
const PAGES: u64 = 3;
const LARGE: u64 = 4;
const MISSING: u64 = 999;
/// The first FID that is written.
const WRITTEN: u64 = 1_000_000;

#[test]
#[ignore = "counts instructions of the release build: .ci/run runs it alone"]
fn requests_cost_the_recorded_instructions() {
    let Some(binary) = release() else {
        return skipped("RMOGSTORED_RELEASE does not name a release build");
    };
    let callgrind = match Callgrind::prepare(&binary) {
        Ok(callgrind) => callgrind,
        Err(reason) => return skipped(&reason),
    };
    let scripts = SCRIPTS.iter().map(|script| (script.0.to_owned(), cost(&callgrind, script)));
    let new = Record { made_with: toolchain(&binary), scripts: scripts.collect() };
    println!("instructions per request: {:?}", new.scripts);
    if updating() {
        return new.save();
    }
    match Record::load().compare(&new) {
        Verdict::Close => {}
        // No skip: with another toolchain there is nothing that could be installed for it.
        Verdict::NotComparable(reason) => println!("not compared: {reason}"),
        Verdict::TooFar(message) => panic!("{message}"),
    }
}

fn updating() -> bool {
    std::env::var_os("UPDATE").is_some()
}

/// The build to measure; what is recorded comes from a fresh one.
fn release() -> Option<PathBuf> {
    let named = std::env::var_os("RMOGSTORED_RELEASE").map(PathBuf::from);
    named.or_else(|| updating().then(build))
}

fn build() -> PathBuf {
    let target = std::path::Path::new(env!("CARGO_BIN_EXE_rmogstored")).ancestors().nth(2).unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let args = ["build", "--release", "--locked", "--target-dir"];
    let built =
        Command::new(cargo).current_dir(env!("CARGO_MANIFEST_DIR")).args(args).arg(target).status();
    assert!(built.unwrap().success(), "the release build fails");
    target.join("release/rmogstored")
}

/// Instructions per request.
fn cost(callgrind: &Callgrind, (_, requests, round): &Script) -> u64 {
    let run = |rounds| {
        callgrind.count(|node| {
            let mut talk = Talk::begin(node);
            (0..rounds).for_each(|number| round(&mut talk, number));
        })
    };
    let (short, long) = (run(FEW), run(MANY));
    (long - short) / ((MANY - FEW) * requests)
}

/// The connections of a client.
struct Talk {
    http: Client,
    sidechannel: Client,
}

impl Talk {
    /// Stores what is to be read, and insists that it is read on the way that needs no thread.
    fn begin(node: &Node) -> Talk {
        for (fid, length) in [(SMALL, 100), (PAGE, 4096), (PAGES, 20_000), (LARGE, 1 << 20)] {
            node.client().put(&fid_path(1, fid), pattern(length)).expect(201);
        }
        let mut talk = Talk { http: node.client(), sidechannel: node.sidechannel() };
        talk.get(PAGE, "", 200);
        until("reads without a thread", || node.status()["devices"][0]["inline_reads"] == true);
        talk
    }

    fn ask(&mut self, request: String) -> Answer {
        thread::sleep(PAUSE);
        self.http.ask(request)
    }

    fn get(&mut self, fid: u64, headers: &str, status: u16) {
        self.ask(request("GET", fid, headers)).expect(status);
    }

    fn put(&mut self, fid: u64, headers: &str, body: &str) {
        let headers = format!("Content-Length: {}\r\n{headers}", body.len());
        self.ask(request("PUT", fid, &headers) + body).expect(201);
    }

    fn size(&mut self, fid: u64, answer: &str) {
        let path = fid_path(1, fid);
        thread::sleep(PAUSE);
        self.sidechannel.send(format!("size {path}\r\n"));
        assert_eq!(self.sidechannel.line(), format!("{path} {answer}\r\n"));
    }
}

fn request(method: &str, fid: u64, headers: &str) -> String {
    format!("{method} {} HTTP/1.1\r\n{HEADERS}{headers}\r\n", fid_path(1, fid))
}

const READ_REQUESTS: u64 = 6;

fn read(talk: &mut Talk, _: u64) {
    talk.get(SMALL, "", 200);
    talk.get(PAGE, "", 200);
    talk.get(PAGES, "", 200);
    thread::sleep(PAUSE);
    talk.http.send(request("HEAD", PAGE, ""));
    talk.http.answer_to_head().expect(200);
    talk.get(MISSING, "", 404);
    talk.get(PAGE, "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n", 304);
}

const WRITE_REQUESTS: u64 = 5;

fn write(talk: &mut Talk, round: u64) {
    let (fid, body) = (WRITTEN + round, "what a client stores");
    talk.put(fid, "", body);
    talk.get(fid, "", 200);
    talk.put(fid, &format!("Content-MD5: {}\r\n", content_md5(body)), body);
    let chunked = format!("14\r\n{body}\r\n0\r\n\r\n");
    let head = request("PUT", fid, "Transfer-Encoding: chunked\r\n");
    talk.ask(head + &chunked).expect(201);
    talk.ask(request("DELETE", fid, "")).expect(204);
}

const LARGE_REQUESTS: u64 = 5;

fn size_range_large(talk: &mut Talk, _: u64) {
    talk.size(PAGE, "4096");
    talk.size(MISSING, "-1");
    talk.get(LARGE, "Range: bytes=1000-1999\r\n", 206);
    talk.get(LARGE, "Range: bytes=-100000\r\n", 206);
    talk.get(LARGE, "", 200);
}
