//! What the master does about what happens: events and the time in, actions out. No system
//! calls, no clock of its own.

use std::time::{Duration, Instant};

use rmogstored_worker::spec::WorkerId;

pub use happening::{Action, Event, Exit, Phase};

use super::children::{Child, Children, Duty, Life};

mod happening;

#[cfg(test)]
mod tests;

/// Delay before the second respawn in a row; the first has none. It doubles from here.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// Where the doubling ends.
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// Where it ends after SIGKILL: not the program's own doing, so no long delay helps ...
const LONGEST_DELAY_AFTER_KILL: Duration = Duration::from_secs(1);
/// ... unless it comes at once, this soon after the worker was ready or before, ...
const AT_ONCE: Duration = Duration::from_millis(20);
/// ... and so many times in a row: whatever kills it there will do so again.
const MOST_AT_ONCE: u32 = 8;
/// How long a worker is ready until its crashes are forgotten.
const HEALTHY: Duration = Duration::from_secs(60);
/// How long a killed process is waited for. One that hangs in a dead disk's driver never ends.
const LEAVE_AFTER: Duration = Duration::from_secs(1);
const SIGKILL: i32 = libc::SIGKILL;

/// The rules and the state they need.
#[derive(Debug)]
pub struct Policy {
    phase: Phase,
    children: Children,
    drain_timeout: Option<Duration>,
    terminations: u32,
    /// The generation that owns the devices.
    generation: u32,
    /// The one that is to take over.
    next: Option<u32>,
    /// Counted on, also past those that were not to be.
    last: u32,
}

impl Policy {
    /// No children yet. A drain timeout of zero is none.
    pub fn new(drain_timeout: Duration, generation: u32) -> Policy {
        let mut policy = Policy {
            phase: Phase::Starting,
            children: Children::default(),
            drain_timeout: None,
            terminations: 0,
            generation,
            next: None,
            last: generation,
        };
        policy.set_drain_timeout(drain_timeout);
        policy
    }

    /// How long drains that begin from now on may take; zero: no bound.
    pub fn set_drain_timeout(&mut self, drain_timeout: Duration) {
        self.drain_timeout = (!drain_timeout.is_zero()).then_some(drain_timeout);
    }

    /// The generation that owns the devices.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The generation that new workers belong to.
    pub fn newest(&self) -> u32 {
        self.next.unwrap_or(self.generation)
    }

    /// True while a new generation is starting beside the old one.
    pub fn is_renewing(&self) -> bool {
        self.newest() != self.generation
    }

    /// The phase of the node.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The workers.
    pub fn children(&self) -> &Children {
        &self.children
    }

    /// Takes on a worker; the next [`Event::Tick`] forks it. `None`: no slot is free.
    pub fn add(&mut self, duty: Duty, now: Instant) -> Option<WorkerId> {
        self.children.add(duty, self.newest(), now)
    }

    /// When to send the next [`Event::Tick`] at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let drain = match self.phase {
            Phase::Draining { until, .. } => until,
            Phase::Starting | Phase::Running | Phase::Resting => None,
        };
        [drain, self.children.deadline()].into_iter().flatten().min()
    }

    /// What to do about an event.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match event {
            Event::Tick => self.tick(now),
            Event::Forked { worker, pid } => self.forked(worker, pid),
            Event::ForkFailed(worker) => self.retry(worker, LONGEST_DELAY, now),
            Event::Ready(worker) => self.ready(worker, now),
            Event::Drained(worker) => self.drained(worker),
            Event::Exited { worker, exit } => self.exited(worker, exit, now),
            Event::Retire(worker) => self.retire(worker, now),
            Event::Rest => self.rest(now),
            Event::Renew => self.renew(),
            Event::FallBack => self.fall_back(now),
            Event::Settle => self.settle(now),
            Event::Quit => self.quit(now),
            Event::Terminate => self.terminate(now),
        }
    }

    fn tick(&mut self, now: Instant) -> Vec<Action> {
        match self.phase {
            Phase::Draining { until, killed, status } if until.is_some_and(|at| at <= now) => {
                if killed {
                    vec![Action::Finish(status)]
                } else {
                    self.kill_all(now)
                }
            }
            Phase::Draining { .. } => Vec::new(),
            Phase::Starting | Phase::Running | Phase::Resting => {
                let spawns = self.children.due(now).into_iter().map(Action::Spawn);
                self.overdue(now).into_iter().map(Action::Kill).chain(spawns).collect()
            }
        }
    }

    /// Retired workers whose time is up; each is named once.
    fn overdue(&mut self, now: Instant) -> Vec<WorkerId> {
        let mut overdue = Vec::new();
        for (id, child) in self.children.iter_mut() {
            if let Life::Draining { until, .. } = &mut child.life
                && until.take_if(|at| *at <= now).is_some()
            {
                overdue.push(id);
            }
        }
        overdue
    }

    fn forked(&mut self, worker: WorkerId, pid: i32) -> Vec<Action> {
        if let Some(child) = self.children.child_mut(worker) {
            child.life = Life::Starting { pid };
        }
        Vec::new()
    }

    fn ready(&mut self, worker: WorkerId, now: Instant) -> Vec<Action> {
        let Some(child) = self.children.child_mut(worker) else { return Vec::new() };
        let Life::Starting { pid } = child.life else { return Vec::new() };
        child.life = Life::Running { pid, since: now };
        child.was_ready = true;
        let mut actions = vec![Action::Started(worker)];
        if self.phase == Phase::Starting && self.children.all_were_ready(self.generation) {
            self.phase = Phase::Running;
            actions.push(Action::NodeReady);
        }
        if self.phase == Phase::Running
            && self.next.is_some_and(|g| self.children.all_were_ready(g))
        {
            actions.push(Action::Renewed);
        }
        actions
    }

    /// Nobody asked this worker to drain, unless its life says so already: it was told by a
    /// signal of its own, and is replaced when it has gone.
    fn drained(&mut self, worker: WorkerId) -> Vec<Action> {
        if let Some(child) = self.children.child_mut(worker)
            && let Life::Starting { pid } | Life::Running { pid, .. } = child.life
        {
            child.life = Life::Draining { pid, until: None, replace: true };
        }
        Vec::new()
    }

    fn exited(&mut self, worker: WorkerId, exit: Exit, now: Instant) -> Vec<Action> {
        let Some(child) = self.children.child_mut(worker) else { return Vec::new() };
        if let Phase::Draining { status, .. } = self.phase {
            self.children.remove(worker);
            let last = self.children.is_empty();
            return if last { vec![Action::Finish(status)] } else { Vec::new() };
        }
        match child.life {
            Life::Draining { replace: false, .. } => {
                self.children.remove(worker);
                vec![Action::Release(worker)]
            }
            Life::Draining { replace: true, .. } if exit == Exit::Status(0) => {
                child.life = Life::Due { at: now };
                vec![Action::Respawn { worker, delay: Duration::ZERO, crashed: false }]
            }
            Life::Starting { .. } if !child.was_ready && self.phase == Phase::Starting => {
                self.fail_start(worker, exit, now)
            }
            Life::Starting { .. }
                if !child.was_ready
                    && self.next == Some(child.generation)
                    && self.generation != child.generation =>
            {
                self.children.remove(worker);
                vec![Action::Release(worker), Action::RenewalFailed { worker, exit }]
            }
            _ => {
                let longest = longest_delay(child, exit, now);
                self.retry(worker, longest, now)
            }
        }
    }

    fn retry(&mut self, worker: WorkerId, longest: Duration, now: Instant) -> Vec<Action> {
        let Some(child) = self.children.child_mut(worker) else { return Vec::new() };
        let delay = next_delay(child, longest, now);
        child.life = Life::Due { at: now + delay };
        vec![Action::Respawn { worker, delay, crashed: true }]
    }

    fn retire(&mut self, worker: WorkerId, now: Instant) -> Vec<Action> {
        let until = self.drain_timeout.map(|patience| now + patience);
        let Some(child) = self.children.child_mut(worker) else { return Vec::new() };
        let Some(pid) = child.life.pid() else {
            self.children.remove(worker);
            return vec![Action::Release(worker)];
        };
        child.life = Life::Draining { pid, until, replace: false };
        vec![Action::Drain(worker)]
    }

    fn rest(&mut self, now: Instant) -> Vec<Action> {
        if self.phase != Phase::Running {
            return Vec::new();
        }
        self.phase = Phase::Resting;
        self.next = None;
        self.retire_all(now, |_| true)
    }

    /// There is nobody to take over from while the node rests.
    fn renew(&mut self) -> Vec<Action> {
        self.last += 1;
        self.next = Some(self.last);
        if self.phase == Phase::Resting {
            self.phase = Phase::Running;
            self.generation = self.last;
        }
        Vec::new()
    }

    fn fall_back(&mut self, now: Instant) -> Vec<Action> {
        let Some(failed) = self.next.take() else { return Vec::new() };
        self.retire_all(now, |generation| generation == failed)
    }

    fn settle(&mut self, now: Instant) -> Vec<Action> {
        let Some(next) = self.next.take() else { return Vec::new() };
        self.generation = next;
        self.retire_all(now, |generation| generation != next)
    }

    fn retire_all(&mut self, now: Instant, which: impl Fn(u32) -> bool) -> Vec<Action> {
        let children = self.children.iter();
        let all: Vec<WorkerId> = children
            .filter(|(_, child)| which(child.generation) && !child.life.is_leaving())
            .map(|(id, _)| id)
            .collect();
        all.into_iter().flat_map(|worker| self.retire(worker, now)).collect()
    }

    fn quit(&mut self, now: Instant) -> Vec<Action> {
        if matches!(self.phase, Phase::Draining { .. }) {
            return Vec::new();
        }
        self.drain(0, self.drain_timeout.map(|patience| now + patience))
    }

    fn terminate(&mut self, now: Instant) -> Vec<Action> {
        self.terminations += 1;
        if self.terminations > 1 { self.kill_all(now) } else { self.quit(now) }
    }

    fn fail_start(&mut self, worker: WorkerId, exit: Exit, now: Instant) -> Vec<Action> {
        self.children.remove(worker);
        let mut actions = vec![Action::StartFailed { worker, exit }];
        actions.extend(self.drain(1, Some(now + LEAVE_AFTER)));
        actions
    }

    fn drain(&mut self, status: i32, until: Option<Instant>) -> Vec<Action> {
        self.phase = Phase::Draining { status, until, killed: false };
        self.children.remove_processless();
        let mut actions = vec![Action::NodeDraining];
        for (id, child) in self.children.iter_mut() {
            if let Some(pid) = child.life.pid() {
                child.life = Life::Draining { pid, until: None, replace: false };
                actions.push(Action::Drain(id));
            }
        }
        if self.children.is_empty() {
            actions.push(Action::Finish(status));
        }
        actions
    }

    fn kill_all(&mut self, now: Instant) -> Vec<Action> {
        if let Phase::Draining { status, .. } = self.phase {
            let until = Some(now + LEAVE_AFTER);
            self.phase = Phase::Draining { status, until, killed: true };
        }
        self.children.with_process().into_iter().map(Action::Kill).collect()
    }
}

fn longest_delay(child: &mut Child, exit: Exit, now: Instant) -> Duration {
    let at_once = !child.life.ran_for(AT_ONCE, now);
    child.instant_deaths = if at_once { child.instant_deaths.saturating_add(1) } else { 0 };
    if exit == Exit::Signal(SIGKILL) && child.instant_deaths <= MOST_AT_ONCE {
        LONGEST_DELAY_AFTER_KILL
    } else {
        LONGEST_DELAY
    }
}

/// None the first time, then doubling; a healthy minute starts it anew.
fn next_delay(child: &mut Child, longest: Duration, now: Instant) -> Duration {
    const ENOUGH: u32 = 16;
    if child.life.ran_for(HEALTHY, now) {
        child.failures = 0;
    }
    let failures = child.failures;
    child.failures = (failures + 1).min(ENOUGH);
    match failures {
        0 => Duration::ZERO,
        n => (FIRST_DELAY * (1 << (n - 1))).min(longest),
    }
}
