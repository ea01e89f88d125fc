//! The workers of the other node in an upgrade, which take connections over: the successor's for
//! its predecessor, and the other way round if the upgrade is taken back.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::clients::inbox;
use crate::clients::neighbours::Passenger;
use crate::ids::SiteId;
use crate::spec::Route;

/// Those that have said so, by number.
#[derive(Debug, Default)]
pub struct Heirs {
    heirs: Vec<Heir>,
    /// Whose turn it is.
    turn: usize,
}

#[derive(Debug)]
struct Heir {
    number: u32,
    inbox: OwnedFd,
    routes: Vec<Route>,
}

impl Heirs {
    /// One takes connections from now on.
    pub fn add(&mut self, number: u32, inbox: OwnedFd, routes: Vec<Route>) {
        self.heirs.retain(|heir| heir.number != number);
        self.heirs.push(Heir { number, inbox, routes });
    }

    /// It takes connections of these routes from now on.
    pub fn set_routes(&mut self, number: u32, routes: Vec<Route>) {
        if let Some(heir) = self.heirs.iter_mut().find(|heir| heir.number == number) {
            heir.routes = routes;
        }
    }

    /// One takes none any more.
    pub fn remove(&mut self, number: u32) {
        self.heirs.retain(|heir| heir.number != number);
    }

    /// None does.
    pub fn clear(&mut self) {
        self.heirs.clear();
    }

    /// True when there is nobody, or nobody any more.
    pub fn is_empty(&self) -> bool {
        self.heirs.is_empty()
    }

    /// One's inbox, and whose connections it takes.
    pub fn get(&self, number: u32) -> Option<(BorrowedFd<'_>, &[Route])> {
        let heir = self.heirs.iter().find(|heir| heir.number == number)?;
        Some((heir.inbox.as_fd(), &heir.routes))
    }

    /// The numbers of all.
    pub fn numbers(&self) -> Vec<u32> {
        self.heirs.iter().map(|heir| heir.number).collect()
    }

    /// Where the connections were made to that they take.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let mut addresses: Vec<_> =
            self.heirs.iter().flat_map(|heir| &heir.routes).map(|route| route.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// Gives a connection, made to the address `local`, to one of them, in turn. An error of
    /// [`inbox::is_full`]: there is no room with those who would take it. `NotFound`: nobody
    /// listens for it there, or nobody lives any more.
    pub fn send(&mut self, passenger: &Passenger<'_>, local: SocketAddr) -> io::Result<()> {
        let mut full = None;
        for _ in 0..self.heirs.len() {
            self.turn = (self.turn + 1) % self.heirs.len().max(1);
            let Some(heir) = self.heirs.get(self.turn) else { break };
            let Some(site) = heir.site_for(passenger, local) else { continue };
            match heir.send(passenger, site) {
                Ok(()) => return Ok(()),
                Err(e) if inbox::is_full(&e) => full = Some(e),
                Err(e) => {
                    log::debug!("worker {} of the other node takes nothing: {e}", heir.number);
                    self.heirs.remove(self.turn);
                    // The next one is at its place.
                    self.turn =
                        self.turn.checked_sub(1).unwrap_or(self.heirs.len().saturating_sub(1));
                }
            }
        }
        Err(full.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }
}

impl Heir {
    fn site_for(&self, passenger: &Passenger<'_>, local: SocketAddr) -> Option<SiteId> {
        let is_for = |route: &&Route| route.is_for(passenger.service, passenger.site, local);
        self.routes.iter().find(is_for).map(|route| SiteId(route.heir_site))
    }

    fn send(&self, passenger: &Passenger<'_>, site: SiteId) -> io::Result<()> {
        let Passenger { socket, service, input, .. } = *passenger;
        inbox::send_connection(self.inbox.as_fd(), socket, service, site, input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::inbox::{Parcel, receive};
    use crate::spec::Service;
    use crate::sys::socket::{self, seqpacket_pair};
    use std::os::unix::net::UnixStream;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn route(service: Service, site: u8, at: &str, heir_site: u8) -> Route {
        Route { service, site, address: address(at), heir_site }
    }

    fn sent(heirs: &mut Heirs, service: Service, site: u8, local: &str) -> io::Result<()> {
        let (socket, _peer) = UnixStream::pair().unwrap();
        let site = SiteId(site);
        let passenger = Passenger { socket: socket.as_fd(), service, site, input: b"GE" };
        heirs.send(&passenger, address(local))
    }

    fn arrived(inbox: &OwnedFd) -> Option<(u8, Vec<u8>)> {
        match receive(inbox.as_fd(), &mut [0; 100]).unwrap()? {
            Parcel::Connection { site, input, .. } => Some((site.0, input)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn connection_goes_where_its_address_and_docroot_are_served() {
        let (inbox, receiver) = seqpacket_pair().unwrap();
        let mut heirs = Heirs::default();
        let routes = vec![
            route(Service::Http, 0, "0.0.0.0:7500", 3),
            route(Service::Mgmt, 0, "127.0.0.1:7501", 3),
            route(Service::Http, 1, "[::]:7600", 0),
        ];
        heirs.add(0, inbox, routes);
        sent(&mut heirs, Service::Http, 0, "10.0.0.1:7500").unwrap();
        assert_eq!(arrived(&receiver), Some((3, b"GE".to_vec())));
        sent(&mut heirs, Service::Http, 1, "127.0.0.1:7600").unwrap();
        assert_eq!(arrived(&receiver).unwrap().0, 0);
        for (service, site, local) in [
            (Service::Http, 0, "10.0.0.1:7501"),
            (Service::HttpGet, 0, "10.0.0.1:7500"),
            (Service::Mgmt, 0, "10.0.0.1:7501"),
            (Service::Http, 2, "10.0.0.1:7500"),
        ] {
            let refused = sent(&mut heirs, service, site, local).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::NotFound, "{service:?} {site} {local}");
        }
        assert!(!heirs.is_empty());
    }

    #[test]
    fn they_take_turns_and_those_that_are_gone_are_left_out() {
        let mut heirs = Heirs::default();
        let mut receivers = Vec::new();
        for number in 0..3 {
            let (inbox, receiver) = seqpacket_pair().unwrap();
            heirs.add(number, inbox, vec![route(Service::Http, 0, "0.0.0.0:1", 0)]);
            receivers.push(receiver);
        }
        let mut send = || sent(&mut heirs, Service::Http, 0, "127.0.0.1:1");
        (0..3).for_each(|_| send().unwrap());
        assert!(receivers.iter().all(|receiver| arrived(receiver).is_some()));
        receivers.remove(1);
        (0..4).for_each(|_| send().unwrap());
        receivers.clear();
        assert!(send().is_err());
        assert!(heirs.is_empty());
    }

    #[test]
    fn a_full_one_counts_for_more_than_a_dead_one() {
        for dead_first in [true, false] {
            let (full, _receiver) = seqpacket_pair().unwrap();
            while socket::send_with_fd(full.as_fd(), &[&[0; 1024]], None).is_ok() {}
            let (dead, _) = seqpacket_pair().unwrap();
            let mut heirs = Heirs::default();
            let (first, second) = if dead_first { (dead, full) } else { (full, dead) };
            for (number, inbox) in [(0, first), (1, second)] {
                heirs.add(number, inbox, vec![route(Service::Http, 0, "0.0.0.0:1", 0)]);
            }
            let refused = sent(&mut heirs, Service::Http, 0, "127.0.0.1:1").unwrap_err();
            assert!(inbox::is_full(&refused), "{dead_first}: {refused}");
            assert_eq!(heirs.numbers().len(), 1);
        }
    }

    #[test]
    fn they_are_known_by_their_numbers_until_they_go() {
        let mut heirs = Heirs::default();
        for (number, at) in [(3, "0.0.0.0:1"), (5, "127.0.0.1:2"), (3, "0.0.0.0:1")] {
            let (inbox, _) = seqpacket_pair().unwrap();
            heirs.add(number, inbox, vec![route(Service::Http, 0, at, 0)]);
        }
        assert_eq!(heirs.numbers(), [5, 3]);
        assert_eq!(heirs.addresses(), [address("0.0.0.0:1"), address("127.0.0.1:2")]);
        assert_eq!(heirs.get(5).unwrap().1[0].address, address("127.0.0.1:2"));
        heirs.remove(5);
        assert!(heirs.get(5).is_none() && !heirs.is_empty());
        heirs.clear();
        assert!(heirs.is_empty() && heirs.addresses().is_empty());
    }

    #[test]
    fn full_ones_are_there_still() {
        let (inbox, _receiver) = seqpacket_pair().unwrap();
        while socket::send_with_fd(inbox.as_fd(), &[&[0; 1024]], None).is_ok() {}
        let mut heirs = Heirs::default();
        heirs.add(0, inbox, vec![route(Service::Http, 0, "0.0.0.0:1", 0)]);
        let refused = sent(&mut heirs, Service::Http, 0, "127.0.0.1:1").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        assert!(!heirs.is_empty());
    }
}
