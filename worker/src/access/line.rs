//! A request as a line. All that a peer has sent is escaped: a line is printable ASCII, and what
//! stands between two quotes has no quote in it.

use std::io::Write;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::clock::HttpDate;
use crate::ids::WorkerId;
use crate::trace::Trace;

/// The combined format of Apache and nginx, and behind it: bytes received, microseconds, device,
/// `hot` or `disk`, worker. What there is not is `-`.
pub(super) fn combined(out: &mut Vec<u8>, trace: &Trace, worker: WorkerId) {
    let asked = trace.asked();
    put(out, format_args!("{} - - [", trace.peer().ip()));
    let date = HttpDate::from_unix(trace.time().as_secs() as i64);
    let [day, month, year, clock] = parts(&date);
    for (text, end) in [(day, b'/'), (month, b'/'), (year, b':')] {
        out.extend_from_slice(text);
        out.push(end);
    }
    out.extend_from_slice(clock);
    out.extend_from_slice(b" +0000] ");
    quoted(out, Some(&asked.line).filter(|line| !line.is_empty()));
    match trace.status() {
        Some(status) => put(out, format_args!(" {status} {} ", trace.sent())),
        None => put(out, format_args!(" - {} ", trace.sent())),
    }
    quoted(out, asked.referer.as_ref());
    out.push(b' ');
    quoted(out, asked.agent.as_ref());
    put(out, format_args!(" {} {} ", trace.received(), trace.took().as_micros()));
    match asked.device {
        Some(device) => put(out, format_args!("{device}")),
        None => out.push(b'-'),
    }
    put(out, format_args!(" {} {worker}", way(trace)));
}

/// One object. What there is not is `null`.
pub(super) fn json(out: &mut Vec<u8>, trace: &Trace, worker: WorkerId) {
    let asked = trace.asked();
    let text = |bytes: &[u8]| Value::from(String::from_utf8_lossy(bytes));
    let maybe = |bytes: &Option<Vec<u8>>| bytes.as_deref().map_or(Value::Null, text);
    let mut words = asked.line.splitn(2, |byte| *byte == b' ');
    let method = words.next().unwrap_or_default();
    let rest = words.next();
    let target = rest.map(|rest| rest.rsplitn(2, |byte| *byte == b' ').last().unwrap_or_default());
    let path = match &asked.path {
        Some(path) => Value::from(path.as_str()),
        None => target.map_or(Value::Null, text),
    };
    let fields = [
        ("time", Value::from(rfc3339(trace.time()))),
        ("peer", Value::from(trace.peer().ip().to_string())),
        ("port", Value::from(trace.peer().port())),
        ("method", text(method)),
        ("path", path),
        ("request", text(&asked.line)),
        ("status", trace.status().map_or(Value::Null, Value::from)),
        ("bytes", Value::from(trace.sent())),
        ("received", Value::from(trace.received())),
        ("us", Value::from(trace.took().as_micros() as u64)),
        ("device", asked.device.map_or(Value::Null, |device| Value::from(device.to_string()))),
        ("way", Value::from(way(trace))),
        ("worker", Value::from(worker.0)),
        ("referer", maybe(&asked.referer)),
        ("agent", maybe(&asked.agent)),
    ];
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
    let object: Map<_, _> = fields.collect();
    ascii(out, &Value::from(object).to_string());
}

fn way(trace: &Trace) -> &'static str {
    if trace.was_on_disk() { "disk" } else { "hot" }
}

/// Day, month, year and time of day.
fn parts(date: &HttpDate) -> [&[u8]; 4] {
    let text = date.as_bytes();
    [&text[5..7], &text[8..11], &text[12..16], &text[17..25]]
}

fn rfc3339(time: Duration) -> String {
    let date = HttpDate::from_unix(time.as_secs() as i64);
    let [day, month, year, clock] = parts(&date);
    let names = b"JanFebMarAprMayJunJulAugSepOctNovDec".chunks(3);
    let month = names.take_while(|name| *name != month).count() + 1;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (year, day, clock) = (text(year), text(day), text(clock));
    format!("{year}-{month:02}-{day}T{clock}.{:03}Z", time.subsec_millis())
}

/// As Apache has it: `\"`, `\\`, and `\xHH` for what is no printable ASCII.
fn quoted(out: &mut Vec<u8>, text: Option<&Vec<u8>>) {
    let Some(text) = text else { return out.extend_from_slice(b"\"-\"") };
    out.push(b'"');
    for byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => out.push(*byte),
            _ => put(out, format_args!("\\x{byte:02x}")),
        }
    }
    out.push(b'"');
}

/// JSON says the same in ASCII alone, so that no reader takes a character for the end of a line.
fn ascii(out: &mut Vec<u8>, json: &str) {
    for char in json.chars() {
        match char {
            ' '..='~' => out.push(char as u8),
            _ => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    put(out, format_args!("\\u{unit:04x}"));
                }
            }
        }
    }
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text); // memory takes all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{DeviceKey, SiteId};
    use crate::trace::{Asked, Part};
    use proptest::prelude::*;
    use std::net::SocketAddr;

    const PEER: &str = "192.0.2.7:4711";

    fn trace(asked: Asked) -> Trace {
        Trace::begin(asked, PEER.parse::<SocketAddr>().unwrap())
    }

    fn written(write: fn(&mut Vec<u8>, &Trace, WorkerId), trace: &Trace) -> String {
        let mut line = Vec::new();
        write(&mut line, trace, WorkerId(3));
        String::from_utf8(line).unwrap()
    }

    fn delete() -> Trace {
        let asked = Asked {
            line: b"DELETE /dev1/a HTTP/1.1".to_vec(),
            agent: Some(b"libwww-perl/6.68".to_vec()),
            path: Some("/dev1/a".to_owned()),
            device: Some(DeviceKey { site: SiteId(0), devid: 1 }),
            ..Asked::default()
        };
        let trace = trace(asked);
        trace.enter(Part::Queue);
        trace.note_answer(b"HTTP/1.1 204 No Content\r\n\r\n");
        trace
    }

    #[test]
    fn combined_has_its_fields_in_order() {
        let trace = delete();
        let line = written(combined, &trace);
        let us = trace.took().as_micros();
        let end = format!(
            r#"] "DELETE /dev1/a HTTP/1.1" 204 0 "-" "libwww-perl/6.68" 0 {us} dev1 disk 3"#
        );
        assert!(line.starts_with("192.0.2.7 - - [") && line.ends_with(&end), "{line}");
        let none = written(combined, &self::trace(Asked::default()));
        assert!(none.ends_with(r#"+0000] "-" - 0 "-" "-" 0 0 - hot 3"#), "{none}");
    }

    #[test]
    fn json_has_its_fields_by_name() {
        let value: Value = serde_json::from_str(&written(json, &delete())).unwrap();
        assert_eq!(value["method"], "DELETE");
        assert_eq!(value["path"], "/dev1/a");
        assert_eq!((&value["peer"], &value["port"]), (&"192.0.2.7".into(), &4711.into()));
        assert_eq!((&value["status"], &value["worker"]), (&204.into(), &3.into()));
        assert_eq!((&value["way"], &value["referer"]), (&"disk".into(), &Value::Null));
        let nothing: Value =
            serde_json::from_str(&written(json, &trace(Asked::default()))).unwrap();
        assert_eq!((&nothing["status"], &nothing["path"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn times_are_written_in_both_ways() {
        assert_eq!(rfc3339(Duration::from_millis(784_111_777_042)), "1994-11-06T08:49:37.042Z");
        assert_eq!(rfc3339(Duration::ZERO), "1970-01-01T00:00:00.000Z");
    }

    proptest! {
        #[test]
        fn no_bytes_forge_or_break_a_line(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            agent in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let asked = Asked { line: bytes.clone(), agent: Some(agent.clone()), ..Asked::default() };
            let trace = trace(asked);
            let line = written(combined, &trace);
            prop_assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert!(line.len() < 4096, "a pipe takes it whole");
            // A reader that knows escapes finds three quoted parts, whatever is in them.
            let mut quotes = 0;
            let mut rest = line.chars();
            while let Some(char) = rest.next() {
                match char {
                    '\\' => drop(rest.next()),
                    '"' => quotes += 1,
                    _ => {}
                }
            }
            prop_assert_eq!(quotes, 6);
            let line = written(json, &trace);
            prop_assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert!(line.len() < 4096);
            let value: Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(&value["agent"], &Value::from(String::from_utf8_lossy(&agent)));
            prop_assert_eq!(&value["request"], &Value::from(String::from_utf8_lossy(&bytes)));
        }
    }
}
