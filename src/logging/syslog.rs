//! Messages for the local syslog, as RFC 3164 has them, with facility LOG_DAEMON. It may come
//! late, go, and be started anew: each line looks for it again, so many times a second at most.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{io, process};

use log::Level;
use syslog::{Error, Facility, Formatter3164, Logger, LoggerBackend};

use super::{Line, Sink};

const SOCKET: &str = "/dev/log";

/// Longer texts are cut: a datagram is sent whole or not at all.
const LONGEST: usize = 4096;

/// Most attempts to reach a syslog that is not there, in so much time.
const MOST_ATTEMPTS: u32 = 100;
const PERIOD: Duration = Duration::from_secs(1);

/// A datagram socket that never waits.
pub struct Syslog {
    path: PathBuf,
    pid: u32,
    /// `None`: nobody was there.
    logger: Option<Logger<LoggerBackend, Formatter3164>>,
    attempts: Attempts,
    lost: u64,
}

/// Those of the last period.
struct Attempts {
    since: Instant,
    count: u32,
}

impl Syslog {
    /// The machine's syslog, which need not be there yet.
    pub fn open() -> Self {
        Self::at(Path::new(SOCKET))
    }

    /// Messages carry this pid from now on.
    pub fn speak_for(&mut self, pid: u32) {
        self.pid = pid;
        if let Some(logger) = &mut self.logger {
            logger.formatter.pid = pid;
        }
    }

    fn at(path: &Path) -> Self {
        let attempts = Attempts { since: Instant::now(), count: 0 };
        let (path, pid) = (path.to_owned(), process::id());
        let mut syslog = Self { path, pid, logger: None, attempts, lost: 0 };
        syslog.connect();
        syslog
    }

    fn connect(&mut self) {
        let formatter = Formatter3164 {
            facility: Facility::LOG_DAEMON,
            hostname: None,
            process: "rmogstored".into(),
            pid: self.pid,
        };
        self.logger = connect(&self.path).ok().map(|backend| Logger::new(backend, formatter));
    }

    fn send(&mut self, line: &Line) -> io::Result<()> {
        let logger = self.logger.as_mut().ok_or(ErrorKind::NotConnected)?;
        let text = &line.text[..line.text.floor_char_boundary(LONGEST)];
        let sent = match line.level {
            Level::Error => logger.err(text),
            Level::Warn => logger.warning(text),
            Level::Info => logger.info(text),
            Level::Debug | Level::Trace => logger.debug(text),
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
            Err(_) if !self.attempts.allow(Instant::now()) => false,
            Err(_) => {
                self.connect();
                self.send(line).is_ok()
            }
        }
    }

    fn lost(&mut self) -> &mut u64 {
        &mut self.lost
    }
}

impl Attempts {
    fn allow(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= PERIOD {
            *self = Attempts { since: now, count: 0 };
        }
        self.count += 1;
        self.count <= MOST_ATTEMPTS
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
        let mut syslog = Syslog::at(&path);
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
        let mut syslog = Syslog::at(&path);
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
        let mut syslog = Syslog::at(&path);
        drop(daemon);
        fs::remove_file(&path).unwrap();
        syslog.take(&line(Level::Info, "nobody"));
        let daemon = UnixDatagram::bind(&path).unwrap();
        syslog.take(&line(Level::Info, "back"));
        assert!(receive(&daemon).ends_with(": 1 log lines lost"));
        assert!(receive(&daemon).ends_with(": back"));
    }

    #[test]
    fn a_syslog_that_comes_late_is_found_and_told_what_it_missed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut syslog = Syslog::at(&path);
        syslog.speak_for(77);
        syslog.take(&line(Level::Info, "nobody"));
        let daemon = UnixDatagram::bind(&path).unwrap();
        syslog.take(&line(Level::Info, "there"));
        assert!(receive(&daemon).ends_with(" rmogstored[77]: 1 log lines lost"));
        assert!(receive(&daemon).ends_with(" rmogstored[77]: there"));
    }

    #[test]
    fn a_syslog_that_is_not_there_is_looked_for_so_many_times_a_second() {
        let began = Instant::now();
        let mut attempts = Attempts { since: began, count: 0 };
        let allowed = |attempts: &mut Attempts, after| {
            (0..1000).filter(|_| attempts.allow(began + Duration::from_millis(after))).count()
        };
        assert_eq!(allowed(&mut attempts, 0), 100);
        assert_eq!(allowed(&mut attempts, 999), 0);
        assert_eq!(allowed(&mut attempts, 1000), 100);
    }
}
