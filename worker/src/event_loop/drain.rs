//! Leaving in order: stop accepting, give away or close what is between two requests, finish what
//! is in progress, go. A watcher goes to whoever stays, too. See PROTOCOL.md section 7.
//!
//! Where nobody stays, but somebody comes (a replacement, or new workers after SIGWINCH), all that
//! is left goes into this worker's own inbox in its last moment: until then it is served here.

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
use crate::event_loop::leaving::Why;
use crate::scoreboard::WorkerState;
use crate::spec::{LiveOn, WorkerId};
use crate::sys::{socket, title};

/// A connection used so recently is not idle yet: the next request is on its way, perhaps, and
/// would find it closed. Where nobody takes it, that request is answered with `Connection: close`.
const RECENT_MS: u64 = 500;
/// A drain looks this often whether it is over.
pub(super) const DRAIN_TICK_MS: u64 = 20;
/// So many connections at most are given away at once: the kernel has 4 KiB for each that is
/// under way, and the heir takes as many in a tick.
const MOST_AT_ONCE: usize = 150;
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

impl Worker {
    /// Starts the drain, once.
    pub(super) fn begin_drain(&mut self, why: Why) {
        if self.drain.begin(self.clock.now(), why) {
            if self.drain.is_replaced() {
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
        self.tick_in(DRAIN_TICK_MS);
    }

    /// The control channel has ended.
    pub(super) fn master_gone(&mut self) {
        if self.drain.is_orphan() {
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
        self.drain.is_orphan() || self.board.draining()
    }

    /// Whether nobody of the node has what this worker leaves, now or later.
    fn is_last(&self) -> bool {
        self.all_leave() || self.drain.has_given_up()
    }

    /// Answers say that the connection closes only where nobody takes it over.
    pub(super) fn settle_answers(&self) {
        self.context.host().set_live_on(match self.drain.is_on() && self.is_last() {
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
        let mut given = 0;
        // The last ones first, so that their memory is the heirs' at once.
        for key in self.conns.keys_where(Conn::is_between_requests).into_iter().rev() {
            if !self.conns.get(key).is_some_and(Conn::is_between_requests) {
                continue;
            }
            if given == MOST_AT_ONCE {
                self.drain.set_crowded(true);
                break;
            }
            if self.drain.is_crowded() && self.lives_on(key) {
                continue;
            }
            match self.bequeath(key) {
                Given::Gone => given += 1,
                Given::Later => {}
                Given::Never => self.close_if_idle(key),
            }
        }
        self.shrink();
        if self.drain.has_lasted(self.clock.now()) {
            self.conns.keys_where(Conn::is_deaf).into_iter().for_each(|key| self.close(key));
        }
    }

    /// Memory of connections that are gone is given back.
    fn shrink(&mut self) {
        self.conns.shrink();
        self.timers.shrink();
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
        let input = self.input_to_leave(key);
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

    fn input_to_leave(&self, key: usize) -> Vec<u8> {
        match self.conns[key].state() {
            State::Watching => b"watch\n".to_vec(),
            _ => self.conns[key].input().to_vec(),
        }
    }

    /// Sends a connection to who has it from now on: another worker, or one of the other node in an
    /// upgrade. `WouldBlock`: somebody will have it.
    fn leave_behind(&mut self, key: usize, input: &[u8]) -> io::Result<()> {
        let passenger = self.conns[key].as_passenger(input);
        if !self.all_leave()
            && let Some(heir) = self.neighbours.heir(self.clock.monotonic())
        {
            return self.neighbours.send(heir, &passenger).map_err(|e| match inbox::is_full(&e) {
                true => e,
                false => {
                    self.neighbours.remove(heir); // The next one is asked at the next tick.
                    io::ErrorKind::WouldBlock.into()
                }
            });
        }
        if !self.heirs.is_empty()
            && let Some(local) = socket::local_address(passenger.socket)
        {
            match self.heirs.send(&passenger, local) {
                Err(e) if !inbox::is_full(&e) => {}
                sent => {
                    self.slot.handed_over.fetch_add(u64::from(sent.is_ok()), Relaxed);
                    return sent;
                }
            }
        }
        let kind = match self.may_stay_behind(key) {
            true => io::ErrorKind::WouldBlock,
            false => io::ErrorKind::NotFound,
        };
        Err(kind.into())
    }

    /// Whether a connection may wait in this worker's inbox for whoever gets that next. Where nobody
    /// may come for long, what has begun is finished here.
    fn may_stay_behind(&self, key: usize) -> bool {
        let rests = || match self.drain.is_replaced() {
            true => self.conns[key].is_between_requests(),
            false => self.conns[key].is_between_requests() && self.is_idle(key),
        };
        !self.is_last() && rests()
    }

    /// Whether a connection takes no new request now, so that all of them come to rest together.
    pub(super) fn is_held(&self, key: usize) -> bool {
        self.drain.is_holding() && self.may_stay_behind(key)
    }

    /// Where nobody stays who could have the connections: takes no more requests for a moment, again
    /// and again, until there is one in which all of them rest.
    pub(super) fn hold_or_serve(&mut self) {
        let now = self.clock.now();
        let alone = !self.is_last()
            && !self.conns.is_empty()
            && self.neighbours.heir(self.clock.monotonic()).is_none();
        if alone && self.way_back.is_none() && self.drain.is_impatient(now) {
            log::warn!("worker {}: there is no way to leave connections to the next one", self.id);
            self.drain.give_up();
        }
        if self.drain.hold(alone && self.way_back.is_some(), now) {
            return;
        }
        // Who has asked meanwhile is answered now.
        for key in self.conns.keys_where(|conn| conn.is_between_requests() && conn.is_readable()) {
            self.advance(key);
        }
    }

    /// All that is left is between two requests: it goes into this worker's own inbox, as far as
    /// there is room, for whoever has that next.
    fn leave_all_behind(&mut self) {
        let keys: Vec<usize> = self.conns.iter().map(|(key, _)| key).collect();
        let Some(own) = self.way_back.as_ref().filter(|_| self.drain.is_holding()) else { return };
        if !keys.iter().all(|key| self.is_held(*key)) {
            return;
        }
        self.inbox.leave();
        let mut left = Vec::new();
        for key in keys {
            let input = self.input_to_leave(key);
            let Passenger { socket, service, site, input } = self.conns[key].as_passenger(&input);
            match inbox::send_connection(own.as_fd(), socket, service, site, input) {
                Ok(()) => left.push(key),
                // The others are closed in order, and told so.
                Err(e) => {
                    let count = self.conns.len() - left.len();
                    log::warn!("{count} connections find no room to wait for the next worker: {e}");
                    self.drain.give_up();
                    break;
                }
            }
        }
        left.into_iter().for_each(|key| self.let_live(key));
        self.settle_answers();
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
        if self.all_leave() {
            self.inbox.take_back(); // Nobody has it next.
        }
        if self.drain.is_overdue(self.settings.drain_timeout, self.clock.now()) {
            let why = if self.drain.is_orphan() { "the master is gone" } else { "drain_timeout" };
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
        if self.drain.is_holding()
            && (!self.devices.have_work() || self.devices.are_all_dead_for(FOR_NOBODY))
        {
            self.leave_all_behind();
        }
        let busy = !self.conns.is_empty() || self.devices.have_work();
        let expects = self.all_leave() && self.drain.may_be_given_something(self.clock.now());
        if busy || expects || !self.others_hand_nothing_over() || !self.inbox_is_empty() {
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
        let is_dead =
            |id| self.drain.is_orphan() && self.neighbours.is_stuck(id, Duration::ZERO, now);
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
