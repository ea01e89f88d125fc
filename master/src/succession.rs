//! How connections follow an upgrade: what a successor and its predecessor offer each other, so
//! that the workers of the one that goes can give their connections to the other's. The way is a
//! pair of Unix sockets that the predecessor makes; the successor's end is a descriptor whose
//! number [`VARIABLE`] holds. The successor speaks first, but for what the predecessor has done: one
//! that does not know the variable says nothing, and is told of no worker.
//!
//! Each message is JSON. An offer comes with a worker's inbox, and says what that worker's process
//! listens on. Who does not speak this version knows nothing of offers; then connections are closed
//! politely, as ever.

use std::env;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::sys::socket::{SockType, getsockopt, sockopt};
use nix::unistd::getppid;
use rmogstored_worker::control::Channel;
use rmogstored_worker::scoreboard::Layout;
use rmogstored_worker::spec::{Route, Service};
use rmogstored_worker::sys::socket::adopt_inherited;
use serde::{Deserialize, Serialize};

use crate::supervise::plan::Plan;
use crate::sys::FIRST;
use crate::{inherit, sys};

/// The variable that holds the version, the descriptor's number and the predecessor's process id.
pub(crate) const VARIABLE: &str = "RMOGSTORED_SUCCESSION";
/// A field that goes or changes its meaning raises it.
const VERSION: u32 = 1;

/// What the two say to each other.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Message {
    /// A worker takes connections; the packet carries its inbox's sending end. What was said of
    /// the same number before counts no more.
    Offer {
        /// The worker's number.
        heir: u32,
        /// What its node listens on.
        doors: Vec<Door>,
    },
    /// It takes none any more.
    Withdraw {
        /// The worker's number.
        heir: u32,
    },
    /// What the node has done; the packet carries its board, of which this is the description.
    Counters {
        /// See [`rmogstored_worker::scoreboard::OtherBoard`].
        layout: Layout,
    },
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Door {
    service: Service,
    address: SocketAddr,
    docroot: String,
    site: u8,
}

/// In the successor-to-be, a child of its predecessor: the variable's value where it is to have
/// this end.
pub(crate) fn announcement(end: BorrowedFd<'_>) -> String {
    format!("{VERSION},{},{}", end.as_raw_fd(), getppid())
}

/// The number that the environment announces, if it is meant for this process.
pub(crate) fn announced() -> Option<RawFd> {
    let number = parse(&env::var(VARIABLE).ok()?, getppid().as_raw())?;
    (number >= FIRST && inherit::announced()).then_some(number)
}

fn parse(value: &str, parent: i32) -> Option<RawFd> {
    let mut numbers = value.split(',').map(|part| part.parse::<i32>().ok());
    let head = (numbers.next()??, numbers.next()??, numbers.next()??);
    let (version, number, predecessor) = head;
    (version == VERSION.cast_signed() && predecessor == parent).then_some(number)
}

/// The way to this process's predecessor. To be called before this process opens anything.
pub(crate) fn take() -> Option<Channel> {
    let number = announced();
    sys::forget_variable(VARIABLE);
    let fd = adopt_inherited(number?)?;
    // The number may be somebody else's: nothing of theirs is read or closed.
    if !getsockopt(&fd, sockopt::SockType).is_ok_and(|kind| kind == SockType::SeqPacket) {
        let _ = fd.into_raw_fd();
        return None;
    }
    close_on_exec(fd).map(Channel::from).inspect_err(|e| log::debug!("succession: {e}")).ok()
}

fn close_on_exec(fd: OwnedFd) -> io::Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(fd)
}

/// What a plan listens on. A docroot whose path is no text is left out.
pub(crate) fn doors(plan: &Plan) -> Vec<Door> {
    let doors = plan.listeners.iter().filter_map(|bound| {
        let site = bound.listener.site;
        Some(Door {
            service: bound.listener.service,
            address: bound.listening.address,
            docroot: docroot(plan, site.0)?.to_owned(),
            site: site.0,
        })
    });
    doors.collect()
}

/// The ways from a node's own listeners through such doors: where address, service and docroot
/// are the same.
pub(crate) fn routes(own: &[Door], doors: &[Door]) -> Vec<Route> {
    let routes = own.iter().filter_map(|own| {
        let same = |door: &&Door| {
            (door.service, door.address, &door.docroot) == (own.service, own.address, &own.docroot)
        };
        let heir_site = doors.iter().find(same)?.site;
        Some(Route { service: own.service, site: own.site, address: own.address, heir_site })
    });
    routes.collect()
}

fn docroot(plan: &Plan, site: u8) -> Option<&str> {
    plan.sites.get(usize::from(site)).map(|site| site.docroot.as_path()).and_then(Path::to_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_lead_where_address_service_and_docroot_are_the_same() {
        let door = |service, port, docroot: &str, site| Door {
            service,
            address: ([127, 0, 0, 1], port).into(),
            docroot: docroot.to_owned(),
            site,
        };
        let own = [
            door(Service::Http, 1, "/a", 0),
            door(Service::Mgmt, 2, "/a", 0),
            door(Service::Http, 3, "/b", 1),
            door(Service::HttpGet, 4, "/b", 1),
        ];
        let theirs = [
            door(Service::Http, 3, "/b", 0),
            door(Service::Http, 1, "/a", 7),
            door(Service::Mgmt, 2, "/other", 7),
            door(Service::Http, 4, "/b", 0),
        ];
        let routes = routes(&own, &theirs);
        let found: Vec<_> =
            routes.iter().map(|r| (r.service, r.address.port(), r.site, r.heir_site)).collect();
        assert_eq!(found, [(Service::Http, 1, 0, 7), (Service::Http, 3, 1, 0)]);
    }

    #[test]
    fn announcement_is_for_one_child_and_one_version() {
        assert_eq!(parse("1,7,40", 40), Some(7));
        for value in ["2,7,40", "1,7,41", "1,7", "1,x,40", "", "1", "one,7,40", "1,,40"] {
            assert_eq!(parse(value, 40), None, "{value}");
        }
        assert_eq!(parse("1,7,40,more", 40), Some(7), "what a later one may add");
    }
}
