//! The status pipe: one JSON object per line for each event. Writing never waits: a reader that
//! is slow loses lines and is told how many, one that is gone costs nothing more.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rmogstored_worker::sys::socket::adopt_inherited;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A write of no more than this does not wait on a pipe that has just been writable: PIPE_BUF.
const MOST_AT_ONCE: usize = 4096;
/// So many events are remembered.
pub const REMEMBERED: usize = 50;

/// Where the events go.
#[derive(Debug, Default)]
pub struct EventPipe {
    out: Option<File>,
    /// The rest of a line that has begun, or a line that waits. No more than one.
    rest: Vec<u8>,
    /// How many events are lost with it if it never goes.
    worth: u64,
    /// Part of it is out.
    begun: bool,
    lost: u64,
    /// The reader has gone. The descriptor stays open: a successor is told its number.
    deserted: bool,
    /// `out` has the number that was given, not one of its own.
    original: bool,
    /// The last events, whether there is a pipe or not.
    recent: VecDeque<String>,
    /// How many there were in all.
    told: u64,
}

/// What is told.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// A listener is open, at its real address.
    Listening {
        /// `http`, `httpget`, `mgmt`, or `status`: the monitor's.
        service: &'a str,
        /// Address and port.
        address: String,
        /// The docroot it serves; empty for none.
        docroot: String,
    },
    /// A worker accepts connections.
    WorkerStarted {
        /// Its slot.
        worker: u16,
        /// Its process.
        pid: i32,
        /// The devices it owns.
        devices: Vec<String>,
    },
    /// The monitor's process was started.
    MonitorStarted {
        /// Its process.
        pid: i32,
    },
    /// It ended.
    MonitorExited {
        /// Its process.
        pid: i32,
        /// Exit status, if it ended by itself.
        status: Option<i32>,
        /// Signal, if that ended it.
        signal: Option<i32>,
    },
    /// Every first worker accepts connections.
    Ready {
        /// The master's process.
        pid: u32,
    },
    /// A worker's process ended.
    WorkerExited {
        /// Its slot.
        worker: u16,
        /// Its process.
        pid: i32,
        /// Exit status, if it ended by itself.
        status: Option<i32>,
        /// Signal, if that ended it.
        signal: Option<i32>,
        /// Path of the last request it began.
        last_path: String,
    },
    /// A device's oldest operation is too old.
    DeviceStalled {
        /// `devN`.
        device: String,
        /// The docroot it is in.
        docroot: String,
    },
    /// A device was a mount, or has to be one, and is a bare folder.
    DeviceUnmounted {
        /// `devN`.
        device: String,
        /// The docroot it is in.
        docroot: String,
    },
    /// A device is mounted read-only.
    DeviceReadOnly {
        /// `devN`.
        device: String,
        /// The docroot it is in.
        docroot: String,
    },
    /// A device has no room left, or no inode.
    DeviceFull {
        /// `devN`.
        device: String,
        /// The docroot it is in.
        docroot: String,
    },
    /// A device's disk has had many errors within a minute.
    DeviceFailing {
        /// `devN`.
        device: String,
        /// The docroot it is in.
        docroot: String,
    },
    /// What was wrong with a device is not any more.
    DeviceRecovered {
        /// `devN`.
        device: String,
        /// The docroot it is in.
        docroot: String,
        /// `stalled`, `unmounted`, `read-only`, `full` or `failing`.
        from: &'static str,
    },
    /// A worker's loop has not gone round for too long.
    WorkerStuck {
        /// Its slot.
        worker: u16,
        /// Its process.
        pid: i32,
        /// The time since it last did.
        age_ms: u64,
    },
    /// It goes round again.
    WorkerAlive {
        /// Its slot.
        worker: u16,
        /// Its process.
        pid: i32,
    },
    /// New workers are starting beside the old ones.
    Reloading {
        /// The generation they belong to.
        generation: u32,
    },
    /// They have taken over; the old ones drain.
    Reloaded {
        /// Their generation.
        generation: u32,
    },
    /// The node goes on as it was.
    ReloadFailed {
        /// Why.
        reason: &'a str,
    },
    /// All workers drain and go, the master stays.
    Resting,
    /// A successor was started.
    UpgradeStarted {
        /// Its process.
        pid: i32,
    },
    /// Every worker of the successor accepts connections: the old master may be told to quit.
    UpgradeReady {
        /// Its process.
        pid: i32,
    },
    /// There is no successor, or no more; this master carries on.
    UpgradeFailed {
        /// Its process, if there was one.
        pid: Option<i32>,
        /// Why.
        reason: &'a str,
    },
    /// The node is on its way out.
    Draining {
        /// Who asked: a signal and its sender, or the sidechannel's peer.
        by: &'a str,
    },
    /// The master is about to exit.
    Stopped,
    /// The reader was too slow for so many lines.
    Lost {
        /// How many.
        lines: u64,
    },
}

#[derive(Serialize)]
struct Line<'a, T> {
    #[serde(flatten)]
    event: &'a Event<'a>,
    time: T,
}

impl EventPipe {
    /// Takes over the descriptor `status_fd`. `None`: it is not open, or not for writing.
    pub fn open(number: RawFd) -> Option<EventPipe> {
        let fd = detached_from_stdio(adopt_inherited(number)?).ok()?;
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
        let mode = fcntl(&fd, FcntlArg::F_GETFL).ok()? & libc::O_ACCMODE;
        if mode == libc::O_RDONLY {
            return None;
        }
        let original = fd.as_raw_fd() == number;
        Some(EventPipe { out: Some(File::from(fd)), original, ..EventPipe::default() })
    }

    /// What a successor must find open under the same number. Standard streams stay open anyway.
    pub fn to_inherit(&self) -> Option<BorrowedFd<'_>> {
        self.out.as_ref().filter(|_| self.original).map(File::as_fd)
    }

    /// Tells an event, or counts it as lost.
    pub fn tell(&mut self, event: &Event<'_>) {
        self.remember(event);
        if self.out.is_none() || self.deserted {
            return;
        }
        self.push();
        if self.rest.is_empty() && self.lost == 0 {
            self.put(encoded(event), 1);
            self.push();
        } else {
            self.lost += 1;
        }
    }

    /// Writes as much of what waits as goes without waiting; false if it is to be tried again
    /// soon.
    pub fn push(&mut self) -> bool {
        while self.refill() {
            match self.write_some() {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                Err(e) if is_full(&e) => {
                    self.give_up_line();
                    return true;
                }
                Err(e) => {
                    log::info!("status pipe: {e}: no more events");
                    self.deserted = true;
                    self.rest.clear();
                    self.lost = 0;
                }
            }
        }
        true
    }

    /// What has been told since there were `known` events, as far as it is remembered: JSON objects
    /// whose `time` is RFC 3339's. And how many there are in all.
    pub fn since(&self, known: u64) -> (impl Iterator<Item = &str>, u64) {
        let new = usize::try_from(self.told - known.min(self.told)).unwrap_or(usize::MAX);
        let old = self.recent.len().saturating_sub(new);
        (self.recent.iter().skip(old).map(String::as_str), self.told)
    }

    fn remember(&mut self, event: &Event<'_>) {
        let time = timestamp();
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.extend(serde_json::to_string(&Line { event, time }).ok());
        self.told += 1;
    }

    fn put(&mut self, line: Vec<u8>, worth: u64) {
        (self.rest, self.worth, self.begun) = (line, worth, false);
    }

    /// A file has no room now: the next event tries again. A line that has begun is kept, for
    /// its rest belongs there.
    fn give_up_line(&mut self) {
        if !self.begun {
            self.rest.clear();
            self.lost += self.worth;
        }
    }

    /// Once there is room again, the loss is told before anything else.
    fn refill(&mut self) -> bool {
        if self.rest.is_empty() && self.lost > 0 {
            let lines = std::mem::take(&mut self.lost);
            self.put(encoded(&Event::Lost { lines }), lines);
        }
        !self.rest.is_empty()
    }

    fn write_some(&mut self) -> io::Result<()> {
        let Some(out) = &mut self.out else { return Err(io::ErrorKind::BrokenPipe.into()) };
        if !writable(out)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let piece = &self.rest[..self.rest.len().min(MOST_AT_ONCE)];
        match out.write(piece) {
            Ok(written) => {
                self.begun |= written > 0;
                drop(self.rest.drain(..written));
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

/// This moment as RFC 3339 has it, in milliseconds.
pub fn timestamp() -> String {
    let time = OffsetDateTime::now_utc();
    let time = time.replace_millisecond(time.millisecond()).unwrap_or(time);
    time.format(&Rfc3339).unwrap_or_default()
}

/// A file's limit, its disk or a quota; not the end of its reader.
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), FileTooLarge | QuotaExceeded | StorageFull)
}

/// Whether a small write goes at once. A reader that is gone counts: the write tells.
fn writable(out: &File) -> io::Result<bool> {
    let mut fds = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
    Ok(poll(&mut fds, PollTimeout::ZERO)? > 0)
}

/// Closing 0, 1 or 2 would give their number to whatever is opened next, and that the output of
/// a panic: these are duplicated instead.
fn detached_from_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    let copy = fd.try_clone();
    let _still_open = fd.into_raw_fd();
    copy
}

fn encoded(event: &Event<'_>) -> Vec<u8> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let mut line = serde_json::to_vec(&Line { event, time }).unwrap_or_else(|e| {
        log::warn!("status pipe: {e}");
        Vec::new()
    });
    if !line.is_empty() {
        line.push(b'\n');
    }
    line
}

#[cfg(test)]
mod tests;
