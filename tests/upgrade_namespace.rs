//! A node in a PID namespace of its own, as in a container: its numbers are others outside, and its
//! first process is no process like others.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::chain::{Chain, is_gone};
use crate::harness::{Node, Setup, binary, skipped, until, until_some};
use crate::load::process;

const CONTAINER: [&str; 4] = ["unshare", "-pf", "--kill-child", "--mount-proc"];
/// A small init: orphans become its children.
const INIT: [&str; 4] = ["sh", "-c", "\"$@\" & while :; do sleep 0.1; done", "init"];

/// `None` where there are no namespaces to be had.
fn container(below_init: bool) -> Option<Chain> {
    let mut words = CONTAINER.to_vec();
    if !Command::new(words[0]).args(&words[1..]).arg("true").status().is_ok_and(|s| s.success()) {
        skipped("no PID namespaces here");
        return None;
    }
    if below_init {
        words.extend(INIT);
    }
    Some(Chain::start(Setup::new().through(&words)))
}

/// The master's number as it is here.
fn outside(node: &Node) -> Pid {
    until_some("the master", || {
        let mut below = vec![node.pid()];
        while let Some(pid) = below.pop() {
            let shown = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if shown.starts_with("rmogstored: master") {
                return Some(pid);
            }
            below.extend(process::children_of(pid));
        }
        None
    })
}

fn upgrade(inside: Option<Pid>, node: &Path) -> Output {
    let mut words = Vec::new();
    if let Some(pid) = inside {
        words.extend(["nsenter", "-p", "-m", "-t"].map(str::to_owned));
        words.push(pid.to_string());
    }
    words.push(binary().into_string().unwrap());
    words.push("upgrade".to_owned());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg(node).stdin(Stdio::null()).output().unwrap()
}

/// The container would end with it.
#[test]
fn first_process_of_a_container_is_not_upgraded_and_says_how_it_could_be() {
    let Some(chain) = container(false) else { return };
    let master = outside(&chain.node);
    kill(master, Signal::SIGUSR2).unwrap();
    let failed = chain.node.event("upgrade_failed");
    assert!(failed["reason"].as_str().unwrap().contains("as PID 1 of a container"), "{failed}");
    chain.node.logs("Start the node below a small init");
    for inside in [None, Some(master)] {
        for by in ["pid", "status.sock"] {
            let output = upgrade(inside, &chain.path(by));
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            assert!(said.contains("as PID 1 of a container it cannot be replaced"), "{said}");
            assert!(said.contains("small init"), "{said}");
        }
    }
    assert!(chain.node.all_events("upgrade_started").is_empty());
    assert!(chain.path("pid").exists() && !chain.path("pid.oldbin").exists());
    assert!(!is_gone(master));
    chain.node.client().stays_open();
}

/// From outside, numbers in the file and the document are other processes'.
#[test]
fn node_below_an_init_is_upgraded_from_outside_and_inside() {
    let Some(chain) = container(true) else { return };
    for by in ["pid", "status.sock"] {
        for is_inside in [false, true] {
            let old = outside(&chain.node);
            let output = upgrade(is_inside.then_some(old), &chain.path(by));
            assert!(output.status.success(), "{by}, {is_inside}: {output:?}");
            until("the old one's end", || is_gone(old));
            assert_ne!(outside(&chain.node), old);
            chain.node.client().stays_open();
        }
    }
}

/// The number that it holds may be nobody's here: its lock tells.
#[test]
fn pid_file_of_a_node_in_another_namespace_is_not_taken_over() {
    let Some(chain) = container(true) else { return };
    let second = Setup::new().arg(&format!("--pidfile={}", chain.path("pid").display())).run();
    assert_eq!(second.code, Some(1));
    assert!(second.stderr.contains("already running on PID: "), "{second:?}");
}
