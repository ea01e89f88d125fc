//! What the sidechannel asks of the whole node, on its way to the master: state, not a queue. The
//! latest wish is said when the channel takes it, and one that changes nothing is not said at all.

use std::io;

use crate::control::Up;
use crate::event_loop::Worker;

/// How soon a channel without room is tried again.
const AGAIN_MS: u64 = 20;

/// What is still to be said, and what has been.
#[derive(Debug, Default)]
pub(super) struct Unsaid {
    /// By whom it was asked for.
    shutdown: Option<String>,
    threads: Option<usize>,
    /// Said, and not yet answered by the number that now holds for all.
    asked: Option<usize>,
}

impl Worker {
    /// `shutdown`.
    pub(super) fn ask_for_shutdown(&mut self, key: usize) {
        self.unsaid.shutdown = Some(self.conns[key].peer().to_string());
        self.say_unsaid();
    }

    /// `server aio_threads = N`.
    pub(super) fn ask_for_threads(&mut self, threads: usize) {
        let now = self.unsaid.threads.or(self.unsaid.asked).unwrap_or(self.settings.aio_threads);
        if threads != now {
            self.unsaid.threads = Some(threads);
            self.say_unsaid();
        }
    }

    /// The master has said what holds.
    pub(super) fn set_threads(&mut self, threads: usize) {
        self.unsaid.asked = None;
        self.settings.aio_threads = threads;
        self.devices.set_threads(threads);
    }

    /// Tries what the channel had no room for.
    pub(super) fn say_unsaid(&mut self) {
        if let Some(peer) = self.unsaid.shutdown.take()
            && !self.was_said(&Up::Shutdown { peer: peer.clone() })
        {
            self.unsaid.shutdown = Some(peer);
        }
        if let Some(threads) = self.unsaid.threads
            && self.was_said(&Up::AioThreads { threads })
        {
            (self.unsaid.threads, self.unsaid.asked) = (None, Some(threads));
        }
        if self.unsaid.shutdown.is_some() || self.unsaid.threads.is_some() {
            self.tick_in(AGAIN_MS);
        }
    }

    /// A master that is gone needs to hear nothing: this worker drains, too.
    fn was_said(&self, message: &Up) -> bool {
        let sent = self.control.send(message, None);
        !sent.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    }
}
