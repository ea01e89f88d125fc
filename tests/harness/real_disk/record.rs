//! What reached a disk, in order, and what a power cut would have left of it.
//!
//! A write counts from the moment at which the disk says that it is done. It is safe once a flush
//! that began later has ended; until then a power cut may lose it, whatever came after it.

use std::sync::Arc;

use super::Image;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Bytes were taken.
    Write {
        /// Where.
        offset: u64,
        /// What.
        bytes: Arc<[u8]>,
    },
    /// A flush was asked for.
    FlushBegins(u64),
    /// It was answered.
    FlushEnds(u64),
}

/// A disk as it was, and what has happened since.
#[derive(Clone)]
pub struct Recording {
    start: Image,
    events: Vec<Event>,
}

impl Recording {
    /// Begins with a disk's content, on which everything is safe.
    pub fn new(start: Image) -> Recording {
        Recording { start, events: Vec::new() }
    }

    /// Adds what has happened now.
    pub fn add(&mut self, event: Event) {
        self.events.push(event);
    }

    /// All that has happened.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The moments right before and right after a flush ended, and the end.
    pub fn boundaries(&self) -> Vec<usize> {
        let ends = self.events.iter().enumerate();
        let ends = ends.filter(|(_, event)| matches!(event, Event::FlushEnds(_)));
        let mut all: Vec<_> = ends.flat_map(|(at, _)| [at, at + 1]).collect();
        all.push(self.events.len());
        all.dedup();
        all
    }

    /// The writes that a power cut after the first `cut` events may lose, by their places.
    pub fn loose(&self, cut: usize) -> Vec<usize> {
        let safe = self.safe_before(cut);
        let writes = self.events[..cut].iter().enumerate().skip(safe);
        writes.filter(|(_, event)| matches!(event, Event::Write { .. })).map(|(at, _)| at).collect()
    }

    /// The disk after such a power cut, with those of the loose writes that `keep` has.
    pub fn image(&self, cut: usize, mut keep: impl FnMut(usize) -> bool) -> Image {
        let safe = self.safe_before(cut);
        let mut image = self.start.clone();
        for (at, event) in self.events[..cut].iter().enumerate() {
            if let Event::Write { offset, bytes } = event
                && (at < safe || keep(at))
            {
                image.write(*offset, bytes);
            }
        }
        image
    }

    /// Events before this place are safe after such a cut: the latest beginning of a flush that has
    /// ended.
    pub fn safe_before(&self, cut: usize) -> usize {
        let ended = |number: &u64| self.events[..cut].contains(&Event::FlushEnds(*number));
        let mut begun = self.events[..cut].iter().enumerate().rev();
        let safe = begun.find(|(_, event)| match event {
            Event::FlushBegins(number) => ended(number),
            _ => false,
        });
        safe.map_or(0, |(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;

    fn write(offset: u64, byte: u8) -> Event {
        Event::Write { offset, bytes: vec![byte; 4].into() }
    }

    fn recording(events: &[Event]) -> Recording {
        let mut start = Image::new(SIZE);
        start.write(0, &[9; 16]);
        let mut recording = Recording::new(start);
        events.iter().for_each(|event| recording.add(event.clone()));
        recording
    }

    #[test]
    fn a_write_is_loose_until_a_flush_that_began_after_it_has_ended() {
        let r = recording(&[
            write(0, 1),
            Event::FlushBegins(1),
            write(4, 2),
            Event::FlushEnds(1),
            write(8, 3),
        ]);
        assert_eq!(r.loose(1), [0]);
        assert_eq!(r.loose(3), [0, 2], "asked for is not done");
        assert_eq!(r.loose(4), [2], "it came after the flush began");
        assert_eq!(r.loose(5), [2, 4]);
    }

    #[test]
    fn a_cut_keeps_what_is_safe_and_the_chosen_rest() {
        let r = recording(&[
            write(0, 1),
            Event::FlushBegins(1),
            Event::FlushEnds(1),
            write(0, 2),
            write(4, 3),
            write(8, 4),
        ]);
        let first = |image: Image| [0, 4, 8, 12].map(|at| image.read(at, 1)[0]);
        assert_eq!(first(r.image(0, |_| true)), [9, 9, 9, 9], "nothing had happened");
        assert_eq!(first(r.image(6, |_| true)), [2, 3, 4, 9]);
        assert_eq!(first(r.image(6, |_| false)), [1, 9, 9, 9]);
        assert_eq!(first(r.image(6, |at| at == 4)), [1, 3, 9, 9], "out of order");
        assert_eq!(first(r.image(4, |_| true)), [2, 9, 9, 9], "not the later ones");
    }

    #[test]
    fn an_older_flush_that_ends_late_does_not_take_back_a_younger_one() {
        let r = recording(&[
            Event::FlushBegins(1),
            write(0, 1),
            Event::FlushBegins(2),
            Event::FlushEnds(2),
            Event::FlushEnds(1),
        ]);
        assert!(r.loose(4).is_empty());
        assert!(r.loose(5).is_empty());
        assert_eq!(r.boundaries(), [3, 4, 5]);
    }
}
