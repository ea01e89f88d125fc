//! The listening sockets: taken over where an inherited one has the wanted address, bound
//! otherwise. Everything is bound before anything is forked.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getsockname, listen,
    setsockopt, socket, sockopt,
};
use rmogstored_worker::spec::{Listener, SiteId};

use crate::config::{ListenerConfig, SiteConfig};
use crate::inherit::{Inherited, internet_address};
use crate::{Listening, MasterError};

/// A listener and what is told about it.
#[derive(Debug)]
pub struct Bound {
    /// What the workers get.
    pub listener: Listener,
    /// What reports show.
    pub listening: Listening,
}

/// Opens all listeners of all sites. Inherited sockets that nobody asked for are closed.
pub fn open(
    sites: &[SiteConfig],
    mut inherited: Vec<Inherited>,
) -> Result<Vec<Bound>, MasterError> {
    let mut all = Vec::new();
    for (id, site) in (0..).map(SiteId).zip(sites) {
        for config in &site.listeners {
            let found = inherited.iter().position(|i| i.address == Some(config.address));
            let found = found.map(|index| inherited.swap_remove(index).fd);
            all.push(open_one(id, site, *config, found)?);
        }
    }
    for stranger in inherited {
        log::info!(
            "closing inherited descriptor {}: not in the configuration",
            stranger.fd.as_raw_fd()
        );
    }
    Ok(all)
}

fn open_one(
    site: SiteId,
    config: &SiteConfig,
    ListenerConfig { service, address }: ListenerConfig,
    inherited: Option<OwnedFd>,
) -> Result<Bound, MasterError> {
    let failed = |source| MasterError::Bind { address, source };
    let fd = match inherited {
        Some(fd) => fd,
        None => bound(address).map_err(failed)?,
    };
    prepare(&fd).map_err(failed)?;
    let listening = Listening {
        service,
        site,
        address: real_address(&fd).map_err(failed)?.unwrap_or(address),
        docroot: config.docroot.clone(),
    };
    Ok(Bound { listener: Listener { fd, service, site }, listening })
}

/// `[::]` leaves the IPv4 addresses to other listeners, as in nginx.
fn bound(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(fd)
}

/// On Linux accepted sockets take TCP_NODELAY and SO_KEEPALIVE from the listener, which saves
/// two system calls for each connection.
fn prepare(fd: &OwnedFd) -> io::Result<()> {
    fcntl(fd.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    let flags = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    setsockopt(fd, sockopt::TcpNoDelay, &true)?;
    setsockopt(fd, sockopt::KeepAlive, &true)?;
    listen(fd, Backlog::MAXCONN)?;
    Ok(())
}

fn real_address(fd: &OwnedFd) -> io::Result<Option<SocketAddr>> {
    Ok(internet_address(&getsockname::<SockaddrStorage>(fd.as_raw_fd())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::path::PathBuf;

    use nix::sys::socket::getsockopt;
    use rmogstored_worker::spec::Service;

    fn site(address: &str) -> SiteConfig {
        let address = address.parse().unwrap();
        SiteConfig {
            docroot: PathBuf::from("/docroot"),
            listeners: vec![ListenerConfig { service: Service::Http, address }],
        }
    }

    #[test]
    fn port_zero_becomes_the_real_port() {
        let all = open(&[site("127.0.0.1:0")], Vec::new()).unwrap();
        assert_ne!(all[0].listening.address.port(), 0);
        TcpStream::connect(all[0].listening.address).unwrap();
    }

    #[test]
    fn accepted_sockets_inherit_nodelay_and_keepalive() {
        let mut all = open(&[site("127.0.0.1:0")], Vec::new()).unwrap();
        let Bound { listener, listening } = all.remove(0);
        let client = TcpStream::connect(listening.address).unwrap();
        let (accepted, _) = TcpListener::from(listener.fd).accept().unwrap();
        assert!(getsockopt(&accepted, sockopt::TcpNoDelay).unwrap());
        assert!(getsockopt(&accepted, sockopt::KeepAlive).unwrap());
        assert!(!client.nodelay().unwrap(), "the default would pass this test on its own");
    }

    #[test]
    fn address_in_use_is_an_error_that_names_it() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = open(&[site(&address.to_string())], Vec::new()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot listen on {address}: ")), "{error}");
        assert!(error.contains("in use"), "{error}");
    }

    #[test]
    fn inherited_socket_of_the_same_address_is_taken_over() {
        let old = TcpListener::bind("127.0.0.1:0").unwrap();
        let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
        let gone = stranger.local_addr().unwrap();
        let address = old.local_addr().unwrap();
        let inherited = [old, stranger]
            .map(|listener| Inherited { address: listener.local_addr().ok(), fd: listener.into() });
        let all = open(&[site(&address.to_string())], inherited.into()).unwrap();
        assert_eq!(all[0].listening.address, address);
        TcpStream::connect(address).unwrap();
        TcpStream::connect(gone).unwrap_err();
    }

    #[test]
    fn ipv6_wildcard_leaves_ipv4_alone() {
        let Ok(all) = open(&[site("[::]:0")], Vec::new()) else {
            println!("SKIPPED: no IPv6 here");
            return;
        };
        let port = all[0].listening.address.port();
        open(&[site(&format!("0.0.0.0:{port}"))], Vec::new()).unwrap();
    }
}
