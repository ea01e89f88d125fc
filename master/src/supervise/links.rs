//! The descriptors between the processes: for each worker slot an inbox, whose ends the master
//! keeps so that it outlives the worker, and for each worker process a control channel.
//!
//! What a worker is told is state, not a queue: of each kind the latest is sent when the channel
//! takes it, and what changes nothing is not sent at all. So nothing is lost, however slowly a
//! worker reads and however often somebody changes his mind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rmogstored_worker::clients::heirs::Heirs;
use rmogstored_worker::clients::inbox::{self, MOST_INPUT, Parcel};
use rmogstored_worker::clients::neighbours::Passenger;
use rmogstored_worker::control::{Channel, Down, Log};
use rmogstored_worker::spec::{Peer, Route, WorkerId};
use rmogstored_worker::sys::socket::{self, seqpacket_pair, widen};

use crate::succession::Door;

/// Room in an inbox, in bytes: connections wait there while their worker is replaced.
const INBOX_ROOM: usize = 8 << 20;

/// All of them, by slot; and those of the other node's workers in an upgrade.
#[derive(Debug, Default)]
pub struct Links {
    links: BTreeMap<WorkerId, Link>,
    heirs: Heirs,
    /// What the other node listens on, by its worker.
    doors: BTreeMap<u32, Vec<Door>>,
    /// Inboxes without a worker, whose connections wait for somebody who takes them.
    waiting: Vec<Pipe>,
    /// Log files that have been opened again.
    logs: BTreeMap<Log, Arc<File>>,
}

/// Both ends of an inbox.
#[derive(Debug)]
struct Pipe {
    sender: OwnedFd,
    receiver: OwnedFd,
}

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
    /// Those of which something is new: that they are there, or that they are not.
    heirs: BTreeSet<u32>,
    told_heirs: BTreeSet<u32>,
    aio_threads: Option<usize>,
    reopen: BTreeSet<Log>,
    accept: bool,
    /// With whether there is another node.
    drain: Option<bool>,
    told_threads: Option<usize>,
    told_drain: bool,
}

impl Wanted {
    fn note(&mut self, message: &Down) {
        match message {
            Down::Peer { worker } => drop(self.peers.insert(*worker)),
            Down::Heir { heir, .. } | Down::NoHeir { heir } => drop(self.heirs.insert(*heir)),
            Down::AioThreads { threads } => {
                self.aio_threads = Some(*threads).filter(|_| self.told_threads != Some(*threads));
            }
            Down::ReopenLog { log } => drop(self.reopen.insert(*log)),
            Down::Accept => self.accept = true,
            Down::Drain { shared } => self.drain = Some(*shared).filter(|_| !self.told_drain),
        }
    }

    /// The inboxes come first: one that drains hands its connections to them.
    fn next(&self) -> Option<Down> {
        let peer = self.peers.first().map(|worker| Down::Peer { worker: *worker });
        // What is to be said of it is looked up then.
        let heir = || self.heirs.first().map(|heir| Down::NoHeir { heir: *heir });
        let threads = || self.aio_threads.map(|threads| Down::AioThreads { threads });
        peer.or_else(heir)
            .or_else(threads)
            .or_else(|| self.reopen.first().map(|log| Down::ReopenLog { log: *log }))
            .or_else(|| self.accept.then_some(Down::Accept))
            .or_else(|| self.drain.map(|shared| Down::Drain { shared }))
    }

    fn was_told(&mut self, message: &Down) {
        match message {
            Down::Peer { worker } => drop(self.peers.remove(worker)),
            Down::Heir { heir, .. } => {
                self.heirs.remove(heir);
                self.told_heirs.insert(*heir);
            }
            Down::NoHeir { heir } => {
                self.heirs.remove(heir);
                self.told_heirs.remove(heir);
            }
            Down::AioThreads { threads } => {
                (self.aio_threads, self.told_threads) = (None, Some(*threads));
            }
            Down::ReopenLog { log } => drop(self.reopen.remove(log)),
            Down::Accept => self.accept = false,
            Down::Drain { .. } => (self.drain, self.told_drain) = (None, true),
        }
    }
}

impl Links {
    /// Makes the inbox of a new slot and announces it to every worker.
    pub fn add(&mut self, id: WorkerId) -> io::Result<()> {
        let (sender, receiver) = seqpacket_pair()?;
        widen(sender.as_fd(), INBOX_ROOM);
        self.links.insert(id, Link { sender, receiver, control: None, wanted: Wanted::default() });
        self.send_all(&Down::Peer { worker: id.0 });
        Ok(())
    }

    /// Takes a slot away. Connections in its inbox wait for [`Links::pass_on`].
    pub fn remove(&mut self, id: WorkerId) {
        if let Some(Link { sender, receiver, .. }) = self.links.remove(&id) {
            self.waiting.push(Pipe { sender, receiver });
        }
    }

    /// The node goes: nobody has the slots next that have no process.
    pub fn remove_processless(&mut self) {
        let without = self.links.iter().filter(|(_, link)| link.control.is_none());
        let ids: Vec<WorkerId> = without.map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.remove(id));
    }

    /// Whether connections may wait for somebody who takes them.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Gives what waits to workers that serve, in turn. How many each got; what finds no room waits
    /// on.
    pub fn pass_on(&mut self, workers: &[WorkerId]) -> Vec<(WorkerId, i32)> {
        let mut given: Vec<(WorkerId, i32)> = workers.iter().map(|id| (*id, 0)).collect();
        let (links, mut turn) = (&self.links, 0);
        let mut send = |passenger: &Passenger<'_>| {
            let mut result = Err(io::ErrorKind::NotFound.into());
            for _ in 0..given.len() {
                turn = (turn + 1) % given.len();
                let (id, count) = &mut given[turn];
                let Some(link) = links.get(id) else { continue };
                let Passenger { socket, service, site, input } = *passenger;
                result = inbox::send_connection(link.sender.as_fd(), socket, service, site, input);
                if result.is_ok() {
                    *count += 1;
                    break;
                }
            }
            result
        };
        self.waiting.retain(|pipe| !pipe.empty_into(&mut send));
        given
    }

    /// The same for the other node's workers, as far as they listen for it.
    pub fn pass_on_to_other_node(&mut self) {
        let heirs = &mut self.heirs;
        if heirs.is_empty() {
            return;
        }
        let mut send = |passenger: &Passenger<'_>| match socket::local_address(passenger.socket) {
            Some(local) => heirs.send(passenger, local),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        self.waiting.retain(|pipe| !pipe.empty_into(&mut send));
    }

    /// Notes the channel to a slot's new process.
    pub fn connect(&mut self, id: WorkerId, control: Channel) {
        if let Some(link) = self.links.get_mut(&id) {
            link.control = Some(control);
            let heirs = self.heirs.numbers().into_iter().collect();
            link.wanted = Wanted { heirs, ..Wanted::default() };
        }
    }

    /// Takes the channel of a process that is gone.
    pub fn disconnect(&mut self, id: WorkerId) -> Option<Channel> {
        let link = self.links.get_mut(&id)?;
        link.wanted = Wanted::default();
        link.control.take()
    }

    /// The channel to a slot's process.
    pub fn control(&self, id: WorkerId) -> Option<&Channel> {
        self.links.get(&id)?.control.as_ref()
    }

    /// A worker of the other node, which listens on these doors, takes connections of these
    /// routes: every worker is told.
    pub(crate) fn add_heir(
        &mut self,
        heir: u32,
        inbox: OwnedFd,
        doors: Vec<Door>,
        routes: Vec<Route>,
    ) {
        self.heirs.add(heir, inbox, routes);
        self.doors.insert(heir, doors);
        self.tell_of(heir);
    }

    /// It takes none any more: every worker is told.
    pub fn remove_heir(&mut self, heir: u32) {
        self.heirs.remove(heir);
        self.doors.remove(&heir);
        self.tell_of(heir);
    }

    /// There is no other node any more.
    pub fn forget_heirs(&mut self) {
        self.doors.clear();
        for heir in self.heirs.numbers() {
            self.remove_heir(heir);
        }
    }

    /// Other routes lead through the doors of the other node from now on.
    pub(crate) fn find_routes(&mut self, through: impl Fn(&[Door]) -> Vec<Route>) {
        for (heir, doors) in &self.doors {
            self.heirs.set_routes(*heir, through(doors));
        }
        self.heirs.numbers().into_iter().for_each(|heir| self.tell_of(heir));
    }

    fn tell_of(&mut self, heir: u32) {
        self.send_all(&Down::NoHeir { heir });
    }

    /// What a log is written to from now on: [`Down::ReopenLog`].
    pub fn set_log(&mut self, log: Log, file: Arc<File>) {
        self.logs.insert(log, file);
    }

    /// Tells one worker; what its channel has no room for now is kept for [`Links::flush`].
    pub fn send(&mut self, id: WorkerId, message: &Down) {
        if let Some(link) = self.links.get_mut(&id).filter(|link| link.control.is_some()) {
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
        self.links.values().all(|link| link.wanted.next().is_none())
    }

    /// In a new worker: its own receiving end and the sending ends of all others. Every other
    /// end closes.
    pub fn into_ends(mut self, id: WorkerId) -> Option<(OwnedFd, Vec<Peer>)> {
        let own = self.links.remove(&id)?;
        let peer = |(worker, link): (WorkerId, Link)| Peer { worker, inbox: link.sender };
        Some((own.receiver, self.links.into_iter().map(peer).collect()))
    }

    fn ids(&self) -> Vec<WorkerId> {
        self.links.keys().copied().collect()
    }

    fn flush_one(&mut self, id: WorkerId) {
        while let Some(message) = self.links.get(&id).and_then(|link| link.wanted.next()) {
            let message = self.latest(message);
            match self.try_send(id, &message) {
                Err(e) if inbox::is_full(&e) => return,
                // Its process has gone, which SIGCHLD tells better.
                Err(e) => log::debug!("control channel of worker {id}: {e}"),
                Ok(()) => {}
            }
            if let Some(link) = self.links.get_mut(&id) {
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
            Down::Heir { heir, .. } => {
                control.send(message, self.heirs.get(*heir).map(|(inbox, _)| inbox))
            }
            Down::Drain { .. } => control.send(message, self.inbox_of(id)),
            Down::ReopenLog { log } => {
                control.send(message, self.logs.get(log).map(|file| file.as_fd()))
            }
            Down::NoHeir { heir } if !self.has_told(id, *heir) => Ok(()),
            _ => control.send(message, None),
        }
    }

    /// What there is to say of a worker of the other node: that it is there, or that it is not.
    fn latest(&self, message: Down) -> Down {
        match message {
            Down::NoHeir { heir } => match self.heirs.get(heir) {
                Some((_, routes)) => Down::Heir { heir, routes: routes.to_vec() },
                None => message,
            },
            message => message,
        }
    }

    fn has_told(&self, id: WorkerId, heir: u32) -> bool {
        self.links.get(&id).is_some_and(|link| link.wanted.told_heirs.contains(&heir))
    }

    /// The sending end of a slot's inbox.
    pub fn inbox_of(&self, id: WorkerId) -> Option<BorrowedFd<'_>> {
        self.links.get(&id).map(|link| link.sender.as_fd())
    }
}

impl Pipe {
    /// Empties an inbox that has no worker any more; `send` has its connections. True: it is empty.
    /// What `send` does not take is put back. What is no connection is of use to nobody now.
    fn empty_into(&self, send: &mut impl FnMut(&Passenger<'_>) -> io::Result<()>) -> bool {
        let mut buffer = vec![0; MOST_INPUT + 64];
        let mut back = Vec::new();
        loop {
            let (socket, service, site, input) =
                match inbox::receive(self.receiver.as_fd(), &mut buffer) {
                    Ok(Some(Parcel::Connection { socket, service, site, input })) => {
                        (socket, service, site, input)
                    }
                    Ok(Some(_)) => continue,
                    Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                        log::warn!("inbox: {e}");
                        continue;
                    }
                    Ok(None) | Err(_) => break,
                };
            let passenger = Passenger { socket: socket.as_fd(), service, site, input: &input };
            let Err(e) = send(&passenger) else { continue };
            back.push((socket, service, site, input));
            if inbox::is_full(&e) {
                break;
            }
        }
        let empty = back.is_empty();
        for (socket, service, site, input) in back {
            let (to, of) = (self.sender.as_fd(), socket.as_fd());
            if let Err(e) = inbox::send_connection(to, of, service, site, &input) {
                log::warn!("a connection is lost between two workers: {e}");
            }
        }
        empty
    }
}

#[cfg(test)]
mod tests;
