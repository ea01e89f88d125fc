//! `rmogstored upgrade`: USR2, wait until the successor is ready, QUIT to the old master, wait
//! for its last request. Whatever fails before the QUIT leaves the old master serving.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rmogstored_master::pidfile;
use rmogstored_master::report::status::beside;

use super::{interrupts, read};

/// How often something is looked at that announces itself by no event.
const LOOK: Duration = Duration::from_millis(50);
/// How often the drain is told of.
const TELL: Duration = Duration::from_secs(1);
/// A master that has not begun by then never got the signal, or cannot say so.
const BEGIN_WITHIN: Duration = Duration::from_secs(10);
const INTERRUPTED: u8 = 130;

/// Upgrades the node of a status socket or pid file, and tells how it goes.
pub fn run(node: &Path) -> ExitCode {
    match upgrade(node) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Interrupted(what)) => {
            say(&format!("interrupted: {what}"));
            INTERRUPTED.into()
        }
        Err(Failure::Reason(reason)) => {
            let _ = writeln!(io::stderr(), "E: {reason}");
            ExitCode::FAILURE
        }
    }
}

enum Failure {
    Reason(String),
    Interrupted(String),
}

fn upgrade(node: &Path) -> Result<(), Failure> {
    let interrupts = interrupts().map_err(|e| Failure::Reason(e.to_string()))?;
    let watch = Watch::on(node).map_err(Failure::Reason)?;
    let old = watch.master;
    signal(old, Signal::SIGUSR2)?;
    say(&format!("PID {old} is starting its successor"));
    let new = wait_until_ready(&watch, &interrupts)?;
    say(&format!("PID {new} is ready; PID {old} finishes its requests"));
    signal(old, Signal::SIGQUIT)?;
    wait_for_the_end(&watch, &interrupts)?;
    say(&format!("PID {old} is gone, PID {new} serves"));
    Ok(())
}

/// How one learns where an upgrade stands.
struct Watch {
    node: PathBuf,
    is_socket: bool,
    master: Pid,
    /// Failures before, or when the pid file last changed its name.
    mark: (i64, i64),
}

/// Where it stands.
enum Progress {
    NotBegun,
    Begun,
    Ready(Pid),
    Failed(String),
}

impl Watch {
    fn on(node: &Path) -> Result<Watch, String> {
        let told = |e: io::Error| format!("{}: {e}", node.display());
        let is_socket = fs::metadata(node).map_err(told)?.file_type().is_socket();
        let (pid, mark) = if is_socket {
            let document = read(node).map_err(told)?;
            (document.pid.cast_signed(), (document.upgrade.failures.into(), 0))
        } else {
            let pid = pidfile::holder(node);
            (pid.ok_or_else(|| format!("{} holds no PID", node.display()))?, changed(node))
        };
        let master = Pid::from_raw(pid);
        if is_gone(master) {
            return Err(format!("PID {master} of {} does not run", node.display()));
        }
        Ok(Watch { node: node.to_owned(), is_socket, master, mark })
    }

    fn progress(&self) -> Progress {
        if is_gone(self.master) {
            return Progress::Failed(format!("PID {} has ended", self.master));
        }
        if self.is_socket { self.progress_of_socket() } else { self.progress_of_pidfile() }
    }

    /// The successor takes the socket over when it is ready.
    fn progress_of_socket(&self) -> Progress {
        let Ok(document) = read(&self.node) else { return Progress::NotBegun };
        let pid = Pid::from_raw(document.pid.cast_signed());
        if pid != self.master {
            return Progress::Ready(pid);
        }
        if i64::from(document.upgrade.failures) > self.mark.0 {
            return Progress::Failed(document.upgrade.last_failure.unwrap_or_default());
        }
        if document.upgrade.successor.is_some() { Progress::Begun } else { Progress::NotBegun }
    }

    /// The successor writes the pid file when it is ready; until then it has its other name.
    fn progress_of_pidfile(&self) -> Progress {
        let before = changed(&self.node);
        let holder = pidfile::holder(&self.node).map(Pid::from_raw);
        self.judge(before, holder, changed(&self.node))
    }

    /// A file that has its old name again has been renamed twice, which changes its ctime. One that
    /// was renamed while it was read, as `before` and `after` tell, says nothing yet.
    fn judge(&self, before: Changed, holder: Option<Pid>, after: Changed) -> Progress {
        match holder {
            Some(pid) if pid != self.master => Progress::Ready(pid),
            Some(_) if before == self.mark => Progress::NotBegun,
            Some(_) if before == after => {
                Progress::Failed("the new program did not start; the log says why".to_owned())
            }
            Some(_) | None => Progress::Begun,
        }
    }

    /// Connections that the old master's workers still hold, where it can be asked.
    fn connections_left(&self) -> Option<u32> {
        let document = read(&beside(&self.node, "old")).ok().filter(|_| self.is_socket)?;
        Some(document.workers.iter().map(|worker| worker.connections).sum())
    }
}

fn wait_until_ready(watch: &Watch, interrupts: &Receiver<()>) -> Result<Pid, Failure> {
    let old = watch.master;
    let began = Instant::now();
    loop {
        match watch.progress() {
            Progress::Ready(new) => return Ok(new),
            Progress::Failed(reason) => {
                return Err(Failure::Reason(format!("upgrade failed, PID {old} stays: {reason}")));
            }
            Progress::NotBegun if began.elapsed() >= BEGIN_WITHIN => {
                let text = format!("PID {old} does not begin an upgrade; its log says why");
                return Err(Failure::Reason(text));
            }
            Progress::NotBegun | Progress::Begun => {}
        }
        if interrupts.recv_timeout(LOOK).is_ok() {
            let text = format!("PID {old} has not been told to quit and goes on serving");
            return Err(Failure::Interrupted(text));
        }
    }
}

fn wait_for_the_end(watch: &Watch, interrupts: &Receiver<()>) -> Result<(), Failure> {
    let mut told = Instant::now();
    while !is_gone(watch.master) {
        if interrupts.recv_timeout(LOOK).is_ok() {
            let text = format!("PID {} still finishes its requests", watch.master);
            return Err(Failure::Interrupted(text));
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            if let Some(left) = watch.connections_left() {
                say(&format!("{left} connections are left"));
            }
        }
    }
    Ok(())
}

fn signal(master: Pid, signal: Signal) -> Result<(), Failure> {
    let told = |errno: nix::Error| Failure::Reason(format!("{signal} to PID {master}: {errno}"));
    kill(master, signal).map_err(told)
}

/// What [`changed`] says.
type Changed = (i64, i64);

/// Seconds and nanoseconds of a file's ctime; that of no file is told from every other.
fn changed(path: &Path) -> Changed {
    fs::metadata(path).map_or((0, -1), |found| (found.ctime(), found.ctime_nsec()))
}

/// Gone, or left for its parent to reap.
fn is_gone(pid: Pid) -> bool {
    if kill(pid, None) == Err(nix::Error::ESRCH) {
        return true;
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
}

/// Nobody may be reading: the upgrade goes on.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Pid = Pid::from_raw(7);
    const NONE: Changed = (0, -1);

    #[test]
    fn pid_file_renamed_while_it_is_read_is_no_failure() {
        let watch = Watch { node: "pid".into(), is_socket: false, master: OLD, mark: (1, 1) };
        let judged = |before, holder, after| watch.judge(before, holder, after);
        assert!(matches!(judged((1, 1), Some(OLD), (1, 1)), Progress::NotBegun));
        assert!(matches!(judged((1, 1), Some(OLD), NONE), Progress::NotBegun));
        assert!(matches!(judged(NONE, None, NONE), Progress::Begun));
        assert!(matches!(judged(NONE, Some(OLD), (3, 3)), Progress::Begun));
        assert!(matches!(judged((3, 3), Some(OLD), (3, 3)), Progress::Failed(_)));
        let new = Pid::from_raw(8);
        assert!(matches!(judged(NONE, Some(new), (4, 4)), Progress::Ready(pid) if pid == new));
    }
}
