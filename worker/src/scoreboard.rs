//! The scoreboard: one shared mapping of atomics, made by the master before the first
//! fork, seen by every worker. Each field has one writer (named in its comment) and any reader,
//! so a crashed process can leave nothing locked or half-written that others wait for.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64};

use zerocopy::FromZeros;

use crate::ids::{DeviceKey, SiteId, WorkerId};
use crate::sys::doors::Closed;
use crate::sys::shm;

mod changes;
mod device_slot;
mod faults;
mod mount;
mod totals;

pub use changes::{Change, Mark};
pub use device_slot::{DeviceSlot, DeviceState, Usage};
pub use faults::{FaultCounts, Faults};
pub use mount::Mount;
pub use totals::{Layout, OtherBoard, Totals};

/// Worker slots: several generations live beside each other during a reload.
pub const MAX_WORKERS: usize = 512;
/// Device slots of all docroots together.
pub const MAX_DEVICES: usize = 1024;
/// Longest request path kept for the log of a crash: see PROTOCOL.md section 2.1.
const PATH_WORDS: usize = 6;
/// How long a look is one of a series.
const LOOK_MS: u64 = 90_000;

/// Handle to the mapping; copies refer to the same one.
#[derive(Clone, Copy, Debug)]
pub struct Scoreboard(&'static Board);

#[derive(Debug, FromZeros)]
#[repr(C)]
struct Board {
    draining: AtomicU8,
    /// Doors of which the log tells already that they are closed.
    closed: AtomicU32,
    /// Milliseconds of CLOCK_MONOTONIC when the monitor was last asked how the node is.
    looked_at: AtomicU64,
    /// No worker's: what was done before this process, in upgrades, and what slots that were given
    /// anew had counted of themselves. The master writes it.
    past: WorkerSlot,
    workers: [WorkerSlot; MAX_WORKERS],
    devices: [DeviceSlot; MAX_DEVICES],
}

/// Where a worker is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum WorkerState {
    /// No process has this slot.
    Empty = 0,
    /// Forked, not accepting yet. Written by the master.
    Starting = 1,
    /// Serving.
    Running = 2,
    /// Finishing what it has; hands nothing over any more.
    Draining = 3,
}

/// Counters of one worker. Totals survive a crash and the respawn after it.
#[derive(Debug, Default, FromZeros)]
#[repr(C, align(128))]
pub struct WorkerSlot {
    state: AtomicU8,
    /// Its process id; the master writes it.
    pub pid: AtomicU32,
    /// Times its process was replaced after a crash; the master writes it.
    pub restarts: AtomicU64,
    /// Which start of the node it belongs to, counting reloads and upgrades; the master writes it.
    pub generation: AtomicU32,
    /// Connections it holds.
    pub connections: AtomicU32,
    /// Connections on their way to its inbox; senders add, it subtracts.
    pub inbox_pending: AtomicI32,
    /// Milliseconds of CLOCK_MONOTONIC when its loop last went round.
    pub heartbeat: AtomicU64,
    /// Requests answered, sidechannel lines included.
    pub requests: AtomicU64,
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections handed to another worker.
    pub handed_over: AtomicU64,
    /// Bytes of bodies received.
    pub bytes_in: AtomicU64,
    /// Bytes of bodies sent.
    pub bytes_out: AtomicU64,
    /// Answers of class 5xx.
    pub errors: AtomicU64,
    /// Lines of the access log that could not be written.
    pub accesslog_lost: AtomicU64,
    /// Returns of epoll_wait with at least one event.
    pub wakeups: AtomicU64,
    /// Connections that watch the disk load.
    pub watchers: AtomicU32,
    /// What its process found [`Closed`].
    pub closed: AtomicU32,
    last_path: [AtomicU64; PATH_WORDS],
}

impl Scoreboard {
    /// Maps a zeroed board that every process forked from now on shares.
    pub fn new() -> io::Result<Scoreboard> {
        shm::shared().map(Scoreboard)
    }

    /// The same in a file of memory, close-on-exec, which can be left to another program.
    ///
    /// # Errors
    /// Where there is none: a kernel or sandbox without memfd_create(2), `RLIMIT_FSIZE`.
    pub fn in_file() -> io::Result<(Scoreboard, OwnedFd)> {
        shm::shared_in_file().map(|(board, file)| (Scoreboard(board), file))
    }

    /// What this node and its predecessors have done.
    pub fn totals(&self) -> Totals {
        self.totals_with(&self.past())
    }

    /// The same, with what was done before.
    pub fn totals_with(&self, past: &Totals) -> Totals {
        let workers = self.0.workers.iter().map(Totals::of);
        workers.fold(*past, |sum, worker| sum.plus(&worker))
    }

    /// What was done before this process.
    pub fn past(&self) -> Totals {
        Totals::of(&self.0.past)
    }

    /// Notes what was done before. Master only.
    pub fn set_past(&self, past: &Totals) {
        past.store(&self.0.past);
    }

    /// The slot of a worker.
    ///
    /// # Panics
    /// When the id is not below [`MAX_WORKERS`]; the master makes no others.
    pub fn worker(&self, id: WorkerId) -> &'static WorkerSlot {
        &self.0.workers[usize::from(id.0)]
    }

    /// The workers that have a process, in order of their slots.
    pub fn live_workers(&self) -> impl Iterator<Item = (WorkerId, &'static WorkerSlot)> + use<> {
        let workers = &self.0.workers;
        (0u16..)
            .zip(workers)
            .filter(|(_, slot)| slot.state() != WorkerState::Empty)
            .map(|(index, slot)| (WorkerId(index), slot))
    }

    /// True once the whole node is on its way out: no connection is handed over any more.
    pub fn draining(&self) -> bool {
        self.0.draining.load(Acquire) != 0
    }

    /// Set by the master before it tells the workers to drain.
    pub fn set_draining(&self) {
        self.0.draining.store(1, Release);
    }

    /// Notes that somebody wants to know how the node is. Times are of CLOCK_MONOTONIC, in ms.
    pub fn note_look(&self, now: u64) {
        self.0.looked_at.store(now, Relaxed);
    }

    /// True while somebody wants to know it again and again, if only once a minute.
    pub fn is_looked_at(&self, now: u64) -> bool {
        let last = self.0.looked_at.load(Relaxed);
        last != 0 && now < last + LOOK_MS
    }

    /// Notes what a worker found closed. Returns what no worker had found so before.
    pub fn note_closed(&self, id: WorkerId, found: Closed) -> Closed {
        self.worker(id).closed.store(found.0, Relaxed);
        Closed(found.0 & !self.0.closed.fetch_or(found.0, Relaxed))
    }

    /// The slot of a device, if the master has listed it.
    pub fn device(&self, key: DeviceKey) -> Option<&'static DeviceSlot> {
        let wanted = packed(key);
        for slot in probe(self.0, wanted) {
            match slot.key.load(Acquire) {
                0 => return None,
                found if found == wanted => return Some(slot),
                _ => {}
            }
        }
        None
    }

    /// Lists a device with its owner, or gives it another owner. Master only.
    /// `None`: the table is full.
    pub fn list_device(&self, key: DeviceKey, owner: WorkerId) -> Option<&'static DeviceSlot> {
        let wanted = packed(key);
        let slot = probe(self.0, wanted).find(|slot| {
            let found = slot.key.load(Relaxed);
            found == 0 || found == wanted
        })?;
        slot.owner.store(u32::from(owner.0), Relaxed);
        if slot.state() == DeviceState::Absent {
            slot.set_busy(None);
            slot.forget_usage();
            slot.read_only.store(false, Relaxed);
            slot.set_state(DeviceState::Ok);
        }
        slot.key.store(wanted, Release);
        Some(slot)
    }

    /// Forgets a device that is not served any more; its slot waits for its return. `removed`: its
    /// folder is gone, so that the next one of that name was never a mount. Master only.
    pub fn forget_device(&self, key: DeviceKey, removed: bool) {
        if let Some(slot) = self.device(key) {
            if removed {
                slot.mount.forget();
            }
            slot.set_state(DeviceState::Absent);
            // Else those who ask for its usage would think that it lives.
            slot.forget_usage();
        }
    }

    /// The devices that are there, in ascending order of docroot and devid.
    pub fn devices(&self) -> Vec<(DeviceKey, &'static DeviceSlot)> {
        let mut all: Vec<_> = self
            .0
            .devices
            .iter()
            .filter(|slot| slot.key.load(Acquire) != 0 && slot.state() != DeviceState::Absent)
            .map(|slot| (unpacked(slot.key.load(Relaxed)), slot))
            .collect();
        all.sort_by_key(|(key, _)| *key);
        all
    }
}

impl WorkerSlot {
    /// Where the worker is in its life.
    pub fn state(&self) -> WorkerState {
        match self.state.load(Acquire) {
            1 => WorkerState::Starting,
            2 => WorkerState::Running,
            3 => WorkerState::Draining,
            _ => WorkerState::Empty,
        }
    }

    /// Written by the worker, and by the master around its birth and death.
    pub fn set_state(&self, state: WorkerState) {
        self.state.store(state as u8, Release);
    }

    /// Master: a new process takes the slot. Totals stay, what belonged to the old process goes.
    pub fn begin(&self, pid: u32) {
        self.pid.store(pid, Relaxed);
        self.connections.store(0, Relaxed);
        self.watchers.store(0, Relaxed);
        self.closed.store(0, Relaxed);
        self.heartbeat.store(0, Relaxed);
        self.last_path.iter().for_each(|word| word.store(0, Relaxed));
    }

    /// Notes the path of the request just begun, for the log should the worker crash in it.
    pub fn note_path(&self, path: &[u8]) {
        write_text(&self.last_path, path);
    }

    /// The path noted last; empty when there was no request.
    pub fn last_path(&self) -> String {
        read_text(&self.last_path)
    }
}

fn write_text(words: &[AtomicU64], text: &[u8]) {
    let text = &text[..text.len().min(words.len() * 8)];
    for (index, word) in words.iter().enumerate() {
        let mut chunk = [0; 8];
        let part = text.get(index * 8..).unwrap_or_default();
        let len = part.len().min(8);
        chunk[..len].copy_from_slice(&part[..len]);
        word.store(u64::from_ne_bytes(chunk), Relaxed);
    }
}

fn read_text(words: &[AtomicU64]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect();
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn packed(key: DeviceKey) -> u64 {
    ((u64::from(key.site.0) << 32) | u64::from(key.devid)) + 1
}

fn unpacked(word: u64) -> DeviceKey {
    let word = word - 1;
    DeviceKey { site: SiteId((word >> 32) as u8), devid: word as u32 }
}

/// Open addressing: neighbours of the home slot, each once.
fn probe(board: &'static Board, word: u64) -> impl Iterator<Item = &'static DeviceSlot> {
    let home = word as usize % MAX_DEVICES;
    board.devices[home..].iter().chain(&board.devices[..home])
}

#[cfg(test)]
mod tests;
