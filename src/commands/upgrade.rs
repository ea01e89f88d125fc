//! `rmogstored upgrade`: USR2, wait until the successor is ready, QUIT to the old master, wait
//! for its last request. Whatever fails before the QUIT leaves the old master serving. Only the
//! master of a node is ever signalled: see `rmogstored_master::process`.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rmogstored_master::pidfile;
use rmogstored_master::process::{self, Process};
use rmogstored_master::report::status::beside;

use super::{interrupts, read, read_with_peer};

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
    let old = watch.master.pid;
    watch.signal(Signal::SIGUSR2)?;
    say(&format!("PID {old} is starting its successor"));
    let new = wait_until_ready(&watch, &interrupts)?;
    say(&format!("PID {new} is ready; PID {old} finishes its requests"));
    watch.signal(Signal::SIGQUIT)?;
    wait_for_the_end(&watch, &interrupts)?;
    say(&format!("PID {old} is gone, PID {new} serves"));
    Ok(())
}

/// How one learns where an upgrade stands.
struct Watch {
    node: PathBuf,
    is_socket: bool,
    master: Process,
    /// The number it gives itself, which is another one where it runs in another PID namespace.
    own: Pid,
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
        let said = |why: &str| format!("{}: {why}", node.display());
        let told = |e: io::Error| said(&e.to_string());
        let found = fs::metadata(node).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => said(
                "there is no such socket or file: the node does not run, or has another \
                --status-socket or --pidfile",
            ),
            _ => told(e),
        });
        let is_socket = found?.file_type().is_socket();
        let (master, own, mark) = if is_socket {
            let (document, peer) = read_with_peer(node).map_err(told)?;
            let own = Pid::from_raw(document.pid.cast_signed());
            let failures = document.upgrade.failures.into();
            (answering(peer, own).map_err(|why| said(&why))?, own, (failures, 0))
        } else {
            let master = pidfile::node(node).map_err(|e| said(&e.to_string()))?;
            let own = pidfile::holder(node).map_or(master.pid, Pid::from_raw);
            (master, own, changed(node))
        };
        if own.as_raw() == 1 || process::is_first(master.pid) {
            return Err(format!("PID {}: {}", master.pid, process::FIRST));
        }
        Ok(Watch { node: node.to_owned(), is_socket, master, own, mark })
    }

    fn progress(&self) -> Progress {
        if self.master.has_ended() {
            return Progress::Failed(format!("PID {} has ended", self.master.pid));
        }
        if self.is_socket { self.progress_of_socket() } else { self.progress_of_pidfile() }
    }

    /// The successor takes the socket over when it is ready.
    fn progress_of_socket(&self) -> Progress {
        let Ok(document) = read(&self.node) else { return Progress::NotBegun };
        let pid = Pid::from_raw(document.pid.cast_signed());
        if pid != self.own {
            return Progress::Ready(pid);
        }
        if i64::from(document.upgrade.failures) > self.mark.0 {
            return Progress::Failed(document.upgrade.last_failure.unwrap_or_default());
        }
        match document.upgrade.successor {
            // Another daemon, which has no such socket.
            Some(pid) if document.upgrade.ready => Progress::Ready(Pid::from_raw(pid)),
            Some(_) => Progress::Begun,
            None => Progress::NotBegun,
        }
    }

    /// The successor writes the pid file when it is ready; until then it has its other name.
    fn progress_of_pidfile(&self) -> Progress {
        let before = changed(&self.node);
        let holder = pidfile::holder(&self.node).map(Pid::from_raw);
        let holder = holder.filter(|pid| *pid == self.own || self.is_successor(*pid));
        self.judge(before, holder, changed(&self.node))
    }

    /// Whoever else has written the pid file is no reason to send the old master away.
    fn is_successor(&self, pid: Pid) -> bool {
        let pid = pidfile::node(&self.node).map_or(pid, |process| process.pid);
        !process::has_own_proc() || process::descends_from(pid, self.master.pid)
    }

    /// A file that has its old name again has been renamed twice, which changes its ctime. One that
    /// was renamed while it was read, as `before` and `after` tell, says nothing yet.
    fn judge(&self, before: Changed, holder: Option<Pid>, after: Changed) -> Progress {
        match holder {
            Some(pid) if pid != self.own => Progress::Ready(pid),
            Some(_) if before == self.mark => Progress::NotBegun,
            Some(_) if before == after => {
                Progress::Failed("the new program did not start; the log says why".to_owned())
            }
            Some(_) | None => Progress::Begun,
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let told = |e| Failure::Reason(format!("{signal} to PID {}: {e}", self.master.pid));
        self.master.signal(signal).map_err(told)
    }

    /// Connections that the old master's workers still hold, where it can be asked.
    fn connections_left(&self) -> Option<u32> {
        let document = read(&beside(&self.node, "old")).ok().filter(|_| self.is_socket)?;
        Some(document.workers.iter().map(|worker| worker.connections).sum())
    }
}

fn wait_until_ready(watch: &Watch, interrupts: &Receiver<()>) -> Result<Pid, Failure> {
    let old = watch.master.pid;
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
    while !watch.master.has_ended() {
        if interrupts.recv_timeout(LOOK).is_ok() {
            let text = format!("PID {} still finishes its requests", watch.master.pid);
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

/// What [`changed`] says.
type Changed = (i64, i64);

/// Seconds and nanoseconds of a file's ctime; that of no file is told from every other.
fn changed(path: &Path) -> Changed {
    fs::metadata(path).map_or((0, -1), |found| (found.ctime(), found.ctime_nsec()))
}

/// The process that answers on a status socket, if it is the one that it says.
fn answering(peer: Pid, own: Pid) -> Result<Process, String> {
    if peer.as_raw() <= 0 {
        let text = "runs in another PID namespace, which cannot be seen from here: give the \
            command there";
        return Err(format!("PID {own} {text}"));
    }
    let inside = process::number_inside(peer).filter(|_| process::has_own_proc());
    if inside.unwrap_or(peer) != own {
        return Err(format!("PID {peer} answers and says that it is PID {own}: this is no node"));
    }
    Process::open(peer).ok_or_else(|| format!("PID {peer} does not run"))
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
        let master = Process::open(Pid::this()).unwrap();
        let (node, mark) = ("pid".into(), (1, 1));
        let watch = Watch { node, is_socket: false, master, own: OLD, mark };
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
