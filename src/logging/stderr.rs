//! Lines for standard error, whatever that is: a terminal, a pipe, a socket, a file.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::{env, process};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::fstat;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::{Line, Sink};

/// Most bytes of a line: POSIX's PIPE_BUF on Linux, which a pipe that polls writable takes whole.
const LONGEST: usize = 4096;

const CLOCK: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Standard error, or a stand-in for it.
pub struct Stderr {
    output: Output,
    lost: u64,
    /// A file took only the beginning of the last line: the disk is full, or a limit reached.
    torn: bool,
}

enum Output {
    /// A pipe or terminal, opened once more: O_NONBLOCK belongs to the open file description,
    /// and that of standard error is shared with strangers.
    Own(File),
    /// A socket: it takes MSG_DONTWAIT.
    Socket(Box<dyn AsFd + Send>),
    /// Anything else is asked first whether it would wait.
    Shared(Box<dyn AsFd + Send>),
}

impl Stderr {
    /// This process's standard error.
    pub fn open() -> Self {
        Self::over(io::stderr())
    }

    /// A file or pipe that was opened so that it never waits.
    pub fn file(file: File) -> Self {
        Self { output: Output::Own(file), lost: 0, torn: false }
    }

    fn over(stderr: impl AsFd + Send + 'static) -> Self {
        let output = match kind(stderr.as_fd()) {
            Kind::Socket => Output::Socket(Box::new(stderr)),
            Kind::Stream => match reopen(stderr.as_fd()) {
                Ok(file) => Output::Own(file),
                Err(_) => Output::Shared(Box::new(stderr)),
            },
            Kind::Other => Output::Shared(Box::new(stderr)),
        };
        Self { output, lost: 0, torn: false }
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.output {
            Output::Own(file) => file.write(bytes),
            Output::Socket(socket) => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                Ok(send(socket.as_fd().as_raw_fd(), bytes, flags)?)
            }
            Output::Shared(shared) if writable(shared.as_fd())? => {
                Ok(nix::unistd::write(shared.as_fd(), bytes)?)
            }
            Output::Shared(_) => Err(ErrorKind::WouldBlock.into()),
        }
    }
}

impl Sink for Stderr {
    /// A reader that has gone is no loss: nobody misses these lines.
    fn write(&mut self, line: &Line) -> bool {
        let mut bytes = if super::is_json() { json(line) } else { format(line) };
        if self.torn {
            bytes.insert(0, b'\n');
        }
        match self.put(&bytes) {
            Ok(written) => {
                self.torn = written < bytes.len() && (self.torn || written > 0);
                written == bytes.len()
            }
            Err(e) => e.kind() == ErrorKind::BrokenPipe,
        }
    }

    fn lost(&mut self) -> &mut u64 {
        &mut self.lost
    }
}

/// Whether standard error goes to systemd's journal, as syslog messages do there: `JOURNAL_STREAM`
/// in systemd.exec(5).
pub fn is_journal() -> bool {
    let stream = env::var("JOURNAL_STREAM").unwrap_or_default();
    is_stream(&stream, io::stderr().as_fd())
}

/// `stream`: device and inode number, a colon between them.
fn is_stream(stream: &str, fd: BorrowedFd<'_>) -> bool {
    fstat(fd).is_ok_and(|found| stream == format!("{}:{}", found.st_dev, found.st_ino))
}

enum Kind {
    Socket,
    Stream,
    Other,
}

fn kind(fd: BorrowedFd<'_>) -> Kind {
    let Ok(copy) = fd.try_clone_to_owned() else { return Kind::Other };
    match File::from(copy).metadata().map(|found| found.file_type()) {
        Ok(found) if found.is_socket() => Kind::Socket,
        Ok(found) if found.is_fifo() || fd.is_terminal() => Kind::Stream,
        _ => Kind::Other,
    }
}

fn reopen(fd: BorrowedFd<'_>) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    OpenOptions::new().write(true).custom_flags(flags.bits()).open(path)
}

fn writable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut asked = [PollFd::new(fd, PollFlags::POLLOUT)];
    Ok(poll(&mut asked, PollTimeout::ZERO)? == 1)
}

/// `TIME rmogstored[PID]: LEVEL: TEXT`, one line whatever the text holds.
fn format(line: &Line) -> Vec<u8> {
    let time = OffsetDateTime::from(line.time).format(CLOCK).unwrap_or_default();
    let level = line.level.as_str().to_ascii_lowercase();
    let text = line.text.replace(['\n', '\r'], " ");
    let mut bytes = format!("{time} rmogstored[{}]: {level}: {text}", process::id()).into_bytes();
    bytes.truncate(LONGEST - 1);
    bytes.push(b'\n');
    bytes
}

/// An object that fits as well: a text that is too long is cut.
fn json(line: &Line) -> Vec<u8> {
    let time = OffsetDateTime::from(line.time).format(CLOCK).unwrap_or_default();
    let level = line.level.as_str().to_ascii_lowercase();
    let mut text = line.text.as_str();
    loop {
        let object = json!({ "time": time, "pid": process::id(), "level": level, "text": text });
        let mut bytes = object.to_string().into_bytes();
        bytes.push(b'\n');
        if bytes.len() <= LONGEST || text.is_empty() {
            return bytes;
        }
        text = &text[..text.floor_char_boundary((text.len() / 2).min(LONGEST))];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;
    use std::io::{Read, Seek};
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn journal_is_known_by_its_socket() {
        let file = tempfile::tempfile().unwrap();
        let facts = file.metadata().unwrap();
        assert!(is_stream(&format!("{}:{}", facts.dev(), facts.ino()), file.as_fd()));
        for other in ["", ":", &format!("{}:{}", facts.dev(), facts.ino() + 1)] {
            assert!(!is_stream(other, file.as_fd()), "{other:?}");
        }
    }

    fn line(text: &str) -> Line {
        Line {
            time: UNIX_EPOCH + Duration::from_millis(1500),
            level: Level::Warn,
            text: text.into(),
            is_access: false,
        }
    }

    #[test]
    fn a_line_has_time_pid_and_level() {
        let meant = format!("1970-01-01T00:00:01.500Z rmogstored[{}]: warn: hi\n", process::id());
        assert_eq!(String::from_utf8(format(&line("hi"))).unwrap(), meant);
    }

    #[test]
    fn a_line_stays_one_line_and_fits_a_pipe() {
        let bytes = format(&line(&format!("a\nb\r{}", "x".repeat(9000))));
        assert_eq!(bytes.len(), LONGEST);
        assert_eq!(bytes.iter().filter(|b| **b == b'\n').count(), 1);
        assert_eq!(bytes.last(), Some(&b'\n'));
    }

    #[test]
    fn an_object_is_valid_and_fits_a_pipe() {
        for text in ["hi", "a\n\"b\" é", &"\u{1}".repeat(9000)] {
            let bytes = json(&line(text));
            assert!(bytes.len() <= LONGEST && bytes.ends_with(b"}\n"));
            let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(value["time"], "1970-01-01T00:00:01.500Z");
            assert_eq!((&value["level"], &value["pid"]), (&"warn".into(), &process::id().into()));
            assert!(text.starts_with(value["text"].as_str().unwrap()));
        }
    }

    #[test]
    fn a_full_pipe_loses_lines_and_tells_how_many() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut stderr = Stderr::over(writer);
        assert!(matches!(stderr.output, Output::Own(_)));
        // Whole pages, so that no short line fits behind the last of them.
        let long = "x".repeat(LONGEST);
        while *stderr.lost() == 0 {
            stderr.take(&line(&long));
        }
        stderr.take(&line("lost too"));
        let mut read = vec![0; 1 << 20];
        assert!(reader.read(&mut read).unwrap() > 8000);
        stderr.take(&line("after"));
        drop(stderr);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("warn: 2 log lines lost\n"), "{rest}");
        assert!(rest.ends_with("warn: after\n"));
    }

    #[test]
    fn a_full_socket_loses_lines_without_waiting() {
        let (reader, writer) = UnixStream::pair().unwrap();
        let mut stderr = Stderr::over(writer);
        assert!(matches!(stderr.output, Output::Socket(_)));
        let long = "x".repeat(3000);
        for _ in 0..10_000 {
            stderr.take(&line(&long));
        }
        assert!(*stderr.lost() > 0);
        drop(reader);
    }

    #[test]
    fn a_file_gets_every_line() {
        let mut file = tempfile::tempfile().unwrap();
        let mut stderr = Stderr::over(file.try_clone().unwrap());
        assert!(matches!(stderr.output, Output::Shared(_)));
        stderr.take(&line("one"));
        stderr.take(&line("two"));
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert_eq!(*stderr.lost(), 0);
    }

    #[test]
    fn a_line_that_a_file_cuts_is_lost_and_the_next_begins_anew() {
        let (reader, writer) = UnixStream::pair().unwrap();
        let mut stderr = Stderr::over(writer);
        stderr.torn = true; // as after a write that was too short
        stderr.take(&line("whole"));
        drop(stderr);
        let mut text = String::new();
        (&reader).read_to_string(&mut text).unwrap();
        assert!(text.starts_with('\n') && text.ends_with("warn: whole\n"), "{text}");
    }

    #[test]
    fn a_reader_that_is_gone_is_no_loss() {
        let (reader, writer) = io::pipe().unwrap();
        let mut stderr = Stderr::over(writer);
        drop(reader);
        stderr.take(&line("nobody"));
        assert_eq!(*stderr.lost(), 0);
    }
}
