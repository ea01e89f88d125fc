//! Reading the answer to a request, cut anywhere. Pure: bytes in, progress out. After the first
//! answers nothing is allocated.

use std::fmt::{self, Display};

/// A head longer than this is taken for garbage.
const MOST_HEAD: usize = 16 * 1024;
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// Reads one answer after another from a connection.
#[derive(Debug, Default)]
pub struct Reader {
    head: Vec<u8>,
    /// So many bytes of [`END_OF_HEAD`] were just seen.
    matched: usize,
    bodiless: bool,
    answer: Option<Answer>,
    /// Bytes of the body seen so far.
    seen: u64,
}

/// What a head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The three digits.
    pub status: u16,
    /// Content-Length.
    pub length: Option<u64>,
    /// The server closes after it.
    pub close: bool,
}

/// How far a piece of input went.
#[derive(Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that belong to this answer.
    pub used: usize,
    /// Set when it is complete.
    pub done: Option<Answer>,
}

/// Not an answer that this reader understands.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(&'static str);

impl Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed answer: {}", self.0)
    }
}

impl Reader {
    /// Another answer comes; one to HEAD has no body.
    pub fn begin(&mut self, bodiless: bool) {
        self.head.clear();
        (self.matched, self.bodiless, self.answer, self.seen) = (0, bodiless, None, 0);
    }

    /// Takes what was received. `body` is shown each piece of the body and where it begins.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        mut body: impl FnMut(u64, &[u8]),
    ) -> Result<Progress, Malformed> {
        let mut used = 0;
        if self.answer.is_none() {
            used = self.take_head(bytes);
            if self.matched < END_OF_HEAD.len() {
                if self.head.len() > MOST_HEAD {
                    return Err(Malformed("an endless head"));
                }
                return Ok(Progress { used, done: None });
            }
            self.answer = Some(parse(&self.head)?);
        }
        let Some(answer) = self.answer else { return Err(Malformed("no head")) };
        let left = self.whole(answer)? - self.seen;
        let piece = &bytes[used..];
        let piece = &piece[..piece.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        if !piece.is_empty() {
            body(self.seen, piece);
        }
        self.seen += piece.len() as u64;
        let done = (piece.len() as u64 == left).then_some(answer);
        Ok(Progress { used: used + piece.len(), done })
    }

    /// How much of `bytes` belongs to the head, which is kept.
    fn take_head(&mut self, bytes: &[u8]) -> usize {
        let mut used = 0;
        for &byte in bytes {
            used += 1;
            self.matched = match byte {
                _ if byte == END_OF_HEAD[self.matched] => self.matched + 1,
                b'\r' => 1,
                _ => 0,
            };
            if self.matched == END_OF_HEAD.len() || self.head.len() + used > MOST_HEAD {
                break;
            }
        }
        self.head.extend_from_slice(&bytes[..used]);
        used
    }

    fn whole(&self, answer: Answer) -> Result<u64, Malformed> {
        if self.bodiless || answer.status == 204 || answer.status == 304 {
            return Ok(0);
        }
        answer.length.ok_or(Malformed("no Content-Length"))
    }
}

fn parse(head: &[u8]) -> Result<Answer, Malformed> {
    let mut lines = head.split(|&byte| byte == b'\n');
    let first = lines.next().unwrap_or_default();
    if !first.starts_with(b"HTTP/1.") {
        return Err(Malformed("no HTTP"));
    }
    let status = first.get(9..12).and_then(number).ok_or(Malformed("no status"))?;
    let mut answer = Answer { status: status as u16, length: None, close: first[7] == b'0' };
    for line in lines {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            answer.length = Some(number(value).ok_or(Malformed("Content-Length"))?);
        } else if name.eq_ignore_ascii_case(b"connection") {
            answer.close = value.eq_ignore_ascii_case(b"close");
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Err(Malformed("a Transfer-Encoding"));
        }
    }
    Ok(answer)
}

fn number(digits: &[u8]) -> Option<u64> {
    str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] =
        b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-LENGTH: 5\r\nConnection: keep-alive\r\n\r\nhello";
    const OK: Answer = Answer { status: 200, length: Some(5), close: false };

    fn read(pieces: &[&[u8]], bodiless: bool) -> (Option<Answer>, Vec<u8>, usize) {
        let (mut reader, mut body, mut used) = (Reader::default(), Vec::new(), 0);
        reader.begin(bodiless);
        for piece in pieces {
            let progress = reader.feed(piece, |at, bytes| {
                assert_eq!(at as usize, body.len());
                body.extend_from_slice(bytes);
            });
            let progress = progress.unwrap();
            used += progress.used;
            if progress.done.is_some() {
                return (progress.done, body, used);
            }
            assert_eq!(progress.used, piece.len());
        }
        (None, body, used)
    }

    #[test]
    fn cut_at_every_byte() {
        for first in 0..=ANSWER.len() {
            for second in first..=ANSWER.len() {
                let pieces = [&ANSWER[..first], &ANSWER[first..second], &ANSWER[second..]];
                assert_eq!(read(&pieces, false), (Some(OK), b"hello".to_vec(), ANSWER.len()));
            }
        }
    }

    #[test]
    fn incomplete_at_every_byte() {
        for end in 0..ANSWER.len() {
            assert_eq!(read(&[&ANSWER[..end]], false).0, None, "{end}");
        }
    }

    #[test]
    fn next_answer_is_left_alone() {
        let two = [ANSWER, ANSWER].concat();
        assert_eq!(read(&[&two], false), (Some(OK), b"hello".to_vec(), ANSWER.len()));
    }

    #[test]
    fn answers_without_a_body_end_with_their_head() {
        let head = &ANSWER[..ANSWER.len() - 5];
        assert_eq!(read(&[head], true), (Some(OK), Vec::new(), head.len()));
        let deleted = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
        let answer = Answer { status: 204, length: None, close: true };
        assert_eq!(read(&[deleted], false), (Some(answer), Vec::new(), deleted.len()));
    }

    #[test]
    fn one_reader_reads_many() {
        let mut reader = Reader::default();
        for _ in 0..3 {
            reader.begin(false);
            assert_eq!(reader.feed(ANSWER, |_, _| ()).unwrap().done, Some(OK));
        }
    }

    #[test]
    fn old_version_closes_unless_it_says_otherwise() {
        let old = b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n";
        assert!(read(&[old], false).0.unwrap().close);
        let kept = b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n";
        assert!(!read(&[kept], false).0.unwrap().close);
    }

    #[test]
    fn garbage_is_refused() {
        let refused = [
            &b"SSH-2.0-x\r\n\r\n"[..],
            b"HTTP/1.1 2x0 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1e3\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
        ];
        for answer in refused {
            let mut reader = Reader::default();
            reader.begin(false);
            assert!(reader.feed(answer, |_, _| ()).is_err(), "{}", answer.escape_ascii());
        }
    }

    #[test]
    fn endless_head_is_refused() {
        let mut reader = Reader::default();
        reader.begin(false);
        let line = [b'a'; 1000];
        assert!((0..20).any(|_| reader.feed(&line, |_, _| ()).is_err()));
    }
}
