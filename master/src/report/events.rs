//! The status pipe: one JSON object per line for each event. Writing never waits: a reader that
//! is slow loses lines and is told how many, one that is gone costs nothing more.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rmogstored_worker::sys::socket::adopt_inherited;
use serde::Serialize;

/// A write of no more than this does not wait on a pipe that has just been writable: PIPE_BUF.
const MOST_AT_ONCE: usize = 4096;

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
}

/// What is told.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// A listener is open, at its real address.
    Listening {
        /// `http`, `httpget` or `mgmt`.
        service: &'a str,
        /// Address and port.
        address: String,
        /// The docroot it serves.
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
struct Line<'a> {
    #[serde(flatten)]
    event: &'a Event<'a>,
    time: f64,
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
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, PipeReader};

    fn pipe() -> (BufReader<PipeReader>, EventPipe) {
        let (reader, writer) = io::pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let events = EventPipe::open(OwnedFd::from(writer).into_raw_fd()).unwrap();
        (BufReader::new(reader), events)
    }

    fn next(reader: &mut impl BufRead) -> serde_json::Value {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn started(devices: usize) -> Event<'static> {
        let devices = vec!["dev16777215".to_owned(); devices];
        Event::WorkerStarted { worker: 1, pid: 7, devices }
    }

    #[test]
    fn event_is_a_line_with_its_time() {
        let (mut reader, mut events) = pipe();
        events.tell(&Event::WorkerExited {
            worker: 3,
            pid: 70,
            status: None,
            signal: Some(9),
            last_path: "/dev1/x".to_owned(),
        });
        let mut line = next(&mut reader);
        let time = line.as_object_mut().unwrap().remove("time").unwrap();
        assert!(time.as_f64().unwrap() > 1.7e9);
        let expected = serde_json::json!({"event": "worker_exited", "worker": 3, "pid": 70,
            "status": null, "signal": 9, "last_path": "/dev1/x"});
        assert_eq!(line, expected);
    }

    #[test]
    fn slow_reader_loses_lines_and_is_told_how_many() {
        let (mut reader, mut events) = pipe();
        for _ in 0..10_000 {
            events.tell(&Event::Draining { by: "a test" });
        }
        let lost = events.lost;
        assert!(lost > 0, "the pipe held them all: nothing was tested");
        for _ in 0..10_000 - lost {
            assert_eq!(next(&mut reader)["event"], "draining");
            events.push();
        }
        events.tell(&Event::Stopped);
        let told = next(&mut reader);
        assert_eq!((&told["event"], told["lines"].as_u64()), (&"lost".into(), Some(lost)));
        assert_eq!(next(&mut reader)["event"], "stopped");
    }

    #[test]
    fn line_longer_than_the_pipe_arrives_whole() {
        let (mut reader, mut events) = pipe();
        let writer = std::thread::spawn(move || {
            events.tell(&started(20_000));
            while !events.push() {
                std::thread::yield_now();
            }
        });
        assert_eq!(next(&mut reader)["devices"].as_array().unwrap().len(), 20_000);
        writer.join().unwrap();
    }

    #[test]
    fn reader_that_is_gone_ends_it_quietly() {
        let (reader, mut events) = pipe();
        drop(reader);
        events.tell(&Event::Draining { by: "a test" });
        assert!(events.deserted);
        events.tell(&Event::Stopped);
        assert!(events.push());
    }

    /// /dev/full refuses every write with ENOSPC; the pipe then takes what is told afterwards.
    #[test]
    fn file_without_room_loses_lines_and_tells_how_many_later() {
        let (mut reader, mut events) = pipe();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let pipe = events.out.replace(full);
        for _ in 0..3 {
            events.tell(&Event::Draining { by: "a test" });
            assert!(events.push(), "nothing is to be tried again at once");
        }
        events.out = pipe;
        events.tell(&Event::Stopped);
        let told = next(&mut reader);
        assert_eq!((&told["event"], told["lines"].as_u64()), (&"lost".into(), Some(3)));
        assert_eq!(next(&mut reader)["event"], "stopped");
    }

    #[test]
    fn number_that_is_not_open_for_writing_is_refused() {
        assert!(EventPipe::open(999_999).is_none());
        let (reader, _writer) = io::pipe().unwrap();
        fcntl(&reader, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        assert!(EventPipe::open(OwnedFd::from(reader).into_raw_fd()).is_none());
    }
}
