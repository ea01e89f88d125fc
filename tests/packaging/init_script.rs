//! The LSB init script, run for real with its paths in a temporary folder.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::{NODE, contrib, scratch, tool};
use crate::harness::{Client, until};

/// A machine with the script on it, and one node.
struct Machine {
    folder: TempDir,
    http: SocketAddr,
}

impl Machine {
    /// `None` where there is no start-stop-daemon.
    fn new() -> Option<Machine> {
        tool("start-stop-daemon")?;
        let machine = Machine { folder: scratch(), http: free_address() };
        fs::create_dir_all(machine.path("data/dev1")).unwrap();
        fs::create_dir_all(machine.path("data/dev2")).unwrap();
        machine.configure("maxconns = 100");
        machine.write(
            "defaults",
            "DAEMON={dir}/rmogstored\nCONFIG={dir}/node.conf\nPIDFILE={dir}/run/node.pid\n\
             DAEMON_USER=\nSTOP_WAIT=10\n",
        );
        machine.install(|node, place| {
            copy(node, place);
        });
        Some(machine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let text = text.replace("{dir}", self.folder.path().to_str().unwrap());
        fs::write(self.path(name), text).unwrap();
    }

    fn configure(&self, line: &str) {
        let http = self.http;
        let text = format!("docroot = {{dir}}/data\nhttplisten = {http}\nworkers = 1\n{line}\n");
        self.write("node.conf", &text);
    }

    /// Replaces the executable under its name, as a package manager does.
    fn install(&self, make: impl FnOnce(&str, &PathBuf)) {
        let new = self.path("rmogstored.new");
        make(NODE, &new);
        fs::rename(new, self.path("rmogstored")).unwrap();
    }

    /// Runs the script; its exit status and all that it and the node said.
    fn service(&self, action: &str) -> (Option<i32>, String) {
        let said = self.path("said");
        let file = fs::File::create(&said).unwrap();
        // A file: a daemon that kept a pipe open would keep the test waiting.
        let status = Command::new("/bin/sh")
            .arg(contrib("init.d/rmogstored"))
            .arg(action)
            .env("RMOGSTORED_DEFAULTS", self.path("defaults"))
            .env_remove("NOTIFY_SOCKET")
            .stdin(std::process::Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .status();
        (status.unwrap().code(), fs::read_to_string(said).unwrap())
    }

    fn does(&self, action: &str) -> String {
        let (code, text) = self.service(action);
        assert_eq!(code, Some(0), "{action}: {text}");
        text
    }

    fn fails(&self, action: &str, status: i32) -> String {
        let (code, text) = self.service(action);
        assert_eq!(code, Some(status), "{action}: {text}");
        text
    }

    fn pid(&self) -> Option<i32> {
        fs::read_to_string(self.path("run/node.pid")).ok()?.trim().parse().ok()
    }

    fn serves(&self) {
        Client::connect(self.http).get("/").expect(200);
    }
}

impl Drop for Machine {
    /// A node of a test that failed; its workers follow it.
    fn drop(&mut self) {
        for name in ["run/node.pid", "run/node.pid.oldbin"] {
            let pid = fs::read_to_string(self.path(name)).ok().and_then(|t| t.trim().parse().ok());
            // The number may have gone to another process since.
            if let Some(pid) = pid.filter(|pid: &i32| self.is_node(*pid)) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

impl Machine {
    fn is_node(&self, pid: i32) -> bool {
        let executable = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        executable.starts_with(self.folder.path())
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn is_gone(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH)
}

#[test]
fn a_stopped_node_is_reported_so() {
    let Some(machine) = Machine::new() else { return };
    machine.fails("status", 3);
    assert!(machine.does("stop").contains("does not run"));
    machine.fails("reload", 1);
    machine.fails("upgrade", 1);
    machine.does("try-restart");
    machine.fails("status", 3);
    assert!(machine.fails("nonsense", 2).starts_with("Usage: "));
}

#[test]
fn start_returns_once_the_node_serves_and_a_second_start_changes_nothing() {
    let Some(machine) = Machine::new() else { return };
    machine.does("start");
    machine.serves();
    let first = machine.pid();
    assert!(machine.does("start").contains("runs already"));
    assert_eq!(machine.pid(), first);
    machine.does("status");
    machine.does("restart");
    assert_ne!(machine.pid(), first);
    machine.serves();
    machine.does("stop");
    machine.fails("status", 3);
    assert_eq!(machine.pid(), None);
}

#[test]
fn a_node_that_cannot_start_says_why() {
    let Some(machine) = Machine::new() else { return };
    machine.configure("aio_threads = 1000");
    assert!(machine.fails("start", 1).contains("aio_threads: '1000' is not a number"));
    machine.fails("status", 3);
}

#[test]
fn a_stale_pid_file_is_seen_and_taken_over() {
    let Some(machine) = Machine::new() else { return };
    machine.does("start");
    let killed = machine.pid().unwrap();
    kill(Pid::from_raw(killed), Signal::SIGKILL).unwrap();
    until("the end of the node", || is_gone(killed));
    machine.fails("status", 1);
    machine.does("start");
    machine.serves();
    machine.does("stop");
    // The number of a process that is none of ours.
    fs::write(machine.path("run/node.pid"), format!("{}\n", std::process::id())).unwrap();
    machine.fails("status", 1);
    machine.does("stop");
    assert_eq!(machine.pid(), None);
}

#[test]
fn reload_takes_a_good_configuration_and_refuses_a_bad_one() {
    let Some(machine) = Machine::new() else { return };
    machine.does("start");
    let (pid, more) = (machine.pid(), free_address());
    machine.configure(&format!("httpgetlisten = {more}"));
    machine.does("reload");
    until("the new port", || std::net::TcpStream::connect(more).is_ok());
    machine.configure("aio_threads = 1000");
    for action in ["reload", "force-reload"] {
        assert!(machine.fails(action, 1).contains("is not a number"));
    }
    machine.serves();
    assert_eq!(machine.pid(), pid);
    machine.does("stop");
}

#[test]
fn upgrade_puts_the_new_executable_in_the_old_one_s_place() {
    let Some(machine) = Machine::new() else { return };
    machine.does("start");
    let old = machine.pid().unwrap();
    machine.install(|node, place| {
        copy(node, place);
    });
    machine.does("upgrade");
    let new = machine.pid().unwrap();
    assert_ne!(new, old);
    machine.serves();
    until("the end of the old node", || is_gone(old));
    machine.does("status");
    machine.does("stop");
    assert!(is_gone(new) || !machine.is_node(new));
}

#[test]
fn an_upgrade_that_fails_leaves_the_old_node_serving() {
    let Some(machine) = Machine::new() else { return };
    machine.does("start");
    let old = machine.pid();
    // Executable and at once at its end; put back, since it is also what start-stop-daemon
    // knows the node by.
    machine.install(|_, place| {
        copy("/bin/false", place);
    });
    let text = machine.fails("upgrade", 1);
    assert!(text.contains("carries on"), "{text}");
    assert_eq!(machine.pid(), old);
    machine.serves();
    machine.does("stop");
}

/// In a process of its own: another test's fork could keep a file open for writing that was copied
/// here, and what is written cannot be executed.
fn copy(from: &str, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status();
    assert!(copied.unwrap().success(), "cp {from}");
}
