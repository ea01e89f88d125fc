//! Messages between master and worker: one JSON message per SOCK_SEQPACKET packet, which may
//! carry a descriptor. This is the only definition for both sides.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::route::Route;
use crate::sys;

/// Longest packet on the control channel, in bytes: the routes of a thousand listeners.
const MAX_MESSAGE: usize = 128 * 1024;

/// What a worker tells the master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Up {
    /// It accepts connections.
    Ready,
    /// A signal has told it to go: it asks for [`Down::Drain`].
    Leaves,
    /// It leaves, has nothing left to do, and is about to exit.
    Drained,
    /// The devices that a docroot has, by name: when its owner has looked for the first time, and
    /// when that has changed.
    Devices {
        /// The docroot's number.
        site: u8,
        /// In ascending order.
        devids: BTreeSet<u32>,
    },
    /// The sidechannel asked for a graceful quit of the node.
    Shutdown {
        /// The address of who asked.
        peer: String,
    },
    /// The sidechannel set the disk threads per device: to be passed on to every worker.
    AioThreads {
        /// 1 to 100.
        threads: usize,
    },
}

/// What the master tells a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Down {
    /// Stop accepting, finish what is in progress, exit. The packet carries the sending end of the
    /// worker's own inbox, for what it leaves to whoever has its slot next.
    Drain {
        /// There is another node, an upgrade's, whose workers may give this one something for a
        /// moment more.
        shared: bool,
    },
    /// Use so many disk threads per device.
    AioThreads {
        /// 1 to 100.
        threads: usize,
    },
    /// Write a log to the file that the packet carries; without one, what waits to be written.
    ReopenLog {
        /// Which one.
        log: Log,
    },
    /// Accept what is pending: a worker has died for which alone the kernel may have meant it.
    Accept,
    /// A worker of the other node in an upgrade takes connections over; the packet carries its
    /// inbox's sending end.
    Heir {
        /// Which of them.
        heir: u32,
        /// Whose connections it takes.
        routes: Vec<Route>,
    },
    /// It takes none any more.
    NoHeir {
        /// Which of them.
        heir: u32,
    },
    /// A new worker's inbox; the packet carries its sending end.
    Peer {
        /// Its slot.
        worker: u16,
    },
}

/// A log that has a file of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Log {
    /// What the node says.
    Node,
    /// The access log.
    Access,
}

/// One end of a control channel: non-blocking, close-on-exec.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Makes both ends. Which end is whose is a matter of use.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let (a, b) = sys::socket::seqpacket_pair()?;
        Ok((Channel(a), Channel(b)))
    }

    /// Sends one message, with a descriptor if given. `WouldBlock` when the other side does
    /// not read, `BrokenPipe` when it is gone.
    pub fn send(&self, message: &impl Serialize, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let packet = serde_json::to_vec(message)?;
        sys::socket::send_with_fd(self.0.as_fd(), &[&packet], fd)
    }

    /// Receives one message. `Ok(None)`: the other side is gone. `WouldBlock`: nothing there.
    /// `InvalidData`: not a message of this version.
    pub fn receive<M: DeserializeOwned>(&self) -> io::Result<Option<(M, Option<OwnedFd>)>> {
        let mut packet = vec![0; MAX_MESSAGE]; // Zeroed by the kernel, page by page as it is used.
        let (len, fd) = sys::socket::receive_with_fd(self.0.as_fd(), &mut packet)?;
        if len == 0 {
            return Ok(None);
        }
        let message = serde_json::from_slice(&packet[..len])
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        Ok(Some((message, fd)))
    }
}

/// An end that another process has left.
impl From<OwnedFd> for Channel {
    fn from(end: OwnedFd) -> Channel {
        Channel(end)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn message_arrives_with_its_descriptor() {
        let (master, worker) = Channel::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        master.send(&Down::Peer { worker: 7 }, Some(writer.as_fd())).unwrap();
        drop(writer);
        let (message, fd) = worker.receive::<Down>().unwrap().unwrap();
        assert_eq!(message, Down::Peer { worker: 7 });
        let mut pipe = std::fs::File::from(fd.unwrap());
        io::Write::write_all(&mut pipe, b"x").unwrap();
        drop(pipe);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

    #[test]
    fn end_of_the_other_side_is_told_from_nothing_there() {
        let (master, worker) = Channel::pair().unwrap();
        let nothing = worker.receive::<Down>().unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        drop(master);
        assert!(worker.receive::<Down>().unwrap().is_none());
        assert!(worker.send(&Up::Ready, None).is_err());
    }
}
