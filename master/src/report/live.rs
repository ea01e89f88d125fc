//! The numbers of this moment in the status document: what the scoreboard alone says.

use std::sync::atomic::Ordering::Relaxed;

use nix::time::{ClockId, clock_gettime};
use rmogstored_worker::scoreboard::{DeviceSlot, WorkerSlot};
use rmogstored_worker::sys::doors::Closed;

use super::status::{DeviceStatus, WorkerStatus};

impl WorkerStatus {
    /// What the worker has counted.
    pub fn count(&mut self, slot: &WorkerSlot) {
        self.restarts = slot.restarts.load(Relaxed);
        self.connections = slot.connections.load(Relaxed);
        self.requests = slot.requests.load(Relaxed);
        self.accepted = slot.accepted.load(Relaxed);
        self.handed_over = slot.handed_over.load(Relaxed);
        self.bytes_in = slot.bytes_in.load(Relaxed);
        self.bytes_out = slot.bytes_out.load(Relaxed);
        self.errors = slot.errors.load(Relaxed);
        self.accesslog_lost = slot.accesslog_lost.load(Relaxed);
        self.wakeups = slot.wakeups.load(Relaxed);
        self.heartbeat_age_ms = age_ms(slot.heartbeat.load(Relaxed));
        self.closed = names(slot.closed.load(Relaxed));
    }
}

impl DeviceStatus {
    /// What is known of the device.
    pub fn measure(&mut self, slot: &DeviceSlot) {
        let usage = slot.usage();
        self.owner = slot.owner().0;
        self.in_flight = slot.in_flight.load(Relaxed);
        self.oldest_ms = slot.oldest_ms.load(Relaxed);
        self.inline_reads = match slot.inline_reads.load(Relaxed) {
            1 => Some(true),
            2 => Some(false),
            _ => None,
        };
        self.closed = names(slot.closed.load(Relaxed));
        self.faults = slot.faults.counts();
        self.used_kib = usage.as_ref().map(|usage| usage.used);
        self.total_kib = usage.as_ref().map(|usage| usage.total);
        self.busy_percent = slot.busy().map(|busy| f64::from(busy) / 100.0);
    }
}

fn names(closed: u32) -> Vec<String> {
    Closed(closed).names().into_iter().map(str::to_owned).collect()
}

/// How long ago a moment of CLOCK_MONOTONIC was; 0 stands for never.
pub(crate) fn age_ms(moment: u64) -> Option<u64> {
    let now = monotonic_ms()?;
    (moment != 0).then(|| now.saturating_sub(moment))
}

/// CLOCK_MONOTONIC in milliseconds.
pub(crate) fn monotonic_ms() -> Option<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?;
    Some(now.tv_sec() as u64 * 1000 + now.tv_nsec() as u64 / 1_000_000)
}
