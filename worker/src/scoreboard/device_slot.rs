//! What is known of one device.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, fence};

use serde::{Deserialize, Serialize};
use zerocopy::FromZeros;

use super::changes::{Change, Changes, Mark};
use super::{FaultCounts, Mount, read_text, write_text};
use crate::ids::WorkerId;

/// From this age on an operation is suspicious: nothing of its device is looked for in a loop
/// meanwhile. DESIGN.md, "Where a request runs".
const SUSPECT_MS: u64 = 250;
/// Longest mount source that is kept.
const SOURCE_WORDS: usize = 16;

/// What is known of a device's health.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum DeviceState {
    /// The slot is unused, or the folder is gone from the docroot.
    Absent = 0,
    /// Served.
    Ok = 1,
    /// Its oldest disk operation is older than `stall_timeout`.
    Stalled = 2,
}

/// Numbers of one device.
#[derive(Debug, Default, FromZeros)]
#[repr(C, align(128))]
pub struct DeviceSlot {
    /// 0: never used; else site and devid, offset by one. Written by the master.
    pub(super) key: AtomicU64,
    state: AtomicU8,
    /// Worker that owns it; the master writes it.
    pub(super) owner: AtomicU32,
    /// Disk operations queued or running; the owner writes it.
    pub in_flight: AtomicU32,
    /// Age of the oldest running one, in milliseconds; the owner writes it.
    pub oldest_ms: AtomicU64,
    /// When the oldest running one began, in milliseconds of CLOCK_MONOTONIC; 0: none runs. The
    /// owner writes it a few times a second.
    pub oldest_began: AtomicU64,
    /// 1 when hot files are served without a disk thread, 2 when not, 0 unknown; the owner writes it.
    pub inline_reads: AtomicU8,
    /// What its filesystem has [`closed`](crate::sys::doors::Closed), as far as is known; the owner writes it.
    pub closed: AtomicU32,
    /// Whether its filesystem is mounted read-only; who looks how full it is writes it.
    pub read_only: AtomicBool,
    /// Inodes in all, 0 where they are made as they are needed, and those that are free for users;
    /// who looks how full it is writes them.
    pub inodes: AtomicU64,
    /// See `inodes`.
    pub free_inodes: AtomicU64,
    /// Whether its disk has failed again and again; the master writes it.
    pub failing: AtomicBool,
    /// Whether it was a mount: never reset while its folder is there.
    pub mount: Mount,
    /// What has gone wrong on it.
    pub faults: FaultCounts,
    changes: Changes,
    /// Odd while the owner writes the numbers below.
    usage_version: AtomicU64,
    available: AtomicU64,
    used: AtomicU64,
    total: AtomicU64,
    /// Unix seconds of the last look; 0: none yet.
    looked_at: AtomicU64,
    source: [AtomicU64; SOURCE_WORDS],
    /// Major and minor number of the disk, plus one; 0: not known. The owner writes it.
    disk: AtomicU64,
    /// Per cent times 100; `u32::MAX`: not known. One worker writes it for all devices.
    busy: AtomicU32,
}

/// One look at how full a device is. KiB where not said otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Free for users.
    pub available: u64,
    /// Used plus available; blocks reserved for root belong to neither.
    pub total: u64,
    /// At least 1: trackers take 0 for a broken device.
    pub used: u64,
    /// When, in seconds since 1970.
    pub time: u64,
    /// The mount source, or the filesystem's type, or `-`; cut at 127 bytes.
    pub source: String,
}

impl DeviceSlot {
    /// The device's health.
    pub fn state(&self) -> DeviceState {
        match self.state.load(Acquire) {
            1 => DeviceState::Ok,
            2 => DeviceState::Stalled,
            _ => DeviceState::Absent,
        }
    }

    /// Written by the owner (stalled or not) and by the master (there or not).
    pub fn set_state(&self, state: DeviceState) {
        self.state.store(state as u8, Release);
    }

    /// True when an operation has been running for so long that the disk may be hanging. `now`:
    /// milliseconds of CLOCK_MONOTONIC.
    pub fn is_suspect(&self, now: u64) -> bool {
        let began = self.oldest_began.load(Relaxed);
        began != 0 && now.saturating_sub(began) >= SUSPECT_MS
    }

    /// How full the device was at the last look; `None` before the first. Never waits: a writer
    /// that died half-way leaves numbers of two looks, one second apart.
    pub fn usage(&self) -> Option<Usage> {
        let mut attempts = (0..2000).map(|_| self.consistent_usage());
        attempts.find_map(Result::ok).unwrap_or_else(|| self.read_usage())
    }

    /// `Err`: the owner is writing.
    pub(super) fn consistent_usage(&self) -> Result<Option<Usage>, ()> {
        let before = self.usage_version.load(Acquire);
        let usage = self.read_usage();
        fence(Acquire);
        let settled = before.is_multiple_of(2) && self.usage_version.load(Relaxed) == before;
        std::hint::spin_loop();
        settled.then_some(usage).ok_or(())
    }

    fn read_usage(&self) -> Option<Usage> {
        let time = self.looked_at.load(Relaxed);
        (time > 0).then(|| Usage {
            available: self.available.load(Relaxed),
            total: self.total.load(Relaxed),
            used: self.used.load(Relaxed),
            time,
            source: read_text(&self.source),
        })
    }

    /// Owner: the result of a look, with the disk that the device is on.
    pub fn publish(&self, usage: &Usage, disk: Option<(u32, u32)>) {
        self.usage_version.store(self.usage_version.load(Relaxed) | 1, Relaxed);
        fence(Release);
        self.available.store(usage.available, Relaxed);
        self.total.store(usage.total, Relaxed);
        self.used.store(usage.used, Relaxed);
        write_text(&self.source, usage.source.as_bytes());
        self.looked_at.store(usage.time, Relaxed);
        let disk =
            disk.map_or(0, |(major, minor)| ((u64::from(major) << 32) | u64::from(minor)) + 1);
        self.disk.store(disk, Relaxed);
        self.usage_version.store((self.usage_version.load(Relaxed) | 1) + 1, Release);
    }

    /// Owner, or the master for a device that is gone: it cannot be asked any more.
    pub fn forget_usage(&self) {
        self.looked_at.store(0, Relaxed);
    }

    /// The disk that the device is on, as major and minor number.
    pub fn disk(&self) -> Option<(u32, u32)> {
        let word = self.disk.load(Relaxed).checked_sub(1)?;
        Some(((word >> 32) as u32, word as u32))
    }

    /// Busy per cent times 100 in the last interval.
    pub fn busy(&self) -> Option<u32> {
        Some(self.busy.load(Relaxed)).filter(|busy| *busy != u32::MAX)
    }

    /// Written by the one worker that measures.
    pub fn set_busy(&self, busy: Option<u32>) {
        self.busy.store(busy.unwrap_or(u32::MAX), Relaxed);
    }

    /// To be held while a file loses a name or gets another content: DELETE, and a PUT to a name
    /// that is there. `name`: a hash of it, the same for all spellings of its folder.
    pub fn change(&'static self, name: u64) -> Change {
        self.changes.begin(name)
    }

    /// A new owner: what a killed one had begun is over.
    pub fn settle_changes(&self) {
        self.changes.settle();
    }

    /// A mark to take before a file is opened. While it stands the file is what it was then, and
    /// closing it frees no blocks.
    pub fn mark(&'static self, name: u64) -> Mark {
        self.changes.mark(name)
    }

    /// The worker that has the device's disk threads.
    pub fn owner(&self) -> WorkerId {
        WorkerId(self.owner.load(Relaxed) as u16)
    }
}
