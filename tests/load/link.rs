//! A client for nodes whose workers die: a lost connection is a result, not a failure. Only
//! silence is one.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::harness::DEADLINE;

/// One connection.
pub struct Link(BufReader<TcpStream>);

/// One answer.
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Whether the connection survives.
    pub keep: bool,
    /// Its body.
    pub body: Vec<u8>,
}

impl Link {
    /// Connects. The master holds the listeners, so that this works while all workers are dead.
    pub fn open(address: SocketAddr) -> Link {
        let stream = TcpStream::connect(address).expect("the node never refuses connections");
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
        stream.set_write_timeout(Some(DEADLINE)).expect("not zero");
        Link(BufReader::new(stream))
    }

    /// Sends a request, reads its answer. HEAD is not understood.
    pub fn ask(&mut self, request: &[u8]) -> io::Result<Reply> {
        let reply = self.0.get_mut().write_all(request).and_then(|()| self.reply());
        if let Err(e) = &reply {
            let silent = matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            assert!(!silent, "neither an answer nor an end after {DEADLINE:?}");
        }
        reply
    }

    fn reply(&mut self) -> io::Result<Reply> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not an answer: {first:?}"));
        let mut reply = Reply { status, keep: false, body: Vec::new() };
        loop {
            let line = self.line()?;
            match line.split_once(": ") {
                Some(("Connection", value)) => reply.keep = value == "keep-alive",
                Some(("Content-Length", value)) => {
                    reply.body.resize(value.parse().expect("a number"), 0);
                }
                Some(_) => {}
                None => break,
            }
        }
        self.0.read_exact(&mut reply.body)?;
        Ok(reply)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(whole) => Ok(whole.to_owned()),
            None => Err(ErrorKind::UnexpectedEof.into()),
        }
    }
}
