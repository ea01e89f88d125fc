//! The MD5 that the content of a PUT must have: from its head, or from behind its body.

use std::io;

use crate::disk::md5::Md5;
use crate::http::head::ContentMd5;

/// What the content must match, and how far it has been digested.
#[derive(Debug)]
pub(super) struct Checksum {
    wanted: ContentMd5,
    /// Of what is known to be checked from the beginning.
    running: Option<Md5>,
}

impl Checksum {
    /// With what the head says.
    pub(super) fn new(wanted: ContentMd5) -> Checksum {
        let running = matches!(wanted, ContentMd5::Digest(_)).then(Md5::new);
        Checksum { wanted, running }
    }

    /// The content will be checked, so that it must not be seen before it is whole.
    pub(super) fn is_announced(&self) -> bool {
        self.running.is_some()
    }

    /// The next piece of the content.
    pub(super) fn update(&mut self, data: &[u8]) {
        if let Some(digest) = &mut self.running {
            digest.update(data);
        }
    }

    /// A trailer's MD5 counts like a header's. False: it is none, or another one.
    pub(super) fn add_trailer(&mut self, trailer: ContentMd5) -> bool {
        match (trailer, self.wanted) {
            (ContentMd5::Absent, _) => true,
            (ContentMd5::Malformed, _) => false,
            (wanted, ContentMd5::Absent) => {
                self.wanted = wanted;
                true
            }
            (wanted, announced) => wanted == announced,
        }
    }

    /// Whether the content is what was meant. What was received before it was known that it would
    /// be checked is digested by `digest_of_file`.
    pub(super) fn matches(
        &mut self,
        digest_of_file: impl FnOnce() -> io::Result<[u8; 16]>,
    ) -> io::Result<bool> {
        let ContentMd5::Digest(wanted) = self.wanted else { return Ok(true) };
        let found = match self.running.take() {
            Some(digest) => digest.finish(),
            None => digest_of_file()?,
        };
        Ok(found == wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: [u8; 16] = [
        0x90, 0x01, 0x50, 0x98, 0x3c, 0xd2, 0x4f, 0xb0, 0xd6, 0x96, 0x3f, 0x7d, 0x28, 0xe1, 0x7f,
        0x72,
    ];

    fn unread() -> io::Result<[u8; 16]> {
        panic!("the file need not be read")
    }

    #[test]
    fn announced_digest_is_made_as_the_content_comes() {
        for (pieces, meant) in [(["ab", "c"], true), (["ab", "d"], false)] {
            let mut checksum = Checksum::new(ContentMd5::Digest(ABC));
            assert!(checksum.is_announced());
            pieces.iter().for_each(|piece| checksum.update(piece.as_bytes()));
            assert!(checksum.add_trailer(ContentMd5::Absent));
            assert_eq!(checksum.matches(unread).unwrap(), meant);
        }
    }

    #[test]
    fn digest_of_a_trailer_is_made_from_the_file() {
        for (found, meant) in [(ABC, true), ([0; 16], false)] {
            let mut checksum = Checksum::new(ContentMd5::Absent);
            assert!(!checksum.is_announced());
            checksum.update(b"abc");
            assert!(checksum.add_trailer(ContentMd5::Digest(ABC)));
            assert_eq!(checksum.matches(|| Ok(found)).unwrap(), meant);
        }
        let mut checksum = Checksum::new(ContentMd5::Absent);
        assert!(checksum.add_trailer(ContentMd5::Digest(ABC)));
        checksum.matches(|| Err(io::ErrorKind::Other.into())).unwrap_err();
    }

    #[test]
    fn head_and_trailer_must_agree() {
        let announced = || Checksum::new(ContentMd5::Digest(ABC));
        assert!(announced().add_trailer(ContentMd5::Digest(ABC)));
        assert!(!announced().add_trailer(ContentMd5::Digest([0; 16])));
        assert!(!announced().add_trailer(ContentMd5::Malformed));
        assert!(!Checksum::new(ContentMd5::Absent).add_trailer(ContentMd5::Malformed));
    }

    #[test]
    fn content_that_nobody_checks_is_right() {
        let mut checksum = Checksum::new(ContentMd5::Absent);
        checksum.update(b"anything");
        assert!(checksum.matches(unread).unwrap());
    }
}
