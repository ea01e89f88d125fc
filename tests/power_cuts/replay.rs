//! A recorded disk, as a power cut at any place would leave it.

use crate::harness::real_disk::{Event, Image, Recording};
use crate::load::Chance;

/// What a disk writes as a whole or not at all.
const SECTOR: usize = 4096;

/// Goes through a recording once, from one cut to the next.
pub struct Replay<'a> {
    recording: &'a Recording,
    /// With everything before `done`.
    image: Image,
    done: usize,
}

/// How much of what was loose is lost.
#[derive(Debug, Default, Clone, Copy)]
pub struct Lost {
    /// Writes that a flush had not made safe.
    pub loose: usize,
    /// Of those, the ones that are not there, or in part.
    pub lost: usize,
}

impl<'a> Replay<'a> {
    /// Stands at the beginning.
    pub fn new(recording: &'a Recording) -> Replay<'a> {
        Replay { recording, image: recording.image(0, |_| true), done: 0 }
    }

    /// The disk after a cut, which is no earlier than the one before. Of what was loose it has a
    /// part that is drawn by lot: all, none, or some, in whole writes or in sectors.
    pub fn cut(&mut self, cut: usize, chance: &mut Chance) -> (Image, Lost) {
        let (events, safe) = (self.recording.events(), self.recording.safe_before(cut));
        for event in &events[self.done..safe] {
            if let Event::Write { offset, bytes } = event {
                self.image.write(*offset, bytes);
            }
        }
        self.done = self.done.max(safe);
        let kept_of_100 = [0, 20, 50, 80, 95, 100][chance.below(6)];
        let in_sectors = chance.below(2) == 0;
        let (mut image, mut lost) = (self.image.clone(), Lost::default());
        for event in &events[self.done..cut] {
            let Event::Write { offset, bytes } = event else { continue };
            let piece = if in_sectors { SECTOR } else { bytes.len().max(1) };
            let mut whole = true;
            for (number, part) in bytes.chunks(piece).enumerate() {
                match chance.below(100) < kept_of_100 {
                    true => image.write(offset + (number * piece) as u64, part),
                    false => whole = false,
                }
            }
            lost.loose += 1;
            lost.lost += usize::from(!whole);
        }
        (image, lost)
    }
}
