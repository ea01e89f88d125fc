//! Request heads: bytes in, a request or a refusal out (PROTOCOL.md 2.1). Pure, and free of allocations.
//!
//! A head may arrive in any pieces. [`parse`] is given all of it that is there, each time; [`HeadScan`] remembers how far it
//! has been judged. When a head took more than one call, its lines are read once more at the end for their values, so the
//! state between calls stays small and the work linear.

use std::num::NonZeroU64;

use super::condition::Conditions;
use super::date;
use super::field::{self, Decimal};
use super::range::RangeHeader;
use crate::disk::path::{DevPath, PathError};

pub use super::field::ContentMd5;
pub use super::range::ContentRange;

/// The longest head taken, with its final empty line and any empty lines before it.
pub const MAX_HEAD: usize = 65_534;

/// The methods that we know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Method {
    #[default]
    Get,
    Head,
    Put,
    Delete,
    Mkcol,
}

/// What a request is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// `/`.
    #[default]
    Root,
    /// A file or folder.
    Path(DevPath),
    /// A path with `..` in it: 403.
    Dots,
    /// A path over the length limit: 400, the connection may live on.
    TooLong,
}

/// How the body is framed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// Nothing announced.
    #[default]
    None,
    /// Content-Length, also when it is 0.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// If-Range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IfRange {
    /// There was none.
    #[default]
    Absent,
    /// Seconds since 1970.
    Date(i64),
    /// An entity tag or nonsense: never matches, so the whole file is sent.
    Other,
}

/// All that a head says and we care for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub method: Method,
    /// With what.
    pub target: Target,
    /// Whether the connection may live on, as far as the head goes.
    pub keep_alive: bool,
    /// HTTP/1.1 or later, not 1.0.
    pub http11: bool,
    /// Whether the client waits for a `100 Continue`; never for HTTP/1.0.
    pub expect_continue: bool,
    /// How the body is framed.
    pub body: Body,
    /// Range.
    pub range: Option<RangeHeader>,
    /// Content-Range.
    pub content_range: ContentRange,
    /// Content-MD5.
    pub content_md5: ContentMd5,
    /// If-Match, If-None-Match, If-Modified-Since, If-Unmodified-Since.
    pub conditions: Conditions,
    /// If-Range.
    pub if_range: IfRange,
}

/// How far a head has been judged; start each request with a default one ([`parse`] leaves one behind when it is done).
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScan {
    line: u32,
    scanned: u32,
    request_line_seen: bool,
    framing: Framing,
}

/// The outcome of a look at a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "returned by value, never stored; a box would allocate on the hot path"
)]
pub enum Parsed {
    /// Nothing wrong so far; more must come.
    Incomplete,
    /// A whole head.
    Complete {
        /// What it says.
        request: Request,
        /// Where in the buffer the body or the next request starts.
        len: usize,
    },
    /// Answer so and close.
    Refused(Refusal),
}

/// Why a message is refused; the connection closes on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 400.
    BadRequest,
    /// 501.
    NotImplemented,
    /// 507: a number past 63 bits.
    TooLarge,
}

/// Reads the head at the start of `buf`, which must hold the request's bytes from the first on, every time.
pub fn parse(buf: &[u8], scan: &mut HeadScan) -> Parsed {
    let resumed = scan.request_line_seen;
    let mut draft = Draft { framing: scan.framing, ..Draft::default() };
    let outcome = read_lines(buf, scan, &mut draft);
    match outcome {
        Ok(true) if resumed => {
            *scan = HeadScan::default();
            parse(buf, scan)
        }
        Ok(true) => {
            Parsed::Complete { request: draft.finish(), len: std::mem::take(scan).line as usize }
        }
        Ok(false) => {
            scan.framing = draft.framing;
            Parsed::Incomplete
        }
        Err(refusal) => {
            *scan = HeadScan::default();
            Parsed::Refused(refusal)
        }
    }
}

/// The facts that one line can contradict in another; kept between calls, so that the verdict does not depend on the cuts.
#[derive(Clone, Copy, Debug, Default)]
struct Framing {
    /// Plus one, which is never 0: a length has 63 bits at most. Scans of idle connections are many.
    length: Option<NonZeroU64>,
    chunked: bool,
}

#[derive(Default)]
struct Draft {
    request: Request,
    framing: Framing,
    says_close: bool,
    says_keep_alive: bool,
}

/// True at the empty line that ends the head.
fn read_lines(buf: &[u8], scan: &mut HeadScan, draft: &mut Draft) -> Result<bool, Refusal> {
    let window = &buf[..buf.len().min(MAX_HEAD)];
    while let Some(line) = next_line(window, scan)? {
        match (line.is_empty(), scan.request_line_seen) {
            (true, true) => return Ok(true),
            // RFC 9112 2.2: empty lines before the request line are ignored.
            (true, false) => {}
            (false, true) => draft.field(line)?,
            (false, false) => {
                draft.request_line(line)?;
                scan.request_line_seen = true;
            }
        }
    }
    if buf.len() > MAX_HEAD {
        return Err(Refusal::BadRequest);
    }
    Ok(false)
}

/// The next line that has arrived whole, without its CRLF. Bytes are looked at once, whatever the cuts.
fn next_line<'b>(window: &'b [u8], scan: &mut HeadScan) -> Result<Option<&'b [u8]>, Refusal> {
    let (start, from) = (scan.line as usize, scan.scanned as usize);
    let end = from + field::text_len(&window[from..]);
    scan.scanned = end as u32;
    match &window[end..] {
        [] | [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] => {
            scan.line = end as u32 + 2;
            scan.scanned = scan.line;
            Ok(Some(&window[start..end]))
        }
        _ => Err(Refusal::BadRequest),
    }
}

impl Draft {
    fn request_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let (method, rest) = split_once(line, line.iter().position(is_blank))?;
        let (target, version) = split_once(rest, rest.iter().rposition(is_blank))?;
        if method.is_empty() || target.is_empty() {
            return Err(Refusal::BadRequest);
        }
        // RFC 9110 2.5: a later minor version is understood as the latest that we know.
        self.request.http11 = match version.strip_prefix(b"HTTP/1.") {
            Some([b'0']) => false,
            Some([b'1'..=b'9']) => true,
            _ => return Err(Refusal::BadRequest),
        };
        self.request.method = known_method(method, target)?;
        self.request.target = check_target(target)?;
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let (name, value) = field::split(line).ok_or(Refusal::BadRequest)?;
        let request = &mut self.request;
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        // By length first: most fields (Host, User-Agent, Accept...) then cost no comparison at all.
        match name.len() {
            5 if is("range") => request.range = Some(one_range(request.range, value)),
            6 if is("expect") => {
                request.expect_continue |= has_element(value, "100-continue");
            }
            8 if is("if-match") => {
                request.conditions.if_match = request.conditions.if_match.with(value);
            }
            8 if is("if-range") => request.if_range = one_if_range(request.if_range, value),
            10 if is("connection") => {
                for element in field::list(value) {
                    self.says_close |= element.eq_ignore_ascii_case(b"close");
                    self.says_keep_alive |= element.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            11 if is("content-md5") => request.content_md5 = request.content_md5.with(value),
            13 if is("content-range") => request.content_range = request.content_range.with(value),
            14 if is("content-length") => self.framing.content_length(value)?,
            17 if is("transfer-encoding") => self.framing.transfer_encoding(value)?,
            13 if is("if-none-match") => {
                request.conditions.if_none_match = request.conditions.if_none_match.with(value);
            }
            17 if is("if-modified-since") => {
                request.conditions.if_modified_since = date::parse(value);
            }
            19 if is("if-unmodified-since") => {
                request.conditions.if_unmodified_since = date::parse(value);
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> Request {
        let (length, chunked) = (self.framing.length(), self.framing.chunked);
        let http11 = self.request.http11;
        // Both framings, or a chunked body in HTTP/1.0: another party on the way may have seen other requests than we do.
        let suspect = chunked && (length.is_some() || !http11);
        Request {
            keep_alive: !self.says_close && !suspect && (http11 || self.says_keep_alive),
            expect_continue: self.request.expect_continue && http11,
            body: match length {
                _ if chunked => Body::Chunked,
                Some(length) => Body::Length(length),
                None => Body::None,
            },
            ..self.request
        }
    }
}

impl Framing {
    fn length(&self) -> Option<u64> {
        self.length.map(|length| length.get() - 1)
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        let length = match field::decimal(value) {
            Decimal::Value(length) => length,
            Decimal::TooBig => return Err(Refusal::TooLarge),
            Decimal::Empty | Decimal::Nonsense => return Err(Refusal::BadRequest),
        };
        if self.length().is_some_and(|before| before != length) {
            return Err(Refusal::BadRequest);
        }
        self.length = NonZeroU64::new(length + 1);
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::NotImplemented);
        }
        self.chunked = true;
        Ok(())
    }
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn split_once(text: &[u8], at: Option<usize>) -> Result<(&[u8], &[u8]), Refusal> {
    let at = at.filter(|at| text[*at] == b' ').ok_or(Refusal::BadRequest)?;
    Ok((&text[..at], &text[at + 1..]))
}

/// A blank in the target of a known one is refused with the target.
fn known_method(method: &[u8], target: &[u8]) -> Result<Method, Refusal> {
    match method {
        b"GET" => Ok(Method::Get),
        b"HEAD" => Ok(Method::Head),
        b"PUT" => Ok(Method::Put),
        b"DELETE" => Ok(Method::Delete),
        b"MKCOL" => Ok(Method::Mkcol),
        _ if field::is_token(method) && !target.iter().any(is_blank) => {
            Err(Refusal::NotImplemented)
        }
        _ => Err(Refusal::BadRequest),
    }
}

fn check_target(raw: &[u8]) -> Result<Target, Refusal> {
    match DevPath::parse(strip_origin(raw)?) {
        Ok(path) if path.is_root() => Ok(Target::Root),
        Ok(path) => Ok(Target::Path(path)),
        Err(PathError::Dots) => Ok(Target::Dots),
        Err(PathError::TooLong) => Ok(Target::TooLong),
        Err(PathError::BadByte | PathError::NotAbsolute) => Err(Refusal::BadRequest),
    }
}

/// Takes `http://host[:port]` off; which host does not matter, only that it could be one. Nothing
/// behind it: `/` (RFC 9110 4.2.3).
fn strip_origin(raw: &[u8]) -> Result<&[u8], Refusal> {
    let scheme = raw.get(..7).unwrap_or_default();
    if !scheme.eq_ignore_ascii_case(b"http://") {
        return Ok(raw);
    }
    let (origin, path) = match raw[7..].iter().position(|byte| *byte == b'/') {
        Some(slash) => raw[7..].split_at(slash),
        None => (&raw[7..], &b"/"[..]),
    };
    if is_origin(origin) { Ok(path) } else { Err(Refusal::BadRequest) }
}

/// `host[:port]`; the port may be any number, or left out behind its colon (RFC 3986 3.2.3).
fn is_origin(text: &[u8]) -> bool {
    let literal = text.first() == Some(&b'[');
    let end = match literal {
        true => text.iter().position(|byte| *byte == b']').map_or(0, |at| at + 1),
        false => text.iter().position(|byte| *byte == b':').unwrap_or(text.len()),
    };
    let (host, port) = text.split_at(end);
    let is_port = match port {
        [] => true,
        [colon, digits @ ..] => *colon == b':' && digits.iter().all(u8::is_ascii_digit),
    };
    is_port && !host.is_empty() && host.iter().all(|byte| is_host_byte(*byte, literal))
}

/// RFC 3986 3.2.2: names and addresses; IPv6 in brackets.
fn is_host_byte(byte: u8, literal: bool) -> bool {
    byte.is_ascii_alphanumeric()
        || b"-._~%!$&'()*+,;=".contains(&byte)
        || literal && b"[]:".contains(&byte)
}

fn has_element(value: &[u8], wanted: &str) -> bool {
    field::list(value).any(|element| element.eq_ignore_ascii_case(wanted.as_bytes()))
}

/// Several Range fields are several ranges.
fn one_range(before: Option<RangeHeader>, value: &[u8]) -> RangeHeader {
    match before {
        None => RangeHeader::parse(value),
        Some(_) => RangeHeader::Ignored,
    }
}

fn one_if_range(before: IfRange, value: &[u8]) -> IfRange {
    match (before, date::parse(value)) {
        (IfRange::Absent, Some(date)) => IfRange::Date(date),
        _ => IfRange::Other,
    }
}

#[cfg(test)]
mod tests;
