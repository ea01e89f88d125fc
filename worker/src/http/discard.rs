//! A body that nobody wants, as it is thrown away: where it ends, and what follows it. Pure.

use crate::http::answer::Status;
use crate::http::chunked::{Chunked, Step};
use crate::http::head::Request;
use crate::http::refuse::{MOST_DISCARDED, Unwanted};
use crate::http::status_of_refusal;

/// A body being thrown away.
#[derive(Debug)]
pub struct Discard {
    /// How it is framed.
    left: Left,
    /// What follows.
    then: Then,
}

/// How much of a body is left.
#[derive(Debug)]
enum Left {
    /// So many bytes.
    Length(u64),
    /// Chunks, of which so many bytes may still come, and so many with their framing.
    Chunked(Box<Chunked>, u64, u64),
}

/// What follows a body that was thrown away.
#[derive(Debug)]
pub enum Then {
    /// The request is served.
    Serve(Box<Request>),
    /// It was refused: what to answer, and whether the connection lives on.
    Answer(Status, bool),
}

/// How far some input has brought it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Discarded {
    /// It is over; so much of the input was part of it.
    All(usize),
    /// All of the input was part of it.
    Part,
    /// More than is thrown away: the connection must close behind the answer.
    TooLong,
    /// It is not framed as it should be.
    Malformed(Status),
}

impl Discard {
    /// A body of which nothing has been read.
    pub fn new(unwanted: Unwanted, then: Then) -> Discard {
        let left = match unwanted {
            Unwanted::Length(length) => Left::Length(length),
            _ => Left::Chunked(Box::default(), MOST_DISCARDED, 2 * MOST_DISCARDED),
        };
        Discard { left, then }
    }

    /// Throws away what has come of it.
    pub fn take(&mut self, input: &[u8]) -> Discarded {
        let discarded = self.left.take(input);
        if discarded == Discarded::TooLong {
            self.then.close(); // What is left of the body must not be taken for a request.
        }
        discarded
    }

    /// What follows.
    pub fn into_then(self) -> Then {
        self.then
    }
}

impl Then {
    fn close(&mut self) {
        match self {
            Then::Serve(request) => request.keep_alive = false,
            Then::Answer(_, keep) => *keep = false,
        }
    }
}

impl Left {
    fn take(&mut self, input: &[u8]) -> Discarded {
        match self {
            Left::Length(left) => {
                let used = (*left).min(input.len() as u64);
                *left -= used;
                if *left == 0 { Discarded::All(used as usize) } else { Discarded::Part }
            }
            Left::Chunked(decoder, most, raw) => {
                *raw = raw.saturating_sub(input.len() as u64);
                let too_much = *raw == 0;
                let mut at = 0;
                loop {
                    match decoder.next(&input[at..]) {
                        Step::More if too_much => return Discarded::TooLong,
                        Step::More => return Discarded::Part,
                        Step::End { consumed } => return Discarded::All(at + consumed),
                        Step::Refused(refusal) => {
                            return Discarded::Malformed(status_of_refusal(refusal));
                        }
                        Step::Data { range, consumed } => {
                            at += consumed;
                            *most = match most.checked_sub(range.len() as u64) {
                                Some(left) => left,
                                None => return Discarded::TooLong,
                            };
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(unwanted: Unwanted) -> Discard {
        Discard::new(unwanted, Then::Answer(Status::BadRequest400, true))
    }

    fn keeps(discard: Discard) -> bool {
        match discard.into_then() {
            Then::Serve(request) => request.keep_alive,
            Then::Answer(_, keep) => keep,
        }
    }

    #[test]
    fn a_body_of_known_length_ends_where_the_next_request_begins() {
        for cut in 0..=5 {
            let mut discard = answered(Unwanted::Length(5));
            let (first, rest) = b"12345GET".split_at(cut);
            let before = discard.take(first);
            if cut < 5 {
                assert_eq!(before, Discarded::Part, "{cut}");
                assert_eq!(discard.take(rest), Discarded::All(5 - cut));
            } else {
                assert_eq!(before, Discarded::All(5));
            }
            assert!(keeps(discard));
        }
    }

    #[test]
    fn a_chunked_body_ends_where_the_next_request_begins() {
        let body = b"3\r\nabc\r\n0\r\n\r\nGET";
        let end = body.len() - 3;
        for cut in 1..end {
            let mut discard = answered(Unwanted::Chunked);
            assert_eq!(discard.take(&body[..cut]), Discarded::Part, "{cut}");
            assert_eq!(discard.take(&body[cut..]), Discarded::All(end - cut));
            assert!(keeps(discard));
        }
        let mut discard = answered(Unwanted::Chunked);
        assert!(matches!(discard.take(b"x\r\n"), Discarded::Malformed(_)));
    }

    #[test]
    fn behind_one_that_is_too_long_the_connection_closes() {
        let most = MOST_DISCARDED as usize;
        let much = [format!("{most:x}\r\n").into_bytes(), vec![b'x'; most]].concat();
        let mut discard = answered(Unwanted::Chunked);
        assert_eq!(discard.take(&much), Discarded::Part, "just as much as is thrown away");
        assert_eq!(discard.take(b"\r\n1\r\nx"), Discarded::TooLong);
        assert!(!keeps(discard));
        let request = Box::new(Request { keep_alive: true, ..Request::default() });
        let mut discard = Discard::new(Unwanted::Chunked, Then::Serve(request));
        let framing = b"1;ext=longer than the byte that it is about\r\nx\r\n".repeat(most / 16);
        assert_eq!(discard.take(&framing), Discarded::TooLong, "of little but framing");
        assert!(!keeps(discard));
    }
}
