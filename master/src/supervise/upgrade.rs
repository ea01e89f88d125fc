//! Binary upgrade: a new process of the executable beside this one, with the same listeners.
//! PROTOCOL.md section 8. Whatever goes wrong, the steps are undone in reverse, and clients see
//! nothing of it.
//!
//! The steps: pid file aside; fork; exec; the successor reports `ready` through its pipe. From
//! then on it has PIDFILE and the status socket's path, and this master may be told to quit.

use std::io::{self, PipeReader, Read, pipe};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Token};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rmogstored_worker::control::Channel;

use super::Supervisor;
use super::become_successor::{CANNOT_EXECUTE, Left};
use super::policy::{Exit, Phase};
use super::successor_pipe::Said;
use super::successor_stderr::Stderr;
use crate::invocation::c_path;
use crate::notify;
use crate::pidfile::{self, PidfileError};
use crate::report::events::Event as Told;
use crate::report::status::UpgradeStatus;
use crate::{listeners, process, sys};

/// How long a successor that was asked to go has for it, before it is killed.
const GO_WITHIN: Duration = Duration::from_secs(2);
/// How soon a successor that says nothing, since it knows no pipe, is taken for ready: once it
/// has written its pid file, or without one when it has lived for so long.
const SILENT_WITH_PIDFILE: Duration = Duration::from_secs(1);
const SILENT: Duration = Duration::from_secs(5);
/// How often one is looked at for which a quit waits.
const HURRY: Duration = Duration::from_millis(50);
pub(super) const TOKEN: Token = Token(1 << 15);

/// What the master knows of its upgrades.
#[derive(Debug, Default)]
pub(super) struct Upgrades {
    successor: Option<Successor>,
    failures: u32,
    last_failure: Option<String>,
}

#[derive(Debug)]
struct Successor {
    pid: Pid,
    began: Instant,
    stage: Stage,
    pipe: PipeReader,
    said: Said,
    words: Stderr,
    /// systemd was told that it is the main process.
    announced: bool,
    /// Its workers' inboxes come this way.
    offers: Option<Channel>,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// Not serving yet.
    Starting,
    /// Serving beside this master.
    Ready,
    /// Told to go, for this reason; killed then.
    Unwanted { why: String, until: Option<Instant> },
}

impl Upgrades {
    /// The way by which the successor offers its workers' inboxes, and hears of this node's.
    pub(super) fn offers(&self) -> Option<&Channel> {
        self.successor.as_ref()?.offers.as_ref()
    }

    /// Nobody speaks there.
    pub(super) fn lose_offers(&mut self) {
        self.successor.iter_mut().for_each(|successor| successor.offers = None);
    }
}

impl Supervisor {
    /// SIGUSR2.
    pub(super) fn upgrade(&mut self, now: Instant) {
        match self.policy.phase() {
            Phase::Running | Phase::Resting => {}
            phase => return log::warn!("no upgrade while the node is {}", phase.name()),
        }
        if let Some(pid) = self.upgrade_under_way() {
            return log::error!("upgrade already running on PID:{pid}");
        }
        if process::is_first(Pid::this()) {
            return self.upgrade_failed(None, process::FIRST);
        }
        match self.start_successor(now) {
            Ok(pid) => {
                log::info!("upgrade: started PID {pid}");
                self.events.tell(&Told::UpgradeStarted { pid: pid.as_raw() });
            }
            Err(reason) => self.upgrade_failed(None, &reason),
        }
    }

    /// The other master, as long as there are two.
    fn upgrade_under_way(&self) -> Option<Pid> {
        let successor = self.upgrades.successor.as_ref().map(|successor| successor.pid);
        successor.or_else(|| self.origin.filter(|o| o.lives()).map(|o| o.predecessor))
    }

    fn start_successor(&mut self, now: Instant) -> Result<Pid, String> {
        self.pidfile.as_ref().map_or(Ok(()), |pidfile| pidfile.set_aside()).map_err(
            |e| match e {
                PidfileError::Running(pid) => format!("upgrade already running on PID:{pid}"),
                other => other.to_string(),
            },
        )?;
        self.launch(now).inspect_err(|_| {
            self.pidfile.iter().for_each(|pidfile| pidfile.take_back());
        })
    }

    fn launch(&mut self, now: Instant) -> Result<Pid, String> {
        let executable = self.kit.invocation.executable();
        let executable = c_path(executable.map_err(|e| format!("cannot execute {e}"))?);
        let words = self.kit.invocation.words();
        let failed = |what| move |e: io::Error| format!("{what}: {e}");
        let (reader, writer) = pipe().map_err(failed("pipe"))?;
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
            .map_err(|e| failed("fcntl")(e.into()))?;
        self.register(&reader, TOKEN, Interest::READABLE).map_err(failed("epoll_ctl"))?;
        let legacy = self.legacy();
        let (offers, theirs) = Self::succession().unzip();
        if let Some(offers) = &offers {
            self.register(offers, TOKEN, Interest::READABLE).map_err(failed("epoll_ctl"))?;
            self.counters.say_to(offers);
        }
        let (spoken, stderr) = Stderr::new(self.poll.registry(), TOKEN).map_err(failed("pipe"))?;
        let Some(pid) = sys::fork().map_err(failed("fork"))? else {
            let left = Left { legacy, succession: theirs };
            self.become_successor(&executable, &words, writer, &stderr, left)
        };
        self.upgrades.successor = Some(Successor {
            pid,
            began: now,
            stage: Stage::Starting,
            pipe: reader,
            said: Said::default(),
            words: spoken,
            announced: false,
            offers,
        });
        Ok(pid)
    }

    /// Hears what the successor says, and watches the time.
    pub(super) fn look_after_successor(&mut self, now: Instant) {
        let pidfile = self.pidfile.as_ref().map(|pidfile| pidfile.path().to_owned());
        self.upgrades.successor.iter_mut().for_each(Successor::listen);
        // What it offers it has offered before it says that it serves.
        self.share_connections();
        let Some(successor) = &mut self.upgrades.successor else { return };
        let (pid, waited) = (successor.pid, now - successor.began);
        let patience = if self.early_quit.is_some() { Duration::ZERO } else { SILENT_WITH_PIDFILE };
        let seems_ready = successor.seems_ready(pidfile.as_deref(), waited, patience);
        let ready = successor.said.ready || seems_ready;
        match &mut successor.stage {
            Stage::Starting if ready => self.successor_ready(pid),
            Stage::Starting if waited >= self.kit.upgrade_timeout => {
                let why = format!("not ready after {} s", self.kit.upgrade_timeout.as_secs_f32());
                self.dismiss_successor(&why, now);
            }
            Stage::Unwanted { until, .. } => {
                if until.take_if(|at| *at <= now).is_some() {
                    log::warn!("upgrade: killing PID {pid}");
                    let _ = kill(pid, Signal::SIGKILL); // not reaped: the number is its own
                }
            }
            Stage::Starting | Stage::Ready => {}
        }
    }

    pub(super) fn upgrade_deadline(&self, now: Instant) -> Option<Instant> {
        let successor = self.upgrades.successor.as_ref()?;
        match &successor.stage {
            _ if successor.words.is_behind() => Some(now),
            Stage::Starting if self.early_quit.is_some() => Some(now + HURRY),
            Stage::Starting => Some(successor.began + self.kit.upgrade_timeout),
            Stage::Unwanted { until, .. } => *until,
            Stage::Ready => None,
        }
    }

    fn successor_ready(&mut self, pid: Pid) {
        if let Some(successor) = &mut self.upgrades.successor {
            successor.stage = Stage::Ready;
            successor.words.let_pass(self.poll.registry(), pid);
        }
        log::info!("upgrade: PID {pid} is ready; QUIT to PID {} finishes it", std::process::id());
        self.events.tell(&Told::UpgradeReady { pid: pid.as_raw() });
    }

    /// Ends a successor that does not serve yet.
    pub(super) fn dismiss_successor(&mut self, why: &str, now: Instant) {
        let Some(successor) = &mut self.upgrades.successor else { return };
        successor.listen();
        if successor.stage == Stage::Starting && !successor.said.serves {
            log::warn!("upgrade: ending PID {}: {why}", successor.pid);
            successor.stage = Stage::Unwanted { why: why.to_owned(), until: Some(now + GO_WITHIN) };
            let _ = kill(successor.pid, Signal::SIGTERM);
        }
    }

    /// Whether there is one that neither serves yet nor was told to go.
    pub(super) fn is_successor_undecided(&mut self, now: Instant) -> bool {
        self.look_after_successor(now);
        let successor = self.upgrades.successor.as_ref();
        successor.is_some_and(|s| s.stage == Stage::Starting && !s.said.serves)
    }

    /// Whether it knows no pipe, as far as one can tell yet.
    pub(super) fn is_successor_silent(&self) -> bool {
        self.upgrades.successor.as_ref().is_some_and(|successor| !successor.said.knows)
    }

    /// Whether it was told to go, and has not even been killed yet.
    pub(super) fn is_ending_successor(&self) -> bool {
        let successor = self.upgrades.successor.as_ref();
        successor.is_some_and(|s| matches!(s.stage, Stage::Unwanted { until: Some(_), .. }))
    }

    /// True if this was the successor's process.
    pub(super) fn bury_successor(&mut self, pid: i32, exit: Exit) -> bool {
        let is_it = |successor: &mut Successor| successor.pid.as_raw() == pid;
        let Some(mut successor) = self.upgrades.successor.take_if(is_it) else { return false };
        successor.listen();
        let raw = successor.pipe.as_raw_fd();
        let _ = self.poll.registry().deregister(&mut SourceFd(&raw));
        self.share_connections();
        self.counters.lose_successor(&self.board);
        self.pidfile.iter().for_each(|pidfile| pidfile.take_back());
        self.status.iter().for_each(|status| status.take_back());
        listeners::restore_nonblocking(&self.plan.listeners);
        if successor.stage == Stage::Ready && !self.draining() {
            notify::ready(); // the main process is this one again
        }
        self.upgrade_failed(Some(pid), &successor.reason(exit));
        true
    }

    /// True while a successor serves: what this master says to systemd would be misunderstood.
    pub(super) fn is_succeeded(&self) -> bool {
        self.upgrades.successor.as_ref().is_some_and(|s| s.said.serves || s.stage == Stage::Ready)
    }

    /// When this master drains: its successor is systemd's main process then. Until then it may
    /// have to go on itself.
    pub(super) fn announce_successor(&mut self) {
        if self.is_succeeded()
            && let Some(successor) = &mut self.upgrades.successor
            && !successor.announced
        {
            successor.announced = notify::succeeded_by(successor.pid.as_raw());
        }
    }

    fn upgrade_failed(&mut self, pid: Option<i32>, reason: &str) {
        let quits = self.early_quit.is_some() || self.draining();
        let then = if quits { "quits, as it was told to" } else { "carries on" };
        log::error!("upgrade failed: {reason}; PID {} {then}", std::process::id());
        self.events.tell(&Told::UpgradeFailed { pid, reason });
        self.upgrades.failures += 1;
        self.upgrades.last_failure = Some(reason.to_owned());
    }

    pub(super) fn upgrade_status(&self) -> UpgradeStatus {
        let successor = self.upgrades.successor.as_ref();
        UpgradeStatus {
            successor: successor.map(|successor| successor.pid.as_raw()),
            ready: self.is_succeeded(),
            failures: self.upgrades.failures,
            last_failure: self.upgrades.last_failure.clone(),
        }
    }

    /// Once the process that this one succeeds has gone: what it may have left.
    pub(super) fn tidy_after_predecessor(&mut self, now: Instant) {
        self.counters.look(&self.board, now);
        let Some(origin) = self.origin.take_if(|origin| !origin.lives()) else { return };
        self.counters.predecessor_gone(now);
        log::info!("upgrade: PID {} has gone", origin.predecessor);
        self.kit.predecessor = None;
        listeners::restore_nonblocking(&self.plan.listeners);
        if let Some(pidfile) = &self.pidfile {
            pidfile::tidy(pidfile.path(), origin.predecessor);
        }
        self.status.iter().for_each(|status| status.tidy());
    }
}

impl Successor {
    fn listen(&mut self) {
        let mut piece = [0; 512];
        while let Ok(len @ 1..) = self.pipe.read(&mut piece) {
            self.said.hear(&piece[..len]);
        }
        self.words.listen(self.pid);
    }

    /// Another program's: it has its pid in the pid file, or has lived for a while.
    fn seems_ready(&self, pidfile: Option<&Path>, waited: Duration, patience: Duration) -> bool {
        if self.said.knows {
            return false;
        }
        match pidfile {
            Some(path) if waited >= patience => {
                let holder = pidfile::holder(path).map(Pid::from_raw);
                holder.is_some_and(|holder| process::descends_from(holder, self.pid))
            }
            Some(_) => false,
            None => waited >= SILENT,
        }
    }

    /// Why it is gone.
    fn reason(self, exit: Exit) -> String {
        let words = self.words.last();
        let when = match self.stage {
            Stage::Unwanted { why, .. } => return with(why, words),
            Stage::Starting => "before it was ready",
            Stage::Ready => "after it was ready",
        };
        let pid = self.pid;
        match self.said.because {
            Some(because) if exit == Exit::Status(CANNOT_EXECUTE) => because,
            because => with(format!("PID {pid} {exit} {when}"), because.or(words)),
        }
    }
}

fn with(what: String, why: Option<String>) -> String {
    why.map_or(what.clone(), |why| format!("{what}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_names_what_is_known() {
        let reason = |stage, because: Option<&str>, exit| {
            let because = because.map(str::to_owned);
            let mut said = Said::default();
            said.because = because;
            let (pipe, _) = pipe().unwrap();
            let (pid, began) = (Pid::from_raw(7), Instant::now());
            Successor {
                pid,
                began,
                stage,
                pipe,
                said,
                words: Stderr::default(),
                announced: false,
                offers: None,
            }
            .reason(exit)
        };
        let starting = || Stage::Starting;
        assert_eq!(
            reason(starting(), None, Exit::Signal(11)),
            "PID 7 was ended by SIGSEGV before it was ready"
        );
        assert_eq!(
            reason(starting(), Some("bad"), Exit::Status(1)),
            "PID 7 exited with status 1 before it was ready: bad"
        );
        assert_eq!(
            reason(starting(), Some("cannot execute x"), Exit::Status(127)),
            "cannot execute x"
        );
        let unwanted = Stage::Unwanted { why: "not ready".to_owned(), until: None };
        assert_eq!(reason(unwanted, None, Exit::Signal(15)), "not ready");
        assert_eq!(
            reason(Stage::Ready, None, Exit::Status(0)),
            "PID 7 exited with status 0 after it was ready"
        );
    }
}
