//! Whether the workers' loops go round, as their heartbeats tell. A worker that stands still is
//! told of, once, and never killed: it may be stopped for a debugger.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rmogstored_worker::spec::WorkerId;

use super::Supervisor;
use super::children::Life;
use super::status::age_ms;
use crate::report::events::Event as Told;

/// Loops go round once a second when there is nothing to do, and more often otherwise.
const STUCK: Duration = Duration::from_secs(5);

impl Supervisor {
    /// Tells of workers that stand still, and of those that move again.
    pub(super) fn look_for_stuck_workers(&mut self, now: Instant) {
        let children = self.policy.children().iter();
        let ages: Vec<(WorkerId, i32, Duration)> = children
            .filter_map(|(id, child)| Some((id, child.life.pid()?, self.age(id, child.life, now)?)))
            .collect();
        let with_process: BTreeSet<WorkerId> = ages.iter().map(|(id, ..)| *id).collect();
        self.stuck.retain(|id| with_process.contains(id));
        for (id, pid, age) in ages {
            let age_ms = age.as_millis() as u64;
            if age >= STUCK && self.stuck.insert(id) {
                log::error!("worker {id} (PID {pid}) stands still: no heartbeat for {age_ms} ms");
                self.events.tell(&Told::WorkerStuck { worker: id.0, pid, age_ms });
            } else if age < STUCK && self.stuck.remove(&id) {
                log::info!("worker {id} (PID {pid}) moves again");
                self.events.tell(&Told::WorkerAlive { worker: id.0, pid });
            }
        }
    }

    /// The time since a worker's loop last went round; `None` before it began.
    fn age(&self, id: WorkerId, life: Life, now: Instant) -> Option<Duration> {
        let heartbeat = age_ms(self.board.worker(id).heartbeat.load(Relaxed));
        let heartbeat = heartbeat.map(Duration::from_millis);
        match life {
            Life::Running { since, .. } => Some(heartbeat.unwrap_or(now - since)),
            Life::Draining { .. } => heartbeat,
            Life::Due { .. } | Life::Starting { .. } => None,
        }
    }
}
