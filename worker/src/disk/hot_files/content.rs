//! The content of a small file, remembered while the file is kept open. Pure.

use std::sync::OnceLock;

use super::Extent;

/// Content up to this size is remembered, 16 MiB in all: it is neither looked for in the page cache
/// nor read from there each time.
const REMEMBERED: usize = 8 * 1024;
/// A file that has not changed for so long cannot change again without another time.
const SETTLED_SECONDS: i64 = 2;

/// All of it or nothing.
#[derive(Debug, Default)]
pub(super) struct Content(OnceLock<Box<[u8]>>);

impl Content {
    /// A part, if there is such a part of something remembered.
    pub(super) fn part(&self, part: Extent) -> Option<&[u8]> {
        let end = part.offset.checked_add(part.len)?;
        self.0.get()?.get(part.offset as usize..end as usize)
    }

    /// Remembers what was just read of a file of `size` bytes that changed last at `changed`, if
    /// that is all of it and is small. The times tell of each later change when they are older than
    /// the coarsest clock of a filesystem.
    pub(super) fn keep(&self, content: &[u8], size: u64, changed: i64, now: i64) {
        let is_old = changed + SETTLED_SECONDS < now;
        if is_old && content.len() <= REMEMBERED && content.len() as u64 == size {
            self.0.get_or_init(|| content.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1000;
    const OLD: i64 = NOW - SETTLED_SECONDS - 1;

    fn kept(content: &[u8], size: u64, changed: i64) -> Content {
        let kept = Content::default();
        kept.keep(content, size, changed, NOW);
        kept
    }

    fn all(content: &Content, len: u64) -> Option<&[u8]> {
        content.part(Extent { offset: 0, len })
    }

    #[test]
    fn only_whole_small_files_that_have_settled_are_remembered() {
        assert_eq!(all(&kept(b"abc", 3, OLD), 3), Some(&b"abc"[..]));
        assert_eq!(all(&kept(b"abc", 3, OLD + 1), 3), None, "it may change in the same tick");
        assert_eq!(all(&kept(b"abc", 3, NOW + 9), 3), None, "its clock is another one");
        assert_eq!(all(&kept(b"abc", 4, OLD), 3), None, "a part");
        let largest = vec![7; REMEMBERED];
        assert!(all(&kept(&largest, REMEMBERED as u64, OLD), 1).is_some());
        let larger = vec![7; REMEMBERED + 1];
        assert!(all(&kept(&larger, larger.len() as u64, OLD), 1).is_none());
    }

    #[test]
    fn parts_end_where_the_file_does() {
        let content = kept(b"abc", 3, OLD);
        let part = |offset, len| content.part(Extent { offset, len });
        assert_eq!(part(1, 2), Some(&b"bc"[..]));
        assert_eq!(part(3, 0), Some(&b""[..]));
        assert_eq!(part(1, 3), None);
        assert_eq!(part(u64::MAX, 1), None);
        assert_eq!(part(u64::MAX - 1, 1), None);
    }

    #[test]
    fn first_content_stays() {
        let content = kept(b"abc", 3, OLD);
        content.keep(b"xyz", 3, OLD, NOW);
        assert_eq!(all(&content, 3), Some(&b"abc"[..]));
    }
}
