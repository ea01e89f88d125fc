//! A node and its successors: what the tests of upgrades and commands share.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::{DEADLINE, Node, Setup, pattern, until, until_some};

/// The executable is a copy of the test's own, so that a test may replace it.
const BECOME_COPY: &str = "ln \"$0\" {dir}/rmogstored 2>/dev/null || cp \"$0\" {dir}/rmogstored\n\
     exec {dir}/rmogstored \"$@\" 9>&1 1>&2 3<&0 </dev/null";

/// A node with a pid file. Dropping it ends all masters.
pub struct Chain {
    /// The first master, and what all of them write.
    pub node: Node,
}

impl Chain {
    /// Starts a node that can be upgraded.
    pub fn start(setup: Setup) -> Chain {
        Chain::start_without_pidfile(setup.arg("--pidfile={dir}/pid"))
    }

    /// As [`Chain::start`]; who starts successors must end them.
    pub fn start_without_pidfile(setup: Setup) -> Chain {
        Chain { node: setup.shell(BECOME_COPY).start() }
    }

    /// A file of the test's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.node.docroot().join(name)
    }

    /// The master that the pid file names.
    pub fn master(&self) -> Pid {
        until_some("a pid file", || pid_in(&self.path("pid")))
    }

    /// The number of events so far, for [`Node::event_after`].
    pub fn seen(&self) -> usize {
        self.node.events.so_far().len()
    }

    /// USR2 to the current master; waits until the successor is ready.
    pub fn begin_upgrade(&self) -> (Pid, Pid) {
        let (seen, old) = (self.seen(), self.master());
        kill(old, Signal::SIGUSR2).unwrap();
        let ready = self.node.event_after(seen, "upgrade_ready");
        (old, Pid::from_raw(ready["pid"].as_i64().unwrap() as i32))
    }

    /// A whole upgrade.
    pub fn upgrade(&self) -> Pid {
        let (old, new) = self.begin_upgrade();
        kill(old, Signal::SIGQUIT).unwrap();
        until("the old master to go", || is_gone(old));
        assert_eq!(self.master(), new);
        new
    }

    /// USR2 that fails; the event that says why.
    pub fn failed_upgrade(&self) -> Value {
        let seen = self.seen();
        kill(self.master(), Signal::SIGUSR2).unwrap();
        self.node.event_after(seen, "upgrade_failed")
    }

    /// Puts a program in the executable's place, as a package manager would.
    pub fn replace_executable(&self, content: impl AsRef<[u8]>, mode: u32) {
        let fresh = self.path("rmogstored.new");
        fs::write(&fresh, content).unwrap();
        fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(fresh, self.path("rmogstored")).unwrap();
    }

    /// A script in the executable's place; `{dir}` stands for the folder, and the real program
    /// is `{dir}/real`.
    pub fn replace_by_script(&self, script: &str) {
        let real = self.path("real");
        if !real.exists() {
            fs::hard_link(self.path("rmogstored"), real).unwrap();
        }
        let dir = self.node.docroot().to_str().unwrap();
        self.replace_executable(format!("#!/bin/sh\n{}\n", script.replace("{dir}", dir)), 0o755);
    }

    /// Builds a library that ends each worker `rmogstored-wN` of `which` at its first step while
    /// the file `{dir}/die` exists. `None`: no compiler here.
    pub fn deadly_library(folder: &Path, which: &str) -> Option<PathBuf> {
        let (source, library) = (folder.join("deadly.c"), folder.join("deadly.so"));
        let flag = folder.join("die");
        let code = format!(
            "#include <signal.h>\n#include <string.h>\n#include <unistd.h>\n#include <sys/prctl.h>\n\
             int prctl(int what, ...) {{\n\
             __builtin_va_list list; __builtin_va_start(list, what);\n\
             const char *name = __builtin_va_arg(list, const char *);\n\
             if (what == PR_SET_NAME && !strncmp(name, \"{which}\", {len}) && !access(\"{flag}\", F_OK))\n\
             kill(getpid(), SIGKILL);\n\
             return 0; }}\n",
            len = which.len(),
            flag = flag.display()
        );
        fs::write(&source, code).unwrap();
        let mut build = Command::new("cc");
        build.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
        build.status().is_ok_and(|status| status.success()).then_some(library)
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        for name in ["pid.oldbin", "pid"] {
            let Some(pid) = pid_in(&self.path(name)) else { continue };
            for signal in [Signal::SIGTERM, Signal::SIGTERM, Signal::SIGKILL] {
                if is_gone(pid) || kill(pid, signal).is_err() {
                    break;
                }
                thread::sleep(std::time::Duration::from_millis(50));
            }
        }
    }
}

/// The pid that a file holds.
pub fn pid_in(path: &Path) -> Option<Pid> {
    fs::read_to_string(path).ok()?.trim().parse().ok().map(Pid::from_raw)
}

/// True for a process that has ended, reaped or not.
pub fn is_gone(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_err() || stat.is_ok_and(|s| s.rsplit(')').next().unwrap_or("").starts_with(" Z"))
}

/// Clients that store and fetch without a pause, and reconnect when they are told to.
pub struct Load {
    stop: Arc<AtomicBool>,
    /// Requests answered well.
    pub answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// So many clients, half of them storing.
    pub fn start(node: &Node, clients: usize) -> Load {
        node.store("/dev1/load", pattern(200_000));
        let (stop, answered) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let client = |number| {
            let (address, stop, answered) = (node.http(), stop.clone(), answered.clone());
            thread::spawn(move || run_client(number, address, &stop, &answered))
        };
        let clients = (0..clients).map(client).collect();
        Load { stop, answered, clients }
    }

    /// Waits until some more requests were answered.
    pub fn goes_on(&self) {
        let so_far = self.answered.load(Ordering::Relaxed);
        until("more answers", || self.answered.load(Ordering::Relaxed) > so_far + 20);
    }

    /// Ends it; everything that went wrong.
    pub fn failures(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    }

    /// Ends it and insists that nothing went wrong.
    pub fn saw_nothing(self) -> usize {
        let answered = self.answered.clone();
        let failures = self.failures();
        let first = &failures[..failures.len().min(5)];
        assert!(failures.is_empty(), "{} failures, the first are {first:#?}", failures.len());
        answered.load(Ordering::Relaxed)
    }
}

fn run_client(
    number: usize,
    address: SocketAddr,
    stop: &AtomicBool,
    answered: &AtomicUsize,
) -> Vec<String> {
    let (fetched, mut failures, mut connection) = (pattern(200_000), Vec::new(), None);
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let stored = round.to_string().repeat(1 + number * 100);
        let (request, status, body) = match (number + round) % 2 {
            0 => ("GET /dev1/load HTTP/1.1\r\n\r\n".to_owned(), 200, fetched.as_slice()),
            _ => (
                format!(
                    "PUT /dev{}/c{number} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{stored}",
                    1 + round % 2,
                    stored.len()
                ),
                201,
                &[][..],
            ),
        };
        match exchange(&mut connection, address, request.as_bytes(), status, body) {
            Ok(()) => drop(answered.fetch_add(1, Ordering::Relaxed)),
            Err(e) => {
                connection = None;
                failures.push(format!("client {number}, request {round}: {e}"));
            }
        }
    }
    failures
}

fn exchange(
    connection: &mut Option<TcpStream>,
    address: SocketAddr,
    request: &[u8],
    status: u16,
    body: &[u8],
) -> io::Result<()> {
    let stream = match connection {
        Some(stream) => stream,
        None => connection.insert(TcpStream::connect(address)?),
    };
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    let mut piece = [0; 65536];
    let head = loop {
        if let Some(end) = answer.windows(4).position(|part| part == b"\r\n\r\n") {
            break end + 4;
        }
        receive(stream, &mut piece, &mut answer)?;
    };
    while answer.len() < head + body.len() {
        receive(stream, &mut piece, &mut answer)?;
    }
    let text = String::from_utf8_lossy(&answer[..head]).into_owned();
    if !text.starts_with(&format!("HTTP/1.1 {status} ")) || &answer[head..] != body {
        return Err(io::Error::other(format!("wrong answer: {text}")));
    }
    if text.contains("Connection: close") {
        *connection = None;
    }
    Ok(())
}

fn receive(stream: &mut TcpStream, piece: &mut [u8], answer: &mut Vec<u8>) -> io::Result<()> {
    match stream.read(piece)? {
        0 => Err(io::Error::new(ErrorKind::UnexpectedEof, "closed before the answer's end")),
        len => {
            answer.extend(&piece[..len]);
            Ok(())
        }
    }
}
