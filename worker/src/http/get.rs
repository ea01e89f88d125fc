//! GET and HEAD of files: PROTOCOL.md section 2.3. The same plan serves both ways: inline in the
//! loop when everything is cached, and in a disk thread.

use std::io;
use std::sync::Arc;

use crate::clock::HttpDate;
use crate::clock::date_now;
use crate::disk::hot_files::{Extent, Facts, OpenFile};
use crate::disk::loan::{Stage, Style};
use crate::disk::open;
use crate::disk::operation::{Need, Operation, Outcome, Turn, Turned};
use crate::disk::path::DevPath;
use crate::http::answer::{self, Status};
use crate::http::condition::{Purpose, Verdict};
use crate::http::head::{IfRange, Method, Request};
use crate::http::range::Selection;
use crate::http::transfer::{Pumped, Transfer, log_broken};
use crate::http::{note_failure, status_of};
use crate::ids::DeviceKey;
use crate::scoreboard::Usage;
use crate::sys::file;
use crate::trace::Part;

/// After so many bytes a disk thread looks whether others wait for it.
const SLICE: u64 = 8 * 1024 * 1024;

/// A GET or HEAD on its way through a disk thread.
#[derive(Debug)]
pub struct Get {
    path: DevPath,
    request: Request,
    keep: bool,
    transfer: Option<Transfer>,
}

/// Writes the head of the answer for a file, whose time is given in both forms, and says which part of it follows.
/// `Err`: it is no file that can be sent.
pub fn plan(
    out: &mut Vec<u8>,
    request: &Request,
    (facts, modified): (Facts, &HttpDate),
    now: &HttpDate,
    keep: bool,
) -> Result<Option<Extent>, Status> {
    if !facts.regular {
        return Err(Status::Forbidden403);
    }
    let size = facts.size;
    match request.conditions.judge(Purpose::Read, Some(facts.modified)) {
        Verdict::Proceed => {}
        Verdict::Failed => return Err(Status::PreconditionFailed412),
        Verdict::NotModified => {
            answer::not_modified(out, now, modified, keep);
            return Ok(None);
        }
    }
    let body = match selection(request, size, facts.modified) {
        Selection::Nonsense => return Err(Status::BadRequest400),
        Selection::Unsatisfiable => {
            answer::unsatisfiable(out, now, size, keep);
            return Ok(None);
        }
        Selection::Whole => {
            answer::file(out, now, modified, size, keep);
            Extent { offset: 0, len: size }
        }
        Selection::Part { first, last } => {
            answer::part(out, now, modified, first, last, size, keep);
            Extent { offset: first, len: last - first + 1 }
        }
    };
    Ok((request.method == Method::Get && body.len > 0).then_some(body))
}

/// Writes the whole answer for a usage file, which is in memory.
pub fn answer_usage(
    out: &mut Vec<u8>,
    request: &Request,
    usage: &Usage,
    text: &str,
    now: &HttpDate,
    keep: bool,
) {
    let facts = Facts { size: text.len() as u64, modified: usage.time as i64, regular: true };
    let modified = HttpDate::from_unix(facts.modified);
    match plan(out, request, (facts, &modified), now, keep) {
        Ok(None) => {}
        Ok(Some(Extent { offset, len })) => {
            let part = offset as usize..(offset + len) as usize;
            out.extend_from_slice(text.as_bytes().get(part).unwrap_or_default());
        }
        Err(status) => answer::empty(out, status, now, keep),
    }
}

/// A Range counts unless an If-Range names another version: RFC 9110 section 13.1.5.
fn selection(request: &Request, size: u64, modified: i64) -> Selection {
    let current = match request.if_range {
        IfRange::Absent => true,
        IfRange::Date(date) => date == modified,
        IfRange::Other => false,
    };
    match request.range {
        Some(range) if current => range.select(size),
        _ => Selection::Whole,
    }
}

fn first(turn: &Turn<'_>, file: &OpenFile, body: Extent) -> io::Result<()> {
    turn.note_part(Part::Read);
    turn.progress.touch();
    file.read_at(turn.on, &mut [0], body.offset).map(|_| ())
}

impl Operation for Get {
    fn path(&self) -> &DevPath {
        &self.path
    }

    fn style(&self, _: DeviceKey) -> Style {
        Style::Http(self.keep)
    }

    fn stage(&self) -> Stage {
        if self.is_fresh() { Stage::Fresh } else { Stage::Begun }
    }

    fn is_fresh(&self) -> bool {
        self.transfer.is_none()
    }

    fn is_long(&self) -> bool {
        true
    }

    fn run(mut self: Box<Self>, turn: &Turn<'_>) -> Turned {
        let mut transfer = match self.transfer.take() {
            Some(transfer) => transfer,
            None => match self.begin(turn) {
                Ok(transfer) => transfer,
                Err(outcome) => return Turned::Over(outcome),
            },
        };
        if !turn.enter(Stage::Begun) {
            return Turned::Over(Outcome::Finished);
        }
        let before = transfer.left();
        // A socket that is said to be ready and takes nothing is left to the loop.
        let mut waited_at = u64::MAX;
        let pumped = loop {
            let budget = SLICE.saturating_sub(before - transfer.left());
            match transfer.pump(turn.socket, budget, |file, offset, count| {
                turn.note_part(Part::Read);
                turn.progress.touch();
                file::sendfile(turn.socket, file.get(turn.on), offset, count)
            }) {
                Pumped::Blocked if transfer.left() < waited_at && turn.wait_for(Need::Write) => {
                    waited_at = transfer.left();
                }
                pumped => break pumped,
            }
        };
        turn.count_out(before - transfer.left());
        let keep = transfer.keeps();
        match pumped {
            Pumped::Done => Turned::Over(Outcome::answered(Vec::new(), keep)),
            Pumped::Blocked => {
                self.transfer = Some(transfer);
                Turned::Over(Outcome::Blocked { op: self, need: Need::Write })
            }
            Pumped::Enough => {
                self.transfer = Some(transfer);
                Turned::Again(self)
            }
            broken => {
                log_broken(turn.device.key(), turn.slot, &self.path, &broken);
                Turned::Over(Outcome::Broken)
            }
        }
    }
}

impl Get {
    /// A request for a file that a disk thread must open.
    pub fn new(path: DevPath, request: Request, keep: bool) -> Get {
        Get { path, request, keep, transfer: None }
    }

    /// The rest of a transfer that was going on in the loop.
    pub fn resume(transfer: Transfer, request: Request) -> Get {
        Get { path: *transfer.path(), request, keep: transfer.keeps(), transfer: Some(transfer) }
    }

    /// Opens the file and writes the head; answers at once when that is all.
    fn begin(&self, turn: &Turn<'_>) -> Result<Transfer, Outcome> {
        let keep = turn.may_keep(self.keep);
        let mut head = Vec::with_capacity(320);
        if self.path.is_usage()
            && turn.device.has_usage()
            && let Some(usage) = turn.first_look()
        {
            let text = usage.text(turn.device.path());
            answer_usage(&mut head, &self.request, &usage, &text, &date_now(), keep);
            return Err(turn.answer(head, keep));
        }
        let opened = turn
            .device
            .dir(turn.on)
            .and_then(|dir| open::for_reading(turn.on, turn.device, &dir, self.path.relative()))
            .and_then(|fd| {
                let stat = fd.stat(turn.on)?;
                Ok(OpenFile::new(fd, &stat, None, false))
            });
        let planned = match opened {
            Ok(file) => plan(&mut head, &self.request, file.described(), &date_now(), keep)
                .map(|body| (body, file)),
            Err(e) => {
                let status = status_of(&e);
                note_failure(turn, "GET", &self.path, status, &e);
                Err(status)
            }
        };
        // The first bytes are brought before anything is said: a disk that cannot bring them is
        // told of in the answer.
        let planned =
            planned.and_then(|(body, file)| match body.map(|body| first(turn, &file, body)) {
                Some(Err(e)) => {
                    let status = status_of(&e);
                    note_failure(turn, "GET", &self.path, status, &e);
                    head.clear();
                    Err(status)
                }
                _ => Ok((body, file)),
            });
        match planned {
            Ok((Some(body), file)) => {
                turn.note_answer(&head);
                Ok(Transfer::new(Arc::new(file), self.path, body, keep, head))
            }
            Ok((None, _)) => Err(turn.answer(head, keep)),
            Err(status) => {
                turn.count_error(status.code());
                answer::empty(&mut head, status, &date_now(), keep);
                Err(turn.answer(head, keep))
            }
        }
    }
}
