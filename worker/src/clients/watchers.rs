//! Who watches the disks' load, and when the next group of lines goes out: PROTOCOL.md section 3.

/// Those who watch. Times are on the clock that all processes share, in milliseconds.
#[derive(Debug, Default)]
pub struct Watchers {
    keys: Vec<usize>,
    next_group: Option<u64>,
}

impl Watchers {
    /// A connection watches from now on.
    pub fn add(&mut self, key: usize) {
        self.keys.push(key);
    }

    /// It is gone.
    pub fn remove(&mut self, key: usize) {
        self.keys.retain(|watcher| *watcher != key);
    }

    /// The connections that watch.
    pub fn keys(&self) -> Vec<usize> {
        self.keys.clone()
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// Whether a group goes out now: on the full second, the first one after somebody has come.
    pub fn is_due(&mut self, now: u64) -> bool {
        if self.keys.is_empty() {
            self.next_group = None;
            return false;
        }
        let due = self.next_group.is_some_and(|at| now >= at);
        if due || self.next_group.is_none() {
            self.next_group = Some(now / 1000 * 1000 + 1000);
        }
        due
    }

    /// How long it is until the next group, if anybody watches.
    pub fn until_due(&self, now: u64) -> Option<u64> {
        self.next_group.map(|at| at.saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_go_out_on_full_seconds_while_somebody_watches() {
        let mut watchers = Watchers::default();
        assert!(!watchers.is_due(5300));
        assert_eq!(watchers.until_due(5300), None);
        watchers.add(7);
        assert!(!watchers.is_due(5400), "not in the middle of a second");
        assert_eq!(watchers.until_due(5400), Some(600));
        assert!(watchers.is_due(6010));
        assert!(!watchers.is_due(6020));
        assert_eq!(watchers.until_due(6020), Some(980));
        watchers.remove(7);
        assert!(!watchers.is_due(7000));
        watchers.add(8);
        assert!(!watchers.is_due(7100), "it begins anew");
        assert!(watchers.is_due(8000));
    }

    #[test]
    fn those_who_are_gone_are_not_counted() {
        let mut watchers = Watchers::default();
        [3, 5, 9].into_iter().for_each(|key| watchers.add(key));
        watchers.remove(5);
        watchers.remove(4);
        assert_eq!((watchers.keys(), watchers.count()), (vec![3, 9], 2));
    }
}
