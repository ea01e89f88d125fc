//! PUT: PROTOCOL.md section 2.4. All of it runs in a disk thread of the device's owner: the thread
//! reads the body from the socket straight into its buffer and writes it to the file, until the
//! socket has no more for now.

mod body;
mod store;
mod write;

use std::any::Any;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use crate::clock::date_now;
use crate::disk::commit::Incoming;
use crate::disk::failed::{Failed, InCall};
use crate::disk::loan::{Stage, Style};
use crate::disk::md5::Md5;
use crate::disk::open;
use crate::disk::operation::{Answered, Need, Op, Operation, Outcome, Turn, Turned};
use crate::disk::path::DevPath;
use crate::http::answer::{self, CONTINUE, Status};
use crate::http::head::{Body, ContentMd5, ContentRange, Request};
use crate::http::put::body::Framing;
use crate::http::refuse::Refused;
use crate::http::{log_failed, status_of};
use crate::ids::DeviceKey;
use crate::sys::socket;

/// What one read from the socket may bring, and one write to the disk take.
const BUFFER: usize = 256 * 1024;
/// Bodies from this size on are worth a system call or two that make them cheaper.
const LARGE: u64 = 64 * 1024;
/// After so many bytes a disk thread looks whether others wait for it.
const SLICE: u64 = 8 * 1024 * 1024;

thread_local! {
    static THREAD_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A PUT on its way through disk threads.
#[derive(Debug)]
pub struct Put {
    path: DevPath,
    /// The request, for what becomes of its body if it is refused.
    pub request: Request,
    framing: Framing,
    /// What the loop had read behind the head.
    pub initial: Vec<u8>,
    file: Option<Incoming>,
    /// Where a Content-Range PUT starts in its file.
    start: u64,
    /// A range that must match its MD5 before it is written in place waits in a file of its own.
    spooled: bool,
    received: u64,
    synced: u64,
    /// Where the disk space that has been reserved ends.
    reserved: u64,
    digest: Option<Md5>,
    leftover: Vec<u8>,
    has_read: bool,
    /// Why nothing of its body was taken.
    pub refused: Option<Refused>,
}

/// Why a PUT ends before its body does.
enum Stop {
    Blocked,
    Enough,
    /// The peer is gone; the text is for the log.
    Vanished(String),
    /// The body is not what it should be.
    Bad(Status),
    Disk(Failed),
    /// The loop has taken the connection back.
    Lost,
}

impl Operation for Put {
    fn path(&self) -> &DevPath {
        &self.path
    }

    fn is_fresh(&self) -> bool {
        self.file.is_none()
    }

    fn stage(&self) -> Stage {
        match &self.file {
            Some(file) if !file.is_new() => Stage::Committing,
            _ if self.has_read => Stage::Begun,
            _ => Stage::Fresh,
        }
    }

    fn style(&self, _: DeviceKey) -> Style {
        Style::Http(false)
    }

    fn is_short(&self) -> bool {
        !self.is_large()
    }

    fn is_long(&self) -> bool {
        self.is_large()
    }

    fn changes(&self) -> bool {
        true
    }

    fn has_input(&self) -> bool {
        true
    }

    /// Two lines for the operator who looks for a failed upload: PROTOCOL.md section 2.4.
    fn log_vanished(&self, socket: BorrowedFd<'_>, peer: SocketAddr, why: &str) {
        let (path, bytes) = (self.path.as_str(), self.received);
        log::warn!("PUT {path} failed from {peer} after {bytes} bytes: {why}");
        if let Some(ms) = socket::last_data_received(socket) {
            log::warn!("last_data_recv={ms}ms from {peer} for PUT {path}");
        }
    }

    fn run(mut self: Box<Self>, turn: &Turn<'_>) -> Turned {
        if self.file.is_none() {
            match self.open(turn) {
                Ok(file) => self.file = Some(file),
                Err(e) => return Turned::Over(self.refuse(&e)),
            }
            if self.is_in_place() && !turn.enter(Stage::Committing) {
                return Turned::Over(Outcome::Finished);
            }
            if !self.invite(turn) {
                return Turned::Over(Outcome::Broken);
            }
        } else {
            turn.progress.pass(); // It goes on with what the peer has sent.
        }
        if self.is_large() {
            turn.mute();
        }
        let before = self.received;
        let stopped = THREAD_BUFFER.with_borrow_mut(|buffer| {
            if buffer.is_empty() {
                *buffer = vec![0; BUFFER]; // Zeroed by the kernel, page by page as it is used.
            }
            self.receive(turn, buffer)
        });
        turn.count_in(self.received - before);
        if matches!(stopped, Err(Stop::Blocked | Stop::Enough)) {
            self.file.as_mut().map(Incoming::rest);
        }
        match stopped {
            Ok(()) => Turned::Over(self.finish(turn)),
            Err(Stop::Blocked) => Turned::Over(Outcome::Blocked { op: self, need: Need::Read }),
            Err(Stop::Enough) => Turned::Again(self),
            Err(Stop::Vanished(why)) => {
                self.log_vanished(turn.socket, turn.peer, &why);
                turn.progress.rest();
                log::logger().flush(); // Who sees the close finds the lines; the wait is short.
                Turned::Over(Outcome::Broken)
            }
            Err(Stop::Bad(status)) => Turned::Over(self.fail(turn, status)),
            Err(Stop::Disk(e)) => Turned::Over(self.fail_on_disk(turn, &e)),
            Err(Stop::Lost) => Turned::Over(Outcome::Finished),
        }
    }
}

impl Put {
    /// A request that is not refused as it stands, with what was read behind its head.
    pub fn new(path: DevPath, request: Request, initial: Vec<u8>) -> Put {
        let framing = match request.body {
            Body::Chunked => Framing::Chunked(Box::default()),
            Body::Length(length) => Framing::Length(length),
            Body::None => Framing::Length(0),
        };
        let start = match request.content_range {
            ContentRange::Bytes { first, .. } => first,
            _ => 0,
        };
        let wanted = matches!(request.content_md5, ContentMd5::Digest(_));
        Put {
            path,
            request,
            framing,
            initial,
            file: None,
            start,
            spooled: false,
            received: 0,
            synced: 0,
            reserved: 0,
            digest: wanted.then(Md5::new),
            leftover: Vec::new(),
            has_read: false,
            refused: None,
        }
    }

    /// A PUT, if an operation is one.
    pub fn of(op: Op) -> Result<Box<Put>, Op> {
        if !(&*op as &dyn Any).is::<Put>() {
            return Err(op);
        }
        let any: Box<dyn Any> = op;
        Ok(any.downcast().expect("it is one"))
    }

    /// More is to come than a few packets.
    fn is_large(&self) -> bool {
        match self.framing {
            Framing::Length(left) => left >= LARGE,
            Framing::Chunked(_) => true,
            Framing::Ended => false,
        }
    }

    /// A range goes into the file that is there, or into a new one that nobody sees before it is
    /// whole: if it fails, nothing is left.
    fn open(&mut self, turn: &Turn<'_>) -> Result<Incoming, Failed> {
        let (on, device) = (turn.on, turn.device);
        if self.request.expect_continue {
            // Before its body is asked for.
            let dir = device.dir(on).in_call("open")?;
            open::refuse_folder(on, device, &dir, self.path.relative()).in_call("openat2")?;
        }
        self.insist_on_conditions(turn)?;
        // Where there must be none, there is none to write into.
        if self.is_range() && !self.request.conditions.create_only() {
            match Incoming::in_place(on, device, &self.path) {
                Ok(_) if self.digest.is_some() => self.spooled = true,
                Err(e) if e.errno() == Some(libc::ENOENT) => {}
                opened => return opened,
            }
        }
        Incoming::create(on, device, &self.path, &self.flush(turn)?)
    }

    fn is_range(&self) -> bool {
        self.request.content_range != ContentRange::Absent
    }

    /// What is received can be seen at once under the final name.
    fn is_in_place(&self) -> bool {
        self.file.as_ref().is_some_and(|file| !file.is_new())
    }

    /// Tells a client that waits to send its body; one that has begun does not wait. A socket
    /// that cannot take these bytes now is one on which answers are not read.
    fn invite(&self, turn: &Turn<'_>) -> bool {
        let waits = self.request.expect_continue && self.initial.is_empty();
        !waits
            || self.enter(turn, Stage::Begun)
                && socket::send(turn.socket, CONTINUE, false).is_ok_and(|n| n == CONTINUE.len())
                && self.enter(turn, Stage::Fresh)
    }

    /// In place nobody knows the outcome from the beginning to the end.
    fn enter(&self, turn: &Turn<'_>, stage: Stage) -> bool {
        turn.enter(if self.is_in_place() { Stage::Committing } else { stage })
    }

    /// Takes the body until it is over (`Ok`) or something stops it. What the peer sends counts
    /// for the turn, whether it is body or framing.
    fn receive(&mut self, turn: &Turn<'_>, buffer: &mut [u8]) -> Result<(), Stop> {
        let mut left = SLICE;
        loop {
            let (filled, stopped) = self.fill(turn, buffer, &mut left);
            self.write(turn, &buffer[..filled])?;
            match stopped {
                Some(stop) => return Err(stop),
                None if matches!(self.framing, Framing::Ended) => break,
                None if left == 0 => return Err(Stop::Enough),
                None => {}
            }
        }
        // Whole: from here on there is an answer again.
        match self.enter(turn, Stage::Fresh) {
            true => Ok(()),
            false => Err(Stop::Lost),
        }
    }

    /// The body is whole: checks it and gives it its name.
    fn finish(mut self: Box<Self>, turn: &Turn<'_>) -> Outcome {
        turn.progress.touch();
        let Some(incoming) = self.file.take() else { return Outcome::Broken };
        let keep = self.request.keep_alive;
        let stored = self.conclude(turn, incoming);
        let status = match stored {
            Ok(Some(status)) => status,
            Ok(None) => return Outcome::Finished,
            Err(e) => self.status_on_disk(&e),
        };
        // The body is read: the next request may follow.
        self.reply(turn, status, keep && !closes(status))
    }

    /// The file could not even be opened: nothing of the body has been taken.
    fn refuse(mut self: Box<Self>, error: &Failed) -> Outcome {
        let status = self.status_on_disk(error);
        self.refused = Some(Refused { status, close: closes(status) });
        Outcome::Refused(self)
    }

    fn fail_on_disk(self: Box<Self>, turn: &Turn<'_>, error: &Failed) -> Outcome {
        let status = self.status_on_disk(error);
        self.fail(turn, status)
    }

    fn status_on_disk(&self, error: &Failed) -> Status {
        let status = status_of(&error.error);
        log_failed("PUT", self.path.as_str(), status, error);
        status
    }

    /// Answers and closes. The file goes first: nothing may be left of it once that is said.
    fn fail(mut self: Box<Self>, turn: &Turn<'_>, status: Status) -> Outcome {
        self.file = None;
        self.reply(turn, status, false)
    }

    fn reply(mut self: Box<Self>, turn: &Turn<'_>, status: Status, keep: bool) -> Outcome {
        let keep = keep && (!self.leftover.is_empty() || turn.may_keep(true));
        turn.count_error(status.code());
        let mut head = Vec::with_capacity(200);
        answer::empty(&mut head, status, &date_now(), keep);
        let leftover = std::mem::take(&mut self.leftover);
        match turn.answer(head, keep) {
            Outcome::Answered(answered) => {
                Outcome::Answered(Answered { leftover, has_read: self.has_read, ..answered })
            }
            other => other,
        }
    }
}

/// Whether a PUT that ends so ends its connection, wherever it stands: PROTOCOL.md section 2.2.
fn closes(status: Status) -> bool {
    matches!(status, Status::InternalServerError500 | Status::InsufficientStorage507)
}
