//! Who has too many connections, and who should have them: loads in, decisions out.
//!
//! Connections gather with as many workers as there are processors to run them. Each further one
//! costs more changes between processes, for which there is nothing to gain.

use std::cmp::Reverse;
use std::num::NonZeroUsize;

use crate::ids::WorkerId;

/// A worker gives away connections when it has so many more than its share. Fewer are as well off
/// together: what is spread thin costs a change between processes for each request.
const SURPLUS: u32 = 16;
/// Idle connections given away at a time.
const MOST_GIVEN: u32 = 64;

/// A worker, and how many connections it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Which worker.
    pub worker: WorkerId,
    /// Its connections, and those on their way to it.
    pub connections: u32,
}

/// Connections that another worker should have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Surplus {
    /// Who should have them.
    pub heir: WorkerId,
    /// How many.
    pub count: u32,
}

/// How connections are spread over workers.
#[derive(Debug)]
pub struct Balance {
    /// Workers that connections are spread over: one for each processor, and not all to one, so
    /// that a crash never closes all of them.
    lanes: u32,
    /// More workers are used when these would have more connections than this: half of what one
    /// may hold, or has descriptors for.
    comfortable: u32,
}

impl Balance {
    /// For workers that may have so many connections each.
    pub fn new(most: u64) -> Balance {
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Balance {
            lanes: processors.max(2) as u32,
            comfortable: (most / 2).clamp(1, u32::MAX.into()) as u32,
        }
    }

    /// Whether a worker with so many connections may have too many, whatever the others have.
    pub fn may_be_crowded(connections: u32) -> bool {
        connections > SURPLUS
    }

    /// What a worker has beyond its share of all connections, and who has room for it. `sick`:
    /// workers with dead disks, which may take connections along when they end.
    pub fn surplus(
        &self,
        own: Load,
        others: &[Load],
        sick: impl FnOnce() -> Vec<WorkerId>,
    ) -> Option<Surplus> {
        let (lanes, all) = self.lanes(own, others);
        let share = all / lanes;
        if !Self::may_be_crowded(own.connections) || own.connections <= share + SURPLUS {
            return None;
        }
        let sick = sick();
        let has_room = |other: &&Load| other.connections < share && !sick.contains(&other.worker);
        // The fullest of those with room, so that connections gather.
        let heir =
            others.iter().filter(has_room).max_by_key(|other| (other.connections, other.worker))?;
        let count = (own.connections - share).min(share - heir.connections).min(MOST_GIVEN);
        Some(Surplus { heir: heir.worker, count })
    }

    /// All that a worker has, where enough others have more: requests for the devices of one
    /// worker bring connections to it, and nothing else would ever take them away again.
    pub fn strays(&self, own: Load, others: &[Load], sick: &[WorkerId]) -> Option<Surplus> {
        let rank = |load: &Load| (load.connections, Reverse(load.worker));
        let (lanes, all) = self.lanes(own, others);
        let mut fuller: Vec<Load> = others.to_vec();
        fuller.retain(|other| !sick.contains(&other.worker));
        if !sick.contains(&own.worker) {
            fuller.retain(|other| rank(other) > rank(&own));
        }
        fuller.sort_unstable_by_key(|load| Reverse(rank(load)));
        let heir = fuller.get(lanes as usize - 1)?;
        let room = all.div_ceil(lanes).saturating_sub(heir.connections);
        (room > 0).then(|| Surplus { heir: heir.worker, count: room.min(MOST_GIVEN) })
    }

    /// How many workers all connections should be with, and how many these are.
    fn lanes(&self, own: Load, others: &[Load]) -> (u32, u32) {
        let all = own.connections + others.iter().map(|other| other.connections).sum::<u32>();
        let needed = all / self.comfortable + 1;
        (self.lanes.max(needed).min(others.len() as u32 + 1), all)
    }
}

/// The one with the fewest connections.
pub fn least_loaded(others: &[Load]) -> Option<Load> {
    others.iter().min_by_key(|other| (other.connections, other.worker)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_LANES: Balance = Balance { lanes: 2, comfortable: 1000 };

    fn load(worker: u16, connections: u32) -> Load {
        Load { worker: WorkerId(worker), connections }
    }

    /// Worker 0 with so many connections, and workers 1 to 3.
    fn four(own: u32, others: [u32; 3]) -> (Load, Vec<Load>) {
        (load(0, own), (1..).zip(others).map(|(id, count)| load(id, count)).collect())
    }

    fn strays(own: u32, others: [u32; 3], sick: &[u16]) -> Option<(u16, u32)> {
        let (own, others) = four(own, others);
        let sick: Vec<_> = sick.iter().map(|id| WorkerId(*id)).collect();
        TWO_LANES.strays(own, &others, &sick).map(|Surplus { heir, count }| (heir.0, count))
    }

    fn surplus(own: u32, others: [u32; 3], sick: &[u16]) -> Option<(u16, u32)> {
        let (own, others) = four(own, others);
        let sick = || sick.iter().map(|id| WorkerId(*id)).collect();
        TWO_LANES.surplus(own, &others, sick).map(|Surplus { heir, count }| (heir.0, count))
    }

    #[test]
    fn few_connections_go_where_most_are() {
        assert_eq!(strays(2, [5, 0, 4], &[]), Some((3, 2)));
        assert_eq!(strays(1, [9, 0, 3], &[]), Some((3, 4)), "up to its share");
        assert_eq!(strays(4, [5, 0, 3], &[]), None, "one of the two");
        assert_eq!(strays(1, [1, 0, 1], &[]), None, "ties are decided by the number");
        assert_eq!(strays(1, [2, 3, 0], &[]), Some((1, 1)));
    }

    #[test]
    fn none_gather_beside_a_dead_disk() {
        assert_eq!(strays(2, [5, 0, 4], &[3]), None);
        assert_eq!(strays(6, [5, 0, 4], &[0]), Some((3, 4)), "its own");
        assert_eq!(strays(9, [0, 0, 0], &[0]), Some((2, 5)), "its own, and nobody has any");
        assert_eq!(surplus(60, [20, 0, 0], &[1]), Some((3, 20)));
    }

    #[test]
    fn what_is_beyond_the_share_goes_to_the_fullest_with_room() {
        assert_eq!(surplus(60, [20, 0, 0], &[]), Some((1, 20)));
        assert_eq!(surplus(16, [0, 0, 0], &[]), None, "as well off together");
        assert_eq!(surplus(17, [0, 0, 0], &[]), None, "not so many more than its share");
        assert_eq!(surplus(900, [0, 0, 0], &[]), Some((3, MOST_GIVEN)), "not all at once");
        assert_eq!(surplus(60, [0, 0, 0], &[1, 2, 3]), None, "nobody is well");
    }

    #[test]
    fn more_than_is_comfortable_goes_to_more_workers() {
        let crowded = Balance { lanes: 2, comfortable: 10 };
        let (own, others) = four(20, [20, 0, 0]);
        assert_eq!(crowded.strays(own, &others, &[]), None);
        assert_eq!(crowded.lanes(own, &others), (4, 40), "never more than there are");
        let roomy = Balance::new(2);
        assert_eq!(roomy.comfortable, 1);
        assert_eq!(Balance::new(0).comfortable, 1, "no division by zero");
    }

    #[test]
    fn alone_there_is_nobody_to_give_to() {
        assert_eq!(TWO_LANES.surplus(load(0, 500), &[], Vec::new), None);
        assert_eq!(TWO_LANES.strays(load(0, 1), &[], &[]), None);
        assert_eq!(least_loaded(&[]), None);
        assert_eq!(least_loaded(&[load(2, 5), load(1, 5), load(3, 9)]), Some(load(1, 5)));
    }
}
