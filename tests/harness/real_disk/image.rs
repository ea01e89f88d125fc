//! The content of a disk, in memory: what was never written takes no room, and a copy shares its
//! pieces with the original until either changes.

use std::collections::BTreeMap;
use std::sync::Arc;

const PIECE: usize = 64 * 1024;

/// A disk's bytes; what is absent is zero.
#[derive(Clone)]
pub struct Image {
    size: u64,
    pieces: BTreeMap<u64, Arc<[u8; PIECE]>>,
}

impl Image {
    /// An empty one.
    pub fn new(size: u64) -> Image {
        Image { size, pieces: BTreeMap::new() }
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes from there on, fewer at its end.
    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let length = length.min(self.size.saturating_sub(offset) as usize);
        let mut bytes = vec![0; length];
        for_each_piece(offset, length, |number, inside, done, part| {
            if let Some(piece) = self.pieces.get(&number) {
                bytes[done..done + part].copy_from_slice(&piece[inside..inside + part]);
            }
        });
        bytes
    }

    /// Puts bytes there.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        for_each_piece(offset, bytes.len(), |number, inside, done, part| {
            let bytes = &bytes[done..done + part];
            if !self.pieces.contains_key(&number) && bytes.iter().all(|byte| *byte == 0) {
                return;
            }
            let piece = self.pieces.entry(number).or_insert_with(|| Arc::new([0; PIECE]));
            Arc::make_mut(piece)[inside..inside + part].copy_from_slice(bytes);
        });
    }
}

/// Calls with each piece's number, the place inside it, how much came before, how much this is.
fn for_each_piece(offset: u64, length: usize, mut call: impl FnMut(u64, usize, usize, usize)) {
    let mut done = 0;
    while done < length {
        let at = offset + done as u64;
        let inside = (at % PIECE as u64) as usize;
        let part = (PIECE - inside).min(length - done);
        call(at / PIECE as u64, inside, done, part);
        done += part;
    }
}

#[test]
fn bytes_across_pieces_come_back_and_a_copy_keeps_its_own() {
    let mut image = Image::new(3 * PIECE as u64);
    let bytes: Vec<u8> = (0..PIECE + 100).map(|at| (at % 251 + 1) as u8).collect();
    image.write(PIECE as u64 - 50, &bytes);
    let before = image.clone();
    image.write(PIECE as u64, &[0; 10]);
    assert!(before.read(PIECE as u64 - 50, bytes.len()) == bytes);
    assert_eq!(image.read(PIECE as u64, 11), [&[0; 10], &bytes[60..61]].concat());
    assert_eq!(image.read(3 * PIECE as u64 - 4, 10), [0; 4], "it ends");
}
