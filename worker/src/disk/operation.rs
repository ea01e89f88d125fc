//! Operations: what a disk thread does for a connection, one turn of it, and what came of it. The
//! thread borrows the socket: until the outcome is back the loop neither reads nor writes it.

use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};

use log::Level;
use nix::poll::{PollFd, PollFlags, poll};

use crate::disk::device::Device;
use crate::disk::device_dir::DeviceDir;
use crate::disk::faults::{self, Access};
use crate::disk::flush::Flush;
use crate::disk::loan::{Loan, Stage, Style};
use crate::disk::on_disk::OnDisk;
use crate::disk::path::DevPath;
use crate::disk::pool::Progress;
use crate::disk::usage::{self, Usage};
use crate::ids::{DeviceKey, SiteId, WorkerId};
use crate::route::LiveOn;
use crate::scoreboard::{DeviceSlot, Scoreboard, WorkerSlot};
use crate::spec::Fsync;
use crate::sys::socket;
use crate::trace::Part;

/// A disk thread waits so many milliseconds for a peer before it leaves that to the loop.
const PATIENCE: u8 = 4;

/// What a disk thread does for a connection, in one turn or in several.
pub trait Operation: Any + fmt::Debug + Send {
    /// One turn in a disk thread.
    fn run(self: Box<Self>, turn: &Turn<'_>) -> Turned;

    /// The file that it is about.
    fn path(&self) -> &DevPath;

    /// How the loop answers in its place, when its device does not answer.
    fn style(&self, device: DeviceKey) -> Style;

    /// How far it has come.
    fn stage(&self) -> Stage {
        Stage::Fresh
    }

    /// True before its first turn.
    fn is_fresh(&self) -> bool {
        true
    }

    /// True for what a disk thread does in one go, in less time than others would notice.
    fn is_short(&self) -> bool {
        false
    }

    /// True for what may use the processor for many milliseconds.
    fn is_long(&self) -> bool {
        false
    }

    /// True when the device is another one afterwards.
    fn changes(&self) -> bool {
        false
    }

    /// True when all that the loop has read behind the request has gone with it.
    fn has_input(&self) -> bool {
        false
    }

    /// Tells the operator that the peer was lost in the middle of it.
    fn log_vanished(&self, _socket: BorrowedFd<'_>, _peer: SocketAddr, _why: &str) {}
}

/// An operation, whichever it is.
pub type Op = Box<dyn Operation>;

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
    /// Refused before any of its input was taken; the loop answers.
    Refused(Op),
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
    pub fn leaves_nothing_to_do(&self) -> bool {
        matches!(self, Outcome::Answered(Answered { unsent, keep: true, leftover, has_read: false })
            if unsent.is_empty() && leftover.is_empty())
    }
}

/// The worker, as its disk threads see it.
#[derive(Debug)]
pub struct Host {
    board: Scoreboard,
    /// The worker's own slot there.
    slot: &'static WorkerSlot,
    /// Answers are to say that the connection closes, unless it lives on elsewhere.
    last: AtomicBool,
    /// Which connections do, while answers are such.
    live_on: Mutex<LiveOn>,
    /// This worker drains: the loop wants to hear of each answer.
    leaving: AtomicBool,
    /// What is on the disk before a PUT or DELETE is answered.
    fsync: Fsync,
    /// The loop's epoll set, where a connection is muted while a disk thread waits for it.
    epoll: OwnedFd,
}

impl Host {
    /// A worker whose loop waits in this epoll set.
    pub fn new(
        board: Scoreboard,
        worker: WorkerId,
        fsync: Fsync,
        epoll: impl AsFd,
    ) -> io::Result<Host> {
        let (last, leaving) = (AtomicBool::new(false), AtomicBool::new(false));
        let live_on = Mutex::new(LiveOn::All);
        let (slot, epoll) = (board.worker(worker), socket::duplicate(epoll)?);
        Ok(Host { board, slot, last, live_on, leaving, fsync, epoll })
    }

    /// A device on the scoreboard.
    pub fn device(&self, device: DeviceKey) -> Option<&'static DeviceSlot> {
        self.board.device(device)
    }

    /// Loop: answers say that the connection closes, unless it is one of these.
    pub fn set_live_on(&self, live_on: LiveOn) {
        let last = live_on != LiveOn::All;
        *self.live_on() = live_on;
        self.last.store(last, Relaxed);
    }

    /// Held for a comparison of addresses at most.
    fn live_on(&self) -> MutexGuard<'_, LiveOn> {
        self.live_on.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a connection goes on when this worker has gone.
    pub fn lives_on(&self, socket: BorrowedFd<'_>) -> bool {
        !self.last.load(Relaxed) || self.live_on().has(|| socket::local_address(socket))
    }

    /// Loop: this worker drains, and wants to hear of each answer.
    pub fn leave(&self) {
        self.leaving.store(true, Relaxed);
    }

    /// Whether the loop wants to hear of each answer.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Relaxed)
    }

    /// Whether a connection may live on behind an answer for which all that was read of it is
    /// used: not where it does not live on in a drain, unless the next request is there already.
    pub fn may_keep(&self, socket: BorrowedFd<'_>) -> bool {
        self.lives_on(socket) || socket::has_input(socket)
    }
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
    /// Who may speak on the socket.
    pub(in crate::disk) loan: &'a Loan,
    /// The worker.
    pub(in crate::disk) host: &'a Host,
    /// Whether unread input of the connection waits in the loop.
    pub(in crate::disk) more_input: bool,
    /// The socket's token in the loop's epoll set.
    pub(in crate::disk) token: usize,
    /// The loop hears nothing of the connection.
    pub(in crate::disk) muted: Cell<bool>,
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
        self.note_part(Part::Peer);
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

    pub(in crate::disk) fn set_interest(&self, interested: bool) {
        if self.is_lost() {
            return; // The number is another file's by now.
        }
        let epoll = self.host.epoll.as_fd();
        if let Err(e) = socket::change_interest(epoll, self.socket, self.token, interested) {
            log::error!("{}: epoll_ctl: {e}", self.peer);
        }
    }

    /// Whether the connection may live on: [`Host::may_keep`], or more was asked already.
    pub fn may_keep(&self, keep: bool) -> bool {
        keep && (self.more_input || self.host.may_keep(self.socket))
    }

    /// Sends an answer; what the peer does not take at once is left to the loop.
    pub fn answer(&self, mut bytes: Vec<u8>, keep: bool) -> Outcome {
        self.progress.rest();
        if !self.enter(Stage::Begun) {
            return Outcome::Finished;
        }
        self.note_answer(&bytes);
        match socket::send(self.socket, &bytes, false) {
            Ok(n) => drop(bytes.drain(..n)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Outcome::Broken,
        }
        Outcome::answered(bytes, keep)
    }

    /// What the request's time goes into from now on, for who wants to know.
    #[inline]
    pub fn note_part(&self, part: Part) {
        if let Some(trace) = self.loan.trace() {
            trace.enter(part);
        }
    }

    /// The request has this answer, or one that begins so.
    pub fn note_answer(&self, answer: &[u8]) {
        if let Some(trace) = self.loan.trace() {
            trace.note_answer(answer);
        }
    }

    /// How what this turn does is made to last.
    pub fn flush(&self, dir: &DeviceDir) -> Flush<'_> {
        Flush::new(self.host.fsync, self.progress, !dir.traits().inline_reads)
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

    /// Adds an answer of class 5xx to the worker's count of them, and the device's.
    pub fn count_error(&self, status: u16) {
        if status >= 500 {
            self.host.slot.errors.fetch_add(1, Relaxed);
        }
        self.count_on_device(status);
    }

    /// The same for the device alone: the answer is the loop's.
    pub fn count_on_device(&self, status: u16) {
        if let Some(slot) = self.slot {
            slot.faults.count_answer(status);
        }
    }

    /// Logs and counts what has failed on the device: [`faults::note`].
    pub fn note_fault(&self, access: Access, level: Level, errno: Option<i32>, line: impl Display) {
        if matches!(errno, Some(libc::ENOSPC | libc::EDQUOT | libc::EROFS)) {
            self.device.note_change(); // So that its state is told soon.
        }
        faults::note(self.device.key(), self.slot, access, level, errno, line);
    }

    /// Adds to the worker's count of body bytes sent.
    pub fn count_out(&self, bytes: u64) {
        self.host.slot.bytes_out.fetch_add(bytes, Relaxed);
        if let Some(trace) = self.loan.trace() {
            trace.add_sent(bytes);
        }
    }

    /// Adds to the worker's count of body bytes received.
    pub fn count_in(&self, bytes: u64) {
        self.host.slot.bytes_in.fetch_add(bytes, Relaxed);
        if let Some(trace) = self.loan.trace() {
            trace.add_received(bytes);
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
