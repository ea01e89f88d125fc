//! Leaving in order: stop accepting, close what is idle, finish what is in progress, go. See
//! PROTOCOL.md section 7 and DESIGN.md, "Where a request runs".

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};

use crate::clients::conn::{Conn, Ending, State};
use crate::clients::inbox;
use crate::clients::neighbours::Passenger;
use crate::control::Up;
use crate::event_loop::Worker;
use crate::scoreboard::WorkerState;
use crate::spec::{LiveOn, WorkerId};
use crate::sys::{socket, title};

/// A connection used so recently is not idle yet: the next request is on its way, perhaps, and
/// would find it closed. That request is answered with `Connection: close`.
const RECENT_MS: u64 = 500;
/// So long after its beginning a drain of one worker is not the beginning of the node's.
const FOR_SURE_MS: u64 = 100;
/// Requests in progress get so long where nobody supervises us any more.
const ORPHAN_MS: u64 = 5000;
/// A disk operation that nobody waits for gets so long: a look at how full the disk is, for one.
const FOR_NOBODY: Duration = Duration::from_secs(2);

/// What became of a connection that others are to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Given {
    /// It is theirs.
    Gone,
    /// There is no room in their inboxes now.
    Later,
    /// Nobody takes it.
    Never,
}

/// Whether the worker leaves, and why. Times are the loop's clock, in milliseconds.
#[derive(Debug, Default)]
pub(super) struct Drain {
    began: Option<u64>,
    /// Nobody supervises us any more.
    orphan: bool,
    /// A signal told this worker alone: it is replaced at once.
    replaced: bool,
    /// Whoever is to have connections had no room for one since the last tick.
    crowded: bool,
}

impl Drain {
    /// Whether the whole node would have been told to go by now, if it was: a service manager may
    /// signal all of its processes.
    fn is_for_sure(&self, now: u64) -> bool {
        self.began.is_some_and(|began| now.saturating_sub(began) >= FOR_SURE_MS)
    }

    /// What has no room elsewhere is tried again with the next tick: not with each event.
    fn set_crowded(&mut self, crowded: bool) {
        self.crowded = crowded;
    }

    /// Whether there was no room for a connection since the last tick.
    pub(super) fn is_crowded(&self) -> bool {
        self.crowded
    }

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

    /// The master is gone, and with it every other worker: time counts from now on.
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
    /// Starts the drain, once. `replaced`: it is this worker's alone, and another one comes.
    pub(super) fn begin_drain(&mut self, replaced: bool) {
        if self.drain.begin(self.clock.now()) {
            if replaced {
                self.drain.replaced = true;
                self.say_that_it_leaves();
            }
            self.leave();
        }
    }

    fn leave(&mut self) {
        self.context.host().leave();
        self.settle_answers();
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
        let drains = self.drain.is_on();
        self.drain.note_orphan(self.clock.now());
        match drains {
            true => self.close_idle(),
            false => self.leave(),
        }
    }

    /// Whether all workers of the node leave, so that nobody of them has what this one leaves.
    fn all_leave(&self) -> bool {
        self.drain.orphan || self.board.draining()
    }

    /// Answers say that the connection closes only where nobody takes it over.
    pub(super) fn settle_answers(&self) {
        self.context.host().set_live_on(match self.drain.is_on() && self.all_leave() {
            true => LiveOn::From(self.heirs.addresses()),
            false => LiveOn::All,
        });
    }

    /// Whether a connection goes on when this worker has gone.
    pub(super) fn lives_on(&self, key: usize) -> bool {
        self.context.host().lives_on(self.conns[key].fd())
    }

    /// Gives away or closes connections with nothing in progress.
    pub(super) fn close_idle(&mut self) {
        self.settle_answers();
        self.drain.set_crowded(false);
        for key in self.conns.keys_where(Conn::is_between_requests) {
            if !self.conns.get(key).is_some_and(Conn::is_between_requests) {
                continue;
            }
            let waits = self.drain.is_crowded() && self.lives_on(key);
            if !waits && self.bequeath(key) == Given::Never {
                self.close_if_idle(key);
            }
        }
        if self.drain.has_lasted(self.clock.now()) {
            self.conns.keys_where(Conn::is_deaf).into_iter().for_each(|key| self.close(key));
        }
    }

    /// What has arrived and not been read yet is in progress: there is a last look.
    fn close_if_idle(&mut self, key: usize) {
        self.conns[key].look_again();
        self.advance(key);
        let rests = |conn: &Conn| conn.is_between_requests() && !conn.is_readable();
        let rests = self.conns.get(key).is_some_and(rests);
        if rests && self.is_idle(key) && !self.was_used_recently(key) {
            // Who asks at this moment gets the end of the stream, and no reset.
            if matches!(self.conns[key].state(), State::Watching) {
                self.stop_watching(key);
            }
            let next = self.end(key, Ending::Lingering);
            if self.act(key, next) {
                self.advance(key);
            }
        }
    }

    /// In a drain: gives a connection between two requests, with the beginning of the next one, to
    /// whoever stays. A watcher takes its request along, to be made again.
    pub(super) fn bequeath(&mut self, key: usize) -> Given {
        let input = match self.conns[key].state() {
            State::Watching => b"watch\n".to_vec(),
            _ => self.conns[key].input().to_vec(),
        };
        match self.leave_behind(key, &input) {
            Ok(()) => {
                self.let_live(key);
                Given::Gone
            }
            Err(e) if inbox::is_full(&e) => {
                self.drain.set_crowded(true);
                Given::Later
            }
            Err(_) => Given::Never,
        }
    }

    /// Sends a connection to who has it from now on: another worker, one of the other node in an
    /// upgrade, or whoever gets this worker's inbox next.
    fn leave_behind(&mut self, key: usize, input: &[u8]) -> io::Result<()> {
        let conn = &self.conns[key];
        let passenger = conn.as_passenger(input);
        if !self.all_leave()
            && let Some(heir) = self.neighbours.heir(self.clock.monotonic())
        {
            return self.neighbours.send(heir, &passenger);
        }
        let sent = match socket::local_address(conn.fd()) {
            Some(local) if !self.heirs.is_empty() => self.heirs.send(&passenger, local),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        let sent = match sent {
            Err(e) if !inbox::is_full(&e) && self.may_stay_behind(key) => {
                if !self.drain.is_for_sure(self.clock.now()) {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                let Some(own) = &self.way_back else { return Err(e) };
                self.inbox.leave();
                let Passenger { socket, service, site, input } = passenger;
                inbox::send_connection(own.as_fd(), socket, service, site, input)
            }
            sent => sent,
        };
        if sent.is_ok() {
            self.slot.handed_over.fetch_add(1, Relaxed);
        }
        sent
    }

    /// Whether a connection may wait in this worker's inbox for whoever gets that next. Where nobody
    /// may come for long, what has begun is finished here.
    fn may_stay_behind(&self, key: usize) -> bool {
        !self.all_leave() && (self.drain.replaced || self.is_idle(key))
    }

    /// Gives a connection with nothing in progress to another worker. False: it is still here.
    pub(super) fn give(&mut self, key: usize, heir: WorkerId, input: &[u8]) -> bool {
        let given = self.neighbours.send(heir, &self.conns[key].as_passenger(input)).is_ok();
        if given {
            self.let_live(key);
        }
        given
    }

    /// Forgets a connection that somebody else has. Only afterwards is it taken out of epoll: put
    /// back there it would be told of as if something had happened.
    fn let_live(&mut self, key: usize) {
        if let Some(conn) = self.forget(key) {
            self.unwatch(&conn);
        }
    }

    pub(super) fn is_idle(&self, key: usize) -> bool {
        self.conns.get(key).is_some_and(|conn| {
            let between = matches!(conn.state(), State::Reading(_)) && conn.unsent() == 0;
            matches!(conn.state(), State::Watching) || between && conn.input().is_empty()
        })
    }

    /// A watcher sends nothing that could be lost.
    fn was_used_recently(&self, key: usize) -> bool {
        let since = self.timers.since(key);
        !matches!(self.conns[key].state(), State::Watching)
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

    /// While all workers drain, one that has not noticed yet may still send a connection
    /// here. One that drains alone leaves its inbox to its replacement. Without a master nobody
    /// notes that one has died.
    fn others_hand_nothing_over(&self) -> bool {
        let now = self.clock.monotonic();
        let is_dead = |id| self.drain.orphan && self.neighbours.is_stuck(id, Duration::ZERO, now);
        !self.all_leave()
            || self
                .board
                .live_workers()
                .all(|(id, slot)| slot.state() == WorkerState::Draining || is_dead(id))
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
