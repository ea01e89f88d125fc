//! When the loop gives the processor to its disk threads.

use std::time::Duration;

use crate::clock::{instant, processor_time};

/// What others may get of the processor in one yield. More is a busy neighbour's share.
const OTHERS: Duration = Duration::from_millis(1);
/// How long there is no yield after that, in milliseconds.
const PAUSE: u64 = 1_000;

/// After a round that has given disk threads short work the loop yields once. On a processor that
/// it shares with them they do the work before the next round: else each packet that comes
/// interrupts them.
///
/// A yield may go to other processes too, and costs a slice of time in each case (`sched_yield(2)`;
/// Linux since 6.18 remembers it until the others have had as much). Where that is seen the loop
/// does without yields for a while. Whose time it was is looked at after one that took long: that
/// costs two system calls.
#[derive(Default)]
pub(super) struct Yielding {
    /// Disk threads have been given short work in this round.
    wanted: bool,
    /// Before this time, in milliseconds, there is none.
    not_before: u64,
    /// The last one took so long that others may have had the processor.
    suspicious: bool,
}

impl Yielding {
    /// Disk threads have been given short work in this round.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// Yields, if that is wanted. `now` is the loop's clock in milliseconds.
    pub(super) fn at_end_of_round(&mut self, now: u64) {
        if !std::mem::take(&mut self.wanted) || now < self.not_before {
            return;
        }
        let ours_before = if self.suspicious { processor_time() } else { None };
        let begun = instant();
        std::thread::yield_now();
        let took = begun.elapsed();
        self.suspicious = took > OTHERS;
        if let Some(before) = ours_before
            && let Some(after) = processor_time()
        {
            self.judge(now, took, after.saturating_sub(before));
        }
    }

    /// `ours` is what all threads of this process used while the yield `took` its time.
    fn judge(&mut self, now: u64, took: Duration, ours: Duration) {
        if took.saturating_sub(ours) > OTHERS {
            self.not_before = now + PAUSE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn time_of_our_own_threads_is_no_reason_to_stop() {
        let mut yielding = Yielding::default();
        yielding.judge(5, ms(8), ms(8));
        yielding.judge(5, ms(8), ms(7));
        yielding.judge(5, ms(3), ms(9)); // On other processors.
        assert_eq!(yielding.not_before, 0);
    }

    #[test]
    fn a_neighbour_s_slice_ends_yields_for_a_while() {
        let mut yielding = Yielding::default();
        yielding.judge(5, ms(3), ms(1));
        assert_eq!(yielding.not_before, 5 + PAUSE);
    }

    #[test]
    fn it_is_wanted_anew_in_each_round() {
        let mut yielding = Yielding { wanted: true, not_before: 10, suspicious: false };
        yielding.at_end_of_round(9);
        assert!(!yielding.wanted);
        yielding.wanted = true;
        yielding.at_end_of_round(10);
        assert!(!yielding.wanted);
    }
}
