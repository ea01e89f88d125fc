//! Processes that have ended: workers and successors.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use mio::unix::SourceFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rmogstored_worker::control::Down;
use rmogstored_worker::scoreboard::WorkerState;
use rmogstored_worker::spec::WorkerId;

use super::Supervisor;
use super::policy::{Action, Event, Exit};
use crate::report::events::Event as Told;

impl Supervisor {
    /// Reaps all that ended. Children that an earlier program of this process left are reaped
    /// without a word.
    pub(super) fn reap(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        loop {
            let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, status)) => (pid.as_raw(), Exit::Status(status)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    (pid.as_raw(), Exit::Signal(signal as i32))
                }
                Ok(WaitStatus::StillAlive) | Err(_) => return actions,
                Ok(_) => continue,
            };
            if let Some(worker) = self.policy.children().by_pid(pid) {
                actions.extend(self.bury(worker, pid, exit, now));
            } else if !self.bury_monitor(pid, exit, now) && !self.bury_opener(pid) {
                self.bury_successor(pid, exit);
            }
        }
    }

    /// Notes the end of a worker's process: its last words, log, event, scoreboard.
    pub(super) fn bury(
        &mut self,
        worker: WorkerId,
        pid: i32,
        exit: Exit,
        now: Instant,
    ) -> Vec<Action> {
        let mut actions = self.hear(worker, usize::MAX, now);
        if let Some(control) = self.links.disconnect(worker) {
            let _ = self.poll.registry().deregister(&mut SourceFd(&control.as_fd().as_raw_fd()));
        }
        let slot = self.board.worker(worker);
        slot.set_state(WorkerState::Empty);
        slot.connections.store(0, Relaxed);
        let last_path = slot.last_path();
        if exit == Exit::Status(0) {
            log::info!("worker {worker} (PID {pid}) {exit}");
        } else {
            log::error!("worker {worker} (PID {pid}) {exit}; its last request: {last_path:?}");
        }
        let (status, signal) = (exit.status(), exit.signal());
        self.events.tell(&Told::WorkerExited { worker: worker.0, pid, status, signal, last_path });
        if self.draining() {
            self.links.remove(worker);
            self.pass_on_connections();
        }
        // A connection whose wake-up went to this process alone would wait for the next one.
        self.links.send_all(&Down::Accept);
        actions.extend(self.policy.handle(Event::Exited { worker, exit }, now));
        actions
    }
}
