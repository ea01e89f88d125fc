//! What workers say over their control channels.

use std::io;
use std::time::Instant;

use rmogstored_worker::control::{Down, Up};
use rmogstored_worker::spec::{SiteId, WorkerId};

use super::Supervisor;
use super::policy::{Action, Event};

/// Messages of a worker in one go. Whoever floods one with commands has it say more and more.
const MOST_HEARD: usize = 64;

impl Supervisor {
    /// What all workers have said, without waiting.
    pub(super) fn hear_workers(&mut self, now: Instant) -> Vec<Action> {
        self.more_to_hear = false;
        let workers = self.policy.children().with_process();
        workers.into_iter().flat_map(|worker| self.hear(worker, MOST_HEARD, now)).collect()
    }

    /// What a worker has said, up to so many messages. Its end of the channel closing means
    /// nothing yet: its exit will tell.
    pub(super) fn hear(&mut self, worker: WorkerId, most: usize, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        for _ in 0..most {
            let Some(control) = self.links.control(worker) else { return actions };
            match control.receive::<Up>() {
                Ok(Some((message, _))) => actions.extend(self.heed(worker, message, now)),
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                    log::warn!("worker {worker}: {e}");
                }
                Ok(None) | Err(_) => return actions,
            }
        }
        self.more_to_hear = true;
        actions
    }

    fn heed(&mut self, worker: WorkerId, message: Up, now: Instant) -> Vec<Action> {
        match message {
            Up::Ready => self.policy.handle(Event::Ready(worker), now),
            Up::Leaves => {
                self.have_it_leave(worker);
                Vec::new()
            }
            Up::Drained => self.policy.handle(Event::Drained(worker), now),
            Up::Shutdown { peer } => self.quit(Event::Quit, format!("shutdown from {peer}"), now),
            Up::Devices { site, devids } => {
                self.plan.devices.hear(SiteId(site), devids);
                self.next_look = now;
                Vec::new()
            }
            Up::AioThreads { threads } => {
                self.plan.settings.aio_threads = threads.clamp(1, 100);
                self.links.send_all(&Down::AioThreads { threads: self.plan.settings.aio_threads });
                Vec::new()
            }
        }
    }
}
