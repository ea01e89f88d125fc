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
use crate::disk::operation::{Need, Op};
use crate::http::answer::Status;
use crate::http::chunked::Chunked;
use crate::http::get::Transfer;
use crate::http::head::{HeadScan, Request};
use crate::spec::{Service, SiteId};
use crate::sys::socket;

/// A connection of the event loop.
#[derive(Debug)]
pub struct Conn {
    /// Shared with the disk thread that borrows it.
    pub socket: Arc<Socket>,
    /// Who is on the other side.
    peer: Peer,
    /// What is spoken.
    pub service: Service,
    /// Which docroot it is about.
    pub site: SiteId,
    /// The socket may have something to read.
    pub readable: bool,
    /// The socket may take something.
    pub writable: bool,
    /// The peer has shut down its writing side.
    pub ended: bool,
    /// Close once the output is sent.
    pub closing: Option<Ending>,
    /// What goes on.
    pub state: State,
    /// Read, not yet understood.
    pub input: Vec<u8>,
    /// Written, not yet sent.
    pub output: Vec<u8>,
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

/// How a connection is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// At once: nothing more can be on its way.
    Plain,
    /// The peer may be sending: a plain close would reset the connection, and the peer could
    /// lose the answer.
    Lingering,
}

/// A body being thrown away.
#[derive(Debug)]
pub struct Discard {
    /// How it is framed.
    pub left: Left,
    /// What follows.
    pub then: Then,
}

/// How much of a body is left.
#[derive(Debug)]
pub enum Left {
    /// So many bytes.
    Length(u64),
    /// Chunks, of which so many bytes may still come, and so many with their framing.
    Chunked(Box<Chunked>, u64, u64),
}

/// What follows a body that was thrown away.
#[derive(Debug)]
pub enum Then {
    /// The request is served.
    Serve(Box<Request>),
    /// It was refused.
    Answer(Status, bool),
}

/// A file being sent by the loop, with the request in case a disk thread must take over.
#[derive(Debug)]
pub struct Sending {
    /// The file.
    pub transfer: Transfer,
    /// Whose answer it is.
    pub request: Request,
    /// The peer did not take more when it was last tried.
    pub waits: bool,
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
            state: State::Reading(HeadScan::default()),
            input,
            output: Vec::new(),
        }
    }

    /// True while a disk thread has the socket.
    pub fn is_lent(&self) -> bool {
        matches!(self.state, State::Lent(_))
    }

    /// Who is on the other side.
    pub fn peer(&self) -> SocketAddr {
        self.peer.address()
    }

    /// Its socket.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
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
mod tests {
    use super::*;

    #[test]
    fn idle_connection_takes_little_room() {
        assert!(size_of::<Conn>() <= 112, "{}", size_of::<Conn>());
    }

    #[test]
    fn peer_keeps_address_and_port() {
        for text in ["127.0.0.1:7500", "[2001:db8::1]:65535", "[::1]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(Peer::new(address).address(), address);
        }
    }
}
