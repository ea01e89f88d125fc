//! PUT: PROTOCOL.md section 2.4. All of it runs in a disk thread of the device's owner: the thread
//! reads the body from the socket straight into its buffer, or a large one into its pipe, and writes
//! it to the file, until the socket has no more for now.
//!
//! | module | holds |
//! |---|---|
//! | `body` | the body taken from its peer |
//! | `checksum` | the MD5 that it must have |
//! | `pipe` | the way of a large body past user space |
//! | `write`, `writeback` | the file that it is written to as it comes, and how far ahead of the disk |
//! | `store` | which file that is, and how it gets its name |

mod body;
mod checksum;
mod pipe;
mod store;
mod write;
mod writeback;

use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use body::{BodyReader, Peer};
use checksum::Checksum;
use store::Destination;
use write::FileWriter;

use crate::clock::date_now;
use crate::disk::failed::Failed;
use crate::disk::loan::{Stage, Style};
use crate::disk::operation::{Answered, Need, Op, Operation, Outcome, Turn, Turned};
use crate::disk::path::DevPath;
use crate::http::answer::{self, CONTINUE, Status};
use crate::http::head::Request;
use crate::http::refuse::Refused;
use crate::http::{note_failed, status_of};
use crate::ids::DeviceKey;
use crate::sys::pipe::Pipe;
use crate::sys::socket;
use crate::trace::Part;

/// What one read from the socket may bring, and one write to the disk take. A larger one leaves the
/// processor's cache where many threads have one each.
const BUFFER: usize = 64 * 1024;
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
    request: Request,
    /// What the loop had read behind the head, until the body is taken.
    initial: Vec<u8>,
    body: BodyReader,
    checksum: Checksum,
    /// What takes the body, from the first turn on.
    file: Option<FileWriter>,
    /// Why nothing of its body was taken.
    refused: Option<Refused>,
}

/// Why a PUT ends before its body does, or pauses.
#[derive(Debug)]
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
            Some(file) if file.is_in_place() => Stage::Committing,
            _ if self.body.has_read() => Stage::Begun,
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
        let (path, bytes) = (self.path.as_str(), self.received());
        log::warn!("PUT {path} failed from {peer} after {bytes} bytes: {why}");
        if let Some(ms) = socket::last_data_received(socket) {
            log::warn!("last_data_recv={ms}ms from {peer} for PUT {path}");
        }
    }

    fn run(mut self: Box<Self>, turn: &Turn<'_>) -> Turned {
        if self.file.is_none() {
            match Destination::new(turn, &self.path, &self.request).open(&self.checksum) {
                Ok(file) => self.file = Some(file),
                Err(e) => return Turned::Over(self.refuse(turn, &e)),
            }
            if self.is_in_place() && !turn.enter(Stage::Committing) {
                return Turned::Over(Outcome::Finished);
            }
            if !self.invite(turn) {
                return Turned::Over(Outcome::Broken);
            }
            self.body.begin_with(std::mem::take(&mut self.initial));
        } else {
            turn.progress.pass(); // It goes on with what the peer has sent.
        }
        if self.is_large() {
            turn.mute();
        }
        let before = self.received();
        let stopped = THREAD_BUFFER.with_borrow_mut(|buffer| {
            if buffer.is_empty() {
                *buffer = vec![0; BUFFER]; // Zeroed by the kernel, page by page as it is used.
            }
            self.receive(turn, buffer)
        });
        turn.count_in(self.received() - before);
        match stopped {
            Ok(()) => Turned::Over(self.finish(turn)),
            Err(stop) => self.stop(turn, stop),
        }
    }
}

impl Put {
    /// A request that is not refused as it stands, with what was read behind its head.
    pub fn new(path: DevPath, request: Request, initial: Vec<u8>) -> Put {
        let body = BodyReader::new(request.body);
        let checksum = Checksum::new(request.content_md5);
        Put { path, request, initial, body, checksum, file: None, refused: None }
    }

    /// A PUT, if an operation is one.
    pub fn of(op: Op) -> Result<Box<Put>, Op> {
        if !(&*op as &dyn Any).is::<Put>() {
            return Err(op);
        }
        let any: Box<dyn Any> = op;
        Ok(any.downcast().expect("it is one"))
    }

    /// Why nothing of its body was taken, if that is so.
    pub fn refused(&self) -> Option<Refused> {
        self.refused
    }

    /// The request, for what becomes of its body if it is refused, and what was read behind the
    /// head.
    pub fn into_request(self) -> (Request, Vec<u8>) {
        (self.request, self.initial)
    }

    /// More is to come than a few packets.
    fn is_large(&self) -> bool {
        self.body.is_endless() || self.body.left().is_some_and(|left| left >= LARGE)
    }

    /// What is received can be seen at once under the final name.
    fn is_in_place(&self) -> bool {
        self.file.as_ref().is_some_and(FileWriter::is_in_place)
    }

    fn received(&self) -> u64 {
        self.file.as_ref().map_or(0, FileWriter::written)
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

    fn enter(&self, turn: &Turn<'_>, stage: Stage) -> bool {
        Lent { turn, in_place: self.is_in_place() }.enter(stage)
    }

    /// Takes the body until it is over (`Ok`) or something stops it. What the peer sends counts
    /// for the turn, whether it is body or framing.
    fn receive(&mut self, turn: &Turn<'_>, buffer: &mut [u8]) -> Result<(), Stop> {
        let lent = Lent { turn, in_place: self.is_in_place() };
        let mut left = SLICE;
        loop {
            turn.note_part(Part::Peer);
            turn.progress.rest(); // A peer's time is no disk's.
            let stopped = match self.pipe() {
                Some(pipe) => self.pass_on(&lent, pipe, &mut left).err(),
                None => {
                    let (filled, stopped) = self.body.fill(&lent, buffer, &mut left);
                    self.write(turn, &buffer[..filled])?;
                    stopped
                }
            };
            match stopped {
                Some(stop) => return Err(stop),
                None if self.body.is_over() => break,
                None if left == 0 => return Err(Stop::Enough),
                None => {}
            }
        }
        if !self.checksum.add_trailer(self.body.trailer_md5()) {
            return Err(Stop::Bad(Status::BadRequest400));
        }
        // Whole: from here on there is an answer again.
        if lent.enter(Stage::Fresh) { Ok(()) } else { Err(Stop::Lost) }
    }

    /// By what the next piece goes to the file without a look at it: a large body of known length
    /// that nobody digests.
    fn pipe(&self) -> Option<Pipe> {
        let left = self.body.plain().filter(|left| *left > 0 && !self.checksum.is_announced())?;
        if left.max(self.received()) >= LARGE { pipe::take() } else { None }
    }

    fn pass_on(&mut self, lent: &Lent<'_>, pipe: Pipe, left: &mut u64) -> Result<(), Stop> {
        let turn = lent.turn;
        let filled = match self.body.fill_pipe(lent, &pipe, left) {
            Ok(filled) => filled,
            Err(stop) => {
                pipe::keep(pipe);
                return Err(stop);
            }
        };
        if turn.is_lost() {
            return Err(Stop::Lost);
        }
        turn.note_part(Part::Write);
        if let Some(file) = &mut self.file {
            let piece = (&pipe, filled);
            file.write_pipe(turn.on, turn.progress, piece, self.body.left()).map_err(Stop::Disk)?;
            pipe::keep(pipe);
        }
        Ok(())
    }

    fn write(&mut self, turn: &Turn<'_>, data: &[u8]) -> Result<(), Stop> {
        let Some(file) = self.file.as_mut().filter(|_| !data.is_empty()) else {
            return Ok(());
        };
        turn.note_part(Part::Write);
        self.checksum.update(data);
        if turn.is_lost() {
            return Err(Stop::Lost);
        }
        file.write(turn.on, turn.progress, data, self.body.left()).map_err(Stop::Disk)
    }

    /// Its turn ends, and its body has not.
    fn stop(mut self: Box<Self>, turn: &Turn<'_>, stop: Stop) -> Turned {
        if matches!(stop, Stop::Blocked | Stop::Enough) {
            self.file.as_mut().map(FileWriter::rest);
        }
        match stop {
            Stop::Blocked => Turned::Over(Outcome::Blocked { op: self, need: Need::Read }),
            Stop::Enough => Turned::Again(self),
            Stop::Vanished(why) => {
                self.log_vanished(turn.socket, turn.peer, &why);
                turn.progress.rest();
                log::logger().flush(); // Who sees the close finds the lines; the wait is short.
                Turned::Over(Outcome::Broken)
            }
            Stop::Bad(status) => Turned::Over(self.fail(turn, status)),
            Stop::Disk(e) => Turned::Over(self.fail_on_disk(turn, &e)),
            Stop::Lost => Turned::Over(Outcome::Finished),
        }
    }

    /// The body is whole: checks it and gives it its name.
    fn finish(mut self: Box<Self>, turn: &Turn<'_>) -> Outcome {
        turn.note_part(Part::Commit);
        turn.progress.touch();
        let Some(file) = self.file.take() else { return Outcome::Broken };
        let destination = Destination::new(turn, &self.path, &self.request);
        let status = match destination.conclude(file, &mut self.checksum) {
            Ok(Some(status)) => status,
            Ok(None) => return Outcome::Finished,
            Err(e) => self.status_on_disk(turn, &e),
        };
        // The body is read: the next request may follow.
        let keep = self.request.keep_alive;
        self.reply(turn, status, keep && !closes(status))
    }

    /// The file could not even be opened: nothing of the body has been taken.
    fn refuse(mut self: Box<Self>, turn: &Turn<'_>, error: &Failed) -> Outcome {
        let status = self.status_on_disk(turn, error);
        turn.count_on_device(status.code());
        self.refused = Some(Refused { status, close: closes(status) });
        Outcome::Refused(self)
    }

    fn fail_on_disk(self: Box<Self>, turn: &Turn<'_>, error: &Failed) -> Outcome {
        let status = self.status_on_disk(turn, error);
        self.fail(turn, status)
    }

    fn status_on_disk(&self, turn: &Turn<'_>, error: &Failed) -> Status {
        let status = status_of(&error.error);
        note_failed(turn, "PUT", &self.path, status, error);
        status
    }

    /// Answers and closes. The file goes first: nothing may be left of it once that is said.
    fn fail(mut self: Box<Self>, turn: &Turn<'_>, status: Status) -> Outcome {
        self.file = None;
        self.reply(turn, status, false)
    }

    fn reply(mut self: Box<Self>, turn: &Turn<'_>, status: Status, keep: bool) -> Outcome {
        let keep = keep && (self.body.has_leftover() || turn.may_keep(true));
        turn.count_error(status.code());
        let mut head = Vec::with_capacity(200);
        answer::empty(&mut head, status, &date_now(), keep);
        let leftover = self.body.take_leftover();
        match turn.answer(head, keep) {
            Outcome::Answered(answered) => {
                let has_read = self.body.has_read();
                Outcome::Answered(Answered { leftover, has_read, ..answered })
            }
            other => other,
        }
    }
}

/// The connection, lent for a turn.
struct Lent<'a> {
    turn: &'a Turn<'a>,
    in_place: bool,
}

impl Lent<'_> {
    /// In place nobody knows the outcome from the beginning to the end.
    fn enter(&self, stage: Stage) -> bool {
        self.turn.enter(if self.in_place { Stage::Committing } else { stage })
    }
}

impl Peer for Lent<'_> {
    fn may_receive(&self, first: bool) -> bool {
        if first { self.enter(Stage::Begun) } else { !self.turn.is_lost() }
    }

    fn receive(&self, room: &mut [u8]) -> io::Result<usize> {
        socket::receive(self.turn.socket, room)
    }

    fn receive_into(&self, pipe: &Pipe, most: usize) -> io::Result<usize> {
        pipe.fill(self.turn.socket, most)
    }

    fn wait(&self) -> bool {
        self.turn.wait_for(Need::Read)
    }
}

/// Whether a PUT that ends so ends its connection, wherever it stands: PROTOCOL.md section 2.2.
fn closes(status: Status) -> bool {
    matches!(status, Status::InternalServerError500 | Status::InsufficientStorage507)
}
