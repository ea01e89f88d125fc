//! One client: its socket, what was read and not yet understood, what was written and not yet
//! sent, and what it waits for. An idle connection owns no buffer.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::clients::neighbours::Passenger;
use crate::disk::completions::Socket;
use crate::disk::device::Device;
use crate::disk::loan::Loan;
use crate::disk::operation::{Answered, Need, Op};
use crate::disk::work::Borrowed;
use crate::http::discard::Discard;
use crate::http::head::HeadScan;
use crate::http::transfer::Sending;
use crate::spec::{Service, SiteId};
use crate::sys::socket;

/// A connection of the event loop.
#[derive(Debug)]
pub struct Conn {
    /// Shared with the disk thread that borrows it.
    socket: Arc<Socket>,
    peer: Peer,
    service: Service,
    site: SiteId,
    /// The socket may have something to read.
    readable: bool,
    /// The socket may take something.
    writable: bool,
    /// The peer has shut down its writing side.
    ended: bool,
    /// Close once the output is sent.
    closing: Option<Ending>,
    state: State,
    /// Read, not yet understood.
    input: Vec<u8>,
    /// Written, not yet sent.
    output: Vec<u8>,
}

/// An address and a port in little space: idle connections are many.
#[derive(Clone, Copy, Debug)]
struct Peer {
    /// An IPv4 address as RFC 4291 section 2.5.5.2 maps it.
    ip: [u8; 16],
    port: u16,
}

impl Peer {
    fn new(address: SocketAddr) -> Peer {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Peer { ip: ip.octets(), port: address.port() }
    }

    fn address(self) -> SocketAddr {
        SocketAddr::new(Ipv6Addr::from(self.ip).to_canonical(), self.port)
    }
}

/// What a connection is in the middle of.
#[derive(Debug)]
pub enum State {
    /// Between requests, or in a request's head.
    Reading(HeadScan),
    /// In a body that nobody wants.
    Discarding(Box<Discard>),
    /// In an answer that the loop sends by itself.
    Sending(Box<Sending>),
    /// A disk thread has the socket.
    Lent(Arc<Loan>),
    /// On its way from one state to the next: never seen between two events.
    Between,
    /// An operation waits for the socket.
    Blocked(Op, Need),
    /// Waits until fsck's earlier digests on the device are done.
    Queued(Arc<Device>, Op),
    /// Gets the disk load once a second, for as long as it lives.
    Watching,
    /// Closed for writing; so many bytes that still come are thrown away, so that the answer is
    /// not lost.
    Lingering(u32),
}

impl State {
    /// Between two requests.
    pub fn idle() -> State {
        State::Reading(HeadScan::default())
    }
}

/// How a connection is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// At once: nothing more can be on its way.
    Plain,
    /// The peer may be sending: a plain close would reset the connection, and the peer could
    /// lose the answer.
    Lingering,
}

/// What a read brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes.
    Some(usize),
    /// Nothing for now.
    Nothing,
    /// The peer has shut down its writing side.
    End,
    /// The connection is broken.
    Broken,
}

impl Conn {
    /// A connection that has just arrived, with what was read from it elsewhere.
    pub fn new(
        socket: OwnedFd,
        peer: SocketAddr,
        service: Service,
        site: SiteId,
        input: Vec<u8>,
    ) -> Conn {
        Conn {
            socket: Arc::new(Socket::new(socket)),
            peer: Peer::new(peer),
            service,
            site,
            readable: false,
            writable: false,
            ended: false,
            closing: None,
            state: State::idle(),
            input,
            output: Vec::new(),
        }
    }

    /// What is spoken.
    #[inline]
    pub fn service(&self) -> Service {
        self.service
    }

    /// Which docroot it is about.
    #[inline]
    pub fn site(&self) -> SiteId {
        self.site
    }

    /// What goes on.
    #[inline]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// From now on something else goes on.
    #[inline]
    pub fn enter(&mut self, state: State) {
        self.state = state;
    }

    /// Takes out what goes on, to go on with it: whoever does says what it enters.
    #[inline]
    pub fn leave_state(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Between)
    }

    /// What epoll has told of the socket. A disk thread that has it is to hear of input.
    pub fn note_event(&mut self, readable: bool, writable: bool, ended: bool) {
        self.readable |= readable || ended;
        self.writable |= writable;
        self.ended |= ended;
        if self.readable && self.is_lent() {
            self.socket.set_wanted(true);
        }
    }

    /// Whether the socket may have something to read.
    #[inline]
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// There may be something to read that no event has told of.
    #[inline]
    pub fn look_again(&mut self) {
        self.readable = true;
    }

    /// Whether the socket may take something.
    #[inline]
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// What follows is sent past [`Conn::send`], until the socket takes no more. Readiness is
    /// edge-triggered: what is told of afterwards is news.
    #[inline]
    pub fn feed(&mut self) -> BorrowedFd<'_> {
        self.writable = false;
        self.socket.as_fd()
    }

    /// Whether the peer has shut down its writing side.
    #[inline]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether an operation that waits for the socket can go on.
    pub fn is_ready_for(&self, need: Need) -> bool {
        match need {
            Need::Read => self.readable,
            Need::Write => self.writable,
        }
    }

    /// The same, for one that goes on now if it can: what there is to read it reads.
    pub fn go_on_if_ready_for(&mut self, need: Need) -> bool {
        let ready = self.is_ready_for(need);
        self.readable &= !(ready && need == Need::Read);
        ready
    }

    /// A disk thread gets the socket, by its key and its token in the loop.
    pub fn lend(&mut self, key: usize, token: usize, loan: Arc<Loan>) -> Borrowed {
        self.state = State::Lent(Arc::clone(&loan));
        self.writable = false;
        self.socket.set_wanted(self.readable);
        let (socket, peer) = (Arc::clone(&self.socket), self.peer());
        Borrowed { key, token, socket, peer, more_input: !self.input.is_empty(), loan }
    }

    /// Takes the socket away from the thread that has it: [`Socket::reclaim`]. What is known of
    /// its readiness may be old.
    pub fn reclaim(&mut self) -> io::Result<()> {
        self.socket = Arc::new(self.socket.reclaim()?);
        (self.readable, self.writable) = (true, true);
        Ok(())
    }

    /// Takes what a disk thread's answer has left. Returns how the connection is to be closed if
    /// that was its last.
    pub fn note_answered(&mut self, answered: Answered) -> Ending {
        let Answered { unsent, leftover, has_read, .. } = answered;
        if !leftover.is_empty() {
            self.input = leftover;
        }
        self.output = unsent;
        self.readable |= has_read;
        match !has_read && self.input.is_empty() {
            true => Ending::Plain,
            false => Ending::Lingering,
        }
    }

    /// True while a disk thread has the socket.
    #[inline]
    pub fn is_lent(&self) -> bool {
        matches!(self.state, State::Lent(_))
    }

    /// True between two requests, or in the head of one, with all answers sent; and for whoever
    /// watches.
    pub fn is_between_requests(&self) -> bool {
        let between = matches!(self.state, State::Reading(_) | State::Watching);
        between && self.output.is_empty() && self.closing.is_none()
    }

    /// True for a watcher that has not taken all that it was sent.
    pub fn is_deaf(&self) -> bool {
        matches!(self.state, State::Watching) && !self.output.is_empty()
    }

    /// Who is on the other side.
    pub fn peer(&self) -> SocketAddr {
        self.peer.address()
    }

    /// Its socket.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What was read and not understood yet.
    #[inline]
    pub fn input(&self) -> &[u8] {
        &self.input
    }

    /// The same, taken out to be looked at.
    #[inline]
    pub fn take_input(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.input)
    }

    /// This is what was read and not understood.
    #[inline]
    pub fn put_back(&mut self, input: Vec<u8>) {
        self.input = input;
    }

    /// How many bytes are written and not sent.
    #[inline]
    pub fn unsent(&self) -> usize {
        self.output.len()
    }

    /// How it is closed once its output is sent, if it is.
    #[inline]
    pub fn ending(&self) -> Option<Ending> {
        self.closing
    }

    /// Once its output is sent it is closed.
    #[inline]
    pub fn close_after_output(&mut self, ending: Ending) {
        self.closing = Some(ending);
    }

    /// Closed for writing: what still comes is thrown away, up to `most` bytes.
    pub fn linger(&mut self, most: u32) {
        self.closing = None;
        self.input = Vec::new();
        self.state = State::Lingering(most);
        self.readable = true;
    }

    /// The head of a file's answer waits for the peer, and so does the file.
    pub fn note_head_waits(&mut self) {
        if let State::Sending(sending) = &mut self.state {
            sending.note_wait();
        }
    }

    /// Closes the socket. What was going on is given back, with the docroot it was about.
    pub fn close(self) -> (SiteId, State) {
        drop(self.socket);
        (self.site, self.state)
    }

    /// What another worker gets of it, with what was read and not answered.
    pub fn as_passenger<'a>(&'a self, input: &'a [u8]) -> Passenger<'a> {
        Passenger { socket: self.fd(), service: self.service, site: self.site, input }
    }

    /// Reads what is there. Readiness is edge-triggered: a read that does not fill the buffer has
    /// emptied the socket, unless the end of the stream is near.
    pub fn read(&mut self, buffer: &mut [u8]) -> Read {
        if !self.readable {
            return Read::Nothing;
        }
        match socket::receive(self.fd(), buffer) {
            Ok(0) => {
                self.readable = false;
                self.ended = true;
                Read::End
            }
            Ok(n) => {
                self.readable = n == buffer.len() || self.ended;
                Read::Some(n)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Read::Nothing
            }
            Err(_) => Read::Broken,
        }
    }

    /// Reads what is there, by way of `buffer`, behind what was read before.
    pub fn read_more(&mut self, buffer: &mut [u8]) -> Read {
        let read = self.read(buffer);
        if let Read::Some(n) = read {
            self.input.extend_from_slice(&buffer[..n]);
        }
        read
    }

    /// Sends `bytes`, and keeps what the socket does not take. `Err`: the peer is gone.
    pub fn send(&mut self, bytes: &[u8], more: bool) -> io::Result<()> {
        let sent = if self.output.is_empty() { self.send_now(bytes, more)? } else { 0 };
        if sent < bytes.len() {
            self.output.extend_from_slice(&bytes[sent..]);
        }
        Ok(())
    }

    /// Sends what is left over from earlier. True: nothing is left.
    pub fn flush(&mut self) -> io::Result<bool> {
        if !self.output.is_empty() {
            let output = std::mem::take(&mut self.output);
            let sent = self.send_now(&output, false)?;
            if sent < output.len() {
                self.output = output[sent..].to_vec();
            }
        }
        Ok(self.output.is_empty())
    }

    fn send_now(&self, bytes: &[u8], more: bool) -> io::Result<usize> {
        match socket::send(self.fd(), bytes, more) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests;
