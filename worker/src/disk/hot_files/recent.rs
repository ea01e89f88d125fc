//! Paths asked for not long ago, by parts of their hashes. Pure.

use super::{WAYS, tag_of};

/// Sets of paths asked for lately, so that only a second request makes a file stay.
const RECENT_SETS: usize = 1024;

/// The latest of each set first; 0 where there is none.
#[derive(Debug)]
pub(super) struct Recent(Vec<[u16; WAYS]>);

impl Recent {
    pub(super) fn new() -> Recent {
        Recent(vec![[0; WAYS]; RECENT_SETS])
    }

    /// Notes a request, and tells whether there was one not long ago.
    pub(super) fn was_asked_for(&mut self, hash: u64) -> bool {
        let tag = tag_of(hash);
        let set = &mut self.0[hash as usize % RECENT_SETS];
        let known = set.contains(&tag);
        if !known {
            set.rotate_right(1);
            set[0] = tag;
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hash of another path of the same set.
    fn hash(n: u64) -> u64 {
        n << 49
    }

    #[test]
    fn second_request_is_known_until_eight_others_have_come() {
        let mut recent = Recent::new();
        assert!(!recent.was_asked_for(hash(1)));
        assert!(recent.was_asked_for(hash(1)));
        (2..=WAYS as u64).for_each(|n| assert!(!recent.was_asked_for(hash(n))));
        assert!(recent.was_asked_for(hash(1)));
        assert!(!recent.was_asked_for(hash(WAYS as u64 + 1)));
        assert!(!recent.was_asked_for(hash(1)), "the first to come is the first to go");
    }

    #[test]
    fn sets_do_not_disturb_each_other() {
        let mut recent = Recent::new();
        assert!(!recent.was_asked_for(hash(1)));
        (0..100).for_each(|n| assert!(!recent.was_asked_for(hash(n) | 1)));
        assert!(recent.was_asked_for(hash(1)));
    }
}
