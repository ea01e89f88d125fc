use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

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

    fn receive_into(&self, pipe: &Pipe, most: usize) -> io::Result<usize> {
        let mut room = vec![0; most];
        let n = self.receive(&mut room)?;
        let (near, mut far) = UnixStream::pair()?;
        far.write_all(&room[..n])?;
        if n == 0 { Ok(0) } else { pipe.fill(near.as_fd(), most) }
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
fn plain_body_goes_through_a_pipe_and_what_follows_stays_with_the_peer() {
    let pipe = Pipe::new(65536, 4096).unwrap();
    for cut in 0..11 {
        let (head, rest) = "hello worldGET".split_at(cut);
        let mut body = BodyReader::new(Body::Length(11));
        body.begin_with(head.into());
        let peer = Scripted::sends(&[rest]);
        if cut > 0 {
            assert_eq!(body.plain(), None, "what came with the head is first");
            assert_eq!(body.fill(&peer, &mut vec![0; cut], &mut { u64::MAX }).0, cut);
        }
        assert_eq!(body.plain(), Some(11 - cut as u64));
        let (mut text, mut left) = (head.to_owned(), 4);
        while !body.is_over() {
            let filled = body.fill_pipe(&peer, &pipe, &mut left).unwrap();
            let mut piece = [0; 11];
            assert_eq!(pipe.read(&mut piece).unwrap(), filled);
            text.push_str(std::str::from_utf8(&piece[..filled]).unwrap());
            assert!(left == 0 || body.is_over());
            left = 4;
        }
        assert_eq!((&text[..], body.plain()), ("hello world", None));
        assert_eq!(peer.packets.into_inner(), [Some(b"GET".to_vec())]);
    }
    let mut body = BodyReader::new(Body::Length(2));
    let peer = Scripted { packets: RefCell::new([None].into()), ..Default::default() };
    let stop = |body: &mut BodyReader| body.fill_pipe(&peer, &pipe, &mut { 9 }).unwrap_err();
    assert!(matches!(stop(&mut body), Stop::Blocked));
    assert!(matches!(stop(&mut body), Stop::Vanished(_)));
    assert_eq!(BodyReader::new(Body::Chunked).plain(), None);
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
