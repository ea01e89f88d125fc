//! One name: what it is, whether it belongs there, and, for a file of the cluster, whether all of
//! it can be read. What changes while it is looked at is looked at again, and what is gone by then
//! was never wrong.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, fstatat};

use super::control::{Control, Halt};
use super::finding::{Finding, Kind, Totals};
use super::judge::{self, Type};
use super::pace::Pace;
use super::place::{self, Folder, Name};
use super::read::{ALIGNMENT, BadPlace, Reader, Source};
use super::target::{Target, text};
use super::walk::{DEEPEST, Entry, Walk};

/// What direct reads come in multiples of, at least.
const SECTOR: u64 = 512;
/// Until what a call has begun to change has changed altogether, on a busy processor too.
const MOMENT: Duration = Duration::from_millis(20);
/// How often a file is looked at that changes meanwhile.
const ATTEMPTS: u32 = 3;

/// What is needed to look at the names of a device.
pub struct Examination<'a> {
    /// The device.
    pub target: &'a Target,
    /// When to wait and to stop.
    pub control: &'a Control,
    /// How fast to read.
    pub pace: Pace,
    /// What reads.
    pub reader: Reader,
    /// Whom the node runs as.
    pub user: judge::Reader,
}

/// What came of one name.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What is wrong with it.
    pub findings: Vec<Finding>,
    /// Bytes read.
    pub bytes: u64,
    files: u64,
    unsettled: bool,
    changing: bool,
}

impl Outcome {
    /// Counts it.
    pub fn add_to(&self, totals: &mut Totals) {
        totals.files += self.files;
        totals.bytes += self.bytes;
        totals.unsettled += u64::from(self.unsettled);
        totals.changing += u64::from(self.changing);
        for finding in &self.findings {
            *totals.found.entry(finding.kind).or_default() += 1;
        }
    }

    fn one(finding: Finding) -> Outcome {
        Outcome { findings: vec![finding], ..Outcome::default() }
    }
}

/// What came of reading one file once.
enum Read {
    Done(Outcome),
    Changed,
    Gone,
}

impl Examination<'_> {
    /// Returns when the disk may be used.
    pub fn wait(&mut self) -> Result<(), Halt> {
        self.pace.wait(self.control)
    }

    /// Looks at a name, and tells whether to go into it.
    pub fn look(&mut self, walk: &Walk, entry: &Entry) -> Result<(Outcome, bool), Halt> {
        let path = walk.path(entry);
        let facts = match stat(walk, entry) {
            Ok(facts) => facts,
            Err(Errno::ENOENT) => return Ok((Outcome::default(), false)),
            Err(errno) => {
                let fid = place::fid(entry.name.to_bytes());
                let why = format!("stat: {}", errno.desc());
                return Ok((self.unreadable(&path, fid, why, errno), false));
            }
        };
        match judge::type_of(&facts) {
            Type::Folder => Ok(self.folder(walk, entry, &facts, &path)),
            Type::File => self.file(walk, entry, &facts, &path).map(|outcome| (outcome, false)),
            Type::Other(what) => Ok((self.other(walk, entry, &facts, &path, what), false)),
        }
    }

    /// A finding of what cannot be opened, listed or asked about.
    pub fn unreadable(&self, path: &Path, fid: Option<u64>, why: String, errno: Errno) -> Outcome {
        let errno = Some(errno as i32);
        Outcome::one(Finding { errno, ..self.finding(Kind::Unreadable, path, fid, why) })
    }

    fn folder(&self, walk: &Walk, entry: &Entry, facts: &FileStat, path: &Path) -> (Outcome, bool) {
        let mut outcome = match place::folder(walk.folders(), entry.name.to_bytes()) {
            Folder::Closed => return (Outcome::default(), false),
            Folder::Known => Outcome::default(),
            Folder::Tree if self.user.may(0o1, facts) => Outcome::default(),
            Folder::Tree => Outcome::one(self.forbidden(path, None, facts, "enter")),
            Folder::Stray => {
                let finding = self.finding(Kind::Stray, path, None, "a folder of no node's".into());
                self.settled(walk, entry, facts, finding)
            }
            Folder::NamedAsFile(fid) => self.wrong_type(path, Some(fid), "a folder"),
        };
        let enter = walk.folders().len() < DEEPEST;
        if !enter {
            let why = "too deep to be looked into".to_owned();
            outcome.findings.push(self.finding(Kind::Stray, path, None, why));
        }
        (outcome, enter)
    }

    fn other(
        &self,
        walk: &Walk,
        entry: &Entry,
        facts: &FileStat,
        path: &Path,
        what: &str,
    ) -> Outcome {
        let told = match place::file(walk.folders(), entry.name.to_bytes()) {
            Name::Covered => return Outcome::default(),
            Name::Fid(fid) | Name::Misplaced(fid) => self.wrong_type(path, Some(fid), what),
            Name::Stray | Name::Known | Name::Temporary(_) => self.wrong_type(path, None, what),
        };
        if is_still(walk, entry, facts) { told } else { Outcome::default() }
    }

    fn file(
        &mut self,
        walk: &Walk,
        entry: &Entry,
        facts: &FileStat,
        path: &Path,
    ) -> Result<Outcome, Halt> {
        match place::file(walk.folders(), entry.name.to_bytes()) {
            Name::Known | Name::Covered => Ok(Outcome::default()),
            Name::Stray => {
                let finding = self.finding(Kind::Stray, path, None, "no file of a node's".into());
                Ok(self.settled(walk, entry, facts, finding))
            }
            Name::Temporary(maker) if judge::is_left_over(facts, maker) => {
                let why = "a temporary name that nobody is at any more".to_owned();
                let finding = self.finding(Kind::Leftover, path, None, why);
                let size = Some(facts.st_size.max(0).cast_unsigned());
                Ok(self.settled(walk, entry, facts, Finding { size, ..finding }))
            }
            Name::Temporary(_) => {
                Ok(Outcome { unsettled: !judge::is_settled(facts), ..Outcome::default() })
            }
            Name::Fid(fid) => self.read(walk, entry, path, fid, false),
            Name::Misplaced(fid) => self.read(walk, entry, path, fid, true),
        }
    }

    fn read(
        &mut self,
        walk: &Walk,
        entry: &Entry,
        path: &Path,
        fid: u64,
        misplaced: bool,
    ) -> Result<Outcome, Halt> {
        for _ in 0..ATTEMPTS {
            match self.read_once(walk, entry, path, fid, misplaced)? {
                Read::Done(outcome) => return Ok(outcome),
                Read::Gone => return Ok(Outcome::default()),
                Read::Changed => {}
            }
        }
        Ok(Outcome { changing: true, ..Outcome::default() })
    }

    fn read_once(
        &mut self,
        walk: &Walk,
        entry: &Entry,
        path: &Path,
        fid: u64,
        misplaced: bool,
    ) -> Result<Read, Halt> {
        let mut source = match self.reader.open(walk.folder(), &entry.name) {
            Ok(source) => source,
            Err(e) => return Ok(self.cannot_open(path, fid, &e)),
        };
        let Ok(before) = source.file().metadata() else { return Ok(Read::Changed) };
        let read = self.content(&mut source, before.len())?;
        let facts = match stat(walk, entry) {
            Ok(facts) => facts,
            Err(Errno::ENOENT) => return Ok(Read::Gone),
            Err(errno) => {
                let why = format!("stat: {}", errno.desc());
                return Ok(Read::Done(self.unreadable(path, Some(fid), why, errno)));
            }
        };
        if !judge::is_unchanged(&before, &facts) {
            return Ok(Read::Changed);
        }
        let mut outcome = Outcome { files: 1, ..Outcome::default() };
        let by_size = match self.bad_content(path, fid, read, before.len()) {
            Some(finding) => {
                outcome.findings.push(finding);
                None
            }
            None => {
                outcome.bytes = before.len();
                self.by_size(path, fid, &source, before.blocks() * 512, before.len())
            }
        };
        let misplaced = misplaced.then(|| {
            let why = "its number belongs into other folders".to_owned();
            self.finding(Kind::Misplaced, path, Some(fid), why)
        });
        if by_size.is_some() && self.moves_on(walk, entry, &facts) {
            return Ok(Read::Changed);
        }
        let settled = judge::is_settled(&facts);
        for finding in by_size.into_iter().chain(misplaced) {
            if settled { outcome.findings.push(finding) } else { outcome.unsettled = true }
        }
        if !self.user.may(0o4, &facts) {
            outcome.findings.push(self.forbidden(path, Some(fid), &facts, "read"));
        }
        Ok(Read::Done(outcome))
    }

    /// Reads all of a file; how many bytes came.
    fn content(&mut self, source: &mut Source, size: u64) -> Result<Result<u64, BadPlace>, Halt> {
        let mut offset = 0;
        while offset < size {
            if offset > 0 {
                self.pace.wait(self.control)?;
            }
            let left = usize::try_from(size - offset).unwrap_or(usize::MAX);
            let want = self.pace.piece().min(left.div_ceil(ALIGNMENT).saturating_mul(ALIGNMENT));
            let length = match self.reader.read(source, offset, want) {
                Ok(length) => length,
                Err(bad) => return Ok(Err(bad)),
            };
            self.pace.spent(length.max(ALIGNMENT));
            offset += length as u64;
            // Fewer bytes: the file ends there, at a place where none but its end can be; or the
            // kernel gave what is before a bad place, and the next read fails.
            if length == 0 || !offset.is_multiple_of(SECTOR) {
                break;
            }
        }
        Ok(Ok(offset))
    }

    /// A file that is truncated has its new size a moment before its new time.
    fn moves_on(&self, walk: &Walk, entry: &Entry, facts: &FileStat) -> bool {
        thread::sleep(MOMENT);
        !is_still(walk, entry, facts)
    }

    fn by_size(
        &self,
        path: &Path,
        fid: u64,
        source: &Source,
        allocated: u64,
        size: u64,
    ) -> Option<Finding> {
        if size == 0 {
            return Some(self.finding(Kind::Empty, path, Some(fid), "it has no bytes".to_owned()));
        }
        let offset = judge::hole(source.file(), size)?;
        let why = format!("what is at {offset} was never written");
        let finding = self.finding(Kind::Hole, path, Some(fid), why);
        let (offset, size, allocated) = (Some(offset), Some(size), Some(allocated));
        Some(Finding { offset, size, allocated, ..finding })
    }

    /// What is wrong when not all of a file was read.
    fn bad_content(
        &self,
        path: &Path,
        fid: u64,
        read: Result<u64, BadPlace>,
        size: u64,
    ) -> Option<Finding> {
        let (offset, errno, why) = match read {
            Ok(bytes) if bytes == size => return None,
            Ok(bytes) => (bytes, None, format!("ends at {bytes}, though it has {size} bytes")),
            Err(BadPlace { offset, error }) => {
                let why = format!("read at {offset}: {}", text(&error));
                (offset, error.raw_os_error(), why)
            }
        };
        let finding = self.finding(Kind::Unreadable, path, Some(fid), why);
        Some(Finding { offset: Some(offset), errno, size: Some(size), ..finding })
    }

    fn cannot_open(&self, path: &Path, fid: u64, error: &std::io::Error) -> Read {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        match errno {
            Errno::ENOENT => Read::Gone,
            // It has become a link, a socket or a folder.
            Errno::ELOOP | Errno::ENXIO | Errno::ENOTDIR | Errno::EISDIR => Read::Changed,
            errno => {
                let why = format!("open: {}", errno.desc());
                Read::Done(self.unreadable(path, Some(fid), why, errno))
            }
        }
    }

    /// A finding about a name that has been there for a while and still is what it was.
    fn settled(&self, walk: &Walk, entry: &Entry, facts: &FileStat, finding: Finding) -> Outcome {
        if !judge::is_settled(facts) {
            return Outcome { unsettled: true, ..Outcome::default() };
        }
        if is_still(walk, entry, facts) { Outcome::one(finding) } else { Outcome::default() }
    }

    fn wrong_type(&self, path: &Path, fid: Option<u64>, what: &str) -> Outcome {
        let why = format!("it is {what}, not a file");
        Outcome::one(self.finding(Kind::WrongType, path, fid, why))
    }

    fn forbidden(&self, path: &Path, fid: Option<u64>, facts: &FileStat, what: &str) -> Finding {
        let (mode, user) = (facts.st_mode & 0o7777, self.user.user());
        let why = format!(
            "user {user}, as whom the node runs, may not {what} it: mode {mode:04o}, owner {}:{}",
            facts.st_uid, facts.st_gid
        );
        self.finding(Kind::Forbidden, path, fid, why)
    }

    fn finding(&self, kind: Kind, path: &Path, fid: Option<u64>, why: String) -> Finding {
        let path = readable(&self.target.path.join(path));
        let devid = self.target.devid.get();
        let (offset, errno, size, allocated) = (None, None, None, None);
        Finding { kind, path, devid, fid, why, offset, errno, size, allocated }
    }
}

fn stat(walk: &Walk, entry: &Entry) -> nix::Result<FileStat> {
    fstatat(walk.folder().as_fd(), entry.name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// The second look.
fn is_still(walk: &Walk, entry: &Entry, facts: &FileStat) -> bool {
    let key = |facts: &FileStat| {
        let FileStat { st_dev, st_ino, st_mode, st_size, st_mtime, st_mtime_nsec, .. } = *facts;
        (st_dev, st_ino, st_mode, st_size, st_mtime, st_mtime_nsec)
    };
    stat(walk, entry).is_ok_and(|now| key(&now) == key(facts))
}

/// As it is, or, when it is no UTF-8, with escapes.
fn readable(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    match path.to_str() {
        Some(text) => text.to_owned(),
        None => path.as_os_str().as_bytes().escape_ascii().to_string(),
    }
}
