//! SIGHUP: the configuration is read again, a new generation of workers starts beside the old
//! one, takes the devices over when all of it is ready, and the old one drains. Whatever fails
//! before that leaves everything as it was.

use std::time::{Duration, Instant};

use super::Supervisor;
use super::plan::Plan;
use super::policy::{Action, Event, Exit, Phase};
use crate::report::events::Event as Told;
use crate::{limits, notify};
use rmogstored_worker::spec::WorkerId;

/// How long a new generation may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A reload under way.
#[derive(Debug)]
pub(super) struct Renewal {
    /// What the workers serve that are to be replaced.
    pub(super) before: Plan,
    until: Instant,
}

impl Supervisor {
    /// SIGHUP. While the node starts or reloads, it is kept for later.
    pub(super) fn reload(&mut self, now: Instant) -> Vec<Action> {
        match self.policy.phase() {
            Phase::Draining { .. } => return Vec::new(),
            Phase::Starting => self.reload_again = true,
            Phase::Running if self.policy.is_renewing() => self.reload_again = true,
            Phase::Running => return self.renew(now),
            Phase::Resting => return self.wake(now),
        }
        Vec::new()
    }

    fn renew(&mut self, now: Instant) -> Vec<Action> {
        log::info!("reloading");
        notify::reloading();
        match self.next_plan() {
            Ok(plan) => {
                let before = std::mem::replace(&mut self.plan, plan);
                self.renewal = Some(Renewal { before, until: now + READY_WITHIN });
                self.begin_generation(now)
            }
            Err(reason) => {
                self.reload_failed(&reason);
                Vec::new()
            }
        }
    }

    /// After SIGWINCH there must be workers again, with the old configuration if need be.
    fn wake(&mut self, now: Instant) -> Vec<Action> {
        log::info!("starting workers again");
        match self.next_plan() {
            Ok(plan) => self.plan = plan,
            Err(reason) => self.reload_failed(&reason),
        }
        self.begin_generation(now)
    }

    fn next_plan(&mut self) -> Result<Plan, String> {
        let config = (self.kit.reload)()?;
        let plan = self.plan.next(&config).map_err(|e| e.to_string())?;
        limits::raise_nofile(&config);
        self.kit.upgrade_timeout = config.upgrade_timeout;
        Ok(plan)
    }

    fn begin_generation(&mut self, now: Instant) -> Vec<Action> {
        let actions = self.policy.handle(Event::Renew, now);
        let generation = self.policy.newest();
        self.policy.set_drain_timeout(self.plan.settings.drain_timeout);
        self.events.tell(&Told::Reloading { generation });
        let known = std::mem::replace(&mut self.listening, self.plan.listening());
        self.tell_listeners(&known);
        self.next_look = now;
        actions
    }

    /// Every worker of the new generation accepts connections. The devices get their new owners
    /// before the old workers are told: nothing is handed to those from then on.
    pub(super) fn renewed(&mut self, now: Instant) -> Vec<Action> {
        let generation = self.policy.newest();
        let mut actions = self.policy.handle(Event::Settle, now);
        self.list_devices();
        self.renewal = None;
        self.share_connections();
        log::info!("reloaded: generation {generation}");
        self.events.tell(&Told::Reloaded { generation });
        notify::ready();
        actions.extend(self.reload_once_more(now));
        actions
    }

    pub(super) fn renewal_failed(
        &mut self,
        worker: WorkerId,
        exit: Exit,
        now: Instant,
    ) -> Vec<Action> {
        self.fall_back(&format!("worker {worker} {exit} before it was ready"), now)
    }

    pub(super) fn watch_renewal(&mut self, now: Instant) -> Vec<Action> {
        match &self.renewal {
            Some(renewal) if renewal.until <= now && self.policy.is_renewing() => {
                let reason = format!("workers not ready after {} s", READY_WITHIN.as_secs());
                self.fall_back(&reason, now)
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn renewal_deadline(&self) -> Option<Instant> {
        self.renewal.as_ref().map(|renewal| renewal.until)
    }

    fn fall_back(&mut self, reason: &str, now: Instant) -> Vec<Action> {
        let Some(Renewal { before, .. }) = self.renewal.take() else { return Vec::new() };
        self.plan = before;
        self.listening = self.plan.listening();
        self.policy.set_drain_timeout(self.plan.settings.drain_timeout);
        self.reload_failed(reason);
        let mut actions = self.policy.handle(Event::FallBack, now);
        actions.extend(self.reload_once_more(now));
        actions
    }

    fn reload_failed(&mut self, reason: &str) {
        log::error!("reload failed, nothing changes: {reason}");
        self.events.tell(&Told::ReloadFailed { reason });
        notify::ready();
    }

    pub(super) fn reload_once_more(&mut self, now: Instant) -> Vec<Action> {
        if std::mem::take(&mut self.reload_again) { self.reload(now) } else { Vec::new() }
    }
}
