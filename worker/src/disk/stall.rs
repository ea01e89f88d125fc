//! When a device counts as stalled: PROTOCOL.md section 5. Pure: ages in, a verdict out.
//!
//! A busy disk is not a dead one. However long its queue, while operations on it complete it is
//! not stalled; and what the node does to pace itself is no operation, but tells of a dead disk
//! when the disk's own counters stand still as well.

use std::time::Duration;

/// What is known of a device's operations. Ages are up to now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Of the oldest operation under way.
    pub oldest: Option<Duration>,
    /// Of the oldest wait for our own writeback.
    pub oldest_pace: Option<Duration>,
    /// Since an operation completed last.
    pub since_completion: Duration,
    /// Since the disk's own counters moved last; `None`: it has none that we know of.
    pub since_disk: Option<Duration>,
}

/// Waits for writeback on a disk without counters are believed this many times as long.
const PATIENCE: u32 = 6;
/// Threads that a half-dead disk may hold beyond the limit.
const MOST_SPARE: usize = 100;

impl Evidence {
    /// True when somebody waits, nothing has come back for as long, and the disk itself shows no
    /// life.
    pub fn is_stalled(&self, timeout: Duration) -> bool {
        let waits = |age: Option<Duration>, limit| age.is_some_and(|age| age >= limit);
        let pace_limit = if self.since_disk.is_some() { timeout } else { timeout * PATIENCE };
        let waiting = waits(self.oldest, timeout) || waits(self.oldest_pace, pace_limit);
        let silent = self.since_completion >= timeout;
        waiting && silent && self.since_disk.is_none_or(|since| since >= timeout)
    }

    /// How many threads may be started beyond the limit, in the place of `stuck` ones: on a disk
    /// that hangs some operations and completes others, those held must not stop the others. A
    /// disk that completes nothing gets none.
    pub fn spare_threads(&self, stuck: usize, timeout: Duration) -> usize {
        match self.since_completion < timeout / 2 {
            true => stuck.min(MOST_SPARE),
            false => 0,
        }
    }
}

/// Longest time after which a thread counts as stuck.
const STUCK: Duration = Duration::from_secs(1);

/// From this age on a thread counts as stuck: [`Evidence::spare_threads`].
pub fn stuck_age(timeout: Duration) -> Duration {
    (timeout / 4).min(STUCK)
}

/// An operation so old is answered for, whatever else its device does.
pub fn give_up_age(timeout: Duration) -> Duration {
    timeout * PATIENCE
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Duration = Duration::from_secs(5);
    const LONG: Option<Duration> = Some(Duration::from_secs(6));

    fn dead() -> Evidence {
        let since_completion = Duration::from_secs(6);
        Evidence { oldest: LONG, oldest_pace: None, since_completion, since_disk: LONG }
    }

    #[test]
    fn device_is_stalled_when_nothing_comes_back() {
        assert!(dead().is_stalled(T));
        assert!(Evidence { since_disk: None, ..dead() }.is_stalled(T));
    }

    #[test]
    fn device_with_nothing_to_do_is_well() {
        assert!(!Evidence { oldest: None, ..dead() }.is_stalled(T));
    }

    #[test]
    fn young_operation_is_no_stall() {
        let oldest = Some(T - Duration::from_millis(1));
        assert!(!Evidence { oldest, ..dead() }.is_stalled(T));
    }

    #[test]
    fn any_completion_is_life() {
        let since_completion = T - Duration::from_millis(1);
        assert!(!Evidence { since_completion, ..dead() }.is_stalled(T));
    }

    #[test]
    fn moving_counters_are_life() {
        let since_disk = Some(Duration::from_millis(100));
        assert!(!Evidence { since_disk, ..dead() }.is_stalled(T));
    }

    #[test]
    fn pacing_alone_is_believed_while_the_counters_move_or_are_unknown() {
        let pacing = Evidence { oldest: None, oldest_pace: LONG, ..dead() };
        assert!(pacing.is_stalled(T));
        assert!(!Evidence { since_disk: Some(Duration::ZERO), ..pacing }.is_stalled(T));
        assert!(!Evidence { since_disk: None, ..pacing }.is_stalled(T));
        let oldest_pace = Some(T * 6);
        assert!(Evidence { since_disk: None, oldest_pace, ..pacing }.is_stalled(T));
    }

    #[test]
    fn spare_threads_come_only_while_something_completes() {
        assert_eq!(dead().spare_threads(10, T), 0);
        let half_dead = Evidence { since_completion: Duration::from_secs(1), ..dead() };
        assert_eq!(half_dead.spare_threads(10, T), 10);
        assert_eq!(half_dead.spare_threads(1000, T), MOST_SPARE);
    }
}
