//! Whether a thread that must never wait for a disk does so all the same.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::harness::Node;

/// How often it is looked.
const PACE: Duration = Duration::from_millis(4);
/// No page fault and no lock keeps a thread so long.
const TOO_LONG: Duration = Duration::from_millis(100);
/// What stands in the kernel's stack of a thread that a filesystem or a disk keeps.
const DISK: [&str; 11] = [
    FUSE_ANSWER,
    "ext4_",
    "xfs_",
    "btrfs_",
    "fuse_",
    "jbd2_",
    "blk_",
    "iomap_",
    "io_schedule",
    "filemap_",
    "deactivate_super",
];
/// Where a thread stands that a FUSE daemon does not answer.
const FUSE_ANSWER: &str = "request_wait_answer";
/// A page of the executable, or of memory; more room for descriptors: no disk.
const NO_DISK: [&str; 2] = ["page_fault", "expand_files"];

/// Looks at the loops of a node, its master's too, for as long as it lives.
pub struct LoopWatch {
    pids: Vec<Pid>,
    over: Arc<AtomicBool>,
    watcher: Option<JoinHandle<Vec<String>>>,
}

impl LoopWatch {
    /// Looks at the workers that there are now; a thread is a loop when it is its process's first.
    pub fn start(node: &Node) -> LoopWatch {
        let pids: Vec<_> = node.workers().into_iter().chain([node.pid()]).collect();
        let over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&over);
        let watched = pids.clone();
        let watcher = Some(thread::spawn(move || watch(&watched, &flag)));
        LoopWatch { pids, over, watcher }
    }

    /// Insists that no loop has waited for a disk so far.
    pub fn end(mut self) {
        let seen = self.seen();
        assert!(seen.is_empty(), "a loop waited for a disk: {}", seen.join("\n"));
    }

    fn seen(&mut self) -> Vec<String> {
        self.over.store(true, Relaxed);
        let watcher = self.watcher.take();
        watcher.and_then(|watcher| watcher.join().ok()).unwrap_or_default()
    }
}

impl Drop for LoopWatch {
    fn drop(&mut self) {
        self.seen().into_iter().for_each(|line| eprintln!("a loop waited for a disk: {line}"));
        if thread::panicking() {
            self.pids.iter().for_each(|pid| tell_who_waits(*pid));
        }
    }
}

/// Where each thread was caught first, and for how long.
fn watch(pids: &[Pid], over: &AtomicBool) -> Vec<String> {
    let mut waiting: HashMap<Pid, (Instant, String)> = HashMap::new();
    let mut caught: HashMap<Pid, (Duration, String)> = HashMap::new();
    while !over.load(Relaxed) {
        for pid in pids {
            if !waits(*pid, *pid) {
                waiting.remove(pid);
                continue;
            }
            let (since, stack) =
                waiting.entry(*pid).or_insert_with(|| (Instant::now(), stack_of(*pid, *pid)));
            let within = |words: &[&str]| words.iter().any(|word| stack.contains(word));
            let excused = within(&NO_DISK);
            let too_long = since.elapsed() > if excused { 10 * TOO_LONG } else { TOO_LONG };
            if too_long || within(&DISK) && !excused {
                let longest = caught.entry(*pid).or_insert_with(|| (Duration::ZERO, stack.clone()));
                longest.0 = longest.0.max(since.elapsed());
            }
        }
        thread::sleep(PACE);
    }
    caught.iter().map(|(pid, (time, stack))| format!("{pid} for {time:?}: {stack}")).collect()
}

/// What a process's threads wait for now, for whoever reads of a failure.
fn tell_who_waits(pid: Pid) {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let names = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok());
    for thread in names.map(Pid::from_raw).filter(|thread| waits(pid, *thread)) {
        eprintln!("{pid}/{thread} waits: {}", stack_of(pid, thread));
    }
}

/// In state D; or in state S for the answer of a FUSE daemon, which a fatal signal may end.
fn waits(pid: Pid, thread: Pid) -> bool {
    let of = |what| fs::read_to_string(format!("/proc/{pid}/task/{thread}/{what}"));
    let stat = of("stat").unwrap_or_default();
    match stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next()) {
        Some('D') => true,
        Some('S') => of("wchan").is_ok_and(|name| name == FUSE_ANSWER),
        _ => false,
    }
}

/// The kernel's functions that the thread is in, innermost first.
fn stack_of(pid: Pid, thread: Pid) -> String {
    let stack = fs::read_to_string(format!("/proc/{pid}/task/{thread}/stack")).unwrap_or_default();
    let name = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
    let names = stack.lines().filter_map(name);
    names.filter_map(|name| Some(name.split('+').next()?.to_owned())).collect::<Vec<_>>().join(" ")
}
