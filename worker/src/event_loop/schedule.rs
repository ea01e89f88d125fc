//! What the loop does next of its own accord: who goes on without an event, and when it looks at
//! the clock again.

use crate::event_loop::yielding::Yielding;

/// A tick is never further ahead, in milliseconds.
const MOST_AHEAD: u64 = 1000;

/// The loop's own agenda. Times are its clock, in milliseconds.
#[derive(Default)]
pub(super) struct Schedule {
    /// Connections that go on after the others have had their turn.
    again: Vec<usize>,
    next_tick: u64,
    yielding: Yielding,
}

impl Schedule {
    /// A connection goes on when the others have had their turn.
    pub(super) fn queue(&mut self, key: usize) {
        self.again.push(key);
    }

    /// Those that go on now.
    pub(super) fn take(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.again)
    }

    /// Whether somebody goes on without an event.
    pub(super) fn has_some(&self) -> bool {
        !self.again.is_empty()
    }

    /// Whether it is time to look after what has a time.
    pub(super) fn tick_is_due(&self, now: u64) -> bool {
        now >= self.next_tick
    }

    /// How long the loop may wait for an event.
    pub(super) fn until_tick(&self, now: u64) -> u64 {
        self.next_tick.saturating_sub(now)
    }

    /// The next tick is then, and no sooner.
    pub(super) fn set_tick(&mut self, at: u64) {
        self.next_tick = at;
    }

    /// The next tick is in so many milliseconds, or sooner.
    pub(super) fn tick_in(&mut self, millis: u64, now: u64) {
        self.next_tick = self.next_tick.min(now + millis.min(MOST_AHEAD));
    }

    /// Disk threads have been given short work, for which they should have the processor.
    pub(super) fn yield_after_round(&mut self) {
        self.yielding.want();
    }

    /// The round is over.
    pub(super) fn end_round(&mut self, now: u64) {
        self.yielding.at_end_of_round(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_tick_counts() {
        let mut schedule = Schedule::default();
        assert!(schedule.tick_is_due(0), "at the start");
        schedule.set_tick(1000);
        schedule.tick_in(250, 100);
        schedule.tick_in(500, 100);
        assert_eq!((schedule.until_tick(100), schedule.tick_is_due(349)), (250, false));
        assert!(schedule.tick_is_due(350));
        assert_eq!(schedule.until_tick(400), 0);
        schedule.set_tick(u64::MAX);
        schedule.tick_in(60_000, 0);
        assert_eq!(schedule.until_tick(0), MOST_AHEAD, "a loop shows that it lives");
    }

    #[test]
    fn those_who_go_on_do_so_once() {
        let mut schedule = Schedule::default();
        schedule.queue(4);
        schedule.queue(2);
        assert!(schedule.has_some());
        assert_eq!(schedule.take(), [4, 2]);
        assert!(!schedule.has_some());
    }
}
