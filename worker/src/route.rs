//! What is spoken on a connection, where it belongs in the other node of an upgrade, and which connections live on
//! when their worker goes.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ids::SiteId;

/// What is spoken on a listener.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// `httplisten`: all of PROTOCOL.md section 2.
    Http,
    /// `httpgetlisten`: the read-only port of section 2.6.
    HttpGet,
    /// `mgmtlisten`: the sidechannel of section 3.
    Mgmt,
}

/// Connections of one listener of this process, and where they belong in the other node of
/// an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// What is spoken on it.
    pub service: Service,
    /// The docroot's number here.
    pub site: u8,
    /// Where it listens; an unspecified address stands for all.
    pub address: SocketAddr,
    /// The docroot's number there.
    pub heir_site: u8,
}

impl Route {
    /// Whether it is the way of a connection that was made to this address.
    pub fn is_for(&self, service: Service, site: SiteId, local: SocketAddr) -> bool {
        self.service == service && self.site == site.0 && stands_for(self.address, local)
    }
}

/// Which connections of a worker others go on with when it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LiveOn {
    /// All of them.
    All,
    /// Those that were made to these addresses.
    From(Vec<SocketAddr>),
}

impl LiveOn {
    /// Whether one does that was made to this address; `None`: it is not known.
    pub fn has(&self, local: impl FnOnce() -> Option<SocketAddr>) -> bool {
        match self {
            LiveOn::All => true,
            LiveOn::From(addresses) if addresses.is_empty() => false,
            LiveOn::From(addresses) => {
                local().is_some_and(|local| addresses.iter().any(|a| stands_for(*a, local)))
            }
        }
    }
}

/// Whether who listens on `address` has what was made to `local`.
fn stands_for(address: SocketAddr, local: SocketAddr) -> bool {
    let all = address.ip().is_unspecified();
    address.port() == local.port()
        && (all || address.ip().to_canonical() == local.ip().to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn connections_live_on_whose_address_is_served_elsewhere() {
        let unknown = || None;
        let to = |text: &'static str| move || Some(address(text));
        assert!(LiveOn::All.has(unknown));
        assert!(!LiveOn::From(Vec::new()).has(to("127.0.0.1:7500")));
        let some = LiveOn::From(vec![address("0.0.0.0:7500"), address("127.0.0.1:7600")]);
        assert!(some.has(to("10.0.0.1:7500")) && some.has(to("127.0.0.1:7600")));
        assert!(some.has(to("[::ffff:127.0.0.1]:7600")));
        assert!(!some.has(to("10.0.0.1:7600")) && !some.has(to("127.0.0.1:7501")));
        assert!(!some.has(unknown));
    }
}
