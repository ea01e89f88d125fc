//! Answers, byte for byte as PROTOCOL.md 2.2 has them: appended to a buffer, nothing else allocated.

use crate::clock::HttpDate;

/// The answers that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Status {
    Ok200,
    Created201,
    NoContent204,
    PartialContent206,
    NotModified304,
    BadRequest400,
    Forbidden403,
    NotFound404,
    MethodNotAllowed405,
    PreconditionFailed412,
    RangeNotSatisfiable416,
    InternalServerError500,
    NotImplemented501,
    ServiceUnavailable503,
    InsufficientStorage507,
}

/// What a client that sent `Expect: 100-continue` waits for.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Appends an answer without a body; 503 asks the client to come back in 10 s.
pub fn empty(out: &mut Vec<u8>, status: Status, date: &HttpDate, keep_alive: bool) {
    start(out, status, date);
    put(out, b"Content-Length: 0\r\nContent-Type: text/plain\r\n");
    if status == Status::ServiceUnavailable503 {
        put(out, b"Retry-After: 10\r\n");
    }
    connection(out, keep_alive);
}

/// Appends the 204 of a DELETE.
pub fn no_content(out: &mut Vec<u8>, date: &HttpDate, keep_alive: bool) {
    start(out, Status::NoContent204, date);
    connection(out, keep_alive);
}

/// Appends a 304.
pub fn not_modified(
    out: &mut Vec<u8>,
    date: &HttpDate,
    last_modified: &HttpDate,
    keep_alive: bool,
) {
    start(out, Status::NotModified304, date);
    line(out, b"Last-Modified: ", last_modified.as_bytes());
    connection(out, keep_alive);
}

/// Appends the head of a whole file of `length` bytes.
pub fn file(
    out: &mut Vec<u8>,
    date: &HttpDate,
    last_modified: &HttpDate,
    length: u64,
    keep_alive: bool,
) {
    start(out, Status::Ok200, date);
    line(out, b"Last-Modified: ", last_modified.as_bytes());
    content_length(out, length);
    put(out, b"Content-Type: application/octet-stream\r\nAccept-Ranges: bytes\r\n");
    connection(out, keep_alive);
}

/// Appends the head of the bytes `first` to `last` (inclusive) of a file of `total` bytes.
pub fn part(
    out: &mut Vec<u8>,
    date: &HttpDate,
    last_modified: &HttpDate,
    first: u64,
    last: u64,
    total: u64,
    keep_alive: bool,
) {
    start(out, Status::PartialContent206, date);
    line(out, b"Last-Modified: ", last_modified.as_bytes());
    content_length(out, last - first + 1);
    put(out, b"Content-Type: application/octet-stream\r\nContent-Range: bytes ");
    number(out, first);
    put(out, b"-");
    number(out, last);
    put(out, b"/");
    number(out, total);
    put(out, b"\r\n");
    connection(out, keep_alive);
}

/// Appends the 416 for a file of `total` bytes.
pub fn unsatisfiable(out: &mut Vec<u8>, date: &HttpDate, total: u64, keep_alive: bool) {
    start(out, Status::RangeNotSatisfiable416, date);
    put(out, b"Content-Length: 0\r\nContent-Type: text/plain\r\nContent-Range: bytes */");
    number(out, total);
    put(out, b"\r\n");
    connection(out, keep_alive);
}

impl Status {
    /// Code and reason, as in the status line and in `Status:`.
    pub fn line(self) -> &'static str {
        match self {
            Self::Ok200 => "200 OK",
            Self::Created201 => "201 Created",
            Self::NoContent204 => "204 No Content",
            Self::PartialContent206 => "206 Partial Content",
            Self::NotModified304 => "304 Not Modified",
            Self::BadRequest400 => "400 Bad Request",
            Self::Forbidden403 => "403 Forbidden",
            Self::NotFound404 => "404 Not Found",
            Self::MethodNotAllowed405 => "405 Method Not Allowed",
            Self::PreconditionFailed412 => "412 Precondition Failed",
            Self::RangeNotSatisfiable416 => "416 Requested Range Not Satisfiable",
            Self::InternalServerError500 => "500 Internal Server Error",
            Self::NotImplemented501 => "501 Not Implemented",
            Self::ServiceUnavailable503 => "503 Service Unavailable",
            Self::InsufficientStorage507 => "507 Insufficient Storage",
        }
    }

    /// The three digits as a number.
    pub fn code(self) -> u16 {
        let digits = &self.line().as_bytes()[..3];
        digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'))
    }
}

fn start(out: &mut Vec<u8>, status: Status, date: &HttpDate) {
    // More than any head needs: one allocation at most.
    out.reserve(384);
    let status = status.line().as_bytes();
    line(out, b"HTTP/1.1 ", status);
    line(out, b"Status: ", status);
    line(out, b"Date: ", date.as_bytes());
}

fn content_length(out: &mut Vec<u8>, length: u64) {
    put(out, b"Content-Length: ");
    number(out, length);
    put(out, b"\r\n");
}

fn connection(out: &mut Vec<u8>, keep_alive: bool) {
    put(
        out,
        match keep_alive {
            true => b"Connection: keep-alive\r\n\r\n".as_slice(),
            false => b"Connection: close\r\n\r\n".as_slice(),
        },
    );
}

fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    put(out, name);
    put(out, value);
    put(out, b"\r\n");
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    put(out, &digits[at..]);
}

#[cfg(test)]
mod tests;
