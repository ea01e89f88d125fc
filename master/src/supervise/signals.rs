//! Obeying signals, and the sidechannel's `shutdown`.
//!
//! A quit that comes while a successor starts is what finishes that upgrade, early: the workers go
//! on until the successor serves, or is not to be. Whoever has just moved to another program is
//! then never left with neither.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rmogstored_worker::sys::signal::Received;

use super::policy::{Action, Event, Phase};
use super::{Step, Supervisor};
use crate::process;
use crate::report::events::Event as Told;

/// How long a quit waits for a successor that has said that it is starting ...
const AWAITED: Duration = Duration::from_secs(10);
/// ... and for one that says nothing, since it knows no pipe.
const AWAITED_IN_SILENCE: Duration = Duration::from_secs(5);

/// Every signal that the master acts on.
pub(super) const SIGNALS: [Signal; 8] = [
    Signal::SIGCHLD,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// A quit that waits for the successor.
#[derive(Debug)]
pub(super) struct EarlyQuit {
    event: Event,
    since: Instant,
}

impl Supervisor {
    pub(super) fn take_signals(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(received) = self.signals.receive() {
            actions.extend(self.obey(received, now));
        }
        actions
    }

    fn obey(&mut self, received: Received, now: Instant) -> Vec<Action> {
        match received.signal {
            Signal::SIGCHLD => return self.reap(now),
            Signal::SIGQUIT => return self.quit(Event::Quit, told_by(received), now),
            Signal::SIGTERM | Signal::SIGINT => {
                return self.quit(Event::Terminate, told_by(received), now);
            }
            Signal::SIGUSR1 => self.reopen_logs(),
            Signal::SIGUSR2 => self.upgrade(now),
            Signal::SIGHUP => return self.reload(now),
            Signal::SIGWINCH => return self.rest(now),
            other => log::warn!("{other}: ignored"),
        }
        Vec::new()
    }

    /// SIGWINCH. The listeners stay open: connections wait for whoever accepts next.
    fn rest(&mut self, now: Instant) -> Vec<Action> {
        let actions = self.policy.handle(Event::Rest, now);
        if self.policy.phase() == Phase::Resting && !actions.is_empty() {
            log::info!("resting: the workers drain and go");
            self.renewal = None;
            self.share_connections();
            self.events.tell(&Told::Resting);
        }
        actions
    }

    /// A quit, at once or when the successor is ready. A second termination waits for nobody.
    pub(super) fn quit(&mut self, event: Event, by: String, now: Instant) -> Vec<Action> {
        self.asked_by.get_or_insert_with(|| by.clone());
        let Some(early) = &mut self.early_quit else {
            if !self.is_successor_undecided(now) {
                return self.policy.handle(event, now);
            }
            log::info!("told to quit, {by}: this waits until the successor serves or has failed");
            self.early_quit = Some(EarlyQuit { event, since: now });
            return Vec::new();
        };
        let terminations = [early.event, event].map(|event| event == Event::Terminate);
        if terminations[1] {
            early.event = event;
        }
        if terminations != [true; 2] {
            return Vec::new();
        }
        self.early_quit = None;
        self.dismiss_successor("its predecessor was told to end at once", now);
        let mut actions = self.policy.handle(event, now);
        actions.extend(self.policy.handle(event, now));
        actions
    }

    /// The quit that came early, once the successor serves or is not to be.
    pub(super) fn quit_at_last(&mut self, now: Instant) -> Vec<Action> {
        let Some(early) = &self.early_quit else { return Vec::new() };
        let (event, waited) = (early.event, now - early.since);
        if self.is_successor_undecided(now) {
            let silent = self.is_successor_silent();
            if waited < if silent { AWAITED_IN_SILENCE } else { AWAITED } {
                return Vec::new();
            }
            let why = format!(
                "not ready {} s after its predecessor was told to quit",
                waited.as_secs_f32().round()
            );
            self.dismiss_successor(&why, now);
        }
        self.early_quit = None;
        self.policy.handle(event, now)
    }

    /// A successor that is not wanted is not left alone with the listeners: the end waits for its
    /// end, and for no longer than until it was killed.
    pub(super) fn after_the_unwanted(&mut self, step: Step) -> Step {
        if let Step::Leave(status) = step {
            self.leaving.get_or_insert(status);
        }
        match self.leaving {
            Some(status) if !self.is_ending_successor() => Step::Leave(status),
            _ => Step::Wait,
        }
    }
}

/// Whose signal it is, for the log: a node that went has the answer there.
fn told_by(received: Received) -> String {
    let signal = received.signal;
    match received.sender {
        None => format!("{signal} from the terminal or the kernel"),
        Some((0, user)) => format!("{signal} from outside of this PID namespace, user {user}"),
        Some((pid, user)) => {
            let name = process::name(Pid::from_raw(pid.cast_signed()));
            format!("{signal} from PID {pid} ({name}), user {user}")
        }
    }
}
