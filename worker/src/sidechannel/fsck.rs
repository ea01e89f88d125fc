//! The order of fsck's digests: PROTOCOL.md section 3.

use std::collections::VecDeque;

/// Digests that fsck asked for, of one device: one at a time, in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct FsckQueue {
    running: Option<usize>,
    waiting: VecDeque<usize>,
}

impl FsckQueue {
    /// Asks for the turn. False: others are before; the connection is told when it is its turn.
    pub(crate) fn enter(&mut self, key: usize) -> bool {
        match self.running {
            None => {
                self.running = Some(key);
                true
            }
            Some(_) => {
                self.waiting.push_back(key);
                false
            }
        }
    }

    /// A connection is done, or gone. Returns the one whose turn it is now.
    pub(crate) fn leave(&mut self, key: usize) -> Option<usize> {
        if self.running == Some(key) {
            self.running = self.waiting.pop_front();
            return self.running;
        }
        self.waiting.retain(|waiting| *waiting != key);
        None
    }

    /// True when the turn is this connection's.
    pub(crate) fn is_turn_of(&self, key: usize) -> bool {
        self.running == Some(key)
    }

    /// True when nobody runs or waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fsck_queue_gives_one_turn_at_a_time_in_order() {
        let mut queue = FsckQueue::default();
        assert!(queue.enter(1));
        assert!(!queue.enter(2));
        assert!(!queue.enter(3));
        assert!(!queue.enter(4));
        assert_eq!(queue.leave(3), None);
        assert_eq!(queue.leave(1), Some(2));
        assert_eq!(queue.leave(9), None);
        assert_eq!(queue.leave(2), Some(4));
        assert_eq!(queue.leave(4), None);
        assert!(queue.is_empty());
    }
}
