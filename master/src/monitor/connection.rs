//! One client of the monitor: what was read and not yet answered, what was answered and not yet
//! sent, and until when that may take.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::endpoints::{self, Reply, Then};
use super::facts::Facts;

/// The longest head that is read, in bytes.
const LONGEST_HEAD: usize = 16 * 1024;
/// What a stream's reader may leave untaken, in bytes: a few large documents.
const MOST_UNSENT: usize = 4 << 20;
/// From a request's first byte to its end, and from an answer's to its.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between requests: a scraper comes once a minute.
const IDLE: Duration = Duration::from_secs(150);
/// What is thrown away behind a last answer, so that it is not lost.
const MOST_DISCARDED: usize = 256 * 1024;

/// One client.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    then: Then,
    until: Instant,
}

impl Connection {
    /// A client that has just come.
    pub fn new(stream: TcpStream, now: Instant) -> Connection {
        let (input, output) = (Vec::new(), Vec::new());
        Connection { stream, input, output, then: Then::Keep, until: now + PATIENCE }
    }

    /// Its socket.
    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// True for one that gets events.
    pub fn is_stream(&self) -> bool {
        self.then == Then::Stream
    }

    /// True for one that waits for nothing of this side.
    pub fn is_idle(&self) -> bool {
        self.input.is_empty() && self.output.is_empty()
    }

    /// When it has had its time.
    pub fn deadline(&self) -> Instant {
        self.until
    }

    /// Goes on as far as it goes. False: it is over.
    pub fn advance(&mut self, facts: &Facts, now: Instant) -> bool {
        loop {
            match self.flush() {
                Ok(true) => {}
                Ok(false) => return true,
                Err(_) => return false,
            }
            match self.then {
                Then::Close => {
                    self.finish();
                    return false;
                }
                // Whatever it says; its end is seen here.
                Then::Stream => {
                    self.until = now + IDLE;
                    let open = self.read();
                    self.input.clear();
                    return open;
                }
                Then::Keep => {}
            }
            if let Some((reply, len)) = endpoints::answer(&self.input, facts) {
                self.input.drain(..len);
                self.say(reply, now);
                continue;
            }
            let (before, idle) = (self.input.len(), self.input.is_empty());
            if before > LONGEST_HEAD || !self.read() {
                return false;
            }
            if self.input.len() == before {
                return true;
            }
            if idle {
                self.until = now + PATIENCE;
            }
        }
    }

    /// More for one that gets events; what is said again and again is left out while something
    /// waits. False: its reader is too slow.
    pub fn tell(&mut self, event: &[u8], repeated: bool) -> bool {
        if repeated && !self.output.is_empty() {
            return true;
        }
        self.output.extend_from_slice(event);
        self.flush().is_ok() && self.output.len() <= MOST_UNSENT
    }

    fn say(&mut self, Reply { bytes, then }: Reply, now: Instant) {
        (self.output, self.then, self.until) = (bytes, then, now + PATIENCE);
    }

    /// True when nothing waits to be sent any more.
    fn flush(&mut self) -> io::Result<bool> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Reads what is there, up to a head too long. False: the client is gone.
    fn read(&mut self) -> bool {
        let mut piece = [0; 4096];
        while self.input.len() <= LONGEST_HEAD {
            match self.stream.read(&mut piece) {
                Ok(0) => return false,
                Ok(length) => self.input.extend_from_slice(&piece[..length]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return e.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }

    /// A close with something unread would be a reset, which could overtake the answer.
    fn finish(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write); // it is closed anyway
        let (mut piece, mut left) = ([0; 4096], MOST_DISCARDED);
        while let Ok(length @ 1..) = self.stream.read(&mut piece)
            && left > 0
        {
            left = left.saturating_sub(length);
        }
    }
}
