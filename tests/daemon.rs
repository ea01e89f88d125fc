//! `--daemonize`: the command returns when the node serves, or says why it never will; systemd.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::chain::{Chain, is_gone, pid_in};
use crate::harness::{DEADLINE, Setup, binary, until, until_some};

/// A detached node, ended when dropped.
struct Daemon(Pid);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGTERM);
        until("the daemon to go", || is_gone(self.0));
    }
}

fn status(folder: &Path) -> Value {
    use std::io::Read;
    let mut text = String::new();
    let socket = std::os::unix::net::UnixStream::connect(folder.join("status.sock"));
    socket.unwrap().read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn command_returns_0_once_every_worker_serves_and_the_pid_file_is_there() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().to_str().unwrap();
    fs::create_dir(keep.path().join("dev1")).unwrap();
    let args = [
        "--daemonize".to_owned(),
        format!("--docroot={dir}"),
        "--httplisten=127.0.0.1:0".to_owned(),
        format!("--pidfile={dir}/pid"),
        format!("--status-socket={dir}/status.sock"),
    ];
    let run = || Command::new(binary()).args(&args).stdin(Stdio::null()).output().unwrap();
    let ended = run();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let daemon = Daemon(pid_in(&keep.path().join("pid")).unwrap());
    let status = status(keep.path());
    assert_eq!(status["pid"], daemon.0.as_raw());
    assert_eq!(status["state"], "running");
    let workers = status["workers"].as_array().unwrap();
    assert!(workers.iter().all(|worker| worker["state"] == "running"), "{status}");
    let ended = run();
    assert_eq!(ended.status.code(), Some(1));
    let expected = format!("already running on PID: {}", daemon.0);
    assert!(String::from_utf8_lossy(&ended.stderr).contains(&expected), "{ended:?}");
    // The successor of a daemon does not detach again: it would not be found.
    kill(daemon.0, Signal::SIGUSR2).unwrap();
    let new = until_some("a successor", || {
        pid_in(&keep.path().join("pid")).filter(|pid| *pid != daemon.0)
    });
    let new = Daemon(new);
    drop(daemon);
    assert!(!is_gone(new.0));
    assert_eq!(pid_in(&keep.path().join("pid")), Some(new.0));
}

#[test]
fn command_returns_1_with_the_reason_when_the_node_cannot_serve() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let setup = Setup::bare().arg("-d").arg("--docroot={dir}").arg("--pidfile={dir}/pid");
    let ended = setup.arg(&format!("--httplisten={address}")).run();
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains(&format!("cannot listen on {address}")), "{ended:?}");
}

#[test]
fn systemd_is_told_of_start_reload_upgrade_and_stop() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(DEADLINE)).unwrap();
    let next = || loop {
        let mut text = [0; 256];
        let length = systemd.recv(&mut text).expect("a message in time");
        let text = String::from_utf8_lossy(&text[..length]).into_owned();
        if text != "WATCHDOG=1" {
            return text;
        }
    };
    let setup = Setup::new().env("NOTIFY_SOCKET", path.to_str().unwrap());
    let mut chain = Chain::start(setup);
    let main = |pid: Pid| format!("READY=1\nMAINPID={pid}");
    assert_eq!(next(), main(chain.node.pid()));
    chain.node.signal(Signal::SIGHUP);
    assert!(next().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(next(), main(chain.node.pid()));
    let (old, new) = chain.begin_upgrade();
    assert_eq!(next(), main(new));
    kill(new, Signal::SIGQUIT).unwrap();
    assert_eq!(next(), main(old), "rolled back, without a word of stopping");
    let (_, new) = chain.begin_upgrade();
    assert_eq!(next(), main(new));
    chain.node.signal(Signal::SIGQUIT);
    assert_eq!(next(), format!("MAINPID={new}"), "it may be listened to alone");
    chain.node.wait_for_exit();
    until("the old master's leavings to go", || !chain.path("status.sock.old").exists());
    kill(new, Signal::SIGQUIT).unwrap();
    assert_eq!(next(), "STOPPING=1", "from the last one only");
}

#[test]
fn watchdog_is_fed_while_every_worker_moves() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(DEADLINE)).unwrap();
    let setup = Setup::new().workers("2").env("NOTIFY_SOCKET", path.to_str().unwrap());
    let node = setup.env("WATCHDOG_USEC", "300000").start();
    let fed = || {
        let mut text = [0; 64];
        systemd.recv(&mut text).map(|length| text[..length].to_vec())
    };
    until("food", || fed().unwrap() == b"WATCHDOG=1");
    let victim = node.workers()[1];
    kill(victim, Signal::SIGSTOP).unwrap();
    node.event("worker_stuck");
    systemd.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    while fed().is_ok() {}
    kill(victim, Signal::SIGCONT).unwrap();
    node.event("worker_alive");
    systemd.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(fed().unwrap(), b"WATCHDOG=1");
}
