//! Accepting: one connection per wake-up of one worker, evened out between workers, and what is
//! done when there are too many (PROTOCOL.md section 2.7).

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;

use crate::clients::balance::{Balance, Load, Surplus, least_loaded};
use crate::clients::conn::Conn;
use crate::clients::listeners::Newcomer;
use crate::clients::neighbours::Passenger;
use crate::clients::timers::Wait;
use crate::event_loop::Worker;
use crate::spec::{Service, WorkerId};

/// A connection idle for so long may be closed to make room.
const IDLE_ENOUGH_MS: u64 = 5000;
/// Connections closed at once when room is needed.
const MAKE_ROOM: usize = 16;
/// Pending connections that are taken before a listener is closed.
const BACKLOG: usize = 1024;

impl Worker {
    /// Stops accepting for good. A connection whose wake-up went to this worker would wake nobody
    /// else: what is pending now is taken first, after which no wake-up comes here any more.
    pub(super) fn close_listeners(&mut self) {
        self.listeners.pause(&self.poll);
        for index in 0..self.listeners.count() {
            let mut left = BACKLOG;
            while left > 0 && self.accept_one(index) {
                left -= 1;
            }
        }
        self.listeners.close(&self.poll);
    }

    /// Tries to accept again after a pause. Called at each tick and when a connection has gone.
    pub(super) fn resume_listeners(&mut self) {
        if !self.listeners.is_paused() || self.listeners.count() == 0 {
            return;
        }
        // With room made the pause ends, for `close` comes back here.
        let full = self.is_full() && !self.make_room();
        if !full && let Err(e) = self.listeners.watch(&self.poll) {
            log::error!("cannot watch the listeners: {e}");
        }
    }

    /// Takes one connection: if more are waiting, the next wait returns at once. True when there
    /// was one.
    pub(super) fn accept(&mut self, index: usize) -> bool {
        if self.is_full() && !self.make_room() && !self.another_has_room() {
            self.listeners.pause(&self.poll);
            return false;
        }
        let taken = self.accept_one(index);
        // Nobody took it: their inboxes are full. No more until there is room here.
        if self.conns.len() > self.settings.maxconns {
            self.listeners.pause(&self.poll);
        }
        taken
    }

    /// Takes all that is pending and that there is room for.
    pub(super) fn accept_pending(&mut self) {
        for index in 0..self.listeners.count() {
            let mut left = BACKLOG;
            while left > 0 && !self.listeners.is_paused() && self.accept(index) {
                left -= 1;
            }
        }
    }

    /// True when there was a connection.
    fn accept_one(&mut self, index: usize) -> bool {
        match self.listeners.accept(index) {
            Ok(newcomer) => {
                self.slot.accepted.fetch_add(1, Relaxed);
                if let Some(Newcomer { socket, peer, service, site }) = self.pass_on(newcomer) {
                    self.adopt(socket, peer, service, site, Vec::new());
                }
                true
            }
            Err(e) => {
                self.bear_with(&e);
                false
            }
        }
    }

    fn bear_with(&mut self, error: &io::Error) {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                // Files are opened again easily; clients are closed when that is not enough.
                if !self.give_up_files() && !self.make_room() {
                    self.listeners.complain(error, self.clock.now());
                    self.listeners.pause(&self.poll);
                }
            }
            // Another worker was faster, or the client has gone already: accept(2).
            _ => log::debug!("accept: {error}"),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.conns.len() >= self.settings.maxconns
    }

    /// The kernel has woken this worker alone for the connection: if it stays in the queue here,
    /// no other will take it.
    fn another_has_room(&self) -> bool {
        let least = least_loaded(&self.other_loads());
        least.is_some_and(|least| (least.connections as usize) < self.settings.maxconns)
    }

    /// Closes the connections that have been idle longest. False: none has been for long enough.
    pub(super) fn make_room(&mut self) -> bool {
        let mut closed = 0;
        while closed < MAKE_ROOM {
            let oldest = [Wait::Idle, Wait::Head].map(|wait| self.timers.oldest(wait));
            let Some((key, since)) = oldest.into_iter().flatten().min_by_key(|&(_, since)| since)
            else {
                break;
            };
            if self.clock.now().saturating_sub(since) < IDLE_ENOUGH_MS {
                break;
            }
            self.close(key);
            closed += 1;
        }
        closed > 0
    }

    /// Gives a new connection to another worker when this one has clearly more than its share.
    fn pass_on(&mut self, newcomer: Newcomer) -> Option<Newcomer> {
        let heir = match self.is_full() {
            true => least_loaded(&self.other_loads()).map(|least| least.worker),
            false => self.surplus().map(|surplus| surplus.heir),
        };
        let Some(heir) = heir else { return Some(newcomer) };
        let Newcomer { service, site, .. } = newcomer;
        let passenger = Passenger { socket: newcomer.socket.as_fd(), service, site, input: b"" };
        let sent = self.neighbours.send(heir, &passenger);
        sent.is_err().then_some(newcomer)
    }

    /// Gives idle connections away when there are clearly too many here, or so few that they are
    /// better off elsewhere. Those that have needed its disk threads since the last tick would
    /// only come back.
    pub(super) fn even_out(&mut self) {
        let rooted = self.loans.take_rooted();
        if self.drain.is_on() || self.conns.is_empty() || self.neighbours.is_empty() {
            return;
        }
        let Some(Surplus { heir, count }) = self.surplus().or_else(|| self.strays()) else {
            return;
        };
        let may_go = |(key, conn): &(usize, &Conn)| {
            conn.service != Service::Mgmt && !rooted.contains(key) && self.is_idle(*key)
        };
        let those = self.conns.iter().filter(may_go).map(|(key, _)| key);
        let keys: Vec<usize> = those.take(count as usize).collect();
        for key in keys {
            if !self.give(key, heir, b"") {
                return;
            }
        }
    }

    fn surplus(&self) -> Option<Surplus> {
        let own = self.own_load();
        if !Balance::may_be_crowded(own.connections) {
            return None;
        }
        self.balance.surplus(own, &self.other_loads(), || self.neighbours.with_dead_disks())
    }

    fn strays(&self) -> Option<Surplus> {
        let sick: Vec<WorkerId> = self.neighbours.with_dead_disks();
        self.balance.strays(self.own_load(), &self.other_loads(), &sick)
    }

    fn own_load(&self) -> Load {
        Load { worker: self.id, connections: self.conns.len() as u32 }
    }

    fn other_loads(&self) -> Vec<Load> {
        self.neighbours.loads(self.clock.monotonic())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::scoreboard::WorkerState;
    use crate::spec::{Listener, Peer, SiteId};
    use crate::sys::socket::{self, seqpacket_pair};

    const OTHER: WorkerId = WorkerId(1);

    /// A full worker accepts for one that has room, and keeps what the other's inbox does not take.
    #[test]
    fn full_worker_stops_accepting_when_nobody_takes_its_connections() {
        let docroot = tempfile::tempdir().unwrap();
        let (mut spec, _master) = crate::testing::spec(docroot.path(), false);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (service, site) = (Service::Http, SiteId(0));
        spec.listeners = vec![Listener { fd: listener.into(), service, site }];
        let (inbox, _receiver) = seqpacket_pair().unwrap();
        while socket::send_with_fd(inbox.as_fd(), &[&[0; 1024]], None).is_ok() {}
        spec.peers = vec![Peer { worker: OTHER, inbox }];
        let most = spec.settings.maxconns;
        let mut worker = Worker::new(spec).unwrap();
        let other = worker.board.worker(OTHER);
        other.set_state(WorkerState::Running);
        other.heartbeat.store(worker.clock.monotonic(), Relaxed);
        worker.listeners.watch(&worker.poll).unwrap();
        let _clients: Vec<_> =
            (0..most + 5).map(|_| TcpStream::connect(address).unwrap()).collect();
        worker.accept_pending();
        assert_eq!(worker.conns.len(), most + 1);
        assert!(worker.listeners.is_paused());
        // Room again: the rest may come.
        worker.close(0);
        worker.close(1);
        assert!(!worker.listeners.is_paused());
    }
}
