//! What a worker is told when it starts. The master fills it in before the fork.

use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::control::Channel;
pub use crate::ids::{DeviceKey, SiteId, WorkerId};
pub use crate::route::{LiveOn, Route, Service};
use crate::scoreboard::Scoreboard;

/// One docroot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The folder that holds `dev1/`, `dev2/` ...
    pub docroot: PathBuf,
    /// True where a mgmtlisten serves this docroot: usage files are then written.
    pub usage: bool,
    /// Its devices must be mounts, from the start.
    pub require_mount: bool,
}

/// A bound, listening socket shared by all workers.
#[derive(Debug)]
pub struct Listener {
    /// The socket, non-blocking and close-on-exec.
    pub fd: OwnedFd,
    /// What is spoken on it.
    pub service: Service,
    /// Which docroot it serves.
    pub site: SiteId,
}

/// What is on the disk before a PUT or DELETE is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fsync {
    /// Nothing: the kernel writes in its own time.
    #[default]
    Off,
    /// Each file and its folder, for itself.
    File,
    /// The same, and those that end at the same time share one flush.
    Batch,
}

impl fmt::Display for Fsync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fsync::Off => "off",
            Fsync::File => "file",
            Fsync::Batch => "batch",
        })
    }
}

/// The access log: what goes where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessSettings {
    /// Where lines go.
    pub target: LogTarget,
    /// How they are written.
    pub format: LogFormat,
    /// Of which requests there are lines.
    pub only: Wanted,
}

/// Where lines of a log go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// To a file, which the master opens.
    File(PathBuf),
    /// To the syslog.
    Syslog,
}

/// How a line of the access log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// As Apache and nginx do, with more fields behind.
    #[default]
    Combined,
    /// One object in each line.
    Json,
}

/// Of which requests there are lines: all unless one of these is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of PUT, DELETE, MKCOL.
    pub writes: bool,
    /// Of those with status 400 or higher, or without an answer.
    pub errors: bool,
    /// Of those that [`Settings::slow_log`] calls slow.
    pub slow: bool,
}

impl fmt::Display for LogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogTarget::File(path) => path.display().fmt(f),
            LogTarget::Syslog => f.write_str("syslog"),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogFormat::Combined => "combined",
            LogFormat::Json => "json",
        })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [("writes", self.writes), ("errors", self.errors), ("slow", self.slow)];
        let words = words.into_iter().filter(|(_, set)| *set).map(|(word, _)| word);
        f.write_str(&words.collect::<Vec<_>>().join(","))
    }
}

/// The settings that a worker acts on. Durations of zero mean "never" where noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Connections one worker holds at most.
    pub maxconns: usize,
    /// From a request's first byte to its whole head.
    pub header_timeout: Duration,
    /// Between two reads of a PUT body, and two successful writes of an answer.
    pub body_timeout: Duration,
    /// Between requests; zero: never.
    pub idle_timeout: Duration,
    /// Age of the oldest disk operation from which its device counts as stalled.
    pub stall_timeout: Duration,
    /// How long a drain may take before what is left is cut off; zero: no bound.
    pub drain_timeout: Duration,
    /// Disk threads per device, 1 to 100.
    pub aio_threads: usize,
    /// Disk operations that may wait for one device before 503 is answered.
    pub max_queue: usize,
    /// What is on the disk before a PUT or DELETE is answered.
    pub fsync: Fsync,
    /// The access log, if there is one.
    pub accesslog: Option<AccessSettings>,
    /// Requests that took so long without their peer's time are told of; zero: none is.
    pub slow_log: Duration,
}

/// The sending end of another worker's inbox.
#[derive(Debug)]
pub struct Peer {
    /// Whose inbox it is.
    pub worker: WorkerId,
    /// SOCK_SEQPACKET, non-blocking, close-on-exec.
    pub inbox: OwnedFd,
}

/// Everything a worker starts with.
#[derive(Debug)]
pub struct WorkerSpec {
    /// Its slot.
    pub id: WorkerId,
    /// The docroots, indexed by [`SiteId`].
    pub sites: Vec<Site>,
    /// The shared listeners.
    pub listeners: Vec<Listener>,
    /// What to act on.
    pub settings: Settings,
    /// The control channel to the master; its end means that the master is gone.
    pub control: Channel,
    /// The receiving end of its own inbox; it outlives the worker.
    pub inbox: OwnedFd,
    /// Where to hand connections over; the worker's own inbox is not among them.
    pub peers: Vec<Peer>,
    /// The counters that all processes share.
    pub board: Scoreboard,
    /// What the access log is written to: O_APPEND and non-blocking.
    pub accesslog: Option<Arc<File>>,
    /// Writes the log to another file from now on.
    pub reopen_log: fn(OwnedFd),
}
