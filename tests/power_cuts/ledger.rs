//! What was asked of a node, and what a power cut may have left of it. No disk in here.
//!
//! One client has a file to itself, so that its steps have an order. A file under its final name is
//! one whole version: the last that had to last, or the one that was on its way. A Content-Range in
//! place has no such promise while it is on its way: each byte of it is the old one or the new one,
//! and what lies between the old end and the range may be there as zeros or not at all. Once it is
//! acknowledged it is whole.

use std::sync::Arc;

/// A file's bytes.
pub type Content = Arc<Vec<u8>>;

/// One request that changes a file, and when, counted in what the disk had recorded.
pub struct Step {
    /// Before this was recorded nothing of it was on the disk.
    pub begun: usize,
    /// It was acknowledged when so much had been recorded; `None`: it is still on its way.
    pub acknowledged: Option<usize>,
    /// What the file is afterwards; `None`: it is gone.
    pub after: Option<Content>,
    /// Written into the file that is there.
    pub in_place: bool,
}

/// All that happened to one file, in order. In the beginning it is not there.
pub struct Story {
    /// The URL path.
    pub path: String,
    /// Each after the one before was acknowledged.
    pub steps: Vec<Step>,
}

/// From when on something must last.
pub enum Promise {
    /// From its acknowledgement on.
    Acknowledged,
    /// From the end of a sync on that began after it. Where each began and ended.
    Synced(Vec<(usize, usize)>),
}

/// What a cut has made of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// As the last acknowledged step left it, or the one that was on its way.
    Kept,
    /// Older than that, as nothing had promised otherwise.
    Older,
    /// Not even a whole version of it, as nothing had promised otherwise, and there was none before.
    Torn,
    /// The same, and an older version had been on the disk.
    TornOld,
}

impl Story {
    /// What the cut has made of it; the error says what should not be.
    pub fn judge(
        &self,
        cut: usize,
        promise: &Promise,
        found: Option<&[u8]>,
    ) -> Result<Fate, String> {
        let lasting = self.count(|step| promise.holds(step, cut));
        let begun = self.count(|step| step.begun < cut);
        let known = self.count(|step| step.acknowledged.is_some_and(|at| at <= cut));
        let seen = (lasting..=begun).rev().find(|count| self.is_after(*count, found));
        let half = (lasting..begun).any(|count| self.is_between(count, found));
        match seen {
            Some(count) if count >= known => Ok(Fate::Kept),
            Some(_) => Ok(Fate::Older),
            None if half => Ok(Fate::Kept),
            None if lasting == begun || matches!(promise, Promise::Acknowledged) => {
                Err(self.complaint(lasting, begun, found))
            }
            None if self.state(lasting).is_some() => Ok(Fate::TornOld),
            None => Ok(Fate::Torn),
        }
    }

    /// How many steps, from the first on, are so.
    fn count(&self, is_so: impl Fn(&Step) -> bool) -> usize {
        self.steps.iter().rposition(is_so).map_or(0, |at| at + 1)
    }

    fn state(&self, count: usize) -> Option<&Content> {
        count.checked_sub(1).and_then(|last| self.steps[last].after.as_ref())
    }

    fn is_after(&self, count: usize, found: Option<&[u8]>) -> bool {
        self.state(count).map(|content| content.as_slice()) == found
    }

    /// The step after so many ones was writing in place.
    fn is_between(&self, count: usize, found: Option<&[u8]>) -> bool {
        let (Some(found), Some(new)) = (found, self.state(count + 1)) else { return false };
        let old = self.state(count).map_or(&[][..], |old| old);
        let byte = |at: usize| old.get(at).copied().unwrap_or(0);
        self.steps[count].in_place
            && (old.len()..=new.len()).contains(&found.len())
            && found.iter().enumerate().all(|(at, b)| *b == byte(at) || *b == new[at])
    }

    fn complaint(&self, lasting: usize, begun: usize, found: Option<&[u8]>) -> String {
        let allowed = (lasting..=begun).map(|count| {
            let state = self.state(count).map(|content| content.as_slice());
            match (state, found) {
                (None, _) => "not there".to_owned(),
                (Some(state), None) => format!("{} bytes", state.len()),
                (Some(state), Some(found)) => {
                    let differs = state.iter().zip(found).position(|(a, b)| a != b);
                    format!("{} bytes, differs from {differs:?} on", state.len())
                }
            }
        });
        let allowed: Vec<_> = allowed.collect();
        let found = found.map(|bytes| (bytes.len(), &bytes[..bytes.len().min(32)]));
        format!(
            "{}: found {found:?}, may be after step {lasting} to {begun}: {allowed:?}",
            self.path
        )
    }
}

impl Promise {
    fn holds(&self, step: &Step, cut: usize) -> bool {
        let Some(acknowledged) = step.acknowledged else { return false };
        match self {
            Promise::Acknowledged => acknowledged <= cut,
            // What has the same number may have come after the sync began.
            Promise::Synced(syncs) => {
                syncs.iter().any(|(begun, ended)| acknowledged < *begun && *ended <= cut)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Promise::{Acknowledged, Synced};

    fn step(begun: usize, acknowledged: usize, after: Option<&str>) -> Step {
        let after = after.map(|text| Arc::new(text.as_bytes().to_vec()));
        Step { begun, acknowledged: Some(acknowledged), after, in_place: false }
    }

    fn story(steps: Vec<Step>) -> Story {
        Story { path: "/dev1/file".into(), steps }
    }

    #[test]
    fn the_last_acknowledged_or_the_one_on_its_way() {
        let story =
            story(vec![step(0, 5, Some("one")), step(7, 9, Some("two")), step(9, 12, None)]);
        let judge = |cut, found: Option<&str>| {
            story.judge(cut, &Acknowledged, found.map(str::as_bytes)).is_ok()
        };
        assert!(judge(4, None) && judge(4, Some("one")) && !judge(4, Some("on")));
        assert!(judge(6, Some("one")) && !judge(6, None) && !judge(6, Some("two")));
        assert!(judge(8, Some("one")) && judge(8, Some("two")) && !judge(8, Some("")));
        assert!(judge(9, Some("two")) && !judge(9, Some("one")) && !judge(9, None));
        assert!(judge(12, None) && !judge(12, Some("two")));
    }

    #[test]
    fn in_place_old_and_new_bytes_mix_until_it_is_acknowledged() {
        let in_place = Step { in_place: true, ..step(6, 8, Some("12XX\0YY")) };
        let story = story(vec![step(0, 5, Some("1234")), in_place]);
        let judge = |cut, found: &str| story.judge(cut, &Acknowledged, Some(found.as_bytes()));
        for found in ["1234", "12X4", "123X\0", "12XX\0Y\0", "12XX\0YY"] {
            assert_eq!(judge(7, found), Ok(Fate::Kept), "{found}");
        }
        for found in ["123", "1Z34", "12XX\0YYY"] {
            assert!(judge(7, found).is_err(), "{found}");
        }
        assert!(judge(8, "12XX\0Y\0").is_err());
    }

    #[test]
    fn what_no_sync_has_seen_may_be_lost() {
        let story = story(vec![step(0, 2, Some("old")), step(6, 7, Some("new"))]);
        let promise = Synced(vec![(3, 5), (7, 9), (8, 10)]);
        let judge = |cut, found: Option<&str>| {
            story.judge(cut, &promise, found.map(str::as_bytes)).map_err(drop)
        };
        assert_eq!(judge(4, None), Ok(Fate::Older));
        assert_eq!(judge(4, Some("o")), Ok(Fate::Torn));
        assert_eq!(judge(5, None), Err(()));
        assert_eq!(judge(8, Some("old")), Ok(Fate::Older));
        assert_eq!(judge(9, Some("")), Ok(Fate::TornOld));
        assert_eq!(judge(10, Some("old")), Err(()));
        assert_eq!(judge(10, Some("new")), Ok(Fate::Kept));
    }
}
