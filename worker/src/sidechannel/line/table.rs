//! The table of lines, for the parser's tests and those of the whole node: `table.txt` says how it
//! is written.

/// One line of the sidechannel.
pub struct Row {
    /// Its bytes, without the end.
    pub line: Vec<u8>,
    /// What it asks for, in the table's words.
    #[allow(dead_code, reason = "the node's tests see answers only")]
    pub asks: &'static str,
    /// The answer's bytes, without the end.
    #[allow(dead_code, reason = "the parser gives no answers")]
    pub answer: Vec<u8>,
}

/// All rows.
pub fn rows() -> Vec<Row> {
    let text = include_str!("table.txt");
    text.lines().filter(|row| !row.starts_with("# ")).map(row).collect()
}

fn row(text: &'static str) -> Row {
    let columns: Vec<&str> = text.split('\t').collect();
    let [line, asks, answer] = columns[..] else { panic!("not three columns: {text:?}") };
    Row { line: bytes(line), asks, answer: bytes(answer) }
}

fn bytes(mut text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(first) = text.chars().next() {
        let (more, used) = match first {
            '\\' => escaped(text),
            '{' => repeated(text),
            _ => None,
        }
        .unwrap_or_else(|| (first.to_string().into_bytes(), first.len_utf8()));
        bytes.extend(more);
        text = &text[used..];
    }
    bytes
}

fn escaped(text: &str) -> Option<(Vec<u8>, usize)> {
    Some(match text.as_bytes().get(1)? {
        b't' => (b"\t".into(), 2),
        b'r' => (b"\r".into(), 2),
        b'\\' => (b"\\".into(), 2),
        b'x' => (vec![u8::from_str_radix(text.get(2..4)?, 16).ok()?], 4),
        _ => return None,
    })
}

fn repeated(text: &str) -> Option<(Vec<u8>, usize)> {
    let end = text.find('}')?;
    let (part, times) = text[1..end].rsplit_once('*')?;
    Some((part.repeat(times.parse().ok()?).into_bytes(), end + 1))
}
