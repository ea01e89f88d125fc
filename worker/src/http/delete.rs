//! DELETE: PROTOCOL.md section 2.5.

use std::io;

use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::disk::commit::folder_flags;
use crate::disk::open;
use crate::disk::path::DevPath;
use crate::exchange::{Outcome, Turn, Turned};
use crate::http::answer;
use crate::http::condition::Conditions;
use crate::http::{date_now, log_failure, status_of};
use crate::loan::Stage;

/// A DELETE on its way to a disk thread.
#[derive(Debug)]
pub struct Delete {
    /// What to remove.
    pub path: DevPath,
    /// Whether the connection lives on afterwards.
    pub keep: bool,
    /// On what it depends.
    pub conditions: Conditions,
}

impl Delete {
    /// Its one turn in a disk thread.
    pub fn run(self, turn: &Turn<'_>) -> Turned {
        let keep = turn.may_keep(self.keep);
        let mut head = Vec::with_capacity(200);
        match self.remove(turn) {
            Ok(false) => return Turned::Over(Outcome::Finished),
            Ok(true) => answer::no_content(&mut head, &date_now(), keep),
            Err(e) => {
                let status = status_of(&e);
                log_failure("DELETE", self.path.as_str(), status, &e);
                turn.count_error(status);
                answer::empty(&mut head, status, &date_now(), keep);
            }
        }
        Turned::Over(turn.answer(head, keep))
    }

    /// The folder is opened first, so that no link on the way leads out of the device.
    /// `Ok(false)`: nobody waits for it any more, and nothing was removed.
    fn remove(&self, turn: &Turn<'_>) -> io::Result<bool> {
        let dir = turn.device.dir(turn.on)?;
        let Some((folder, name)) = self.path.parent() else {
            open::inside(turn.on, turn.device, &dir, self.path.relative(), libc::O_PATH, 0)?;
            return Err(io::Error::from_raw_os_error(libc::EISDIR));
        };
        let folder = std::ffi::CString::new(if folder.is_empty() { b"." } else { folder })?;
        let folder = open::inside(turn.on, turn.device, &dir, &folder, folder_flags(), 0)?;
        turn.progress.touch();
        // What is not there is 404, whatever the conditions: RFC 9110 section 13.2.1.
        if !self.conditions.allow_any_change()
            && let Some(modified) =
                open::modified(turn.on, turn.device, &dir, self.path.relative())?
        {
            self.conditions.insist(Some(modified))?;
        }
        if !turn.enter(Stage::Committing) {
            return Ok(false);
        }
        let _change = turn.slot.map(|slot| slot.change(&self.path));
        unlinkat(folder.get(turn.on), name, UnlinkatFlags::NoRemoveDir)?;
        Ok(true)
    }
}
