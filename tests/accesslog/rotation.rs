//! A file that is renamed and opened again, or that another program goes on with.

use std::fs;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use nix::sys::signal::Signal;

use super::{ask, setup};
use crate::chain::Chain;
use crate::harness::{Node, names_in, skipped, until};

/// All lines of all generations of the log.
fn all_lines(node: &Node) -> Vec<String> {
    let names = names_in(node.docroot()).into_iter().filter(|name| name.starts_with("access.log"));
    let text = |name: String| fs::read_to_string(node.docroot().join(name)).unwrap();
    names.map(text).flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Asks on three connections while something is done; returns how often.
fn under_load(node: &Node, mut act: impl FnMut()) -> u64 {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = [0, 1, 2].map(|_| {
            let (mut client, over) = (node.client(), &over);
            scope.spawn(move || {
                let mut count = 0;
                while !over.load(Relaxed) {
                    ask(&mut client, count);
                    count += 1;
                }
                count
            })
        });
        act();
        over.store(true, Relaxed);
        asking.map(|thread| thread.join().unwrap()).into_iter().sum()
    })
}

#[test]
fn files_rotated_under_load_have_all_lines() {
    let node = setup().arg("--accesslog-format=json").workers("2").start();
    let asked = under_load(&node, || {
        for round in 1..=10 {
            let old = node.docroot().join(format!("access.log.{round}"));
            fs::rename(super::file(&node), old).unwrap();
            node.signal(Signal::SIGUSR1);
            until("another file", || super::file(&node).exists());
            let known = || node.logged("access.log is open again") >= round;
            until("the log says so", known);
        }
    });
    until("all lines", || all_lines(&node).len() as u64 >= asked);
    let lines = all_lines(&node);
    assert_eq!(lines.len() as u64, asked);
    let valid = |line: &String| serde_json::from_str::<serde_json::Value>(line).is_ok();
    assert!(lines.iter().all(valid));
    println!("{asked} lines in 11 files");
}

#[test]
fn logrotate_and_its_signal_lose_none() {
    if Command::new("logrotate").arg("--version").output().is_err() {
        return skipped("no logrotate");
    }
    let node = setup().workers("2").start();
    let folder = node.docroot().display();
    let pid = node.pid();
    let rules = format!(
        "{folder}/access.log {{\n rotate 9\n nocompress\n missingok\n \
         postrotate\n kill -USR1 {pid}\n endscript\n}}\n"
    );
    let (config, state) = (node.docroot().join("rotate.conf"), node.docroot().join("rotate.state"));
    fs::write(&config, rules).unwrap();
    let asked = under_load(&node, || {
        for round in 1..=3 {
            let mut rotate = Command::new("logrotate");
            rotate.arg("--force").arg("--state").arg(&state).arg(&config);
            let done = rotate.output().unwrap();
            assert!(done.status.success(), "{done:?}");
            until("the log says so", || node.logged("access.log is open again") >= round);
        }
    });
    until("all lines", || all_lines(&node).len() as u64 >= asked);
    assert_eq!(all_lines(&node).len() as u64, asked);
    println!("{asked} lines");
}

#[test]
fn upgrades_under_load_lose_none() {
    let chain = Chain::start(setup().workers("2"));
    let asked = under_load(&chain.node, || {
        for _ in 0..3 {
            chain.upgrade();
        }
    });
    until("all lines", || all_lines(&chain.node).len() as u64 >= asked);
    assert_eq!(all_lines(&chain.node).len() as u64, asked);
    println!("{asked} lines");
}

#[test]
fn a_reload_may_name_another_file() {
    let node = crate::harness::Setup::new().config("accesslog = {dir}/access.log\n").start();
    node.client().get("/dev1/a").expect(404);
    super::lines(&node, 1);
    let other = node.docroot().join("other.log");
    let config = format!("accesslog = {}\n", other.display());
    fs::write(node.docroot().join("node.conf"), config).unwrap();
    node.signal(Signal::SIGHUP);
    node.event("reloaded");
    node.client().get("/dev1/b").expect(404);
    until("a line there", || fs::read_to_string(&other).is_ok_and(|text| text.contains("/dev1/b")));
    super::lines(&node, 1);
}
