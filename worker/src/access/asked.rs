//! What of a request's head goes into a line of the log.

use crate::http::field;
use crate::http::head::{Request, Target};
use crate::spec::SiteId;
use crate::trace::Asked;

/// Bytes that are kept of the first line, and of each of the others; the rest is cut.
const LONGEST_LINE: usize = 400;
const LONGEST_FIELD: usize = 200;

/// From the bytes of a head; `request` is what it means, if it means anything.
pub fn asked(head: &[u8], request: Option<&Request>, site: SiteId) -> Asked {
    let mut lines = head.split(|byte| *byte == b'\n').map(without_cr);
    // Empty ones before the first are passed over.
    let first = lines.find(|line| !line.is_empty()).unwrap_or_default();
    let mut asked = Asked { line: cut(first, LONGEST_LINE), ..Asked::default() };
    if let Some(Target::Path(path)) = request.map(|request| &request.target) {
        asked.path = Some(path.as_str().to_owned());
        asked.device = Some(path.key(site)).filter(|key| key.devid != 0);
    }
    for line in lines.take_while(|line| !line.is_empty()) {
        match field::split(line) {
            Some((name, value)) if name.eq_ignore_ascii_case(b"user-agent") => {
                asked.agent = Some(cut(value, LONGEST_FIELD));
            }
            Some((name, value)) if name.eq_ignore_ascii_case(b"referer") => {
                asked.referer = Some(cut(value, LONGEST_FIELD));
            }
            _ => {}
        }
    }
    asked
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn cut(text: &[u8], most: usize) -> Vec<u8> {
    text[..text.len().min(most)].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::{HeadScan, Parsed, parse};

    #[test]
    fn head_gives_its_first_line_and_two_fields() {
        let head = b"\r\nGET //dev7/a HTTP/1.1\r\nHost: n\r\nUSER-AGENT: x y \r\nReferer: \
                     z\r\n\r\nUser-Agent: another's";
        let Parsed::Complete { request, .. } = parse(head, &mut HeadScan::default()) else {
            panic!("it is whole");
        };
        let asked = asked(head, Some(&request), SiteId(0));
        assert_eq!(asked.line, b"GET //dev7/a HTTP/1.1");
        assert_eq!(asked.path.as_deref(), Some("/dev7/a"));
        assert_eq!(asked.device.map(|key| key.devid), Some(7));
        assert_eq!(asked.agent.as_deref(), Some(&b"x y"[..]));
        assert_eq!(asked.referer.as_deref(), Some(&b"z"[..]));
    }

    #[test]
    fn what_is_no_head_is_cut() {
        let asked = asked(&[b'x'; 5000], None, SiteId(0));
        assert_eq!(asked.line.len(), LONGEST_LINE);
        assert_eq!(asked.path, None);
        assert_eq!(super::asked(b"", None, SiteId(0)), Asked::default());
    }
}
