//! The pid file: `PID\n`, one live owner, removed by nobody else.
//!
//! No `Drop`: a forked child that drops its copy of a [`Pidfile`] must not remove the master's.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::{fmt, process};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// More than any pid has, and more than is read.
const LONGEST: u64 = 32;

/// A pid file that holds the pid of this process.
#[derive(Debug)]
pub struct Pidfile {
    path: PathBuf,
    pid: u32,
    /// It has its other name, for an upgrade.
    is_aside: Cell<bool>,
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
            Ok(Some(pid)) if lives(pid) => return Err(PidfileError::Running(pid)),
            Ok(_) => {}
            Err(Foreign) => return Err(PidfileError::Foreign(path)),
        }
        let pid = process::id();
        overwrite(&mut file, pid).map_err(failed)?;
        Ok(Self { path, pid, is_aside: Cell::new(false) })
    }

    /// Fails as [`Pidfile::create`] would, but leaves the file as it is.
    pub fn check(path: &Path) -> Result<(), PidfileError> {
        match holder(path) {
            Some(pid) if lives(pid) => Err(PidfileError::Running(pid)),
            _ => Ok(()),
        }
    }

    /// Makes room for a successor's: renames it to `PIDFILE.oldbin`.
    pub fn set_aside(&self) -> Result<(), PidfileError> {
        let aside = aside(&self.path);
        Self::check(&aside)?;
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
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
    owner(&content(&mut file).ok()?).ok()?
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
/// One that has died and waits to be reaped does not live either: proc_pid_stat(5).
fn lives(pid: i32) -> bool {
    let (stat, pid) = (fs::read_to_string(format!("/proc/{pid}/stat")), Pid::from_raw(pid));
    let dead = stat.is_ok_and(|stat| {
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes().first().copied());
        matches!(state.flatten(), Some(b'Z' | b'X'))
    });
    pid != Pid::this() && !dead && kill(pid, None) != Err(Errno::ESRCH)
}

fn overwrite(file: &mut File, pid: u32) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(format!("{pid}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn process_that_waits_to_be_reaped_does_not_live() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = child.id().cast_signed();
        assert!(lives(pid));
        child.kill().unwrap();
        let begun = std::time::Instant::now();
        while lives(pid) {
            assert!(begun.elapsed().as_secs() < 10, "a zombie counts as alive");
        }
        assert_eq!(kill(Pid::from_raw(pid), None), Ok(()), "it has been reaped already");
        child.wait().unwrap();
    }

    /// Writes the file and tries to take it.
    fn over(old: &[u8]) -> (Result<Pidfile, String>, Vec<u8>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        fs::write(&path, old).unwrap();
        let result = Pidfile::create(&path).map_err(|e| e.to_string());
        (result, fs::read(&path).unwrap(), dir)
    }

    fn ours() -> Vec<u8> {
        format!("{}\n", process::id()).into_bytes()
    }

    fn dead_pid() -> u32 {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    }

    #[test]
    fn a_new_file_holds_our_pid_until_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let pidfile = Pidfile::create(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), ours());
        pidfile.remove();
        assert!(!path.exists());
        pidfile.remove();
    }

    #[test]
    fn a_live_pid_is_left_untouched() {
        let mut child = Command::new("cat").stdin(process::Stdio::piped()).spawn().unwrap();
        let old = format!("{}\n", child.id());
        let (result, content, _dir) = over(old.as_bytes());
        let meant = format!("already running on PID: {}", child.id());
        assert_eq!(result.unwrap_err(), meant);
        assert_eq!(content, old.as_bytes());
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn a_live_process_of_another_user_counts_as_live() {
        assert_eq!(over(b"1").0.unwrap_err(), "already running on PID: 1");
    }

    #[test]
    fn stale_and_empty_files_are_taken_over() {
        let stale = format!("{}\n", dead_pid());
        let own = String::from_utf8(ours()).unwrap();
        for old in ["", "\n", &stale, stale.trim(), &format!("{stale}   \n\n"), &own] {
            let (result, content, _dir) = over(old.as_bytes());
            assert!(result.is_ok(), "{old:?}: {result:?}");
            assert_eq!(content, ours());
        }
    }

    #[test]
    fn a_file_that_is_no_pid_file_is_left_untouched() {
        for old in ["root:x:0:0", "0", "-1", "99999999999", "1 2", "\u{e9}"] {
            let (result, content, _dir) = over(old.as_bytes());
            assert!(result.unwrap_err().ends_with("holds something else than a PID"), "{old}");
            assert_eq!(content, old.as_bytes());
        }
    }

    #[test]
    fn what_the_system_refuses_is_told_with_the_path() {
        let error = Pidfile::create(Path::new("/nonexistent/pid")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "pidfile=/nonexistent/pid: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn what_is_no_file_or_locked_is_told_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let told = |path: &Path| Pidfile::create(path).unwrap_err().to_string();
        assert_eq!(told(Path::new("/dev/null")), "pidfile=/dev/null: it is no regular file");
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(told(&pipe).ends_with("it is no regular file"));
        let path = dir.path().join("pid");
        let _locked = open(&path).map_err(|e| e.to_string()).unwrap();
        assert!(told(&path).ends_with("another process is just writing it"));
    }

    #[test]
    fn a_file_that_another_took_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let pidfile = Pidfile::create(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        pidfile.remove();
        assert_eq!(fs::read(&path).unwrap(), b"1\n");
    }

    #[test]
    fn a_copy_in_another_process_removes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let pidfile = Pidfile::create(&path).unwrap();
        let is_aside = Cell::new(false);
        let elsewhere = Pidfile { path: path.clone(), pid: pidfile.pid + 1, is_aside };
        elsewhere.remove();
        drop(pidfile);
        assert!(path.exists());
    }

    #[test]
    fn file_set_aside_comes_back_over_what_a_dead_successor_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let pidfile = Pidfile::create(&path).unwrap();
        pidfile.set_aside().unwrap();
        assert!(!path.exists());
        assert_eq!(fs::read(aside(&path)).unwrap(), ours());
        fs::write(&path, format!("{}\n", dead_pid())).unwrap();
        pidfile.take_back();
        assert_eq!(fs::read(&path).unwrap(), ours());
        assert!(!aside(&path).exists());
        pidfile.take_back();
        assert!(path.exists(), "taken back twice");
    }

    #[test]
    fn file_that_was_set_aside_is_removed_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let pidfile = Pidfile::create(&path).unwrap();
        pidfile.set_aside().unwrap();
        fs::write(&path, "1\n").unwrap();
        pidfile.remove();
        assert!(path.exists());
        assert!(!aside(&path).exists());
    }

    #[test]
    fn file_is_not_set_aside_over_that_of_a_live_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let pidfile = Pidfile::create(&path).unwrap();
        fs::write(aside(&path), "1\n").unwrap();
        let refused = pidfile.set_aside().unwrap_err().to_string();
        assert_eq!(refused, "already running on PID: 1");
        assert_eq!(fs::read(&path).unwrap(), ours());
    }
}
