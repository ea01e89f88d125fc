//! Leaving in order: stop accepting, close what is idle, finish what is in progress, go. See
//! PROTOCOL.md section 7 and DESIGN.md, "Where a request runs".

use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};

use crate::clients::conn::State;
use crate::control::Up;
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

/// Whether the worker leaves, and why. Times are the loop's clock, in milliseconds.
#[derive(Debug, Default)]
pub(super) struct Drain {
    began: Option<u64>,
    /// Nobody supervises us any more.
    orphan: bool,
}

impl Drain {
    /// Whether the worker is leaving.
    pub(super) fn is_on(&self) -> bool {
        self.began.is_some()
    }

    /// Whether it began so long ago that nothing can have been on its way before.
    pub(super) fn has_lasted(&self, now: u64) -> bool {
        self.began.is_some_and(|began| now.saturating_sub(began) >= RECENT_MS)
    }

    /// Begins, unless it has begun. True: just now.
    fn begin(&mut self, now: u64) -> bool {
        let first = self.began.is_none();
        self.began.get_or_insert(now);
        first
    }

    /// The master is gone: time counts from now on.
    fn note_orphan(&mut self, now: u64) {
        self.began = Some(now);
        self.orphan = true;
    }

    /// Whether it has taken longer than it may; a limit of zero is none.
    fn is_overdue(&self, limit: Duration, now: u64) -> bool {
        let limit = match limit.as_millis() as u64 {
            0 if self.orphan => ORPHAN_MS,
            limit if self.orphan => limit.min(ORPHAN_MS),
            limit => limit,
        };
        limit > 0 && self.began.is_some_and(|began| now.saturating_sub(began) >= limit)
    }
}

impl Worker {
    /// Starts the drain, once.
    pub(super) fn begin_drain(&mut self) {
        if !self.drain.begin(self.clock.now()) {
            return;
        }
        self.context.host.draining.store(true, Relaxed);
        self.slot.set_state(WorkerState::Draining);
        title::add(" shutting down");
        self.close_listeners();
        self.close_idle();
    }

    /// The control channel has ended.
    pub(super) fn master_gone(&mut self) {
        if self.drain.orphan {
            return;
        }
        log::error!("the master is gone: worker {} drains", self.id);
        self.begin_drain();
        self.drain.note_orphan(self.clock.now());
        self.close_idle();
    }

    /// Closes connections with nothing in progress. What has arrived and not been read yet is in
    /// progress: each gets a last look.
    pub(super) fn close_idle(&mut self) {
        for key in self.conns.keys_where(|_| true) {
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
        if self.drain.orphan || self.board.draining() {
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
    pub(super) fn give(&mut self, key: usize, heir: WorkerId, input: &[u8]) -> bool {
        let conn = &self.conns[key];
        self.unwatch(conn);
        if self.neighbours.send(heir, &conn.as_passenger(input)).is_ok() {
            self.forget(key);
            return true;
        }
        // Not taken: it stays until it is closed, and may be used until then.
        self.watch_conn(key).is_err() && self.forget(key).is_some()
    }

    pub(super) fn is_idle(&self, key: usize) -> bool {
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
    pub(super) fn drained(&mut self) -> bool {
        if !self.drain.is_on() {
            return false;
        }
        if self.drain.is_overdue(self.settings.drain_timeout, self.clock.now()) {
            let why = if self.drain.orphan { "the master is gone" } else { "drain_timeout" };
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
        let busy = !self.conns.is_empty() || self.devices.have_work();
        if busy || !self.others_hand_nothing_over() || !self.inbox_is_empty() {
            return false;
        }
        self.conns.is_empty() && self.say_farewell()
    }

    /// A disk that has not answered for twice the time after which it counts as stalled is not
    /// waited for, when nothing else is left to do: an hour of drain_timeout would be for nothing.
    /// Where no client waits for it either, patience ends sooner.
    fn only_dead_disks_are_left(&self) -> bool {
        let patience = self.settings.stall_timeout * 2;
        let patience = if self.conns.is_empty() { patience.min(FOR_NOBODY) } else { patience };
        let lent = self.conns.iter().all(|(_, conn)| conn.is_lent());
        lent && self.devices.are_all_dead_for(patience)
    }

    /// While the whole node drains, a worker that has not noticed yet may still send a connection
    /// here. One that drains alone leaves its inbox to its replacement.
    fn others_hand_nothing_over(&self) -> bool {
        self.drain.orphan
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
    pub(super) fn idle() -> State {
        State::Reading(HeadScan::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_begins_once_and_has_its_time() {
        let mut drain = Drain::default();
        assert!(!drain.is_on() && !drain.is_overdue(Duration::from_secs(1), 9000));
        assert!(drain.begin(100));
        assert!(!drain.begin(900), "it has begun");
        assert!(!drain.is_overdue(Duration::from_secs(1), 1099));
        assert!(drain.is_overdue(Duration::from_secs(1), 1100));
        assert!(!drain.is_overdue(Duration::ZERO, u64::MAX), "no limit");
    }

    #[test]
    fn without_a_master_it_has_five_seconds_at_most() {
        let mut drain = Drain::default();
        drain.begin(0);
        drain.note_orphan(10_000);
        for limit in [Duration::ZERO, Duration::from_secs(3600)] {
            assert!(!drain.is_overdue(limit, 14_999));
            assert!(drain.is_overdue(limit, 15_000));
        }
        assert!(drain.is_overdue(Duration::from_secs(1), 11_000));
    }
}
