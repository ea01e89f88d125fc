//! SIGUSR2: a successor beside the running node, and everything that can go wrong with it.

use std::fs;
use std::path::Path;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::chain::{Chain, Load, is_gone, pid_in};
use crate::harness::{Client, Setup, names_in, skipped, until};
use crate::load::process;

fn start() -> Chain {
    Chain::start(Setup::new())
}

fn reason(event: &Value) -> &str {
    event["reason"].as_str().unwrap()
}

/// What must hold after an upgrade that failed: the first master serves under the pid file's
/// name, and another upgrade can be tried.
fn carries_on(chain: &Chain) {
    assert_eq!(chain.master(), chain.node.pid());
    assert!(!chain.path("pid.oldbin").exists());
    chain.node.client().stays_open();
    let status = chain.node.status();
    assert_eq!(status["pid"], chain.node.pid().as_raw());
    assert!(status["upgrade"]["successor"].is_null(), "{status}");
}

#[test]
fn a_hundred_upgrades_under_load_are_not_noticed() {
    let chain = start();
    let load = Load::start(&chain.node, 4);
    let begun = Instant::now();
    for _ in 0..100 {
        chain.upgrade();
    }
    println!("100 upgrades in {:?}", begun.elapsed());
    let answered = load.saw_nothing();
    println!("{answered} requests answered");
    assert!(answered > 1000, "hardly any load: {answered}");
    assert_eq!(chain.node.status()["generation"], 101);
    assert!(!chain.path("pid.oldbin").exists());
}

#[test]
fn killed_workers_cost_only_their_own_requests_while_upgrades_go_on() {
    const CLIENTS: usize = 4;
    let chain = start();
    let load = Load::start(&chain.node, CLIENTS);
    let mut kills = 0;
    for round in 0..15 {
        load.goes_on();
        let workers = chain.node.workers();
        if kill(workers[round % workers.len()], Signal::SIGKILL).is_ok() {
            kills += 1;
        }
        chain.upgrade();
    }
    let failures = load.failures();
    assert!(failures.len() <= kills * CLIENTS, "{kills} kills: {failures:#?}");
    assert!(failures.iter().all(|failure| !failure.contains("wrong answer")), "{failures:#?}");
    assert!(failures.iter().all(|failure| !failure.contains("refused")), "{failures:#?}");
}

#[test]
fn both_serve_until_the_old_one_is_told_to_quit() {
    let chain = start();
    let (old, new) = chain.begin_upgrade();
    assert_eq!(pid_in(&chain.path("pid")), Some(new));
    assert_eq!(pid_in(&chain.path("pid.oldbin")), Some(old));
    assert_eq!(chain.node.status()["pid"], new.as_raw());
    assert_eq!(chain.node.status()["generation"], 2);
    for _ in 0..20 {
        chain.node.client().stays_open();
    }
    kill(old, Signal::SIGQUIT).unwrap();
    until("the old one to go", || is_gone(old));
    assert!(!chain.path("pid.oldbin").exists());
    chain.node.client().stays_open();
    until("the socket's other name to go", || !chain.path("status.sock.old").exists());
}

/// Each generation counts changes for itself, and neither may answer from what it keeps open when
/// the other has changed it.
#[test]
fn what_one_generation_changes_the_other_sees_at_once() {
    let chain = Chain::start(Setup::new().workers("1"));
    let before = chain.node.client();
    let (_, new) = chain.begin_upgrade();
    let (mut one, mut other) = one_of_each(&chain, before, new);
    for round in 0..100 {
        let (path, content) = ("/dev1/changed", format!("version {round}"));
        one.put(path, &content).expect(201);
        // From its second request on the other one keeps it open.
        for _ in 0..3 {
            assert_eq!(other.get(path).body, content.as_bytes(), "round {round}");
        }
        one.put(path, "new").expect(201);
        assert_eq!(other.get(path).body, b"new", "round {round}");
        other.get(path).expect(200);
        one.delete(path).expect(204);
        other.get(path).expect(404);
        std::mem::swap(&mut one, &mut other);
    }
}

/// A connection of each generation. While the old worker stands still the new one accepts.
fn one_of_each(chain: &Chain, mut before: Client, new: Pid) -> (Client, Client) {
    before.stays_open();
    let children = process::children_of(chain.node.pid());
    let old: Vec<_> = children.into_iter().filter(|pid| *pid != new).collect();
    old.iter().for_each(|pid| kill(*pid, Signal::SIGSTOP).unwrap());
    let mut after = chain.node.client();
    after.stays_open();
    old.iter().for_each(|pid| kill(*pid, Signal::SIGCONT).unwrap());
    before.stays_open();
    (before, after)
}

#[test]
fn an_upgrade_while_one_runs_is_refused_by_both_masters() {
    let chain = start();
    let (old, new) = chain.begin_upgrade();
    kill(old, Signal::SIGUSR2).unwrap();
    chain.node.logs(&format!("upgrade already running on PID:{new}"));
    kill(new, Signal::SIGUSR2).unwrap();
    chain.node.logs(&format!("upgrade already running on PID:{old}"));
    assert_eq!(chain.node.all_events("upgrade_started").len(), 1);
}

#[test]
fn quit_to_the_successor_rolls_back() {
    let chain = start();
    let load = Load::start(&chain.node, 2);
    for signal in [Signal::SIGQUIT, Signal::SIGKILL] {
        let (_, new) = chain.begin_upgrade();
        let seen = chain.seen();
        // A worker that dies with its master unannounced drains: nothing is lost with it.
        kill(new, signal).unwrap();
        let failed = chain.node.event_after(seen, "upgrade_failed");
        assert_eq!(failed["pid"], new.as_raw());
        assert!(reason(&failed).contains("after it was ready"), "{failed}");
        carries_on(&chain);
    }
    load.saw_nothing();
    chain.upgrade();
}

#[test]
fn successor_carries_on_when_the_old_one_is_killed() {
    let chain = start();
    let (old, new) = chain.begin_upgrade();
    kill(old, Signal::SIGKILL).unwrap();
    until("the old one's leavings to be tidied", || {
        !chain.path("pid.oldbin").exists() && !chain.path("status.sock.old").exists()
    });
    assert_eq!(chain.master(), new);
    chain.node.client().stays_open();
    chain.upgrade();
}

#[test]
fn executable_that_was_deleted_is_named() {
    let chain = start();
    fs::remove_file(chain.path("rmogstored")).unwrap();
    let failed = chain.failed_upgrade();
    let path = chain.path("rmogstored");
    let expected = format!("cannot execute {}: No such file", path.display());
    assert!(reason(&failed).starts_with(&expected), "{failed}");
    chain.node.logs(&expected);
    carries_on(&chain);
}

#[test]
fn executable_that_cannot_be_executed_changes_nothing() {
    let chain = start();
    let load = Load::start(&chain.node, 2);
    chain.replace_executable("no program", 0o644);
    assert!(reason(&chain.failed_upgrade()).contains("not an executable file"));
    carries_on(&chain);
    chain.replace_executable("no program", 0o755);
    assert!(reason(&chain.failed_upgrade()).contains("Exec format error"));
    carries_on(&chain);
    assert_eq!(chain.node.status()["upgrade"]["failures"], 2);
    load.saw_nothing();
}

#[test]
fn successor_that_refuses_its_configuration_says_why() {
    let chain = Chain::start(Setup::new().config("maxconns = 100\n"));
    let load = Load::start(&chain.node, 2);
    fs::write(chain.path("node.conf"), "maxconns = many\n").unwrap();
    let failed = chain.failed_upgrade();
    assert!(reason(&failed).contains("exited with status 1 before it was ready"), "{failed}");
    assert!(reason(&failed).contains("'many' is not a number"), "{failed}");
    chain.node.logs("upgrade failed: PID");
    carries_on(&chain);
    load.saw_nothing();
    fs::write(chain.path("node.conf"), "maxconns = 100\n").unwrap();
    chain.upgrade();
}

#[test]
fn successor_that_crashes_changes_nothing() {
    let chain = start();
    let load = Load::start(&chain.node, 2);
    chain.replace_by_script("kill -SEGV $$");
    assert!(reason(&chain.failed_upgrade()).contains("was ended by SIGSEGV"));
    carries_on(&chain);
    load.saw_nothing();
}

#[test]
fn successor_that_hangs_is_ended_in_time() {
    let chain = Chain::start(Setup::new().arg("--upgrade-timeout=300ms"));
    let load = Load::start(&chain.node, 2);
    // The second one does not listen to SIGTERM either.
    for script in ["exec sleep 60", "trap '' TERM; exec sleep 60"] {
        chain.replace_by_script(script);
        let failed = chain.failed_upgrade();
        assert_eq!(reason(&failed), "not ready after 0.3 s");
        carries_on(&chain);
    }
    chain.node.logs("upgrade: killing PID");
    load.saw_nothing();
}

#[test]
fn successor_that_loses_its_workers_changes_nothing() {
    let chain = start();
    let load = Load::start(&chain.node, 2);
    fs::write(chain.path("die"), "").unwrap();
    let Some(library) = Chain::deadly_library(chain.node.docroot(), "rmogstored-w") else {
        return skipped("no C compiler");
    };
    let run = format!("LD_PRELOAD={} exec {{dir}}/real \"$@\"", library.display());
    chain.replace_by_script(&run);
    let failed = chain.failed_upgrade();
    assert!(reason(&failed).contains("was ended by SIGKILL before it was ready"), "{failed}");
    assert!(reason(&failed).contains("exited with status 1"), "{failed}");
    carries_on(&chain);
    load.saw_nothing();
    fs::remove_file(chain.path("die")).unwrap();
    chain.upgrade();
}

#[test]
fn old_master_that_is_told_to_quit_takes_an_unready_successor_with_it() {
    let mut chain = start();
    chain.replace_by_script("exec sleep 60");
    chain.node.signal(Signal::SIGUSR2);
    let started = chain.node.event("upgrade_started");
    chain.node.signal(Signal::SIGQUIT);
    assert_eq!(chain.node.wait_for_exit().code(), Some(0));
    let successor = Pid::from_raw(started["pid"].as_i64().unwrap() as i32);
    until("the successor to go", || is_gone(successor));
    assert!(!chain.path("pid").exists() && !chain.path("pid.oldbin").exists());
}

/// As a cmogstored does.
#[test]
fn successor_that_knows_no_pipe_is_ready_with_its_pid_file() {
    let chain = start();
    chain.replace_by_script("echo $$ > {dir}/pid\nexec sleep 60");
    let (old, new) = chain.begin_upgrade();
    assert_eq!(pid_in(&chain.path("pid")), Some(new));
    let seen = chain.seen();
    kill(new, Signal::SIGTERM).unwrap();
    chain.node.event_after(seen, "upgrade_failed");
    assert_eq!(chain.master(), old);
    carries_on(&chain);
}

#[test]
fn successor_inherits_nothing_but_what_it_is_told_of() {
    let chain = Chain::start(Setup::new().shell("exec 7</dev/zero"));
    chain.replace_by_script("env > {dir}/env\necho $$ > {dir}/pid\nexec sleep 60");
    let (_, new) = chain.begin_upgrade();
    let of = |name: &str| format!("/proc/{new}/{name}");
    until("the script to be through", || fs::read_to_string(of("comm")).unwrap() == "sleep\n");
    let env = fs::read_to_string(chain.path("env")).unwrap();
    let value = |name: &str| {
        let line = env.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {name} in {env}")).to_owned()
    };
    let mut told: Vec<String> = value("CMOGSTORED_FD").split(',').map(str::to_owned).collect();
    assert_eq!(told.len(), 2);
    told.push(value("RMOGSTORED_LEGACY"));
    told.push(value("RMOGSTORED_SUCCESSION").split(',').nth(1).unwrap().to_owned());
    told.push(value("RMOGSTORED_SUCCESSOR").split(',').next().unwrap().to_owned());
    told.extend(["0", "1", "2", "9"].map(str::to_owned));
    told.sort();
    let open = names_in(Path::new(&of("fd")));
    assert_eq!(open, told);
    let status = fs::read_to_string(of("status")).unwrap();
    for signals in ["SigBlk:", "SigIgn:"] {
        let line = status.lines().find(|line| line.starts_with(signals)).unwrap();
        let set = u64::from_str_radix(line.split('\t').next_back().unwrap(), 16).unwrap();
        // Beyond 31 are the C library's own.
        assert_eq!(set & 0x7fff_ffff, 0, "{line}");
    }
}
