//! Connections in an upgrade: each of the two nodes offers the other its workers' inboxes, and tells
//! its own workers of the other's. [`crate::succession`] is the way between.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;

use rmogstored_worker::clients::inbox;
use rmogstored_worker::control::{Channel, Down};
use rmogstored_worker::scoreboard::{MAX_WORKERS, OtherBoard, WorkerState};
use rmogstored_worker::spec::WorkerId;

use super::Supervisor;
use super::children::Life;
use super::counters::Whose;
use super::policy::Phase;
use crate::succession::{self, Door, Message};

/// Messages heard in one go: an offer and a withdrawal of each worker.
const MOST: usize = 2 * MAX_WORKERS;

/// What was said to the other node, and what it may know.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// The workers that it knows as takers of connections ...
    offered: BTreeSet<WorkerId>,
    /// ... and those with what this node listens on now.
    with_doors: BTreeSet<WorkerId>,
    /// What this node listens on, or did until it began to drain.
    doors: Vec<Door>,
    /// The other one speaks this language.
    speaks: bool,
    /// The channel had no room for something, or there was more to hear.
    unfinished: bool,
}

impl Shared {
    /// Whether there is something left to be said or heard.
    pub(super) fn is_unfinished(&self) -> bool {
        self.unfinished
    }
}

impl Supervisor {
    /// Says what has changed and hears what the other node says.
    pub(super) fn share_connections(&mut self) {
        if self.other_node().is_none() {
            return self.lose_heirs();
        }
        self.look_at_doors();
        if let Some(predecessor) = &self.kit.predecessor {
            self.counters.say_once_to(predecessor);
        }
        let heard = self.hear_offers();
        self.shared.unfinished = !self.offer_heirs() || !heard;
    }

    /// Tells a worker to leave.
    pub(super) fn have_it_leave(&mut self, worker: WorkerId) {
        let shared = self.other_node().is_some();
        self.links.send(worker, &Down::Drain { shared });
    }

    /// Connections in inboxes that have no worker go to whoever serves, or did until now. False:
    /// some find no room.
    pub(super) fn pass_on_connections(&mut self) -> bool {
        if !self.links.has_waiting() {
            return true;
        }
        let phase = self.policy.phase();
        if phase != Phase::Running {
            self.links.pass_on_to_other_node();
        }
        let takers = self.takers_of_the_node(phase);
        for (worker, count) in self.links.pass_on(&takers) {
            self.board.worker(worker).inbox_pending.fetch_add(count, Relaxed);
        }
        takers.is_empty() || !self.links.has_waiting()
    }

    /// The workers of the newest generation that serve; in a drain those that are there, which end
    /// in order what nobody else takes.
    fn takers_of_the_node(&self, phase: Phase) -> Vec<WorkerId> {
        let takes = |life: Life| match phase {
            Phase::Draining { .. } => life.pid().is_some(),
            Phase::Running => matches!(life, Life::Running { .. }),
            _ => false,
        };
        let newest = self.policy.children().of(self.policy.generation());
        newest.filter(|(_, child)| takes(child.life)).map(|(id, _)| id).collect()
    }

    /// The way to the other node in an upgrade.
    fn other_node(&self) -> Option<&Channel> {
        self.kit.predecessor.as_ref().or_else(|| self.upgrades.offers())
    }

    fn lose_heirs(&mut self) {
        self.links.forget_heirs();
        let doors = std::mem::take(&mut self.shared.doors);
        self.shared = Shared { doors, ..Shared::default() };
    }

    /// After a reload other ways lead to the other node, and from there to here.
    fn look_at_doors(&mut self) {
        if self.draining() {
            return;
        }
        let doors = succession::doors(self.settled_plan());
        if doors != self.shared.doors {
            self.links.find_routes(|theirs| succession::routes(&doors, theirs));
            self.shared.with_doors.clear();
            self.shared.doors = doors;
        }
    }

    /// Those that serve, do not stand still and are settled. A node that rests, drains or starts
    /// offers nobody.
    fn takers(&self) -> BTreeSet<WorkerId> {
        let running = self.policy.phase() == Phase::Running;
        let children = self.policy.children().of(self.policy.generation()).filter(|_| running);
        let serving = children.filter(|(_, child)| matches!(child.life, Life::Running { .. }));
        // One that a signal has told to go says so there.
        let stays = |id: &WorkerId| self.board.worker(*id).state() == WorkerState::Running;
        serving.map(|(id, _)| id).filter(|id| stays(id) && !self.stuck.contains(id)).collect()
    }

    /// False: the channel has no room for all of it.
    fn offer_heirs(&mut self) -> bool {
        let speaks = self.shared.speaks || self.kit.predecessor.is_some();
        let takers = if speaks { self.takers() } else { BTreeSet::new() };
        let gone: Vec<WorkerId> = self.shared.offered.difference(&takers).copied().collect();
        let new: Vec<WorkerId> = takers.difference(&self.shared.with_doors).copied().collect();
        let Some(other) = self.other_node() else { return true };
        let mut said = Vec::new();
        let mut all = true;
        for worker in gone.into_iter().chain(new) {
            match self.say_to(other, worker, takers.contains(&worker)) {
                Ok(()) => said.push(worker),
                Err(e) if inbox::is_full(&e) => {
                    all = false;
                    break;
                }
                // It has gone, which its process or its channel tells better.
                Err(e) => log::debug!("upgrade: connections do not follow: {e}"),
            }
        }
        for worker in said {
            for known in [&mut self.shared.offered, &mut self.shared.with_doors] {
                match takers.contains(&worker) {
                    true => known.insert(worker),
                    false => known.remove(&worker),
                };
            }
        }
        all
    }

    fn say_to(&self, other: &Channel, worker: WorkerId, takes: bool) -> io::Result<()> {
        let heir = worker.0.into();
        match self.links.inbox_of(worker).filter(|_| takes) {
            Some(inbox) => {
                let doors = self.shared.doors.clone();
                other.send(&Message::Offer { heir, doors }, Some(inbox))
            }
            None => other.send(&Message::Withdraw { heir }, None),
        }
    }

    /// False: there may be more.
    fn hear_offers(&mut self) -> bool {
        for _ in 0..MOST {
            let Some(other) = self.other_node() else { return true };
            match other.receive::<Message>() {
                Ok(Some((message, inbox))) => {
                    self.shared.speaks = true;
                    self.heed_offer(message, inbox);
                }
                Ok(None) => {
                    self.lose_other_node();
                    return true;
                }
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                    log::debug!("upgrade: an offer that is not understood: {e}");
                }
                Err(_) => return true,
            }
        }
        false
    }

    fn heed_offer(&mut self, message: Message, inbox: Option<OwnedFd>) {
        match (message, inbox) {
            (Message::Offer { heir, .. }, _) if heir as usize >= MAX_WORKERS => {
                log::warn!("upgrade: worker {heir} of the other node is none that can be");
            }
            (Message::Offer { heir, doors }, Some(inbox)) => {
                let routes = succession::routes(&self.shared.doors, &doors);
                self.links.add_heir(heir, inbox, doors, routes);
            }
            (Message::Offer { heir, .. }, None) => {
                log::warn!("upgrade: no descriptor is free: nothing goes to worker {heir}");
            }
            (Message::Withdraw { heir }, _) => self.links.remove_heir(heir),
            (Message::Counters { layout }, Some(board)) => {
                let from = match self.kit.predecessor {
                    Some(_) => Whose::Predecessor,
                    None => Whose::Successor,
                };
                self.counters.hear(from, OtherBoard::new(board, layout));
            }
            (Message::Counters { .. }, None) => {
                log::warn!("upgrade: no descriptor is free: the other node's totals are not known");
            }
        }
    }

    /// Its master has gone, or does not know what the channel is for.
    fn lose_other_node(&mut self) {
        self.lose_heirs();
        self.kit.predecessor = None;
        self.upgrades.lose_offers();
    }

    /// Two ends: this process's, and its successor's. Without them connections are closed.
    pub(super) fn succession() -> Option<(Channel, Channel)> {
        Channel::pair().inspect_err(|e| log::warn!("upgrade: connections do not follow: {e}")).ok()
    }
}
