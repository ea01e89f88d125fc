//! What to start and how: arguments, variables, limits, mounts.

use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::daemon::{Node, binary, joined, terminate, wait_for_exit};
use super::wait::Lines;

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
        let child = self.command(BECOME_NODE).spawn().expect("sh is there");
        drop(self.inherited.take());
        Node::watch(child, self.folder)
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

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Whether [`Setup::refused`] can be done.
pub fn has_python() -> bool {
    let mut python = Command::new("python3");
    python.args(["-c", "import ctypes"]).stderr(Stdio::null());
    python.status().is_ok_and(|status| status.success())
}

/// Whether this process may make mount namespaces and mounts in them.
pub fn can_mount() -> bool {
    let script = ["-m", "sh", "-c", "mount -t tmpfs none /mnt"];
    Command::new("unshare").args(script).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}
