//! What a successor says on its standard error until it serves: it goes into the log, and into the
//! reason if it fails.
//!
//! It finds a pipe there. One of this program takes the real standard error back as soon as it
//! runs, which it finds as its standard input. For any other a process of its own reads the pipe
//! once it is ready, so that it writes to nobody who has gone, whatever becomes of this master.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsRawFd;

use mio::Registry;
use mio::unix::SourceFd;
use mio::{Interest, Token};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin};

use crate::{sys, title};

/// Lines that the log gets, and bytes of each.
const MOST_LINES: usize = 100;
const LONGEST: usize = 500;
/// Reads in one go: more than a pipe holds. Whoever has endlessly much to say must wait.
const AT_ONCE: usize = 32;
/// The last lines are what a reason is made of.
const LAST: usize = 5;

/// The pipe, and what came out of it.
#[derive(Debug, Default)]
pub(super) struct Words {
    pipe: Option<PipeReader>,
    rest: Vec<u8>,
    last: VecDeque<String>,
    lines: usize,
    is_behind: bool,
}

impl Words {
    /// Whose other end is to be given to [`speak`].
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<(Words, PipeWriter)> {
        let (reader, writer) = pipe()?;
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        registry.register(&mut SourceFd(&reader.as_raw_fd()), token, Interest::READABLE)?;
        Ok((Words { pipe: Some(reader), ..Words::default() }, writer))
    }

    /// Takes what has been said so far.
    pub(super) fn listen(&mut self, pid: Pid) {
        let mut piece = [0; 4096];
        self.is_behind = false;
        for _ in 0..AT_ONCE {
            let Some(pipe) = &mut self.pipe else { return self.end_line(pid) };
            match pipe.read(&mut piece) {
                Ok(0) => self.pipe = None,
                Ok(length) => self.hear(&piece[..length], pid),
                Err(_) => return, // nothing more now
            }
        }
        self.is_behind = true;
    }

    /// There is more than was listened to at once, of which nobody will tell again.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind
    }

    fn hear(&mut self, bytes: &[u8], pid: Pid) {
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(pid),
                _ if self.rest.len() < LONGEST => self.rest.push(*byte),
                _ => {}
            }
        }
    }

    fn end_line(&mut self, pid: Pid) {
        let line = std::mem::take(&mut self.rest);
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        if line.is_empty() {
            return;
        }
        self.lines += 1;
        if self.lines <= MOST_LINES {
            log::warn!("upgrade: PID {pid} says: {line}");
        }
        self.last.push_back(line);
        if self.last.len() > LAST {
            self.last.pop_front();
        }
    }

    /// Its last words, if it has said anything.
    pub(super) fn last(&self) -> Option<String> {
        let unfinished = String::from_utf8_lossy(&self.rest);
        let lines = self.last.iter().map(String::as_str).chain([unfinished.trim()]);
        let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
        (!lines.is_empty()).then(|| lines.join("; "))
    }

    /// From now on what it says goes where this process's own standard error goes.
    pub(super) fn let_pass(&mut self, registry: &Registry, pid: Pid) {
        self.listen(pid);
        self.end_line(pid);
        let Some(pipe) = self.pipe.take() else { return };
        // The other process would keep it watched.
        let _ = registry.deregister(&mut SourceFd(&pipe.as_raw_fd()));
        match sys::fork() {
            Ok(Some(_)) => {}
            Ok(None) => pass_on(pipe, pid),
            Err(e) => log::warn!("upgrade: what PID {pid} says is lost: {e}"),
        }
    }
}

/// In the successor's process, before it is executed: its standard error is the pipe, and the real
/// one is its standard input.
pub(super) fn speak(into: &PipeWriter) -> nix::Result<()> {
    dup2_stdin(io::stderr())?;
    dup2_stderr(into)
}

/// The whole life of the process that reads the pipe. It has the signals blocked that its parent
/// has, and ends with the last who writes.
fn pass_on(mut pipe: PipeReader, pid: Pid) -> ! {
    sys::close_all_but(&BTreeSet::from([pipe.as_raw_fd()]));
    title::of_relay(pid);
    // Its only descriptor: the other end has one of its own.
    let _ = fcntl(&pipe, FcntlArg::F_SETFL(OFlag::empty()));
    let mut piece = [0; 4096];
    loop {
        match pipe.read(&mut piece) {
            Ok(0) => sys::leave_at_once(0),
            // Nobody may be listening any more; it must be read all the same.
            Ok(length) => drop(io::stderr().write_all(&piece[..length])),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => sys::leave_at_once(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str) -> Words {
        let mut words = Words::default();
        words.hear(text.as_bytes(), Pid::from_raw(7));
        words.listen(Pid::from_raw(7));
        words
    }

    #[test]
    fn last_lines_are_kept_and_a_line_needs_no_end() {
        assert_eq!(heard("").last(), None);
        assert_eq!(heard("a\n\n  b \nc").last().as_deref(), Some("a; b; c"));
        assert_eq!(heard("1\n2\n3\n4\n5\n6\n7").last().as_deref(), Some("3; 4; 5; 6; 7"));
    }

    #[test]
    fn endless_line_is_cut() {
        let words = heard(&"x".repeat(100_000));
        assert_eq!(words.last().unwrap().len(), LONGEST);
    }
}
