//! What is remembered of the connections that disk threads have had.

use std::collections::HashSet;

/// Loans since the last tick, and whether one cannot wait.
#[derive(Debug, Default)]
pub(super) struct Loans {
    /// Connections that have needed a disk thread of this worker since the last tick.
    rooted: HashSet<usize>,
    /// Something is lent that is answered soon, whatever its disk does.
    urgent: bool,
}

impl Loans {
    /// A connection needs a disk thread of this worker: it is at home here.
    pub(super) fn note_rooted(&mut self, key: usize) {
        self.rooted.insert(key);
    }

    /// Those that are at home here, for the last time.
    pub(super) fn take_rooted(&mut self) -> HashSet<usize> {
        std::mem::take(&mut self.rooted)
    }

    /// Whether something lent is to be answered soon.
    pub(super) fn are_urgent(&self) -> bool {
        self.urgent
    }

    /// Something is, or nothing is any more.
    pub(super) fn set_urgent(&mut self, urgent: bool) {
        self.urgent = urgent;
    }
}
