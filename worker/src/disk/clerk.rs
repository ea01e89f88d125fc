//! How busy the disks are, measured once for the whole node: from /proc/diskstats, or by the
//! operator's own command. PROTOCOL.md section 3.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::disk::busy::{self, Meter};
use crate::disk::mounts::Number;
use crate::scoreboard::Scoreboard;

/// A command that ended is started again no sooner than this.
const RESTART_MS: u64 = 1000;
/// Disks are read this long before the groups go out.
const READ_AHEAD_MS: u64 = 50;
/// Longest line of the command's output that is looked at.
const MAX_LINE: usize = 4096;
/// Reads of its output at a time: twice what a pipe holds.
const MOST_READS: usize = 32;

/// The measuring instrument. Times are on the clock that all processes share, in milliseconds.
#[derive(Debug, Default)]
pub struct Clerk {
    meter: Meter,
    command: Option<String>,
    iostat: Option<Iostat>,
    started: Option<u64>,
    next_reading: u64,
}

/// The operator's own command instead of /proc/diskstats.
#[derive(Debug)]
struct Iostat {
    child: Child,
    output: ChildStdout,
    line: Vec<u8>,
}

impl Clerk {
    /// Looks at `MOG_IOSTAT_CMD` once.
    pub fn new() -> Clerk {
        let command = std::env::var("MOG_IOSTAT_CMD").ok().filter(|command| !command.is_empty());
        Clerk { command, ..Clerk::default() }
    }

    /// Ends the operator's command.
    pub fn stop(&mut self) {
        self.iostat = None;
    }

    /// Whether it is time for a reading, shortly before each full second.
    pub fn reading_is_due(&mut self, now: u64) -> bool {
        let due = now >= self.next_reading;
        if due {
            self.next_reading = (now + READ_AHEAD_MS) / 1000 * 1000 + 1000 - READ_AHEAD_MS;
        }
        due
    }

    /// How long it is until the next one.
    pub fn until_reading(&self, now: u64) -> u64 {
        self.next_reading.saturating_sub(now)
    }

    /// Takes a reading: of the command, which is started if it does not run, what it has said
    /// since the last one.
    pub fn measure(&mut self, board: Scoreboard, now: u64) {
        if self.command.is_some() {
            self.take_output(board);
            return self.keep_running(now);
        }
        let busy = self.meter.read();
        for (_, slot) in board.devices() {
            slot.set_busy(slot.disk().and_then(|disk| busy.get(&disk).copied()));
        }
    }

    fn keep_running(&mut self, now: u64) {
        let recent = self.started.is_some_and(|at| now.saturating_sub(at) < RESTART_MS);
        let Some(command) = self.command.as_ref().filter(|_| self.iostat.is_none() && !recent)
        else {
            return;
        };
        self.started = Some(now);
        match Iostat::start(command) {
            Ok(iostat) => self.iostat = Some(iostat),
            Err(e) => log::error!("MOG_IOSTAT_CMD {command:?}: {e}"),
        }
    }

    fn take_output(&mut self, board: Scoreboard) {
        let Some(iostat) = &mut self.iostat else { return };
        let (lines, ended) = iostat.read();
        if ended {
            self.iostat = None;
        }
        if lines.is_empty() {
            return;
        }
        let names = busy::names();
        let numbers: HashMap<&str, Number> =
            names.iter().map(|(number, name)| (name.as_str(), *number)).collect();
        let devices = board.devices();
        for line in lines.iter().filter_map(|line| std::str::from_utf8(line).ok()) {
            let Some((name, busy)) = busy::parse_iostat(line) else { continue };
            let Some(number) = numbers.get(name) else { continue };
            for (_, slot) in devices.iter().filter(|(_, slot)| slot.disk() == Some(*number)) {
                slot.set_busy(Some(busy));
            }
        }
    }
}

impl Iostat {
    fn start(command: &str) -> io::Result<Iostat> {
        let mut child = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let output = child.stdout.take().ok_or_else(|| io::Error::other("no pipe"))?;
        fcntl(output.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Iostat { child, output, line: Vec::new() })
    }

    /// The lines that are whole now, and whether the command has ended. What it says without end is
    /// left in the pipe, beyond some pipefuls: it must not keep the loop.
    fn read(&mut self) -> (Vec<Vec<u8>>, bool) {
        let (mut buffer, mut lines) = ([0; 4096], Vec::new());
        for _ in 0..MOST_READS {
            match self.output.read(&mut buffer) {
                Ok(0) => return (lines, true),
                Ok(n) => self.take(&buffer[..n], &mut lines),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return (lines, false),
                Err(_) => return (lines, true),
            }
        }
        (lines, false)
    }

    fn take(&mut self, output: &[u8], lines: &mut Vec<Vec<u8>>) {
        for &byte in output {
            if byte == b'\n' {
                lines.push(std::mem::take(&mut self.line));
            } else if self.line.len() < MAX_LINE {
                self.line.push(byte);
            }
        }
    }
}

impl Drop for Iostat {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn with_command(command: &str) -> Clerk {
        Clerk { command: Some(command.into()), ..Clerk::default() }
    }

    #[test]
    fn readings_come_shortly_before_each_full_second() {
        let mut clerk = Clerk::default();
        assert!(clerk.reading_is_due(5300));
        assert_eq!(clerk.until_reading(5300), 650);
        assert!(!clerk.reading_is_due(5949));
        assert!(clerk.reading_is_due(5950));
        assert_eq!(clerk.until_reading(5950), 1000);
    }

    #[test]
    fn command_runs_once_and_again_no_sooner_than_a_second_after() {
        let board = Scoreboard::new().unwrap();
        let mut clerk = with_command("true");
        clerk.measure(board, 100);
        let begun = Instant::now();
        while clerk.iostat.is_some() {
            assert!(begun.elapsed() < Duration::from_secs(10), "it does not end");
            clerk.take_output(board);
        }
        clerk.measure(board, 1099);
        assert!(clerk.iostat.is_none() && clerk.started == Some(100));
        clerk.measure(board, 1100);
        assert_eq!(clerk.started, Some(1100));
        clerk.stop();
        assert!(clerk.iostat.is_none());
    }

    #[test]
    fn command_that_never_stops_talking_does_not_keep_the_loop() {
        let mut iostat = Iostat::start("yes sda 1").unwrap();
        for _ in 0..100 {
            let (lines, ended) = iostat.read();
            assert!(!ended && lines.len() <= MOST_READS * 4096 / 6);
        }
    }

    #[test]
    fn lines_are_put_together_and_long_ones_cut() {
        let mut iostat = Iostat::start("cat").unwrap();
        let mut lines = Vec::new();
        iostat.take(b"sda 1", &mut lines);
        assert!(lines.is_empty());
        iostat.take(b"2.5\nsdb", &mut lines);
        iostat.take(&[b'x'; 2 * MAX_LINE], &mut lines);
        iostat.take(b"\n", &mut lines);
        assert_eq!(lines[0], b"sda 12.5");
        assert_eq!(lines[1].len(), MAX_LINE);
    }
}
