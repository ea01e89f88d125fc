//! Which of the two text formats a client would rather have: RFC 9110 section 12.5.1.

/// A format of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus, text format 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// What the Accept fields of a head ask for; Prometheus's own where they do not say.
    pub fn wanted(head: &[u8]) -> Format {
        let (mut open, mut text) = (0, 0);
        for element in accepted(head) {
            let mut parts = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let kind = parts.next().unwrap_or_default();
            let weight = parts.find_map(weight).unwrap_or(1000);
            if kind.eq_ignore_ascii_case(b"application/openmetrics-text") {
                open = weight.max(open);
            } else if kind.eq_ignore_ascii_case(b"text/plain") {
                text = weight.max(text);
            }
        }
        if open > text { Format::OpenMetrics } else { Format::Prometheus }
    }

    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

fn accepted(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let values = head.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        line[..colon].eq_ignore_ascii_case(b"accept").then_some(&line[colon + 1..])
    });
    values.flat_map(|value| value.split(|byte| *byte == b','))
}

/// `q=0.5`, in thousandths.
fn weight(parameter: &[u8]) -> Option<u32> {
    let (name, value) = parameter.split_first_chunk::<2>()?;
    let value: f64 = str::from_utf8(value).ok()?.trim().parse().ok()?;
    name.eq_ignore_ascii_case(b"q=").then_some((value.clamp(0.0, 1.0) * 1000.0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_is_the_one_with_more_weight() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
            application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for (accept, format) in [
            (prometheus, Format::OpenMetrics),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("text/plain, application/openmetrics-text;q=0.9", Format::Prometheus),
            ("text/plain;q=0.1 , Application/OpenMetrics-Text ; q=0.2", Format::OpenMetrics),
            ("application/openmetrics-text;q=0", Format::Prometheus),
            ("application/openmetrics-text;q=x", Format::OpenMetrics),
            ("*/*", Format::Prometheus),
            ("", Format::Prometheus),
        ] {
            let head = format!("GET /metrics HTTP/1.1\r\nHost: n\r\naccept:{accept}\r\n\r\n");
            assert_eq!(Format::wanted(head.as_bytes()), format, "{accept}");
        }
        assert_eq!(Format::wanted(b"GET / HTTP/1.1\r\n\r\n"), Format::Prometheus);
    }
}
