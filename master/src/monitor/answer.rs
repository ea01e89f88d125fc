//! The bytes of an answer.

use rmogstored_worker::clock::date_now;

/// One answer, before it is known how it is asked for.
#[derive(Debug)]
pub(super) struct Answer {
    /// Code and reason.
    pub status: &'static str,
    /// Media type of the body.
    pub content_type: &'static str,
    /// More header lines, each with its end.
    pub headers: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

/// Media type of what is said in words.
pub(super) const WORDS: &str = "text/plain; charset=utf-8";
/// Media type of a page.
pub(super) const PAGE: &str = "text/html; charset=utf-8";
/// Media type of a document.
pub(super) const JSON: &str = "application/json";

impl Answer {
    /// Some words.
    pub fn words(status: &'static str, words: &str) -> Answer {
        let body = format!("{words}\n").into_bytes();
        Answer { status, content_type: WORDS, headers: "", body }
    }

    /// Its bytes. `head`: without the body. `keep`: the connection lives on.
    pub fn bytes(&self, head: bool, keep: bool) -> Vec<u8> {
        let connection = if keep { "keep-alive" } else { "close" };
        let Answer { status, content_type, headers, body } = self;
        let (date, length) = (date_now(), body.len());
        let date = str::from_utf8(date.as_bytes()).unwrap_or_default();
        let mut bytes = format!(
            "HTTP/1.1 {status}\r\nDate: {date}\r\nContent-Type: {content_type}\r\n\
             Content-Length: {length}\r\nCache-Control: no-store\r\n{headers}\
             Connection: {connection}\r\n\r\n"
        )
        .into_bytes();
        if !head {
            bytes.extend_from_slice(body);
        }
        bytes
    }
}

/// The head of a stream of events, which ends with the connection.
pub(super) const STREAM: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
    Cache-Control: no-store\r\nConnection: close\r\n\r\n";

/// One event of such a stream; `data` is one line.
pub(super) fn event(name: &str, data: &str) -> Vec<u8> {
    format!("event: {name}\ndata: {data}\n\n").into_bytes()
}
