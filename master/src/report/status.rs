//! The status socket: whoever connects gets the node's status as one JSON document, then EOF; who
//! says so first is listened to instead: [`super::request`].

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use rmogstored_worker::scoreboard::{Faults, Totals};
use serde::{Deserialize, Serialize};

use super::request::{self, Answer};

/// Version of the document; a field that goes or changes its meaning raises it.
pub const VERSION: u32 = 1;
/// Readers that take their time; one more and the one that has had the longest goes.
const MOST_READERS: usize = 16;
/// How long a reader may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The document.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Document {
    /// [`VERSION`].
    pub version: u32,
    /// The master's process.
    pub pid: u32,
    /// Counts reloads and upgrades, from 1.
    pub generation: u32,
    /// Seconds since the start.
    pub uptime: f64,
    /// `starting`, `running`, `resting` or `draining`.
    pub state: String,
    /// Where an upgrade stands.
    pub upgrade: UpgradeStatus,
    /// The addresses served.
    pub listeners: Vec<ListenerStatus>,
    /// What the node has done since its first start: upgrades, reloads and crashes included.
    #[serde(default)]
    pub totals: Totals,
    /// The worker slots in use.
    pub workers: Vec<WorkerStatus>,
    /// The devices, without the docroots themselves.
    pub devices: Vec<DeviceStatus>,
}

/// Where an upgrade stands, as the process sees it that is to be succeeded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UpgradeStatus {
    /// The successor's process, while there is one.
    pub successor: Option<i32>,
    /// It accepts connections with every worker.
    pub ready: bool,
    /// Upgrades that failed so far.
    pub failures: u32,
    /// Why the last one did.
    pub last_failure: Option<String>,
}

/// One listener.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// `http`, `httpget`, `mgmt`, or `status`: the monitor's, which serves no docroot.
    pub service: String,
    /// Address and port.
    pub address: String,
    /// The docroot it serves; empty for none.
    pub docroot: String,
}

/// One worker. Totals are of all processes that had its slot.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its slot.
    pub worker: u16,
    /// Its process; `null` while it is down.
    pub pid: Option<i32>,
    /// `down`, `starting`, `running`, `draining`, or `stuck`: its loop stands still.
    pub state: String,
    /// The generation it belongs to.
    pub generation: u32,
    /// Times it was replaced after a crash.
    pub restarts: u64,
    /// Connections it holds.
    pub connections: u32,
    /// Requests answered.
    pub requests: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections given to other workers.
    pub handed_over: u64,
    /// Bytes of bodies received.
    pub bytes_in: u64,
    /// Bytes of bodies sent.
    pub bytes_out: u64,
    /// Answers of class 5xx.
    pub errors: u64,
    /// Lines of the access log that could not be written.
    #[serde(default)]
    pub accesslog_lost: u64,
    /// Times its loop woke up.
    pub wakeups: u64,
    /// Time since its loop last went round; `null` before the first time.
    pub heartbeat_age_ms: Option<u64>,
    /// The devices it owns.
    pub devices: Vec<String>,
    /// What the kernel or a sandbox does not let its process do.
    #[serde(default)]
    pub closed: Vec<String>,
}

/// One device.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// `devN`.
    pub device: String,
    /// The docroot it is in.
    pub docroot: String,
    /// Slot of the worker that owns it.
    pub owner: u16,
    /// `ok`, or the worst of what is wrong: `unowned`, `unmounted`, `stalled`, `failing`,
    /// `read-only`, `full`.
    pub state: String,
    /// Since when, in seconds since 1970; `null` before the first look.
    #[serde(default)]
    pub since: Option<f64>,
    /// Disk operations queued or running.
    pub in_flight: u32,
    /// Age of the oldest one that runs.
    pub oldest_ms: u64,
    /// Whether hot files are served without a disk thread; `null` while not known.
    pub inline_reads: Option<bool>,
    /// What its filesystem cannot do, as far as is known.
    #[serde(default)]
    pub closed: Vec<String>,
    /// What has gone wrong on it since the node's first start.
    #[serde(flatten)]
    pub faults: Faults,
    /// KiB used and KiB that users may use in all, from the last look; `null` before it.
    pub used_kib: Option<u64>,
    /// See `used_kib`.
    pub total_kib: Option<u64>,
    /// Busy per cent in the last interval; `null` while not known.
    pub busy_percent: Option<f64>,
}

/// The socket and those who read from it.
#[derive(Debug)]
pub struct StatusSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of `path`: another process may have taken it over since.
    identity: (u64, u64),
    readers: BTreeMap<u64, Reader>,
    next: u64,
}

#[derive(Debug)]
struct Reader {
    stream: UnixStream,
    rest: Vec<u8>,
    /// What it has asked so far, if it asks.
    request: Option<Vec<u8>>,
    until: Instant,
}

impl StatusSocket {
    /// Binds the path. A socket that nobody answers on any more is replaced.
    pub fn bind(path: &Path) -> io::Result<StatusSocket> {
        clear_stale(path)?;
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        let identity = identity(path)?;
        Ok(StatusSocket {
            listener,
            path: path.to_owned(),
            identity,
            readers: BTreeMap::new(),
            next: 0,
        })
    }

    /// Takes the path over from a predecessor, whose socket gets the name `PATH.old`: whoever
    /// connects meets one or the other at any time.
    pub fn take_over(path: &Path) -> io::Result<StatusSocket> {
        let (fresh, old) = (beside(path, "new"), beside(path, "old"));
        let mut socket = StatusSocket::bind(&fresh)?;
        let exchange = RenameFlags::RENAME_EXCHANGE;
        match renameat2(AT_FDCWD, &fresh, AT_FDCWD, path, exchange) {
            Ok(()) => fs::rename(&fresh, &old)?,
            Err(_) => fs::rename(&fresh, path)?,
        }
        path.clone_into(&mut socket.path);
        Ok(socket)
    }

    /// Undoes what a successor did that is gone: [`StatusSocket::take_over`].
    pub fn take_back(&self) {
        let old = beside(&self.path, "old");
        if identity(&old).is_ok_and(|found| found == self.identity)
            && let Err(e) = fs::rename(&old, &self.path)
        {
            log::error!("rename {} to {}: {e}", old.display(), self.path.display());
        }
    }

    /// Removes what a predecessor that is gone left under the other name.
    pub fn tidy(&self) {
        let old = beside(&self.path, "old");
        if old.exists()
            && let Err(e) = clear_stale(&old)
        {
            log::warn!("{}: {e}", old.display());
        }
    }

    /// Answers all who have connected. Those that cannot take it at once are returned, with
    /// their sockets to be watched: [`StatusSocket::resume`] them when they are writable, or hear
    /// those that ask when they are readable.
    pub fn answer(&mut self, now: Instant, document: impl Fn() -> Vec<u8>) -> Vec<u64> {
        let mut slow = Vec::new();
        // Any error but "nobody there" passes or repeats; both can wait for the next event.
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let request = request::is_asking(&stream).then(Vec::new);
            let rest = if request.is_some() { Vec::new() } else { document() };
            let mut reader = Reader { stream, rest, request, until: now + PATIENCE };
            if reader.request.is_some() || !reader.write_on() {
                slow.push(self.keep(reader));
            }
        }
        slow
    }

    /// Goes on with a reader that has become writable.
    pub fn resume(&mut self, id: u64) {
        if self.readers.get_mut(&id).is_some_and(Reader::write_on) {
            self.readers.remove(&id);
        }
    }

    /// True for one that has a request.
    pub fn is_asking(&self, id: u64) -> bool {
        self.readers.get(&id).is_some_and(|reader| reader.request.is_some())
    }

    /// The request, once it is whole: [`StatusSocket::reply`] then.
    pub fn heard(&mut self, id: u64) -> Option<String> {
        let reader = self.readers.get_mut(&id)?;
        if !reader.listen() {
            self.readers.remove(&id);
            return None;
        }
        let line = reader.line()?;
        if request::may_ask(&reader.stream) {
            return Some(line);
        }
        self.reply(id, &Err("only root and the node's own user may ask for this".to_owned()));
        None
    }

    /// The answer is so short that there is room for it.
    pub fn reply(&mut self, id: u64, answer: &Answer) {
        let Some(mut reader) = self.readers.remove(&id) else { return };
        reader.rest = serde_json::to_vec(answer).unwrap_or_default();
        reader.rest.push(b'\n');
        reader.write_on();
    }

    /// Drops the readers whose time is up.
    pub fn expire(&mut self, now: Instant) {
        self.readers.retain(|_, reader| reader.until > now);
    }

    /// When [`StatusSocket::expire`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.readers.values().map(|reader| reader.until).min()
    }

    /// A reader's socket.
    pub fn reader(&self, id: u64) -> Option<&UnixStream> {
        self.readers.get(&id).map(|reader| &reader.stream)
    }

    /// The listening socket.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Removes the path, if it is still this socket's. Not done on drop: a forked worker drops
    /// its copy.
    pub fn remove(&self) {
        for path in [&self.path, &beside(&self.path, "old")] {
            if identity(path).is_ok_and(|found| found == self.identity)
                && let Err(e) = fs::remove_file(path)
            {
                log::warn!("cannot remove {}: {e}", path.display());
            }
        }
    }

    fn keep(&mut self, reader: Reader) -> u64 {
        if self.readers.len() >= MOST_READERS {
            self.readers.pop_first();
        }
        self.next += 1;
        self.readers.insert(self.next, reader);
        self.next
    }
}

impl Reader {
    /// False when nothing more is to be expected.
    fn listen(&mut self) -> bool {
        let Some(request) = &mut self.request else { return false };
        let mut piece = [0; 4096];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return request.contains(&b'\n'),
                Ok(length) => request.extend(&piece[..length]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return e.kind() == io::ErrorKind::WouldBlock,
            }
            if request.len() > request::LONGEST {
                return false;
            }
        }
    }

    fn line(&self) -> Option<String> {
        let request = self.request.as_ref()?;
        let end = request.iter().position(|byte| *byte == b'\n')?;
        Some(String::from_utf8_lossy(&request[..end]).into_owned())
    }

    /// True when it is done with, well or not.
    fn write_on(&mut self) -> bool {
        while !self.rest.is_empty() {
            match self.stream.write(&self.rest) {
                Ok(written) => drop(self.rest.drain(..written)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return e.kind() != io::ErrorKind::WouldBlock,
            }
        }
        true
    }
}

/// The socket's other names in an upgrade: `PATH.old` is the predecessor's.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Removes what a killed process left; anything else in the way is an error.
fn clear_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(found) if !found.file_type().is_socket() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"))
        }
        Ok(_) if answers(path)? => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers on it"))
        }
        Ok(_) => fs::remove_file(path),
    }
}

/// Never waits: a process that hangs with a full backlog answers all the same.
fn answers(path: &Path) -> io::Result<bool> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(probe.as_fd().as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) | Err(Errno::EAGAIN) => Ok(true),
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests;
