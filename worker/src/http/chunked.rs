//! The chunked transfer coding, decoded in place: the caller is told where the data lies in its own buffer.
//!
//! Input may be cut anywhere. Nothing is allocated but for a trailer's line.

use std::ops::Range;

use super::field::{self, ContentMd5, MAX_NUMBER};
use super::head::{MAX_HEAD, Refusal};

/// Most bytes of extensions and the like in one body: PROTOCOL.md section 2.4.
pub const MOST_SLACK: u64 = 16 * 1024 * 1024;

/// The decoder of one body.
#[derive(Debug, Default)]
pub struct Chunked {
    at: At,
    /// The size as read so far; in the data, what is left of it.
    size: u64,
    total: u64,
    /// Bytes that mean nothing: extensions, blanks, leading zeros.
    slack: u64,
    trailer_len: usize,
    line: Vec<u8>,
    md5: ContentMd5,
}

/// What a look at some input brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Part of the body, never empty; call again with what follows `consumed`.
    Data {
        /// Where in the input it lies.
        range: Range<usize>,
        /// How much of the input is done with.
        consumed: usize,
    },
    /// All the input is used up and the body is not over.
    More,
    /// The body is over.
    End {
        /// Where in the input the next request starts.
        consumed: usize,
    },
    /// It is not a chunked body.
    Refused(Refusal),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    FirstDigit,
    Digits,
    /// Blanks behind the size: some servers pad it.
    Blanks,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailer,
    TrailerLf,
    End,
}

impl Chunked {
    /// A decoder at the start of a body.
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes up to the next stretch of data, or up to the end of `input`.
    pub fn next(&mut self, input: &[u8]) -> Step {
        let mut consumed = 0;
        loop {
            if self.at == At::End {
                return Step::End { consumed };
            }
            let rest = &input[consumed..];
            let Some(byte) = rest.first() else {
                return Step::More;
            };
            if self.at == At::Data {
                return self.data(consumed, rest.len());
            }
            match self.framing(*byte) {
                Ok(at) => self.at = at,
                Err(refusal) => return Step::Refused(refusal),
            }
            consumed += 1;
        }
    }

    /// What the trailers said; only known at the end.
    pub fn trailer_md5(&self) -> ContentMd5 {
        self.md5
    }

    fn data(&mut self, start: usize, available: usize) -> Step {
        let len = usize::try_from(self.size).map_or(available, |left| left.min(available));
        self.size -= len as u64;
        if self.size == 0 {
            self.at = At::DataCr;
        }
        Step::Data { range: start..start + len, consumed: start + len }
    }

    fn framing(&mut self, byte: u8) -> Result<At, Refusal> {
        let zero = self.size == 0 && byte == b'0';
        if zero || matches!(self.at, At::Extension | At::Blanks) {
            self.slack += 1;
            if self.slack > MOST_SLACK {
                return Err(Refusal::BadRequest);
            }
        }
        match (self.at, byte) {
            (At::FirstDigit | At::Digits, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.digit(byte)
            }
            (At::Digits | At::Blanks, b' ' | b'\t') => Ok(At::Blanks),
            (At::Digits | At::Blanks, b';') => Ok(At::Extension),
            (At::Digits | At::Blanks | At::Extension, b'\r') => Ok(At::SizeLf),
            (At::Extension, _) if field::is_text(byte) => Ok(At::Extension),
            (At::SizeLf, b'\n') => self.end_of_size(),
            (At::DataCr, b'\r') => Ok(At::DataLf),
            (At::DataLf, b'\n') => Ok(At::FirstDigit),
            (At::Trailer | At::TrailerLf, _) => self.trailer(byte),
            _ => Err(Refusal::BadRequest),
        }
    }

    fn digit(&mut self, byte: u8) -> Result<At, Refusal> {
        let value = match byte {
            b'0'..=b'9' => byte - b'0',
            _ => (byte | 0x20) - b'a' + 10,
        };
        if self.size > MAX_NUMBER >> 4 {
            return Err(Refusal::TooLarge);
        }
        self.size = self.size << 4 | u64::from(value);
        Ok(At::Digits)
    }

    fn end_of_size(&mut self) -> Result<At, Refusal> {
        if self.size == 0 {
            return Ok(At::Trailer);
        }
        // Neither is over 63 bits, so the sum cannot wrap.
        self.total += self.size;
        if self.total > MAX_NUMBER {
            return Err(Refusal::TooLarge);
        }
        Ok(At::Data)
    }

    fn trailer(&mut self, byte: u8) -> Result<At, Refusal> {
        self.trailer_len += 1;
        if self.trailer_len > MAX_HEAD {
            return Err(Refusal::BadRequest);
        }
        match (self.at, byte) {
            (At::Trailer, b'\r') => Ok(At::TrailerLf),
            (At::Trailer, _) if field::is_text(byte) => {
                self.line.push(byte);
                Ok(At::Trailer)
            }
            (At::TrailerLf, b'\n') => self.end_of_trailer(),
            _ => Err(Refusal::BadRequest),
        }
    }

    fn end_of_trailer(&mut self) -> Result<At, Refusal> {
        if self.line.is_empty() {
            return Ok(At::End);
        }
        let (name, value) = field::split(&self.line).ok_or(Refusal::BadRequest)?;
        if name.eq_ignore_ascii_case(b"content-md5") {
            self.md5 = self.md5.with(value);
        }
        self.line.clear();
        Ok(At::Trailer)
    }
}

#[cfg(test)]
mod tests;
