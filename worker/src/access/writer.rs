//! The thread that writes. It may wait for a hung disk for ever: nobody waits for it.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use super::queue::{Batch, Queue};
use crate::scoreboard::WorkerSlot;

/// What there is, is written this often.
pub(super) const AT_LEAST_EACH: Duration = Duration::from_secs(1);
/// How many milliseconds a pipe that is full is waited for.
const PATIENCE: u16 = 100;
/// What a pipe takes whole or not at all: PIPE_BUF.
const WHOLE: usize = 4096;
/// Ample for a call or two.
const STACK: usize = 64 * 1024;

/// Starts the thread.
pub(super) fn start(queue: Arc<Queue>, file: File, slot: &'static WorkerSlot) -> io::Result<()> {
    let mut target = Target::new(file);
    let work = move || {
        let mut spare = Vec::new();
        loop {
            let Batch { file, mut lines } = queue.next(spare);
            if let Some(file) = file {
                target = Target::new(file);
            }
            let (lost, why) = target.write(&lines);
            if lost > 0 {
                slot.accesslog_lost.fetch_add(lost, Relaxed);
                queue.note_lost(why.map_or("written in part", Errno::desc));
            }
            lines.clear();
            spare = lines;
        }
    };
    thread::Builder::new().name("accesslog".into()).stack_size(STACK).spawn(work).map(drop)
}

/// A file, or a pipe.
struct Target {
    file: File,
    /// It may be full for a moment, and takes so much whole.
    is_pipe: bool,
    /// The last line is there in part.
    is_torn: bool,
}

impl Target {
    fn new(file: File) -> Target {
        let kind = file.metadata().map(|metadata| metadata.file_type());
        let is_pipe = kind.is_ok_and(|kind| kind.is_fifo() || kind.is_socket());
        Target { file, is_pipe, is_torn: false }
    }

    /// Writes whole lines; returns how many were lost, and why.
    fn write(&mut self, lines: &[u8]) -> (u64, Option<Errno>) {
        let (mut lost, mut why) = (0, None);
        let mut rest = lines;
        while !rest.is_empty() {
            let (batch, behind) = rest.split_at(self.portion(rest));
            match self.write_whole(batch) {
                Ok(()) => {}
                Err((left, errno)) => {
                    (lost, why) = (lost + left, errno);
                    if self.is_pipe {
                        // What it does not take now it will not take later.
                        return (lost + count(behind), why);
                    }
                }
            }
            rest = behind;
        }
        (lost, why)
    }

    /// Files take all at once, so that no other worker's line is in the middle; pipes so much.
    fn portion(&self, lines: &[u8]) -> usize {
        if !self.is_pipe || lines.len() <= WHOLE {
            return lines.len();
        }
        let end = lines[..WHOLE].iter().rposition(|byte| *byte == b'\n');
        end.map_or_else(|| first_line(lines), |end| end + 1)
    }

    /// Writes all of it, or tells how many lines did not go. A disk that is full takes a part.
    fn write_whole(&mut self, batch: &[u8]) -> Result<(), (u64, Option<Errno>)> {
        if self.is_torn && self.put(b"\n").is_ok_and(|n| n == 1) {
            self.is_torn = false;
        }
        let mut rest = batch;
        while !rest.is_empty() {
            let failed = match self.put(rest) {
                Ok(0) => None,
                Ok(n) => {
                    self.is_torn = rest[n - 1] != b'\n';
                    rest = &rest[n..];
                    continue;
                }
                Err(e) => e.raw_os_error().map(Errno::from_raw),
            };
            return Err((count(rest), failed));
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.file.write(bytes) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock && self.waits() => {
                    return self.file.write(bytes);
                }
                other => return other,
            }
        }
    }

    /// True when there is room by now.
    fn waits(&self) -> bool {
        let mut polled = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
        poll(&mut polled, PATIENCE).is_ok_and(|n| n > 0)
    }
}

/// How many lines end in it.
fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Its length, with its end.
fn first_line(lines: &[u8]) -> usize {
    lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |end| end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeReader, Read};

    fn full_pipe() -> (PipeReader, Target) {
        let (reader, writer) = io::pipe().unwrap();
        let writer = std::os::fd::OwnedFd::from(writer);
        let flag = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
        nix::fcntl::fcntl(&writer, flag).unwrap();
        let mut file = File::from(writer);
        while file.write(&[b'.'; 4096]).is_ok() {}
        (reader, Target::new(file))
    }

    #[test]
    fn a_full_pipe_loses_lines_and_counts_them() {
        let (mut reader, mut target) = full_pipe();
        assert_eq!(target.write(b"one\ntwo\n"), (2, Some(Errno::EAGAIN)));
        reader.read_exact(&mut [0; 8192]).unwrap();
        assert_eq!(target.write(b"three\n"), (0, None));
    }

    #[test]
    fn a_pipe_gets_pieces_that_it_takes_whole() {
        let (_reader, target) = full_pipe();
        let lines = [[b'x'; 1500].as_slice(), b"\n"].concat().repeat(5);
        assert_eq!(target.portion(&lines), 3002);
        assert_eq!(target.portion(&lines[..1501]), 1501);
    }

    #[test]
    fn a_full_disk_loses_lines_and_counts_them() {
        let file = File::options().write(true).open("/dev/full").unwrap();
        let mut target = Target::new(file);
        assert_eq!(target.write(b"one\ntwo\n"), (2, Some(Errno::ENOSPC)));
    }

    #[test]
    fn a_line_behind_a_torn_one_begins_anew() {
        let mut file = tempfile::tempfile().unwrap();
        let mut target = Target::new(file.try_clone().unwrap());
        target.is_torn = true;
        assert_eq!(target.write(b"one\n"), (0, None));
        assert_eq!(target.write(b"two\n"), (0, None));
        let mut text = String::new();
        io::Seek::rewind(&mut file).unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "\none\ntwo\n");
    }
}
