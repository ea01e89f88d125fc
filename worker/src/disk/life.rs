//! Signs of life of the disks themselves, from /proc/diskstats.

use std::collections::HashMap;
use std::time::Duration;

use crate::disk::busy;
use crate::disk::mounts::Number;

/// Looks further apart than this do not belong together.
const LOOK_PAUSE_MS: u64 = 1500;
/// So many looks in a row make a sign of life.
const MOVES: u32 = 3;

/// What the disks have completed. A disk lives while its counters
/// move at each look: a few writes of a journal, now and then, are no proof.
#[derive(Debug, Default)]
pub struct Lives {
    /// The counters of this round, once somebody has asked.
    round: Option<HashMap<Number, u64>>,
    disks: HashMap<Number, Life>,
}

/// Of one disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Life {
    completed: u64,
    /// Looks in a row at which it had moved.
    moves: u32,
    looked: u64,
    moved: u64,
    alive: u64,
}

impl Lives {
    /// From now on the counters are read anew, when somebody asks.
    pub fn begin_round(&mut self) {
        self.round = None;
    }

    /// What is known of a disk's life; `None`: it has no counters.
    pub fn of(&mut self, disk: Number, now: u64) -> Option<Life> {
        let completed = *self.round.get_or_insert_with(busy::completed).get(&disk)?;
        let life = self.disks.entry(disk).or_default();
        life.look(completed, now);
        Some(*life)
    }
}

impl Life {
    fn look(&mut self, completed: u64, now: u64) {
        // Looks are taken while somebody waits only: what was seen long ago says nothing.
        if now.saturating_sub(self.looked) > LOOK_PAUSE_MS || self.looked == 0 {
            *self = Life { completed, moves: 0, looked: now.max(1), moved: 0, alive: now };
            return;
        }
        if now > self.looked {
            self.moves = if completed == self.completed { 0 } else { self.moves + 1 };
            (self.completed, self.looked) = (completed, now);
        }
        if self.moves > 0 {
            self.moved = now;
        }
        if self.moves >= MOVES {
            self.alive = now;
        }
    }

    /// Since it was last seen to live.
    pub fn since_alive(&self) -> Duration {
        Duration::from_millis(self.looked.saturating_sub(self.alive))
    }

    /// Since its counters moved at all.
    pub fn since_move(&self) -> Duration {
        Duration::from_millis(self.looked.saturating_sub(self.moved))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_lives_while_its_counters_move_at_each_look() {
        let mut life = Life::default();
        let mut look = |completed, now| {
            life.look(completed, now);
            [life.since_alive(), life.since_move()].map(|age| age.as_millis())
        };
        assert_eq!(look(5, 1000), [0, 1000], "no move was seen yet");
        assert_eq!(look(6, 1250), [250, 0], "once may be a journal");
        assert_eq!(look(6, 1500), [500, 250]);
        look(7, 1750);
        look(8, 2000);
        assert_eq!(look(9, 2250), [0, 0]);
        assert_eq!(look(9, 2500), [250, 250]);
        assert_eq!(look(9, 9000), [0, 9000], "nobody has looked for long");
    }
}
