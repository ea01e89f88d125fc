//! What is spoken on a connection, and where it belongs in a successor.

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

/// Connections of one listener of this process, and where they belong in its successor.
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
        let address = self.address;
        let all = address.ip().is_unspecified();
        self.service == service
            && self.site == site.0
            && address.port() == local.port()
            && (all || address.ip().to_canonical() == local.ip().to_canonical())
    }
}
