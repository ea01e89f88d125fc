//! The loop of the monitor. Few connections at a time: whoever holds one for nothing makes room
//! for the next, whoever reads too slowly is dropped.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream, UnixStream};
use mio::{Events, Interest, Poll, Token};

use super::answer::event;
use super::connection::Connection;
use super::facts::Facts;
use super::news::Lines;
use super::spec::Spec;

/// Connections at a time ...
const MOST: usize = 64;
/// ... of which so many may be streams of events.
const MOST_STREAMS: usize = 32;
/// How often a stream tells how the node is.
const EACH: Duration = Duration::from_secs(1);
/// How long answers may still take when the master has told it to go.
const GO_WITHIN: Duration = Duration::from_secs(1);
/// After an accept that failed for want of descriptors.
const TRY_AGAIN: Duration = Duration::from_millis(200);

const LISTENER: Token = Token(0);
const LINK: Token = Token(1);
const FIRST: usize = 2;

/// The monitor.
#[derive(Debug)]
pub(super) struct Server {
    poll: Poll,
    listener: Option<TcpListener>,
    link: UnixStream,
    lines: Lines,
    facts: Facts,
    /// In the order in which they came.
    connections: BTreeMap<usize, Connection>,
    next: usize,
    next_status: Instant,
    /// An accept failed: it is tried again then.
    accept_at: Option<Instant>,
    /// It is to go, by then.
    leaving: Option<Instant>,
}

impl Server {
    /// Registers what it has.
    pub fn new(spec: Spec) -> io::Result<Server> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::from_std(spec.listener);
        let mut link = UnixStream::from_std(spec.link);
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        poll.registry().register(&mut link, LINK, Interest::READABLE)?;
        let mut server = Server {
            poll,
            listener: Some(listener),
            link,
            lines: Lines::default(),
            facts: Facts::new(spec.board, spec.counters),
            connections: BTreeMap::new(),
            next: FIRST,
            next_status: Instant::now() + EACH,
            accept_at: None,
            leaving: None,
        };
        server.facts.hear(spec.told);
        server.hear();
        Ok(server)
    }

    /// Answers until the master has closed its end.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(128);
        while !self.is_done(Instant::now()) {
            let timeout = self.deadline().saturating_duration_since(Instant::now());
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            // The master first: what it has said is part of the answers.
            self.hear();
            let now = Instant::now();
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(now),
                    Token(key @ FIRST..) => self.advance(key, now),
                    _ => {}
                }
            }
            self.look_at_the_clock(Instant::now());
        }
        Ok(())
    }

    fn is_done(&self, now: Instant) -> bool {
        self.leaving.is_some_and(|until| until <= now || self.connections.is_empty())
    }

    fn deadline(&self) -> Instant {
        let now = Instant::now();
        let connections = self.connections.values().map(Connection::deadline);
        let status = self.streams().next().map(|_| self.next_status);
        let others = [status, self.accept_at, self.leaving];
        connections.chain(others.into_iter().flatten()).fold(now + 60 * EACH, Instant::min)
    }

    /// What the master says.
    fn hear(&mut self) {
        let mut piece = vec![0; 64 * 1024];
        while self.leaving.is_none() {
            match self.link.read(&mut piece) {
                Ok(0) => self.leave(),
                Ok(length) => {
                    for news in self.lines.hear(&piece[..length]) {
                        if let Some(told) = self.facts.hear(news) {
                            let told = event("event", &told.to_string());
                            self.tell_streams(&told, false);
                        }
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.leave(),
            }
        }
    }

    /// Whoever has asked is answered; whoever has not asked somebody else next time.
    fn leave(&mut self) {
        self.listener = None;
        self.connections.retain(|_, connection| !connection.is_stream() && !connection.is_idle());
        self.leaving = Some(Instant::now() + GO_WITHIN);
    }

    fn accept(&mut self, now: Instant) {
        self.accept_at = None;
        while let Some(listener) = &self.listener {
            match listener.accept() {
                Ok((stream, _)) => self.add(stream, now),
                Err(e) => match e.kind() {
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => {
                        log::debug!("monitor: accept: {e}");
                        self.accept_at = Some(now + TRY_AGAIN);
                        return;
                    }
                },
            }
        }
    }

    fn add(&mut self, mut stream: TcpStream, now: Instant) {
        if self.connections.len() >= MOST {
            let oldest = self.connections.iter().find(|(_, connection)| !connection.is_stream());
            match oldest.map(|(key, _)| *key) {
                Some(key) => drop(self.connections.remove(&key)),
                None => return,
            }
        }
        let key = self.next;
        self.next += 1;
        let both = Interest::READABLE | Interest::WRITABLE;
        if let Err(e) = self.poll.registry().register(&mut stream, Token(key), both) {
            return log::debug!("monitor: epoll_ctl: {e}");
        }
        self.connections.insert(key, Connection::new(stream, now));
        self.advance(key, now);
    }

    fn advance(&mut self, key: usize, now: Instant) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        if !connection.advance(&self.facts, now) {
            return self.remove(key);
        }
        let streams: Vec<usize> = self.streams().collect();
        if streams.len() > MOST_STREAMS {
            self.remove(streams[0]);
        }
    }

    fn remove(&mut self, key: usize) {
        if let Some(mut connection) = self.connections.remove(&key) {
            let _ = self.poll.registry().deregister(connection.socket()); // it is closed anyway
        }
    }

    fn look_at_the_clock(&mut self, now: Instant) {
        if self.accept_at.is_some_and(|at| at <= now) {
            self.accept(now);
        }
        let late = self.connections.iter().filter(|(_, connection)| connection.deadline() <= now);
        let late: Vec<usize> = late.map(|(key, _)| *key).collect();
        late.into_iter().for_each(|key| self.remove(key));
        if self.next_status <= now {
            self.next_status = now + EACH;
            if self.streams().next().is_some()
                && let Some(status) = self.facts.status_json()
            {
                self.facts.note_look();
                self.tell_streams(&event("status", &status), true);
            }
        }
    }

    fn tell_streams(&mut self, event: &[u8], repeated: bool) {
        let streams: Vec<usize> = self.streams().collect();
        for key in streams {
            let told = self.connections.get_mut(&key).map(|stream| stream.tell(event, repeated));
            if told == Some(false) {
                self.remove(key);
            }
        }
    }

    fn streams(&self) -> impl Iterator<Item = usize> {
        self.connections.iter().filter(|(_, c)| c.is_stream()).map(|(key, _)| *key)
    }
}
