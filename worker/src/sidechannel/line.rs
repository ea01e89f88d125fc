//! Lines of the sidechannel: bytes to commands, pure. PROTOCOL.md section 3.

use crate::disk::path::{DevPath, PathError};
use crate::http::field::{self, Decimal};

/// A longer line, its end not counted, ends the connection.
pub const MAX_LINE: usize = 4096;

/// What a line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<'a> {
    /// The size of a file.
    Size(DevPath),
    /// The digest of a file.
    Digest {
        /// Which digest.
        kind: Kind,
        /// Of which file.
        path: DevPath,
        /// Asked for by fsck, which can wait.
        fsck: bool,
    },
    /// A path with `..` in it, or too long.
    BadPath,
    /// The stream of disk load.
    Watch,
    /// So many disk threads per device; `None`: not a number that is allowed.
    AioThreads(Option<usize>),
    /// A graceful quit of the node.
    Shutdown,
    /// Nothing.
    Blank,
    /// Something else: its first word.
    Unknown(&'a [u8]),
}

/// A digest that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// RFC 1321.
    Md5,
    /// FIPS 180-4.
    Sha1,
}

/// The line at the front of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A whole one, without its end, and how many bytes it took.
    Whole(&'a [u8], usize),
    /// Its end has not come.
    Partial,
    /// It is longer than [`MAX_LINE`].
    TooLong,
}

impl Kind {
    /// Its name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Md5 => "MD5",
            Kind::Sha1 => "SHA-1",
        }
    }
}

/// Finds the line at the front of `input`; it ends in LF or CRLF, which do not count.
pub fn split(input: &[u8]) -> Line<'_> {
    let seen = &input[..input.len().min(MAX_LINE + 2)];
    let end = seen.iter().position(|&b| b == b'\n');
    let text = &seen[..end.unwrap_or(seen.len())];
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    match end {
        _ if text.len() > MAX_LINE => Line::TooLong,
        Some(end) => Line::Whole(text, end + 1),
        None => Line::Partial,
    }
}

/// Says what a line means. Words are set apart by blanks, of which any number may stand before,
/// between and after them; each command takes the words that its row of the table has, and no more.
pub fn parse(line: &[u8]) -> Command<'_> {
    let Some(first) = line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty()) else {
        return Command::Blank;
    };
    let mut words = line.split(is_blank).filter(|word| !word.is_empty());
    let mut word = || words.next();
    let understood = match [word(), word(), word(), word()] {
        [Some(b"size"), Some(path), None, _] => on_path(path, Command::Size),
        [Some(b"MD5"), Some(path), reason, None] => on_path(path, digest(Kind::Md5, reason)),
        [Some(b"SHA-1"), Some(path), reason, None] => on_path(path, digest(Kind::Sha1, reason)),
        [Some(b"shutdown"), None, _, _] => Some(Command::Shutdown),
        [Some(b"shutdown"), Some(b"graceful"), None, _] => Some(Command::Shutdown),
        [Some(watch), None, _, _] if watch.eq_ignore_ascii_case(b"watch") => Some(Command::Watch),
        [Some(server), ..] if server.eq_ignore_ascii_case(b"server") => setting(line),
        _ => None,
    };
    understood.unwrap_or(Command::Unknown(first))
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// `None`: what stands there is no path at all.
fn on_path<'a>(raw: &'a [u8], command: impl Fn(DevPath) -> Command<'a>) -> Option<Command<'a>> {
    match DevPath::parse(raw) {
        Ok(path) => Some(command(path)),
        Err(PathError::Dots | PathError::TooLong) => Some(Command::BadPath),
        Err(PathError::BadByte | PathError::NotAbsolute) => None,
    }
}

fn digest<'a>(kind: Kind, reason: Option<&[u8]>) -> impl Fn(DevPath) -> Command<'a> {
    let fsck = reason == Some(b"fsck");
    move |path| Command::Digest { kind, path, fsck }
}

/// `server aio_threads = N`, any case, blanks around `=` optional. `None`: another setting, or
/// something else than digits.
fn setting(line: &[u8]) -> Option<Command<'_>> {
    let rest = &field::trim(line)["server".len()..];
    let (key, value) = rest.split_at(rest.iter().position(|byte| *byte == b'=')?);
    if !field::trim(key).eq_ignore_ascii_case(b"aio_threads") {
        return None;
    }
    match field::decimal(field::trim(&value[1..])) {
        Decimal::Value(threads) => {
            Some(Command::AioThreads(Some(threads as usize).filter(|n| (1..=100).contains(n))))
        }
        Decimal::TooBig => Some(Command::AioThreads(None)),
        Decimal::Empty | Decimal::Nonsense => None,
    }
}

#[cfg(test)]
mod table;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A command in the table's words.
    fn words(command: &Command) -> String {
        match command {
            Command::Size(path) => format!("size {path}"),
            Command::Digest { kind, path, fsck } => {
                let reason = if *fsck { " fsck" } else { "" };
                format!("{} {path}{reason}", kind.name().to_lowercase())
            }
            Command::BadPath => "bad path".into(),
            Command::Watch => "watch".into(),
            Command::AioThreads(Some(threads)) => format!("threads {threads}"),
            Command::AioThreads(None) => "threads -".into(),
            Command::Shutdown => "shutdown".into(),
            Command::Blank => "blank".into(),
            Command::Unknown(_) => "unknown".into(),
        }
    }

    #[test]
    fn each_line_of_the_table_is_understood() {
        let rows = table::rows();
        assert!(rows.len() >= 200);
        for row in rows {
            let (line, command) = (row.line.escape_ascii(), parse(&row.line));
            assert_eq!(words(&command), row.asks, "{line}");
            if let Command::Unknown(word) = command {
                let said = row.answer.strip_prefix(b"ERROR: unknown command: ").unwrap();
                assert_eq!(word, said, "{line}");
            }
        }
    }

    #[test]
    fn lines_end_in_lf_or_crlf() {
        assert_eq!(split(b"a\r\nb"), Line::Whole(b"a", 3));
        assert_eq!(split(b"a\nb"), Line::Whole(b"a", 2));
        assert_eq!(split(b"\n"), Line::Whole(b"", 1));
        assert_eq!(split(b"a\r"), Line::Partial);
        assert_eq!(split(b""), Line::Partial);
    }

    #[test]
    fn line_may_be_4096_bytes_and_no_more() {
        let text = vec![b'x'; MAX_LINE];
        let with = |rest: &[u8]| [&text, rest].concat();
        for partial in [with(b""), with(b"\r")] {
            assert_eq!(split(&partial), Line::Partial);
        }
        for end in [&b"\n"[..], b"\r\n"] {
            assert_eq!(split(&with(end)), Line::Whole(&text, MAX_LINE + end.len()));
        }
        for long in [&b"x"[..], b"x\n", b"x\r\n", b"\r\r", b"\r\r\n", b"\rx"] {
            assert_eq!(split(&with(long)), Line::TooLong, "{}", long.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_line_is_something(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let first = line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty());
            match parse(&line) {
                Command::Blank => prop_assert!(first.is_none()),
                Command::Unknown(word) => prop_assert_eq!(Some(word), first),
                _ => {}
            }
        }
    }
}
