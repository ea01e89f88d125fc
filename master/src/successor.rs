//! This process as the successor in an upgrade: what its predecessor told it, and what it tells
//! back through a pipe that it inherited. A predecessor of another program tells nothing, and
//! then there is nothing to tell back.
//!
//! The pipe carries lines: `hello` from a program that knows of it, `because TEXT` why the start
//! fails, `serving` once every worker accepts connections, `ready` when pid file and status
//! socket are its own too.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{env, fmt};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, getppid};
use rmogstored_worker::sys::socket::adopt_inherited;

use rmogstored_worker::spec::Service;

use crate::report::{STATUS_NAME, service_name};
use crate::{inherit, pidfile, sys};

/// The variable that holds the pipe's number, the successor's generation, and which descriptors
/// are listeners of a configured port 0, which their addresses do not tell:
/// `7,2,4=http@127.0.0.1:0`.
pub(crate) const VARIABLE: &str = "RMOGSTORED_SUCCESSOR";

/// In that variable: the standard error that this process is to have is its standard input, for so
/// long as it cannot speak for itself.
pub(crate) const STDERR_IS_STDIN: &str = "stderr=0";

static STATE: Mutex<State> = Mutex::new(State { pipe: None, origin: None, any_port: Vec::new() });

struct State {
    pipe: Option<File>,
    origin: Option<Origin>,
    any_port: Vec<AnyPort>,
}

/// A listener that was configured with port 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AnyPort {
    pub fd: RawFd,
    pub purpose: Purpose,
    pub wanted: SocketAddr,
}

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Workers serve a docroot there.
    Serve(Service),
    /// The monitor answers there.
    Status,
}

/// What is known of the process that this one is to succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Its process, the parent of this one.
    pub predecessor: Pid,
    /// The generation that begins with this process.
    pub generation: u32,
}

/// Takes over the pipe, if there is one. To be called first of all: what fails later can then be
/// explained to the predecessor.
pub fn begin() {
    let value = env::var(VARIABLE);
    sys::forget_variable(VARIABLE);
    if value.as_ref().is_ok_and(|value| value.split(',').any(|part| part == STDERR_IS_STDIN)) {
        take_back_stderr();
    }
    let Some((number, generation, any_port)) = value.ok().as_deref().and_then(parse) else {
        return;
    };
    if !inherit::announced() {
        return; // nobody upgrades without leaving his listeners
    }
    let Some(fd) = adopt_inherited(number) else { return };
    if fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).is_err() {
        return;
    }
    let mut state = lock();
    state.pipe = Some(File::from(fd));
    state.any_port = any_port;
    state.origin = Some(Origin { predecessor: getppid(), generation });
    drop(state);
    say("hello");
}

/// What was on its way through the predecessor goes there directly.
fn take_back_stderr() {
    if dup2_stderr(io::stdin()).is_ok()
        && let Ok(null) = File::open("/dev/null")
    {
        let _ = dup2_stdin(null); // it is never read
    }
}

/// The pipe's number.
pub(crate) fn descriptor() -> Option<RawFd> {
    lock().pipe.as_ref().map(AsRawFd::as_raw_fd)
}

/// Tells the predecessor why the start fails.
pub fn explain(reason: &str) {
    say(&format!("because {}", reason.replace('\n', "; ")));
}

/// Tells the predecessor that every worker accepts connections. Whoever sees the pid file after
/// that may end the predecessor at once, which must not take this process with it.
pub(crate) fn serves() {
    say("serving");
}

/// Tells the predecessor that it may go, and says no more.
pub(crate) fn is_ready() {
    say("ready");
    lock().pipe = None;
}

/// What is known of an inherited listener that was configured with port 0.
pub(crate) fn any_port(fd: RawFd) -> Option<AnyPort> {
    lock().any_port.iter().copied().find(|listener| listener.fd == fd)
}

/// Called in a forked worker, which has nothing to say here.
pub(crate) fn in_worker() {
    lock().pipe = None;
}

/// What this process succeeds to. A predecessor that knows no pipe is recognised by what it
/// leaves of its pid file.
pub(crate) fn origin(pidfile: Option<&Path>) -> Option<Origin> {
    let told = lock().origin;
    told.or_else(|| {
        let aside = pidfile::aside(pidfile?);
        let parent = getppid();
        let is_parent = inherit::announced() && pidfile::holder(&aside) == Some(parent.as_raw());
        is_parent.then_some(Origin { predecessor: parent, generation: 2 })
    })
}

impl Origin {
    /// True as long as the predecessor has not gone.
    pub fn lives(self) -> bool {
        getppid() == self.predecessor
    }
}

/// A pipe takes so little at once; a predecessor that is gone needs no answer.
fn say(line: &str) {
    if let Some(pipe) = &mut lock().pipe {
        let _ = pipe.write_all(format!("{line}\n").as_bytes());
    }
}

fn lock() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn parse(value: &str) -> Option<(RawFd, u32, Vec<AnyPort>)> {
    let mut parts = value.split(',');
    let (number, generation) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((number, generation, parts.filter_map(AnyPort::parse).collect()))
}

impl AnyPort {
    fn parse(text: &str) -> Option<AnyPort> {
        let (fd, rest) = text.split_once('=')?;
        let (name, wanted) = rest.split_once('@')?;
        let all = [Service::Http, Service::HttpGet, Service::Mgmt].map(Purpose::Serve);
        let mut all = all.into_iter().chain([Purpose::Status]);
        let purpose = all.find(|purpose| purpose.name() == name)?;
        Some(AnyPort { fd: fd.parse().ok()?, purpose, wanted: wanted.parse().ok()? })
    }
}

impl Purpose {
    /// One word for it.
    pub fn name(self) -> &'static str {
        match self {
            Purpose::Serve(service) => service_name(service),
            Purpose::Status => STATUS_NAME,
        }
    }
}

impl fmt::Display for AnyPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}@{}", self.fd, self.purpose.name(), self.wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_holds_the_pipe_the_generation_and_listeners_of_any_port() {
        assert_eq!(parse("7,2"), Some((7, 2, Vec::new())));
        for purpose in [Purpose::Serve(Service::Mgmt), Purpose::Status] {
            let listener = AnyPort { fd: 4, purpose, wanted: "[::1]:0".parse().unwrap() };
            assert_eq!(parse(&format!("7,2,{listener},what=ever")), Some((7, 2, vec![listener])));
        }
        for wrong in ["", "7", "7,", ",2", "7,-1", "x,2"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn without_a_pipe_nothing_is_said() {
        explain("nobody listens");
        serves();
        is_ready();
    }
}
