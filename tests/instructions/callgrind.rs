//! A node under callgrind, and how many instructions its worker executed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::harness::{Node, Setup, can_mount};

/// A filesystem that is the same on every machine: which way a request takes depends on it.
const FILESYSTEM: &str = "truncate -s 64M {dir}/image; mkfs.ext4 -q {dir}/image; \
                          mount -o loop {dir}/image {dir}/dev1";
const SHIM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/instructions/openat2.c");

/// Of the standard library's mutex: how long it spins depends on the scheduler alone.
const SPIN: &str = "::lock_contended";

/// What it takes to count.
pub struct Callgrind {
    binary: PathBuf,
    /// Holds the compiled shim.
    folder: TempDir,
}

impl Callgrind {
    /// The error is why it cannot be done here.
    pub fn prepare(binary: &Path) -> Result<Callgrind, String> {
        for tool in ["valgrind", "cc", "taskset"] {
            first_line(tool, &["--version"]).ok_or(format!("{tool} is not installed"))?;
        }
        if !can_mount() {
            return Err("cannot mount".to_owned());
        }
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let shim = folder.path().join("openat2.so");
        let flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-ldl"];
        let built =
            Command::new("cc").args(flags).arg("-o").args([&shim, Path::new(SHIM)]).status();
        assert!(built.unwrap().success(), "{SHIM} does not compile");
        Ok(Callgrind { binary: binary.to_owned(), folder })
    }

    /// The instructions that the only worker of a node executes from its start to its end.
    pub fn count(&self, talk: impl FnOnce(&Node)) -> u64 {
        let mut node = self.start();
        let worker = node.workers()[0];
        talk(&node);
        node.signal(Signal::SIGTERM);
        assert!(node.wait_for_exit().success(), "the node does not end well");
        let file = node.docroot().join(format!("callgrind.{worker}"));
        let profile = fs::read_to_string(&file).expect("callgrind writes a file for each process");
        total(&profile) - spent_in(&profile, SPIN)
    }

    /// With nothing that is done by the clock except the loop's ticks. On one processor a thread
    /// that is woken runs when the one that woke it sleeps, nearly always.
    fn start(&self) -> Node {
        let setup = Setup::new().workers("1").devices(1).env("MOG_DISK_USAGE_INTERVAL", "3600");
        let setup = setup.mount(FILESYSTEM);
        let folder = self.folder.path().display();
        let (binary, cpu) = (self.binary.display(), first_cpu());
        // Few as arguments: the worker's title is written over those.
        let options = "-q --vgdb=no --callgrind-out-file={dir}/callgrind.%p";
        setup
            .env("VALGRIND_OPTS", options)
            .env("LD_PRELOAD", &format!("{folder}/openat2.so"))
            .shell(&format!(
                "exec taskset -c {cpu} valgrind --tool=callgrind '{binary}' \"$@\" 9>&1 1>&2 </dev/null"
            ))
            .start()
    }
}

/// The first line that a tool prints; `None` when it cannot be run.
pub fn first_line(tool: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(tool).args(args).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    output.status.success().then(|| text.lines().next().unwrap_or_default().to_owned())
}

/// One that this process may run on.
fn first_cpu() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    allowed.trim().chars().take_while(char::is_ascii_digit).collect()
}

fn total(profile: &str) -> u64 {
    let total = profile.lines().find_map(|line| line.strip_prefix("totals: "));
    total.and_then(|total| total.parse().ok()).expect("a profile has a total")
}

/// What functions whose name ends so cost themselves, without those they call. The format is that
/// of the manual of callgrind: a name is written once and then stands behind its number; a call is
/// followed by a line with the cost of what is called.
fn spent_in(profile: &str, name: &str) -> u64 {
    let (mut numbers, mut inside, mut called, mut cost) = (BTreeSet::new(), false, false, 0);
    for line in profile.lines() {
        if let Some((number, text)) = function(line) {
            if text.is_some_and(|text| text.ends_with(name)) {
                numbers.insert(number);
            }
            if line.starts_with("fn=") {
                inside = numbers.contains(number);
            }
        } else if line.starts_with("calls=") {
            called = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let this = line.split(' ').nth(1).and_then(|this| this.parse().ok()).unwrap_or(0);
            cost += if inside && !called { this } else { 0 };
            called = false;
        }
    }
    cost
}

/// `fn=(12) name`, `cfn=(12)`: a function's number, and its name where it is written.
fn function(line: &str) -> Option<(&str, Option<&str>)> {
    let text = line.strip_prefix('c').unwrap_or(line).strip_prefix("fn=")?;
    let (number, name) = text.split_once(' ').map_or((text, None), |(n, name)| (n, Some(name)));
    Some((number, name))
}

#[test]
fn the_cost_of_a_function_is_told_from_what_it_calls() {
    let profile = "fn=(1) main\n5 100\ncfn=(2) m::lock\ncalls=1 7\n+1 40\n6 3\n\n\
                   fn=(2)\n7 30\ncfn=(3) wait\ncalls=1 1\n* 10\n-1 2\n\nfn=(3)\n1 10\n\ntotals: 145\n";
    assert_eq!(spent_in(profile, "::lock"), 32);
    assert_eq!(spent_in(profile, "main"), 103);
    assert_eq!(spent_in(profile, "other"), 0);
    assert_eq!(total(profile), 145);
}
