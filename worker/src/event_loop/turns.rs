//! What the loop does next of its own accord: who goes on without an event, and when it looks at
//! the clock again.

use crate::event_loop::give_way::GiveWay;

/// A tick is never further ahead, in milliseconds.
const MOST_AHEAD: u64 = 1000;

/// The loop's own agenda. Times are its clock, in milliseconds.
#[derive(Default)]
pub(super) struct Turns {
    /// Connections that go on after the others have had their turn.
    again: Vec<usize>,
    next_tick: u64,
    give_way: GiveWay,
}

impl Turns {
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
    pub(super) fn give_way(&mut self) {
        self.give_way.want();
    }

    /// The round is over.
    pub(super) fn end_round(&mut self, now: u64) {
        self.give_way.at_end_of_round(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_tick_counts() {
        let mut turns = Turns::default();
        assert!(turns.tick_is_due(0), "at the start");
        turns.set_tick(1000);
        turns.tick_in(250, 100);
        turns.tick_in(500, 100);
        assert_eq!((turns.until_tick(100), turns.tick_is_due(349)), (250, false));
        assert!(turns.tick_is_due(350));
        assert_eq!(turns.until_tick(400), 0);
        turns.set_tick(u64::MAX);
        turns.tick_in(60_000, 0);
        assert_eq!(turns.until_tick(0), MOST_AHEAD, "a loop shows that it lives");
    }

    #[test]
    fn those_who_go_on_do_so_once() {
        let mut turns = Turns::default();
        turns.queue(4);
        turns.queue(2);
        assert!(turns.has_some());
        assert_eq!(turns.take(), [4, 2]);
        assert!(!turns.has_some());
    }
}
