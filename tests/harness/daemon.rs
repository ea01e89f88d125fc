//! The real binary at work: its ports, learned from the status pipe, what it says, and its end.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::client::{Answer, Client};
use super::setup::Setup;
use super::wait::{Lines, until_some};

/// A node that has reported ready. Dropping it ends it.
pub struct Node {
    child: Child,
    status: Option<ExitStatus>,
    listening: Vec<(String, SocketAddr)>,
    /// The status pipe.
    pub events: Lines,
    /// What it wrote to stderr, and to stdout.
    pub stderr: Lines,
    folder: TempDir,
}

impl Node {
    /// The node that most tests use.
    pub fn start() -> Node {
        Setup::new().start()
    }

    /// Gathers what a daemon says that was just started, and waits until it is ready.
    pub(super) fn watch(mut child: Child, folder: TempDir) -> Node {
        let events = Lines::gather(child.stdout.take().expect("piped"));
        let stderr = Lines::gather(child.stderr.take().expect("piped"));
        let mut node = Node { child, status: None, listening: Vec::new(), events, stderr, folder };
        node.event("ready");
        node.listening = node.all_events("listening").iter().filter_map(listener).collect();
        node
    }

    /// The master's process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Where HTTP is spoken.
    pub fn http(&self) -> SocketAddr {
        self.address("http")
    }

    /// The first listener of a service: `http`, `httpget`, `mgmt`.
    pub fn address(&self, service: &str) -> SocketAddr {
        let found = self.listening.iter().find(|(name, _)| name == service);
        found.unwrap_or_else(|| panic!("no {service} among {:?}", self.listening)).1
    }

    /// A new HTTP connection.
    pub fn client(&self) -> Client {
        Client::connect(self.http())
    }

    /// A new sidechannel connection.
    pub fn sidechannel(&self) -> Client {
        Client::connect(self.address("mgmt"))
    }

    /// The docroot.
    pub fn docroot(&self) -> &Path {
        self.folder.path()
    }

    /// The file behind a URL path.
    pub fn file(&self, path: &str) -> PathBuf {
        self.docroot().join(path.trim_start_matches('/'))
    }

    /// Writes a file behind the node's back, folders and all.
    pub fn store(&self, path: &str, content: impl AsRef<[u8]>) {
        let file = self.file(path);
        fs::create_dir_all(file.parent().expect("below the docroot")).expect("a new folder");
        fs::write(file, content).expect("a new file");
    }

    /// Reads a file behind the node's back.
    pub fn content(&self, path: &str) -> Vec<u8> {
        let file = self.file(path);
        fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    }

    /// Sends one request on a connection of its own and insists that the answer has this status,
    /// announces a close, and is followed by one.
    pub fn closes_after(&self, request: impl AsRef<[u8]>, status: u16) -> Answer {
        let mut client = self.client();
        client.try_send(request);
        let answer = client.answer().expect_and(status, "close");
        client.closes();
        answer
    }

    /// Sends one request on a connection of its own and insists that the answer has this status,
    /// and that the next request on the connection is served.
    pub fn stays_after(&self, request: impl AsRef<[u8]>, status: u16) -> Answer {
        let mut client = self.client();
        client.send(request);
        let answer = client.answer().expect_and(status, "keep-alive");
        client.stays_open();
        answer
    }

    /// Waits for the first event of a kind.
    pub fn event(&self, kind: &str) -> Value {
        self.event_after(0, kind)
    }

    /// Waits for the first event of a kind past the first `skip` lines of the status pipe.
    pub fn event_after(&self, skip: usize, kind: &str) -> Value {
        let found = self.events.look(skip, kind, |line| event_of_kind(line, kind));
        found.unwrap_or_else(|| {
            let (events, stderr) = (self.events.so_far(), joined(&self.stderr.so_far()));
            panic!("no event {kind} in {events:#?}, stderr:\n{stderr}")
        })
    }

    /// The events of a kind so far.
    pub fn all_events(&self, kind: &str) -> Vec<Value> {
        self.events.so_far().iter().filter_map(|line| event_of_kind(line, kind)).collect()
    }

    /// Waits for a line on stderr that contains `text`.
    pub fn logs(&self, text: &str) -> String {
        self.stderr.find(text, |line| line.contains(text).then(|| line.to_owned()))
    }

    /// How many lines of the log so far contain the text.
    pub fn logged(&self, text: &str) -> usize {
        self.stderr.so_far().iter().filter(|line| line.contains(text)).count()
    }

    /// The status socket's document.
    pub fn status(&self) -> Value {
        let mut text = String::new();
        let socket = UnixStream::connect(self.docroot().join("status.sock"));
        socket.and_then(|mut socket| socket.read_to_string(&mut text)).expect("a status document");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// The process ids of the workers that serve.
    pub fn workers(&self) -> Vec<Pid> {
        let status = self.status();
        let workers = status["workers"].as_array().expect("a list");
        let pids = workers.iter().filter_map(|worker| worker["pid"].as_i64());
        pids.filter(|pid| *pid > 0).map(|pid| Pid::from_raw(pid as i32)).collect()
    }

    /// Sends the master a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the master is a child that was not reaped");
    }

    /// Waits until the node has ended by itself.
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        let status = wait_for_exit(&mut self.child, super::DEADLINE).expect("the node ends");
        self.status = Some(status);
        status
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.status.is_none() {
            terminate(&mut self.child);
        }
        if std::thread::panicking() {
            eprintln!("--- events\n{}", joined(&self.events.so_far()));
            eprintln!("--- stderr\n{}---", joined(&self.stderr.so_far()));
        }
    }
}

/// The daemon under test: this package's, or another one that is to be compared with it.
pub fn binary() -> OsString {
    std::env::var_os("RMOGSTORED_UNDER_TEST")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_rmogstored").into())
}

fn event_of_kind(line: &str, kind: &str) -> Option<Value> {
    let event: Value =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in event {line:?}"));
    (event["event"] == kind).then_some(event)
}

fn listener(event: &Value) -> Option<(String, SocketAddr)> {
    let service = event["service"].as_str()?.to_owned();
    Some((service, event["address"].as_str()?.parse().ok()?))
}

/// Asks twice, as an impatient operator would, then insists.
pub(super) fn terminate(child: &mut Child) {
    let pid = Pid::from_raw(child.id().cast_signed());
    for (signal, patience) in
        [(Signal::SIGTERM, 200), (Signal::SIGTERM, 2000), (Signal::SIGKILL, 5000)]
    {
        // A failure means that it is gone, which the wait will tell.
        let _ = kill(pid, signal);
        if wait_for_exit(child, Duration::from_millis(patience)).is_some() {
            return;
        }
    }
    eprintln!("process {pid} does not end");
}

pub(super) fn wait_for_exit(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let begun = Instant::now();
    until_some("the end of a process", || match child.try_wait() {
        Ok(None) if begun.elapsed() < patience => None,
        Ok(status) => Some(status),
        Err(error) => panic!("cannot wait: {error}"),
    })
}

pub(super) fn joined(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}
