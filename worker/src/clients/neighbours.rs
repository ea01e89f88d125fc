//! The other workers as this one sees them: their inboxes, and what the scoreboard says of them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::clients::balance::Load;
use crate::clients::inbox;
use crate::disk::device_dir::Traits;
use crate::ids::{DeviceKey, SiteId, WorkerId};
use crate::scoreboard::{DeviceState, Scoreboard, WorkerSlot, WorkerState};
use crate::spec::{Peer, Service};

/// A loop without work shows that it is alive this often, in milliseconds.
pub const HEARTBEAT_MS: u64 = 1000;
/// A worker that has shown no life for so long gets no connections.
const STUCK: Duration = Duration::from_secs(3);

/// A connection that goes to another worker, with its unread input.
#[derive(Debug)]
pub struct Passenger<'a> {
    /// Its socket.
    pub socket: BorrowedFd<'a>,
    /// What is spoken on it.
    pub service: Service,
    /// Which docroot it is about.
    pub site: SiteId,
    /// What was read of it and not answered.
    pub input: &'a [u8],
}

/// The other workers.
#[derive(Debug)]
pub struct Neighbours {
    me: WorkerId,
    board: Scoreboard,
    inboxes: BTreeMap<WorkerId, OwnedFd>,
}

impl Neighbours {
    /// Those that a worker is told of when it starts.
    pub fn new(me: WorkerId, board: Scoreboard, peers: Vec<Peer>) -> Neighbours {
        let inboxes = peers.into_iter().map(|peer| (peer.worker, peer.inbox)).collect();
        Neighbours { me, board, inboxes }
    }

    /// Another worker has come, or come back.
    pub fn add(&mut self, worker: WorkerId, inbox: OwnedFd) {
        self.inboxes.insert(worker, inbox);
    }

    /// One has gone.
    pub fn remove(&mut self, worker: WorkerId) {
        self.inboxes.remove(&worker);
    }

    /// True for a worker that is alone.
    pub fn is_empty(&self) -> bool {
        self.inboxes.is_empty()
    }

    /// Whether something can be sent to a worker.
    pub fn knows(&self, worker: WorkerId) -> bool {
        self.inboxes.contains_key(&worker)
    }

    /// Gives a connection away. `WouldBlock`: the inbox is full; `NotConnected`: there is no such
    /// worker.
    pub fn send(&self, to: WorkerId, passenger: &Passenger<'_>) -> io::Result<()> {
        let inbox = self.inbox(to)?;
        let Passenger { socket, service, site, input } = *passenger;
        let target = self.board.worker(to);
        target.inbox_pending.fetch_add(1, Relaxed);
        match inbox::send_connection(inbox, socket, service, site, input) {
            Ok(()) => {
                self.own().handed_over.fetch_add(1, Relaxed);
                Ok(())
            }
            Err(e) => {
                target.inbox_pending.fetch_sub(1, Relaxed);
                Err(e)
            }
        }
    }

    /// Asks a device's owner for its directory.
    pub fn ask_for_dir(&self, owner: WorkerId, device: DeviceKey) {
        let asked = self.inbox(owner).and_then(|inbox| inbox::ask_for_dir(inbox, device, self.me));
        if let Err(e) = asked {
            log::debug!("{device}: cannot ask for its directory: {e}");
        }
    }

    /// Sends a worker the directory that it asked for; `None`: nothing is read in a loop there.
    pub fn send_dir(
        &self,
        to: WorkerId,
        device: DeviceKey,
        dir: Option<BorrowedFd<'_>>,
        traits: Traits,
    ) {
        let sent = self.inbox(to).and_then(|inbox| inbox::send_dir(inbox, device, dir, traits));
        if let Err(e) = sent {
            log::debug!("{device}: cannot send its directory to worker {to}: {e}");
        }
    }

    /// The workers that connections may be given to, and how many each has. `now` is on the clock
    /// that all processes share.
    pub fn loads(&self, now: u64) -> Vec<Load> {
        let own = self.own().generation.load(Relaxed);
        self.slots()
            // One of another generation may not know the docroot of a listener.
            .filter(|(_, slot)| slot.generation.load(Relaxed) == own)
            .filter(|(_, slot)| slot.state() == WorkerState::Running && !is_late(slot, STUCK, now))
            .map(|(worker, slot)| {
                let coming = slot.inbox_pending.load(Relaxed).max(0) as u32;
                Load { worker, connections: slot.connections.load(Relaxed) + coming }
            })
            .collect()
    }

    /// The least loaded worker of the latest generation that serves, for what a worker leaves
    /// behind.
    pub fn heir(&self, now: u64) -> Option<WorkerId> {
        let own = self.own().generation.load(Relaxed);
        self.slots()
            .filter(|(_, slot)| slot.state() == WorkerState::Running)
            .map(|(id, slot)| (slot.generation.load(Relaxed), slot, id))
            .filter(|(generation, slot, _)| *generation >= own && !is_late(slot, STUCK, now))
            .min_by_key(|(generation, slot, _)| {
                (u32::MAX - *generation, slot.connections.load(Relaxed))
            })
            .map(|(_, _, id)| id)
    }

    /// True when a worker serves, as far as is known, but its loop has not gone round for long:
    /// stopped, or worse.
    pub fn is_stuck(&self, worker: WorkerId, limit: Duration, now: u64) -> bool {
        let slot = self.board.worker(worker);
        slot.state() == WorkerState::Running && is_late(slot, limit, now)
    }

    /// Workers that a dead disk may take along when they end: not where connections should gather.
    pub fn with_dead_disks(&self) -> Vec<WorkerId> {
        let devices = self.board.devices().into_iter();
        let stalled = devices.filter(|(_, slot)| slot.state() == DeviceState::Stalled);
        stalled.map(|(_, slot)| slot.owner()).collect()
    }

    fn inbox(&self, of: WorkerId) -> io::Result<BorrowedFd<'_>> {
        let inbox = self.inboxes.get(&of).map(AsFd::as_fd);
        inbox.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn own(&self) -> &'static WorkerSlot {
        self.board.worker(self.me)
    }

    fn slots(&self) -> impl Iterator<Item = (WorkerId, &'static WorkerSlot)> {
        self.inboxes.keys().map(|id| (*id, self.board.worker(*id)))
    }
}

fn is_late(slot: &WorkerSlot, limit: Duration, now: u64) -> bool {
    let age = now.saturating_sub(slot.heartbeat.load(Relaxed));
    age > limit.as_millis() as u64 + HEARTBEAT_MS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::inbox::{Parcel, receive};
    use crate::sys::socket::{self, seqpacket_pair};
    use std::os::unix::net::UnixStream;

    const NOW: u64 = 60_000;
    const SITE: SiteId = SiteId(0);

    /// Worker 0, and others that serve, with their ends of the inboxes.
    fn beside(others: u16) -> (Neighbours, Vec<OwnedFd>) {
        let board = Scoreboard::new().unwrap();
        let (mut peers, mut receivers) = (Vec::new(), Vec::new());
        for id in 1..=others {
            let (inbox, receiver) = seqpacket_pair().unwrap();
            peers.push(Peer { worker: WorkerId(id), inbox });
            receivers.push(receiver);
            let slot = board.worker(WorkerId(id));
            slot.set_state(WorkerState::Running);
            slot.heartbeat.store(NOW, Relaxed);
        }
        (Neighbours::new(WorkerId(0), board, peers), receivers)
    }

    fn passenger<'a>(socket: &'a UnixStream, input: &'a [u8]) -> Passenger<'a> {
        Passenger { socket: socket.as_fd(), service: Service::Http, site: SITE, input }
    }

    #[test]
    fn connection_arrives_and_is_counted_on_both_sides() {
        let (neighbours, receivers) = beside(1);
        let (socket, _peer) = UnixStream::pair().unwrap();
        neighbours.send(WorkerId(1), &passenger(&socket, b"GE")).unwrap();
        assert_eq!(neighbours.board.worker(WorkerId(1)).inbox_pending.load(Relaxed), 1);
        assert_eq!(neighbours.own().handed_over.load(Relaxed), 1);
        let parcel = receive(receivers[0].as_fd(), &mut [0; 100]).unwrap();
        let Some(Parcel::Connection { input, .. }) = parcel else { panic!("{parcel:?}") };
        assert_eq!(input, b"GE");
    }

    #[test]
    fn full_inbox_and_unknown_worker_are_errors_that_count_nothing() {
        let (neighbours, _receivers) = beside(1);
        let (socket, _peer) = UnixStream::pair().unwrap();
        let to = |id| neighbours.send(WorkerId(id), &passenger(&socket, b"")).unwrap_err().kind();
        assert_eq!(to(2), io::ErrorKind::NotConnected);
        let inbox = neighbours.inbox(WorkerId(1)).unwrap();
        while socket::send_with_fd(inbox, &[&[0; 1024]], None).is_ok() {}
        assert_eq!(to(1), io::ErrorKind::WouldBlock);
        assert_eq!(neighbours.board.worker(WorkerId(1)).inbox_pending.load(Relaxed), 0);
        assert_eq!(neighbours.own().handed_over.load(Relaxed), 0);
    }

    #[test]
    fn only_those_that_serve_and_live_get_connections() {
        let (neighbours, _receivers) = beside(4);
        let slot = |id| neighbours.board.worker(WorkerId(id));
        slot(1).connections.store(3, Relaxed);
        slot(1).inbox_pending.store(2, Relaxed);
        slot(2).set_state(WorkerState::Draining);
        slot(3).heartbeat.store(NOW - 5000, Relaxed);
        slot(4).generation.store(1, Relaxed);
        assert_eq!(neighbours.loads(NOW), [Load { worker: WorkerId(1), connections: 5 }]);
        assert!(neighbours.is_stuck(WorkerId(3), STUCK, NOW));
        assert!(!neighbours.is_stuck(WorkerId(3), STUCK, NOW - 4000));
        assert!(!neighbours.is_stuck(WorkerId(2), STUCK, NOW + 60_000), "it drains, as it says");
    }

    #[test]
    fn heir_is_of_the_latest_generation_and_has_least() {
        let (neighbours, _receivers) = beside(3);
        let slot = |id| neighbours.board.worker(WorkerId(id));
        (1..=3).for_each(|id| slot(id).connections.store(u32::from(10 - id), Relaxed));
        assert_eq!(neighbours.heir(NOW), Some(WorkerId(3)));
        slot(1).generation.store(2, Relaxed);
        assert_eq!(neighbours.heir(NOW), Some(WorkerId(1)));
        neighbours.own().generation.store(3, Relaxed);
        assert_eq!(neighbours.heir(NOW), None, "nobody is as new as this one");
    }

    #[test]
    fn those_that_come_and_go_are_known() {
        let (mut neighbours, _receivers) = beside(1);
        neighbours.remove(WorkerId(1));
        assert!(neighbours.is_empty());
        neighbours.add(WorkerId(2), seqpacket_pair().unwrap().0);
        assert!(neighbours.knows(WorkerId(2)) && !neighbours.knows(WorkerId(1)));
    }
}
