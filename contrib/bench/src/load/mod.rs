//! The load: a closed loop over some connections to one server, in one thread. Each answer is
//! checked; a wrong one ends the run.

mod paced;

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrStorage, bind, connect, socket,
};

use crate::corpus::Corpus;
use crate::failure::{Context, Failure, Outcome, go_on};
use crate::http::Reader;
use crate::work::{Expected, Request, Work};

/// Received or sent at once, at most.
const PIECE: usize = 256 << 10;
/// The same where others are to have the processor soon.
const SMALL_PIECE: usize = 32 << 10;
/// Bodies up to this size are compared whole, of larger ones the ends of each piece received.
const COMPARED_WHOLE: usize = 64 << 10;
const END: usize = 64;
/// A server that gives no sign of life for so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(200);

/// Connections to a server, open as long as this is there.
pub struct Load<'a> {
    corpus: &'a Corpus,
    address: SocketAddr,
    style: Style,
    poll: Poll,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
}

/// How the connections are used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style {
    /// Each answer is the last one on its connection.
    pub reconnect: bool,
    /// Also large bodies are compared whole.
    pub thorough: bool,
    /// Another load runs beside it, which must not wait for it.
    pub modest: bool,
    /// Which of this machine's own addresses it comes from, after the first one: an address has
    /// ports for some 28,000 connections to a server.
    pub source: u8,
}

/// What a run did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Units of work.
    pub units: u64,
    /// Bytes of bodies, sent and received, and those of files that were digested.
    pub bytes: u64,
}

struct Connection {
    stream: TcpStream,
    request: Request,
    sent: usize,
    reader: Reader,
    line: Vec<u8>,
    /// Only the end of the connection is still to come.
    answered: bool,
    /// The unit it works on, and how far it is.
    turn: Option<(u64, usize)>,
    begun: Instant,
}

/// What remains to be done in a run.
struct Run<'w> {
    work: &'w dyn Work,
    first: u64,
    next: u64,
    end: u64,
    tally: Tally,
    latencies: Option<&'w mut Vec<u64>>,
    stop: Option<&'w AtomicBool>,
}

/// How an exchange stands.
enum Step {
    Wait,
    Done { close: bool },
}

impl<'a> Load<'a> {
    /// Opens the connections.
    pub fn new(
        corpus: &'a Corpus,
        address: SocketAddr,
        connections: usize,
        style: Style,
    ) -> Outcome<Load<'a>> {
        let mut load = Load {
            corpus,
            address,
            style,
            poll: Poll::new()?,
            connections: Vec::with_capacity(connections),
            buffer: vec![0; style.piece()],
        };
        for index in 0..connections {
            let stream = load.connect(index)?;
            load.connections.push(Connection::new(stream));
        }
        Ok(load)
    }

    /// Does the units from `first` on, and comes back with the last answer. Latencies are from
    /// the moment that a request is sent, in nanoseconds.
    pub fn run(
        &mut self,
        work: &dyn Work,
        first: u64,
        count: u64,
        latencies: Option<&mut Vec<u64>>,
    ) -> Outcome<Tally> {
        let (end, tally) = (first + count, Tally::default());
        self.complete(Run { work, first, next: first, end, tally, latencies, stop: None })
    }

    /// Does units from `first` on until told to stop; those that have begun are completed.
    pub fn run_until(&mut self, work: &dyn Work, first: u64, stop: &AtomicBool) -> Outcome<Tally> {
        let (end, tally, stop) = (u64::MAX, Tally::default(), Some(stop));
        self.complete(Run { work, first, next: first, end, tally, latencies: None, stop })
    }

    fn complete(&mut self, mut run: Run) -> Outcome<Tally> {
        for index in 0..self.connections.len() {
            self.next_unit(index, &mut run)?;
        }
        let mut events = Events::with_capacity(self.connections.len().min(1024));
        let mut heard = Instant::now();
        while run.tally.units < run.next - run.first {
            go_on()?;
            self.poll_again(&mut events, TICK)?;
            for event in &events {
                self.advance(event.token().0, event.is_readable(), &mut run)?;
            }
            if !events.is_empty() {
                heard = Instant::now();
            } else if heard.elapsed() > PATIENCE {
                return Err(Failure::new("no answer"));
            }
        }
        Ok(run.tally)
    }

    fn poll_again(&mut self, events: &mut Events, most: Duration) -> Outcome<()> {
        match self.poll.poll(events, Some(most)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn connect(&self, index: usize) -> Outcome<TcpStream> {
        let source = [127, 0, 0, 1 + self.style.source];
        let mut stream = connect_from(source.into(), self.address)
            .context(format!("cannot connect to {}", self.address))?;
        stream.set_nodelay(true)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(index), interest)?;
        Ok(stream)
    }

    /// Begins another unit, if one is left.
    fn next_unit(&mut self, index: usize, run: &mut Run) -> Outcome<()> {
        if run.next == run.end || run.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            self.connections[index].turn = None;
            return Ok(());
        }
        let number = run.next;
        run.next += 1;
        self.begin(index, number, 0, run)
    }

    fn begin(&mut self, index: usize, number: u64, step: usize, run: &mut Run) -> Outcome<()> {
        let connection = &mut self.connections[index];
        connection.prepare(run.work, number, step, run.latencies.is_some());
        connection.send(self.corpus, self.style.piece())
    }

    /// Goes on where the connection waits. What it begins then is answered by another event.
    fn advance(&mut self, index: usize, readable: bool, run: &mut Run) -> Outcome<()> {
        let connection = &mut self.connections[index];
        let Some((number, step)) = connection.turn else { return Ok(()) };
        connection.send(self.corpus, self.style.piece())?;
        if !readable {
            return Ok(());
        }
        let received = connection.receive(self.corpus, &mut self.buffer, self.style);
        let received = received.map_err(|failure| connection.blame(failure))?;
        let Step::Done { close } = received else { return Ok(()) };
        self.count(index, run);
        if close {
            self.connections[index].stream = self.connect(index)?;
        }
        if step + 1 < run.work.steps() {
            return self.begin(index, number, step + 1, run);
        }
        run.tally.units += 1;
        run.tally.bytes += run.work.unseen();
        self.next_unit(index, run)
    }

    fn count(&mut self, index: usize, run: &mut Run) {
        let connection = &self.connections[index];
        let received = match &connection.request.expected {
            Expected::Http { body: Some(body), .. } => body.len(),
            _ => 0,
        };
        run.tally.bytes += (received + connection.request.body.len()) as u64;
        if let Some(latencies) = &mut run.latencies {
            latencies.push(connection.begun.elapsed().as_nanos() as u64);
        }
    }
}

impl Connection {
    fn new(stream: TcpStream) -> Connection {
        Connection {
            stream,
            request: Request::default(),
            sent: 0,
            reader: Reader::default(),
            line: Vec::new(),
            answered: false,
            turn: None,
            begun: Instant::now(),
        }
    }

    fn prepare(&mut self, work: &dyn Work, number: u64, step: usize, timed: bool) {
        work.prepare(number, step, &mut self.request);
        self.turn = Some((number, step));
        self.sent = 0;
        self.answered = false;
        self.line.clear();
        if let Expected::Http { bodiless, .. } = self.request.expected {
            self.reader.begin(bodiless);
        }
        if timed {
            self.begun = Instant::now();
        }
    }

    /// Sends what the socket takes.
    fn send(&mut self, corpus: &Corpus, piece: usize) -> Outcome<()> {
        let (head, body) = (&self.request.head, &corpus.bytes()[self.request.body.clone()]);
        while self.sent < head.len() + body.len() {
            let in_body = self.sent.saturating_sub(head.len());
            let body = &body[in_body..body.len().min(in_body + piece)];
            let head = &head[self.sent.min(head.len())..];
            let sent = match (head.is_empty(), body.is_empty()) {
                (_, true) => self.stream.write(head),
                (true, false) => self.stream.write(body),
                (false, false) => {
                    self.stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)])
                }
            };
            match sent {
                Ok(count) => self.sent += count,
                Err(error) if is_not_yet(&error) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("sending"),
            }
        }
        Ok(())
    }

    /// Receives what is there, and checks it.
    fn receive(&mut self, corpus: &Corpus, buffer: &mut [u8], style: Style) -> Outcome<Step> {
        loop {
            let count = match self.stream.read(buffer) {
                Ok(0) if self.answered => return Ok(Step::Done { close: true }),
                Ok(0) => return Err(Failure::new("the connection was closed")),
                Ok(count) => count,
                Err(error) if is_not_yet(&error) => return Ok(Step::Wait),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("receiving"),
            };
            if self.answered {
                return Err(Failure::new("something came after the answer"));
            }
            match self.take(&buffer[..count], corpus, style)? {
                // The end of the connection belongs to it.
                Some(_) if style.reconnect => self.answered = true,
                Some(close) => return Ok(Step::Done { close }),
                // What comes after a short read is another event.
                None if count < buffer.len() => return Ok(Step::Wait),
                None => {}
            }
        }
    }

    /// Takes a piece of the answer. Once that is complete: does the server close?
    fn take(&mut self, bytes: &[u8], corpus: &Corpus, style: Style) -> Outcome<Option<bool>> {
        let (status, length, body) = match &self.request.expected {
            Expected::Line(line) => return take_line(&mut self.line, bytes, line),
            Expected::Http { status, length, body, .. } => (*status, *length, body),
        };
        let body = body.as_ref().map(|place| &corpus.bytes()[place.clone()]);
        let mut right = true;
        let progress = self.reader.feed(bytes, |at, piece| {
            right &= body.is_none_or(|body| is_part(body, at, piece, style));
        });
        let progress = progress.map_err(Failure::new)?;
        if !right {
            return Err(Failure::new("the body is wrong"));
        }
        let Some(answer) = progress.done else { return Ok(None) };
        if answer.status != status {
            return Err(Failure::new(format!("status {}, not {status}", answer.status)));
        }
        if length.is_some() && answer.length != length {
            return Err(Failure::new(format!(
                "Content-Length {:?}, not {length:?}",
                answer.length
            )));
        }
        if progress.used != bytes.len() {
            return Err(Failure::new("something came after the answer"));
        }
        Ok(Some(answer.close))
    }

    fn blame(&self, failure: Failure) -> Failure {
        let asked = String::from_utf8_lossy(&self.request.head);
        Failure::new(format!("{}: {failure}", asked.lines().next().unwrap_or_default()))
    }
}

impl Style {
    fn piece(self) -> usize {
        if self.modest { SMALL_PIECE } else { PIECE }
    }
}

/// Connects, without waiting, from an address of this machine.
fn connect_from(source: Ipv4Addr, to: SocketAddr) -> Outcome<TcpStream> {
    if source == Ipv4Addr::LOCALHOST {
        return Ok(TcpStream::connect(to)?);
    }
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0)))?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(nix::Error::EINPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(TcpStream::from_std(socket.into()))
}

fn take_line(line: &mut Vec<u8>, bytes: &[u8], expected: &[u8]) -> Outcome<Option<bool>> {
    line.extend_from_slice(bytes);
    let Some(found) = line.strip_suffix(b"\r\n") else { return Ok(None) };
    match found == expected {
        true => Ok(Some(false)),
        false => Err(Failure::new(format!("answer '{}'", found.escape_ascii()))),
    }
}

/// Is this what the body has there? Of large bodies only the ends of the piece are looked at.
fn is_part(body: &[u8], at: u64, piece: &[u8], style: Style) -> bool {
    let Some(there) = body.get(at as usize..at as usize + piece.len()) else { return false };
    if style.thorough || body.len() <= COMPARED_WHOLE || piece.len() <= 2 * END {
        return there == piece;
    }
    let end = piece.len() - END;
    there[..END] == piece[..END] && there[end..] == piece[end..]
}

fn is_not_yet(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_bodies_are_compared_at_the_ends_of_pieces() {
        let body: Vec<u8> = (0..COMPARED_WHOLE as u32 + 1000).map(|at| (at % 251) as u8).collect();
        let lenient = Style::default();
        let mut piece = body[500..1500].to_vec();
        assert!(is_part(&body, 500, &piece, lenient));
        assert!(!is_part(&body, 501, &piece, lenient));
        piece[500] ^= 1;
        assert!(is_part(&body, 500, &piece, lenient));
        assert!(!is_part(&body, 500, &piece, Style { thorough: true, ..lenient }));
        piece[999] ^= 1;
        assert!(!is_part(&body, 500, &piece, lenient));
        assert!(!is_part(&body, body.len() as u64 - 10, &piece, lenient));
    }

    #[test]
    fn small_bodies_are_compared_whole() {
        let body = [7; 4096];
        let mut piece = body;
        piece[2000] = 8;
        assert!(is_part(&body, 0, &body, Style::default()));
        assert!(!is_part(&body, 0, &piece, Style::default()));
    }

    #[test]
    fn line_in_pieces() {
        let mut line = Vec::new();
        assert_eq!(take_line(&mut line, b"/a 1", b"/a 12").unwrap(), None);
        assert_eq!(take_line(&mut line, b"2\r", b"/a 12").unwrap(), None);
        assert_eq!(take_line(&mut line, b"\n", b"/a 12").unwrap(), Some(false));
        assert!(take_line(&mut Vec::new(), b"/a 13\r\n", b"/a 12").is_err());
    }
}
