//! Requests to the master over the status socket. Whoever has one gives its own end a name in the
//! abstract namespace that begins with [`NAME`] before it connects: all others are given the
//! status at once, as ever, and nobody has to wait to see what they want. One line of JSON each
//! way. Root and the node's own user may ask.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

/// How the name of an end begins that has a request.
pub const NAME: &[u8] = b"rmogstored-request-";
/// A path and some words have room in it.
pub(super) const LONGEST: usize = 16 << 10;

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// That a device was a mount: `devN`, or its path.
    ForgetMount(String),
    /// That a device's disk was failing: the same.
    ClearFailing(String),
}

/// What was done, or why not.
pub type Answer = Result<String, String>;

/// Whether who has connected has a request.
pub(super) fn is_asking(stream: &UnixStream) -> bool {
    let address = stream.peer_addr();
    address.is_ok_and(|a| a.as_abstract_name().is_some_and(|name| name.starts_with(NAME)))
}

/// Whether it is root's or the node's own.
pub(super) fn may_ask(stream: &UnixStream) -> bool {
    let peer = getsockopt(stream, sockopt::PeerCredentials);
    peer.is_ok_and(|peer| [0, geteuid().as_raw()].contains(&peer.uid()))
}
