//! Which process is a node's master, and which a stranger that merely has its number.
//!
//! A number alone says nothing: a file may be stale, the number may have gone to another process
//! since, or be one of another PID namespace.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::{sys, title};

/// Why the first process of a PID namespace is not upgraded.
pub const FIRST: &str = "as PID 1 of a container it cannot be replaced: the container ends with \
    it. Start the node below a small init (docker run --init, tini, catatonit), or replace the \
    container";
/// Names of executables that are nodes, with whatever follows: a version, a suffix.
const NODES: [&str; 2] = ["rmogstored", "cmogstored"];
/// The clock may have been set a little since, and ticks are coarse.
const TOLERANCE: Duration = Duration::from_secs(2);

/// A process that its number cannot change to another one: pidfd_open(2). Where the kernel or a
/// sandbox has none, the number must do.
#[derive(Debug)]
pub struct Process {
    /// The number, as it is seen here.
    pub pid: Pid,
    fd: Option<OwnedFd>,
}

impl Process {
    /// `None`: nobody has this number, or it is a thread's.
    pub fn open(pid: Pid) -> Option<Process> {
        match sys::pidfd_open(pid) {
            Ok(fd) => Some(Process { pid, fd: Some(fd) }),
            // EINVAL, ENOENT: a thread.
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => None,
            Err(_) => (!is_thread(pid) && kill(pid, None) != Err(Errno::ESRCH))
                .then_some(Process { pid, fd: None }),
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match &self.fd {
            Some(fd) => sys::pidfd_send_signal(fd.as_fd(), signal),
            None => Ok(kill(self.pid, signal)?),
        }
    }

    /// True once it has ended, whether or not its parent has noticed.
    pub fn has_ended(&self) -> bool {
        let Some(fd) = &self.fd else { return has_ended(self.pid) };
        let mut asked = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        poll(&mut asked, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

/// Why a process does not count as the master of a node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stranger {
    /// There is none.
    Gone,
    /// The number is a thread's.
    Thread,
    /// Another program.
    Program(String),
    /// One of a node's workers, or a command.
    NotMaster(String),
    /// It has begun after its number was written down.
    Younger,
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stranger::Gone => f.write_str("does not run"),
            Stranger::Thread => f.write_str("is no process, but a thread of one"),
            Stranger::Program(name) => write!(f, "is no node, but {name:?}"),
            Stranger::NotMaster(shown) => write!(f, "is no node's master, but {shown:?}"),
            Stranger::Younger => {
                f.write_str("is younger than what names it: the number has been used again")
            }
        }
    }
}

/// Whether it is a node's master, as well as one can tell that holds no lock: one of this program
/// by its title, another one by the name of its executable. It has begun before `noted`.
pub(crate) fn judge(pid: Pid, noted: Option<SystemTime>) -> Result<(), Stranger> {
    if is_thread(pid) {
        return Err(Stranger::Thread);
    }
    if has_ended(pid) {
        return Err(Stranger::Gone);
    }
    let name = name(pid);
    if !NODES.iter().any(|node| name.starts_with(node)) && !is_this_program(pid) {
        return Err(Stranger::Program(name));
    }
    let shown = command_line(pid);
    if !name.starts_with("cmogstored") && !shown.starts_with(title::MASTER) {
        return Err(Stranger::NotMaster(shown));
    }
    match (began(pid), noted) {
        (Some(began), Some(noted)) if began > noted + TOLERANCE => Err(Stranger::Younger),
        _ => Ok(()),
    }
}

/// The number that a process has where it runs: the last of NSpid in proc_pid_status(5).
pub fn number_inside(pid: Pid) -> Option<Pid> {
    let last = status_field(pid, "NSpid:")?.split_ascii_whitespace().next_back()?.parse().ok()?;
    Some(Pid::from_raw(last))
}

/// Whether it is the first process of a PID namespace, so that this one ends with it.
pub fn is_first(pid: Pid) -> bool {
    pid.as_raw() == 1 || number_inside(pid) == Some(Pid::from_raw(1))
}

/// Whether /proc tells of the numbers that this process uses: in a PID namespace without a /proc of
/// its own it does not.
pub fn has_own_proc() -> bool {
    fs::read_link("/proc/self").is_ok_and(|own| own == Path::new(&std::process::id().to_string()))
}

/// Whether a process is the other one, or was started by it or those that it started.
pub fn descends_from(pid: Pid, ancestor: Pid) -> bool {
    const DEEPEST: usize = 8;
    let parent = |pid: &Pid| {
        let parent = status_field(*pid, "PPid:")?.trim().parse().ok()?;
        (parent > 1).then(|| Pid::from_raw(parent))
    };
    std::iter::successors(Some(pid), parent).take(DEEPEST).any(|pid| pid == ancestor)
}

/// Ended, or left for its parent to reap: proc_pid_stat(5).
pub(crate) fn has_ended(pid: Pid) -> bool {
    if kill(pid, None) == Err(Errno::ESRCH) {
        return true;
    }
    stat(pid).is_some_and(|fields| matches!(fields.as_bytes().first(), Some(b'Z' | b'X')))
}

/// A number of a thread that is not the first one of its process.
fn is_thread(pid: Pid) -> bool {
    let group = status_field(pid, "Tgid:").and_then(|group| group.trim().parse().ok());
    group.is_some_and(|group: i32| group != pid.as_raw())
}

/// The name of its executable, or what it calls itself where that may not be seen; empty for one
/// that has gone.
pub(crate) fn name(pid: Pid) -> String {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let name = path.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy());
    name.map_or_else(
        || fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned(),
        |name| name.into_owned(),
    )
}

fn is_this_program(pid: Pid) -> bool {
    let file = |path: &str| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    let own = file("/proc/self/exe");
    own.is_ok_and(|own| file(&format!("/proc/{pid}/exe")).is_ok_and(|other| other == own))
}

fn command_line(pid: Pid) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<u8> = words.into_iter().map(|byte| byte.max(b' ')).collect();
    std::ffi::OsStr::from_bytes(&words).to_string_lossy().trim_end().to_owned()
}

/// When it began, by the clock as it is now.
fn began(pid: Pid) -> Option<SystemTime> {
    const FIELD: usize = 22 - 3;
    let ticks: u64 = stat(pid)?.split_ascii_whitespace().nth(FIELD)?.parse().ok()?;
    let per_second = sysconf(SysconfVar::CLK_TCK).ok()??.cast_unsigned().max(1);
    let since_boot = Duration::from_millis(ticks * 1000 / per_second);
    let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
    SystemTime::now().checked_sub(now.checked_sub(since_boot)?)
}

/// The fields from the state on: the command before may hold anything.
fn stat(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.to_owned())
}

fn status_field(pid: Pid, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let found = status.lines().find_map(|line| line.strip_prefix(name));
    found.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    fn sleeper() -> Child {
        Command::new("sleep").arg("100").spawn().unwrap()
    }

    fn pid_of(child: &Child) -> Pid {
        Pid::from_raw(child.id().cast_signed())
    }

    #[test]
    fn process_that_has_ended_is_seen_before_it_is_reaped() {
        let mut child = sleeper();
        let process = Process::open(pid_of(&child)).unwrap();
        assert!(!process.has_ended() && !has_ended(process.pid));
        process.signal(Signal::SIGKILL).unwrap();
        while !process.has_ended() {
            std::thread::yield_now();
        }
        assert!(has_ended(process.pid));
        child.wait().unwrap();
        assert_eq!(process.signal(Signal::SIGKILL).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        assert!(Process::open(process.pid).is_none());
    }

    #[test]
    fn another_program_is_a_stranger() {
        let mut child = sleeper();
        let judged = judge(pid_of(&child), None);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(judged, Err(Stranger::Program("sleep".to_owned())));
        assert_eq!(judge(pid_of(&child), None), Err(Stranger::Gone));
    }

    #[test]
    fn program_of_this_name_that_is_no_master_is_a_stranger() {
        assert!(matches!(judge(Pid::this(), None), Err(Stranger::NotMaster(_))));
    }

    #[test]
    fn number_of_a_thread_is_no_process() {
        let (judged, opened) = std::thread::spawn(|| {
            let thread = nix::unistd::gettid();
            (judge(thread, None), Process::open(thread).is_none())
        })
        .join()
        .unwrap();
        assert_eq!(judged, Err(Stranger::Thread));
        assert!(opened);
    }

    #[test]
    fn beginning_of_a_process_is_known_to_a_second() {
        let before = SystemTime::now();
        let mut child = sleeper();
        let began = began(pid_of(&child)).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let second = Duration::from_secs(1);
        assert!(began > before - second && began < SystemTime::now() + second, "{began:?}");
    }

    #[test]
    fn descent_is_followed_upwards() {
        let mut child = sleeper();
        let (young, old) = (pid_of(&child), Pid::this());
        assert!(descends_from(young, old) && descends_from(old, old));
        assert!(!descends_from(old, young));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn own_number_is_the_same_inside() {
        assert!(has_own_proc());
        assert_eq!(number_inside(Pid::this()).is_some(), fs::exists("/proc/self/status").unwrap());
    }
}
