//! When docroots are listed, and what the master has been told of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::SiteId;

/// How often docroots are listed, whether or not something is known to have changed.
const LIST_MS: u64 = 2000;

/// The docroots as they were listed last. Times are the loop's clock, in milliseconds.
#[derive(Debug, Default)]
pub struct Listings {
    listed: Option<u64>,
    told: BTreeMap<SiteId, BTreeSet<u32>>,
}

impl Listings {
    /// Whether it is time to list them, which counts as done.
    pub fn are_due(&mut self, now: u64) -> bool {
        let due = self.listed.is_none_or(|at| now.saturating_sub(at) >= LIST_MS);
        if due {
            self.listed = Some(now);
        }
        due
    }

    /// Something may have changed since: they are due at once.
    pub fn are_outdated(&mut self) {
        self.listed = None;
    }

    /// Whether the master does not know of these devices of a docroot yet.
    pub fn is_news(&self, site: SiteId, devids: &BTreeSet<u32>) -> bool {
        self.told.get(&site) != Some(devids)
    }

    /// The master has been told.
    pub fn note_told(&mut self, site: SiteId, devids: BTreeSet<u32>) {
        self.told.insert(site, devids);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_two_seconds_and_when_something_has_changed() {
        let mut listings = Listings::default();
        assert!(listings.are_due(0), "at first");
        assert!(!listings.are_due(1999));
        assert!(listings.are_due(2000));
        listings.are_outdated();
        assert!(listings.are_due(2001));
        assert!(!listings.are_due(2002));
    }

    #[test]
    fn what_was_told_is_no_news() {
        let mut listings = Listings::default();
        let (site, devids) = (SiteId(0), BTreeSet::from([1, 2]));
        assert!(listings.is_news(site, &devids));
        assert!(listings.is_news(site, &BTreeSet::new()), "that there are none is news too");
        listings.note_told(site, devids.clone());
        assert!(!listings.is_news(site, &devids));
        assert!(listings.is_news(SiteId(1), &devids));
        assert!(listings.is_news(site, &BTreeSet::from([1])));
    }
}
