//! What a worker does about its devices at each tick: the stall clock, the numbers on the
//! scoreboard, and the directory descriptors, which are opened anew while in use and let go soon
//! after, so that a device can be unmounted and another disk mounted in its place.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::event_loop::Worker;
use crate::exchange::{Op, REFRESH};
use crate::handover;
use crate::scoreboard::{DeviceSlot, DeviceState};
use crate::spec::{DeviceKey, WorkerId};

/// How often the devices are gone through for those whose usage is to be looked at.
const LOOK_ROUND_MS: u64 = 500;
/// A directory that has been of no use for so long is let go.
const UNUSED_MS: u64 = 1000;

impl Worker {
    /// Looks after all devices that this worker has to do with.
    pub(crate) fn watch_devices(&mut self) {
        self.look_at_devices();
        for (key, pool) in &self.pools {
            if let Some(slot) = self.board.device(*key)
                && slot.owner() == self.id
            {
                let oldest = pool.oldest().unwrap_or_default();
                slot.in_flight.store(pool.in_flight() as u32, Relaxed);
                slot.oldest_ms.store(oldest.as_millis() as u64, Relaxed);
                judge(*key, slot, oldest, self.settings.stall_timeout);
                if let Some(dir) = self.devices.get(key).and_then(|device| device.dir_at_hand()) {
                    slot.inline_reads.store(if dir.inline_reads { 1 } else { 2 }, Relaxed);
                }
            }
        }
        let used: Vec<(DeviceKey, u64)> = self.used.iter().map(|(k, t)| (*k, *t)).collect();
        for (key, at) in used {
            let busy = self.pools.get(&key).is_some_and(|pool| pool.in_flight() > 0);
            if !busy && self.now.saturating_sub(at) >= UNUSED_MS {
                self.used.remove(&key);
                self.device(key).drop_dir();
            } else if self.device(key).wants_refresh() {
                self.refresh(key);
            }
        }
    }

    /// Has a thread look at each device of this worker whose turn it is: PROTOCOL.md section 4.
    fn look_at_devices(&mut self) {
        if self.now.saturating_sub(self.looked) < LOOK_ROUND_MS && self.looked != 0 {
            return;
        }
        self.looked = self.now.max(1);
        for (key, slot) in self.board.devices() {
            let known = self.sites.get(usize::from(key.site.0)).is_some_and(|site| site.usage);
            if slot.owner() != self.id || !known || self.drain.is_some() {
                continue;
            }
            let device = self.device(key);
            let write = device.file_is_due(self.usage_interval);
            let due = write || device.changed.load(Relaxed) && device.look_is_due(REFRESH);
            if device.usage && due && !device.looking.swap(true, Relaxed) {
                device.changed.store(false, Relaxed);
                self.in_background(&device, Op::Look { write });
            }
        }
    }

    fn refresh(&mut self, key: DeviceKey) {
        let owner = self.owner(key);
        if owner == self.id {
            let device = self.device(key);
            let idle = self.pools.get(&key).is_none_or(|pool| pool.in_flight() == 0);
            if idle {
                self.in_background(&device, Op::Refresh);
            }
        } else if let Some(inbox) = self.peers.get(&owner)
            && let Err(e) = handover::ask_for_dir(inbox.as_fd(), key, self.id)
        {
            log::debug!("{key}: cannot ask for its directory: {e}");
        }
    }

    /// Sends a device's directory to a worker that asked. When it is not open, the request that
    /// made the other ask is on its way here and opens it; the other asks again.
    pub(crate) fn share_dir(&mut self, key: DeviceKey, to: WorkerId) {
        if usize::from(key.site.0) >= self.sites.len() {
            return;
        }
        let device = self.device(key);
        if device.wants_refresh() {
            self.refresh(key);
        }
        let Some(dir) = device.dir_at_hand() else { return };
        self.used.insert(key, self.now);
        if let Some(inbox) = self.peers.get(&to)
            && let Err(e) = handover::send_dir(
                inbox.as_fd(),
                key,
                dir.as_fd(),
                dir.inline_reads,
                dir.updates_atime,
            )
        {
            log::debug!("{key}: cannot send its directory to worker {to}: {e}");
        }
    }
}

/// Marks a device stalled or well again.
fn judge(key: DeviceKey, slot: &DeviceSlot, oldest: Duration, limit: Duration) {
    let stalled = oldest >= limit;
    match (slot.state(), stalled) {
        (DeviceState::Ok, true) => {
            slot.set_state(DeviceState::Stalled);
            log::error!("{key} is stalled: a disk operation has taken {} s", oldest.as_secs());
        }
        (DeviceState::Stalled, false) => {
            slot.set_state(DeviceState::Ok);
            log::warn!("{key} answers again");
        }
        _ => {}
    }
}
