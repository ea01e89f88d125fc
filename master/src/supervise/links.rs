//! The descriptors between the processes: for each worker slot an inbox, whose ends the master
//! keeps so that it outlives the worker, and for each worker process a control channel.
//!
//! What a worker is told is state, not a queue: of each kind the latest is sent when the channel
//! takes it, and what changes nothing is not sent at all. So nothing is lost, however slowly a
//! worker reads and however often somebody changes his mind.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rmogstored_worker::clients::inbox::{self, MOST_INPUT, Parcel};
use rmogstored_worker::control::{Channel, Down};
use rmogstored_worker::spec::{Peer, WorkerId};
use rmogstored_worker::sys::socket::{seqpacket_pair, widen};

/// Room in an inbox, in bytes: connections wait there while their worker is replaced.
const INBOX_ROOM: usize = 8 << 20;

/// All of them, by slot.
#[derive(Debug, Default)]
pub struct Links(BTreeMap<WorkerId, Link>);

#[derive(Debug)]
struct Link {
    sender: OwnedFd,
    receiver: OwnedFd,
    control: Option<Channel>,
    wanted: Wanted,
}

/// What a worker's process is still to be told, and what it has been.
#[derive(Debug, Default)]
struct Wanted {
    peers: BTreeSet<u16>,
    aio_threads: Option<usize>,
    reopen_logs: bool,
    accept: bool,
    drain: bool,
    told_threads: Option<usize>,
    told_drain: bool,
}

impl Wanted {
    fn note(&mut self, message: &Down) {
        match message {
            Down::Peer { worker } => drop(self.peers.insert(*worker)),
            Down::AioThreads { threads } => {
                self.aio_threads = Some(*threads).filter(|_| self.told_threads != Some(*threads));
            }
            Down::ReopenLogs => self.reopen_logs = true,
            Down::Accept => self.accept = true,
            Down::Drain => self.drain = !self.told_drain,
        }
    }

    /// The inboxes come first: one that drains hands its connections to them.
    fn next(&self) -> Option<Down> {
        let peer = self.peers.first().map(|worker| Down::Peer { worker: *worker });
        let threads = || self.aio_threads.map(|threads| Down::AioThreads { threads });
        peer.or_else(threads)
            .or_else(|| self.reopen_logs.then_some(Down::ReopenLogs))
            .or_else(|| self.accept.then_some(Down::Accept))
            .or_else(|| self.drain.then_some(Down::Drain))
    }

    fn was_told(&mut self, message: &Down) {
        match message {
            Down::Peer { worker } => drop(self.peers.remove(worker)),
            Down::AioThreads { threads } => {
                (self.aio_threads, self.told_threads) = (None, Some(*threads));
            }
            Down::ReopenLogs => self.reopen_logs = false,
            Down::Accept => self.accept = false,
            Down::Drain => (self.drain, self.told_drain) = (false, true),
        }
    }
}

impl Links {
    /// Makes the inbox of a new slot and announces it to every worker.
    pub fn add(&mut self, id: WorkerId) -> io::Result<()> {
        let (sender, receiver) = seqpacket_pair()?;
        widen(sender.as_fd(), INBOX_ROOM);
        self.0.insert(id, Link { sender, receiver, control: None, wanted: Wanted::default() });
        self.send_all(&Down::Peer { worker: id.0 });
        Ok(())
    }

    /// Closes a slot's inbox. Connections that wait in it go to the heir's, as far as there is
    /// room; how many did.
    pub fn remove(&mut self, id: WorkerId, heir: Option<WorkerId>) -> i32 {
        let Some(link) = self.0.remove(&id) else { return 0 };
        let heir = heir.and_then(|heir| self.inbox_of(heir));
        heir.map_or(0, |heir| pass_on(link.receiver.as_fd(), heir))
    }

    /// Notes the channel to a slot's new process.
    pub fn connect(&mut self, id: WorkerId, control: Channel) {
        if let Some(link) = self.0.get_mut(&id) {
            link.control = Some(control);
            link.wanted = Wanted::default();
        }
    }

    /// Takes the channel of a process that is gone.
    pub fn disconnect(&mut self, id: WorkerId) -> Option<Channel> {
        let link = self.0.get_mut(&id)?;
        link.wanted = Wanted::default();
        link.control.take()
    }

    /// The channel to a slot's process.
    pub fn control(&self, id: WorkerId) -> Option<&Channel> {
        self.0.get(&id)?.control.as_ref()
    }

    /// Tells one worker; what its channel has no room for now is kept for [`Links::flush`].
    pub fn send(&mut self, id: WorkerId, message: &Down) {
        if let Some(link) = self.0.get_mut(&id).filter(|link| link.control.is_some()) {
            link.wanted.note(message);
            self.flush_one(id);
        }
    }

    /// Sends to every worker that has a process.
    pub fn send_all(&mut self, message: &Down) {
        for id in self.ids() {
            self.send(id, message);
        }
    }

    /// Tries again what had no room; true when nothing is left.
    pub fn flush(&mut self) -> bool {
        self.ids().into_iter().for_each(|id| self.flush_one(id));
        self.0.values().all(|link| link.wanted.next().is_none())
    }

    /// In a new worker: its own receiving end and the sending ends of all others. Every other
    /// end closes.
    pub fn into_ends(mut self, id: WorkerId) -> Option<(OwnedFd, Vec<Peer>)> {
        let own = self.0.remove(&id)?;
        let peer = |(worker, link): (WorkerId, Link)| Peer { worker, inbox: link.sender };
        Some((own.receiver, self.0.into_iter().map(peer).collect()))
    }

    fn ids(&self) -> Vec<WorkerId> {
        self.0.keys().copied().collect()
    }

    fn flush_one(&mut self, id: WorkerId) {
        while let Some(message) = self.0.get(&id).and_then(|link| link.wanted.next()) {
            match self.try_send(id, &message) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // Its process has gone, which SIGCHLD tells better.
                Err(e) => log::debug!("control channel of worker {id}: {e}"),
                Ok(()) => {}
            }
            if let Some(link) = self.0.get_mut(&id) {
                link.wanted.was_told(&message);
            }
        }
    }

    fn try_send(&self, id: WorkerId, message: &Down) -> io::Result<()> {
        let Some(control) = self.control(id) else { return Ok(()) };
        match message {
            Down::Peer { worker } => match self.inbox_of(WorkerId(*worker)) {
                Some(inbox) => control.send(message, Some(inbox)),
                None => Ok(()), // gone again before it could be announced
            },
            _ => control.send(message, None),
        }
    }

    fn inbox_of(&self, id: WorkerId) -> Option<BorrowedFd<'_>> {
        self.0.get(&id).map(|link| link.sender.as_fd())
    }
}

/// Empties an inbox that has no worker any more into another one. What is no connection is of
/// use to nobody now.
fn pass_on(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> i32 {
    let mut buffer = vec![0; MOST_INPUT + 64];
    let mut passed_on = 0;
    loop {
        match inbox::receive(from, &mut buffer) {
            Ok(Some(Parcel::Connection { socket, service, site, input })) => {
                match inbox::send_connection(to, socket.as_fd(), service, site, &input) {
                    Ok(()) => passed_on += 1,
                    Err(e) => log::warn!("a connection is lost between two workers: {e}"),
                }
            }
            Ok(Some(_)) => {}
            Err(e) if e.kind() == io::ErrorKind::InvalidData => log::warn!("inbox: {e}"),
            Ok(None) | Err(_) => return passed_on,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rmogstored_worker::sys::socket::{receive_with_fd, send_with_fd};

    const A: WorkerId = WorkerId(0);
    const B: WorkerId = WorkerId(1);

    #[test]
    fn new_inbox_is_announced_to_the_workers_that_are_there() {
        let mut links = Links::default();
        links.add(A).unwrap();
        let (master, worker) = Channel::pair().unwrap();
        links.connect(A, master);
        links.add(B).unwrap();
        let (message, fd) = worker.receive::<Down>().unwrap().unwrap();
        assert_eq!(message, Down::Peer { worker: 1 });
        send_with_fd(fd.unwrap().as_fd(), &[b"x"], None).unwrap();
        let (inbox, peers) = links.into_ends(B).unwrap();
        assert_eq!(receive_with_fd(inbox.as_fd(), &mut [0; 8]).unwrap().0, 1);
        assert_eq!(peers.iter().map(|peer| peer.worker).collect::<Vec<_>>(), [A]);
    }

    /// Fills the channel to a worker that does not read.
    fn with_full_channel() -> (Links, Channel) {
        let mut links = Links::default();
        links.add(A).unwrap();
        let (master, worker) = Channel::pair().unwrap();
        while master.send(&Down::Accept, None).is_ok() {}
        links.connect(A, master);
        (links, worker)
    }

    /// Reads all, past what the channel was filled with.
    fn heard(links: &mut Links, worker: &Channel) -> Vec<Down> {
        let (mut heard, mut all_sent) = (Vec::new(), false);
        loop {
            match worker.receive::<Down>() {
                Ok(Some((Down::Accept, _))) => {}
                Ok(Some((message, _))) => heard.push(message),
                _ if all_sent => return heard,
                _ => all_sent = links.flush(),
            }
        }
    }

    #[test]
    fn slow_reader_is_told_the_latest_of_each_kind() {
        let (mut links, worker) = with_full_channel();
        for threads in 1..=100_000 {
            links.send(A, &Down::AioThreads { threads });
            links.send(A, &Down::ReopenLogs);
        }
        links.send(A, &Down::Drain);
        links.add(B).unwrap();
        (1..=5).for_each(|threads| links.send(A, &Down::AioThreads { threads }));
        assert!(!links.flush());
        let expected = [
            Down::Peer { worker: 1 },
            Down::AioThreads { threads: 5 },
            Down::ReopenLogs,
            Down::Drain,
        ];
        assert_eq!(heard(&mut links, &worker), expected);
    }

    #[test]
    fn what_changes_nothing_is_not_sent() {
        let mut links = Links::default();
        links.add(A).unwrap();
        let (master, worker) = Channel::pair().unwrap();
        links.connect(A, master);
        for _ in 0..10_000 {
            links.send(A, &Down::AioThreads { threads: 5 });
            links.send(A, &Down::Drain);
        }
        assert_eq!(heard(&mut links, &worker), [Down::AioThreads { threads: 5 }, Down::Drain]);
        // A new process of the slot knows nothing yet.
        links.disconnect(A).unwrap();
        let (master, worker) = Channel::pair().unwrap();
        links.connect(A, master);
        links.send(A, &Down::Drain);
        assert_eq!(heard(&mut links, &worker), [Down::Drain]);
    }

    /// Back to what was told last while the channel was full: nothing is left to be said.
    #[test]
    fn change_of_mind_and_back_is_no_message() {
        let (mut links, worker) = with_full_channel();
        links.0.get_mut(&A).unwrap().wanted.told_threads = Some(5);
        links.send(A, &Down::AioThreads { threads: 6 });
        links.send(A, &Down::AioThreads { threads: 5 });
        assert_eq!(heard(&mut links, &worker), []);
    }

    #[test]
    fn connections_that_wait_for_a_worker_that_has_gone_are_passed_on() {
        use rmogstored_worker::spec::{Service, SiteId};
        let mut links = Links::default();
        links.add(A).unwrap();
        links.add(B).unwrap();
        let (_client, connection) = std::os::unix::net::UnixStream::pair().unwrap();
        for text in [b"GET /1", b"GET /2"] {
            let (to, of) = (links.0[&A].sender.as_fd(), connection.as_fd());
            inbox::send_connection(to, of, Service::Http, SiteId(0), text).unwrap();
        }
        assert_eq!(links.remove(A, Some(B)), 2);
        let mut buffer = vec![0; 1 << 16];
        for text in [b"GET /1", b"GET /2"] {
            let parcel = inbox::receive(links.0[&B].receiver.as_fd(), &mut buffer).unwrap();
            let Some(Parcel::Connection { input, .. }) = parcel else { panic!("{parcel:?}") };
            assert_eq!(input, text);
        }
        assert_eq!(links.remove(B, None), 0);
    }
}
