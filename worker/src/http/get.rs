//! GET and HEAD of files: PROTOCOL.md section 2.3. The same plan serves both ways: inline in the
//! loop when everything is cached, and in a disk thread.

use std::io;
use std::os::fd::BorrowedFd;
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
use crate::http::{log_failure, status_of};
use crate::ids::DeviceKey;
use crate::scoreboard::Usage;
use crate::sys::{file, socket};

/// Most bytes that one sendfile call is asked for.
const WINDOW: u64 = 1024 * 1024;
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

/// A file being sent.
#[derive(Debug)]
pub struct Transfer {
    /// What is sent.
    pub file: Arc<OpenFile>,
    /// Named in the log when the file shrinks.
    pub path: DevPath,
    /// What is left of it.
    pub rest: Extent,
    /// Whether the connection lives on afterwards.
    pub keep: bool,
    /// The answer's head, as far as it is not sent.
    head: Vec<u8>,
}

/// How far a transfer came.
#[derive(Debug)]
pub enum Pumped {
    /// All is sent.
    Done,
    /// The peer does not take more now.
    Blocked,
    /// So much for one turn.
    Enough,
    /// The file ended before its size: nothing sensible can follow.
    Shrunk,
    /// The peer is gone, or the disk failed.
    Failed(io::Error),
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

impl Transfer {
    /// A transfer whose head, if any is left, goes first.
    pub fn new(
        file: Arc<OpenFile>,
        path: DevPath,
        rest: Extent,
        keep: bool,
        head: Vec<u8>,
    ) -> Self {
        Transfer { file, path, rest, keep, head }
    }

    /// Sends until done, blocked, or `budget` bytes are through. `send` moves bytes of the file.
    pub fn pump(
        &mut self,
        to: BorrowedFd<'_>,
        budget: u64,
        send: impl Fn(&OpenFile, u64, usize) -> io::Result<usize>,
    ) -> Pumped {
        let mut budget = budget;
        if !self.head.is_empty() {
            match socket::send(to, &self.head, self.rest.len > 0) {
                Ok(n) => drop(self.head.drain(..n)),
                Err(e) => return blocked_or_failed(e),
            }
            if !self.head.is_empty() {
                return Pumped::Blocked;
            }
        }
        while self.rest.len > 0 {
            if budget == 0 {
                return Pumped::Enough;
            }
            let count = self.rest.len.min(WINDOW).min(budget);
            match send(&self.file, self.rest.offset, count as usize) {
                Ok(0) => return Pumped::Shrunk,
                Ok(n) => {
                    self.rest.offset += n as u64;
                    self.rest.len -= n as u64;
                    budget -= n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return blocked_or_failed(e),
            }
        }
        Pumped::Done
    }
}

fn first(turn: &Turn<'_>, file: &OpenFile, body: Extent) -> io::Result<()> {
    turn.progress.touch();
    file.read_at(turn.on, &mut [0], body.offset).map(|_| ())
}

fn blocked_or_failed(e: io::Error) -> Pumped {
    match e.kind() {
        io::ErrorKind::WouldBlock => Pumped::Blocked,
        _ => Pumped::Failed(e),
    }
}

/// Logs why a transfer cannot be completed; a peer that went away is not worth a line.
pub fn log_broken(path: &DevPath, why: &Pumped) {
    match why {
        Pumped::Shrunk => {
            log::error!("GET {}: the file became shorter while it was sent", path.as_str());
        }
        Pumped::Failed(e) if e.raw_os_error() == Some(libc::EIO) => {
            log::error!("GET {}: {e}", path.as_str());
        }
        Pumped::Failed(e) => log::debug!("GET {}: {e}", path.as_str()),
        Pumped::Done | Pumped::Blocked | Pumped::Enough => {}
    }
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
        let before = transfer.rest.len;
        // A socket that is said to be ready and takes nothing is left to the loop.
        let mut waited_at = u64::MAX;
        let pumped = loop {
            let budget = SLICE.saturating_sub(before - transfer.rest.len);
            match transfer.pump(turn.socket, budget, |file, offset, count| {
                turn.progress.touch();
                file::sendfile(turn.socket, file.get(turn.on), offset, count)
            }) {
                Pumped::Blocked if transfer.rest.len < waited_at && turn.wait_for(Need::Write) => {
                    waited_at = transfer.rest.len;
                }
                pumped => break pumped,
            }
        };
        turn.count_out(before - transfer.rest.len);
        let keep = transfer.keep;
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
                log_broken(&self.path, &broken);
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
        Get { path: transfer.path, request, keep: transfer.keep, transfer: Some(transfer) }
    }

    /// Opens the file and writes the head; answers at once when that is all.
    fn begin(&self, turn: &Turn<'_>) -> Result<Transfer, Outcome> {
        let keep = turn.may_keep(self.keep);
        let mut head = Vec::with_capacity(320);
        if self.path.is_usage()
            && turn.device.usage
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
                log_failure("GET", self.path.as_str(), status, &e);
                Err(status)
            }
        };
        // The first bytes are brought before anything is said: a disk that cannot bring them is
        // told of in the answer.
        let planned =
            planned.and_then(|(body, file)| match body.map(|body| first(turn, &file, body)) {
                Some(Err(e)) => {
                    let status = status_of(&e);
                    log_failure("GET", self.path.as_str(), status, &e);
                    head.clear();
                    Err(status)
                }
                _ => Ok((body, file)),
            });
        match planned {
            Ok((Some(body), file)) => {
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
