//! A quit in the midst of an upgrade: it finishes what has begun, early, and never leaves nobody.

use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::chain::{Chain, Load, is_gone, pid_in};
use crate::harness::{Setup, until};

/// A daemon that serves and has a pid file, but knows nothing of the pipe: as a cmogstored.
const STRANGER: &str = "exec env -u RMOGSTORED_SUCCESSOR -u RMOGSTORED_LEGACY {dir}/real \"$@\"";

/// Port 0 would be another one to the stranger.
fn setup() -> Setup {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    Setup::new().http(&free.to_string())
}

fn chain_with(script: &str) -> Chain {
    let chain = Chain::start(setup());
    chain.replace_by_script(script);
    chain
}

/// USR2; the successor's process.
fn begin(chain: &Chain) -> Pid {
    let seen = chain.seen();
    chain.node.signal(Signal::SIGUSR2);
    let started = chain.node.event_after(seen, "upgrade_started");
    Pid::from_raw(started["pid"].as_i64().unwrap() as i32)
}

fn ends(chain: &mut Chain) {
    assert_eq!(chain.node.wait_for_exit().code(), Some(0));
}

/// The delays are what is tried: the stranger's start takes part of a second.
#[test]
fn early_quit_during_a_move_to_another_daemon_finishes_it() {
    for delay in [0, 100, 300, 600, 950] {
        let mut chain = chain_with(STRANGER);
        let load = Load::start(&chain.node, 2);
        let new = begin(&chain);
        thread::sleep(Duration::from_millis(delay));
        chain.node.signal(Signal::SIGQUIT);
        ends(&mut chain);
        assert!(!is_gone(new), "{delay} ms");
        assert_eq!(chain.master(), new);
        load.goes_on();
        load.saw_nothing();
        assert!(!chain.path("pid.oldbin").exists());
        chain.node.client().stays_open();
    }
}

#[test]
fn quits_that_are_repeated_do_not_end_the_successor() {
    for signals in [[Signal::SIGQUIT; 3], [Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGQUIT]] {
        let mut chain = chain_with(&format!("sleep 0.5\n{STRANGER}"));
        let new = begin(&chain);
        for signal in signals {
            chain.node.signal(signal);
            thread::sleep(Duration::from_millis(50));
        }
        ends(&mut chain);
        assert_eq!(chain.master(), new);
        chain.node.client().stays_open();
    }
}

/// It may be anything that holds the listeners and says so in the pid file.
#[test]
fn early_quit_leaves_a_script_alone_that_has_the_pid_file() {
    for signal in [Signal::SIGQUIT, Signal::SIGTERM] {
        let mut chain = chain_with("echo $$ > {dir}/pid\nexec sleep 60");
        let new = begin(&chain);
        chain.node.signal(signal);
        ends(&mut chain);
        assert_eq!(pid_in(&chain.path("pid")), Some(new));
        assert!(!is_gone(new));
    }
}

/// Which has neither the pipe nor a status socket: the old master says that it is ready.
#[test]
fn the_command_moves_to_another_daemon_by_either_name() {
    for by in ["status.sock", "pid"] {
        let mut chain = chain_with("echo $$ > {dir}/pid\nexec sleep 60");
        let mut command = Command::new(crate::harness::binary());
        let output = command.arg("upgrade").arg(chain.path(by)).output().unwrap();
        assert!(output.status.success(), "{by}: {output:?}");
        ends(&mut chain);
        assert!(!is_gone(chain.master()));
    }
}

#[test]
fn the_sidechannel_s_shutdown_waits_for_the_successor_too() {
    let mut chain = chain_with(&format!("sleep 0.3\n{STRANGER}"));
    let mut manager = chain.node.sidechannel();
    let new = begin(&chain);
    manager.send("shutdown\r\n");
    chain.node.logs("this waits until the successor serves");
    drop(manager);
    ends(&mut chain);
    assert_eq!(chain.master(), new);
    chain.node.client().stays_open();
}

#[test]
fn early_quit_without_a_pid_file_finishes_the_move_too() {
    let mut chain = Chain::start_without_pidfile(setup());
    let options = format!("--docroot={{dir}} --httplisten={}", chain.node.http());
    chain.replace_by_script(&STRANGER.replace("\"$@\"", &options));
    let new = begin(&chain);
    chain.node.signal(Signal::SIGQUIT);
    ends(&mut chain);
    assert!(!is_gone(new));
    chain.node.client().stays_open();
    kill(new, Signal::SIGTERM).unwrap();
    until("the successor to go", || is_gone(new));
}

/// Until the successor serves, the old workers do.
#[test]
fn clients_are_served_while_a_quit_waits_for_a_slow_successor() {
    let mut chain = chain_with("sleep 1\nexec {dir}/real \"$@\"");
    let load = Load::start(&chain.node, 2);
    let new = begin(&chain);
    chain.node.signal(Signal::SIGQUIT);
    chain.node.logs("this waits until the successor serves");
    chain.node.client().stays_open();
    ends(&mut chain);
    assert_eq!(chain.master(), new);
    load.goes_on();
    load.saw_nothing();
}

#[test]
fn quit_is_obeyed_when_the_successor_it_waits_for_fails() {
    for script in ["sleep 0.3; exit 3", "sleep 0.3; exit 0", "sleep 0.3; kill -SEGV $$"] {
        let mut chain = chain_with(script);
        begin(&chain);
        chain.node.signal(Signal::SIGQUIT);
        chain.node.logs("quits, as it was told to");
        ends(&mut chain);
        assert!(!chain.path("pid").exists() && !chain.path("pid.oldbin").exists());
        assert!(TcpStream::connect(chain.node.http()).is_err());
    }
}

/// What is hung would hold the listeners for ever.
#[test]
fn successor_that_hangs_goes_with_the_old_master() {
    let mut chain = chain_with("trap '' TERM QUIT; while :; do sleep 1; done");
    let hung = begin(&chain);
    chain.node.signal(Signal::SIGQUIT);
    ends(&mut chain);
    until("the hung one to go", || is_gone(hung));
    assert!(!chain.path("pid").exists() && !chain.path("pid.oldbin").exists());
}

#[test]
fn second_termination_waits_for_no_successor() {
    let mut chain = chain_with("exec sleep 60");
    let hung = begin(&chain);
    let begun = Instant::now();
    for _ in 0..2 {
        chain.node.signal(Signal::SIGTERM);
        thread::sleep(Duration::from_millis(50));
    }
    ends(&mut chain);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    until("the hung one to go", || is_gone(hung));
}

#[test]
fn quit_to_both_ends_both() {
    let mut chain = chain_with("sleep 0.2\nexec {dir}/real \"$@\"");
    let new = begin(&chain);
    chain.node.signal(Signal::SIGQUIT);
    kill(new, Signal::SIGQUIT).unwrap();
    ends(&mut chain);
    until("both to go", || is_gone(new));
    assert!(!chain.path("pid").exists());
    // A command of the script may have the listeners for a moment more.
    until("nobody to listen", || TcpStream::connect(chain.node.http()).is_err());
}
