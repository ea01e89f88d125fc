//! Accepting: one connection per wake-up of one worker, evened out between workers, and what is
//! done when there are too many (PROTOCOL.md section 2.7).

use std::cmp::Reverse;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mio::unix::SourceFd;
use std::os::fd::AsRawFd;

use crate::clients::conn::Conn;
use crate::clients::inbox;
use crate::clients::timers::Wait;
use crate::event_loop::{FIRST_LISTENER, Worker};
use crate::scoreboard::{DeviceState, WorkerState};
use crate::spec::{Listener, Service, WorkerId};
use crate::sys::socket;

/// A connection idle for so long may be closed to make room.
const IDLE_ENOUGH_MS: u64 = 5000;
/// Connections closed at once when room is needed.
const MAKE_ROOM: usize = 16;
/// A worker that has shown no life for so long gets no connections.
pub(crate) const STUCK: Duration = Duration::from_secs(3);
/// Pending connections that are taken before a listener is closed.
const BACKLOG: usize = 1024;
/// How often the log is told that there is no room.
const COMPLAIN_MS: u64 = 60_000;
/// A worker gives away connections when it has so many more than its share. Fewer are as well off
/// together: what is spread thin costs a change between processes for each request.
const SURPLUS: u32 = 16;
/// Idle connections given away at a tick.
const MOST_GIVEN: u32 = 64;

/// The shared listeners as one worker uses them.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<Listener>,
    /// Not in the epoll set for now: there is no room.
    paused: bool,
    /// When the log was last told that there is no room.
    complained: Option<u64>,
    /// Workers that connections are spread over: one for each processor, and not all to one, so
    /// that a crash never closes all of them.
    lanes: u32,
    /// More workers are used when these would have more connections than this: half of what one
    /// may hold, or has descriptors for.
    comfortable: u32,
}

impl Listeners {
    /// Listeners that are not being watched yet, for a worker that may have so many connections.
    pub fn new(sockets: Vec<Listener>, most: u64) -> Listeners {
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let lanes = processors.max(2) as u32;
        let comfortable = (most / 2).clamp(1, u32::MAX.into()) as u32;
        Listeners { sockets, paused: true, complained: None, lanes, comfortable }
    }
}

impl Worker {
    /// Starts accepting, or starts again.
    pub(crate) fn watch_listeners(&mut self) -> io::Result<()> {
        if !self.listeners.paused {
            return Ok(());
        }
        for (index, listener) in self.listeners.sockets.iter().enumerate() {
            let token = FIRST_LISTENER + index;
            socket::watch_exclusively(self.epoll(), listener.fd.as_fd(), token)?;
        }
        self.listeners.paused = false;
        Ok(())
    }

    /// Stops accepting for good. A connection whose wake-up went to this worker would wake nobody
    /// else: what is pending now is taken first, after which no wake-up comes here any more.
    pub(crate) fn close_listeners(&mut self) {
        self.pause_listeners();
        for index in 0..self.listeners.sockets.len() {
            let mut left = BACKLOG;
            while left > 0 && self.accept_one(index) {
                left -= 1;
            }
        }
        self.listeners.sockets.clear();
    }

    /// Tries to accept again after a pause. Called at each tick and when a connection has gone.
    pub(crate) fn resume_listeners(&mut self) {
        if !self.listeners.paused || self.listeners.sockets.is_empty() {
            return;
        }
        // With room made the pause ends, for `close` comes back here.
        let full = self.is_full() && !self.make_room();
        if !full && let Err(e) = self.watch_listeners() {
            log::error!("cannot watch the listeners: {e}");
        }
    }

    fn pause_listeners(&mut self) {
        if !std::mem::replace(&mut self.listeners.paused, true) {
            for listener in &self.listeners.sockets {
                let _ = self.registry().deregister(&mut SourceFd(&listener.fd.as_raw_fd()));
            }
        }
    }

    /// Takes one connection: if more are waiting, the next wait returns at once. True when there
    /// was one.
    pub(crate) fn accept(&mut self, index: usize) -> bool {
        if self.is_full() && !self.make_room() && !self.another_has_room() {
            self.pause_listeners();
            return false;
        }
        let taken = self.accept_one(index);
        // Nobody took it: their inboxes are full. No more until there is room here.
        if self.conns.len() > self.settings.maxconns {
            self.pause_listeners();
        }
        taken
    }

    /// Takes all that is pending and that there is room for.
    pub(crate) fn accept_pending(&mut self) {
        for index in 0..self.listeners.sockets.len() {
            let mut left = BACKLOG;
            while left > 0 && !self.listeners.paused && self.accept(index) {
                left -= 1;
            }
        }
    }

    /// True when there was a connection.
    fn accept_one(&mut self, index: usize) -> bool {
        let Some(listener) = self.listeners.sockets.get(index) else { return false };
        let (service, site) = (listener.service, listener.site);
        let accepted = socket::accept(listener.fd.as_fd());
        let taken = accepted.is_ok();
        match accepted {
            Ok((fd, peer)) => {
                self.slot.accepted.fetch_add(1, Relaxed);
                if let Some(fd) = self.pass_on(fd, index) {
                    self.adopt(fd, peer, service, site, Vec::new());
                }
            }
            Err(e) => match e.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                    // Files are opened again easily; clients are closed when that is not enough.
                    if !self.give_up_files() && !self.make_room() {
                        self.complain(&e);
                        self.pause_listeners();
                    }
                }
                // Another worker was faster, or the client has gone already: accept(2).
                _ => log::debug!("accept: {e}"),
            },
        }
        taken
    }

    fn is_full(&self) -> bool {
        self.conns.len() >= self.settings.maxconns
    }

    /// The kernel has woken this worker alone for the connection: if it stays in the queue here,
    /// no other will take it.
    fn another_has_room(&self) -> bool {
        self.least_loaded().is_some_and(|(least, _)| (least as usize) < self.settings.maxconns)
    }

    /// Says once a minute that connections have to wait.
    fn complain(&mut self, error: &io::Error) {
        let told = self.listeners.complained;
        if told.is_none_or(|at| self.clock.now().saturating_sub(at) > COMPLAIN_MS) {
            self.listeners.complained = Some(self.clock.now());
            log::warn!("new connections have to wait: accept: {error}");
        }
    }

    /// Closes the connections that have been idle longest. False: none has been for long enough.
    pub(crate) fn make_room(&mut self) -> bool {
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
    fn pass_on(&mut self, fd: OwnedFd, index: usize) -> Option<OwnedFd> {
        let listener = &self.listeners.sockets[index];
        let heir = match self.is_full() {
            true => self.least_loaded().map(|(_, id)| id),
            false => self.surplus().map(|surplus| surplus.heir),
        };
        let Some(id) = heir else { return Some(fd) };
        let Some(inbox) = self.peers.get(&id) else { return Some(fd) };
        let target = self.board.worker(id);
        target.inbox_pending.fetch_add(1, Relaxed);
        let sent =
            inbox::send_connection(inbox.as_fd(), fd.as_fd(), listener.service, listener.site, &[]);
        match sent {
            Ok(()) => {
                self.slot.handed_over.fetch_add(1, Relaxed);
                None
            }
            Err(_) => {
                target.inbox_pending.fetch_sub(1, Relaxed);
                Some(fd)
            }
        }
    }

    /// Gives idle connections away when there are clearly too many here, or so few that they are
    /// better off elsewhere: requests for the devices of one worker bring connections to it, and
    /// nothing else would ever take them away again. Those that have needed its disk threads since
    /// the last tick would only come back.
    pub(crate) fn even_out(&mut self) {
        let rooted = std::mem::take(&mut self.rooted);
        if self.drain.is_some() || self.conns.is_empty() || self.peers.is_empty() {
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

    /// What is here beyond this worker's share of all connections, and who has room for it.
    fn surplus(&self) -> Option<Surplus> {
        let own = self.conns.len() as u32;
        if own <= SURPLUS {
            return None; // Whatever the others have.
        }
        let (lanes, all) = self.lanes();
        let share = all / lanes;
        if own <= share + SURPLUS {
            return None;
        }
        // The fullest of those with room, so that connections gather.
        let sick = self.with_dead_disks();
        let with_room = |(load, id): &(u32, WorkerId)| *load < share && !sick.contains(id);
        let (load, heir) = self.loads().filter(with_room).max()?;
        Some(Surplus { heir, count: (own - share).min(share - load).min(MOST_GIVEN) })
    }

    /// All that is here, where enough other workers have more connections.
    fn strays(&self) -> Option<Surplus> {
        let sick = self.with_dead_disks();
        let own = (self.conns.len() as u32, Reverse(self.id));
        let (lanes, all) = self.lanes();
        let mut fuller: Vec<_> = self.loads().map(|(load, id)| (load, Reverse(id))).collect();
        fuller.retain(|other| !sick.contains(&other.1.0));
        if !sick.contains(&self.id) {
            fuller.retain(|other| *other > own);
        }
        if fuller.len() < lanes as usize {
            return None;
        }
        fuller.sort_unstable_by(|a, b| b.cmp(a));
        let (load, Reverse(heir)) = fuller[lanes as usize - 1];
        let room = all.div_ceil(lanes).saturating_sub(load);
        (room > 0).then(|| Surplus { heir, count: room.min(MOST_GIVEN) })
    }

    /// Workers that a dead disk may take along when they end: not where connections should gather.
    fn with_dead_disks(&self) -> Vec<WorkerId> {
        let devices = self.board.devices().into_iter();
        let stalled = devices.filter(|(_, slot)| slot.state() == DeviceState::Stalled);
        stalled.map(|(_, slot)| slot.owner()).collect()
    }

    /// How many workers all connections should be with, and how many these are. There are as many
    /// as processors to run them: each further one costs more changes between processes, for which
    /// there is nothing to gain.
    fn lanes(&self) -> (u32, u32) {
        let workers = self.loads().count() as u32 + 1;
        let all = self.conns.len() as u32 + self.loads().map(|(load, _)| load).sum::<u32>();
        let needed = all / self.listeners.comfortable + 1;
        (self.listeners.lanes.max(needed).min(workers), all)
    }

    fn least_loaded(&self) -> Option<(u32, WorkerId)> {
        self.loads().min()
    }

    /// The workers that connections may be given to, and how many each has.
    fn loads(&self) -> impl Iterator<Item = (u32, WorkerId)> {
        self.peers
            .keys()
            .map(|id| (id, self.board.worker(*id)))
            // One of another generation may not know the docroot of this listener.
            .filter(|(_, slot)| slot.generation.load(Relaxed) == self.slot.generation.load(Relaxed))
            .filter(|(_, slot)| slot.state() == WorkerState::Running && !self.is_stuck(slot, STUCK))
            .map(|(id, slot)| {
                let coming = slot.inbox_pending.load(Relaxed).max(0) as u32;
                (slot.connections.load(Relaxed) + coming, *id)
            })
    }
}

/// Connections that another worker should have.
struct Surplus {
    heir: WorkerId,
    count: u32,
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::spec::{DeviceKey, Peer, SiteId};
    use crate::sys::socket::seqpacket_pair;

    const OTHER: WorkerId = WorkerId(1);

    /// A worker with so many connections, and three others with as many as the scoreboard says.
    /// Two lanes.
    fn one_of_four(own: usize, others: [u32; 3]) -> (Worker, impl Sized) {
        let docroot = tempfile::tempdir().unwrap();
        let (mut spec, master) = crate::testing::spec(docroot.path(), false);
        let (inboxes, receivers): (Vec<_>, Vec<_>) =
            others.iter().map(|_| seqpacket_pair().unwrap()).unzip();
        let ids = (1..).map(WorkerId);
        spec.peers = ids.zip(inboxes).map(|(worker, inbox)| Peer { worker, inbox }).collect();
        let mut worker = Worker::new(spec).unwrap();
        worker.listeners.lanes = 2;
        worker.listeners.comfortable = 1000;
        for (id, load) in (1..).zip(others) {
            let slot = worker.board.worker(WorkerId(id));
            slot.set_state(WorkerState::Running);
            slot.heartbeat.store(worker.clock.monotonic(), Relaxed);
            slot.connections.store(load, Relaxed);
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let clients: Vec<_> = (0..own).map(|_| TcpStream::connect(address).unwrap()).collect();
        for _ in 0..own {
            let (fd, peer) = listener.accept().unwrap();
            worker.adopt(fd.into(), peer, Service::Http, SiteId(0), Vec::new());
        }
        (worker, (docroot, master, receivers, clients))
    }

    fn strays(worker: &Worker) -> Option<(u16, u32)> {
        worker.strays().map(|Surplus { heir, count }| (heir.0, count))
    }

    fn stall(worker: &Worker, owner: u16) {
        let key = DeviceKey { site: SiteId(0), devid: 7 };
        let slot = worker.board.list_device(key, WorkerId(owner)).unwrap();
        slot.set_state(DeviceState::Stalled);
    }

    #[test]
    fn few_connections_go_where_most_are() {
        let (worker, _rest) = one_of_four(2, [5, 0, 4]);
        assert_eq!(strays(&worker), Some((3, 2)));
        let (worker, _rest) = one_of_four(1, [9, 0, 3]);
        assert_eq!(strays(&worker), Some((3, 4)), "up to its share");
        let (worker, _rest) = one_of_four(4, [5, 0, 3]);
        assert_eq!(strays(&worker), None, "one of the two");
        let (worker, _rest) = one_of_four(1, [1, 0, 1]);
        assert_eq!(strays(&worker), None, "ties are decided by the number");
        let (worker, _rest) = one_of_four(1, [2, 3, 0]);
        assert_eq!(strays(&worker), Some((1, 1)));
    }

    #[test]
    fn no_connections_gather_beside_a_dead_disk() {
        let (worker, _rest) = one_of_four(2, [5, 0, 4]);
        stall(&worker, 3);
        assert_eq!(strays(&worker), None);
        let (worker, _rest) = one_of_four(6, [5, 0, 4]);
        stall(&worker, 0);
        assert_eq!(strays(&worker), Some((3, 4)), "its own");
        let (worker, _rest) = one_of_four(9, [0, 0, 0]);
        stall(&worker, 0);
        assert_eq!(strays(&worker), Some((2, 5)), "its own, and nobody has any");
        let (worker, _rest) = one_of_four(60, [20, 0, 0]);
        assert_eq!(worker.surplus().map(|surplus| surplus.heir.0), Some(1));
        stall(&worker, 1);
        assert_eq!(worker.surplus().map(|surplus| surplus.heir.0), Some(3));
    }

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
        worker.watch_listeners().unwrap();
        let _clients: Vec<_> =
            (0..most + 5).map(|_| TcpStream::connect(address).unwrap()).collect();
        worker.accept_pending();
        assert_eq!(worker.conns.len(), most + 1);
        assert!(worker.listeners.paused);
        // Room again: the rest may come.
        worker.close(0);
        worker.close(1);
        assert!(!worker.listeners.paused);
    }
}
