//! The monitor's process, as the master looks after it: forked where there is a listener for it,
//! replaced when it dies, told what only the master knows. Nothing ever waits for it. See
//! [`crate::monitor`] for what it does.

use std::ffi::CString;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::policy::{Exit, Phase};
use super::{Outcome, Supervisor};
use crate::listeners::StatusListener;
use crate::monitor::news::{News, Status};
use crate::monitor::spec::Spec;
use crate::privileges::Identity;
use crate::report::STATUS_NAME;
use crate::report::events::Event as Told;
use crate::{sys, title as titles};

/// How often it is told how the node is ...
const TELL_AGAIN: Duration = Duration::from_secs(1);
/// ... and how soon after an event.
const TELL_SOON: Duration = Duration::from_millis(100);
/// How long it may finish answers when it is to go; then it is killed.
const GO_WITHIN: Duration = Duration::from_millis(1500);
/// The first time it is replaced at once, then with a delay that doubles from here ...
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// ... to here ...
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// ... until it has lived for so long.
const HEALTHY: Duration = Duration::from_secs(60);

/// What the master has of its monitor.
#[derive(Debug, Default)]
pub(super) struct Monitor {
    process: Option<Process>,
    /// The next is forked no sooner.
    not_before: Option<Instant>,
    /// Deaths in a row.
    failures: u32,
    /// The address that was told of last.
    told: Option<SocketAddr>,
}

#[derive(Debug)]
struct Process {
    pid: Pid,
    since: Instant,
    address: SocketAddr,
    identity: Option<Identity>,
    /// `None`: it is to go.
    link: Option<UnixStream>,
    /// What the link had no room for.
    unsent: Vec<u8>,
    /// Events that it knows.
    events: u64,
    /// When it is told again how the node is; killed, when it is to go.
    next: Instant,
}

impl Supervisor {
    /// Where the monitor answers, as long as the node has one.
    pub(super) fn status_listener(&self) -> Option<&StatusListener> {
        self.settled_plan().status.as_ref()
    }

    /// Keeps it in step with what is wanted. `Some`: this is the new process.
    pub(super) fn look_after_monitor(&mut self, now: Instant) -> Option<UnixStream> {
        let wanted = self.wanted_monitor();
        if let Some(process) = &mut self.monitor.process {
            let is_wanted = wanted == Some((process.address, process.identity.clone()));
            if process.link.is_none() && process.next <= now {
                process.next = now + GO_WITHIN;
                // It has not been reaped, so the number is still its own.
                let _ = kill(process.pid, Signal::SIGKILL);
            } else if process.link.is_some() && !is_wanted {
                (process.link, process.next) = (None, now + GO_WITHIN);
            }
            self.tell_monitor(now);
            return None;
        }
        let (address, identity) = wanted?;
        if self.monitor.not_before.is_some_and(|at| at > now) {
            return None;
        }
        match fork() {
            Ok((None, theirs)) => return Some(theirs),
            Ok((Some((pid, link)), _)) => {
                let (link, unsent, events) = (Some(link), Vec::new(), 0);
                let process =
                    Process { pid, since: now, address, identity, link, unsent, events, next: now };
                self.monitor.process = Some(process);
                log::info!("monitor: PID {pid} answers on {address}");
                self.events.tell(&Told::MonitorStarted { pid: pid.as_raw() });
                self.tell_monitor(now);
            }
            Err(e) => {
                log::error!("cannot fork the monitor: {e}");
                self.monitor.not_before = Some(now + LONGEST_DELAY);
            }
        }
        None
    }

    /// An upgrade's other node answers from when it serves until it is gone.
    fn wanted_monitor(&self) -> Option<(SocketAddr, Option<Identity>)> {
        let starts = self.policy.phase() == Phase::Starting;
        let too_early = starts && self.origin.is_some_and(|origin| origin.lives());
        if too_early || self.is_succeeded() {
            return None;
        }
        let plan = self.settled_plan();
        plan.status.as_ref().map(|status| (status.address, plan.identity.clone()))
    }

    /// Tells it what is new, as far as it goes without waiting.
    fn tell_monitor(&mut self, now: Instant) {
        let Some(mut process) = self.monitor.process.take() else { return };
        if process.link.is_some() && process.push() {
            let (new, told) = self.events.since(process.events);
            let new = new.filter_map(|event| serde_json::from_str(event).ok());
            process.unsent = new.flat_map(|event| News::Event(event).line()).collect();
            if told > process.events {
                process.next = process.next.min(now + TELL_SOON);
            }
            process.events = told;
            if process.next <= now {
                process.next = now + TELL_AGAIN;
                process.unsent.extend(self.status_news().line());
            }
            process.push();
        }
        self.monitor.process = Some(process);
    }

    fn status_news(&self) -> News {
        let docroots = self.plan.sites.iter().map(|site| site.docroot.display().to_string());
        News::Status(Box::new(Status { document: self.document(), docroots: docroots.collect() }))
    }

    /// When there is something to do about it.
    pub(super) fn monitor_deadline(&self, now: Instant) -> Option<Instant> {
        match &self.monitor.process {
            Some(process) if process.unsent.is_empty() => Some(process.next),
            Some(process) => Some(process.next.min(now + TELL_SOON)),
            None if self.wanted_monitor().is_some() => self.monitor.not_before,
            None => None,
        }
    }

    /// True if this was its process.
    pub(super) fn bury_monitor(&mut self, pid: i32, exit: Exit, now: Instant) -> bool {
        let is_it = |process: &mut Process| process.pid.as_raw() == pid;
        let Some(process) = self.monitor.process.take_if(is_it) else { return false };
        let (status, signal) = (exit.status(), exit.signal());
        self.events.tell(&Told::MonitorExited { pid, status, signal });
        if process.link.is_none() {
            log::info!("monitor: PID {pid} has gone");
            (self.monitor.failures, self.monitor.not_before) = (0, None);
            return true;
        }
        if now - process.since >= HEALTHY {
            self.monitor.failures = 0;
        }
        let delay = match self.monitor.failures {
            0 => Duration::ZERO,
            n => (FIRST_DELAY * (1 << (n - 1).min(16))).min(LONGEST_DELAY),
        };
        self.monitor.failures += 1;
        self.monitor.not_before = Some(now + delay);
        log::error!("monitor: PID {pid} {exit}; it is replaced in {} ms", delay.as_millis());
        true
    }

    /// The node has ended, and it with it: it may be stopped, or stand still.
    pub(super) fn end_monitor(&mut self) {
        if let Some(process) = self.monitor.process.take() {
            let _ = kill(process.pid, Signal::SIGKILL); // not reaped: the number is its own
        }
    }

    /// Tells of its listener, where that is news.
    pub(super) fn tell_status_listener(&mut self) {
        let address = self.plan.status.as_ref().map(|status| status.address);
        if let Some(address) = address.filter(|address| self.monitor.told != Some(*address)) {
            log::info!("{STATUS_NAME}: listening on {address}");
            self.events.tell(&Told::Listening {
                service: STATUS_NAME,
                address: address.to_string(),
                docroot: String::new(),
            });
        }
        self.monitor.told = address;
    }

    /// Drops everything that belongs to the master and the workers, before the monitor's first
    /// step.
    pub(super) fn into_monitor(self, link: UnixStream) -> Outcome {
        titles::set_monitor();
        let told = self.status_news();
        let renewing = self.policy.is_renewing();
        let Supervisor { plan, renewal, board, counters, .. } = self;
        let plan = renewal.filter(|_| renewing).map_or(plan, |renewal| renewal.before);
        let listener = plan.status.expect("it was forked for this listener").fd.into();
        let spec = Spec { listener, link, told, board, counters: counters.for_reader() };
        Outcome::Monitor(Box::new(spec), plan.identity)
    }
}

impl Process {
    /// Writes what waits; true when nothing does any more. A loss is told by its end.
    fn push(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        while !self.unsent.is_empty() {
            match link.write(&self.unsent) {
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }
}

/// Forks. In the master: the new process and the way to it; in that process: the way back.
fn fork() -> io::Result<(Option<(Pid, UnixStream)>, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    match sys::fork()? {
        Some(pid) => Ok((Some((pid, ours)), theirs)),
        None => {
            if let Ok(name) = CString::new("rmogstored-mon") {
                let _ = nix::sys::prctl::set_name(&name); // a name is a convenience
            }
            Ok((None, theirs))
        }
    }
}
