//! Where the content of a PUT goes: the file that takes it, and the name that it gets when it is
//! whole. A range goes into the file that is there; it goes there by way of another file, a spool,
//! when it must be checked first.

use std::io;

use super::BUFFER;
use super::checksum::Checksum;
use super::write::FileWriter;
use crate::disk::commit::{Incoming, copy_into};
use crate::disk::failed::{Failed, InCall};
use crate::disk::flush::Flush;
use crate::disk::loan::Stage;
use crate::disk::md5::Md5;
use crate::disk::open;
use crate::disk::operation::Turn;
use crate::disk::path::DevPath;
use crate::http::answer::Status;
use crate::http::condition::ConditionFailed;
use crate::http::head::{ContentRange, Request};
use crate::scoreboard::Change;

/// A path, with what the request says of it.
#[derive(Clone, Copy)]
pub(super) struct Destination<'a> {
    turn: &'a Turn<'a>,
    path: &'a DevPath,
    request: &'a Request,
}

impl<'a> Destination<'a> {
    /// Where a request's content goes, in this turn.
    pub(super) fn new(turn: &'a Turn<'a>, path: &'a DevPath, request: &'a Request) -> Self {
        Destination { turn, path, request }
    }

    /// Opens the file that takes the content. A range goes into the file that is there, or into a
    /// new one that nobody sees before it is whole: if it fails, nothing is left.
    pub(super) fn open(&self, checksum: &Checksum) -> Result<FileWriter, Failed> {
        let (on, device) = (self.turn.on, self.turn.device);
        if self.request.expect_continue {
            // Before its body is asked for.
            let dir = device.dir(on).in_call("open")?;
            open::refuse_folder(on, device, &dir, self.path.relative()).in_call("openat2")?;
        }
        self.insist_on_conditions()?;
        let mut is_spool = false;
        // Where there must be none, there is none to write into.
        if self.is_range() && !self.request.conditions.create_only() {
            match Incoming::in_place(on, device, self.path) {
                Ok(_) if checksum.is_announced() => is_spool = true,
                Err(e) if e.errno() == Some(libc::ENOENT) => {}
                opened => return opened.map(|file| FileWriter::new(file, self.start())),
            }
        }
        let file = Incoming::create(on, device, self.path, &self.flush()?)?;
        Ok(if is_spool { FileWriter::spool(file) } else { FileWriter::new(file, self.start()) })
    }

    /// Checks what has been received, and gives it its name. `Ok(None)`: the connection is lost,
    /// and nothing was committed.
    pub(super) fn conclude(
        &self,
        file: FileWriter,
        checksum: &mut Checksum,
    ) -> Result<Option<Status>, Failed> {
        let flush = self.flush()?;
        if !self.make_ready(&file, checksum, &flush)? {
            return Ok(Some(Status::BadRequest400));
        }
        if !self.turn.enter(Stage::Committing) {
            return Ok(None);
        }
        self.store(file, &flush).map(|()| Some(Status::Created201))
    }

    fn is_range(&self) -> bool {
        self.request.content_range != ContentRange::Absent
    }

    /// Where a range starts in its file.
    fn start(&self) -> u64 {
        match self.request.content_range {
            ContentRange::Bytes { first, .. } => first,
            _ => 0,
        }
    }

    /// Before the body is taken, and again before what it replaces goes.
    fn insist_on_conditions(&self) -> Result<(), Failed> {
        let (turn, conditions) = (self.turn, &self.request.conditions);
        if conditions.allow_any_change() {
            return Ok(());
        }
        let dir = turn.device.dir(turn.on).in_call("open")?;
        let modified = open::modified(turn.on, turn.device, &dir, self.path.relative());
        conditions.insist(modified?).in_call("fstat")
    }

    fn flush(&self) -> Result<Flush<'a>, Failed> {
        Ok(self.turn.flush(&*self.turn.device.dir(self.turn.on).in_call("open")?))
    }

    /// All that comes before the commit. `Ok(false)`: the content is not what was announced.
    fn make_ready(
        &self,
        file: &FileWriter,
        checksum: &mut Checksum,
        flush: &Flush<'_>,
    ) -> Result<bool, Failed> {
        let turn = self.turn;
        let incoming = file.incoming();
        if !checksum.matches(|| digest_of(turn, incoming)).in_call("pread")? {
            return Ok(false);
        }
        file.check_writeback(turn.on, turn.progress)?;
        if !file.is_spool() {
            flush.before(turn.on, incoming.file())?;
        }
        Ok(true)
    }

    fn store(&self, file: FileWriter, flush: &Flush<'_>) -> Result<(), Failed> {
        let (on, device, path) = (self.turn.on, self.turn.device, self.path);
        let (is_spool, from) = (file.is_spool(), file.start());
        let mut source = file.into_incoming();
        if source.is_new() {
            self.insist_on_conditions()?;
        }
        let create_only = self.request.conditions.create_only();
        if !create_only && (!self.is_range() || !source.is_new()) {
            return source.commit(on, device, path, flush, || self.change());
        }
        if !is_spool {
            match source.commit_new(on, device, path, flush)? {
                None => return Ok(()),
                Some(_) if create_only => return Err(ConditionFailed).in_call("linkat"),
                Some(back) => source = back, // There is a file by now.
            }
        }
        self.merge(&source, from, flush)
    }

    /// Writes a range that was received elsewhere into its file, which may be gone by now.
    fn merge(&self, source: &Incoming, from: u64, flush: &Flush<'_>) -> Result<(), Failed> {
        let (turn, path) = (self.turn, self.path);
        let (on, device) = (turn.on, turn.device);
        let target = match Incoming::in_place(on, device, path) {
            Err(e) if e.errno() == Some(libc::ENOENT) => Incoming::create(on, device, path, flush),
            opened => opened,
        }?;
        {
            let _change = self.change();
            let to = (target.file(), self.start());
            copy_into(on, (source.file(), from), to, || turn.progress.touch())?;
        }
        flush.before(on, target.file())?;
        target.commit(on, device, path, flush, || self.change())
    }

    /// While this is kept, who has the file open knows that it is another one by now.
    fn change(&self) -> Option<Change> {
        self.turn.slot.map(|slot| slot.change(self.path.name_hash()))
    }
}

/// The digest of a file that was received before it was known that one would be asked for.
fn digest_of(turn: &Turn<'_>, incoming: &Incoming) -> io::Result<[u8; 16]> {
    let (mut digest, mut offset) = (Md5::new(), 0);
    let mut buffer = vec![0; BUFFER];
    loop {
        turn.progress.touch();
        match incoming.file().read_at(turn.on, &mut buffer, offset)? {
            0 => return Ok(digest.finish()),
            n => {
                digest.update(&buffer[..n]);
                offset += n as u64;
            }
        }
    }
}
