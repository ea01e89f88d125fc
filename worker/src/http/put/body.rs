//! The body of a PUT as it comes from its peer: the framing taken off, what belongs to the next
//! request kept. Bytes in, bytes out: no disk, and of the connection only what [`Peer`] says.

use std::io;

use super::Stop;
use crate::http::chunked::{Chunked, Step};
use crate::http::head::{Body, ContentMd5};
use crate::http::status_of_refusal;
use crate::sys::pipe::Pipe;

/// Who sends a body.
pub(super) trait Peer {
    /// To be asked before anything is received; `first`: nothing of this body has been. False: the
    /// connection is another's by now.
    fn may_receive(&self, first: bool) -> bool;

    /// recv(2), without waiting.
    fn receive(&self, room: &mut [u8]) -> io::Result<usize>;

    /// splice(2) into an empty pipe, without waiting.
    fn receive_into(&self, pipe: &Pipe, most: usize) -> io::Result<usize>;

    /// Waits a moment until there is more. False: there is not.
    fn wait(&self) -> bool;
}

/// A body on its way in.
#[derive(Debug)]
pub(super) struct BodyReader {
    framing: Framing,
    /// What was read behind the head, as far as it has not been looked at.
    initial: Vec<u8>,
    /// What was read behind the body.
    leftover: Vec<u8>,
    has_read: bool,
    trailer_md5: ContentMd5,
}

#[derive(Debug)]
enum Framing {
    Length(u64),
    Chunked(Box<Chunked>),
    Ended,
}

impl BodyReader {
    /// A body framed as its head says.
    pub(super) fn new(body: Body) -> BodyReader {
        let framing = match body {
            Body::Chunked => Framing::Chunked(Box::default()),
            Body::Length(length) => Framing::Length(length),
            Body::None => Framing::Length(0),
        };
        let (initial, leftover) = Default::default();
        BodyReader { framing, initial, leftover, has_read: false, trailer_md5: ContentMd5::Absent }
    }

    /// What was read with the head comes first.
    pub(super) fn begin_with(&mut self, initial: Vec<u8>) {
        self.initial = initial;
    }

    /// It has come to its end.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.framing, Framing::Ended)
    }

    /// How much is still to come, where that was announced.
    pub(super) fn left(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(left) => Some(left),
            Framing::Chunked(_) | Framing::Ended => None,
        }
    }

    /// Nobody knows how much is to come.
    pub(super) fn is_endless(&self) -> bool {
        matches!(self.framing, Framing::Chunked(_))
    }

    /// Something of it was received, not only read with its head.
    pub(super) fn has_read(&self) -> bool {
        self.has_read
    }

    /// The digest that came behind it. Only known at the end.
    pub(super) fn trailer_md5(&self) -> ContentMd5 {
        self.trailer_md5
    }

    /// What was read behind its end. Leaves nothing.
    pub(super) fn take_leftover(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.leftover)
    }

    /// True when the next request has begun to come with it.
    pub(super) fn has_leftover(&self) -> bool {
        !self.leftover.is_empty()
    }

    /// Fills the buffer with body bytes, of at most `left` bytes that are looked at. What was read
    /// before an end or an error still counts.
    pub(super) fn fill(
        &mut self,
        peer: &impl Peer,
        buffer: &mut [u8],
        left: &mut u64,
    ) -> (usize, Option<Stop>) {
        let mut filled = 0;
        while filled < buffer.len() && *left > 0 {
            let room = &mut buffer[filled..];
            let read = match self.read_some(peer, room) {
                Ok(read) => read,
                Err(Stop::Blocked) if peer.wait() => continue,
                Err(stop) => return (filled, Some(stop)),
            };
            *left = left.saturating_sub(read as u64);
            match self.decode(&mut room[..read]) {
                Ok(data) => filled += data,
                Err(stop) => return (filled, Some(stop)),
            }
            if self.is_over() {
                break;
            }
        }
        (filled, None)
    }

    /// How much is still to come that is nothing but content, and nothing of it has been read.
    pub(super) fn plain(&self) -> Option<u64> {
        self.left().filter(|_| self.initial.is_empty())
    }

    /// Fills an empty pipe with the content that is there, which must be [plain](Self::plain), up to
    /// `left` bytes.
    pub(super) fn fill_pipe(
        &mut self,
        peer: &impl Peer,
        pipe: &Pipe,
        left: &mut u64,
    ) -> Result<usize, Stop> {
        let Framing::Length(to_come) = self.framing else { return Ok(0) };
        loop {
            if !peer.may_receive(!self.has_read) {
                return Err(Stop::Lost);
            }
            self.has_read = true;
            let most = to_come.min(*left).min(pipe.size() as u64) as usize;
            match received(peer.receive_into(pipe, most)) {
                Err(Stop::Blocked) if peer.wait() => {}
                Err(stop) => return Err(stop),
                Ok(n) => {
                    *left -= n as u64;
                    let to_come = to_come - n as u64;
                    self.framing =
                        if to_come == 0 { Framing::Ended } else { Framing::Length(to_come) };
                    return Ok(n);
                }
            }
        }
    }

    /// Brings raw bytes: first those that came with the head, then the peer's.
    fn read_some(&mut self, peer: &impl Peer, room: &mut [u8]) -> Result<usize, Stop> {
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
        if !peer.may_receive(!self.has_read) {
            return Err(Stop::Lost);
        }
        self.has_read = true;
        received(peer.receive(&mut room[..most]))
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
        if self.is_over() {
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
                    self.trailer_md5 = decoder.trailer_md5();
                    return Ok((data, Framing::Ended));
                }
                Step::Refused(refusal) => return Err(Stop::Bad(status_of_refusal(refusal))),
            }
        }
    }
}

/// What receiving has come to.
fn received(received: io::Result<usize>) -> Result<usize, Stop> {
    match received {
        Ok(0) => Err(Stop::Vanished("premature EOF".into())),
        Ok(n) => Ok(n),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(Stop::Blocked),
        Err(e) => Err(Stop::Vanished(e.to_string())),
    }
}

#[cfg(test)]
mod tests;
