//! What is answered where.

use std::borrow::Cow;

use rmogstored_worker::http::head::{
    Body, HeadScan, Method, Parsed, Refusal, Request, Target, parse,
};

use super::accept::Format;
use super::answer::{Answer, JSON, PAGE, STREAM, event};
use super::facts::Facts;
use super::metrics;

const OK: &str = "200 OK";
const BAD_REQUEST: &str = "400 Bad Request";
const NOT_FOUND: &str = "404 Not Found";
const NOT_ALLOWED: &str = "405 Method Not Allowed";
const UNAVAILABLE: &str = "503 Service Unavailable";

/// The page fetches nothing from elsewhere, and nobody else's script runs in it.
const PAGE_HEADERS: &str = "Content-Security-Policy: default-src 'none'; \
    style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:\r\n";
const PAGE_TEXT: &str = include_str!("page.html");

/// What is to be sent, and what follows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// To be sent.
    pub bytes: Vec<u8>,
    /// What follows.
    pub then: Then,
}

/// What follows an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// The next request.
    Keep,
    /// The end.
    Close,
    /// Events, for as long as the connection lasts.
    Stream,
}

/// Answers what stands at the beginning of `input`; the number of bytes that it took. `None`: more
/// must come.
pub(super) fn answer(input: &[u8], facts: &Facts) -> Option<(Reply, usize)> {
    let plain = without_query(input);
    let (request, len) = match parse(&plain, &mut HeadScan::default()) {
        Parsed::Incomplete => return None,
        Parsed::Complete { request, len } => (request, len + input.len() - plain.len()),
        Parsed::Refused(refusal) => {
            let (status, words) = match refusal {
                Refusal::NotImplemented => (NOT_ALLOWED, "only GET and HEAD"),
                _ => (BAD_REQUEST, "this is no request"),
            };
            let bytes = Answer::words(status, words).bytes(false, false);
            return Some((Reply { bytes, then: Then::Close }, input.len()));
        }
    };
    let head = request.method == Method::Head;
    // A body is not read: what follows it would be taken for a request.
    let keep = request.keep_alive && request.body == Body::None;
    let path = path(&request);
    if path == "/events" && request.method == Method::Get {
        return Some((stream(facts), len));
    }
    let bytes = at(path, &request, &input[..len], facts).bytes(head, keep);
    Some((Reply { bytes, then: if keep { Then::Keep } else { Then::Close } }, len))
}

/// No file's name has one, so the parser refuses it; here it is left aside.
fn without_query(input: &[u8]) -> Cow<'_, [u8]> {
    let end = input.iter().position(|byte| *byte == b'\r').unwrap_or(input.len());
    let Some(begin) = input[..end].iter().position(|byte| *byte == b'?') else {
        return Cow::Borrowed(input);
    };
    let length = input[begin..end].iter().position(|byte| *byte == b' ');
    let length = length.unwrap_or(end - begin);
    Cow::Owned([&input[..begin], &input[begin + length..]].concat())
}

fn path(request: &Request) -> &str {
    match &request.target {
        Target::Root => "/",
        Target::Path(path) => path.as_str(),
        Target::Dots | Target::TooLong => "",
    }
}

fn at(path: &str, request: &Request, head: &[u8], facts: &Facts) -> Answer {
    if !matches!(request.method, Method::Get | Method::Head) {
        let refused = Answer::words(NOT_ALLOWED, "only GET and HEAD");
        return Answer { headers: "Allow: GET, HEAD\r\n", ..refused };
    }
    let document = |content_type, body: String| {
        let body = body.into_bytes();
        Answer { status: OK, content_type, headers: "", body }
    };
    match path {
        "/" => Answer { headers: PAGE_HEADERS, ..document(PAGE, PAGE_TEXT.to_owned()) },
        "/metrics" => {
            facts.note_look();
            let format = Format::wanted(head);
            document(format.content_type(), metrics::text(facts, format))
        }
        "/status.json" => match facts.status_json() {
            Some(text) => document(JSON, text),
            None => Answer::words(UNAVAILABLE, "the master has not said anything yet"),
        },
        "/events" => document("text/event-stream", String::new()),
        "/healthz" => Answer::words(OK, "ok"),
        "/readyz" => match facts.reasons() {
            reasons if reasons.is_empty() => Answer::words(OK, "ok"),
            reasons => Answer::words(UNAVAILABLE, &reasons.join("\n")),
        },
        _ => Answer::words(NOT_FOUND, "there is nothing here"),
    }
}

fn stream(facts: &Facts) -> Reply {
    facts.note_look();
    let first = facts.status_json().map(|status| event("status", &status));
    let bytes = [STREAM, &first.unwrap_or_default()].concat();
    Reply { bytes, then: Then::Stream }
}

#[cfg(test)]
mod tests;
