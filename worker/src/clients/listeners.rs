//! The listeners, which all workers share: a connection wakes one of those that watch.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use mio::Poll;
use mio::unix::SourceFd;
use std::net::SocketAddr;

use crate::ids::SiteId;
use crate::spec::{Listener, Service};
use crate::sys::socket;

/// How often the log is told that there is no room, in milliseconds.
const COMPLAIN_MS: u64 = 60_000;

/// The shared listeners as one worker uses them.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<Listener>,
    /// Token of the first; the others follow.
    first_token: usize,
    /// Not in the epoll set for now: there is no room.
    paused: bool,
    /// When the log was last told that there is no room.
    complained: Option<u64>,
}

/// A connection that has just been accepted.
#[derive(Debug)]
pub struct Newcomer {
    /// Its socket.
    pub socket: OwnedFd,
    /// Who is on the other side.
    pub peer: SocketAddr,
    /// What is spoken on it.
    pub service: Service,
    /// Which docroot it is about.
    pub site: SiteId,
}

impl Listeners {
    /// Listeners that are not watched yet.
    pub fn new(sockets: Vec<Listener>, first_token: usize) -> Listeners {
        Listeners { sockets, first_token, paused: true, complained: None }
    }

    /// Starts to watch them, or starts again.
    pub fn watch(&mut self, poll: &Poll) -> io::Result<()> {
        if !self.paused {
            return Ok(());
        }
        for (index, listener) in self.sockets.iter().enumerate() {
            socket::watch_exclusively(poll, listener.fd.as_fd(), self.first_token + index)?;
        }
        self.paused = false;
        Ok(())
    }

    /// Hears of no connection until they are watched again.
    pub fn pause(&mut self, poll: &Poll) {
        if !std::mem::replace(&mut self.paused, true) {
            for listener in &self.sockets {
                let _ = poll.registry().deregister(&mut SourceFd(&listener.fd.as_raw_fd()));
            }
        }
    }

    /// Whether they are not watched for now.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// How many there are: none after [`Listeners::close`].
    pub fn count(&self) -> usize {
        self.sockets.len()
    }

    /// Lets them go, for good.
    pub fn close(&mut self, poll: &Poll) {
        self.pause(poll);
        self.sockets.clear();
    }

    /// Accepts one connection of one listener. `WouldBlock`: there is none (another worker was
    /// faster), accept(2).
    pub fn accept(&self, index: usize) -> io::Result<Newcomer> {
        let listener = self.sockets.get(index).ok_or(io::ErrorKind::NotFound)?;
        let (socket, peer) = socket::accept(listener.fd.as_fd())?;
        Ok(Newcomer { socket, peer, service: listener.service, site: listener.site })
    }

    /// Says once a minute that connections have to wait. `now` is the loop's clock.
    pub fn complain(&mut self, error: &io::Error, now: u64) {
        if self.complained.is_none_or(|at| now.saturating_sub(at) > COMPLAIN_MS) {
            self.complained = Some(now);
            log::warn!("new connections have to wait: accept: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::Events;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    fn one() -> (SocketAddr, Listeners) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (service, site) = (Service::HttpGet, SiteId(3));
        (address, Listeners::new(vec![Listener { fd: listener.into(), service, site }], 7))
    }

    fn hears(poll: &mut Poll, patience: Duration) -> Option<usize> {
        let mut events = Events::with_capacity(4);
        poll.poll(&mut events, Some(patience)).unwrap();
        events.iter().next().map(|event| event.token().0)
    }

    #[test]
    fn connection_is_heard_of_while_they_are_watched() {
        let mut poll = Poll::new().unwrap();
        let (address, mut listeners) = one();
        let _client = TcpStream::connect(address).unwrap();
        assert_eq!(hears(&mut poll, Duration::ZERO), None);
        listeners.watch(&poll).unwrap();
        assert_eq!(hears(&mut poll, Duration::from_secs(10)), Some(7));
        listeners.pause(&poll);
        assert_eq!(hears(&mut poll, Duration::ZERO), None);
        listeners.watch(&poll).unwrap();
        listeners.watch(&poll).expect("twice is no error");
        assert_eq!(hears(&mut poll, Duration::from_secs(10)), Some(7));
        let newcomer = listeners.accept(0).unwrap();
        assert_eq!((newcomer.service, newcomer.site), (Service::HttpGet, SiteId(3)));
        assert_eq!(listeners.accept(0).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(listeners.accept(1).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn closed_ones_are_gone() {
        let poll = Poll::new().unwrap();
        let (address, mut listeners) = one();
        listeners.watch(&poll).unwrap();
        listeners.close(&poll);
        assert_eq!((listeners.count(), listeners.is_paused()), (0, true));
        assert!(TcpStream::connect(address).is_err());
    }
}
