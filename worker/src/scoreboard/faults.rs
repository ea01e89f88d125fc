//! What has gone wrong on a device since the node's first start.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};
use zerocopy::FromZeros;

/// On the scoreboard.
#[derive(Debug, Default, FromZeros)]
#[repr(C)]
pub struct FaultCounts {
    errors: AtomicU64,
    no_space: AtomicU64,
    read_errors: AtomicU64,
    write_errors: AtomicU64,
    stalls: AtomicU64,
}

/// As numbers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Faults {
    /// Answers of class 5xx that its disk was asked for: refusals of a stalled device are none.
    pub errors: u64,
    /// Those of them that told of a full disk: 507.
    pub no_space: u64,
    /// What the disk or its filesystem could not read.
    pub read_errors: u64,
    /// The same for what could not be written.
    pub write_errors: u64,
    /// Times it has stalled.
    pub stalls: u64,
}

impl Faults {
    /// What its disk could not do.
    pub fn of_disk(&self) -> u64 {
        self.read_errors + self.write_errors
    }
}

impl FaultCounts {
    /// Counts an answer, if it is one of class 5xx.
    pub fn count_answer(&self, status: u16) {
        self.errors.fetch_add(u64::from(status >= 500), Relaxed);
        self.no_space.fetch_add(u64::from(status == 507), Relaxed);
    }

    /// Something could not be read.
    pub fn count_read_error(&self) {
        self.read_errors.fetch_add(1, Relaxed);
    }

    /// Something could not be written.
    pub fn count_write_error(&self) {
        self.write_errors.fetch_add(1, Relaxed);
    }

    /// The device has stalled.
    pub fn count_stall(&self) {
        self.stalls.fetch_add(1, Relaxed);
    }

    /// What there was before this node.
    pub fn add(&self, before: &Faults) {
        self.errors.fetch_add(before.errors, Relaxed);
        self.no_space.fetch_add(before.no_space, Relaxed);
        self.read_errors.fetch_add(before.read_errors, Relaxed);
        self.write_errors.fetch_add(before.write_errors, Relaxed);
        self.stalls.fetch_add(before.stalls, Relaxed);
    }

    /// So far.
    pub fn counts(&self) -> Faults {
        Faults {
            errors: self.errors.load(Relaxed),
            no_space: self.no_space.load(Relaxed),
            read_errors: self.read_errors.load(Relaxed),
            write_errors: self.write_errors.load(Relaxed),
            stalls: self.stalls.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_counted() {
        let counts = FaultCounts::default();
        [200, 404, 499, 500, 503, 507].into_iter().for_each(|status| counts.count_answer(status));
        counts.count_read_error();
        (0..2).for_each(|_| counts.count_write_error());
        counts.count_stall();
        let faults = Faults { errors: 3, no_space: 1, read_errors: 1, write_errors: 2, stalls: 1 };
        assert_eq!(counts.counts(), faults);
        counts.add(&faults);
        assert_eq!(counts.counts().errors, 6);
        assert_eq!(counts.counts().stalls, 2);
    }
}
