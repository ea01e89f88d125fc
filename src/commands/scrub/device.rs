//! One device from its first name to its last, in a thread of its own.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use indicatif::ProgressBar;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::statvfs::fstatvfs;
use rmogstored_worker::sys::priority;

use super::control::{Control, Halt};
use super::examine::{Examination, Outcome};
use super::judge;
use super::pace::Pace;
use super::progress::Progress;
use super::read;
use super::report::Report;
use super::state::State;
use super::target::{Target, text};
use super::walk::{Entry, Position, Walk};

/// What the threads share.
pub struct Shared {
    /// How far they have come.
    pub state: State,
    /// Where findings go.
    pub report: Report,
    /// The bars.
    pub progress: Progress,
    /// Bytes per second, for each of them.
    pub rate: Option<u64>,
}

/// How a device's thread has ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// Every name was looked at.
    Finished,
    /// A signal.
    Stopped,
    /// It was not looked at, or not to its end; why.
    Skipped(String),
    /// Nobody takes what is found.
    Unheard(String),
}

/// Scrubs a device.
pub fn scrub(target: &Target, shared: &Shared, control: &Control) -> End {
    priority::idle();
    match Scrubber::begin(target, shared, control).and_then(|mut scrubber| scrubber.run()) {
        Ok(()) => {
            shared.state.finished(&target.absolute);
            End::Finished
        }
        Err(end) => end,
    }
}

impl From<Halt> for End {
    fn from(halt: Halt) -> End {
        match halt {
            Halt::Stopped => End::Stopped,
            Halt::Sick(health) => End::Skipped(format!("the node calls it {}", health.word())),
        }
    }
}

struct Scrubber<'a> {
    target: &'a Target,
    shared: &'a Shared,
    walk: Walk,
    examination: Examination<'a>,
    bar: ProgressBar,
    /// Keeps other scrubs away.
    _lock: Option<Flock<File>>,
}

impl<'a> Scrubber<'a> {
    fn begin(
        target: &'a Target,
        shared: &'a Shared,
        control: &'a Control,
    ) -> Result<Scrubber<'a>, End> {
        control.check()?;
        let cannot = |e: io::Error| End::Skipped(format!("cannot be opened: {}", text(&e)));
        let device = open(&target.path).map_err(cannot)?;
        let lock = lock(&device)?;
        let filesystem = fstatvfs(&device).map_err(|e| cannot(e.into()))?.filesystem_id();
        let pass = shared.state.begin(&target.absolute, &format!("{filesystem:016x}"));
        let examination = Examination {
            target,
            control,
            pace: Pace::new(device.as_fd(), shared.rate),
            reader: read::Reader::new(device.as_fd()),
            user: judge::Reader::of(device.as_fd()).map_err(|e| cannot(e.into()))?,
        };
        let bar = shared.progress.bar(target.devid.get(), &device);
        bar.set_position(pass.totals.bytes);
        let walk = Walk::begin(OwnedFd::from(device), pass.resume());
        let walk = walk.map_err(|e| End::Skipped(format!("cannot be listed: {}", text(&e))))?;
        Ok(Scrubber { target, shared, walk, examination, bar, _lock: lock })
    }

    fn run(&mut self) -> Result<(), End> {
        while let Some(entry) = self.walk.next() {
            self.examination.wait()?;
            let (outcome, enter) = self.examination.look(&self.walk, &entry)?;
            if !(enter && entry.entered_before) {
                self.note(outcome, &self.walk.position(&entry, enter))?;
            }
            if enter {
                self.enter(&entry)?;
            }
        }
        self.bar.finish();
        Ok(())
    }

    fn enter(&mut self, entry: &Entry) -> Result<(), End> {
        let done = self.walk.position(entry, false);
        let path = self.walk.path(entry);
        match self.walk.enter(entry).map_err(|e| e.raw_os_error().map(Errno::from_raw)) {
            // Removed, or replaced by something else.
            Ok(()) | Err(Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)) => Ok(()),
            Err(errno) => {
                let errno = errno.unwrap_or(Errno::EIO);
                let why = format!("cannot be listed: {}", errno.desc());
                self.note(self.examination.unreadable(&path, None, why, errno), &done)
            }
        }
    }

    /// First told, then noted: a kill in between makes it told twice, never not at all.
    fn note(&self, outcome: Outcome, position: &Position) -> Result<(), End> {
        for finding in &outcome.findings {
            let told = self.shared.report.tell(finding);
            told.map_err(|e| End::Unheard(format!("standard output: {}", text(&e))))?;
        }
        self.bar.inc(outcome.bytes);
        self.shared.state.reached(&self.target.absolute, position, |totals| {
            outcome.add_to(totals);
            if !self.bar.is_hidden() {
                let found: u64 = totals.found.values().sum();
                self.bar.set_message(format!("{} files, {found} found", totals.files));
            }
        });
        Ok(())
    }
}

/// Follows a link: devN may be one.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlag::O_DIRECTORY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    File::options().read(true).custom_flags(flags).open(path)
}

/// `None`: the file system has no locks.
fn lock(device: &File) -> Result<Option<Flock<File>>, End> {
    let busy = || End::Skipped("another scrub is at it".to_owned());
    let copy = device.try_clone().map_err(|e| End::Skipped(text(&e)))?;
    match Flock::lock(copy, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Err(busy()),
        Err(_) => Ok(None),
    }
}
