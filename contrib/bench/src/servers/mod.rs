//! The servers that are compared: how each is configured, started and ended.

mod lighttpd;
mod nginx;
mod rmogstored;

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cpu::{Tree, as_server, favour_session};
use crate::failure::{Context, Failure, Outcome, go_on};

/// From its start until it answers, and from TERM until it has ended.
const PATIENCE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(10);

/// What can be started.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its name in the table.
    pub name: &'static str,
    /// How it is configured.
    pub kind: Kind,
    /// The executable.
    pub binary: PathBuf,
    /// What it says of itself.
    pub version: String,
    /// More words of its command line; of daemons with ours.
    pub words: Vec<String>,
}

/// How a server is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ours: learns its ports by itself and tells them.
    Rmogstored,
    /// The same command line, its ports are chosen for it.
    Cmogstored,
    /// nginx with WebDAV.
    Nginx,
    /// The same with a cache of open files.
    NginxCached,
    /// lighttpd with WebDAV.
    Lighttpd,
}

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What it serves.
    pub docroot: PathBuf,
    /// Its configuration, logs and temporary files, on the same file system.
    pub folder: PathBuf,
    /// Worker processes.
    pub workers: usize,
    /// Connections that it must be able to hold.
    pub connections: usize,
}

/// A server that answers. Dropping it ends it.
pub struct Server {
    /// Where it speaks HTTP.
    pub http: SocketAddr,
    /// Where it speaks the sidechannel.
    pub mgmt: Option<SocketAddr>,
    child: Child,
    log: PathBuf,
}

impl Kind {
    /// Is a case with or without writing something for it? What makes PUTs cheaper leaves GETs
    /// as they are, and the other way round.
    pub fn takes_part(self, writes: bool) -> bool {
        match self {
            Kind::NginxCached => !writes,
            _ => true,
        }
    }

    /// It has the sidechannel, and checks Content-MD5.
    pub fn is_storage_node(self) -> bool {
        matches!(self, Kind::Rmogstored | Kind::Cmogstored)
    }
}

impl Plan {
    /// Starts it on the servers' processor and waits until it answers.
    pub fn start(&self, settings: &Settings) -> Outcome<Server> {
        let folder = &settings.folder;
        fs::create_dir_all(folder).context(folder.display())?;
        let started = match self.kind {
            Kind::Rmogstored => rmogstored::start(self, settings),
            Kind::Cmogstored => rmogstored::start_on_chosen_ports(self, settings),
            Kind::Nginx => nginx::start(self, settings, ""),
            Kind::NginxCached => nginx::start(self, settings, nginx::OPEN_FILE_CACHE),
            Kind::Lighttpd => lighttpd::start(self, settings),
        };
        let started = started.context(format!("cannot start {}", self.name))?;
        favour_session(started.tree().0);
        Ok(started)
    }
}

impl Server {
    /// Its processes.
    pub fn tree(&self) -> Tree {
        Tree(Pid::from_raw(self.child.id() as i32))
    }

    /// The end of what it logged.
    pub fn last_words(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let tail = &log[log.len().saturating_sub(2000)..];
        String::from_utf8_lossy(tail).trim().to_owned()
    }

    /// In a session of its own: Ctrl-C is for us, who then end it in order, and no server shares
    /// with us, or with another one, what a session gets of the processors.
    fn spawn(command: &mut Command, log: PathBuf, http: SocketAddr) -> Outcome<Server> {
        let errors = File::create(&log).context(log.display())?;
        command.stdin(Stdio::null()).stderr(errors);
        let child = as_server(|| command.spawn())?.context("setsid")?;
        Ok(Server { http, mgmt: None, child, log })
    }

    /// Waits until somebody listens.
    fn wait(&mut self) -> Outcome<()> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.http).is_err() {
            self.still_runs()?;
            if Instant::now() > deadline {
                return Err(Failure::new("it does not listen"));
            }
            thread::sleep(TICK);
        }
        Ok(())
    }

    fn still_runs(&mut self) -> Outcome<()> {
        go_on()?;
        match self.child.try_wait()? {
            Some(status) => Err(Failure::new(format!("{status}: {}", self.last_words()))),
            None => Ok(()),
        }
    }

    fn ended_by(&mut self, deadline: Instant) -> bool {
        loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < deadline => thread::sleep(TICK),
                Ok(ended) => return ended.is_some(),
                Err(_) => return true,
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let processes = self.tree().processes().unwrap_or_default();
        // The second one tells a daemon of MogileFS not to wait for its clients.
        for _ in 0..2 {
            let _ = kill(self.tree().0, Signal::SIGTERM);
            if self.ended_by(Instant::now() + PATIENCE / 5) {
                return;
            }
        }
        for pid in processes {
            let _ = kill(pid, Signal::SIGKILL);
        }
        self.ended_by(Instant::now() + PATIENCE);
    }
}

/// Runs an executable in a session of its own; setsid(1) becomes it.
fn session(binary: &Path) -> Command {
    let mut command = Command::new("setsid");
    command.arg(binary);
    command
}

/// An address that nobody listens at.
fn free_address() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Where an executable is: a path is one already, a name is looked for.
pub fn find(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut candidates = std::env::split_paths(&path).chain(more).map(|dir| dir.join(program));
    candidates.find(|file| file.is_file())
}

/// The first line that a program says of itself.
pub fn version(binary: &Path, option: &str) -> String {
    let output = Command::new(binary).arg(option).stdin(Stdio::null()).output();
    let said = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned()
}
