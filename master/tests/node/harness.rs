//! Starts a node, reads what it tells, ends it.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// No wait is longer.
const DEADLINE: Duration = Duration::from_secs(20);

/// What a node is started with.
pub struct Setup {
    pub workers: &'static str,
    pub behaviour: &'static str,
    pub drain_ms: u32,
    pub listen: String,
    pub inherited: Option<String>,
    pub stdin: Stdio,
    pub devices: &'static [u32],
}

/// A running node.
pub struct Node {
    process: Child,
    pub folder: tempfile::TempDir,
    events: Receiver<Value>,
    stderr: Receiver<String>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            workers: "2",
            behaviour: "",
            drain_ms: 0,
            listen: "127.0.0.1:0".to_owned(),
            inherited: None,
            stdin: Stdio::null(),
            devices: &[],
        }
    }
}

impl Setup {
    pub fn start(self) -> Node {
        let folder = tempfile::tempdir().unwrap();
        for devid in self.devices {
            std::fs::create_dir(folder.path().join(format!("dev{devid}"))).unwrap();
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .env("NODE", "1")
            .env("NODE_WORKERS", self.workers)
            .env("NODE_WORKER", self.behaviour)
            .env("NODE_DRAIN_MS", self.drain_ms.to_string())
            .env("NODE_LISTEN", &self.listen)
            .env("NODE_DOCROOT", folder.path())
            .env_remove("CMOGSTORED_FD")
            .env_remove("NOTIFY_SOCKET")
            .stdin(self.stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(value) = &self.inherited {
            command.env("CMOGSTORED_FD", value);
        }
        let mut process = command.spawn().unwrap();
        let events = lines(process.stdout.take().unwrap(), |line| {
            serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"))
        });
        let stderr = lines(process.stderr.take().unwrap(), |line| line);
        Node { process, folder, events, stderr }
    }

    /// Starts and waits until it is ready; returns the events before that.
    pub fn ready(self) -> (Node, Vec<Value>) {
        let node = self.start();
        let before = node.until("ready").1;
        (node, before)
    }
}

impl Node {
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.id()).unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub fn event(&self) -> Value {
        self.events.recv_timeout(DEADLINE).expect("an event in time")
    }

    /// The next event of this kind, and those before it.
    pub fn until(&self, kind: &str) -> (Value, Vec<Value>) {
        let mut before = Vec::new();
        loop {
            let event = self.event();
            if event["event"] == kind {
                return (event, before);
            }
            before.push(event);
        }
    }

    /// The next line of standard error that contains this.
    pub fn says(&self, part: &str) -> String {
        loop {
            let line = self.stderr.recv_timeout(DEADLINE);
            let line = line.unwrap_or_else(|_| panic!("never said {part:?}"));
            if line.contains(part) {
                return line;
            }
        }
    }

    /// Waits for the end of all its processes: each has standard error open.
    pub fn all_gone(&self) {
        loop {
            match self.stderr.recv_timeout(DEADLINE) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => panic!("a process is left"),
            }
        }
    }

    /// Waits for the end and returns the exit status.
    pub fn ended(&mut self) -> Option<i32> {
        self.all_gone();
        self.process.wait().unwrap().code()
    }

    pub fn status(&self) -> Value {
        let mut socket = UnixStream::connect(self.socket_path()).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    pub fn socket_path(&self) -> PathBuf {
        self.folder.path().join("status")
    }

    /// States of the master's children, as /proc shows them.
    pub fn child_states(&self) -> Vec<char> {
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let stat = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        let state = |stat: String| stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        children.split_whitespace().filter_map(|pid| state(stat(pid)?)).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The process that an event speaks of.
pub fn pid_in(event: &Value) -> Pid {
    Pid::from_raw(i32::try_from(event["pid"].as_i64().unwrap()).unwrap())
}

/// The address in the first `listening` event.
pub fn address(events: &[Value]) -> SocketAddr {
    let listening = events.iter().find(|event| event["event"] == "listening").unwrap();
    listening["address"].as_str().unwrap().parse().unwrap()
}

fn lines<T: Send + 'static>(
    from: impl Read + Send + 'static,
    read: impl Fn(String) -> T + Send + 'static,
) -> Receiver<T> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send(read(line)).is_err() {
                return;
            }
        }
    });
    receiver
}
