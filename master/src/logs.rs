//! Opening log files. At the start the master does it itself; once it runs, a process of its own,
//! since the disk of a log may hang. Both are as privileged as whoever started the node, and the
//! workers get what they have opened.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use rmogstored_worker::control::{Channel, Log};
use serde::{Deserialize, Serialize};

use crate::{sys, title};

/// Of new files. Peers' addresses are nobody's business.
const MODE: u32 = 0o640;

/// Opens a log to be appended to; makes it if need be. Pipes need no reader, and never block.
pub fn open(path: &Path) -> io::Result<File> {
    let is_pipe = fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo());
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(MODE).custom_flags(flags.bits());
    // fifo(7): open for both it opens at once, and lines wait for a reader.
    options.read(is_pipe).open(path)
}

/// What the process that opens files says of one.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Opened {
    log: Log,
    error: Option<String>,
}

/// A process that opens files.
#[derive(Debug)]
pub(crate) struct Opener {
    pid: Pid,
    channel: Channel,
    files: BTreeMap<Log, PathBuf>,
}

impl Opener {
    /// Starts it.
    pub(crate) fn start(files: BTreeMap<Log, PathBuf>) -> io::Result<Opener> {
        let (channel, other) = Channel::pair()?;
        match sys::fork()? {
            Some(pid) => Ok(Opener { pid, channel, files }),
            None => open_all(&files, &other),
        }
    }

    /// What it has opened by now, and `None` once it is through.
    pub(crate) fn next(&mut self) -> Option<Reopened> {
        match self.channel.receive::<Opened>() {
            Ok(Some((Opened { log, error }, fd))) => {
                let path = self.files.remove(&log)?;
                let file = match (fd, error) {
                    (Some(fd), _) => Ok(File::from(fd)),
                    (None, error) => Err(error.unwrap_or_else(|| "no descriptor is free".into())),
                };
                Some(Reopened { log, path, file })
            }
            _ => None,
        }
    }

    /// Whether there is more to come.
    pub(crate) fn is_through(&self) -> bool {
        self.files.is_empty()
    }

    /// Its process, which may be stuck.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }
}

/// A file that is open again, or why not.
#[derive(Debug)]
pub(crate) struct Reopened {
    pub log: Log,
    pub path: PathBuf,
    pub file: Result<File, String>,
}

impl AsFd for Opener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// The whole life of the process. It holds no listener while it may be stuck.
fn open_all(files: &BTreeMap<Log, PathBuf>, channel: &Channel) -> ! {
    sys::close_all_but(&BTreeSet::from([channel.as_fd().as_raw_fd()]));
    title::set_opener();
    for (log, path) in files {
        let opened = open(path);
        let error = opened.as_ref().err().map(ToString::to_string);
        let file = opened.ok().map(OwnedFd::from);
        let message = Opened { log: *log, error };
        let mut polled = [PollFd::new(channel.as_fd(), PollFlags::POLLOUT)];
        let _ = poll(&mut polled, PollTimeout::NONE);
        if channel.send(&message, file.as_ref().map(AsFd::as_fd)).is_err() {
            sys::leave_at_once(1);
        }
    }
    sys::leave_at_once(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_log_is_appended_to_and_not_for_everybody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for text in ["one\n", "two\n"] {
            open(&path).unwrap().write_all(text.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
        assert!(open(dir.path()).is_err());
    }

    #[test]
    fn a_pipe_without_a_reader_is_opened_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut file = open(&path).unwrap();
        file.write_all(b"waits\n").unwrap();
        let mut reader = OpenOptions::new().read(true).open(&path).unwrap();
        drop(file);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "waits\n");
    }
}
