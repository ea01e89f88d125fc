//! Whether a worker leaves, why, and for how long: pure. Times are the loop's clock, in
//! milliseconds.

use std::time::Duration;

/// What began before a drain has arrived by then.
const LASTED_MS: u64 = 500;
/// So long after its beginning a drain of one worker is not the beginning of the node's: a service
/// manager may signal all processes of it.
const FOR_SURE_MS: u64 = 100;
/// No more requests are taken for so long, in which those in progress may end ...
const HOLD_MS: u64 = 200;
/// ... and where they have not, they are taken again for so long.
const SERVE_MS: u64 = 2000;
/// The master gets so long to send what it is to send.
const IMPATIENT_MS: u64 = 2000;
/// The other node of an upgrade knows by then that this worker goes: it is told in milliseconds.
const UNKNOWN_MS: u64 = 500;
/// Requests in progress get so long where nobody supervises us any more.
const ORPHAN_MS: u64 = 5000;

/// Who has a worker leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The master.
    Told {
        /// There is another node, an upgrade's.
        shared: bool,
    },
    /// A signal, to this worker alone: it is replaced at once.
    Replaced,
    /// Nobody supervises us any more.
    Orphaned,
}

/// The drain of a worker.
#[derive(Debug, Default)]
pub(super) struct Drain {
    began: Option<u64>,
    why: Option<Why>,
    /// Whoever is to have connections had no room for one since the last tick.
    crowded: bool,
    /// No more requests are taken until then.
    held_until: Option<u64>,
    /// Not before then are they held again.
    serves_until: u64,
    /// Nobody will have what is left.
    given_up: bool,
}

impl Drain {
    /// Whether the worker is leaving.
    pub(super) fn is_on(&self) -> bool {
        self.began.is_some()
    }

    /// Begins, unless it has begun. True: just now.
    pub(super) fn begin(&mut self, now: u64, why: Why) -> bool {
        let first = self.began.is_none();
        if first {
            (self.began, self.why) = (Some(now), Some(why));
            self.serves_until = now + FOR_SURE_MS;
        }
        first
    }

    /// The master is gone, and with it every other worker: time counts from now on.
    pub(super) fn note_orphan(&mut self, now: u64) {
        (self.began, self.why) = (Some(now), Some(Why::Orphaned));
    }

    /// Whether the master is gone.
    pub(super) fn is_orphan(&self) -> bool {
        self.why == Some(Why::Orphaned)
    }

    /// Whether another worker comes at once.
    pub(super) fn is_replaced(&self) -> bool {
        self.why == Some(Why::Replaced)
    }

    /// Whether it began so long ago that nothing can have been on its way before.
    pub(super) fn has_lasted(&self, now: u64) -> bool {
        self.began.is_some_and(|began| now.saturating_sub(began) >= LASTED_MS)
    }

    /// Whether the other node may not know yet that this worker goes, and give it something.
    pub(super) fn may_be_given_something(&self, now: u64) -> bool {
        self.why != Some(Why::Told { shared: false })
            && self.began.is_some_and(|began| now.saturating_sub(began) < UNKNOWN_MS)
    }

    /// Whether the master has had time for what it is to send.
    pub(super) fn is_impatient(&self, now: u64) -> bool {
        self.began.is_some_and(|began| now.saturating_sub(began) >= IMPATIENT_MS)
    }

    /// What has no room elsewhere is tried again with the next tick: not with each event.
    pub(super) fn set_crowded(&mut self, crowded: bool) {
        self.crowded = crowded;
    }

    /// Whether there was no room for a connection since the last tick.
    pub(super) fn is_crowded(&self) -> bool {
        self.crowded
    }

    /// What is left is closed.
    pub(super) fn give_up(&mut self) {
        (self.given_up, self.held_until) = (true, None);
    }

    /// Whether what is left is closed.
    pub(super) fn has_given_up(&self) -> bool {
        self.given_up
    }

    /// Whether no more requests are taken now.
    pub(super) fn is_holding(&self) -> bool {
        self.held_until.is_some()
    }

    /// Holds requests back, or goes on with them, as is due now; `alone`: nobody else has them.
    /// False: those that were held back go on.
    pub(super) fn hold(&mut self, alone: bool, now: u64) -> bool {
        match self.held_until {
            Some(until) if !alone || now >= until => {
                (self.held_until, self.serves_until) = (None, now + SERVE_MS);
                return false;
            }
            None if alone && now >= self.serves_until => self.held_until = Some(now + HOLD_MS),
            _ => {}
        }
        true
    }

    /// Whether it has taken longer than it may; a limit of zero is none.
    pub(super) fn is_overdue(&self, limit: Duration, now: u64) -> bool {
        let limit = match limit.as_millis() as u64 {
            0 if self.is_orphan() => ORPHAN_MS,
            limit if self.is_orphan() => limit.min(ORPHAN_MS),
            limit => limit,
        };
        limit > 0 && self.began.is_some_and(|began| now.saturating_sub(began) >= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_begins_once_and_has_its_time() {
        let mut drain = Drain::default();
        assert!(!drain.is_on() && !drain.is_overdue(Duration::from_secs(1), 9000));
        assert!(drain.begin(100, Why::Told { shared: true }));
        assert!(!drain.begin(900, Why::Replaced) && !drain.is_replaced(), "it has begun");
        assert!(!drain.is_overdue(Duration::from_secs(1), 1099));
        assert!(drain.is_overdue(Duration::from_secs(1), 1100));
        assert!(!drain.is_overdue(Duration::ZERO, u64::MAX), "no limit");
        assert!(!drain.has_lasted(599) && drain.has_lasted(600));
        assert!(drain.may_be_given_something(599) && !drain.may_be_given_something(600));
        assert!(!drain.is_impatient(2099) && drain.is_impatient(2100));
    }

    #[test]
    fn without_a_master_it_has_five_seconds_at_most() {
        let mut drain = Drain::default();
        drain.begin(0, Why::Told { shared: false });
        assert!(!drain.may_be_given_something(0), "there is nobody");
        drain.note_orphan(10_000);
        assert!(drain.may_be_given_something(10_499), "nobody tells whether there is");
        for limit in [Duration::ZERO, Duration::from_secs(3600)] {
            assert!(!drain.is_overdue(limit, 14_999));
            assert!(drain.is_overdue(limit, 15_000));
        }
        assert!(drain.is_overdue(Duration::from_secs(1), 11_000));
    }

    #[test]
    fn requests_are_held_back_now_and_then_while_it_is_alone() {
        let mut drain = Drain::default();
        drain.begin(1000, Why::Replaced);
        assert!(drain.hold(true, 1099) && !drain.is_holding(), "it may be the node's drain");
        assert!(drain.hold(true, 1100) && drain.is_holding());
        assert!(drain.hold(true, 1299) && drain.is_holding());
        assert!(!drain.hold(true, 1300), "they go on");
        assert!(drain.hold(true, 3299) && !drain.is_holding());
        assert!(drain.hold(true, 3300) && drain.is_holding());
        assert!(!drain.hold(false, 3301) && !drain.is_holding(), "somebody has come");
        assert!(drain.hold(false, 9000) && !drain.is_holding());
        drain.hold(true, 9000);
        drain.give_up();
        assert!(!drain.is_holding() && drain.has_given_up());
    }
}
