//! Leaving in order: stop accepting, close what is idle, finish what is in progress, go. See
//! PROTOCOL.md section 7 and DESIGN.md, "Where a request runs".

use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};

use crate::clients::conn::State;
use crate::control::Up;
use crate::disk::pool::Pool;
use crate::disk::work::Work;
use crate::event_loop::Worker;
use crate::http::head::HeadScan;
use crate::scoreboard::WorkerState;
use crate::spec::WorkerId;
use crate::sys::title;

/// A connection used so recently is not idle yet: the next request is on its way, perhaps, and
/// would find it closed. That request is answered with `Connection: close`.
const RECENT_MS: u64 = 500;
/// Requests in progress get so long where nobody supervises us any more.
const ORPHAN_MS: u64 = 5000;
/// A disk operation that nobody waits for gets so long: a look at how full the disk is, for one.
const FOR_NOBODY: Duration = Duration::from_secs(2);

/// A drain under way.
#[derive(Debug)]
pub(crate) struct Drain {
    began: u64,
    /// Nobody supervises us any more.
    orphan: bool,
}

impl Worker {
    /// Starts the drain, once.
    pub(crate) fn begin_drain(&mut self) {
        if self.drain.is_some() {
            return;
        }
        self.drain = Some(Drain { began: self.clock.now(), orphan: false });
        self.context.host.draining.store(true, Relaxed);
        self.slot.set_state(WorkerState::Draining);
        title::add(" shutting down");
        self.close_listeners();
        self.close_idle();
    }

    /// The control channel has ended.
    pub(crate) fn master_gone(&mut self) {
        if self.drain.as_ref().is_some_and(|drain| drain.orphan) {
            return;
        }
        log::error!("the master is gone: worker {} drains", self.id);
        self.begin_drain();
        if let Some(drain) = &mut self.drain {
            drain.began = self.clock.now();
            drain.orphan = true;
        }
        self.close_idle();
    }

    /// Closes connections with nothing in progress. What has arrived and not been read yet is in
    /// progress: each gets a last look.
    pub(crate) fn close_idle(&mut self) {
        let keys: Vec<usize> = self.conns.iter().map(|(key, _)| key).collect();
        for key in keys {
            if !self.is_idle(key) {
                continue;
            }
            self.conns[key].readable = true;
            self.advance(key);
            let quiet = !self.conns.get(key).is_some_and(|conn| conn.readable);
            if self.is_idle(key) && quiet && !self.bequeath(key) && !self.was_used_recently(key) {
                self.close(key);
            }
        }
    }

    /// Gives an idle connection to a worker that stays, if only this one goes. False: nobody takes
    /// it. A watcher takes its request along, to be made again.
    fn bequeath(&mut self, key: usize) -> bool {
        let orphan = self.drain.as_ref().is_some_and(|drain| drain.orphan);
        if orphan || self.board.draining() {
            return false;
        }
        let Some(heir) = self.neighbours.heir(self.clock.monotonic()) else { return false };
        let conn = &self.conns[key];
        if !conn.output.is_empty() {
            return false;
        }
        let watching = matches!(conn.state, State::Watching);
        self.give(key, heir, if watching { b"watch\n" } else { b"" })
    }

    /// Gives a connection with nothing in progress to another worker. False: it is still here.
    pub(crate) fn give(&mut self, key: usize, heir: WorkerId, input: &[u8]) -> bool {
        let conn = &self.conns[key];
        self.unwatch(conn);
        if self.neighbours.send(heir, &conn.as_passenger(input)).is_ok() {
            self.forget(key);
            return true;
        }
        // Not taken: it stays until it is closed, and may be used until then.
        self.watch_conn(key).is_err() && self.forget(key).is_some()
    }

    pub(crate) fn is_idle(&self, key: usize) -> bool {
        self.conns.get(key).is_some_and(|conn| {
            let between = matches!(conn.state, State::Reading(_)) && conn.output.is_empty();
            matches!(conn.state, State::Watching) || between && conn.input.is_empty()
        })
    }

    /// A watcher sends nothing that could be lost.
    fn was_used_recently(&self, key: usize) -> bool {
        let since = self.timers.since(key);
        !matches!(self.conns[key].state, State::Watching)
            && since.is_some_and(|since| self.clock.now().saturating_sub(since) < RECENT_MS)
    }

    /// True when this worker may go: nothing in progress, and nothing can come any more.
    pub(crate) fn drained(&mut self) -> bool {
        let Some(drain) = &self.drain else { return false };
        let limit = match self.settings.drain_timeout.as_millis() as u64 {
            0 if drain.orphan => ORPHAN_MS,
            limit if drain.orphan => limit.min(ORPHAN_MS),
            limit => limit,
        };
        if limit > 0 && self.clock.now().saturating_sub(drain.began) >= limit {
            let why = if drain.orphan { "the master is gone" } else { "drain_timeout" };
            log::warn!("{why}: {} connections are cut off", self.conns.len());
            return self.say_farewell();
        }
        if self.only_dead_disks_are_left() {
            if !self.conns.is_empty() {
                let count = self.conns.len();
                log::warn!("{count} requests wait for stalled devices: they are cut off");
            }
            return self.say_farewell();
        }
        let busy = !self.conns.is_empty() || self.has_disk_work();
        if busy || !self.others_hand_nothing_over() || !self.inbox_is_empty() {
            return false;
        }
        self.conns.is_empty() && self.say_farewell()
    }

    /// Work that will come back: what a stalled device holds was answered for, and may never.
    fn has_disk_work(&self) -> bool {
        self.pools.iter().any(|(key, pool)| pool.in_flight() > 0 && !self.is_stalled(*key))
    }

    /// A disk that has not answered for twice the time after which it counts as stalled is not
    /// waited for, when nothing else is left to do: an hour of drain_timeout would be for nothing.
    /// Where no client waits for it either, patience ends sooner.
    fn only_dead_disks_are_left(&self) -> bool {
        let patience = self.settings.stall_timeout * 2;
        let patience = if self.conns.is_empty() { patience.min(FOR_NOBODY) } else { patience };
        let is_dead = |pool: &Pool<Work>| pool.oldest().is_some_and(|oldest| oldest >= patience);
        let lent = self.conns.iter().all(|(_, conn)| conn.is_lent());
        let mut working = self.pools.values().filter(|pool| pool.in_flight() > 0).peekable();
        lent && working.peek().is_some() && working.all(is_dead)
    }

    /// While the whole node drains, a worker that has not noticed yet may still send a connection
    /// here. One that drains alone leaves its inbox to its replacement.
    fn others_hand_nothing_over(&self) -> bool {
        let orphan = self.drain.as_ref().is_some_and(|drain| drain.orphan);
        orphan
            || !self.board.draining()
            || self.board.live_workers().all(|(_, slot)| slot.state() == WorkerState::Draining)
    }

    /// Connections are closed by hand: a process with a thread that no signal can end keeps its
    /// descriptors for as long as the disk is hung.
    fn say_farewell(&mut self) -> bool {
        for (_, conn) in self.conns.iter() {
            let _ = shutdown(conn.fd().as_raw_fd(), Shutdown::Both);
        }
        // The master may be gone: then nobody needs to know.
        let _ = self.control.send(&Up::Drained, None);
        true
    }
}

impl State {
    /// Between two requests.
    pub(crate) fn idle() -> State {
        State::Reading(HeadScan::default())
    }
}
