//! The body of a PUT as it comes from its peer: the framing taken off, what belongs to the next
//! request kept. Bytes in, bytes out: no disk, and of the connection only what [`Peer`] says.

use std::io;

use super::Stop;
use crate::http::chunked::{Chunked, Step};
use crate::http::head::{Body, ContentMd5};
use crate::http::status_of_refusal;

/// Who sends a body.
pub(super) trait Peer {
    /// To be asked before anything is received; `first`: nothing of this body has been. False: the
    /// connection is another's by now.
    fn may_receive(&self, first: bool) -> bool;

    /// recv(2), without waiting.
    fn receive(&self, room: &mut [u8]) -> io::Result<usize>;

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
        match peer.receive(&mut room[..most]) {
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

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::VecDeque;

    use super::*;
    use crate::http::answer::Status;

    /// A peer whose packets are known, `None` for a moment without one. After the last it is gone.
    #[derive(Default)]
    struct Scripted {
        packets: RefCell<VecDeque<Option<Vec<u8>>>>,
        firsts: Cell<usize>,
        is_lost: bool,
        is_patient: bool,
    }

    impl Scripted {
        fn sends(packets: &[&str]) -> Scripted {
            let packets = packets.iter().map(|text| Some(text.as_bytes().to_vec())).collect();
            Scripted { packets: RefCell::new(packets), ..Default::default() }
        }
    }

    impl Peer for Scripted {
        fn may_receive(&self, first: bool) -> bool {
            self.firsts.set(self.firsts.get() + usize::from(first));
            !self.is_lost
        }

        fn receive(&self, room: &mut [u8]) -> io::Result<usize> {
            let mut packets = self.packets.borrow_mut();
            match packets.pop_front() {
                None => Ok(0),
                Some(None) => Err(io::ErrorKind::WouldBlock.into()),
                Some(Some(mut packet)) => {
                    let n = packet.len().min(room.len());
                    room[..n].copy_from_slice(&packet[..n]);
                    if n < packet.len() {
                        packets.push_front(Some(packet.split_off(n)));
                    }
                    Ok(n)
                }
            }
        }

        fn wait(&self) -> bool {
            self.is_patient
        }
    }

    /// Reads with a buffer of `room` bytes until it is over or stops.
    fn read(body: &mut BodyReader, peer: &Scripted, room: usize) -> (String, Option<Stop>) {
        let (mut all, mut buffer) = (Vec::new(), vec![0; room]);
        loop {
            let (filled, stop) = body.fill(peer, &mut buffer, &mut { u64::MAX });
            all.extend_from_slice(&buffer[..filled]);
            if stop.is_some() || body.is_over() {
                return (String::from_utf8(all).unwrap(), stop);
            }
        }
    }

    const CHUNKED: &str = "5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n";

    #[test]
    fn body_ends_where_it_was_said_to_however_it_is_cut() {
        for (framing, coded) in [(Body::Length(11), "hello world"), (Body::Chunked, CHUNKED)] {
            for cut in 0..=coded.len() {
                for room in [1, 2, 7, 100] {
                    let (with_head, packet) = coded.split_at(cut);
                    let mut body = BodyReader::new(framing);
                    body.begin_with(with_head.into());
                    let (text, stop) = read(&mut body, &Scripted::sends(&[packet]), room);
                    assert!(stop.is_none(), "{framing:?} cut at {cut} with {room}: {stop:?}");
                    assert_eq!(text, "hello world");
                    assert_eq!(body.has_read(), !packet.is_empty());
                    assert!(!body.has_leftover());
                }
            }
        }
    }

    #[test]
    fn what_came_behind_it_is_kept_for_the_next_request() {
        for (framing, coded) in [(Body::Length(11), "hello world"), (Body::Chunked, CHUNKED)] {
            for room in 1..=coded.len() + 4 {
                let mut body = BodyReader::new(framing);
                body.begin_with(format!("{coded}GET").into_bytes());
                let peer = Scripted::default();
                assert_eq!(read(&mut body, &peer, room).0, "hello world");
                assert_eq!(body.take_leftover(), b"GET", "{framing:?} with {room}");
                assert_eq!(peer.firsts.get(), 0, "nothing was to be received");
            }
        }
    }

    #[test]
    fn no_more_is_received_than_belongs_to_a_length() {
        let mut body = BodyReader::new(Body::Length(3));
        let peer = Scripted::sends(&["abcGET"]);
        assert_eq!(read(&mut body, &peer, 100).0, "abc");
        assert_eq!(*peer.packets.borrow(), [Some(b"GET".to_vec())]);
        assert!(!body.has_leftover());
        let mut empty = BodyReader::new(Body::None);
        assert_eq!(read(&mut empty, &peer, 100).0, "");
        assert!(empty.is_over() && !empty.has_read());
    }

    /// Reads what came with the head and what the peer sends, until it stops.
    fn stops(framing: Body, with_head: &str, peer: &Scripted) -> (String, Stop) {
        let mut body = BodyReader::new(framing);
        body.begin_with(with_head.into());
        let (text, stop) = read(&mut body, peer, 100);
        (text, stop.expect("it stops"))
    }

    #[test]
    fn what_came_before_a_stop_counts() {
        let peer = Scripted::sends(&["cd"]);
        peer.packets.borrow_mut().push_back(None);
        let (text, stop) = stops(Body::Length(9), "ab", &peer);
        assert!(text == "abcd" && matches!(stop, Stop::Blocked), "{text}: {stop:?}");
        let (text, stop) = stops(Body::Length(9), "ab", &Scripted::sends(&["cd"]));
        assert!(text == "abcd" && matches!(stop, Stop::Vanished(_)), "{text}: {stop:?}");
        let lost = Scripted { is_lost: true, ..Scripted::sends(&["cd"]) };
        let (text, stop) = stops(Body::Length(9), "ab", &lost);
        assert!(text == "ab" && matches!(stop, Stop::Lost), "{text}: {stop:?}");
        let (text, stop) = stops(Body::Chunked, "2\r\nab\r\n", &Scripted::sends(&["no size"]));
        let is_bad = matches!(stop, Stop::Bad(Status::BadRequest400));
        assert!(text == "ab" && is_bad, "{text}: {stop:?}");
    }

    #[test]
    fn it_goes_on_after_a_pause() {
        let packets = || RefCell::new([Some(b"a".to_vec()), None, Some(b"b".to_vec())].into());
        let peer = Scripted { packets: packets(), is_patient: true, ..Default::default() };
        let mut body = BodyReader::new(Body::Length(2));
        assert_eq!(read(&mut body, &peer, 100).0, "ab", "waited for");
        assert_eq!(peer.firsts.get(), 1);
        let peer = Scripted { packets: packets(), ..Default::default() };
        let mut body = BodyReader::new(Body::Length(2));
        assert_eq!(read(&mut body, &peer, 100).0, "a");
        assert_eq!(body.left(), Some(1));
        assert_eq!(read(&mut body, &peer, 100).0, "b");
    }

    #[test]
    fn a_slice_of_looked_at_bytes_is_an_end_for_now() {
        let mut body = BodyReader::new(Body::Chunked);
        body.begin_with(b"1;".to_vec());
        let peer = Scripted::sends(&["x".repeat(50).as_str(); 9]);
        let mut left = 100;
        let (filled, stop) = body.fill(&peer, &mut [0; 1000], &mut left);
        assert!(stop.is_none() && !body.is_over());
        assert_eq!((filled, left), (0, 0), "framing counts too");
    }

    #[test]
    fn trailer_is_told_at_the_end() {
        let mut body = BodyReader::new(Body::Chunked);
        assert!(body.is_endless());
        let trailer = "0\r\nContent-MD5: 1B2M2Y8AsgTpgAmY7PhCfg==\r\n\r\n";
        read(&mut body, &Scripted::sends(&[trailer]), 100);
        assert!(matches!(body.trailer_md5(), ContentMd5::Digest([0xd4, ..])));
    }
}
