//! Who else uses the disk: what it has transferred, less what this thread has asked for.
//!
//! The idle I/O class means something to some schedulers only (BFQ, mq-deadline); many disks have
//! none. The numbers of /sys/dev/block and /proc do not wait for disks.

use std::fs;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::stat::fstat;
use rmogstored_worker::disk::busy;

use super::control::{Control, Halt};

/// How long is worked between two looks while the disk is ours.
const LOOK: Duration = Duration::from_millis(50);
/// Between two looks while it is not.
const STEP: Duration = Duration::from_millis(10);
/// Looks without anybody else's work after which the disk is ours again.
const QUIET_LOOKS: u32 = 3;
/// Beside others, one part in so many of the time is ours.
const SHARE: u32 = 40;
/// The longest wait for a turn, and the shortest: small files have one turn together.
const LONGEST: Duration = Duration::from_secs(2);
const SHORTEST: Duration = Duration::from_millis(30);
/// What may be somebody's usage file or a journal's tick, and slows nobody down.
const NOTHING: u64 = 8192;

/// Watches one disk for one thread.
pub struct Neighbours {
    /// The disk's counters; `None`: no local disk.
    counters: Option<PathBuf>,
    last: Counters,
    looked: Option<Instant>,
    crowded: bool,
    /// What is still to be waited for what was taken.
    owed: Duration,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    /// Bytes that the disk has transferred, for everybody.
    all: u64,
    /// Bytes that this thread has caused to be read.
    own: u64,
    /// Requests that the disk is at.
    in_flight: u64,
}

impl Neighbours {
    /// Of the disk that a device is on.
    pub fn of(device: BorrowedFd<'_>) -> Neighbours {
        let facts = fstat(device).ok();
        let number = facts.and_then(|facts| busy::disk_of(device, facts.st_dev).number);
        let counters = number.map(|(major, minor)| format!("/sys/dev/block/{major}:{minor}/stat"));
        let counters = counters.map(PathBuf::from).filter(|path| path.exists() && own().is_some());
        let (last, owed) = (Counters::default(), Duration::ZERO);
        Neighbours { counters, last, looked: None, crowded: false, owed }
    }

    /// Whether others are at work, as far as is known.
    pub fn are_there(&self) -> bool {
        self.crowded
    }

    /// Returns when it is this thread's turn. `took`: how long its last piece took.
    pub fn give_way(&mut self, took: Duration, control: &Control) -> Result<(), Halt> {
        if self.counters.is_none() {
            return Ok(());
        }
        self.owed += took * SHARE;
        if self.crowded {
            return if self.owed < SHORTEST { Ok(()) } else { self.wait(control) };
        }
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return Ok(());
        }
        self.owed = Duration::ZERO;
        self.crowded = self.others() > NOTHING;
        if self.crowded { self.wait(control) } else { Ok(()) }
    }

    /// Until the disk is quiet, or as long as is owed.
    fn wait(&mut self, control: &Control) -> Result<(), Halt> {
        let until = Instant::now() + self.owed.clamp(SHORTEST, LONGEST);
        self.owed = Duration::ZERO;
        self.others(); // What was ours may be counted late; what follows is theirs.
        let mut quiet = 0;
        while Instant::now() < until {
            control.check()?;
            thread::sleep(STEP);
            let idle = self.others() == 0 && self.last.in_flight == 0;
            quiet = if idle { quiet + 1 } else { 0 };
            if quiet >= QUIET_LOOKS {
                self.crowded = false;
                break;
            }
        }
        Ok(())
    }

    /// Bytes that others have transferred since the last look.
    fn others(&mut self) -> u64 {
        let before = self.last;
        self.last = self.read().unwrap_or(before);
        self.looked = Some(Instant::now());
        if before.all == 0 {
            return 0; // The first look.
        }
        (self.last.all - before.all.min(self.last.all)).saturating_sub(self.last.own - before.own)
    }

    /// Documentation/block/stat.rst: fields 3, 7 and 9 are sectors read, sectors written and
    /// requests in flight.
    fn read(&self) -> Option<Counters> {
        let text = fs::read_to_string(self.counters.as_ref()?).ok()?;
        let fields: Vec<u64> = text.split_whitespace().filter_map(|it| it.parse().ok()).collect();
        let all = (fields.get(2)? + fields.get(6)?) * 512;
        Some(Counters { all, own: own()?, in_flight: *fields.get(8)? })
    }
}

/// proc_pid_io(5): what this thread has caused to be read, the file system's own blocks too.
fn own() -> Option<u64> {
    let text = fs::read_to_string("/proc/thread-self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix("read_bytes: "))?.trim().parse().ok()
}
