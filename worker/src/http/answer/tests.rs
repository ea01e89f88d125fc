use super::*;
use proptest::prelude::*;
use std::time::{Duration, UNIX_EPOCH};

const NOW: i64 = 784_111_777;

/// What a writer appends to a buffer that is in use already.
fn written(write: impl FnOnce(&mut Vec<u8>, &HttpDate)) -> String {
    let mut out = b"before|".to_vec();
    write(&mut out, &HttpDate::from_unix(NOW));
    String::from_utf8(out).expect("answers are ASCII")
}

#[test]
fn empty_answers_have_these_bytes() {
    for (status, code, text) in [
        (Status::Created201, 201, "201 Created"),
        (Status::BadRequest400, 400, "400 Bad Request"),
        (Status::Forbidden403, 403, "403 Forbidden"),
        (Status::NotFound404, 404, "404 Not Found"),
        (Status::MethodNotAllowed405, 405, "405 Method Not Allowed"),
        (Status::PreconditionFailed412, 412, "412 Precondition Failed"),
        (Status::InternalServerError500, 500, "500 Internal Server Error"),
        (Status::NotImplemented501, 501, "501 Not Implemented"),
        (Status::InsufficientStorage507, 507, "507 Insufficient Storage"),
    ] {
        assert_eq!(status.code(), code);
        for (keep_alive, connection) in [(true, "keep-alive"), (false, "close")] {
            assert_eq!(
                written(|out, date| empty(out, status, date, keep_alive)),
                format!(
                    "before|HTTP/1.1 {text}\r\nStatus: {text}\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
                     Content-Length: 0\r\nContent-Type: text/plain\r\nConnection: {connection}\r\n\r\n"
                )
            );
        }
    }
}

#[test]
fn unavailable_asks_to_come_back() {
    assert_eq!(
        written(|out, date| empty(out, Status::ServiceUnavailable503, date, true)),
        "before|HTTP/1.1 503 Service Unavailable\r\nStatus: 503 Service Unavailable\r\n\
         Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 0\r\nContent-Type: text/plain\r\n\
         Retry-After: 10\r\nConnection: keep-alive\r\n\r\n"
    );
}

#[test]
fn delete_answers_without_a_length() {
    assert_eq!(
        written(|out, date| no_content(out, date, true)),
        "before|HTTP/1.1 204 No Content\r\nStatus: 204 No Content\r\n\
         Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nConnection: keep-alive\r\n\r\n"
    );
}

#[test]
fn not_modified_has_these_bytes() {
    assert_eq!(
        written(|out, date| not_modified(out, date, &HttpDate::EPOCH, false)),
        "before|HTTP/1.1 304 Not Modified\r\nStatus: 304 Not Modified\r\n\
         Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nLast-Modified: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
         Connection: close\r\n\r\n"
    );
}

#[test]
fn whole_file_has_these_bytes() {
    assert_eq!(
        written(|out, date| file(out, date, &HttpDate::EPOCH, 4096, true)),
        "before|HTTP/1.1 200 OK\r\nStatus: 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
         Last-Modified: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 4096\r\n\
         Content-Type: application/octet-stream\r\nAccept-Ranges: bytes\r\nConnection: keep-alive\r\n\r\n"
    );
}

#[test]
fn part_has_these_bytes() {
    assert_eq!(
        written(|out, date| part(out, date, &HttpDate::EPOCH, 5, 14, 900, false)),
        "before|HTTP/1.1 206 Partial Content\r\nStatus: 206 Partial Content\r\n\
         Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nLast-Modified: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
         Content-Length: 10\r\nContent-Type: application/octet-stream\r\n\
         Content-Range: bytes 5-14/900\r\nConnection: close\r\n\r\n"
    );
}

#[test]
fn unsatisfiable_has_these_bytes() {
    assert_eq!(
        written(|out, date| unsatisfiable(out, date, 900, true)),
        "before|HTTP/1.1 416 Requested Range Not Satisfiable\r\nStatus: 416 Requested Range Not Satisfiable\r\n\
         Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 0\r\nContent-Type: text/plain\r\n\
         Content-Range: bytes */900\r\nConnection: keep-alive\r\n\r\n"
    );
}

#[test]
fn a_fresh_buffer_is_allocated_once() {
    let mut out = Vec::new();
    let (date, max) = (HttpDate::EPOCH, u64::MAX >> 1);
    out.reserve(384);
    let room = out.capacity();
    part(&mut out, &date, &date, 0, max, max, true);
    assert_eq!(out.capacity(), room);
}

#[test]
fn dates_at_the_edges_are_right() {
    for (seconds, text) in [
        (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        (-1, "Wed, 31 Dec 1969 23:59:59 GMT"),
        (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
        (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
        (i64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        (i64::MIN, "Sat, 01 Jan 0000 00:00:00 GMT"),
    ] {
        assert_eq!(format!("{:?}", HttpDate::from_unix(seconds)), text);
    }
    assert_eq!(HttpDate::from_unix(0), HttpDate::EPOCH);
}

#[test]
fn every_day_of_400_years_agrees_with_httpdate() {
    for day in 0..146_097_u64 {
        let seconds = day * 86_400 + day % 86_400;
        let known = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(HttpDate::from_unix(seconds as i64).as_bytes(), known.as_bytes());
    }
}

proptest! {
    #[test]
    fn any_time_agrees_with_httpdate(seconds in 0u64..=253_402_300_799) {
        let known = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
        let ours = HttpDate::from_unix(seconds as i64);
        prop_assert_eq!(&ours.as_bytes()[..], known.as_bytes());
    }

    #[test]
    fn numbers_are_written_in_full(value: u64, shift in 0u32..64) {
        let mut out = Vec::new();
        number(&mut out, value >> shift);
        prop_assert_eq!(out, (value >> shift).to_string().into_bytes());
    }
}
