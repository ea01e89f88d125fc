//! What is measured once for the whole node, by the worker that owns the first docroot: how busy
//! each disk is. Only while somebody watches.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;

use mio::unix::SourceFd;
use mio::{Interest, Token};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::disk::busy::{self, Meter};
use crate::disk::mounts::Number;
use crate::event_loop::{IOSTAT, Worker};
use crate::spec::{DeviceKey, SiteId};

/// A command that ended is started again no sooner than this.
const RESTART_MS: u64 = 1000;
/// Longest line of the command's output that is looked at.
const MAX_LINE: usize = 4096;

/// The measuring instrument.
#[derive(Debug)]
pub(crate) struct Clerk {
    meter: Meter,
    command: Option<String>,
    iostat: Option<Iostat>,
    started: Option<u64>,
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
    pub(crate) fn new() -> Clerk {
        let command = std::env::var("MOG_IOSTAT_CMD").ok().filter(|command| !command.is_empty());
        Clerk { meter: Meter::default(), command, iostat: None, started: None }
    }
}

impl Worker {
    /// Ends the operator's command: this worker goes.
    pub(crate) fn stop_measuring(&mut self) {
        self.clerk.iostat = None;
    }
}

impl Drop for Iostat {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Worker {
    /// True when this worker measures and somebody watches, on whichever worker.
    pub(crate) fn must_measure(&self) -> bool {
        let first = DeviceKey { site: SiteId(0), devid: 0 };
        self.owner(first) == self.id
            && self.board.live_workers().any(|(_, slot)| slot.watchers.load(Relaxed) > 0)
    }

    /// Takes a reading, once a second.
    pub(crate) fn measure(&mut self) {
        if self.clerk.command.is_some() {
            return self.keep_iostat_running();
        }
        let busy = self.clerk.meter.read();
        for (_, slot) in self.board.devices() {
            slot.set_busy(slot.disk().and_then(|disk| busy.get(&disk).copied()));
        }
    }

    fn keep_iostat_running(&mut self) {
        let recent =
            self.clerk.started.is_some_and(|at| self.clock.now().saturating_sub(at) < RESTART_MS);
        if self.clerk.iostat.is_some() || recent {
            return;
        }
        self.clerk.started = Some(self.clock.now());
        let Some(command) = self.clerk.command.clone() else { return };
        match start(&command).and_then(|iostat| {
            let raw = iostat.output.as_raw_fd();
            self.registry().register(&mut SourceFd(&raw), Token(IOSTAT), Interest::READABLE)?;
            Ok(iostat)
        }) {
            Ok(iostat) => self.clerk.iostat = Some(iostat),
            Err(e) => log::error!("MOG_IOSTAT_CMD {command:?}: {e}"),
        }
    }

    /// The command has said something, or has ended.
    pub(crate) fn read_iostat(&mut self) {
        let Some(iostat) = &mut self.clerk.iostat else { return };
        let mut buffer = [0; 4096];
        let mut lines: Vec<Vec<u8>> = Vec::new();
        let ended = loop {
            match iostat.output.read(&mut buffer) {
                Ok(0) => break true,
                Ok(n) => lines.extend(iostat.take(&buffer[..n])),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break false,
                Err(_) => break true,
            }
        };
        if ended {
            self.clerk.iostat = None;
        }
        self.note_iostat(&lines);
    }

    fn note_iostat(&self, lines: &[Vec<u8>]) {
        let names = busy::names();
        let numbers: HashMap<&str, Number> =
            names.iter().map(|(number, name)| (name.as_str(), *number)).collect();
        let devices = self.board.devices();
        for line in lines.iter().filter_map(|line| std::str::from_utf8(line).ok()) {
            let Some((name, busy)) = busy::parse_iostat(line) else { continue };
            let Some(number) = numbers.get(name) else { continue };
            for (_, slot) in devices.iter().filter(|(_, slot)| slot.disk() == Some(*number)) {
                slot.set_busy(Some(busy));
            }
        }
    }
}

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

impl Iostat {
    /// Adds output; returns the lines that are whole now.
    fn take(&mut self, output: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        for &byte in output {
            if byte == b'\n' {
                lines.push(std::mem::take(&mut self.line));
            } else if self.line.len() < MAX_LINE {
                self.line.push(byte);
            }
        }
        lines
    }
}
