//! The state of each device, as the status and the events tell it: pure. What the scoreboard says
//! goes in, what has changed comes out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use rmogstored_worker::scoreboard::{DeviceSlot, DeviceState, Scoreboard, WorkerState};
use rmogstored_worker::spec::DeviceKey;

/// A device fails that has had so many errors of its disk ...
const MANY: u64 = 5;
/// ... within this time ...
const MINUTE: Duration = Duration::from_secs(60);
/// ... until it has had none for so long, or the operator says that it is mended.
const QUIET: Duration = Duration::from_secs(3600);

/// What is wrong with a device, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// The worker that owns it is not there.
    Unowned,
    /// It was a mount, or has to be one, and is a bare folder.
    Unmounted,
    /// Its disk does not answer.
    Stalled,
    /// Its disk has said EIO or the like, again and again. It is served all the same.
    Failing,
    /// It is mounted read-only.
    ReadOnly,
    /// Users have no room left on it, or no inode.
    Full,
}

/// What is known of a device now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub unowned: bool,
    pub unmounted: bool,
    pub stalled: bool,
    pub read_only: bool,
    pub full: bool,
    /// Errors of its disk so far.
    pub io_errors: u64,
    /// It failed before this process, or another one, looked.
    pub failed_before: bool,
}

/// What has changed about a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// This is wrong with it now.
    Has(Trouble),
    /// This is not any more.
    Had(Trouble),
}

/// All devices.
#[derive(Debug, Default)]
pub(super) struct DeviceHealth {
    devices: BTreeMap<DeviceKey, Health>,
    /// Errors that a device had before it was first looked at, where there were any.
    known: BTreeMap<DeviceKey, u64>,
}

#[derive(Debug)]
struct Health {
    troubles: Vec<Trouble>,
    /// The worst of them, or none, since then.
    since: SystemTime,
    errors: IoErrors,
}

/// Errors of one disk.
#[derive(Debug, Default)]
struct IoErrors {
    seen: u64,
    /// How many came, and when.
    recent: VecDeque<(Instant, u64)>,
    last: Option<Instant>,
    failing: bool,
}

impl Facts {
    /// What the scoreboard says.
    pub fn of(board: &Scoreboard, slot: &DeviceSlot) -> Facts {
        let faults = slot.faults.counts();
        Facts {
            unowned: board.worker(slot.owner()).state() == WorkerState::Empty,
            unmounted: slot.mount.refused(),
            stalled: slot.state() == DeviceState::Stalled,
            read_only: slot.read_only.load(Relaxed),
            full: slot.usage().is_some_and(|usage| usage.available == 0),
            io_errors: faults.of_disk(),
            failed_before: slot.failing.load(Relaxed),
        }
    }

    /// What is wrong, the worst first; whether the disk fails has been found out.
    pub fn troubles(&self, failing: bool) -> Vec<Trouble> {
        let all = [
            (self.unowned, Trouble::Unowned),
            (self.unmounted, Trouble::Unmounted),
            (self.stalled, Trouble::Stalled),
            (failing, Trouble::Failing),
            (self.read_only, Trouble::ReadOnly),
            (self.full, Trouble::Full),
        ];
        all.into_iter().filter(|(has, _)| *has).map(|(_, it)| it).collect()
    }
}

impl Trouble {
    /// All that there are.
    pub const ALL: [Trouble; 6] = [
        Trouble::Unowned,
        Trouble::Unmounted,
        Trouble::Stalled,
        Trouble::Failing,
        Trouble::ReadOnly,
        Trouble::Full,
    ];

    /// As the status has it.
    pub fn name(self) -> &'static str {
        match self {
            Trouble::Unowned => "unowned",
            Trouble::Unmounted => "unmounted",
            Trouble::Stalled => "stalled",
            Trouble::Failing => "failing",
            Trouble::ReadOnly => "read-only",
            Trouble::Full => "full",
        }
    }
}

impl DeviceHealth {
    /// Looks at a device. What has changed since the last look; where a device is new, all that is
    /// wrong with it.
    pub fn look(
        &mut self,
        device: DeviceKey,
        facts: Facts,
        now: (Instant, SystemTime),
    ) -> Vec<Change> {
        let known = self.known.get(&device).copied().unwrap_or(0);
        let health = self.devices.entry(device).or_insert_with(|| Health::new(&facts, known, now));
        health.look(facts, now)
    }

    /// What is wrong with it, the worst, and since when that is so.
    pub fn of(&self, device: DeviceKey) -> (Option<Trouble>, Option<SystemTime>) {
        let health = self.devices.get(&device);
        (health.and_then(Health::worst), health.map(|health| health.since))
    }

    /// Whether its disk fails.
    pub fn is_failing(&self, device: DeviceKey) -> bool {
        self.devices.get(&device).is_some_and(|health| health.errors.failing)
    }

    /// The operator says that it is mended: true if it was failing.
    pub fn clear(&mut self, device: DeviceKey) -> bool {
        self.devices.get_mut(&device).is_some_and(|health| health.errors.clear())
    }

    /// So many errors it had in all before it came here, and no more of them count: those of another
    /// master's time.
    pub fn came_with(&mut self, device: DeviceKey, io_errors: u64) {
        self.known.insert(device, io_errors);
    }

    /// It is gone.
    pub fn forget(&mut self, device: DeviceKey) {
        if let Some(health) = self.devices.remove(&device) {
            self.known.insert(device, health.errors.seen);
        }
    }
}

impl Health {
    fn new(facts: &Facts, seen: u64, (now, time): (Instant, SystemTime)) -> Health {
        let failing = facts.failed_before;
        let last = failing.then_some(now);
        let errors = IoErrors { seen, failing, last, ..IoErrors::default() };
        Health { troubles: Vec::new(), since: time, errors }
    }

    fn look(&mut self, facts: Facts, (now, time): (Instant, SystemTime)) -> Vec<Change> {
        let failing = self.errors.look(facts.io_errors, now);
        let worst = self.worst();
        let before = std::mem::replace(&mut self.troubles, facts.troubles(failing));
        if self.worst() != worst {
            self.since = time;
        }
        let gone = before.iter().filter(|it| !self.troubles.contains(it)).copied();
        let new = self.troubles.iter().filter(|it| !before.contains(it)).copied();
        gone.map(Change::Had).chain(new.map(Change::Has)).collect()
    }

    fn worst(&self) -> Option<Trouble> {
        self.troubles.first().copied()
    }
}

impl IoErrors {
    /// Whether the disk fails, now that it has had so many errors in all.
    fn look(&mut self, count: u64, now: Instant) -> bool {
        let new = count.saturating_sub(self.seen);
        self.seen = count;
        if new > 0 {
            self.recent.push_back((now, new));
            self.last = Some(now);
        }
        while self.recent.front().is_some_and(|(at, _)| now.duration_since(*at) >= MINUTE) {
            self.recent.pop_front();
        }
        if self.recent.iter().map(|(_, count)| count).sum::<u64>() >= MANY {
            self.failing = true;
        } else if self.last.is_none_or(|last| now.duration_since(last) >= QUIET) {
            self.failing = false;
        }
        self.failing
    }

    fn clear(&mut self) -> bool {
        let was = self.failing;
        *self = IoErrors { seen: self.seen, ..IoErrors::default() };
        was
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rmogstored_worker::spec::SiteId;

    const DEVICE: DeviceKey = DeviceKey { site: SiteId(0), devid: 1 };

    struct Clock(Instant, SystemTime);

    impl Clock {
        fn new() -> Clock {
            Clock(Instant::now(), SystemTime::now())
        }

        fn after(&self, seconds: u64) -> (Instant, SystemTime) {
            let passed = Duration::from_secs(seconds);
            (self.0 + passed, self.1 + passed)
        }
    }

    #[test]
    fn the_worst_is_told_and_since_when() {
        let (mut all, clock) = (DeviceHealth::default(), Clock::new());
        let ok = Facts::default();
        let full = Facts { full: true, ..ok };
        let both = Facts { stalled: true, ..full };
        assert_eq!(all.of(DEVICE), (None, None));
        assert_eq!(all.look(DEVICE, ok, clock.after(0)), []);
        assert_eq!(all.look(DEVICE, full, clock.after(5)), [Change::Has(Trouble::Full)]);
        assert_eq!(all.look(DEVICE, full, clock.after(6)), []);
        assert_eq!(all.of(DEVICE), (Some(Trouble::Full), Some(clock.after(5).1)));
        assert_eq!(all.look(DEVICE, both, clock.after(7)), [Change::Has(Trouble::Stalled)]);
        assert_eq!(all.of(DEVICE), (Some(Trouble::Stalled), Some(clock.after(7).1)));
        assert_eq!(
            all.look(DEVICE, ok, clock.after(9)),
            [Change::Had(Trouble::Stalled), Change::Had(Trouble::Full)]
        );
        assert_eq!(all.of(DEVICE), (None, Some(clock.after(9).1)));
        all.forget(DEVICE);
        assert_eq!(all.of(DEVICE), (None, None));
    }

    #[test]
    fn five_errors_in_a_minute_make_a_failing_disk_and_a_quiet_hour_ends_that() {
        let (mut all, clock) = (DeviceHealth::default(), Clock::new());
        all.came_with(DEVICE, 100);
        let mut look = |io_errors, seconds| {
            all.look(DEVICE, Facts { io_errors, ..Facts::default() }, clock.after(seconds))
        };
        assert_eq!(look(100, 0), [], "of another master's time");
        for (count, seconds) in [(101, 0), (102, 20), (103, 40), (104, 59), (105, 60)] {
            assert_eq!(look(count, seconds), [], "{seconds}");
        }
        assert_eq!(look(106, 61), [Change::Has(Trouble::Failing)], "five of the last minute");
        assert_eq!(look(106, 3660), []);
        assert_eq!(look(106, 3661), [Change::Had(Trouble::Failing)]);
        assert_eq!(look(111, 3662), [Change::Has(Trouble::Failing)]);
    }

    /// A device is first looked at some time after it is served.
    #[test]
    fn errors_before_the_first_look_count_and_those_before_it_went_do_not() {
        let (mut all, clock) = (DeviceHealth::default(), Clock::new());
        let bad = Facts { io_errors: 5, ..Facts::default() };
        assert_eq!(all.look(DEVICE, bad, clock.after(0)), [Change::Has(Trouble::Failing)]);
        all.forget(DEVICE);
        assert_eq!(all.look(DEVICE, bad, clock.after(1)), [], "it has come again");
    }

    #[test]
    fn operator_clears_a_failing_disk_that_fails_again_later() {
        let (mut all, clock) = (DeviceHealth::default(), Clock::new());
        let failed = Facts { failed_before: true, io_errors: 9, ..Facts::default() };
        all.came_with(DEVICE, 9);
        assert_eq!(all.look(DEVICE, failed, clock.after(0)), [Change::Has(Trouble::Failing)]);
        assert!(all.is_failing(DEVICE) && all.clear(DEVICE) && !all.clear(DEVICE));
        assert_eq!(all.look(DEVICE, failed, clock.after(1)), [Change::Had(Trouble::Failing)]);
        assert_eq!(
            all.look(DEVICE, Facts { io_errors: 14, ..failed }, clock.after(2)),
            [Change::Has(Trouble::Failing)]
        );
    }
}
