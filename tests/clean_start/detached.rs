//! A daemon that goes its own way, in a folder of the test's own.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::chain::{is_gone, pid_in};
use crate::harness::{Client, binary, fid_path, until};

/// A daemon of a test's own folder, ended when dropped.
pub(super) struct Detached {
    pub(super) folder: tempfile::TempDir,
}

impl Detached {
    pub(super) fn folder() -> Detached {
        let folder = tempfile::tempdir().unwrap();
        for device in ["dev1", "dev2"] {
            fs::create_dir(folder.path().join(device)).unwrap();
        }
        Detached { folder }
    }

    pub(super) fn dir(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    pub(super) fn filled(&self, text: &str) -> String {
        text.replace("{dir}", self.dir())
    }

    /// The options of a node in this folder.
    pub(super) fn options(&self) -> [String; 5] {
        [
            "--docroot={dir}",
            "--httplisten=127.0.0.1:0",
            "--mgmtlisten=127.0.0.1:0",
            "--pidfile={dir}/pid",
            "--status-socket={dir}/status.sock",
        ]
        .map(|option| self.filled(option))
    }

    /// Runs a script in which `"$0" "$@"` is the node, through these words.
    pub(super) fn command(&self, words: &[&str], script: &str) -> Command {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(self.filled(script)).arg(binary()).args(self.options());
        command.stdin(Stdio::null());
        command
    }

    pub(super) fn pid(&self) -> Option<Pid> {
        pid_in(&self.folder.path().join("pid"))
    }

    pub(super) fn status(&self) -> Value {
        let mut text = String::new();
        let socket = UnixStream::connect(self.folder.path().join("status.sock"));
        socket.unwrap().read_to_string(&mut text).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    pub(super) fn address(&self, service: &str) -> SocketAddr {
        let status = self.status();
        let listeners = status["listeners"].as_array().unwrap();
        let found = listeners.iter().find(|listener| listener["service"] == service).unwrap();
        found["address"].as_str().unwrap().parse().unwrap()
    }

    /// Stores, fetches and deletes; size and digest too.
    pub(super) fn serves(&self) {
        let path = fid_path(1, 7);
        let mut client = Client::connect(self.address("http"));
        client.put(&path, "hello").expect(201);
        assert_eq!(client.get(&path).expect(200).body, b"hello");
        let mut side = Client::connect(self.address("mgmt"));
        side.send(format!("size {path}\r\n"));
        assert_eq!(side.line(), format!("{path} 5\r\n"));
        client.delete(&path).expect(204);
    }

    /// USR2, and QUIT to the old master once the new one has the pid file.
    pub(super) fn upgrade(&self) {
        let old = self.pid().unwrap();
        kill(old, Signal::SIGUSR2).unwrap();
        until("a successor", || self.pid().is_some_and(|pid| pid != old));
        let ready = || self.status()["pid"] == self.pid().map_or(0, Pid::as_raw);
        until("the status socket to be its own", ready);
        kill(old, Signal::SIGQUIT).unwrap();
        until("the old master to go", || is_gone(old));
    }

    pub(super) fn quit(&self) {
        let pid = self.pid().unwrap();
        kill(pid, Signal::SIGQUIT).unwrap();
        until("the node to go", || is_gone(pid));
        assert!(!self.folder.path().join("pid").exists(), "it did not end in order");
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        for signal in [Signal::SIGTERM, Signal::SIGTERM, Signal::SIGKILL] {
            let Some(pid) = self.pid().filter(|pid| !is_gone(*pid)) else { return };
            let _ = kill(pid, signal);
            let begun = Instant::now();
            while !is_gone(pid) && begun.elapsed() < Duration::from_secs(3) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}
