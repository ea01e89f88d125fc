//! How a disk behaves: which operations hang, fail or take long. No clock and no thread in here.

use std::ops::Range;
use std::time::{Duration, Instant};

use fuser::Errno;

use crate::load::Chance;

/// What a disk is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Bytes from it.
    Read,
    /// Bytes onto it.
    Write,
    /// Everything written so far to be safe. The loop device sends nothing else meanwhile.
    Flush,
}

/// All that a disk does.
pub const EVERYTHING: [Op; 3] = [Op::Read, Op::Write, Op::Flush];

/// One operation's fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is done at this time, which may be past.
    Done(Instant),
    /// It waits until its kind is released.
    Hangs,
    /// It fails.
    Fails(i32),
}

/// Which operations of a kind fail.
#[derive(Debug, Clone)]
pub enum Which {
    /// Every one.
    All,
    /// The n-th from now, the next being the first, and no other.
    Nth(u64),
    /// The n-th from now and all later ones.
    From(u64),
    /// Those that touch these bytes of the disk.
    Within(Range<u64>),
    /// So large a part of them, drawn by lot.
    Some {
        /// 0 to 1.
        part: f64,
        /// The same seed draws the same lots.
        seed: u64,
    },
}

/// The present behaviour.
#[derive(Default)]
pub struct Conduct {
    hangs: [bool; 3],
    next_hang: [u64; 3],
    shares: [Option<Share>; 3],
    faults: Vec<Fault>,
    pace: Pace,
}

/// Of each `of` operations the first `served` are served.
struct Share {
    served: u64,
    of: u64,
    seen: u64,
}

struct Fault {
    op: Op,
    which: Which,
    errno: i32,
    seen: u64,
    chance: Chance,
}

#[derive(Default)]
struct Pace {
    bandwidth: Option<u64>,
    /// When the last byte of all that is under way will have gone.
    busy_until: Option<Instant>,
    each: Duration,
    /// When each of those that work side by side is free.
    free_at: Vec<Instant>,
    flush: Duration,
}

impl Conduct {
    /// Sets whether a kind hangs.
    pub fn hang(&mut self, op: Op, hangs: bool) {
        self.hangs[op as usize] = hangs;
        if !hangs {
            self.shares[op as usize] = None;
            self.next_hang[op as usize] = 0;
        }
    }

    /// The next `count` operations of a kind hang.
    pub fn hang_next(&mut self, op: Op, count: u64) {
        self.next_hang[op as usize] = count;
    }

    /// Serves the first `served` of each `of` operations of a kind; the others hang.
    pub fn share(&mut self, op: Op, served: u64, of: u64) {
        self.shares[op as usize] = Some(Share { served, of, seen: 0 });
    }

    /// Makes operations fail.
    pub fn fail(&mut self, op: Op, which: Which, errno: Errno) {
        let seed = if let Which::Some { seed, .. } = which { seed } else { 0 };
        let errno = errno.code();
        self.faults.push(Fault { op, which, errno, seen: 0, chance: Chance::new(seed) });
    }

    /// Bytes per second, reads and writes together.
    pub fn bandwidth(&mut self, bytes: u64) {
        self.pace.bandwidth = Some(bytes);
    }

    /// Every read and write takes so long, and so many are done side by side.
    pub fn latency(&mut self, each: Duration, side_by_side: usize, now: Instant) {
        self.pace.each = each;
        self.pace.free_at = vec![now; side_by_side];
    }

    /// Every flush takes so long.
    pub fn flush_takes(&mut self, time: Duration) {
        self.pace.flush = time;
    }

    /// Forgets what was set.
    pub fn mend(&mut self) {
        *self = Conduct::default();
    }

    /// What becomes of an operation that comes now.
    pub fn fate(&mut self, op: Op, bytes: &Range<u64>, now: Instant) -> Fate {
        let faults = self.faults.iter_mut();
        // All of them count it.
        let failed: Vec<_> = faults.filter_map(|fault| fault.strikes(op, bytes)).collect();
        if self.next_hang[op as usize] > 0 {
            self.next_hang[op as usize] -= 1;
            return Fate::Hangs;
        }
        let share = self.shares[op as usize].as_mut();
        if self.hangs[op as usize] || share.is_some_and(|share| !share.serves_next()) {
            return Fate::Hangs;
        }
        match failed.first() {
            Some(errno) => Fate::Fails(*errno),
            None => self.paced(op, bytes, now),
        }
    }

    /// The same for one that has hung and was released.
    pub fn paced(&mut self, op: Op, bytes: &Range<u64>, now: Instant) -> Fate {
        Fate::Done(match op {
            Op::Flush => now + self.pace.flush,
            Op::Read | Op::Write => self.pace.end_of(bytes.end - bytes.start, now),
        })
    }
}

impl Share {
    fn serves_next(&mut self) -> bool {
        self.seen += 1;
        (self.seen - 1) % self.of < self.served
    }
}

impl Fault {
    fn strikes(&mut self, op: Op, bytes: &Range<u64>) -> Option<i32> {
        if op != self.op {
            return None;
        }
        self.seen += 1;
        let strikes = match &self.which {
            Which::All => true,
            Which::Nth(number) => self.seen == *number,
            Which::From(number) => self.seen >= *number,
            Which::Within(range) => range.start < bytes.end && bytes.start < range.end,
            Which::Some { part, .. } => (self.chance.below(1_000_000) as f64) < part * 1e6,
        };
        strikes.then_some(self.errno)
    }
}

impl Pace {
    fn end_of(&mut self, bytes: u64, now: Instant) -> Instant {
        let mut end = now;
        if let Some(bandwidth) = self.bandwidth {
            let begins = self.busy_until.unwrap_or(now).max(now);
            end = begins + Duration::from_secs_f64(bytes as f64 / bandwidth as f64);
            self.busy_until = Some(end);
        }
        if let Some(free_at) = self.free_at.iter_mut().min() {
            end = end.max((*free_at).max(now) + self.each);
            *free_at = end;
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn fates(conduct: &mut Conduct, op: Op, count: usize) -> Vec<Fate> {
        let now = Instant::now();
        (0..count).map(|_| conduct.fate(op, &(0..4096), now)).collect()
    }

    #[test]
    fn reads_and_writes_hang_apart() {
        let mut conduct = Conduct::default();
        conduct.hang(Op::Write, true);
        assert_eq!(fates(&mut conduct, Op::Write, 1), [Fate::Hangs]);
        assert_ne!(fates(&mut conduct, Op::Read, 1), [Fate::Hangs]);
    }

    #[test]
    fn the_chosen_ones_fail() {
        let strikes = |which| {
            let mut conduct = Conduct::default();
            conduct.fail(Op::Write, which, Errno::EIO);
            assert!(!matches!(fates(&mut conduct, Op::Read, 1)[0], Fate::Fails(_)));
            let fates = fates(&mut conduct, Op::Write, 4);
            fates.iter().map(|fate| matches!(fate, Fate::Fails(_))).collect::<Vec<_>>()
        };
        assert_eq!(strikes(Which::Nth(2)), [false, true, false, false]);
        assert_eq!(strikes(Which::From(3)), [false, false, true, true]);
        assert_eq!(strikes(Which::All), [true; 4]);
        assert_eq!(strikes(Which::Within(4095..9000)), [true; 4]);
        assert_eq!(strikes(Which::Within(4096..9000)), [false; 4]);
        let lots = strikes(Which::Some { part: 0.5, seed: 7 });
        assert_eq!(lots, strikes(Which::Some { part: 0.5, seed: 7 }));
    }

    #[test]
    fn the_next_two_hang() {
        let mut conduct = Conduct::default();
        conduct.hang_next(Op::Read, 2);
        let hang = fates(&mut conduct, Op::Read, 4).into_iter().map(|fate| fate == Fate::Hangs);
        assert_eq!(hang.collect::<Vec<_>>(), [true, true, false, false]);
    }

    #[test]
    fn four_of_ten_are_served() {
        let mut conduct = Conduct::default();
        conduct.share(Op::Read, 4, 10);
        let fates = fates(&mut conduct, Op::Read, 20);
        assert_eq!(fates.iter().filter(|fate| **fate != Fate::Hangs).count(), 8);
    }

    #[test]
    fn bandwidth_queues_and_latency_is_shared_out() {
        let (now, mut conduct) = (Instant::now(), Conduct::default());
        let end = |conduct: &mut Conduct, bytes: u64| match conduct.fate(Op::Read, &(0..bytes), now)
        {
            Fate::Done(at) => at - now,
            fate => panic!("{fate:?}"),
        };
        conduct.bandwidth(1_000_000);
        assert_eq!(end(&mut conduct, 10_000), 10 * MS);
        assert_eq!(end(&mut conduct, 20_000), 30 * MS);
        conduct.mend();
        conduct.latency(5 * MS, 2, now);
        let ends: Vec<_> = (0..4).map(|_| end(&mut conduct, 1)).collect();
        assert_eq!(ends, [5 * MS, 5 * MS, 10 * MS, 10 * MS]);
    }
}
