//! The order of fsck's digests: PROTOCOL.md section 3.

use std::collections::{BTreeMap, VecDeque};

use crate::ids::DeviceKey;

/// Digests that fsck asked for: of each device one at a time, in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct FsckQueues(BTreeMap<DeviceKey, Queue>);

#[derive(Debug)]
struct Queue {
    running: usize,
    waiting: VecDeque<usize>,
}

impl FsckQueues {
    /// A connection asks for its turn on a device. False: others are before it; it is told when
    /// it is its turn.
    pub(crate) fn enter(&mut self, device: DeviceKey, key: usize) -> bool {
        if let Some(queue) = self.0.get_mut(&device) {
            queue.waiting.push_back(key);
            return false;
        }
        self.0.insert(device, Queue { running: key, waiting: VecDeque::new() });
        true
    }

    /// A connection is done, or gone, wherever it stood. Returns those whose turn it is now.
    pub(crate) fn leave(&mut self, key: usize) -> Vec<usize> {
        let mut next = Vec::new();
        self.0.retain(|_, queue| {
            queue.waiting.retain(|waiting| *waiting != key);
            if queue.running != key {
                return true;
            }
            match queue.waiting.pop_front() {
                Some(waiting) => queue.running = waiting,
                None => return false,
            }
            next.push(queue.running);
            true
        });
        next
    }

    /// True when the turn on a device is this connection's.
    pub(crate) fn is_turn_of(&self, device: DeviceKey, key: usize) -> bool {
        self.0.get(&device).is_some_and(|queue| queue.running == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SiteId;

    const DEV1: DeviceKey = DeviceKey { site: SiteId(0), devid: 1 };
    const DEV2: DeviceKey = DeviceKey { site: SiteId(0), devid: 2 };

    #[test]
    fn one_turn_at_a_time_in_order() {
        let mut queues = FsckQueues::default();
        assert!(queues.enter(DEV1, 1));
        for key in [2, 3, 4] {
            assert!(!queues.enter(DEV1, key));
        }
        assert!(queues.leave(3).is_empty());
        assert_eq!(queues.leave(1), [2]);
        assert!(queues.leave(9).is_empty());
        assert!(queues.is_turn_of(DEV1, 2) && !queues.is_turn_of(DEV1, 4));
        assert_eq!(queues.leave(2), [4]);
        assert!(queues.leave(4).is_empty());
        assert!(queues.enter(DEV1, 5), "nobody is left");
    }

    #[test]
    fn devices_do_not_wait_for_each_other() {
        let mut queues = FsckQueues::default();
        assert!(queues.enter(DEV1, 1) && queues.enter(DEV2, 2));
        assert!(!queues.is_turn_of(DEV1, 2));
        assert!(!queues.enter(DEV2, 3));
        assert!(queues.leave(1).is_empty());
        assert_eq!(queues.leave(2), [3]);
    }
}
