//! What a node has done in all: the sum of its workers' counters and of its predecessors' in
//! upgrades. They never fall. The two nodes of an upgrade read each other's board, in a file of
//! memory, by a description of it: so versions whose boards differ understand each other, and
//! nothing is lost when a master is killed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};

use super::{Board, MAX_WORKERS, WorkerSlot};

/// The largest board that is read, in bytes.
const LARGEST: u64 = 16 << 20;

/// Counters since the first start of a node, upgrades included.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Requests answered, sidechannel lines included.
    pub requests: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections handed to another worker, of an upgrade's other node too.
    pub handed_over: u64,
    /// Bytes of bodies received.
    pub bytes_in: u64,
    /// Bytes of bodies sent.
    pub bytes_out: u64,
    /// Answers of class 5xx.
    pub errors: u64,
    /// Lines of the access log that could not be written.
    pub accesslog_lost: u64,
    /// Times a worker's loop woke up.
    pub wakeups: u64,
    /// Times a worker was replaced after a crash.
    pub restarts: u64,
}

/// Where the counters are in a board: see [`Totals`] for their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Of the first worker's slot, in bytes.
    first: u64,
    /// From one slot to the next.
    stride: u64,
    slots: u64,
    /// Of the slot with the predecessors' sums.
    past: u64,
    /// Of each counter in its slot; unsigned numbers of 64 bits, as this machine has them.
    counters: BTreeMap<String, u64>,
}

/// The board of the other node in an upgrade.
#[derive(Debug)]
pub struct OtherBoard {
    file: File,
    layout: Layout,
}

impl Totals {
    fn from_named(mut value: impl FnMut(&'static str) -> u64) -> Totals {
        Totals {
            requests: value("requests"),
            accepted: value("accepted"),
            handed_over: value("handed_over"),
            bytes_in: value("bytes_in"),
            bytes_out: value("bytes_out"),
            errors: value("errors"),
            accesslog_lost: value("accesslog_lost"),
            wakeups: value("wakeups"),
            restarts: value("restarts"),
        }
    }

    /// The sum of both.
    pub fn plus(&self, other: &Totals) -> Totals {
        self.with(other, u64::saturating_add)
    }

    /// The larger of each.
    #[must_use]
    pub fn at_least(&self, other: &Totals) -> Totals {
        self.with(other, u64::max)
    }

    fn with(&self, other: &Totals, both: impl Fn(u64, u64) -> u64) -> Totals {
        Totals {
            requests: both(self.requests, other.requests),
            accepted: both(self.accepted, other.accepted),
            handed_over: both(self.handed_over, other.handed_over),
            bytes_in: both(self.bytes_in, other.bytes_in),
            bytes_out: both(self.bytes_out, other.bytes_out),
            errors: both(self.errors, other.errors),
            accesslog_lost: both(self.accesslog_lost, other.accesslog_lost),
            wakeups: both(self.wakeups, other.wakeups),
            restarts: both(self.restarts, other.restarts),
        }
    }

    pub(super) fn of(slot: &WorkerSlot) -> Totals {
        Totals {
            requests: slot.requests.load(Relaxed),
            accepted: slot.accepted.load(Relaxed),
            handed_over: slot.handed_over.load(Relaxed),
            bytes_in: slot.bytes_in.load(Relaxed),
            bytes_out: slot.bytes_out.load(Relaxed),
            errors: slot.errors.load(Relaxed),
            accesslog_lost: slot.accesslog_lost.load(Relaxed),
            wakeups: slot.wakeups.load(Relaxed),
            restarts: slot.restarts.load(Relaxed),
        }
    }

    pub(super) fn store(&self, slot: &WorkerSlot) {
        slot.requests.store(self.requests, Relaxed);
        slot.accepted.store(self.accepted, Relaxed);
        slot.handed_over.store(self.handed_over, Relaxed);
        slot.bytes_in.store(self.bytes_in, Relaxed);
        slot.bytes_out.store(self.bytes_out, Relaxed);
        slot.errors.store(self.errors, Relaxed);
        slot.accesslog_lost.store(self.accesslog_lost, Relaxed);
        slot.wakeups.store(self.wakeups, Relaxed);
        slot.restarts.store(self.restarts, Relaxed);
    }
}

impl Layout {
    /// This program's.
    pub fn own() -> Layout {
        let counters = [
            ("requests", offset_of!(WorkerSlot, requests)),
            ("accepted", offset_of!(WorkerSlot, accepted)),
            ("handed_over", offset_of!(WorkerSlot, handed_over)),
            ("bytes_in", offset_of!(WorkerSlot, bytes_in)),
            ("bytes_out", offset_of!(WorkerSlot, bytes_out)),
            ("errors", offset_of!(WorkerSlot, errors)),
            ("accesslog_lost", offset_of!(WorkerSlot, accesslog_lost)),
            ("wakeups", offset_of!(WorkerSlot, wakeups)),
            ("restarts", offset_of!(WorkerSlot, restarts)),
        ];
        Layout {
            first: offset_of!(Board, workers) as u64,
            stride: size_of::<WorkerSlot>() as u64,
            slots: MAX_WORKERS as u64,
            past: offset_of!(Board, past) as u64,
            counters: counters.map(|(name, offset)| (name.to_owned(), offset as u64)).into(),
        }
    }
}

impl OtherBoard {
    /// Of the other node, as that describes it.
    pub fn new(file: OwnedFd, layout: Layout) -> OtherBoard {
        OtherBoard { file: file.into(), layout }
    }

    /// What its own workers have done. It is a file of memory: reading it waits for nobody.
    ///
    /// # Errors
    /// When the file is not as it was described.
    pub fn workers(&self) -> io::Result<Totals> {
        let Layout { first, stride, slots, .. } = self.layout;
        let length = stride.checked_mul(slots).filter(|length| *length <= LARGEST);
        let length = length.ok_or_else(|| io::Error::other("its board is too large"))?;
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, first)?;
        let slots = bytes.chunks_exact(stride.max(1) as usize);
        Ok(slots.fold(Totals::default(), |sum, slot| sum.plus(&self.slot(slot))))
    }

    /// What its predecessors had done.
    ///
    /// # Errors
    /// See [`OtherBoard::workers`].
    pub fn past(&self) -> io::Result<Totals> {
        if self.layout.stride > LARGEST {
            return Err(io::Error::other("its board is too large"));
        }
        let mut bytes = vec![0; self.layout.stride as usize];
        self.file.read_exact_at(&mut bytes, self.layout.past)?;
        Ok(self.slot(&bytes))
    }

    /// What it does not have is 0.
    fn slot(&self, bytes: &[u8]) -> Totals {
        Totals::from_named(|name| {
            let offset = self.layout.counters.get(name).copied().unwrap_or(u64::MAX);
            let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
            rest.and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_ne_bytes(*word))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Scoreboard;
    use super::*;
    use crate::ids::WorkerId;

    #[test]
    fn other_process_reads_what_workers_and_predecessors_have_done() {
        let (board, file) = Scoreboard::in_file().unwrap();
        let other = OtherBoard::new(file, Layout::own());
        assert_eq!(other.workers().unwrap(), Totals::default());
        let expected = Totals {
            requests: 12,
            accepted: 2,
            handed_over: 3,
            bytes_in: 4,
            bytes_out: u64::MAX,
            errors: 6,
            accesslog_lost: 9,
            wakeups: 7,
            restarts: 8,
        };
        expected.store(board.worker(WorkerId(0)));
        let last = board.worker(WorkerId(MAX_WORKERS as u16 - 1));
        last.requests.store(30, Relaxed);
        last.bytes_out.store(1, Relaxed);
        let sum = Totals { requests: 42, ..expected };
        assert_eq!((other.workers().unwrap(), board.totals()), (sum, sum));
        board.set_past(&Totals { errors: 100, ..Totals::default() });
        assert_eq!(other.past().unwrap(), Totals { errors: 100, ..Totals::default() });
        assert_eq!(other.workers().unwrap(), sum);
        assert_eq!(board.totals(), Totals { errors: 106, ..sum });
    }

    #[test]
    fn board_of_another_version_is_read_as_far_as_it_goes() {
        let (_, file) = Scoreboard::in_file().unwrap();
        let mut words = vec![0u64; 64];
        (words[1], words[9], words[5]) = (4, 5, 6);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let file = File::from(file);
        file.write_all_at(&bytes, 0).unwrap();
        let counters = [("requests", 8), ("errors", 60), ("later", 0), ("wakeups", u64::MAX)];
        let layout = Layout {
            first: 0,
            stride: 64,
            slots: 2,
            past: 32,
            counters: counters.map(|(name, offset)| (name.to_owned(), offset)).into(),
        };
        let mut other = OtherBoard { file, layout };
        let requests = |requests| Totals { requests, ..Totals::default() };
        assert_eq!(other.workers().unwrap(), requests(9));
        assert_eq!(other.past().unwrap(), requests(6));
        for (first, stride, slots) in
            [(u64::MAX / 2, 64, 2), (0, u64::MAX, 2), (0, 64, u64::MAX / 64), (0, 1 << 23, 2)]
        {
            (other.layout.first, other.layout.stride, other.layout.slots) = (first, stride, slots);
            other.workers().unwrap_err();
        }
        (other.layout.stride, other.layout.slots) = (0, 5);
        assert_eq!(other.workers().unwrap(), Totals::default());
        other.layout.past = u64::MAX;
        other.past().unwrap();
    }

    #[test]
    fn larger_ones_count() {
        let (a, b) = (
            Totals { requests: 1, errors: 9, ..Totals::default() },
            Totals { requests: 4, errors: 2, ..Totals::default() },
        );
        assert_eq!(a.at_least(&b), Totals { requests: 4, errors: 9, ..Totals::default() });
        assert_eq!(a.plus(&b), Totals { requests: 5, errors: 11, ..Totals::default() });
    }
}
