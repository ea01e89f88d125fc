//! When a device's directory is of use: who has needed it lately, who waits for a copy. Times are
//! the loop's clock, in milliseconds.

use std::collections::BTreeMap;

use crate::ids::{DeviceKey, WorkerId};

/// A directory that has been of no use for so long is let go.
const UNUSED_MS: u64 = 1000;
/// An owner is asked for its directory this often at most.
const ASK_MS: u64 = 1000;

/// Which devices' directories this worker and others need.
#[derive(Debug, Default)]
pub struct DirNeeds {
    /// When each was last of use.
    used: BTreeMap<DeviceKey, u64>,
    /// When its owner was last asked for it.
    wanted: BTreeMap<DeviceKey, u64>,
    /// Workers that asked for one of ours which is being opened.
    asked: BTreeMap<DeviceKey, Vec<WorkerId>>,
}

impl DirNeeds {
    /// A directory is of use now.
    pub fn note_use(&mut self, device: DeviceKey, now: u64) {
        self.used.insert(device, now);
    }

    /// Those that have been of use and not been given up since.
    pub fn in_use(&self) -> Vec<DeviceKey> {
        self.used.keys().copied().collect()
    }

    /// True when no directory is in use.
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }

    /// Whether a directory has been of no use for long: then it is given up.
    pub fn give_up_unused(&mut self, device: DeviceKey, now: u64) -> bool {
        let unused = self.used.get(&device).is_some_and(|at| now.saturating_sub(*at) >= UNUSED_MS);
        if unused {
            self.used.remove(&device);
        }
        unused
    }

    /// Whether the owner is to be asked for a directory, which counts as asking.
    pub fn may_ask(&mut self, device: DeviceKey, now: u64) -> bool {
        let recent = self.wanted.get(&device).is_some_and(|at| now.saturating_sub(*at) < ASK_MS);
        if !recent {
            self.wanted.insert(device, now);
        }
        !recent
    }

    /// A worker waits until a directory of ours is open.
    pub fn note_asker(&mut self, device: DeviceKey, worker: WorkerId) {
        let askers = self.asked.entry(device).or_default();
        if !askers.contains(&worker) {
            askers.push(worker);
        }
    }

    /// Of those that somebody waits for, the ones for which `is` holds.
    pub fn asked_for(&self, is: impl Fn(DeviceKey) -> bool) -> Vec<DeviceKey> {
        self.asked.keys().copied().filter(|device| is(*device)).collect()
    }

    /// Who waits for a directory; they wait no longer.
    pub fn take_askers(&mut self, device: DeviceKey) -> Vec<WorkerId> {
        self.asked.remove(&device).unwrap_or_default()
    }

    /// Forgets who waits for a directory that nobody is opening: it is asked for again.
    pub fn forget_askers(&mut self, is_being_opened: impl Fn(DeviceKey) -> bool) {
        self.asked.retain(|device, _| is_being_opened(*device));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SiteId;

    const KEY: DeviceKey = DeviceKey { site: SiteId(0), devid: 1 };
    const OTHER: DeviceKey = DeviceKey { site: SiteId(0), devid: 2 };

    #[test]
    fn what_was_of_no_use_for_a_second_is_given_up_once() {
        let mut needs = DirNeeds::default();
        needs.note_use(KEY, 100);
        assert!(!needs.give_up_unused(KEY, 1099));
        needs.note_use(KEY, 1000);
        assert!(!needs.give_up_unused(KEY, 1999));
        assert!(needs.give_up_unused(KEY, 2000));
        assert!(!needs.give_up_unused(KEY, 3000), "there is nothing to give up");
        assert!(needs.is_empty());
    }

    #[test]
    fn owner_is_asked_once_a_second() {
        let mut needs = DirNeeds::default();
        assert!(needs.may_ask(KEY, 5));
        assert!(!needs.may_ask(KEY, 1004));
        assert!(needs.may_ask(OTHER, 1004), "another device");
        assert!(needs.may_ask(KEY, 1005));
    }

    #[test]
    fn those_who_wait_are_told_once() {
        let mut needs = DirNeeds::default();
        for worker in [2, 3, 2] {
            needs.note_asker(KEY, WorkerId(worker));
        }
        needs.note_asker(OTHER, WorkerId(2));
        assert_eq!(needs.asked_for(|device| device == KEY), [KEY]);
        assert_eq!(needs.take_askers(KEY), [WorkerId(2), WorkerId(3)]);
        assert_eq!(needs.take_askers(KEY), []);
        needs.forget_askers(|_| false);
        assert_eq!(needs.asked_for(|_| true), []);
    }
}
