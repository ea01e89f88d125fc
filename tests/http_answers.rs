//! The exact bytes of each answer, and whether the connection survives it.

use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use crate::harness::{Answer, Node, Setup, content_md5};

const EMPTY: &str = "Date: *|Content-Length: 0|Content-Type: text/plain|Connection:";
const LONG_AGO: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

#[test]
fn created_has_the_known_bytes() {
    let node = Node::start();
    let answer = node.client().put("/dev1/a", "a");
    has_bytes(&answer, &format!("HTTP/1.1 201 Created|Status: 201 Created|{EMPTY} keep-alive"));
}

#[test]
fn bad_request_has_the_known_bytes() {
    let node = Node::start();
    let text = "HTTP/1.1 400 Bad Request|Status: 400 Bad Request";
    has_bytes(&node.client().mkcol("/dev1/a"), &format!("{text}|{EMPTY} keep-alive"));
    has_bytes(&node.client().ask("garbage\r\n\r\n"), &format!("{text}|{EMPTY} close"));
}

#[test]
fn forbidden_has_the_known_bytes() {
    let node = Node::start();
    let answer = node.client().get("/dev1");
    has_bytes(&answer, &format!("HTTP/1.1 403 Forbidden|Status: 403 Forbidden|{EMPTY} keep-alive"));
}

#[test]
fn not_found_has_the_known_bytes() {
    let node = Node::start();
    let answer = node.client().get("/dev1/no");
    has_bytes(&answer, &format!("HTTP/1.1 404 Not Found|Status: 404 Not Found|{EMPTY} keep-alive"));
}

#[test]
fn not_found_to_head_has_the_bytes_of_get() {
    let node = Node::start();
    let answer = node.client().head("/dev1/no");
    has_bytes(&answer, &format!("HTTP/1.1 404 Not Found|Status: 404 Not Found|{EMPTY} keep-alive"));
}

#[test]
fn precondition_failed_has_the_known_bytes() {
    let node = Node::start();
    node.store("/dev1/a", "a");
    let line = format!("If-Unmodified-Since: {LONG_AGO}\r\n");
    let answer = node.client().get_with("/dev1/a", &line);
    let text = "412 Precondition Failed";
    has_bytes(&answer, &format!("HTTP/1.1 {text}|Status: {text}|{EMPTY} keep-alive"));
}

#[test]
fn internal_server_error_has_the_known_bytes() {
    let node = Node::start();
    symlink("loop", node.file("/dev1/loop")).unwrap();
    let answer = node.client().get("/dev1/loop");
    let text = "500 Internal Server Error";
    has_bytes(&answer, &format!("HTTP/1.1 {text}|Status: {text}|{EMPTY} keep-alive"));
}

#[test]
fn not_implemented_has_the_known_bytes() {
    let node = Node::start();
    let answer = node.client().ask("POST / HTTP/1.1\r\n\r\n");
    let text = "501 Not Implemented";
    has_bytes(&answer, &format!("HTTP/1.1 {text}|Status: {text}|{EMPTY} close"));
}

#[test]
fn insufficient_storage_has_the_known_bytes() {
    let node = Node::start();
    let answer = node.client().ask("GET / HTTP/1.1\r\nContent-Length: 9223372036854775808\r\n\r\n");
    let text = "507 Insufficient Storage";
    has_bytes(&answer, &format!("HTTP/1.1 {text}|Status: {text}|{EMPTY} close"));
}

#[test]
fn method_not_allowed_has_the_known_bytes() {
    let node = Setup::new().config("httpgetlisten = 127.0.0.1:0\n").start();
    let mut client = crate::harness::Client::connect(node.address("httpget"));
    let text = "405 Method Not Allowed";
    let expected = format!("HTTP/1.1 {text}|Status: {text}|{EMPTY} keep-alive");
    has_bytes(&client.delete("/dev1/a"), &expected);
}

#[test]
fn no_content_has_the_known_bytes() {
    let node = Node::start();
    node.store("/dev1/a", "a");
    let answer = node.client().delete("/dev1/a");
    let text = "204 No Content";
    has_bytes(&answer, &format!("HTTP/1.1 {text}|Status: {text}|Date: *|Connection: keep-alive"));
}

#[test]
fn not_modified_has_the_known_bytes() {
    let node = Node::start();
    let modified = store_with_known_time(&node);
    let answer = node.client().get_with("/dev1/a", &format!("If-Modified-Since: {modified}\r\n"));
    let expected = "HTTP/1.1 304 Not Modified|Status: 304 Not Modified|Date: *|\
                    Last-Modified: Sun, 09 Sep 2001 01:46:40 GMT|Connection: keep-alive";
    has_bytes(&answer, expected);
}

#[test]
fn ok_has_the_known_bytes() {
    let node = Node::start();
    store_with_known_time(&node);
    let expected = "HTTP/1.1 200 OK|Status: 200 OK|Date: *|\
                    Last-Modified: Sun, 09 Sep 2001 01:46:40 GMT|Content-Length: 10|\
                    Content-Type: application/octet-stream|Accept-Ranges: bytes|\
                    Connection: keep-alive";
    has_bytes(&node.client().get("/dev1/a"), expected);
    has_bytes(&node.client().head("/dev1/a"), expected);
}

#[test]
fn partial_content_has_the_known_bytes() {
    let node = Node::start();
    store_with_known_time(&node);
    let expected = "HTTP/1.1 206 Partial Content|Status: 206 Partial Content|Date: *|\
                    Last-Modified: Sun, 09 Sep 2001 01:46:40 GMT|Content-Length: 3|\
                    Content-Type: application/octet-stream|Content-Range: bytes 2-4/10|\
                    Connection: keep-alive";
    let answer = node.client().get_with("/dev1/a", "Range: bytes=2-4\r\n");
    has_bytes(&answer, expected);
    assert_eq!(answer.body, b"234");
    has_bytes(&node.client().head_with("/dev1/a", "Range: bytes=2-4\r\n"), expected);
}

#[test]
fn range_not_satisfiable_has_the_known_bytes() {
    let node = Node::start();
    store_with_known_time(&node);
    let text = "416 Requested Range Not Satisfiable";
    let expected = format!(
        "HTTP/1.1 {text}|Status: {text}|Date: *|Content-Length: 0|Content-Type: text/plain|\
         Content-Range: bytes */10|Connection: keep-alive"
    );
    has_bytes(&node.client().get_with("/dev1/a", "Range: bytes=10-\r\n"), &expected);
}

#[test]
fn http_1_0_requests_get_http_1_1_answers_with_their_connection() {
    let node = Node::start();
    let expected = format!("HTTP/1.1 404 Not Found|Status: 404 Not Found|{EMPTY} close");
    has_bytes(&node.client().ask("GET /dev1/no HTTP/1.0\r\n\r\n"), &expected);
}

#[test]
fn date_is_the_present_also_on_a_connection_that_has_been_open_for_a_while() {
    let node = Node::start();
    let mut client = node.client();
    let first = client.get("/");
    crate::harness::until("the next second's Date", || {
        let answer = client.get("/");
        check_date(&answer);
        answer.header("Date") != first.header("Date")
    });
}

#[test]
fn connection_survives_refusals_that_leave_the_stream_at_the_end_of_a_request() {
    let node = Node::start();
    node.store("/dev1/a", "0123456789");
    symlink("loop", node.file("/dev1/loop")).unwrap();
    for (request, status) in [
        ("GET /dev1/no HTTP/1.1\r\n\r\n", 404),
        ("DELETE /dev1/no HTTP/1.1\r\n\r\n", 404),
        ("GET /dev1 HTTP/1.1\r\n\r\n", 403),
        ("GET /dev1/.. HTTP/1.1\r\n\r\n", 403),
        ("DELETE /dev1 HTTP/1.1\r\n\r\n", 403),
        ("GET /dev1/a HTTP/1.1\r\nRange: bytes=99-\r\n\r\n", 416),
        ("GET /dev1/loop HTTP/1.1\r\n\r\n", 500),
        ("MKCOL /dev1/a HTTP/1.1\r\n\r\n", 400),
        ("GET /dev1/a HTTP/1.1\r\nRange: bytes=4qasd\r\n\r\n", 400),
    ] {
        node.stays_after(request, status);
    }
    let wrong = format!("Content-MD5: {}\r\n", content_md5("other"));
    let mut client = node.client();
    client.put_with("/dev1/b", &wrong, "body").expect_and(400, "keep-alive");
    client.stays_open();
}

#[test]
fn connection_survives_a_refused_put_whose_rest_is_known_and_small() {
    let node = Node::start();
    for length in [0, 1, 65_536] {
        let mut client = node.client();
        client.put("/dev9/a", vec![b'G'; length]).expect_and(404, "keep-alive");
        client.stays_open();
        client.put("/dev1/", vec![b'G'; length]).expect_and(400, "keep-alive");
        client.stays_open();
    }
}

#[test]
fn connection_closes_after_a_refused_put_whose_rest_is_large_or_unknown() {
    let node = Node::start();
    node.closes_after("PUT /dev9/a HTTP/1.1\r\nContent-Length: 65537\r\n\r\n", 404);
    node.closes_after("PUT /dev9/a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 404);
}

/// Ten digits, modified at Unix time 1000000000.
fn store_with_known_time(node: &Node) -> &'static str {
    node.store("/dev1/a", "0123456789");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = std::fs::File::options().write(true).open(node.file("/dev1/a")).unwrap();
    file.set_modified(time).unwrap();
    "Sun, 09 Sep 2001 01:46:40 GMT"
}

/// Compares line by line, a valid Date shown as `*`.
fn has_bytes(answer: &Answer, expected: &str) {
    check_date(answer);
    let lines = answer.headers.iter().map(|(name, value)| match name.as_str() {
        "Date" => "|Date: *".to_owned(),
        _ => format!("|{name}: {value}"),
    });
    let shown: String = std::iter::once(answer.line.clone()).chain(lines).collect();
    assert_eq!(shown, expected);
}

/// Insists on the one form that RFC 9110 section 5.6.7 lets senders use, and on the present.
fn check_date(answer: &Answer) {
    let text = answer.header("Date").unwrap_or_else(|| panic!("no Date: {answer:?}"));
    let date = httpdate::parse_http_date(text).expect("a valid date");
    assert_eq!(httpdate::fmt_http_date(date), text);
    let apart = match SystemTime::now().duration_since(date) {
        Ok(before) => before,
        Err(after) => after.duration(),
    };
    assert!(apart < Duration::from_secs(3), "{text} is {apart:?} from now");
}
