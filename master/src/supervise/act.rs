//! Carrying out what the policy wants, and keeping workers and devices in step.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use mio::{Interest, Token};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rmogstored_worker::control::Channel;
use rmogstored_worker::spec::{DeviceKey, WorkerId};

use super::children::{Duty, Life};
use super::policy::{Action, Event, Exit, Phase};
use super::spawn::{self, Forked};
use super::{FIRST_WORKER, Step, Supervisor};
use crate::report::events::Event as Told;
use crate::report::service_name;
use crate::{Listening, MasterError, notify, successor, title};

impl Supervisor {
    /// Carries out all actions, and those that follow from them.
    pub(super) fn carry_out(&mut self, actions: Vec<Action>, now: Instant) -> Step {
        let mut queue = VecDeque::from(actions);
        while let Some(action) = queue.pop_front() {
            match action {
                Action::Spawn(worker) => match self.spawn(worker, now) {
                    Spawned::Master(more) => queue.extend(more),
                    Spawned::Worker(control) => return Step::Become(worker, control),
                },
                Action::Finish(status) => return Step::Leave(status),
                other => queue.extend(self.act(other, now)),
            }
        }
        Step::Wait
    }

    fn act(&mut self, action: Action, now: Instant) -> Vec<Action> {
        match action {
            Action::Drain(worker) => self.have_it_leave(worker),
            Action::Kill(worker) => self.kill(worker),
            Action::Started(worker) => self.started(worker),
            Action::NodeReady => return self.node_ready(now),
            Action::Renewed => return self.renewed(now),
            Action::RenewalFailed { worker, exit } => {
                return self.renewal_failed(worker, exit, now);
            }
            Action::Respawn { worker, delay, crashed } => self.respawn(worker, delay, crashed),
            Action::Release(worker) => self.links.remove(worker),
            Action::StartFailed { worker, exit } => self.start_failed(worker, exit),
            Action::NodeDraining => self.node_draining(now),
            Action::Spawn(_) | Action::Finish(_) => unreachable!("the caller's"),
        }
        Vec::new()
    }

    fn spawn(&mut self, worker: WorkerId, now: Instant) -> Spawned {
        // A drain may have begun after the policy asked for this.
        let child = self.policy.children().child(worker);
        if !child.is_some_and(|child| matches!(child.life, Life::Due { .. })) {
            return Spawned::Master(Vec::new());
        }
        let generation = child.map_or(0, |child| child.generation);
        let event = match spawn::fork(self.board, worker, generation) {
            Ok(Forked::Worker { control }) => return Spawned::Worker(control),
            Ok(Forked::Master { pid, control }) => {
                self.connect(worker, control);
                Event::Forked { worker, pid }
            }
            Err(e) => self.no_worker(worker, "cannot fork a worker", e),
        };
        Spawned::Master(self.policy.handle(event, now))
    }

    /// The first workers are all needed: without one the start has failed. Later ones are tried
    /// again, and the first ones too where processes are short for a moment: `EAGAIN`.
    fn no_worker(&mut self, worker: WorkerId, what: &'static str, source: io::Error) -> Event {
        let may_pass = source.kind() == io::ErrorKind::WouldBlock;
        if self.policy.phase() == Phase::Starting && !may_pass {
            self.failure.get_or_insert(MasterError::System { what, source });
            return Event::Quit;
        }
        log::error!("worker {worker}: {what}: {source}");
        Event::ForkFailed(worker)
    }

    /// A channel that cannot be watched is still read each time the loop goes round.
    fn connect(&mut self, worker: WorkerId, control: Channel) {
        let token = Token(FIRST_WORKER + usize::from(worker.0));
        if let Err(e) = self.register(&control, token, Interest::READABLE) {
            log::error!("cannot watch worker {worker}: {e}");
        }
        self.links.connect(worker, control);
    }

    fn kill(&self, worker: WorkerId) {
        let child = self.policy.children().child(worker);
        if let Some(pid) = child.and_then(|child| child.life.pid()) {
            log::warn!("killing worker {worker} (PID {pid})");
            // It has not been reaped, so the number is still its own.
            if let Err(e) = kill(Pid::from_raw(pid), Signal::SIGKILL) {
                log::error!("cannot kill worker {worker}: {e}");
            }
        }
    }

    fn started(&mut self, worker: WorkerId) {
        let child = self.policy.children().child(worker);
        let Some(pid) = child.and_then(|child| child.life.pid()) else { return };
        let devices = self.devices_of(worker);
        log::debug!("worker {worker} (PID {pid}) is ready");
        self.events.tell(&Told::WorkerStarted { worker: worker.0, pid, devices });
        self.retire_superfluous(Instant::now());
    }

    /// The names of the devices that a worker owns.
    pub(super) fn devices_of(&self, worker: WorkerId) -> Vec<String> {
        let devices = self.board.devices().into_iter();
        let own = devices.filter(|(key, slot)| key.devid != 0 && slot.owner() == worker);
        own.map(|(key, _)| key.to_string()).collect()
    }

    /// A successor takes its predecessor's files now, and fails if it cannot.
    fn node_ready(&mut self, now: Instant) -> Vec<Action> {
        self.share_connections();
        successor::serves();
        if let Err(e) = self.take_paths() {
            log::error!("{e}");
            self.failure.get_or_insert(e);
            return self.policy.handle(Event::Quit, now);
        }
        let workers = self.policy.children().with_process().len();
        log::info!("ready: {workers} {}", if workers == 1 { "worker" } else { "workers" });
        successor::is_ready();
        self.events.tell(&Told::Ready { pid: std::process::id() });
        if let Some(on_ready) = self.kit.on_ready.take() {
            on_ready(&self.listening);
        }
        notify::ready();
        self.reload_once_more(now)
    }

    fn respawn(&self, worker: WorkerId, delay: Duration, crashed: bool) {
        if crashed {
            self.board.worker(worker).restarts.fetch_add(1, Relaxed);
        }
        log::info!("worker {worker} is replaced in {} ms", delay.as_millis());
    }

    fn start_failed(&mut self, worker: WorkerId, exit: Exit) {
        self.failure.get_or_insert(MasterError::Start { worker, exit });
    }

    /// From here on new connections are refused: the workers close their copies as they are
    /// told to drain.
    fn node_draining(&mut self, now: Instant) {
        let by = self.asked_by.take().unwrap_or_else(|| "after a failure".to_owned());
        log::info!("draining: {by}");
        title::shutting_down();
        self.board.set_draining();
        self.plan.listeners.clear();
        self.renewal = None;
        self.links.remove_processless();
        self.share_connections();
        self.events.tell(&Told::Draining { by: &by });
        self.dismiss_successor("its predecessor was told to quit", now);
        self.announce_successor();
        // In an upgrade the service goes on without this process.
        if !self.is_succeeded() && !self.origin.is_some_and(|origin| origin.lives()) {
            notify::stopping();
        }
    }

    /// Tells of the listeners that are not known yet.
    pub(super) fn tell_listeners(&mut self, known: &[Listening]) {
        for listening in self.listening.iter().filter(|listening| !known.contains(listening)) {
            let service = service_name(listening.service);
            log::info!("{service}: listening on {}", listening.address);
            self.events.tell(&Told::Listening {
                service,
                address: listening.address.to_string(),
                docroot: listening.docroot.display().to_string(),
            });
        }
        self.tell_status_listener();
    }

    /// Brings workers and scoreboard in step with the devices that are there.
    pub(super) fn look_for_devices(&mut self, now: Instant) {
        if self.policy.phase() == Phase::Resting {
            return;
        }
        let changed = self.plan.devices.look();
        let newest = self.policy.newest();
        if !changed && self.policy.children().of(newest).next().is_some() {
            return;
        }
        for duty in self.plan.devices.duties() {
            if self.policy.children().by_duty(duty, newest).is_none() {
                self.take_on(duty, now);
            }
        }
        // The devices stay with the old generation until all of the new one is ready.
        if !self.policy.is_renewing() {
            self.list_devices();
        }
        self.retire_superfluous(now);
    }

    /// A slot and an inbox for a new worker; the next tick forks it.
    fn take_on(&mut self, duty: Duty, now: Instant) {
        let Some(worker) = self.policy.add(duty, now) else {
            log::error!("no worker slot is free for {duty:?}");
            return;
        };
        let slot = self.board.worker(worker);
        slot.inbox_pending.store(0, Relaxed);
        self.counters.note_restarts(&self.board, slot.restarts.swap(0, Relaxed));
        if let Err(e) = self.links.add(worker) {
            self.no_worker(worker, "no inbox for a worker", e);
            self.policy.handle(Event::Retire(worker), now);
        }
    }

    /// The scoreboard's owners. A device that has gone is forgotten before its worker is told,
    /// so that nothing is handed to it any more.
    pub(super) fn list_devices(&mut self) {
        let wanted = self.plan.devices.duties();
        let children = self.policy.children().of(self.policy.newest());
        let workers: Vec<(WorkerId, Duty)> = children
            .filter(|(_, child)| wanted.contains(&child.duty) && !child.life.is_leaving())
            .map(|(id, child)| (id, child.duty))
            .collect();
        let owners = self.plan.devices.owners(&workers);
        if owners.is_empty() {
            return; // nobody is there to own them
        }
        let there: BTreeSet<DeviceKey> = owners.iter().map(|(key, _)| *key).collect();
        for (key, slot) in self.board.devices() {
            if !there.contains(&key) {
                log::info!("{key} is gone");
                slot.failing.store(false, Relaxed); // Another disk may come in its place.
                self.board.forget_device(key, !self.plan.devices.is_retired(key.site));
                self.device_health.forget(key);
            }
        }
        let mut found = BTreeSet::new();
        for (key, worker) in owners {
            let Some(slot) = self.board.list_device(key, worker) else {
                log::error!("{key}: too many devices, it is not served");
                continue;
            };
            let docroot = self.plan.devices.docroot(key.site);
            if let Some(legacy) = &self.kit.legacy
                && key.devid != 0
            {
                legacy.pass_on(docroot, key.devid, slot);
                self.device_health.came_with(key, slot.faults.counts().of_disk());
                found.insert(docroot);
            }
        }
        if let Some(legacy) = &mut self.kit.legacy {
            found.into_iter().for_each(|docroot| legacy.settle(docroot));
        }
    }

    /// Retires the workers whose duty has gone, once a worker that is to stay serves: clients
    /// then find the listeners open all the time.
    fn retire_superfluous(&mut self, now: Instant) {
        if self.draining() {
            return;
        }
        let wanted = self.plan.devices.duties();
        let children = || self.policy.children().of(self.policy.newest());
        let serves = |life| matches!(life, Life::Running { .. });
        if !children().any(|(_, c)| wanted.contains(&c.duty) && serves(c.life)) {
            return;
        }
        let superfluous: Vec<WorkerId> = children()
            .filter(|(_, c)| !wanted.contains(&c.duty) && !c.life.is_leaving())
            .map(|(id, _)| id)
            .collect();
        for worker in superfluous {
            for action in self.policy.handle(Event::Retire(worker), now) {
                self.act(action, now); // drains and releases, from which nothing follows
            }
        }
    }
}

/// Which process came back from a fork.
enum Spawned {
    Master(Vec<Action>),
    Worker(Channel),
}
