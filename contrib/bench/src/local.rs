//! What servers are compared with that is no server: OpenSSL's MD5, and stat(2) itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::cases::{OPENSSL, Unit};
use crate::contest::{Arena, Contestant, Sample};
use crate::corpus::Set;
use crate::cpu::{as_server, used, used_by_this_thread};
use crate::failure::{Context, Failure, Outcome, go_on};
use crate::load::Tally;

/// `openssl dgst -md5`, with what it takes to start taken off.
pub struct OpenSsl {
    binary: PathBuf,
    files: Vec<PathBuf>,
    bytes: u64,
    empty: PathBuf,
}

/// stat(2) in this process.
pub struct RawStat {
    files: Vec<PathBuf>,
    count: u64,
}

impl OpenSsl {
    /// Of the files of a set, all in one run.
    pub fn new(arena: &Arena, binary: PathBuf, set: Set) -> Outcome<OpenSsl> {
        let files = files(arena, set);
        let empty = arena.scratch.top().join("empty");
        fs::write(&empty, b"")?;
        Ok(OpenSsl { binary, files, bytes: set.count * set.size as u64, empty })
    }

    fn cost(&self, files: &[&Path]) -> Outcome<(Duration, Duration)> {
        let mut command = Command::new(&self.binary);
        command.args(["dgst", "-md5"]).args(files).stdin(Stdio::null()).stdout(Stdio::null());
        let begun = Instant::now();
        let mut child = as_server(|| command.spawn())?.context("openssl")?;
        let pid = Pid::from_raw(child.id() as i32);
        // Its clock can be read until it is waited for.
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).context("openssl")?;
        let (wall, cpu) = (begun.elapsed(), used(pid));
        match child.wait()?.success() {
            true => Ok((cpu?, wall)),
            false => Err(Failure::new("openssl dgst -md5 failed")),
        }
    }
}

impl Contestant for OpenSsl {
    fn name(&self) -> &'static str {
        OPENSSL
    }

    fn warm_up(&mut self) -> Outcome<()> {
        self.slice(false).map(drop)
    }

    fn slice(&mut self, _: bool) -> Outcome<Sample> {
        go_on()?;
        let files: Vec<&Path> = self.files.iter().map(PathBuf::as_path).collect();
        let (cpu, wall) = self.cost(&files)?;
        let (start, _) = self.cost(&[&self.empty])?;
        let tally = Tally { units: files.len() as u64, bytes: self.bytes };
        Ok(Sample::of_cpu(Unit::MillisPerGb, tally, cpu.saturating_sub(start), wall))
    }
}

impl RawStat {
    /// Of the files of a set, over and over.
    pub fn new(arena: &Arena, set: Set) -> RawStat {
        RawStat { files: files(arena, set), count: 20_000 }
    }
}

impl Contestant for RawStat {
    fn name(&self) -> &'static str {
        "stat(2) itself"
    }

    fn warm_up(&mut self) -> Outcome<()> {
        self.slice(false).map(drop)
    }

    fn slice(&mut self, _: bool) -> Outcome<Sample> {
        let (before, begun) = (used_by_this_thread()?, Instant::now());
        for file in self.files.iter().cycle().take(self.count as usize) {
            nix::sys::stat::stat(file).context("stat")?;
        }
        let cpu = used_by_this_thread()? - before;
        let tally = Tally { units: self.count, bytes: 0 };
        Ok(Sample::of_cpu(Unit::MicrosEach, tally, cpu, begun.elapsed()))
    }
}

fn files(arena: &Arena, set: Set) -> Vec<PathBuf> {
    set.numbers().map(|number| arena.corpus.file(number)).collect()
}
