//! Messages for the local syslog, as RFC 3164 has them, with facility LOG_DAEMON.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::{io, process};

use log::Level;
use syslog::{Error, Facility, Formatter3164, Logger, LoggerBackend};

use super::{Line, Sink};

const SOCKET: &str = "/dev/log";

/// Longer texts are cut: a datagram is sent whole or not at all.
const LONGEST: usize = 4096;

/// A datagram socket that never waits.
pub struct Syslog {
    path: PathBuf,
    logger: Logger<LoggerBackend, Formatter3164>,
    lost: u64,
}

impl Syslog {
    /// The machine's syslog; `None` where there is none.
    pub fn open() -> Option<Self> {
        Self::at(Path::new(SOCKET)).ok()
    }

    /// Messages carry this pid from now on.
    pub fn speak_for(&mut self, pid: u32) {
        self.logger.formatter.pid = pid;
    }

    fn at(path: &Path) -> io::Result<Self> {
        let formatter = Formatter3164 {
            facility: Facility::LOG_DAEMON,
            hostname: None,
            process: "rmogstored".into(),
            pid: process::id(),
        };
        let logger = Logger::new(connect(path)?, formatter);
        Ok(Self { path: path.to_owned(), logger, lost: 0 })
    }

    fn send(&mut self, line: &Line) -> io::Result<()> {
        let text = &line.text[..line.text.floor_char_boundary(LONGEST)];
        let sent = match line.level {
            Level::Error => self.logger.err(text),
            Level::Warn => self.logger.warning(text),
            Level::Info => self.logger.info(text),
            Level::Debug | Level::Trace => self.logger.debug(text),
        };
        sent.map_err(|e| match e {
            Error::Io(e) | Error::Write(e) => e,
            Error::Initialization(e) => io::Error::other(e),
        })
    }
}

impl Sink for Syslog {
    /// A syslog that was restarted has a new socket under the old name.
    fn write(&mut self, line: &Line) -> bool {
        match self.send(line) {
            Ok(()) => true,
            Err(e) if e.kind() == ErrorKind::WouldBlock => false,
            Err(_) => match connect(&self.path) {
                Ok(backend) => {
                    self.logger.backend = backend;
                    self.send(line).is_ok()
                }
                Err(_) => false,
            },
        }
    }

    fn lost(&mut self) -> &mut u64 {
        &mut self.lost
    }
}

fn connect(path: &Path) -> io::Result<LoggerBackend> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(path)?;
    Ok(LoggerBackend::Unix(socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn line(level: Level, text: &str) -> Line {
        Line::now(level, text.into())
    }

    fn receive(daemon: &UnixDatagram) -> String {
        let mut buffer = [0; 8192];
        let length = daemon.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn a_line_is_one_message_of_facility_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::at(&path).unwrap();
        syslog.speak_for(77);
        for (level, priority) in [(Level::Error, 27), (Level::Warn, 28), (Level::Info, 30)] {
            syslog.take(&line(level, "hello"));
            let message = receive(&daemon);
            assert!(message.starts_with(&format!("<{priority}>")), "{message}");
            assert!(message.ends_with(" rmogstored[77]: hello"), "{message}");
        }
    }

    #[test]
    fn a_busy_syslog_loses_lines_and_is_told_how_many() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::at(&path).unwrap();
        let mut sent = 0;
        while *syslog.lost() == 0 {
            syslog.take(&line(Level::Info, "x"));
            sent += 1;
        }
        (1..sent).for_each(|_| drop(receive(&daemon)));
        syslog.take(&line(Level::Info, "after"));
        assert!(receive(&daemon).ends_with(": 1 log lines lost"));
        assert!(receive(&daemon).ends_with(": after"));
    }

    #[test]
    fn a_restarted_syslog_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::at(&path).unwrap();
        drop(daemon);
        fs::remove_file(&path).unwrap();
        syslog.take(&line(Level::Info, "nobody"));
        let daemon = UnixDatagram::bind(&path).unwrap();
        syslog.take(&line(Level::Info, "back"));
        assert!(receive(&daemon).ends_with(": 1 log lines lost"));
        assert!(receive(&daemon).ends_with(": back"));
    }

    #[test]
    fn without_a_socket_there_is_no_syslog() {
        assert!(Syslog::at(Path::new("/nonexistent/log")).is_err());
    }
}
