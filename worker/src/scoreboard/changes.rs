//! Which files of a device have lost a name or got another content, as far as others must know:
//! who keeps a file open may trust what it knew of it while its mark stands.
//!
//! There is no room to count for each file, so files share counters by their names. The name
//! alone decides, for a file may be asked for through several spellings of its folder.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

use zerocopy::FromZeros;

/// Counters of a device: a change disturbs one file in so many that did not change.
const COUNTERS: usize = 64;

/// The counters of one device.
#[derive(Debug, FromZeros)]
#[repr(C)]
pub(super) struct Changes([Counter; COUNTERS]);

/// Changes begun in the upper half, changes done in the lower one.
#[derive(Debug, Default, FromZeros)]
#[repr(transparent)]
struct Counter(AtomicU64);

/// A file is changing; ends when dropped.
#[derive(Debug)]
pub struct Change(&'static Counter);

/// What the counter of a file said.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    counter: &'static Counter,
    seen: u64,
}

impl Default for Changes {
    fn default() -> Self {
        Changes(std::array::from_fn(|_| Counter::default()))
    }
}

impl Changes {
    fn of(&self, name: u64) -> &Counter {
        &self.0[name as usize % COUNTERS]
    }

    pub(super) fn begin(&'static self, name: u64) -> Change {
        let counter = self.of(name);
        let _ = counter.0.fetch_update(AcqRel, Acquire, |word| {
            let (begun, done) = halves(word);
            Some(joined(begun.wrapping_add(1), done))
        });
        Change(counter)
    }

    pub(super) fn mark(&'static self, name: u64) -> Mark {
        let counter = self.of(name);
        Mark { counter, seen: counter.0.load(Acquire) }
    }

    /// What killed processes had begun is over. It may have changed what it was about. What a
    /// living one has begun (a worker that drains, one that a dead disk had held) counts as over
    /// too, until it ends.
    pub(super) fn settle(&self) {
        for counter in &self.0 {
            let _ = counter.0.fetch_update(AcqRel, Acquire, |word| {
                let (begun, done) = halves(word);
                (begun != done).then(|| both(begun.wrapping_add(1)))
            });
        }
    }
}

impl Mark {
    /// True when no file with this counter has changed since, nor was changing when it was taken.
    pub fn stands(&self) -> bool {
        let (begun, done) = halves(self.seen);
        begun == done && self.counter.0.load(Acquire) == self.seen
    }
}

impl Drop for Change {
    /// No mark outlives the end of a change, not even one taken after `Changes::settle` has
    /// counted the change as done: the word is always another one afterwards.
    fn drop(&mut self) {
        let _ = self.0.0.fetch_update(AcqRel, Acquire, |word| {
            let (begun, done) = halves(word);
            Some(match begun == done {
                true => both(begun.wrapping_add(1)),
                false => joined(begun, done.wrapping_add(1)),
            })
        });
    }
}

fn halves(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

fn joined(begun: u32, done: u32) -> u64 {
    u64::from(begun) << 32 | u64::from(done)
}

fn both(count: u32) -> u64 {
    joined(count, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::path::DevPath;
    use std::sync::atomic::Ordering::Relaxed;

    fn changes() -> &'static Changes {
        Box::leak(Box::default())
    }

    /// What the counters go by.
    fn path(text: &str) -> u64 {
        DevPath::parse(text.as_bytes()).unwrap().name_hash()
    }

    #[test]
    fn mark_falls_with_the_beginning_of_a_change_and_none_stands_before_its_end() {
        let changes = changes();
        let file = path("/dev1/0/000/000/0000000001.fid");
        let before = changes.mark(file);
        assert!(before.stands());
        let change = changes.begin(file);
        let meanwhile = changes.mark(file);
        assert!(!before.stands() && !meanwhile.stands());
        drop(change);
        assert!(!before.stands() && !meanwhile.stands());
        assert!(changes.mark(file).stands());
    }

    #[test]
    fn other_spellings_of_a_name_share_its_counter_and_other_names_mostly_do_not() {
        let changes = changes();
        let spelled = ["/dev1/a/file", "/dev1//a/file", "/dev1/./a/file", "/dev1/link/file"];
        let marks = spelled.map(|text| changes.mark(path(text)));
        let others: Vec<Mark> = (0..1000)
            .map(|n| changes.mark(path(&format!("/dev1/0/000/000/{n:010}.fid"))))
            .collect();
        drop(changes.begin(path(spelled[0])));
        assert!(marks.iter().all(|mark| !mark.stands()));
        let disturbed = others.iter().filter(|mark| !mark.stands()).count();
        assert!(disturbed < 3 * 1000 / COUNTERS, "{disturbed}");
    }

    #[test]
    fn change_cut_off_by_a_kill_is_settled_by_the_next_owner() {
        let changes = changes();
        let file = path("/dev1/file");
        let mark = changes.mark(file);
        let cut_off = changes.begin(file);
        changes.settle();
        assert!(!mark.stands());
        assert!(changes.mark(file).stands());
        // No longer than that process lives.
        std::mem::forget(cut_off);
        changes.settle();
        assert!(changes.mark(file).stands());
    }

    #[test]
    fn change_that_was_settled_while_it_went_on_still_ends_every_mark() {
        let changes = changes();
        let file = path("/dev1/file");
        let survivor = changes.begin(file);
        changes.settle();
        let early = changes.mark(file);
        let other = changes.begin(file);
        drop(survivor);
        let late = changes.mark(file);
        drop(other);
        assert!(!early.stands() && !late.stands());
        assert!(changes.mark(file).stands());
    }

    #[test]
    fn mark_taken_after_settling_ends_with_the_change_that_went_on() {
        let changes = changes();
        let file = path("/dev1/file");
        let survivor = changes.begin(file);
        changes.settle();
        let mark = changes.mark(file);
        drop(survivor);
        assert!(!mark.stands());
    }

    #[test]
    fn counters_wrap_around_without_touching_each_other() {
        let changes = changes();
        let file = path("/dev1/file");
        changes.of(file).0.store(joined(u32::MAX, u32::MAX), Relaxed);
        let before = changes.mark(file);
        drop(changes.begin(file));
        assert!(!before.stands());
        assert!(changes.mark(file).stands());
        assert_eq!(changes.of(file).0.load(Relaxed), 0);
    }
}
