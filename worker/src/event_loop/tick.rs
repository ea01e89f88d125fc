//! What the loop does by the clock: a few times a second while anything has a deadline, once a
//! second otherwise.

use std::ffi::OsStr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::clients::neighbours::HEARTBEAT_MS;
use crate::clients::timers::Wait;
use crate::disk::{faults, shortage};
use crate::event_loop::Worker;
use crate::event_loop::drain::DRAIN_TICK_MS;
use crate::spec::{DeviceKey, SiteId};

/// An answer buffer that grew beyond this is given back.
const LARGE_OUTPUT: usize = 512 * 1024;
/// The stall clock, and the timers while there are any, are looked at this often.
const TICK_MS: u64 = 250;
/// A closing connection is drained for so long at most.
const LINGER: Duration = Duration::from_secs(5);
/// The same when the worker goes: a connection whose answer is sent does not hold it up.
const LAST_LINGER: Duration = Duration::from_millis(500);
const INTERVAL_VARIABLE: &str = "MOG_DISK_USAGE_INTERVAL";
/// Usage files are written this often, unless the environment says otherwise.
const USAGE_INTERVAL: Duration = Duration::from_secs(10);

impl Worker {
    /// Looks after everything that has a time.
    pub(super) fn tick(&mut self) {
        let monotonic = self.clock.monotonic();
        let ahead = if self.is_quiet() { HEARTBEAT_MS } else { TICK_MS };
        self.schedule.set_tick(self.clock.now() + ahead);
        self.slot.heartbeat.store(monotonic, Relaxed);
        self.keep_watch(monotonic);
        self.expire();
        self.tell_master();
        self.watch_devices();
        self.inbox.note_room(); // Something may have been closed elsewhere.
        self.resume_listeners();
        self.even_out();
        shortage::tell();
        faults::tell();
        self.tracing.tell();
        for dropped in self.files.sweep(self.clock.now()) {
            self.close_kept(dropped);
        }
        if self.out.capacity() > LARGE_OUTPUT {
            self.out = Vec::new();
        }
        if self.drain.is_on() {
            self.close_idle();
            self.hold_or_serve();
            self.tick_in(DRAIN_TICK_MS);
        }
    }

    /// Groups go out on the full second of the clock that all workers share, readings are taken
    /// shortly before.
    fn keep_watch(&mut self, monotonic: u64) {
        if self.must_measure(monotonic) {
            if self.busy.reading_is_due(monotonic) {
                self.busy.measure(self.board, monotonic);
            }
            self.tick_in(self.busy.until_reading(monotonic));
        }
        if self.watchers.is_due(monotonic) {
            self.send_groups();
        }
        if let Some(ahead) = self.watchers.until_due(monotonic) {
            self.tick_in(ahead);
        }
    }

    /// True when this worker measures and somebody watches, on whichever worker or the monitor.
    fn must_measure(&self, monotonic: u64) -> bool {
        let first = DeviceKey { site: SiteId(0), devid: 0 };
        self.devices.owner(first) == self.id
            && (self.board.is_looked_at(monotonic)
                || self.board.live_workers().any(|(_, slot)| slot.watchers.load(Relaxed) > 0))
    }

    pub(super) fn tick_in(&mut self, millis: u64) {
        self.schedule.tick_in(millis, self.clock.now());
    }

    /// Something has begun that the stall clock must see.
    pub(super) fn next_tick_soon(&mut self) {
        self.tick_in(TICK_MS);
    }

    /// Nothing waits with a deadline short of the heartbeat.
    fn is_quiet(&self) -> bool {
        let timed = [Wait::Head, Wait::Body, Wait::Linger];
        !self.drain.is_on()
            && self.dirs.is_empty()
            && self.files.is_empty()
            && self.devices.are_idle()
            && timed.iter().all(|wait| self.timers.oldest(*wait).is_none())
            && self.settings.idle_timeout.is_zero()
    }

    fn expire(&mut self) {
        let settings = &self.settings;
        let linger = if self.drain.is_on() { LAST_LINGER } else { LINGER };
        let limits = [
            (Wait::Idle, settings.idle_timeout),
            (Wait::Head, settings.header_timeout),
            (Wait::Body, settings.body_timeout),
            (Wait::Linger, linger),
        ];
        for (wait, limit) in limits {
            let limit = limit.as_millis() as u64;
            if limit == 0 {
                continue;
            }
            while let Some((key, since)) = self.timers.oldest(wait) {
                if self.clock.now().saturating_sub(since) < limit {
                    break;
                }
                self.time_out(key);
            }
        }
    }
}

/// `MOG_DISK_USAGE_INTERVAL`, in seconds.
pub(super) fn usage_interval() -> Duration {
    let text = std::env::var_os(INTERVAL_VARIABLE);
    text.and_then(|text| seconds(&text)).map_or(USAGE_INTERVAL, Duration::from_secs)
}

/// What `MOG_DISK_USAGE_INTERVAL` holds, if that is no number of seconds and counts for nothing.
pub fn odd_usage_interval() -> Option<String> {
    let text = std::env::var_os(INTERVAL_VARIABLE).filter(|text| seconds(text).is_none())?;
    Some(format!("{INTERVAL_VARIABLE}: '{}' is not a number of seconds, ignored", text.display()))
}

fn seconds(text: &OsStr) -> Option<u64> {
    text.to_str()?.trim().parse().ok().filter(|seconds| *seconds > 0)
}
