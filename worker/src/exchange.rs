//! What passes between the loop and a disk thread: an operation with the connection's socket on
//! the way there, an outcome on the way back. The thread borrows the socket: until the outcome is
//! back the loop neither reads nor writes it.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};

use crate::completions::{Completions, Done, Socket};
use crate::disk::device::Device;
use crate::disk::device_dir::DeviceDir;
use crate::disk::disk_fd::DiskFd;
use crate::disk::docroot;
use crate::disk::docroot_watch::DocrootWatch;
use crate::disk::flush::Flush;
use crate::disk::on_disk::OnDisk;
use crate::disk::path::DevPath;
use crate::disk::pool::{Job, Progress};
use crate::disk::usage::{self, Usage};
use crate::event_loop::FIRST_CONN;
use crate::http::answer::Status;
use crate::http::delete::Delete;
use crate::http::get::Get;
use crate::http::put::Put;
use crate::http::refuse::Refused;
use crate::loan::{Loan, Stage};
use crate::scoreboard::{DeviceSlot, Scoreboard, WorkerSlot};
use crate::sidechannel::digest::Digest;
use crate::sidechannel::size::Size;
use crate::spec::{Fsync, SiteId};
use crate::sys::{priority, socket};

/// A disk thread waits so many milliseconds for a peer before it leaves that to the loop.
const PATIENCE: u8 = 4;

/// Usage numbers are refreshed by changes this often at most.
pub const REFRESH: Duration = Duration::from_secs(1);

/// Something that a disk thread does.
#[derive(Debug)]
pub enum Op {
    /// Sends a file.
    Get(Box<Get>),
    /// Receives a file.
    Put(Box<Put>),
    /// Removes a file.
    Delete(Delete),
    /// Tells the size of a file on the sidechannel.
    Size(Size),
    /// Tells the digest of a file on the sidechannel.
    Digest(Box<Digest>),
    /// Opens the device's directory anew.
    Refresh,
    /// Looks how full the device is, and writes its usage file if asked to.
    Look {
        /// Not just the numbers in memory.
        write: bool,
    },
    /// Closes a descriptor whose last close may free blocks, or drops an unfinished operation.
    Release(Released),
}

impl Op {
    /// True for what a disk thread does in one go, in less time than others would notice.
    pub fn is_short(&self) -> bool {
        match self {
            Op::Put(put) => !put.is_large(),
            Op::Delete(_) => true,
            _ => false,
        }
    }

    /// True for what may use the processor for many milliseconds.
    fn is_long(&self) -> bool {
        match self {
            Op::Put(put) => put.is_large(),
            Op::Get(_) | Op::Digest(_) => true,
            _ => false,
        }
    }

    /// True before its first turn.
    pub fn is_fresh(&self) -> bool {
        match self {
            Op::Get(get) => get.is_fresh(),
            Op::Put(put) => put.is_fresh(),
            _ => true,
        }
    }

    /// The file that it is about, where a connection may wait in the middle of it.
    pub fn path(&self) -> Option<&DevPath> {
        match self {
            Op::Get(get) => Some(get.path()),
            Op::Put(put) => Some(put.path()),
            _ => None,
        }
    }

    /// How far it has come.
    pub fn stage(&self) -> Stage {
        match self {
            Op::Get(get) if !get.is_fresh() => Stage::Begun,
            Op::Put(put) => put.stage(),
            _ => Stage::Fresh,
        }
    }
}

/// What is let go in a disk thread.
#[derive(Debug)]
pub enum Released {
    /// A file.
    File(DiskFd),
    /// Directories of the device that nobody uses any more.
    Dirs,
    /// An operation whose connection is gone.
    Op(Box<Op>),
}

/// What a blocked operation waits for on its socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// More from the peer.
    Read,
    /// The peer to take more.
    Write,
}

/// How an operation ended, or why it pauses.
#[derive(Debug)]
pub enum Outcome {
    /// Answered.
    Answered(Answered),
    /// Refused before any of the body was taken; the loop answers.
    Refused {
        /// With what.
        refused: Refused,
        /// The operation with what it knows of the body.
        put: Box<Put>,
    },
    /// To be continued when the socket is ready.
    Blocked {
        /// The operation.
        op: Op,
        /// What it waits for.
        need: Need,
    },
    /// The connection cannot go on: close it.
    Broken,
    /// The devices of a docroot.
    Listed(SiteId, BTreeSet<u32>),
    /// Nothing to tell a connection: none waits, or the loop has taken it back.
    Finished,
}

/// An answer that a disk thread has given.
#[derive(Debug)]
pub struct Answered {
    /// What the socket did not take at once.
    pub unsent: Vec<u8>,
    /// Whether the connection lives on.
    pub keep: bool,
    /// Bytes behind the request that were read with it.
    pub leftover: Vec<u8>,
    /// True when the thread read from the socket, so that the loop cannot know what is in it.
    pub has_read: bool,
}

impl Outcome {
    /// An answer, with nothing read beyond the request.
    pub fn answered(unsent: Vec<u8>, keep: bool) -> Outcome {
        let leftover = Vec::new();
        Outcome::Answered(Answered { unsent, keep, leftover, has_read: false })
    }

    /// True when the answer is sent, and the connection waits for a request that the loop will
    /// hear of.
    fn leaves_nothing_to_do(&self) -> bool {
        matches!(self, Outcome::Answered(Answered { unsent, keep: true, leftover, has_read: false })
            if unsent.is_empty() && leftover.is_empty())
    }
}

/// Lists a docroot, and tells the loop which devices there are.
pub fn list_docroot(on: &OnDisk, device: &Device, context: &Context) {
    // First: what is made after the listing is told of.
    if let Some(watch) = context.docroots.get() {
        watch.add(on, device.path());
    }
    let found = docroot::devices(device.path());
    let trouble = found.as_ref().err().map(|e| format!("cannot be listed: {e}"));
    device.note_trouble(trouble.as_deref());
    device.looking.store(false, Relaxed);
    if let Ok(devids) = found {
        let outcome = Outcome::Listed(device.key.site, devids);
        context.completions.push(Done { key: None, outcome }, None);
    }
}

/// What all threads of a worker share.
#[derive(Debug)]
pub struct Context {
    /// The scoreboard.
    pub board: Scoreboard,
    /// The worker's own slot there.
    pub slot: &'static WorkerSlot,
    /// Set when this worker drains.
    pub draining: AtomicBool,
    /// What is on the disk before a PUT or DELETE is answered.
    pub fsync: Fsync,
    /// The way back to the loop.
    pub completions: Completions,
    /// The loop's epoll set, where a connection is muted while a disk thread waits for it.
    pub epoll: OwnedFd,
    /// Changes of docroots' names, if this worker has docroots.
    pub docroots: OnceLock<DocrootWatch>,
}

/// An operation with all it needs, as it waits in a device's queue.
#[derive(Debug)]
pub struct Work {
    /// The connection's key; `None` when none waits.
    pub key: Option<usize>,
    /// The connection's socket, borrowed.
    pub socket: Option<Arc<Socket>>,
    /// Who is on the other side, for the log.
    pub peer: SocketAddr,
    /// Whether unread input of the connection waits in the loop.
    pub more_input: bool,
    /// The device.
    pub device: Arc<Device>,
    /// The worker.
    pub context: Arc<Context>,
    /// Who may speak on the socket.
    loan: Option<Arc<Loan>>,
    op: Option<Op>,
}

/// A connection as a disk thread has it.
#[derive(Debug)]
pub struct Borrowed {
    /// Its key in the loop.
    pub key: usize,
    /// Its socket.
    pub socket: Arc<Socket>,
    /// Who is on the other side.
    pub peer: SocketAddr,
    /// Whether unread input waits in the loop.
    pub more_input: bool,
    /// Who may speak on it.
    pub loan: Arc<Loan>,
}

/// One turn of an operation in a disk thread.
#[derive(Debug)]
pub struct Turn<'a> {
    /// The connection's socket.
    pub socket: BorrowedFd<'a>,
    /// Who is on the other side.
    pub peer: SocketAddr,
    /// The device.
    pub device: &'a Device,
    /// Its slot on the scoreboard.
    pub slot: Option<&'static DeviceSlot>,
    /// The stall clock's view of this thread.
    pub progress: &'a Progress,
    /// This is a disk thread.
    pub on: &'a OnDisk,
    loan: &'a Loan,
    context: &'a Context,
    more_input: bool,
    token: usize,
    muted: Cell<bool>,
}

/// What a turn came to.
#[derive(Debug)]
pub enum Turned {
    /// The loop must know.
    Over(Outcome),
    /// To be continued after the others in the queue.
    Again(Op),
}

impl Turn<'_> {
    /// Waits a moment for the peer while no other operation needs the thread: cheaper than a way
    /// to the loop and back for each piece of a large file. False: the loop should wait.
    pub fn wait_for(&self, need: Need) -> bool {
        self.progress.rest();
        if self.progress.is_wanted() || self.is_lost() {
            return false;
        }
        self.mute();
        let flags = match need {
            Need::Read => PollFlags::POLLIN,
            Need::Write => PollFlags::POLLOUT,
        };
        let ready = poll(&mut [PollFd::new(self.socket, flags)], PATIENCE);
        ready.is_ok_and(|n| n > 0) && !self.is_lost()
    }

    /// True when the loop has taken the connection back: nothing may be said on it, and nothing
    /// committed for it, any more.
    pub fn is_lost(&self) -> bool {
        self.loan.is_taken()
    }

    /// To be asked before anything is said, received or committed. False: the loop has taken the
    /// connection back.
    pub fn enter(&self, stage: Stage) -> bool {
        self.loan.enter(stage)
    }

    /// Until the end of this turn the loop hears nothing of the connection. Else each packet of a
    /// large body would wake it.
    pub fn mute(&self) {
        if !self.muted.replace(true) {
            self.set_interest(false);
        }
    }

    fn set_interest(&self, interested: bool) {
        if self.is_lost() {
            return; // The number is another file's by now.
        }
        let epoll = self.context.epoll.as_fd();
        if let Err(e) = socket::change_interest(epoll, self.socket, self.token, interested) {
            log::error!("{}: epoll_ctl: {e}", self.peer);
        }
    }

    /// Whether the connection may live on: not while draining, unless more was asked already.
    pub fn may_keep(&self, keep: bool) -> bool {
        keep && (self.more_input || !self.context.draining.load(Relaxed))
    }

    /// Sends an answer; what the peer does not take at once is left to the loop.
    pub fn answer(&self, mut bytes: Vec<u8>, keep: bool) -> Outcome {
        self.progress.rest();
        if !self.enter(Stage::Begun) {
            return Outcome::Finished;
        }
        match socket::send(self.socket, &bytes, false) {
            Ok(n) => drop(bytes.drain(..n)),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return Outcome::Broken,
        }
        Outcome::answered(bytes, keep)
    }

    /// How what this turn does is made to last.
    pub fn flush(&self, dir: &DeviceDir) -> Flush<'_> {
        Flush::new(self.context.fsync, self.progress, !dir.traits.inline_reads)
    }

    /// The numbers of the usage file, looked up now if nobody has looked before.
    pub fn first_look(&self) -> Option<Usage> {
        let slot = self.slot?;
        slot.usage().or_else(|| {
            self.progress.touch();
            usage::look(self.on, self.device, slot, false);
            slot.usage()
        })
    }

    /// Adds an answer of class 5xx to the worker's count of them.
    pub fn count_error(&self, status: Status) {
        if status.code() >= 500 {
            self.context.slot.errors.fetch_add(1, Relaxed);
        }
    }

    /// Adds to the worker's count of body bytes sent.
    pub fn count_out(&self, bytes: u64) {
        self.context.slot.bytes_out.fetch_add(bytes, Relaxed);
    }

    /// Adds to the worker's count of body bytes received.
    pub fn count_in(&self, bytes: u64) {
        self.context.slot.bytes_in.fetch_add(bytes, Relaxed);
    }
}

impl Work {
    /// Work for a connection.
    pub fn for_connection(
        borrowed: Borrowed,
        device: Arc<Device>,
        context: Arc<Context>,
        op: Op,
    ) -> Work {
        let Borrowed { key, socket, peer, more_input, loan } = borrowed;
        let (key, socket, loan) = (Some(key), Some(socket), Some(loan));
        Work { key, socket, peer, more_input, device, context, loan, op: Some(op) }
    }

    /// Work that no connection waits for.
    pub fn in_background(device: Arc<Device>, context: Arc<Context>, op: Op) -> Work {
        let peer = SocketAddr::from(([0, 0, 0, 0], 0));
        let (key, socket, loan, more_input) = (None, None, None, false);
        Work { key, socket, peer, more_input, device, context, loan, op: Some(op) }
    }

    /// Gives the operation back when no thread will run it.
    pub fn into_op(mut self) -> Option<Op> {
        self.op.take()
    }

    fn turn(&self, on: &OnDisk, op: Op, progress: &Progress) -> Turned {
        let op = match op {
            Op::Refresh => {
                if let Err(e) = self.device.dir(on) {
                    log::debug!("{}: {e}", self.device.path().display());
                }
                return Turned::Over(Outcome::Finished);
            }
            Op::Look { write } => {
                if let Some(slot) = self.context.board.device(self.device.key) {
                    usage::look(on, &self.device, slot, write);
                }
                self.device.looking.store(false, Relaxed);
                return Turned::Over(Outcome::Finished);
            }
            Op::Release(released) => {
                drop(released);
                self.device.let_go(on);
                return Turned::Over(Outcome::Finished);
            }
            op => op,
        };
        let (Some(socket), Some(loan)) = (&self.socket, &self.loan) else {
            return Turned::Over(Outcome::Broken);
        };
        if loan.is_taken() {
            progress.pass();
            return Turned::Over(Outcome::Finished);
        }
        progress.serve(Arc::as_ptr(loan).addr());
        let turn = Turn {
            socket: socket.as_fd(),
            peer: self.peer,
            device: &self.device,
            slot: self.context.board.device(self.device.key),
            progress,
            on,
            loan,
            context: &self.context,
            more_input: self.more_input,
            token: FIRST_CONN + self.key.unwrap_or_default(),
            muted: Cell::new(false),
        };
        let turned = match op {
            Op::Get(get) => get.run(&turn),
            Op::Put(put) => put.run(&turn),
            Op::Delete(delete) => delete.run(&turn),
            Op::Size(size) => size.run(&turn),
            Op::Digest(digest) => digest.run(&turn),
            Op::Refresh | Op::Look { .. } | Op::Release(_) => Turned::Over(Outcome::Finished),
        };
        progress.serve(0);
        if turn.muted.get() {
            turn.set_interest(true);
        }
        turned
    }
}

impl Work {
    /// After a change, once a second at most, and after the answer: PROTOCOL.md section 2.4.
    fn refresh_usage(&self, on: &OnDisk) {
        if let Some(slot) = self.context.board.device(self.device.key)
            && self.device.usage
        {
            match self.device.look_is_due(REFRESH) {
                true => usage::look(on, &self.device, slot, false),
                // The loop sees to it when the second is over.
                false => self.device.changed.store(true, Relaxed),
            }
        }
    }
}

impl Job for Work {
    fn run(mut self, on: &OnDisk, progress: &Progress) -> Option<Work> {
        let op = self.op.take()?;
        let changes = matches!(op, Op::Put(_) | Op::Delete(_));
        let for_http = changes || matches!(op, Op::Get(_));
        priority::take_long_turns(op.is_long());
        match self.turn(on, op, progress) {
            Turned::Again(op) => {
                self.op = Some(op);
                Some(self)
            }
            Turned::Over(outcome) => {
                progress.rest();
                let mine = self.loan.as_ref().is_none_or(|loan| loan.finish());
                // One that was taken back has no outcome: what is left of it goes here.
                let key = self.key.take().filter(|_| mine);
                let outcome = if mine { outcome } else { Outcome::Finished };
                let quiet = for_http && !self.more_input && outcome.leaves_nothing_to_do();
                let socket = self.socket.take().filter(|_| quiet);
                self.context.completions.push(Done { key, outcome }, socket);
                if changes {
                    progress.touch();
                    self.refresh_usage(on);
                }
                None
            }
        }
    }
}

impl Drop for Work {
    /// A panic in an operation must not leave its connection waiting for ever.
    fn drop(&mut self) {
        if let Some(key) = self.key.take()
            && std::thread::panicking()
            && self.loan.as_ref().is_none_or(|loan| loan.finish())
        {
            let outcome = Outcome::Broken;
            self.context.completions.push(Done { key: Some(key), outcome }, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_answer_on_a_connection_that_stays_leaves_nothing_to_do() {
        let answered = |change: fn(&mut Answered)| {
            let mut answered =
                Answered { unsent: vec![], keep: true, leftover: vec![], has_read: false };
            change(&mut answered);
            Outcome::Answered(answered).leaves_nothing_to_do()
        };
        assert!(answered(|_| ()));
        assert!(!answered(|answered| answered.unsent = vec![0]));
        assert!(!answered(|answered| answered.keep = false));
        assert!(!answered(|answered| answered.leftover = vec![0]));
        assert!(!answered(|answered| answered.has_read = true));
        assert!(!Outcome::Broken.leaves_nothing_to_do());
    }
}
