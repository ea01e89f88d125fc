//! The parser against a simple model, which works on whole strings with the standard library's searches.

use super::*;
use proptest::prelude::*;
use proptest::sample::{Index, select};

#[derive(Debug, PartialEq)]
enum Verdict {
    Incomplete,
    Refused(Refusal),
    Complete(String, usize),
}

/// What is compared of a request, as text.
fn summary(method: &str, path: &str, keep: bool, expect: bool, body: &str, range: &str) -> String {
    format!("{method} {path} keep={keep} expect={expect} body={body} range={range}")
}

fn verdict(parsed: Parsed) -> Verdict {
    let (request, len) = match parsed {
        Parsed::Incomplete => return Verdict::Incomplete,
        Parsed::Refused(refusal) => return Verdict::Refused(refusal),
        Parsed::Complete { request, len } => (request, len),
    };
    let path = match &request.target {
        Target::Root => "/",
        Target::Path(path) => path.as_str(),
        Target::Dots => "dots",
        Target::TooLong => "long",
    };
    let body = match request.body {
        Body::None => "none".to_owned(),
        Body::Length(length) => length.to_string(),
        Body::Chunked => "chunked".to_owned(),
    };
    let range = match request.range {
        None => "none",
        Some(RangeHeader::From { first: 7, last: None }) => "from 7",
        Some(_) => "other",
    };
    let method = format!("{:?}", request.method).to_uppercase();
    let (keep, expect) = (request.keep_alive, request.expect_continue);
    Verdict::Complete(summary(&method, path, keep, expect, &body, range), len)
}

/// Goes from line to line; what is wrong first decides.
fn model(text: &str) -> Verdict {
    let (mut rest, mut lines) = (text, Vec::new());
    loop {
        let Some(at) = rest.find(|c: char| c.is_ascii_control() && c != '\t') else {
            return Verdict::Incomplete;
        };
        if &rest[at..] == "\r" {
            return Verdict::Incomplete;
        }
        if !rest[at..].starts_with("\r\n") {
            return Verdict::Refused(Refusal::BadRequest);
        }
        let line = &rest[..at];
        rest = &rest[at + 2..];
        match (line.is_empty(), lines.is_empty()) {
            (true, true) => continue,
            (true, false) => {
                return Verdict::Complete(model_summary(&lines), text.len() - rest.len());
            }
            (false, _) => lines.push(line),
        }
        if let Some(refusal) = request_line_fault(lines[0]).or_else(|| field_fault(&lines)) {
            return Verdict::Refused(refusal);
        }
    }
}

fn values<'l>(lines: &[&'l str], name: &str) -> Vec<&'l str> {
    let fields = lines[1..].iter().filter_map(|line| line.split_once(':'));
    fields
        .filter(|(found, _)| found.to_lowercase() == name)
        .map(|(_, value)| value.trim_matches([' ', '\t']))
        .collect()
}

fn request_line_fault(line: &str) -> Option<Refusal> {
    let words: Vec<&str> = line.split(' ').collect();
    let [method, target, "HTTP/1.0" | "HTTP/1.1" | "HTTP/1.9"] = words[..] else {
        return Some(Refusal::BadRequest);
    };
    if method.is_empty() || method.contains(':') || target.is_empty() {
        return Some(Refusal::BadRequest);
    }
    if !["GET", "HEAD", "PUT", "DELETE", "MKCOL"].contains(&method) {
        return Some(Refusal::NotImplemented);
    }
    let strange = |c: char| !(c.is_ascii_alphanumeric() || "/.-".contains(c));
    (!target.starts_with('/') || target.contains(strange)).then_some(Refusal::BadRequest)
}

/// Looks at all fields so far anew.
fn field_fault(lines: &[&str]) -> Option<Refusal> {
    for line in &lines[1..] {
        match line.split_once(':') {
            Some((name, _)) if !name.is_empty() && !name.contains([' ', '\t']) => {}
            _ => return Some(Refusal::BadRequest),
        }
    }
    let lengths = values(lines, "content-length");
    let strange = |c: char| !c.is_ascii_digit();
    if lengths.iter().any(|length| length.is_empty() || length.contains(strange)) {
        return Some(Refusal::BadRequest);
    }
    let numbers: Result<Vec<i64>, _> = lengths.iter().map(|length| length.parse()).collect();
    let Ok(mut numbers) = numbers else {
        return Some(Refusal::TooLarge);
    };
    numbers.dedup();
    if numbers.len() > 1 {
        return Some(Refusal::BadRequest);
    }
    let codings = values(lines, "transfer-encoding").join("+").to_lowercase();
    let any = !values(lines, "transfer-encoding").is_empty();
    (any && codings != "chunked").then_some(Refusal::NotImplemented)
}

fn model_summary(lines: &[&str]) -> String {
    let words: Vec<&str> = lines[0].split(' ').collect();
    let new = words[2] != "HTTP/1.0";
    let path = format!("/{}", words[1].trim_start_matches('/'));
    let path = if path.contains("..") { "dots" } else { &path };
    let connection = values(lines, "connection").join(",").to_lowercase();
    let says = |wanted: &str| connection.split(',').any(|word| word.trim() == wanted);
    let lengths = values(lines, "content-length");
    let chunked = !values(lines, "transfer-encoding").is_empty();
    let risky = chunked && (!new || !lengths.is_empty());
    let keep = (new || says("keep-alive")) && !says("close") && !risky;
    let body = match lengths.first() {
        _ if chunked => "chunked",
        Some(length) => length.trim_start_matches('0'),
        None => "none",
    };
    let range = match values(lines, "range")[..] {
        [] => "none",
        ["bytes=7-" | "bytes= 7-"] => "from 7",
        _ => "other",
    };
    let expect = values(lines, "expect");
    let expect = new && expect.iter().any(|value| value.to_lowercase() == "100-continue");
    summary(words[0], path, keep, expect, body, range)
}

#[rustfmt::skip]
fn line() -> impl Strategy<Value = &'static str> {
    let good = select(vec![
        "Host: x", "Connection: close", "connection: Keep-Alive", "Connection: TE, keep-alive", "Content-Length: 5",
        "Content-Length: 05", "Transfer-Encoding: chunked", "Expect: 100-Continue", "Range: bytes=7-", "X:\t", "X: a:b",
    ]);
    let bad = select(vec![
        "Content-Length: 6", "Content-Length: 5,5", "Content-Length: 99999999999999999999", "Transfer-Encoding: gzip", "X",
        " X: y", "X : y", ": y", "X: \u{1}", "X: \r", "X: \n", "\tX",
    ]);
    prop_oneof![19 => good, 1 => bad]
}

#[rustfmt::skip]
fn request_line() -> impl Strategy<Value = String> {
    let method = prop_oneof![19 => select(vec!["GET", "HEAD", "PUT", "DELETE", "MKCOL"]), 1 => select(vec!["POST", ""])];
    let target = prop_oneof![
        19 => select(vec!["/", "//", "/dev1/x", "//dev1/x.y", "/a/../b", "/dev1/-"]),
        1 => select(vec!["x", "/x?", ""]),
    ];
    let version = prop_oneof![19 => select(vec!["HTTP/1.0", "HTTP/1.1", "HTTP/1.9"]), 1 => Just("HTTP/2.0")];
    (method, target, version).prop_map(|(method, target, version)| format!("{method} {target} {version}"))
}

fn head() -> impl Strategy<Value = String> {
    let noise = select(vec!["\r\n", "\r", "\n", " ", "\0", ":", "x"]);
    let noise = prop::option::weighted(0.2, (noise, any::<Index>()));
    let end = prop::option::weighted(0.2, any::<Index>());
    let lines = prop::collection::vec(line(), 0..6);
    (select(vec!["", "\r\n"]), request_line(), lines, noise, end).prop_map(
        |(start, first, lines, noise, end)| {
            let fields: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let mut text = format!("{start}{first}\r\n{fields}\r\nrest");
            if let Some((noise, at)) = noise {
                text.insert_str(at.index(text.len()), noise);
            }
            text.truncate(end.map_or(text.len(), |end| end.index(text.len())));
            text
        },
    )
}

proptest! {
    #[test]
    fn the_parser_agrees_with_the_model_however_it_is_cut(
        text in head(),
        cuts in prop::collection::vec(any::<Index>(), 0..5),
    ) {
        prop_assert_eq!(verdict(whole(text.as_bytes())), model(&text));

        let mut lengths: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        lengths.sort_unstable();
        lengths.push(text.len());
        let mut scan = HeadScan::default();
        let mut looks = lengths.into_iter().map(|len| parse(&text.as_bytes()[..len], &mut scan));
        let outcome = looks.find(|parsed| *parsed != Parsed::Incomplete);
        prop_assert_eq!(verdict(outcome.unwrap_or(Parsed::Incomplete)), model(&text));
    }

    #[test]
    fn any_bytes_are_judged(
        bytes in prop::collection::vec(select(b"GET / HTP1.\r\n:\0a".to_vec()), 0..200),
    ) {
        if let Parsed::Complete { len, .. } = whole(&bytes) {
            prop_assert!(len <= bytes.len() && bytes[..len].ends_with(b"\r\n\r\n"));
        }
    }
}

#[test]
fn the_model_knows_all_three_verdicts() {
    assert_eq!(model("GET / HTTP/1.1\r\nX: y"), Verdict::Incomplete);
    assert_eq!(model("GET / HTTP/1.1\r\nX\r\n"), Verdict::Refused(Refusal::BadRequest));
    let expected = summary("GET", "/", true, false, "none", "none");
    assert_eq!(model("GET / HTTP/1.1\r\n\r\n"), Verdict::Complete(expected, 18));
}
