//! What a broken successor says on its standard error: into the log, and into the reason.

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::chain::{Chain, is_gone, pid_in};
use crate::harness::{Setup, binary, until, until_some};

fn reason(chain: &Chain) -> String {
    chain.failed_upgrade()["reason"].as_str().unwrap().to_owned()
}

#[test]
fn last_words_are_in_the_log_the_event_and_the_command_s_answer() {
    let chain = Chain::start(Setup::new());
    chain.replace_by_script("echo libfoo.so.7: cannot open >&2\nprintf 'no line' >&2\nexit 3");
    let reason = reason(&chain);
    let expected = "exited with status 3 before it was ready: libfoo.so.7: cannot open; no line";
    assert!(reason.ends_with(expected), "{reason}");
    chain.node.logs("says: libfoo.so.7: cannot open");
    let output = Command::new(binary()).arg("upgrade").arg(chain.path("status.sock")).output();
    let said = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(said.contains(expected), "{said}");
    assert_eq!(chain.master(), chain.node.pid());
}

#[test]
fn words_of_one_that_is_given_up_are_told_too() {
    let chain = Chain::start(Setup::new().arg("--upgrade-timeout=300ms"));
    chain.replace_by_script("echo waiting for the moon >&2\nexec sleep 60");
    assert_eq!(reason(&chain), "not ready after 0.3 s: waiting for the moon");
}

/// Standard error is nowhere then, and was so for the successor.
#[test]
fn words_reach_a_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    fs::create_dir(dir.join("dev1")).unwrap();
    // Found again under this name.
    let program = dir.join("rmogstored");
    let copied = Command::new("cp").arg(binary()).arg(&program).status().unwrap();
    assert!(copied.success());
    let path = |name: &str| dir.join(name).display().to_string();
    let started = Command::new(&program)
        .args(["-d", "--httplisten=127.0.0.1:0", &format!("--docroot={}", dir.display())])
        .args([format!("--pidfile={}", path("pid")), format!("--status-socket={}", path("sock"))])
        .status();
    assert!(started.unwrap().success());
    let daemon = pid_in(&dir.join("pid")).unwrap();
    fs::remove_file(&program).unwrap();
    let script = "#!/bin/sh\necho nobody hears this >&2\nexit 1\n";
    fs::write(&program, script).unwrap();
    Command::new("chmod").arg("755").arg(&program).status().unwrap();
    kill(daemon, Signal::SIGUSR2).unwrap();
    let failure = until_some("the failure", || {
        let stream = UnixStream::connect(dir.join("sock")).ok()?;
        let status: Value = serde_json::from_reader(stream).ok()?;
        status["upgrade"]["last_failure"].as_str().map(str::to_owned)
    });
    kill(daemon, Signal::SIGTERM).unwrap();
    until("the daemon to go", || is_gone(daemon));
    assert!(failure.ends_with("before it was ready: nobody hears this"), "{failure}");
}

#[test]
fn endless_words_are_cut_short() {
    let chain = Chain::start(Setup::new());
    chain.replace_by_script("yes spam | head -c 5000000 >&2\necho the end >&2\nexit 1");
    assert!(reason(&chain).ends_with("spam; spam; spam; the end"));
    let lines = chain.node.stderr.so_far().len();
    assert!(lines < 150, "{lines} lines");
}

/// Which the program writes, and exits with 2, before it has read anything.
#[test]
fn wrong_usage_is_told() {
    let chain = Chain::start(Setup::new());
    chain.replace_by_script("exec {dir}/real --nonsense \"$@\"");
    let reason = reason(&chain);
    assert!(reason.contains("exited with status 2"), "{reason}");
    assert!(reason.contains("--nonsense"), "{reason}");
}

#[test]
fn successor_has_the_standard_streams_of_its_predecessor() {
    let chain = Chain::start(Setup::new());
    let streams = |pid| [0, 1, 2].map(|n| fs::read_link(format!("/proc/{pid}/fd/{n}")).unwrap());
    let first = streams(chain.master());
    for _ in 0..2 {
        let new = chain.upgrade();
        assert_eq!(streams(new), first);
    }
}

/// It is not one of this program, and its words may not be what ends it, however the old one ends.
#[test]
fn another_daemon_s_words_go_on_after_the_old_master_has_gone() {
    for signal in [Signal::SIGQUIT, Signal::SIGKILL] {
        let mut chain = Chain::start(Setup::new());
        let script = "echo $$ > {dir}/pid\nwhile :; do echo still here >&2; sleep 0.05; done";
        chain.replace_by_script(script);
        let (_, new) = chain.begin_upgrade();
        chain.node.signal(signal);
        chain.node.wait_for_exit();
        let heard = || chain.node.stderr.so_far().iter().filter(|l| *l == "still here").count();
        let so_far = heard();
        until("more words", || heard() > so_far + 5);
        assert!(!is_gone(new));
    }
}
