//! What the sidechannel asks of the whole node, on its way to the master: state, not a queue. The
//! latest wish is said when the channel takes it, and one that changes nothing is not said at all.

use crate::clients::inbox;
use crate::control::Up;
use crate::event_loop::Worker;

/// How soon a channel without room is tried again.
const AGAIN_MS: u64 = 20;

/// What is still to be said, and what has been.
#[derive(Debug, Default)]
pub(super) struct ToMaster {
    /// By whom it was asked for.
    shutdown: Option<String>,
    threads: Option<usize>,
    /// A signal sends this worker away.
    leaves: bool,
    /// Said, and not yet answered by the number that now holds for all.
    asked: Option<usize>,
}

impl Worker {
    /// `shutdown`.
    pub(super) fn ask_for_shutdown(&mut self, key: usize) {
        self.to_master.shutdown = Some(self.conns[key].peer().to_string());
        self.tell_master();
    }

    /// `server aio_threads = N`.
    pub(super) fn ask_for_threads(&mut self, threads: usize) {
        let now =
            self.to_master.threads.or(self.to_master.asked).unwrap_or(self.settings.aio_threads);
        if threads != now {
            self.to_master.threads = Some(threads);
            self.tell_master();
        }
    }

    /// So that the master sends what a worker that leaves needs.
    pub(super) fn say_that_it_leaves(&mut self) {
        self.to_master.leaves = true;
        self.tell_master();
    }

    /// The master has said what holds.
    pub(super) fn set_threads(&mut self, threads: usize) {
        self.to_master.asked = None;
        self.settings.aio_threads = threads;
        self.devices.set_threads(threads);
    }

    /// Tries what the channel had no room for.
    pub(super) fn tell_master(&mut self) {
        if let Some(peer) = self.to_master.shutdown.take()
            && !self.was_said(&Up::Shutdown { peer: peer.clone() })
        {
            self.to_master.shutdown = Some(peer);
        }
        if self.to_master.leaves && self.was_said(&Up::Leaves) {
            self.to_master.leaves = false;
        }
        if let Some(threads) = self.to_master.threads
            && self.was_said(&Up::AioThreads { threads })
        {
            (self.to_master.threads, self.to_master.asked) = (None, Some(threads));
        }
        let ToMaster { shutdown, threads, leaves, .. } = &self.to_master;
        if shutdown.is_some() || threads.is_some() || *leaves {
            self.tick_in(AGAIN_MS);
        }
    }

    /// A master that is gone needs to hear nothing: this worker drains, too.
    fn was_said(&self, message: &Up) -> bool {
        let sent = self.control.send(message, None);
        !sent.is_err_and(|e| inbox::is_full(&e))
    }
}
