//! Starting the real binary, learning its ports from the status pipe, and ending it.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::client::{Answer, Client};
use super::wait::{Lines, until_some};

/// Descriptor number that a socket given to [`Setup::inherit`] has in the daemon.
pub const INHERITED_FD: &str = "3";
/// What makes a daemon of [`Setup::bare`] report to the status pipe.
pub const STATUS_FD: &str = "--status-fd=9";
/// The shell sets limits, mounts and descriptors, then becomes the daemon: same process id.
const BECOME_NODE: &str = "exec \"$0\" \"$@\" 9>&1 1>&2 3<&0 </dev/null";
/// As above, with the standard output left to the command.
const BECOME_COMMAND: &str = "exec \"$0\" \"$@\" 9>&1 3<&0 </dev/null";
/// Variables of the surroundings that would change what the daemon does.
const NOT_PASSED_ON: [&str; 7] = [
    "CMOGSTORED_FD",
    "RMOGSTORED_LEGACY",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "MOG_IOSTAT_CMD",
    "MOG_DISK_USAGE_INTERVAL",
];

/// What to start. Its folder exists from the beginning and holds `dev1`, `dev2`.
pub struct Setup {
    folder: TempDir,
    bare: bool,
    http: String,
    args: Vec<OsString>,
    env: Vec<(String, String)>,
    shell: Vec<String>,
    prefix: Vec<String>,
    inherited: Option<OwnedFd>,
}

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

/// What a command that ended by itself left behind.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status; `None` when a signal ended it.
    pub code: Option<i32>,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Setup {
    /// Two devices, both listeners on free ports of 127.0.0.1.
    pub fn new() -> Setup {
        let folder = tempfile::Builder::new().prefix("rmogstored-").tempdir();
        let setup = Setup {
            folder: folder.expect("the temporary folder is writable"),
            bare: false,
            http: "127.0.0.1:0".to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            shell: Vec::new(),
            prefix: Vec::new(),
            inherited: None,
        };
        setup.devices(2)
    }

    /// A folder as ever, but nothing on the command line except what the test gives.
    pub fn bare() -> Setup {
        Setup { bare: true, ..Setup::new() }
    }

    /// Makes the docroot have so many devices, at least.
    pub fn devices(self, count: usize) -> Setup {
        for device in 1..=count {
            fs::create_dir_all(self.folder().join(format!("dev{device}"))).expect("a new folder");
        }
        self
    }

    /// The docroot unless the test says otherwise.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Adds an argument; `{dir}` in it stands for the folder.
    pub fn arg(mut self, arg: &str) -> Setup {
        self.args.push(self.filled(arg).into());
        self
    }

    /// `--workers`: `device`, `cpu` or a number.
    pub fn workers(self, mode: &str) -> Setup {
        self.arg(&format!("--workers={mode}"))
    }

    /// Where HTTP is to be spoken, instead of on a free port.
    pub fn http(mut self, address: &str) -> Setup {
        self.http = address.to_owned();
        self
    }

    /// Writes a configuration file and passes it; `{dir}` in it stands for the folder.
    pub fn config(self, text: &str) -> Setup {
        self.config_named("node.conf", text)
    }

    /// As [`Setup::config`], for more than one file.
    pub fn config_named(self, name: &str, text: &str) -> Setup {
        fs::write(self.folder().join(name), self.filled(text)).expect("a new file");
        self.arg(&format!("--config={{dir}}/{name}"))
    }

    /// Sets a variable of the environment; `{dir}` in it stands for the folder.
    pub fn env(mut self, key: &str, value: &str) -> Setup {
        self.env.push((key.to_owned(), self.filled(value)));
        self
    }

    /// Runs a line of shell just before the daemon, in the process that it will be:
    /// `ulimit -n 20`, `umask 027`; `{dir}` in it stands for the folder.
    pub fn shell(mut self, line: &str) -> Setup {
        self.shell.push(self.filled(line));
        self
    }

    /// Runs a line of shell as [`Setup::shell`], with a mount namespace of the daemon's own.
    /// Needs root: see [`can_mount`].
    pub fn mount(mut self, line: &str) -> Setup {
        self.prefix = words(&["unshare", "-m"]);
        self.shell(line)
    }

    /// Takes from a daemon run by root what lets root pass over file modes.
    pub fn without_privilege(mut self) -> Setup {
        if nix::unistd::geteuid().is_root() {
            self.prefix = words(&["setpriv", "--bounding-set=-dac_override,-dac_read_search"]);
        }
        self
    }

    /// Runs the daemon in a sandbox that answers these system calls, by number, with an error.
    /// Needs python3: see [`has_python`].
    pub fn refused(mut self, calls: &[i64], errno: i32) -> Setup {
        let calls: Vec<String> = calls.iter().map(i64::to_string).collect();
        let filter = include_str!("sandbox.py");
        self.prefix = words(&["python3", "-c", filter, &errno.to_string(), &calls.join(",")]);
        self
    }

    /// Runs the daemon through a command that becomes what follows it.
    pub fn through(mut self, command: &[&str]) -> Setup {
        self.prefix = words(command);
        self
    }

    /// Gives the daemon a descriptor, which it finds under the number [`INHERITED_FD`].
    pub fn inherit(mut self, fd: impl Into<OwnedFd>) -> Setup {
        self.inherited = Some(fd.into());
        self
    }

    /// Starts the node and waits until it is ready.
    pub fn start(mut self) -> Node {
        let mut child = self.command(BECOME_NODE).spawn().expect("sh is there");
        drop(self.inherited.take());
        let events = Lines::gather(child.stdout.take().expect("piped"));
        let stderr = Lines::gather(child.stderr.take().expect("piped"));
        let folder = self.folder;
        let mut node = Node { child, status: None, listening: Vec::new(), events, stderr, folder };
        node.event("ready");
        node.listening = node.all_events("listening").iter().filter_map(listener).collect();
        node
    }

    /// Runs the command until it ends by itself.
    pub fn run(mut self) -> Ended {
        let mut child = self.command(BECOME_COMMAND).spawn().expect("sh is there");
        drop(self.inherited.take());
        let stdout = Lines::gather(child.stdout.take().expect("piped"));
        let stderr = Lines::gather(child.stderr.take().expect("piped"));
        let begun = Instant::now();
        let status = wait_for_exit(&mut child, Duration::from_secs(10)).unwrap_or_else(|| {
            terminate(&mut child);
            panic!("still running after {:?}: {:#?}", begun.elapsed(), stderr.so_far());
        });
        let (stdout, stderr) = (joined(&stdout.until_end()), joined(&stderr.until_end()));
        Ended { code: status.code(), stdout, stderr }
    }

    fn command(&self, last: &str) -> Command {
        let script = [self.shell.join("\n"), last.to_owned()].join("\n");
        let words = [&self.prefix[..], &words(&["sh", "-ec", &script])].concat();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(binary()).args(self.defaults()).args(&self.args);
        for key in NOT_PASSED_ON {
            command.env_remove(key);
        }
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command.stdin(self.standard_input()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn defaults(&self) -> Vec<String> {
        let http = format!("--httplisten={}", self.http);
        let defaults = [
            "--docroot={dir}",
            &http,
            "--mgmtlisten=127.0.0.1:0",
            STATUS_FD,
            "--status-socket={dir}/status.sock",
        ];
        let wanted = if self.bare { &[][..] } else { &defaults[..] };
        wanted.iter().map(|arg| self.filled(arg)).collect()
    }

    fn standard_input(&self) -> Stdio {
        match &self.inherited {
            Some(fd) => fd.try_clone().expect("descriptors are left").into(),
            None => Stdio::null(),
        }
    }

    fn filled(&self, text: &str) -> String {
        text.replace("{dir}", self.folder().to_str().expect("temporary folders have plain names"))
    }
}

impl Node {
    /// The node that most tests use.
    pub fn start() -> Node {
        Setup::new().start()
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

/// Whether this process may make mount namespaces and mounts in them.
pub fn can_mount() -> bool {
    let script = ["-m", "sh", "-c", "mount -t tmpfs none /mnt"];
    Command::new("unshare").args(script).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// Whether [`Setup::refused`] can be done.
pub fn has_python() -> bool {
    let mut python = Command::new("python3");
    python.args(["-c", "import ctypes"]).stderr(Stdio::null());
    python.status().is_ok_and(|status| status.success())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
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
fn terminate(child: &mut Child) {
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

fn wait_for_exit(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let begun = Instant::now();
    until_some("the end of a process", || match child.try_wait() {
        Ok(None) if begun.elapsed() < patience => None,
        Ok(status) => Some(status),
        Err(error) => panic!("cannot wait: {error}"),
    })
}

fn joined(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}
