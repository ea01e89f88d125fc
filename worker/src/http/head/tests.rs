use super::*;
use crate::disk::path::DevId;

mod cuts;
mod model;

/// The outcome of a head that is there at once.
fn whole(head: &[u8]) -> Parsed {
    parse(head, &mut HeadScan::default())
}

/// The request of a head that must be fine and end where the text ends.
fn request(head: &str) -> Request {
    match whole(head.as_bytes()) {
        Parsed::Complete { request, len } if len == head.len() => request,
        other => panic!("{head:?}: {other:?}"),
    }
}

/// A GET in HTTP/1.1 with these header lines.
fn with(fields: &str) -> Request {
    request(&format!("GET /dev1/x HTTP/1.1\r\n{fields}\r\n\r\n"))
}

fn refused(head: &str) -> Option<Refusal> {
    match whole(head.as_bytes()) {
        Parsed::Refused(refusal) => Some(refusal),
        Parsed::Incomplete | Parsed::Complete { .. } => None,
    }
}

fn field_refused(fields: &str) -> Option<Refusal> {
    refused(&format!("PUT /dev1/x HTTP/1.1\r\n{fields}\r\n"))
}

#[test]
fn the_request_line_is_read() {
    for (text, method) in [
        ("GET", Method::Get),
        ("HEAD", Method::Head),
        ("PUT", Method::Put),
        ("DELETE", Method::Delete),
        ("MKCOL", Method::Mkcol),
    ] {
        let request = request(&format!("{text} //dev7/x HTTP/1.0\r\n\r\n"));
        assert_eq!(request.method, method);
        assert!(!request.http11);
        let Target::Path(path) = request.target else {
            panic!("{:?}", request.target);
        };
        assert_eq!(path.as_str(), "/dev7/x");
        assert_eq!(path.device(), DevId::new(7));
    }
}

#[test]
fn targets_are_sorted() {
    let target = |text: &str| request(&format!("GET {text} HTTP/1.1\r\n\r\n")).target;
    let long_host = format!("http://{}:80//dev1/x", "h".repeat(60_000));
    let path = target("/dev1/x");
    assert_eq!(target("/"), Target::Root);
    assert_eq!(target("///"), Target::Root);
    assert_eq!(target("http://host/"), Target::Root);
    assert_eq!(target("http://host/dev1/x"), path);
    assert_eq!(target("HTTP://[::1]:7500/dev1/x"), path);
    assert_eq!(target(&long_host), path);
    for port in ["", ":", ":0", ":7500", ":99999", ":18446744073709551616"] {
        assert_eq!(target(&format!("http://host{port}/dev1/x")), path, "{port:?}");
        assert_eq!(target(&format!("http://host{port}")), Target::Root, "{port:?}");
        assert_eq!(target(&format!("http://[::1]{port}//")), Target::Root, "{port:?}");
    }
    assert_eq!(target("/dev1/../x"), Target::Dots);
    assert_eq!(target("http://h/.."), Target::Dots);
    assert_eq!(target(&format!("/{}", "x".repeat(60_000))), Target::TooLong);
}

#[test]
fn targets_that_are_none_are_bad_requests() {
    for target in [
        "dev1/x",
        "*",
        "?",
        "/dev1/x?y",
        "/dev1/%41",
        "/dev1/x_y",
        "/dev1/\u{fc}",
        "http://",
        "http:///dev1/x",
        "http://:80/x",
        "http://:80",
        "http://host:port/x",
        "http://host:80:80/x",
        "http://host:-1",
        "http://[::1/x",
        "http://[::1]80/x",
        "http://user@host/x",
        "http:/dev1/x",
        "http://ho?st/x",
        "http://ho st/x",
        "https://host/x",
        "ftp://host/x",
        "host:80",
        "/dev1/a b",
        "",
    ] {
        let head = format!("GET {target} HTTP/1.1\r\n");
        assert_eq!(refused(&head), Some(Refusal::BadRequest), "{target}");
    }
}

#[test]
fn later_minor_versions_are_1_1() {
    for minor in 0..=9 {
        let head = format!("PUT / HTTP/1.{minor}\r\nExpect: 100-continue\r\n\r\n");
        let request = request(&head);
        let later = minor > 0;
        let found = (request.http11, request.keep_alive, request.expect_continue);
        assert_eq!(found, (later, later, later), "{head:?}");
    }
}

#[test]
fn broken_request_lines_are_bad_requests() {
    for line in [
        "GET",
        "GET /",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        " GET / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET\t/\tHTTP/1.1",
        "GET / HTTP/2.0",
        "GET / HTTP/0.9",
        "GET / HTTP/1.10",
        "GET / HTTP/1.",
        "GET / HTTP/1.x",
        "GET / HTTP/1.-1",
        "PRI * HTTP/2.0",
        "GET / http/1.1",
        "GET / HTTP/11",
        "G(T / HTTP/1.1",
        "GE\u{e9} / HTTP/1.1",
        "FOO / HTTP/3.0",
        "FOO",
        "GET/ HTTP/1.1",
    ] {
        assert_eq!(refused(&format!("{line}\r\n")), Some(Refusal::BadRequest), "{line:?}");
    }
}

#[test]
fn other_methods_are_not_implemented() {
    for line in [
        "POST / HTTP/1.1",
        "OPTIONS * HTTP/1.0",
        "get / HTTP/1.1",
        "CONNECT h:1 HTTP/1.1",
        "GETX / HTTP/1.1",
        "A!#$%&'*+-.^_`|~1 / HTTP/1.1",
    ] {
        assert_eq!(refused(&format!("{line}\r\n")), Some(Refusal::NotImplemented), "{line}");
    }
}

#[test]
fn empty_lines_before_a_request_are_skipped() {
    assert_eq!(request("\r\n\r\nGET / HTTP/1.1\r\n\r\n").target, Target::Root);
    assert_eq!(whole(b"\r\n\r\n"), Parsed::Incomplete);
    assert_eq!(refused("\n"), Some(Refusal::BadRequest));
    assert_eq!(refused("\rG"), Some(Refusal::BadRequest));
}

#[test]
fn what_follows_the_head_is_left_alone() {
    let head = "GET / HTTP/1.1\r\nA: b\r\n\r\n";
    let buf = format!("{head}\n\0garbage");
    let Parsed::Complete { len, .. } = whole(buf.as_bytes()) else {
        panic!("complete");
    };
    assert_eq!(len, head.len());
}

#[test]
fn control_characters_are_refused_before_the_line_ends() {
    for byte in (0..0x20).chain([0x7f]) {
        for start in
            ["", "GET /", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nA: b", "GET / HTTP/1.1\r\nA"]
        {
            let head = [start.as_bytes(), &[byte, b'x']].concat();
            let expected = match byte {
                b'\t' => Parsed::Incomplete,
                _ => Parsed::Refused(Refusal::BadRequest),
            };
            assert_eq!(whole(&head), expected, "{byte} after {start:?}");
        }
    }
}

#[test]
fn broken_fields_are_refused_without_the_rest_of_the_head() {
    for line in [
        "Host",
        "Host : x",
        ": x",
        " Host: x",
        "\tfolded",
        "A: b\r\n folded",
        "Ho st: x",
        "A: b\nB: c",
        "A: b\rB: c",
        "A: \0",
        "\u{e9}: x",
    ] {
        assert_eq!(field_refused(line), Some(Refusal::BadRequest), "{line:?}");
    }
}

#[test]
fn strange_fields_are_no_harm() {
    let plain = with("A: b");
    for fields in [
        "A:",
        "A: :;,=\t\"",
        "A: \u{fc}",
        "X-Content-Length: +5",
        "Content-Lengths: 5",
        "A: b\r\nA: b",
        "Host:",
    ] {
        assert_eq!(with(fields), plain, "{fields:?}");
    }
}

#[test]
fn connection_is_a_list_in_any_case() {
    for (version, field, keep_alive) in [
        ("1.1", "A: b", true),
        ("1.0", "A: b", false),
        ("1.1", "Connection: close", false),
        ("1.1", "CONNECTION: Close", false),
        ("1.0", "Connection: keep-alive", true),
        ("1.0", "connection:Keep-Alive, keep-alive", true),
        ("1.0", "Connection: TE, Keep-Alive", true),
        ("1.1", "Connection: TE, close", false),
        ("1.1", "Connection: ,, \t,close\t,", false),
        ("1.1", "Connection: closed, keep-alive", true),
        ("1.0", "Connection: keep-alive, close", false),
        ("1.0", "Connection: close\r\nConnection: keep-alive", false),
        ("1.0", "Connection: TE\r\nConnection: keep-alive", true),
        ("1.0", "Connection: keep alive", false),
        ("1.0", "Connection:", false),
        ("1.1", "Proxy-Connection: close", true),
    ] {
        let request = request(&format!("GET / HTTP/{version}\r\n{field}\r\n\r\n"));
        assert_eq!(request.keep_alive, keep_alive, "{version} {field}");
    }
}

#[test]
fn bodies_are_framed() {
    for (fields, body, keep_alive) in [
        ("A: b", Body::None, true),
        ("Content-Length: 0", Body::Length(0), true),
        ("content-length:5", Body::Length(5), true),
        ("Content-Length: 5\r\nContent-length: 5", Body::Length(5), true),
        ("Content-Length: 9223372036854775807", Body::Length(i64::MAX as u64), true),
        ("Transfer-Encoding: chunked", Body::Chunked, true),
        ("Transfer-Encoding:Chunked\t", Body::Chunked, true),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", Body::Chunked, false),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", Body::Chunked, false),
    ] {
        let request = with(fields);
        assert_eq!((request.body, request.keep_alive), (body, keep_alive), "{fields:?}");
    }
}

#[test]
fn a_chunked_body_ends_a_connection_of_1_0() {
    let request = request(
        "PUT /dev1/x HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    assert_eq!((request.body, request.keep_alive), (Body::Chunked, false));
}

#[test]
fn ambiguous_lengths_are_refused() {
    for value in ["", "12a", "+5", "-5", "5, 5", "5,5", "5 5", "0x5", "5;", "\"5\"", "5.0"] {
        assert_eq!(
            field_refused(&format!("Content-Length: {value}")),
            Some(Refusal::BadRequest),
            "{value:?}"
        );
    }
    assert_eq!(field_refused("Content-Length: 5\r\nContent-Length: 6"), Some(Refusal::BadRequest));
    assert_eq!(field_refused("Content-Length : 5"), Some(Refusal::BadRequest));
    assert_eq!(field_refused("Content-Length: 9223372036854775808"), Some(Refusal::TooLarge));
    assert_eq!(
        field_refused("Content-Length: 99999999999999999999999999"),
        Some(Refusal::TooLarge)
    );
}

#[test]
fn other_transfer_encodings_are_not_implemented() {
    for value in [
        "",
        "gzip",
        "identity",
        "chunked, chunked",
        "gzip, chunked",
        "chunked;x",
        "xchunked",
        "\"chunked\"",
        "chunked\r\nTransfer-Encoding: chunked",
    ] {
        assert_eq!(
            field_refused(&format!("Transfer-Encoding: {value}")),
            Some(Refusal::NotImplemented),
            "{value:?}"
        );
    }
}

#[test]
fn continue_is_expected_by_1_1_only() {
    let expects = |version: &str, value: &str| {
        request(&format!("PUT /dev1/x HTTP/{version}\r\nExpect: {value}\r\n\r\n")).expect_continue
    };
    assert!(expects("1.1", "100-continue"));
    assert!(expects("1.1", "100-Continue"));
    assert!(!expects("1.0", "100-continue"));
    assert!(!expects("1.1", "something"));
    assert!(!expects("1.1", ""));
}

#[test]
fn ranges_and_conditions_are_read() {
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    let range = RangeHeader::From { first: 0, last: Some(4) };
    assert_eq!(with("Range: bytes=0-4").range, Some(range));
    assert_eq!(with("Range: bytes=4qasd").range, Some(RangeHeader::Nonsense));
    assert_eq!(with("Range: bytes=0-4\r\nRange: bytes=0-4").range, Some(RangeHeader::Ignored));
    assert_eq!(with("A: b").range, None);
    assert_eq!(
        with(&format!("If-Modified-Since: {date}")).conditions.if_modified_since,
        Some(784_111_777)
    );
    assert_eq!(with("If-Modified-Since: yesterday").conditions.if_modified_since, None);
    assert_eq!(
        with(&format!("If-Unmodified-Since: {date}")).conditions.if_unmodified_since,
        Some(784_111_777)
    );
    assert_eq!(with("If-Unmodified-Since: 0").conditions.if_unmodified_since, None);
    assert_eq!(with(&format!("If-Range: {date}")).if_range, IfRange::Date(784_111_777));
    assert_eq!(with("If-Range: \"tag\"").if_range, IfRange::Other);
    assert_eq!(with(&format!("If-Range: {date}\r\nIf-Range: {date}")).if_range, IfRange::Other);
    assert_eq!(with("A: b").if_range, IfRange::Absent);
}

#[test]
fn put_fields_are_read() {
    let zero = "AAAAAAAAAAAAAAAAAAAAAA==";
    let bytes = ContentRange::Bytes { first: 5, last: 9 };
    assert_eq!(with("Content-Range: bytes 5-9/*").content_range, bytes);
    assert_eq!(with("Content-Range: x").content_range, ContentRange::Malformed);
    assert_eq!(
        with("Content-Range: bytes 0-9223372036854775808/*").content_range,
        ContentRange::TooBig
    );
    assert_eq!(with(&format!("Content-MD5: {zero}")).content_md5, ContentMd5::Digest([0; 16]));
    assert_eq!(with("Content-MD5: x").content_md5, ContentMd5::Malformed);
    assert_eq!(with("A: b").content_md5, ContentMd5::Absent);
}

#[test]
fn a_head_of_65534_bytes_is_taken_and_one_more_is_not() {
    let head = |len: usize| {
        let frame = "GET / HTTP/1.1\r\nA: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(len - frame))
    };
    assert_eq!(request(&head(MAX_HEAD)).target, Target::Root);
    let long = head(MAX_HEAD + 1);
    assert_eq!(whole(&long.as_bytes()[..MAX_HEAD]), Parsed::Incomplete);
    assert_eq!(refused(&long), Some(Refusal::BadRequest));
    assert_eq!(refused(&"\r\n".repeat(40_000)), Some(Refusal::BadRequest));
    assert_eq!(refused(&"x".repeat(65_535)), Some(Refusal::BadRequest));
    assert_eq!(whole("x".repeat(65_534).as_bytes()), Parsed::Incomplete);
}

#[test]
fn thousands_of_short_headers_are_taken() {
    let head = format!("GET /dev1/x HTTP/1.1\r\n{}\r\n", "X-abcde: fghi\r\n".repeat(4_094));
    assert!(head.len() <= MAX_HEAD);
    assert!(request(&head).keep_alive);
}
