//! A scrub and a node at the same device.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{Told, command, scrub};
use crate::harness::real_disk::{FsKind, RealDisk, RealSick, Tree};
use crate::harness::{Lines, Mode, Sick, fid_path, has_fuse, skipped};
use crate::load::Ends;

/// What the disk gives: much less than a busy machine can ask for, so that nothing else counts. Each
/// GET takes 8 ms of it.
const BANDWIDTH: u64 = 8_192_000;
const SIZE: usize = 64 << 10;
/// So many that some always wait for the disk, however late the others come back.
const CLIENTS: usize = 6;
/// How long GETs are counted without a scrub and with one, and before that not.
const WINDOW: Duration = Duration::from_secs(3);
const SETTLED: Duration = Duration::from_millis(600);
const PAIRS: usize = 7;

fn sick() -> Option<Sick> {
    if !has_fuse() {
        skipped("not root, or no /dev/fuse");
        return None;
    }
    let sick = Sick::start("device", &["--stall-timeout=1"]);
    for fid in 1..=400 {
        sick.node.client().put(&fid_path(1, fid), vec![1; 9000]).expect(201);
        sick.node.store(&fid_path(2, fid), "x");
    }
    Some(sick)
}

fn names(sick: &Sick) -> [String; 3] {
    let docroot = sick.node.docroot().to_str().unwrap();
    let socket = sick.node.file("status.sock").to_str().unwrap().to_owned();
    [format!("{docroot}/dev1"), format!("{docroot}/dev2"), socket]
}

/// Hangs the disk, and has the node notice.
fn stall(sick: &Sick) {
    sick.disk.set(Mode::Hang);
    sick.node.client().send(format!("GET {} HTTP/1.0\r\n\r\n", fid_path(1, 1)));
    sick.node.event("device_stalled");
}

#[test]
fn stalled_device_is_left_alone_and_the_others_are_scrubbed() {
    let Some(sick) = sick() else { return };
    let [dev1, dev2, socket] = names(&sick);
    stall(&sick);
    // A thread that touched the device would keep the command from ending.
    let told = scrub(&["--status-socket", &socket, &dev1, &dev2]);
    assert_eq!((told.code, &told.summary["files"]), (Some(3), &400.into()), "{told:?}");
    assert_eq!(told.pairs(), [("skipped".to_owned(), dev1)]);
    assert_eq!(told.findings[0]["why"], "the node calls it stalled");
}

#[test]
fn scrub_waits_while_its_device_is_stalled() {
    let Some(sick) = sick() else { return };
    let [dev1, _, socket] = names(&sick);
    let words = ["--rate=0.8", "--status-socket", &socket, &dev1];
    let child = command(&words).spawn().unwrap();
    stall(&sick);
    // Long enough for the scrub to hear of it; if it has not, it hangs, and that is as good.
    thread::sleep(Duration::from_secs(3));
    sick.disk.set(Mode::Work);
    let told = Told::by(&child.wait_with_output().unwrap());
    assert_eq!((told.code, &told.summary["files"]), (Some(0), &400.into()), "{told:?}");
}

/// A thread that hangs in the kernel cannot be ended, but all else of the command ends without it.
#[test]
fn read_that_hangs_holds_up_neither_signal_nor_patience() {
    let Some(sick) = sick() else { return };
    let [dev1, _, socket] = names(&sick);
    for (patience, code) in [("600", Some(130)), ("1", Some(3))] {
        let words = ["--rate=0.3", "--patience", patience, "--status-socket", &socket, &dev1];
        let mut child = command(&words).spawn().unwrap();
        let lines = Lines::gather(child.stdout.take().unwrap());
        let work = sick.disk.held();
        sick.disk.set(Mode::Hang);
        crate::harness::until("a read to hang", || sick.disk.held() > work);
        if code == Some(130) {
            kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
        } else {
            sick.node.client().send(format!("GET {} HTTP/1.0\r\n\r\n", fid_path(1, 1)));
        }
        let summary = lines.find("a summary", |line| {
            let value: Value = serde_json::from_str(line).unwrap();
            (value["kind"] == "summary").then_some(value)
        });
        assert_eq!(summary["complete"], false, "{summary}");
        sick.disk.set(Mode::Work);
        assert_eq!(child.wait().unwrap().code(), code, "{summary}");
        crate::harness::until("the node to be well", || {
            sick.node.status()["devices"].as_array().unwrap().iter().all(|it| it["state"] == "ok")
        });
    }
}

/// GETs of files that are not in memory, in turns with and without a scrub beside them.
#[test]
#[ignore = "compares times: .ci/run runs it apart"]
fn gets_beside_it_are_hardly_slower() {
    if let Some(reason) = RealDisk::missing(FsKind::Ext4) {
        return skipped(&reason);
    }
    let tree = Tree { fids: 1..1501, size: SIZE };
    let sick = RealSick::start(FsKind::Ext4, "device", &[], |root| tree.write(root));
    tree.look_at(&sick.dev1());
    sick.disk.bandwidth(BANDWIDTH);
    let (over, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut kept, mut scrubbed) = (Vec::new(), 0);
    thread::scope(|scope| {
        let (sick, _end) = (&sick, Ends(&over));
        let paths = tree.paths(1);
        for mine in paths.chunks(paths.len() / CLIENTS) {
            let (mine, over, answered) = (mine.to_vec(), &over, &answered);
            scope.spawn(move || ask_for_ever(sick, &mine, over, answered));
        }
        for _ in 0..PAIRS {
            let alone = window(sick, &tree, &answered);
            let child = start_beside(sick);
            let beside = window(sick, &tree, &answered);
            kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
            let told = Told::by(&child.wait_with_output().unwrap());
            scrubbed += told.summary["bytes"].as_u64().unwrap();
            println!("{alone} GETs alone, {beside} beside a scrub");
            kept.push(beside as f64 / alone as f64);
        }
    });
    kept.sort_by(f64::total_cmp);
    let half = kept[kept.len() / 2];
    println!("{:.1}% kept, {scrubbed} bytes scrubbed beside them", half * 100.0);
    assert!(scrubbed > 0, "the scrub got nowhere");
    assert!(half > 0.95, "{kept:?}");
}

fn ask_for_ever(sick: &RealSick, paths: &[String], over: &AtomicBool, answered: &AtomicU64) {
    let mut client = sick.node.client();
    for path in paths.iter().cycle().take_while(|_| !over.load(Relaxed)) {
        client.get(path).expect(200);
        answered.fetch_add(1, Relaxed);
    }
}

/// How many GETs are answered in one. No client comes to the end of its files meanwhile.
fn window(sick: &RealSick, tree: &Tree, answered: &AtomicU64) -> u64 {
    tree.forget(&sick.dev1());
    thread::sleep(SETTLED);
    let (begun, before) = (Instant::now(), answered.load(Relaxed));
    thread::sleep(WINDOW);
    let count = answered.load(Relaxed) - before;
    (count as f64 * WINDOW.as_secs_f64() / begun.elapsed().as_secs_f64()) as u64
}

fn start_beside(sick: &RealSick) -> std::process::Child {
    let mut command = Command::new("nsenter");
    command.args(["-t", &sick.node.pid().to_string(), "-m", "--"]);
    command.arg(crate::harness::binary()).arg("scrub").arg(sick.node.docroot().join("dev1"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}
