//! What is asked for: the bytes of a request, and what its answer must be.

use std::io::Write;
use std::ops::Range;

use md5::{Digest, Md5};

use crate::corpus::{Corpus, Name, Set, VARIANTS};

/// One request, and what is expected. Reused for the next one, so that nothing is allocated.
#[derive(Debug, Default)]
pub struct Request {
    /// What is sent first.
    pub head: Vec<u8>,
    /// What is sent then: a place in the corpus.
    pub body: Range<usize>,
    /// The answer.
    pub expected: Expected,
}

/// What an answer must be.
#[derive(Debug)]
pub enum Expected {
    /// Of HTTP.
    Http {
        /// Its status.
        status: u16,
        /// Its Content-Length, where that matters.
        length: Option<u64>,
        /// Its body, a place in the corpus, where that matters.
        body: Option<Range<usize>>,
        /// Nothing comes after the head.
        bodiless: bool,
    },
    /// One line, without its end.
    Line(Vec<u8>),
}

impl Default for Expected {
    fn default() -> Expected {
        Expected::Http { status: 0, length: None, body: None, bodiless: false }
    }
}

/// Something that a load consists of: numbered units of one or more requests.
pub trait Work {
    /// Requests in a unit; they follow each other on one connection.
    fn steps(&self) -> usize {
        1
    }
    /// Bytes that the server goes through for a unit, without sending or receiving them.
    fn unseen(&self) -> u64 {
        0
    }
    /// Prepares one of them.
    fn prepare(&self, number: u64, step: usize, request: &mut Request);
}

/// GET or HEAD of files that are there.
pub struct Fetch {
    /// Which ones.
    pub set: Set,
    /// Over how many devices they are spread.
    pub devices: u64,
    /// Only their heads.
    pub head: bool,
    /// The connection is not kept.
    pub close: bool,
}

/// GET of files that are not there.
pub struct Miss(pub Set);

/// PUT of new files.
pub struct Store {
    size: usize,
    devices: u64,
    delete: bool,
    /// The Content-MD5 of every content there is.
    digests: Option<Vec<String>>,
}

/// PUT of a file with another one's Content-MD5, which is to be refused.
pub struct WrongDigest;

/// The sidechannel's `size`.
pub struct Sizes(pub Set);

/// The sidechannel's `MD5`.
pub struct Digests {
    set: Set,
    hex: Vec<String>,
}

impl Store {
    /// Files of this size, spread over so many devices.
    pub fn new(size: usize, devices: u64) -> Store {
        Store { size, devices, delete: false, digests: None }
    }

    /// Each deleted as soon as it is there.
    pub fn and_delete(self) -> Store {
        Store { delete: true, ..self }
    }

    /// Each with its digest.
    pub fn with_digest(self, corpus: &Corpus) -> Store {
        let digests = (0..VARIANTS).map(|number| base64(&md5(corpus.content(number, self.size))));
        Store { digests: Some(digests.collect()), ..self }
    }
}

impl Digests {
    /// Of the files of a set.
    pub fn new(set: Set, corpus: &Corpus) -> Digests {
        let hex = set.numbers().map(|number| hex(&md5(corpus.content(number, set.size))));
        Digests { set, hex: hex.collect() }
    }
}

impl Work for Fetch {
    fn prepare(&self, number: u64, _: usize, request: &mut Request) {
        let file = member(self.set, number);
        let method = if self.head { "HEAD" } else { "GET" };
        let connection = if self.close { "close" } else { "keep-alive" };
        write_head(
            request,
            format_args!("{method} {} HTTP/1.1", Name::on(self.devices, file)),
            connection,
            "",
        );
        request.expected = Expected::Http {
            status: 200,
            length: Some(self.set.size as u64),
            body: (!self.head).then(|| Corpus::place(file, self.set.size)),
            bodiless: self.head,
        };
    }
}

impl Work for Miss {
    fn prepare(&self, number: u64, _: usize, request: &mut Request) {
        let name = Name::on(1, member(self.0, number));
        write_head(request, format_args!("GET {name} HTTP/1.1"), "keep-alive", "");
        request.expected = status(404);
    }
}

impl Work for Store {
    fn steps(&self) -> usize {
        if self.delete { 2 } else { 1 }
    }

    fn prepare(&self, number: u64, step: usize, request: &mut Request) {
        let name = Name::on(self.devices, number);
        if step == 1 {
            write_head(request, format_args!("DELETE {name} HTTP/1.1"), "keep-alive", "");
            request.expected = status(204);
            return;
        }
        let first = format_args!("PUT {name} HTTP/1.1");
        let digest = self.digests.as_ref().map(|all| &all[(number % VARIANTS) as usize]);
        let size = self.size;
        match digest {
            Some(digest) => {
                put_head(request, first, size, format_args!("Content-MD5: {digest}\r\n"));
            }
            None => put_head(request, first, size, format_args!("")),
        }
        request.body = Corpus::place(number, size);
        request.expected = status(201);
    }
}

impl Work for WrongDigest {
    fn prepare(&self, number: u64, _: usize, request: &mut Request) {
        let digest = base64(&md5(b"something else"));
        let more = format_args!("Content-MD5: {digest}\r\n");
        put_head(request, format_args!("PUT {} HTTP/1.1", Name::on(1, number)), 4096, more);
        request.body = Corpus::place(number, 4096);
        request.expected = status(400);
    }
}

impl Work for Sizes {
    fn prepare(&self, number: u64, _: usize, request: &mut Request) {
        let name = Name::on(1, member(self.0, number));
        ask(request, format_args!("size {name}"), format_args!("{name} {}", self.0.size));
    }
}

impl Work for Digests {
    fn unseen(&self) -> u64 {
        self.set.size as u64
    }

    fn prepare(&self, number: u64, _: usize, request: &mut Request) {
        let file = member(self.set, number);
        let (name, hex) = (Name::on(1, file), &self.hex[(file - self.set.first) as usize]);
        ask(request, format_args!("MD5 {name}"), format_args!("{name} MD5={hex}"));
    }
}

/// A file of the set for each number, all equally often, neighbours apart from each other.
fn member(set: Set, number: u64) -> u64 {
    const STRIDE: u64 = 617; // a prime that divides no set's count
    set.first + number.wrapping_mul(STRIDE) % set.count * set.apart
}

fn status(status: u16) -> Expected {
    Expected::Http { status, length: None, body: None, bodiless: false }
}

/// Writing to a vector cannot fail.
fn write_head(request: &mut Request, first: std::fmt::Arguments, connection: &str, more: &str) {
    request.head.clear();
    request.body = 0..0;
    let _ = write!(
        request.head,
        "{first}\r\nHost: 127.0.0.1\r\nConnection: {connection}\r\n{more}\r\n"
    );
}

fn put_head(
    request: &mut Request,
    first: std::fmt::Arguments,
    size: usize,
    more: std::fmt::Arguments,
) {
    request.head.clear();
    let _ = write!(
        request.head,
        "{first}\r\nHost: 127.0.0.1\r\nConnection: keep-alive\r\nContent-Length: {size}\r\n{more}\r\n"
    );
}

fn ask(request: &mut Request, line: std::fmt::Arguments, answer: std::fmt::Arguments) {
    request.head.clear();
    request.body = 0..0;
    let _ = write!(request.head, "{line}\r\n");
    let mut expected = match std::mem::take(&mut request.expected) {
        Expected::Line(line) => line,
        Expected::Http { .. } => Vec::new(),
    };
    expected.clear();
    let _ = write!(expected, "{answer}");
    request.expected = Expected::Line(expected);
}

/// The MD5 of some bytes.
pub fn md5(bytes: &[u8]) -> [u8; 16] {
    Md5::digest(bytes).into()
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As Content-MD5 wants it.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0_usize, |bits, &byte| bits << 8 | usize::from(byte));
        let bits = bits << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = char::from(ALPHABET[bits >> (18 - 6 * place) & 63]);
            text.push(if place <= three.len() { digit } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::SMALL;

    fn text(work: &dyn Work, number: u64, step: usize) -> String {
        let mut request = Request::default();
        work.prepare(number, step, &mut request);
        String::from_utf8(request.head).unwrap()
    }

    #[test]
    fn base64_of_rfc_4648() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn each_file_has_its_turn() {
        let mut seen: Vec<u64> = (0..SMALL.count).map(|number| member(SMALL, number)).collect();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(SMALL.numbers()));
    }

    #[test]
    fn requests_are_http() {
        let fetch = Fetch { set: SMALL, devices: 1, head: true, close: false };
        assert_eq!(
            text(&fetch, 0, 0),
            "HEAD /dev1/0/000/000/0000000000.fid HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: keep-alive\r\n\r\n"
        );
        let store = Store::new(4096, 1).and_delete();
        assert!(text(&store, 5, 0).ends_with("Content-Length: 4096\r\n\r\n"));
        assert!(
            text(&store, 5, 1).starts_with("DELETE /dev1/0/000/000/0000000005.fid HTTP/1.1\r\n")
        );
    }

    #[test]
    fn lines_end_as_lines_do() {
        assert_eq!(text(&Sizes(SMALL), 0, 0), "size /dev1/0/000/000/0000000000.fid\r\n");
    }
}
