//! Lines of the sidechannel: bytes to commands, pure. PROTOCOL.md section 3.

use crate::disk::path::{DevPath, PathError};

/// A longer line ends the connection.
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
    /// A path that may not be asked about.
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

/// Finds the line at the front of `input`; it ends in LF or CRLF.
pub fn split(input: &[u8]) -> Line<'_> {
    let seen = &input[..input.len().min(MAX_LINE + 1)];
    match seen.iter().position(|&b| b == b'\n') {
        Some(end) => {
            Line::Whole(input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]), end + 1)
        }
        None if seen.len() > MAX_LINE => Line::TooLong,
        None => Line::Partial,
    }
}

/// Says what a line means.
pub fn parse(line: &[u8]) -> Command<'_> {
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let Some(first) = words.next() else { return Command::Blank };
    let (second, third) = (words.next(), words.next());
    match (first, second) {
        (b"size", Some(path)) => on_path(path, Command::Size),
        (b"MD5", Some(path)) => on_path(path, digest(Kind::Md5, third)),
        (b"SHA-1", Some(path)) => on_path(path, digest(Kind::Sha1, third)),
        (b"shutdown", None) => Command::Shutdown,
        (b"shutdown", Some(b"graceful")) if third.is_none() => Command::Shutdown,
        (word, None) if word.eq_ignore_ascii_case(b"watch") => Command::Watch,
        (word, Some(_)) if word.eq_ignore_ascii_case(b"server") => {
            server(line).unwrap_or(Command::Unknown(first))
        }
        _ => Command::Unknown(first),
    }
}

fn on_path<'a>(raw: &'a [u8], command: impl Fn(DevPath) -> Command<'a>) -> Command<'a> {
    match DevPath::parse(raw) {
        Ok(path) => command(path),
        Err(PathError::Dots | PathError::TooLong | PathError::BadByte | PathError::NotAbsolute) => {
            Command::BadPath
        }
    }
}

fn digest<'a>(kind: Kind, reason: Option<&[u8]>) -> impl Fn(DevPath) -> Command<'a> {
    let fsck = reason == Some(b"fsck");
    move |path| Command::Digest { kind, path, fsck }
}

/// `server aio_threads = N`, any case, blanks around `=` optional.
fn server(line: &[u8]) -> Option<Command<'_>> {
    let text = std::str::from_utf8(line).ok()?.trim();
    let rest = text.get("server".len()..)?.trim_start();
    let (key, value) = rest.split_once('=')?;
    if !key.trim().eq_ignore_ascii_case("aio_threads") {
        return None;
    }
    let threads = value.trim().parse().ok().filter(|threads| (1..=100).contains(threads));
    Some(Command::AioThreads(threads))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path() -> DevPath {
        DevPath::parse(b"/dev1/a").unwrap()
    }

    #[test]
    fn each_row_of_the_table_is_understood() {
        let md5 = |fsck| Command::Digest { kind: Kind::Md5, path: path(), fsck };
        let table: &[(&str, Command)] = &[
            ("size /dev1/a", Command::Size(path())),
            ("MD5 /dev1/a", md5(false)),
            ("MD5 /dev1/a fsck", md5(true)),
            ("MD5 /dev1/a other", md5(false)),
            ("SHA-1 /dev1/a", Command::Digest { kind: Kind::Sha1, path: path(), fsck: false }),
            ("size /dev1/../a", Command::BadPath),
            ("MD5 /dev1/0000000000000000000000000000000000000", Command::BadPath),
            ("watch", Command::Watch),
            ("WaTcH", Command::Watch),
            ("server aio_threads = 5", Command::AioThreads(Some(5))),
            ("SERVER AIO_THREADS=100", Command::AioThreads(Some(100))),
            ("server aio_threads= 101", Command::AioThreads(None)),
            ("server aio_threads=0", Command::AioThreads(None)),
            ("server aio_threads=x", Command::AioThreads(None)),
            ("server other = 1", Command::Unknown(b"server")),
            ("shutdown", Command::Shutdown),
            ("shutdown graceful", Command::Shutdown),
            ("shutdown now", Command::Unknown(b"shutdown")),
            ("", Command::Blank),
            (" \t ", Command::Blank),
            ("hello there", Command::Unknown(b"hello")),
            ("size", Command::Unknown(b"size")),
            ("md5 /dev1/a", Command::Unknown(b"md5")),
        ];
        for (line, expected) in table {
            assert_eq!(&parse(line.as_bytes()), expected, "{line:?}");
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
        let mut line = vec![b'x'; MAX_LINE];
        assert_eq!(split(&line), Line::Partial);
        line.push(b'\n');
        assert_eq!(split(&line), Line::Whole(&line[..MAX_LINE], MAX_LINE + 1));
        line.insert(0, b'x');
        assert_eq!(split(&line), Line::TooLong);
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
