//! PUT: PROTOCOL.md section 2.4. All of it runs in a disk thread of the device's owner: the thread
//! reads the body from the socket straight into its buffer and writes it to the file, until the
//! socket has no more for now.

use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use crate::clock::date_now;
use crate::disk::commit::{Incoming, copy_into};
use crate::disk::failed::{Failed, InCall};
use crate::disk::flush::Flush;
use crate::disk::loan::{Stage, Style};
use crate::disk::md5::Md5;
use crate::disk::open;
use crate::disk::operation::{Answered, Need, Op, Operation, Outcome, Turn, Turned};
use crate::disk::path::DevPath;
use crate::http::answer::{self, CONTINUE, Status};
use crate::http::chunked::{Chunked, Step};
use crate::http::condition::ConditionFailed;
use crate::http::head::{Body, ContentMd5, ContentRange, Request};
use crate::http::refuse::Refused;
use crate::http::{log_failed, status_of, status_of_refusal};
use crate::ids::DeviceKey;
use crate::sys::{file, socket};

/// What one read from the socket may bring, and one write to the disk take.
const BUFFER: usize = 256 * 1024;
/// Bodies from this size on are worth a system call or two that make them cheaper.
const LARGE: u64 = 64 * 1024;
/// Disk space is reserved in steps of this size: what a peer merely announces takes no more.
const RESERVED: u64 = 64 * 1024 * 1024;
/// After so many bytes a disk thread looks whether others wait for it.
const SLICE: u64 = 8 * 1024 * 1024;
/// Writeback of a large file is started in steps of this size.
const WINDOW: u64 = 8 * 1024 * 1024;

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

#[derive(Debug)]
enum Framing {
    Length(u64),
    Chunked(Box<Chunked>),
    Ended,
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

    /// Before the body is taken, and again before what it replaces goes.
    fn insist_on_conditions(&self, turn: &Turn<'_>) -> Result<(), Failed> {
        let conditions = &self.request.conditions;
        if conditions.allow_any_change() {
            return Ok(());
        }
        let dir = turn.device.dir(turn.on).in_call("open")?;
        let modified = open::modified(turn.on, turn.device, &dir, self.path.relative());
        conditions.insist(modified?).in_call("fstat")
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

    /// Fills the buffer with body bytes. What was read before an end or an error still counts.
    fn fill(
        &mut self,
        turn: &Turn<'_>,
        buffer: &mut [u8],
        left: &mut u64,
    ) -> (usize, Option<Stop>) {
        turn.progress.rest(); // A peer's time is no disk's.
        let mut filled = 0;
        while filled < buffer.len() && *left > 0 {
            let room = &mut buffer[filled..];
            let read = match self.read_some(turn, room) {
                Ok(read) => read,
                Err(Stop::Blocked) if turn.wait_for(Need::Read) => continue,
                Err(stop) => return (filled, Some(stop)),
            };
            *left = left.saturating_sub(read as u64);
            match self.decode(&mut room[..read]) {
                Ok(data) => filled += data,
                Err(stop) => return (filled, Some(stop)),
            }
            if matches!(self.framing, Framing::Ended) {
                break;
            }
        }
        (filled, None)
    }

    /// Brings raw bytes: first those that the loop had read, then the socket's.
    fn read_some(&mut self, turn: &Turn<'_>, room: &mut [u8]) -> Result<usize, Stop> {
        if !self.initial.is_empty() {
            let n = self.initial.len().min(room.len());
            room[..n].copy_from_slice(&self.initial[..n]);
            self.initial.drain(..n);
            return Ok(n);
        }
        let most = match self.framing {
            Framing::Length(left) => left.min(room.len() as u64) as usize,
            _ => room.len(),
        };
        if most == 0 {
            return Ok(0);
        }
        let mine = if self.has_read { !turn.is_lost() } else { self.enter(turn, Stage::Begun) };
        if !mine {
            return Err(Stop::Lost);
        }
        self.has_read = true;
        match socket::receive(turn.socket, &mut room[..most]) {
            Ok(0) => Err(Stop::Vanished("premature EOF".into())),
            Ok(n) => Ok(n),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(Stop::Blocked),
            Err(e) => Err(Stop::Vanished(e.to_string())),
        }
    }

    /// Leaves the body's own bytes at the front of `raw`, and says how many they are.
    fn decode(&mut self, raw: &mut [u8]) -> Result<usize, Stop> {
        let framing = std::mem::replace(&mut self.framing, Framing::Ended);
        let (data, framing) = match framing {
            Framing::Length(left) => {
                let data = (raw.len() as u64).min(left) as usize;
                self.leftover.extend_from_slice(&raw[data..]);
                let left = left - data as u64;
                (data, if left == 0 { Framing::Ended } else { Framing::Length(left) })
            }
            Framing::Chunked(decoder) => self.decode_chunks(decoder, raw)?,
            Framing::Ended => (0, Framing::Ended),
        };
        self.framing = framing;
        if matches!(self.framing, Framing::Ended) {
            self.leftover.append(&mut self.initial);
        }
        Ok(data)
    }

    fn decode_chunks(
        &mut self,
        mut decoder: Box<Chunked>,
        raw: &mut [u8],
    ) -> Result<(usize, Framing), Stop> {
        let (mut data, mut at) = (0, 0);
        loop {
            match decoder.next(&raw[at..]) {
                Step::Data { range, consumed } => {
                    let len = range.len();
                    raw.copy_within(at + range.start..at + range.end, data);
                    data += len;
                    at += consumed;
                }
                Step::More => return Ok((data, Framing::Chunked(decoder))),
                Step::End { consumed } => {
                    self.leftover.extend_from_slice(&raw[at + consumed..]);
                    self.take_trailer(decoder.trailer_md5())?;
                    return Ok((data, Framing::Ended));
                }
                Step::Refused(refusal) => return Err(Stop::Bad(status_of_refusal(refusal))),
            }
        }
    }

    /// A trailer's MD5 counts like a header's. The digest is made later, from the file.
    fn take_trailer(&mut self, trailer: ContentMd5) -> Result<(), Stop> {
        match (trailer, self.request.content_md5) {
            (ContentMd5::Absent, _) => Ok(()),
            (ContentMd5::Malformed, _) => Err(Stop::Bad(Status::BadRequest400)),
            (wanted, ContentMd5::Absent) => {
                self.request.content_md5 = wanted;
                Ok(())
            }
            (wanted, announced) if wanted == announced => Ok(()),
            _ => Err(Stop::Bad(Status::BadRequest400)),
        }
    }

    fn write(&mut self, turn: &Turn<'_>, data: &[u8]) -> Result<(), Stop> {
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
    fn offset(&self) -> u64 {
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

    /// `Ok(None)`: the connection is lost, and nothing was committed.
    fn conclude(&mut self, turn: &Turn<'_>, incoming: Incoming) -> Result<Option<Status>, Failed> {
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

    fn flush<'a>(&self, turn: &'a Turn<'_>) -> Result<Flush<'a>, Failed> {
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
