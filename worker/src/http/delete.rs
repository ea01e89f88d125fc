//! DELETE: PROTOCOL.md section 2.5.

use std::ffi::CStr;

use nix::errno::Errno;
use nix::unistd::UnlinkatFlags;

use crate::disk::failed::{Failed, InCall};
use crate::disk::folders::parent;
use crate::disk::open;
use crate::disk::path::DevPath;
use crate::exchange::{Outcome, Turn, Turned};
use crate::http::answer;
use crate::http::condition::Conditions;
use crate::http::{date_now, log_failed, status_of};
use crate::loan::Stage;
use crate::sys::disk::unlinkat;

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
                let status = status_of(&e.error);
                log_failed("DELETE", self.path.as_str(), status, &e);
                turn.count_error(status);
                answer::empty(&mut head, status, &date_now(), keep);
            }
        }
        Turned::Over(turn.answer(head, keep))
    }

    /// The folder is opened first, so that no link on the way leads out of the device.
    /// `Ok(false)`: nobody waits for it any more, and nothing was removed.
    fn remove(&self, turn: &Turn<'_>) -> Result<bool, Failed> {
        let dir = turn.device.dir(turn.on).in_call("open")?;
        let open = |path: &CStr, flags| {
            open::inside(turn.on, turn.device, &dir, path, flags, 0).in_call("openat2")
        };
        let Some((_, name)) = self.path.parent() else {
            open(self.path.relative(), libc::O_PATH)?;
            return Err(Errno::EISDIR).in_call("unlinkat");
        };
        let flush = turn.flush(&dir);
        let folder = open(&parent(&self.path), flush.folder_flags())?;
        turn.progress.touch();
        // What is not there is 404, whatever the conditions: RFC 9110 section 13.2.1.
        if !self.conditions.allow_any_change()
            && let Some(modified) =
                open::modified(turn.on, turn.device, &dir, self.path.relative())?
        {
            self.conditions.insist(Some(modified)).in_call("fstat")?;
        }
        if !turn.enter(Stage::Committing) {
            return Ok(false);
        }
        let change = turn.slot.map(|slot| slot.change(&self.path));
        unlinkat(folder.get(turn.on), name, UnlinkatFlags::NoRemoveDir).in_call("unlinkat")?;
        drop(change);
        flush.after_delete(turn.on, &folder).map(|()| true)
    }
}
