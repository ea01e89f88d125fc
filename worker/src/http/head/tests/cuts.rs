//! Heads that arrive in pieces: the verdict is that of the whole, and comes at the byte that decides it.

use super::*;

/// Feeds a head that grows to each of these lengths.
fn grown(head: &[u8], lengths: impl IntoIterator<Item = usize>) -> Parsed {
    let mut scan = HeadScan::default();
    for len in lengths {
        let parsed = parse(&head[..len], &mut scan);
        if parsed != Parsed::Incomplete {
            return parsed;
        }
    }
    Parsed::Incomplete
}

const HEADS: &[&str] = &[
    "GET / HTTP/1.1\r\n\r\n",
    "\r\n\r\nGET /dev1/x HTTP/1.0\r\nConnection: keep-alive\r\nRange: bytes=5-\r\n\r\nGET /",
    "PUT /dev1/x HTTP/1.1\r\nContent-Length: 5\r\nContent-MD5: AAAAAAAAAAAAAAAAAAAAAA==\r\nExpect: 100-continue\r\n\r\nhello",
    "PUT /dev1/x HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes 0-4/5\r\n\r\n",
    "PUT /dev1/x HTTP/1.1\r\nContent-Length: 5\r\nA: b\r\nContent-Length: 6\r\nTransfer-Encoding: gzip\r\n\r\n",
    "PUT /dev1/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\nA: b\r\nTransfer-Encoding: chunked\r\nbroken\r\n\r\n",
    "GET /dev1/../x HTTP/1.1\r\nRange: bytes=0-1\r\nRange: bytes=0-1\r\nIf-Range: x\r\n\r\n",
    "POST / HTTP/1.1\r\nbroken\r\n\r\n",
    "GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
    "GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
    "GET / HTTP/1.1\nHost: x\r\n\r\n",
];

#[test]
fn cutting_in_two_changes_nothing() {
    for head in HEADS {
        let bytes = head.as_bytes();
        for cut in 0..=bytes.len() {
            assert_eq!(grown(bytes, [cut, bytes.len()]), whole(bytes), "{head:?} cut at {cut}");
        }
    }
}

#[test]
fn byte_by_byte_changes_nothing() {
    for head in HEADS {
        let bytes = head.as_bytes();
        assert_eq!(grown(bytes, 0..=bytes.len()), whole(bytes), "{head:?}");
    }
}

#[test]
fn a_contradiction_is_refused_as_soon_as_its_line_ends() {
    let head = b"PUT /dev1/x HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n";
    let last = head.len() - 1;
    assert_eq!(grown(head, 0..=last), Parsed::Incomplete);
    assert_eq!(grown(head, 0..=last + 1), Parsed::Refused(Refusal::BadRequest));
}

#[test]
fn the_scan_is_ready_for_the_next_request() {
    let mut scan = HeadScan::default();
    let head = b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(parse(&head[..35], &mut scan), Parsed::Incomplete);
    assert!(matches!(parse(head, &mut scan), Parsed::Complete { .. }));
    let next = b"PUT / HTTP/1.1\r\nContent-Length: 6\r\n\r\n";
    assert_eq!(parse(next, &mut scan), whole(next));
    assert_eq!(parse(b"x\n", &mut scan), Parsed::Refused(Refusal::BadRequest));
    assert_eq!(parse(next, &mut scan), whole(next));
}

#[test]
fn an_overlong_head_that_drips_is_refused_at_65535_bytes() {
    let head = [b"GET / HTTP/1.1\r\nA: ".as_slice(), &[b'x'; 70_000]].concat();
    assert_eq!(grown(&head, 0..=MAX_HEAD), Parsed::Incomplete);
    assert_eq!(grown(&head, 0..=MAX_HEAD + 1), Parsed::Refused(Refusal::BadRequest));
}

#[test]
fn judged_bytes_are_not_looked_at_again() {
    let head = [b"GET / HTTP/1.1\r\nA: ".as_slice(), &[b'x'; 1_000]].concat();
    let mut scan = HeadScan::default();
    assert_eq!(parse(&head, &mut scan), Parsed::Incomplete);
    // Were they looked at again, the NUL would be found.
    let mut spoilt = head.clone();
    spoilt[500] = 0;
    assert_eq!(parse(&spoilt, &mut scan), Parsed::Incomplete);
    assert_eq!(whole(&spoilt), Parsed::Refused(Refusal::BadRequest));
}
