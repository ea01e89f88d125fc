//! The listening sockets: taken over where an inherited one has the wanted address, bound
//! otherwise. Everything is bound before anything is forked.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getsockname, listen,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use rmogstored_worker::spec::{Listener, SiteId};

use crate::config::{ListenerConfig, SiteConfig};
use crate::inherit::{Inherited, internet_address};
use crate::successor::{self, AnyPort, Purpose};
use crate::{Listening, MasterError};

/// A C daemon that shares a listener takes its O_NONBLOCK away: accept(2) then waits this long,
/// socket(7), when another process was faster.
const ACCEPT_TIMEOUT: TimeVal = TimeVal::new(0, 5000);
/// A start waits so long for an address: the workers of a master that was killed let go of
/// theirs a moment later.
const PATIENCE: Duration = Duration::from_secs(1);
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// A listener and what is told about it.
#[derive(Debug)]
pub struct Bound {
    /// What the workers get.
    pub listener: Listener,
    /// What reports show.
    pub listening: Listening,
    /// The address as configured; its port may be 0.
    pub wanted: SocketAddr,
}

/// Where the monitor answers.
#[derive(Debug)]
pub struct StatusListener {
    /// The socket.
    pub fd: OwnedFd,
    /// The bound address; never port 0.
    pub address: SocketAddr,
    /// The address as configured; its port may be 0.
    pub wanted: SocketAddr,
}

/// All that the node listens on.
#[derive(Debug)]
pub struct Opened {
    /// The workers'.
    pub listeners: Vec<Bound>,
    /// The monitor's.
    pub status: Option<StatusListener>,
}

/// An open socket that may be used for a listener.
#[derive(Debug)]
struct Spare {
    fd: OwnedFd,
    address: Option<SocketAddr>,
    /// For another one only where the port says which socket is meant.
    purpose: Option<Purpose>,
}

/// Opens all listeners of all sites. Inherited sockets that nobody asked for are closed.
pub fn open(
    sites: &[(SiteId, SiteConfig)],
    status: Option<SocketAddr>,
    inherited: Vec<Inherited>,
) -> Result<Opened, MasterError> {
    let spare = |Inherited { fd, address }| match successor::any_port(fd.as_raw_fd()) {
        Some(AnyPort { purpose, wanted, .. }) => {
            Spare { fd, address: Some(wanted), purpose: Some(purpose) }
        }
        None => Spare { fd, address, purpose: None },
    };
    let mut spares = inherited.into_iter().map(spare).collect();
    let all = open_all(sites, status, &mut spares, Instant::now() + PATIENCE)?;
    for Spare { fd, .. } in spares {
        log::info!("closing inherited descriptor {}: not in the configuration", fd.as_raw_fd());
    }
    Ok(all)
}

/// Opens the listeners of a new configuration: what the old one has is duplicated.
pub fn reopen(
    sites: &[(SiteId, SiteConfig)],
    status: Option<SocketAddr>,
    old: &[Bound],
    old_status: Option<&StatusListener>,
) -> Result<Opened, MasterError> {
    let spare = |(fd, wanted, purpose): (&OwnedFd, SocketAddr, Purpose)| {
        Ok(Spare { fd: fd.try_clone()?, address: Some(wanted), purpose: Some(purpose) })
    };
    let serving = old.iter().map(|Bound { listener, wanted, .. }| {
        (&listener.fd, *wanted, Purpose::Serve(listener.service))
    });
    let old = serving.chain(old_status.map(|old| (&old.fd, old.wanted, Purpose::Status)));
    let mut spares: Vec<Spare> =
        old.map(spare).collect::<Result<_, _>>().map_err(MasterError::system("dup"))?;
    open_all(sites, status, &mut spares, Instant::now())
}

/// Sets O_NONBLOCK again, once whoever took it away has gone.
pub fn restore_nonblocking(listeners: &[Bound]) {
    for Bound { listener, listening, .. } in listeners {
        if let Err(e) = set_nonblocking(&listener.fd) {
            log::warn!("{}: O_NONBLOCK: {e}", listening.address);
        }
    }
}

fn open_all(
    sites: &[(SiteId, SiteConfig)],
    status: Option<SocketAddr>,
    spares: &mut Vec<Spare>,
    patience: Instant,
) -> Result<Opened, MasterError> {
    let mut listeners = Vec::new();
    for (id, site) in sites {
        for config in &site.listeners {
            let found = spare_for(config.address, Purpose::Serve(config.service), spares);
            listeners.push(open_one(*id, site, *config, found, patience)?);
        }
    }
    let status = match status {
        Some(wanted) => {
            let found = spare_for(wanted, Purpose::Status, spares);
            let (fd, address) = open_at(wanted, found, patience)?;
            Some(StatusListener { fd, address, wanted })
        }
        None => None,
    };
    Ok(Opened { listeners, status })
}

fn spare_for(address: SocketAddr, purpose: Purpose, spares: &mut Vec<Spare>) -> Option<OwnedFd> {
    let matching = |s: &Spare| s.address == Some(address);
    let same = spares.iter().position(|s| matching(s) && s.purpose.is_none_or(|p| p == purpose));
    let found = same.or_else(|| {
        let named = address.port() != 0;
        spares.iter().position(|s| named && matching(s))
    });
    found.map(|index| spares.swap_remove(index).fd)
}

fn open_one(
    site: SiteId,
    config: &SiteConfig,
    ListenerConfig { service, address }: ListenerConfig,
    spare: Option<OwnedFd>,
    patience: Instant,
) -> Result<Bound, MasterError> {
    let (fd, real) = open_at(address, spare, patience)?;
    let listening = Listening { service, site, address: real, docroot: config.docroot.clone() };
    Ok(Bound { listener: Listener { fd, service, site }, listening, wanted: address })
}

/// A listener and its real address.
fn open_at(
    address: SocketAddr,
    spare: Option<OwnedFd>,
    patience: Instant,
) -> Result<(OwnedFd, SocketAddr), MasterError> {
    let failed = |source| MasterError::Bind { address, source };
    let fd = match spare {
        Some(fd) => fd,
        None => bound_in_time(address, patience).map_err(failed)?,
    };
    prepare(&fd).map_err(failed)?;
    let real = real_address(&fd).map_err(failed)?.unwrap_or(address);
    Ok((fd, real))
}

/// What an operator can do about an address that cannot be listened on.
pub(crate) fn advice(address: SocketAddr, error: &io::Error) -> Option<&'static str> {
    let link_local = matches!(address, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local());
    match error.raw_os_error().map(Errno::from_raw)? {
        Errno::EADDRINUSE => Some("another process listens there"),
        Errno::EADDRNOTAVAIL => Some("no interface of this machine has this address"),
        Errno::EACCES if address.port() < 1024 => {
            Some("a port below 1024 needs root or CAP_NET_BIND_SERVICE")
        }
        Errno::EAFNOSUPPORT => Some("this machine does not speak IPv6"),
        Errno::EINVAL if link_local => Some("a link-local address cannot be served"),
        Errno::EOPNOTSUPP => Some("the inherited socket is none that can listen"),
        _ => None,
    }
}

fn bound_in_time(address: SocketAddr, patience: Instant) -> io::Result<OwnedFd> {
    loop {
        match bound(address) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && Instant::now() < patience => {
                thread::sleep(TRY_AGAIN);
            }
            other => return other,
        }
    }
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
    set_nonblocking(fd)?;
    setsockopt(fd, sockopt::ReceiveTimeout, &ACCEPT_TIMEOUT)?;
    setsockopt(fd, sockopt::TcpNoDelay, &true)?;
    setsockopt(fd, sockopt::KeepAlive, &true)?;
    listen(fd, Backlog::MAXCONN)?;
    Ok(())
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
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

    use rmogstored_worker::spec::Service;

    use nix::sys::socket::getsockopt;

    fn site(addresses: &[(Service, &str)]) -> (SiteId, SiteConfig) {
        let listener = |&(service, address): &(Service, &str)| ListenerConfig {
            service,
            address: address.parse().unwrap(),
        };
        let listeners = addresses.iter().map(listener).collect();
        (
            SiteId(0),
            SiteConfig { docroot: PathBuf::from("/docroot"), require_mount: false, listeners },
        )
    }

    fn open(
        sites: &[(SiteId, SiteConfig)],
        inherited: Vec<Inherited>,
    ) -> Result<Vec<Bound>, MasterError> {
        super::open(sites, None, inherited).map(|opened| opened.listeners)
    }

    fn reopen(sites: &[(SiteId, SiteConfig)], old: &[Bound]) -> Result<Vec<Bound>, MasterError> {
        super::reopen(sites, None, old, None).map(|opened| opened.listeners)
    }

    #[test]
    fn monitor_s_listener_keeps_its_socket_in_a_reload_and_moves_when_told() {
        let (any, sites) = ("127.0.0.1:0".parse().ok(), [http("127.0.0.1:0")]);
        let first = super::open(&sites, any, Vec::new()).unwrap();
        let same = super::reopen(&sites, any, &first.listeners, first.status.as_ref()).unwrap();
        let address = |opened: &Opened| opened.status.as_ref().unwrap().address;
        assert_eq!(address(&same), address(&first));
        assert_ne!(address(&same), same.listeners[0].listening.address);
        let gone = super::reopen(&sites, None, &first.listeners, first.status.as_ref()).unwrap();
        assert!(gone.status.is_none());
    }

    fn http(address: &str) -> (SiteId, SiteConfig) {
        site(&[(Service::Http, address)])
    }

    #[test]
    fn port_zero_becomes_the_real_port() {
        let all = open(&[http("127.0.0.1:0")], Vec::new()).unwrap();
        assert_ne!(all[0].listening.address.port(), 0);
        TcpStream::connect(all[0].listening.address).unwrap();
    }

    #[test]
    fn accepted_sockets_inherit_nodelay_and_keepalive() {
        let mut all = open(&[http("127.0.0.1:0")], Vec::new()).unwrap();
        let Bound { listener, listening, .. } = all.remove(0);
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
        let error = open(&[http(&address.to_string())], Vec::new()).unwrap_err().to_string();
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
        let all = open(&[http(&address.to_string())], inherited.into()).unwrap();
        assert_eq!(all[0].listening.address, address);
        TcpStream::connect(address).unwrap();
        TcpStream::connect(gone).unwrap_err();
    }

    #[test]
    fn ipv6_wildcard_leaves_ipv4_alone() {
        let Ok(all) = open(&[http("[::]:0")], Vec::new()) else {
            println!("SKIPPED: no IPv6 here");
            return;
        };
        let port = all[0].listening.address.port();
        open(&[http(&format!("0.0.0.0:{port}"))], Vec::new()).unwrap();
    }

    #[test]
    fn listeners_of_any_port_keep_their_ports_and_services_in_a_reload() {
        let (any, both) = ("127.0.0.1:0", [Service::Http, Service::Mgmt]);
        let old = open(&[site(&both.map(|service| (service, any)))], Vec::new()).unwrap();
        let turned = [both[1], both[0]].map(|service| (service, any));
        let new = reopen(&[site(&turned)], &old).unwrap();
        let ports = |all: &[Bound]| {
            let pair = |bound: &Bound| (bound.listener.service as u8, bound.listening.address);
            all.iter().map(pair).collect::<std::collections::BTreeMap<_, _>>()
        };
        assert_eq!(ports(&new), ports(&old));
    }

    #[test]
    fn reload_binds_what_is_new_and_leaves_the_old_open() {
        let old = open(&[http("127.0.0.1:0")], Vec::new()).unwrap();
        let (known, any) = (old[0].listening.address.to_string(), "127.0.0.1:0");
        let old = open(&[http(&known)], vec![spare(&old[0])]).unwrap();
        let wanted = [(Service::HttpGet, known.as_str()), (Service::Http, any)];
        let new = reopen(&[site(&wanted)], &old).unwrap();
        assert_eq!(new[0].listening.address, old[0].listening.address);
        drop(old);
        TcpStream::connect(new[0].listening.address).unwrap();
        TcpStream::connect(new[1].listening.address).unwrap();
    }

    fn spare(bound: &Bound) -> Inherited {
        let fd = bound.listener.fd.try_clone().unwrap();
        Inherited { address: Some(bound.listening.address), fd }
    }

    /// Measured: a lost race costs one or two ticks of the kernel's clock, not for ever.
    #[test]
    fn accept_returns_soon_when_another_process_made_the_listener_block() {
        let all = open(&[http("127.0.0.1:0")], Vec::new()).unwrap();
        let fd = &all[0].listener.fd;
        let clear = || {
            let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap());
            fcntl(fd, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK)).unwrap();
        };
        clear();
        let begun = Instant::now();
        let error = rmogstored_worker::sys::socket::accept(fd.as_fd()).unwrap_err();
        let took = begun.elapsed();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(took >= Duration::from_millis(4), "it did not block: nothing was tested");
        assert!(took < Duration::from_millis(500), "{took:?}");
        restore_nonblocking(&all);
        let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap());
        assert!(flags.contains(OFlag::O_NONBLOCK));
    }
}
