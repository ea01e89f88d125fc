//! Writing the body of a PUT to its file: space reserved ahead, writeback behind.

use std::io;

use super::body::Framing;
use super::{LARGE, Put, Stop};
use crate::disk::commit::Incoming;
use crate::disk::failed::InCall;
use crate::disk::operation::Turn;
use crate::sys::file;

/// Disk space is reserved in steps of this size: what a peer merely announces takes no more.
const RESERVED: u64 = 64 * 1024 * 1024;
/// Writeback of a large file is started in steps of this size.
const WINDOW: u64 = 8 * 1024 * 1024;

impl Put {
    pub(super) fn write(&mut self, turn: &Turn<'_>, data: &[u8]) -> Result<(), Stop> {
        let Some(incoming) = self.file.as_ref().filter(|_| !data.is_empty()) else {
            return Ok(());
        };
        if let Some(digest) = &mut self.digest {
            digest.update(data);
        }
        let start = self.offset();
        if turn.is_lost() {
            return Err(Stop::Lost);
        }
        turn.progress.touch();
        if self.received >= self.reserved {
            self.reserved = self.reserve(turn, incoming, data.len() as u64)?;
        }
        let at = start + self.received;
        let written = incoming.file().write_all_at(turn.on, data, at);
        written.in_call("pwrite").map_err(Stop::Disk)?;
        self.received += data.len() as u64;
        self.pace(turn, start).in_call("sync_file_range").map_err(Stop::Disk)
    }

    /// Where the body starts in the file that it is written to.
    pub(super) fn offset(&self) -> u64 {
        if self.spooled { 0 } else { self.start }
    }

    /// Reserves disk space for what comes next, which is cheaper than page by page as it is written,
    /// and keeps it in one piece. `ENOSPC`, `EDQUOT`: the body does not fit. Returns up to where.
    fn reserve(&self, turn: &Turn<'_>, incoming: &Incoming, present: u64) -> Result<u64, Stop> {
        let left = match self.framing {
            Framing::Length(left) if incoming.is_new() => left + present,
            _ => 0,
        };
        let len = left.min(RESERVED);
        if len < LARGE {
            return Ok(u64::MAX);
        }
        match file::reserve(incoming.file().get(turn.on), self.offset() + self.received, len) {
            Ok(()) => Ok(self.received + len),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => {
                Err(e).in_call("fallocate").map_err(Stop::Disk)
            }
            Err(_) => Ok(u64::MAX), // The filesystem cannot; what else is wrong, the write will tell.
        }
    }

    /// Starts writeback as the file grows, one window behind, and waits for the one before: no
    /// device may pile up the dirty pages for which the writers of every other one would have to
    /// wait. What smaller files leave dirty, the kernel writes in its own time. An error that this
    /// is told of, nobody else is.
    fn pace(&mut self, turn: &Turn<'_>, start: u64) -> io::Result<()> {
        let Some(incoming) = &self.file else { return Ok(()) };
        while self.received - self.synced >= 2 * WINDOW {
            let file = incoming.file().get(turn.on);
            turn.progress.touch();
            file::start_writeback(file, start + self.synced, WINDOW)?;
            if let Some(before) = self.synced.checked_sub(WINDOW) {
                turn.progress.pace(|| file::wait_writeback(file, start + before, WINDOW))?;
            }
            self.synced += WINDOW;
        }
        Ok(())
    }
}
