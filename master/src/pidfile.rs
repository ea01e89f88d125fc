//! The pid file: `PID\n`, one live owner, removed by nobody else.
//!
//! The owner holds a lock on it, fcntl(2)'s own, which no child inherits and which tells whose it
//! is: the number in the file alone may be anybody's by now. Such a lock is gone when its owner
//! closes any descriptor of that file: it must not open the file again.
//!
//! No `Drop`: a forked child that drops its copy of a [`Pidfile`] must not remove the master's.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::{fmt, process};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::unistd::Pid;

use crate::process::{Process, Stranger, has_ended, judge, number_inside};

#[cfg(test)]
mod tests;

/// More than any pid has, and more than is read.
const LONGEST: u64 = 32;

/// A pid file that holds the pid of this process.
#[derive(Debug)]
pub struct Pidfile {
    path: PathBuf,
    pid: u32,
    /// It has its other name, for an upgrade.
    is_aside: Cell<bool>,
    /// Holds the lock.
    _locked: Option<File>,
}

/// Why there is no pid file.
#[derive(Debug)]
pub enum PidfileError {
    /// Its process lives.
    Running(i32),
    /// It holds something that no daemon wrote there; it might be anything.
    Foreign(PathBuf),
    /// A system call failed.
    Io(PathBuf, io::Error),
}

impl fmt::Display for PidfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running(pid) => write!(f, "already running on PID: {pid}"),
            Self::Foreign(path) => {
                write!(f, "pidfile={} holds something else than a PID", path.display())
            }
            Self::Io(path, error) => write!(f, "pidfile={}: {error}", path.display()),
        }
    }
}

impl std::error::Error for PidfileError {}

impl Pidfile {
    /// Writes this process's pid there, taking over a stale or empty file.
    pub fn create(path: &Path) -> Result<Self, PidfileError> {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let failed = |error| PidfileError::Io(path.clone(), error);
        let mut file = open(&path).map_err(failed)?;
        let content = content(&mut file).map_err(failed)?;
        match owner(&content) {
            Ok(Some(pid)) if lives(pid) || lock_holder(&file).is_some() => {
                return Err(PidfileError::Running(pid));
            }
            Ok(_) => {}
            Err(Foreign) => return Err(PidfileError::Foreign(path)),
        }
        let pid = process::id();
        overwrite(&mut file, pid).map_err(failed)?;
        lock(&file);
        let _locked = file.unlock().ok();
        Ok(Self { path, pid, is_aside: Cell::new(false), _locked })
    }

    /// Fails as [`Pidfile::create`] would, but leaves the file as it is.
    pub fn check(path: &Path) -> Result<(), PidfileError> {
        let Ok(mut file) = read_only(path) else { return Ok(()) };
        match content(&mut file).map(|content| owner(&content)) {
            Ok(Ok(Some(pid))) if lives(pid) || lock_holder(&file).is_some() => {
                Err(PidfileError::Running(pid))
            }
            _ => Ok(()),
        }
    }

    /// Makes room for a successor's: renames it to `PIDFILE.oldbin`. Only a node that lives keeps
    /// that name to itself.
    pub fn set_aside(&self) -> Result<(), PidfileError> {
        let aside = aside(&self.path);
        match node(&aside) {
            Ok(Process { pid, .. }) => return Err(PidfileError::Running(pid.as_raw())),
            Err(NoNode::Unseen(pid)) => return Err(PidfileError::Running(pid)),
            Err(_) => {}
        }
        fs::rename(&self.path, &aside).map_err(|e| PidfileError::Io(self.path.clone(), e))?;
        self.is_aside.set(true);
        Ok(())
    }

    /// Undoes [`Pidfile::set_aside`], whatever a successor that is gone left there.
    pub fn take_back(&self) {
        if !self.is_aside.replace(false) {
            return;
        }
        let aside = aside(&self.path);
        if let Err(e) = fs::rename(&aside, &self.path) {
            log::error!("rename {} to {}: {e}", aside.display(), self.path.display());
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file if it is still ours: called by the process that created it, and with
    /// that process's pid in it.
    pub fn remove(&self) {
        let path = if self.is_aside.get() { aside(&self.path) } else { self.path.clone() };
        if process::id() != self.pid || !self.is_ours(&path) {
            return;
        }
        if let Err(e) = fs::remove_file(&path) {
            log::warn!("unlink {}: {e}", path.display());
        }
    }

    fn is_ours(&self, path: &Path) -> bool {
        fs::read(path).is_ok_and(|content| content == format!("{}\n", self.pid).as_bytes())
    }
}

/// The other name of a pid file, which it has during an upgrade.
pub fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".oldbin");
    name.into()
}

/// The pid that a file holds, whether it lives or not.
pub fn holder(path: &Path) -> Option<i32> {
    owner(&content(&mut read_only(path).ok()?).ok()?).ok()?
}

/// Why a pid file names no node.
#[derive(Debug)]
pub enum NoNode {
    /// It cannot be read.
    Io(io::Error),
    /// It holds something that no daemon wrote there.
    Foreign,
    /// It holds nothing.
    Empty,
    /// A node with this number lives in another PID namespace.
    Unseen(i32),
    /// It holds the first number, and belongs to the node with the second.
    Overwritten(i32, i32),
    /// Whoever has this number is none.
    NotANode(i32, String),
}

/// The node whose pid file this is: who holds its lock, or, with one of another version or
/// program, whoever has the number, if it looks like a node.
pub fn node(path: &Path) -> Result<Process, NoNode> {
    let mut file = read_only(path).map_err(NoNode::Io)?;
    let content = content(&mut file).map_err(NoNode::Io)?;
    let named = owner(&content).map_err(|Foreign| NoNode::Foreign)?.ok_or(NoNode::Empty)?;
    let process = match lock_holder(&file) {
        Some(..=0) => return Err(NoNode::Unseen(named)),
        Some(holder) => {
            let process = Process::open(Pid::from_raw(holder));
            let inside = number_inside(Pid::from_raw(holder)).map(Pid::as_raw);
            if named != holder && inside != Some(named) {
                return Err(NoNode::Overwritten(named, holder));
            }
            process.filter(|_| lock_holder(&file) == Some(holder))
        }
        None => {
            let process = Process::open(Pid::from_raw(named));
            let noted = file.metadata().and_then(|found| found.modified()).ok();
            judge(Pid::from_raw(named), noted)
                .map_err(|stranger| NoNode::NotANode(named, stranger.to_string()))?;
            process
        }
    };
    let gone = || NoNode::NotANode(named, Stranger::Gone.to_string());
    process.filter(|process| !process.has_ended()).ok_or_else(gone)
}

impl fmt::Display for NoNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoNode::Io(error) => error.fmt(f),
            NoNode::Foreign => f.write_str("it holds something else than a PID"),
            NoNode::Empty => f.write_str("it holds no PID"),
            NoNode::Unseen(pid) => write!(
                f,
                "PID {pid} runs in another PID namespace, which cannot be seen from here: give the \
                 command there"
            ),
            NoNode::Overwritten(named, holder) => {
                write!(f, "it names PID {named}, but is the pid file of PID {holder}")
            }
            NoNode::NotANode(pid, why) => write!(f, "PID {pid} {why}"),
        }
    }
}

fn read_only(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Removes what a predecessor that is gone left aside.
pub(crate) fn tidy(path: &Path, predecessor: Pid) {
    let aside = aside(path);
    if holder(&aside) == Some(predecessor.as_raw()) {
        let _ = fs::remove_file(aside);
    }
}

struct Foreign;

/// Locked until it is closed, so that of two daemons that start at once one sees the other's pid.
/// Not truncated: it may belong to a live process.
fn open(path: &Path) -> io::Result<Flock<File>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o644);
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = options.custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => io::Error::other("another process is just writing it"),
        other => other.into(),
    })
}

/// The whole file, for writing.
const WHOLE: libc::flock = libc::flock {
    l_type: libc::F_WRLCK as libc::c_short,
    l_whence: libc::SEEK_SET as libc::c_short,
    l_start: 0,
    l_len: 0,
    l_pid: 0,
};

/// Without it the file is as good as that of an older version.
fn lock(file: &File) {
    if let Err(e) = fcntl(file, FcntlArg::F_SETLK(&WHOLE)) {
        log::warn!("the pid file cannot be locked: {e}");
    }
}

/// The process that holds the lock, if it is not this one; 0 or less: it has no number here.
fn lock_holder(file: &File) -> Option<i32> {
    let mut found = WHOLE;
    fcntl(file, FcntlArg::F_GETLK(&mut found)).ok()?;
    (found.l_type != libc::F_UNLCK as libc::c_short).then_some(found.l_pid)
}

fn content(file: &mut File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(LONGEST).read_to_end(&mut content)?;
    Ok(content)
}

fn owner(content: &[u8]) -> Result<Option<i32>, Foreign> {
    let text = str::from_utf8(content).map_err(|_| Foreign)?.trim();
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse() {
        // kill(2) takes 0 and less for process groups.
        Ok(pid) if pid > 0 => Ok(Some(pid)),
        _ => Err(Foreign),
    }
}

/// Our own pid in an old file was another's: in a container, pids repeat at every start.
/// One that has died and waits to be reaped does not live either.
fn lives(pid: i32) -> bool {
    let pid = Pid::from_raw(pid);
    pid != Pid::this() && !has_ended(pid)
}

fn overwrite(file: &mut File, pid: u32) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(format!("{pid}\n").as_bytes())
}
