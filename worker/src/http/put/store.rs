//! What becomes of the content of a PUT that is whole: checked, and given its name.

use std::io;

use super::{BUFFER, Put};
use crate::disk::commit::{Incoming, copy_into};
use crate::disk::failed::{Failed, InCall};
use crate::disk::flush::Flush;
use crate::disk::loan::Stage;
use crate::disk::md5::Md5;
use crate::disk::open;
use crate::disk::operation::Turn;
use crate::http::answer::Status;
use crate::http::condition::ConditionFailed;
use crate::http::head::ContentMd5;
use crate::sys::file;

impl Put {
    /// Before the body is taken, and again before what it replaces goes.
    pub(super) fn insist_on_conditions(&self, turn: &Turn<'_>) -> Result<(), Failed> {
        let conditions = &self.request.conditions;
        if conditions.allow_any_change() {
            return Ok(());
        }
        let dir = turn.device.dir(turn.on).in_call("open")?;
        let modified = open::modified(turn.on, turn.device, &dir, self.path.relative());
        conditions.insist(modified?).in_call("fstat")
    }

    /// `Ok(None)`: the connection is lost, and nothing was committed.
    pub(super) fn conclude(
        &mut self,
        turn: &Turn<'_>,
        incoming: Incoming,
    ) -> Result<Option<Status>, Failed> {
        let flush = self.flush(turn)?;
        if !self.make_ready(turn, &incoming, &flush)? {
            return Ok(Some(Status::BadRequest400));
        }
        if !turn.enter(Stage::Committing) {
            return Ok(None);
        }
        self.store(turn, incoming, &flush).map(|()| Some(Status::Created201))
    }

    /// All that comes before the commit. `Ok(false)`: the content is not what was announced.
    fn make_ready(
        &mut self,
        turn: &Turn<'_>,
        incoming: &Incoming,
        flush: &Flush<'_>,
    ) -> Result<bool, Failed> {
        if !self.matches_digest(turn, incoming).in_call("pread")? {
            return Ok(false);
        }
        if self.synced > 0 {
            // Tells of an error of any part whose writeback has ended; the first has long ended.
            let file = incoming.file().get(turn.on);
            turn.progress.touch();
            file::wait_writeback(file, self.offset(), 1).in_call("sync_file_range")?;
        }
        if !self.spooled {
            flush.before(turn.on, incoming.file())?;
        }
        Ok(true)
    }

    pub(super) fn flush<'a>(&self, turn: &'a Turn<'_>) -> Result<Flush<'a>, Failed> {
        Ok(turn.flush(&*turn.device.dir(turn.on).in_call("open")?))
    }

    fn matches_digest(&mut self, turn: &Turn<'_>, incoming: &Incoming) -> io::Result<bool> {
        let ContentMd5::Digest(wanted) = self.request.content_md5 else { return Ok(true) };
        let found = match self.digest.take() {
            Some(digest) => digest.finish(),
            None => digest_of(turn, incoming)?,
        };
        Ok(found == wanted)
    }

    fn store(&self, turn: &Turn<'_>, incoming: Incoming, flush: &Flush<'_>) -> Result<(), Failed> {
        let (on, device, path) = (turn.on, turn.device, &self.path);
        let change = || turn.slot.map(|slot| slot.change(path.name_hash()));
        if incoming.is_new() {
            self.insist_on_conditions(turn)?;
        }
        let create_only = self.request.conditions.create_only();
        if !create_only && (!self.is_range() || !incoming.is_new()) {
            return incoming.commit(on, device, path, flush, change);
        }
        let mut source = incoming;
        if !self.spooled {
            match source.commit_new(on, device, path, flush)? {
                None => return Ok(()),
                Some(_) if create_only => return Err(ConditionFailed).in_call("linkat"),
                Some(back) => source = back, // There is a file by now.
            }
        }
        self.merge(turn, flush, &source)
    }

    /// Writes a range that was received elsewhere into its file, which may be gone by now.
    fn merge(&self, turn: &Turn<'_>, flush: &Flush<'_>, source: &Incoming) -> Result<(), Failed> {
        let (on, device, path) = (turn.on, turn.device, &self.path);
        let change = || turn.slot.map(|slot| slot.change(path.name_hash()));
        let target = match Incoming::in_place(on, device, path) {
            Err(e) if e.errno() == Some(libc::ENOENT) => Incoming::create(on, device, path, flush),
            opened => opened,
        }?;
        let from = (source.file(), self.offset());
        {
            let _change = change();
            copy_into(on, from, (target.file(), self.start), || turn.progress.touch())?;
        }
        flush.before(on, target.file())?;
        target.commit(on, device, path, flush, change)
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
