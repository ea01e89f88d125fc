//! A raw HTTP client: what is sent is given byte for byte, what comes back is kept as it came.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
};

use super::wait::DEADLINE;

/// One connection, HTTP or sidechannel.
pub struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// `HTTP/1.1 200 OK`
    pub line: String,
    /// The number in it.
    pub status: u16,
    /// Names and values, in order, spelled as they came.
    pub headers: Vec<(String, String)>,
    /// Empty where the rules of HTTP allow none.
    pub body: Vec<u8>,
}

impl Client {
    /// Connects; every later read has a deadline.
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("the node accepts connections");
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
        stream.set_write_timeout(Some(DEADLINE)).expect("not zero");
        Client { stream, unread: Vec::new() }
    }

    /// The socket, for what has no method here.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the node reads");
    }

    /// Sends as much as the node takes; true when it took all.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Sends bytes, reads one answer.
    pub fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Answer {
        self.send(bytes);
        self.answer()
    }

    /// GET, HTTP/1.1.
    pub fn get(&mut self, path: &str) -> Answer {
        self.get_with(path, "")
    }

    /// GET with more header lines, each ending in CRLF.
    pub fn get_with(&mut self, path: &str, headers: &str) -> Answer {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: n\r\n{headers}\r\n"))
    }

    /// HEAD, HTTP/1.1.
    pub fn head(&mut self, path: &str) -> Answer {
        self.head_with(path, "")
    }

    /// HEAD with more header lines, each ending in CRLF.
    pub fn head_with(&mut self, path: &str, headers: &str) -> Answer {
        self.send(format!("HEAD {path} HTTP/1.1\r\nHost: n\r\n{headers}\r\n"));
        self.answer_to_head()
    }

    /// PUT with a Content-Length.
    pub fn put(&mut self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.put_with(path, "", body)
    }

    /// PUT with a Content-Length and more header lines, each ending in CRLF.
    pub fn put_with(&mut self, path: &str, headers: &str, body: impl AsRef<[u8]>) -> Answer {
        let body = body.as_ref();
        let length = body.len();
        let head =
            format!("PUT {path} HTTP/1.1\r\nHost: n\r\nContent-Length: {length}\r\n{headers}\r\n");
        self.ask([head.as_bytes(), body].concat())
    }

    /// PUT of an already chunked body, with more header lines, each ending in CRLF.
    pub fn put_chunked(&mut self, path: &str, headers: &str, coded: impl AsRef<[u8]>) -> Answer {
        let head = format!("PUT {path} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n{headers}\r\n");
        self.ask([head.as_bytes(), coded.as_ref()].concat())
    }

    /// DELETE, HTTP/1.1.
    pub fn delete(&mut self, path: &str) -> Answer {
        self.ask(format!("DELETE {path} HTTP/1.1\r\nHost: n\r\n\r\n"))
    }

    /// MKCOL, HTTP/1.1.
    pub fn mkcol(&mut self, path: &str) -> Answer {
        self.ask(format!("MKCOL {path} HTTP/1.1\r\nHost: n\r\n\r\n"))
    }

    /// Reads the answer to anything but HEAD.
    pub fn answer(&mut self) -> Answer {
        let mut answer = self.answer_to_head();
        if answer.has_body() {
            let length = answer.header("Content-Length").expect("there in every such answer");
            answer.body = self.take(length.parse().expect("a number"));
        }
        answer
    }

    /// Reads one answer that has no body whatever it says.
    pub fn answer_to_head(&mut self) -> Answer {
        let head = self.take_through(b"\r\n\r\n");
        Answer::parse(&String::from_utf8(head).expect("heads are ASCII"))
    }

    /// Reads a line, LF included.
    pub fn line(&mut self) -> String {
        String::from_utf8(self.take_through(b"\n")).expect("lines are ASCII")
    }

    /// Reads exactly so many bytes.
    pub fn take(&mut self, length: usize) -> Vec<u8> {
        while self.unread.len() < length {
            assert!(self.fill(), "end after {} of {length} bytes", self.unread.len());
        }
        self.unread.drain(..length).collect()
    }

    /// Reads through the first occurrence of `mark`.
    pub fn take_through(&mut self, mark: &[u8]) -> Vec<u8> {
        let mut from = 0;
        loop {
            let found = self.unread[from..].windows(mark.len()).position(|part| part == mark);
            if let Some(at) = found {
                return self.unread.drain(..from + at + mark.len()).collect();
            }
            from = self.unread.len().saturating_sub(mark.len() - 1);
            let so_far = self.unread.len();
            assert!(self.fill(), "end after {so_far} bytes: {:?}", self.text());
        }
    }

    /// The next line; `None`: the node has closed without a word.
    pub fn line_or_end(&mut self) -> Option<String> {
        let more = !self.unread.is_empty() || self.fill();
        more.then(|| self.line())
    }

    /// Everything until the node closes; a reset counts as a close.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.unread)
    }

    /// Insists that the node closes now and has nothing more to say.
    pub fn closes(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "instead of a close: {:?}", String::from_utf8_lossy(&rest));
    }

    /// Insists that the connection still serves, from the start of a request.
    pub fn stays_open(&mut self) {
        assert_eq!(self.get("/").status, 200, "the connection is out of step");
    }

    /// True while nothing comes and nothing is closed for so long.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).expect("not zero");
        let silent = self.unread.is_empty() && self.stream.peek(&mut [0]).is_err_and(would_block);
        self.stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
        silent
    }

    /// Shuts down the writing side.
    pub fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).expect("still connected");
    }

    /// Goes away with a reset instead of an orderly end.
    pub fn reset(self) {
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&self.stream, sockopt::Linger, &linger).expect("a TCP socket");
    }

    /// False at the end of the stream.
    fn fill(&mut self) -> bool {
        let mut room = vec![0; 64 * 1024];
        let length = match self.stream.read(&mut room) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            // signal(7): a stop interrupts a read that has a timeout.
            Err(error) if error.kind() == ErrorKind::Interrupted => return self.fill(),
            Err(error) => panic!("{error} after {:?}", self.text()),
        };
        self.unread.extend(&room[..length]);
        length > 0
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.unread[..self.unread.len().min(200)]).into_owned()
    }
}

impl Answer {
    /// Insists on a status and passes the answer on.
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// Insists on a status and on whether the connection is to survive.
    pub fn expect_and(self, status: u16, connection: &str) -> Answer {
        assert_eq!(self.header("Connection"), Some(connection), "{self:?}");
        self.expect(status)
    }

    /// The value of a header; the name as it is spelled on the wire.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn parse(head: &str) -> Answer {
        let mut lines = head.split_terminator("\r\n");
        let line = lines.next().expect("split gives one").to_owned();
        let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
        let headers = lines.filter(|line| !line.is_empty()).map(header_pair).collect();
        let status = status.unwrap_or_else(|| panic!("not an answer: {head:?}"));
        Answer { line, status, headers, body: Vec::new() }
    }

    fn has_body(&self) -> bool {
        !matches!(self.status, 100..=199 | 204 | 304)
    }
}

fn header_pair(line: &str) -> (String, String) {
    let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no header: {line:?}"));
    (name.to_owned(), value.to_owned())
}

fn would_block(error: std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// A connection on which little is on its way at any time: the kernel sizes the sender's buffer
/// by the receiver's largest segment.
pub fn narrow_connection(address: SocketAddr) -> TcpStream {
    let none = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Stream, none, None).expect("a socket");
    setsockopt(&fd, sockopt::RcvBuf, &2048).expect("a TCP socket");
    setsockopt(&fd, sockopt::TcpMaxSeg, &536).expect("a TCP socket");
    connect(fd.as_raw_fd(), &SockaddrStorage::from(address)).expect("the node accepts connections");
    TcpStream::from(fd)
}
