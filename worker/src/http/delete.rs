//! DELETE: PROTOCOL.md section 2.5.

use std::ffi::CStr;

use nix::errno::Errno;
use nix::unistd::UnlinkatFlags;

use crate::clock::date_now;
use crate::disk::failed::{Failed, InCall};
use crate::disk::folders::parent;
use crate::disk::loan::{Stage, Style};
use crate::disk::open;
use crate::disk::operation::{Operation, Outcome, Turn, Turned};
use crate::disk::path::DevPath;
use crate::http::answer;
use crate::http::condition::Conditions;
use crate::http::{note_failed, status_of};
use crate::ids::DeviceKey;
use crate::sys::disk::unlinkat;
use crate::trace::Part;

/// A DELETE on its way to a disk thread.
#[derive(Debug)]
pub struct Delete {
    path: DevPath,
    keep: bool,
    /// On what it depends.
    conditions: Conditions,
}

impl Operation for Delete {
    fn path(&self) -> &DevPath {
        &self.path
    }

    fn style(&self, _: DeviceKey) -> Style {
        Style::Http(self.keep)
    }

    fn is_short(&self) -> bool {
        true
    }

    fn changes(&self) -> bool {
        true
    }

    fn run(self: Box<Self>, turn: &Turn<'_>) -> Turned {
        let keep = turn.may_keep(self.keep);
        let mut head = Vec::with_capacity(200);
        match self.remove(turn) {
            Ok(false) => return Turned::Over(Outcome::Finished),
            Ok(true) => answer::no_content(&mut head, &date_now(), keep),
            Err(e) => {
                let status = status_of(&e.error);
                note_failed(turn, "DELETE", &self.path, status, &e);
                turn.count_error(status.code());
                answer::empty(&mut head, status, &date_now(), keep);
            }
        }
        Turned::Over(turn.answer(head, keep))
    }
}

impl Delete {
    /// Removes a file, under conditions. `keep`: the connection lives on afterwards.
    pub fn new(path: DevPath, keep: bool, conditions: Conditions) -> Delete {
        Delete { path, keep, conditions }
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
        turn.note_part(Part::Commit);
        let change = turn.slot.map(|slot| slot.change(self.path.name_hash()));
        unlinkat(folder.get(turn.on), name, UnlinkatFlags::NoRemoveDir).in_call("unlinkat")?;
        drop(change);
        flush.after_delete(turn.on, &folder).map(|()| true)
    }
}
