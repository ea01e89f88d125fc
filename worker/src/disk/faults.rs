//! Requests that fail because of a disk, or of a peer who can have that at will: of each device
//! and kind of error the first one in a second has its line, the others are counted.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::Level;

use crate::clock;
use crate::disk::failed::is_of_disk;
use crate::disk::repeated::Repeated;
use crate::ids::DeviceKey;
use crate::scoreboard::DeviceSlot;

/// Lines of one kind are as far apart as this at least.
const INTERVAL: Duration = Duration::from_secs(1);
/// Kinds that are remembered; one more and the first that is at rest is forgotten.
const MOST: usize = 1000;

/// Unit tests look for the line of each call that fails.
static KINDS: Mutex<Kinds> =
    Mutex::new(Kinds::told_every(if cfg!(test) { Duration::ZERO } else { INTERVAL }));

/// By device and number of the error; 0 for what has none.
#[derive(Debug)]
struct Kinds {
    interval: Duration,
    kinds: BTreeMap<(DeviceKey, i32), (Level, Repeated)>,
}

/// What was done to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Something was read, or looked up.
    Read,
    /// Something was written, or removed.
    Write,
}

/// A request for a device has failed, which `line` tells, unless others of its kind were told in
/// this second. Errors of the disk itself are counted in its slot.
pub fn note(
    device: DeviceKey,
    slot: Option<&DeviceSlot>,
    access: Access,
    level: Level,
    errno: Option<i32>,
    line: impl Display,
) {
    if let Some(slot) = slot.filter(|_| errno.is_some_and(is_of_disk)) {
        match access {
            Access::Read => slot.faults.count_read_error(),
            Access::Write => slot.faults.count_write_error(),
        }
    }
    let kind = (device, errno.unwrap_or_default());
    match with(|kinds| kinds.note(kind, level, clock::instant())) {
        Some(0) => log::log!(level, "{line}"),
        Some(untold) => log::log!(level, "{line}; and {untold} times before"),
        None => {}
    }
}

/// Tells the rest when it is time. Called by the clock.
pub fn tell() {
    tell_at(clock::instant());
}

/// Tells the rest now: the worker ends.
pub fn tell_last() {
    tell_at(clock::instant() + INTERVAL);
}

fn tell_at(now: Instant) {
    for ((device, errno), level, untold) in with(|kinds| kinds.rest(now)) {
        let error = io::Error::from_raw_os_error(errno);
        let times = if untold == 1 { "time" } else { "times" };
        match errno {
            0 => log::log!(level, "{device}: the same error {untold} {times} more"),
            _ => log::log!(level, "{device}: {untold} {times} more: {error}"),
        }
    }
}

fn with<T>(action: impl FnOnce(&mut Kinds) -> T) -> T {
    action(&mut KINDS.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Kinds {
    const fn told_every(interval: Duration) -> Kinds {
        Kinds { interval, kinds: BTreeMap::new() }
    }

    fn note(&mut self, kind: (DeviceKey, i32), level: Level, now: Instant) -> Option<u64> {
        if self.kinds.len() >= MOST && !self.kinds.contains_key(&kind) {
            let rests = |(_, repeated): &(Level, Repeated)| repeated.is_quiet(now);
            let first = self.kinds.iter().find(|(_, it)| rests(it)).map(|(kind, _)| *kind);
            self.kinds.remove(&first.or_else(|| self.kinds.keys().next().copied())?);
        }
        let (_, repeated) = self.kinds.entry(kind).or_insert((level, Repeated::new(self.interval)));
        repeated.note(now)
    }

    fn rest(&mut self, now: Instant) -> Vec<((DeviceKey, i32), Level, u64)> {
        let kinds = self.kinds.iter_mut();
        kinds
            .filter_map(|(kind, (level, repeated))| {
                repeated.rest(now).map(|untold| (*kind, *level, untold))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SiteId;

    fn device(devid: u32) -> DeviceKey {
        DeviceKey { site: SiteId(0), devid }
    }

    #[test]
    fn each_kind_of_each_device_is_told_once_a_second() {
        let mut kinds = Kinds::told_every(INTERVAL);
        let now = Instant::now();
        let mut note = |devid, errno, now| kinds.note((device(devid), errno), Level::Error, now);
        assert_eq!(note(1, libc::ENOSPC, now), Some(0));
        for _ in 0..199 {
            assert_eq!(note(1, libc::ENOSPC, now), None);
        }
        assert_eq!(note(1, libc::EIO, now), Some(0));
        assert_eq!(note(2, libc::ENOSPC, now), Some(0));
        assert_eq!(kinds.rest(now), []);
        let kind = ((device(1), libc::ENOSPC), Level::Error, 199);
        assert_eq!(kinds.rest(now + INTERVAL), [kind]);
        assert_eq!(kinds.rest(now + 3 * INTERVAL), []);
    }

    #[test]
    fn there_are_only_so_many_kinds() {
        let mut kinds = Kinds::told_every(INTERVAL);
        let now = Instant::now();
        for devid in 0..2 * MOST as u32 {
            assert_eq!(kinds.note((device(devid), 5), Level::Error, now), Some(0));
        }
        assert_eq!(kinds.kinds.len(), MOST);
    }
}
