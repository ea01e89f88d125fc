//! Taking the body of a PUT from its socket: how it is framed, and what belongs to it.

use std::io;

use super::{Put, Stop};
use crate::disk::loan::Stage;
use crate::disk::operation::{Need, Turn};
use crate::http::answer::Status;
use crate::http::chunked::{Chunked, Step};
use crate::http::head::ContentMd5;
use crate::http::status_of_refusal;
use crate::sys::socket;

#[derive(Debug)]
pub(super) enum Framing {
    Length(u64),
    Chunked(Box<Chunked>),
    Ended,
}

impl Put {
    /// Fills the buffer with body bytes. What was read before an end or an error still counts.
    pub(super) fn fill(
        &mut self,
        turn: &Turn<'_>,
        buffer: &mut [u8],
        left: &mut u64,
    ) -> (usize, Option<Stop>) {
        turn.progress.rest(); // A peer's time is no disk's.
        let mut filled = 0;
        while filled < buffer.len() && *left > 0 {
            let room = &mut buffer[filled..];
            let read = match self.read_some(turn, room) {
                Ok(read) => read,
                Err(Stop::Blocked) if turn.wait_for(Need::Read) => continue,
                Err(stop) => return (filled, Some(stop)),
            };
            *left = left.saturating_sub(read as u64);
            match self.decode(&mut room[..read]) {
                Ok(data) => filled += data,
                Err(stop) => return (filled, Some(stop)),
            }
            if matches!(self.framing, Framing::Ended) {
                break;
            }
        }
        (filled, None)
    }

    /// Brings raw bytes: first those that the loop had read, then the socket's.
    fn read_some(&mut self, turn: &Turn<'_>, room: &mut [u8]) -> Result<usize, Stop> {
        if !self.initial.is_empty() {
            let n = self.initial.len().min(room.len());
            room[..n].copy_from_slice(&self.initial[..n]);
            self.initial.drain(..n);
            return Ok(n);
        }
        let most = match self.framing {
            Framing::Length(left) => left.min(room.len() as u64) as usize,
            _ => room.len(),
        };
        if most == 0 {
            return Ok(0);
        }
        let mine = if self.has_read { !turn.is_lost() } else { self.enter(turn, Stage::Begun) };
        if !mine {
            return Err(Stop::Lost);
        }
        self.has_read = true;
        match socket::receive(turn.socket, &mut room[..most]) {
            Ok(0) => Err(Stop::Vanished("premature EOF".into())),
            Ok(n) => Ok(n),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(Stop::Blocked),
            Err(e) => Err(Stop::Vanished(e.to_string())),
        }
    }

    /// Leaves the body's own bytes at the front of `raw`, and says how many they are.
    fn decode(&mut self, raw: &mut [u8]) -> Result<usize, Stop> {
        let framing = std::mem::replace(&mut self.framing, Framing::Ended);
        let (data, framing) = match framing {
            Framing::Length(left) => {
                let data = (raw.len() as u64).min(left) as usize;
                self.leftover.extend_from_slice(&raw[data..]);
                let left = left - data as u64;
                (data, if left == 0 { Framing::Ended } else { Framing::Length(left) })
            }
            Framing::Chunked(decoder) => self.decode_chunks(decoder, raw)?,
            Framing::Ended => (0, Framing::Ended),
        };
        self.framing = framing;
        if matches!(self.framing, Framing::Ended) {
            self.leftover.append(&mut self.initial);
        }
        Ok(data)
    }

    fn decode_chunks(
        &mut self,
        mut decoder: Box<Chunked>,
        raw: &mut [u8],
    ) -> Result<(usize, Framing), Stop> {
        let (mut data, mut at) = (0, 0);
        loop {
            match decoder.next(&raw[at..]) {
                Step::Data { range, consumed } => {
                    let len = range.len();
                    raw.copy_within(at + range.start..at + range.end, data);
                    data += len;
                    at += consumed;
                }
                Step::More => return Ok((data, Framing::Chunked(decoder))),
                Step::End { consumed } => {
                    self.leftover.extend_from_slice(&raw[at + consumed..]);
                    self.take_trailer(decoder.trailer_md5())?;
                    return Ok((data, Framing::Ended));
                }
                Step::Refused(refusal) => return Err(Stop::Bad(status_of_refusal(refusal))),
            }
        }
    }

    /// A trailer's MD5 counts like a header's. The digest is made later, from the file.
    fn take_trailer(&mut self, trailer: ContentMd5) -> Result<(), Stop> {
        match (trailer, self.request.content_md5) {
            (ContentMd5::Absent, _) => Ok(()),
            (ContentMd5::Malformed, _) => Err(Stop::Bad(Status::BadRequest400)),
            (wanted, ContentMd5::Absent) => {
                self.request.content_md5 = wanted;
                Ok(())
            }
            (wanted, announced) if wanted == announced => Ok(()),
            _ => Err(Stop::Bad(Status::BadRequest400)),
        }
    }
}
