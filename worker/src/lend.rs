//! Operations on their way to a disk thread and back, and files that the loop sends by itself.

use crate::advance::Next;
use crate::conn::{Ending, Sending, State};
use crate::disk::device::Device;
use crate::event_loop::Worker;
use crate::exchange::{Answered, Need, Op, Outcome, Work};
use crate::http::answer;
use crate::http::get::{Extent, Get, Pumped, Transfer, log_broken};
use crate::http::put::Put;
use crate::http::refuse::Refused;
use crate::serve::Served;
use crate::spec::DeviceKey;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Bytes that one connection may have sent from the loop before the others get their turn.
const TURN: u64 = 1024 * 1024;

impl Worker {
    /// Gives an operation to a disk thread of this worker.
    pub(crate) fn lend(&mut self, key: usize, device: Arc<Device>, op: Op) -> bool {
        let conn = &mut self.conns[key];
        conn.state = State::Lent;
        conn.writable = false;
        conn.socket.set_wanted(conn.readable);
        self.timers.stop(key);
        if !self.peers.is_empty() {
            self.rooted.insert(key);
        }
        self.note_use(device.key);
        self.next_tick_soon();
        // With other workers on the same processor it would be given to them.
        self.give_way.wanted |= op.is_short() && self.peers.is_empty();
        let conn = &self.conns[key];
        // What has begun is never refused: it would be a broken transfer.
        let max_queue = if op.is_fresh() { self.settings.max_queue } else { usize::MAX };
        let work = Work::for_connection(
            key,
            Arc::clone(&conn.socket),
            conn.peer(),
            !conn.input.is_empty(),
            Arc::clone(&device),
            Arc::clone(&self.context),
            op,
        );
        let Err(work) = self.pool(&device).submit(work, max_queue) else { return false };
        let next = self.refuse_op(key, device.key, work.into_op());
        self.act(key, next)
    }

    /// The device has too much to do: 503, and the body goes the way of any refused one.
    pub(crate) fn refuse_op(&mut self, key: usize, device: DeviceKey, op: Option<Op>) -> Next {
        let status = answer::Status::ServiceUnavailable503;
        match op {
            Some(Op::Put(put)) if put.is_fresh() => {
                self.refuse_put(key, Refused { status, close: false }, *put)
            }
            Some(Op::Get(get)) if get.is_fresh() => {
                self.answer(status, get.keep());
                match get.keep() {
                    true => self.after_batch(key, Next::Again, State::idle()),
                    false => self.finish_batch(key, Ending::Lingering),
                }
            }
            Some(Op::Size(_) | Op::Digest(_)) => {
                self.say_stalled(device);
                self.leave_fsck(key);
                self.after_batch(key, Next::Again, State::idle())
            }
            Some(Op::Delete(delete)) => {
                self.answer(status, delete.keep);
                match delete.keep {
                    true => self.after_batch(key, Next::Again, State::idle()),
                    false => self.finish_batch(key, Ending::Lingering),
                }
            }
            _ => Next::Close,
        }
    }

    /// A blocked operation goes on if its socket has become ready.
    pub(crate) fn resume(&mut self, key: usize, op: Op, need: Need) -> Next {
        let conn = &mut self.conns[key];
        let (ready, wait) = match need {
            Need::Read => (conn.readable, Next::Read),
            Need::Write => (conn.writable, Next::Write),
        };
        if !ready {
            conn.state = State::Blocked(Box::new(op), need);
            return wait;
        }
        conn.readable &= need != Need::Read;
        let path = match &op {
            Op::Get(get) => *get.path(),
            Op::Put(put) => *put.path(),
            _ => return Next::Close,
        };
        Next::Disk(self.device_of(key, &path), op)
    }

    /// What came of an operation.
    pub(crate) fn complete(&mut self, key: usize, outcome: Outcome) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let next = match outcome {
            Outcome::Answered(answered) => self.after_disk(key, answered),
            Outcome::Refused { refused, put } => self.refuse_put(key, refused, *put),
            Outcome::Blocked { op, need: Need::Write } => {
                conn.state = State::Blocked(Box::new(op), Need::Write);
                if conn.writable { Next::Again } else { Next::Write }
            }
            Outcome::Blocked { op, need } => {
                conn.state = State::Blocked(Box::new(op), need);
                if conn.readable { Next::Again } else { Next::Read }
            }
            Outcome::Broken | Outcome::Finished => Next::Close,
        };
        self.leave_fsck(key);
        if self.act(key, next) {
            self.advance(key);
        }
    }

    pub(crate) fn after_disk(&mut self, key: usize, answered: Answered) -> Next {
        let conn = &mut self.conns[key];
        if !answered.leftover.is_empty() {
            conn.input = answered.leftover;
        }
        conn.output = answered.unsent;
        conn.readable |= answered.has_read;
        let clean = !answered.has_read && conn.input.is_empty();
        let ending = if clean { Ending::Plain } else { Ending::Lingering };
        self.after_answer(key, answered.keep, ending)
    }

    /// Nothing of the body has been taken: it is thrown away if that can be done.
    pub(crate) fn refuse_put(&mut self, key: usize, refused: Refused, put: Put) -> Next {
        let conn = &mut self.conns[key];
        conn.input = put.initial;
        let last = conn.input.is_empty();
        match self.refuse(&put.request, refused, last) {
            Served::Answered(true) => self.after_batch(key, Next::Again, State::idle()),
            Served::Discard(discard) => {
                self.conns[key].state = State::Discarding(discard);
                Next::Again
            }
            _ => self.finish_batch(key, Ending::Lingering),
        }
    }

    /// Sends a file whose pages have just been seen in the page cache, or are looked for again
    /// after a wait for the peer.
    pub(crate) fn send_file(&mut self, key: usize, mut sending: Box<Sending>) -> Next {
        let conn = &mut self.conns[key];
        if sending.waits {
            let Extent { offset, len } = sending.transfer.rest;
            if !conn.writable {
                conn.state = State::Sending(sending);
                return Next::Write;
            }
            if !sending.transfer.file.is_resident(offset, len) {
                let device = self.device_of(key, &sending.transfer.path);
                let get = Get::resume(sending.transfer, sending.request);
                return Next::Disk(device, Op::Get(Box::new(get)));
            }
        }
        let before = sending.transfer.rest.len;
        conn.writable = false;
        let pumped = sending.transfer.pump(conn.fd(), TURN, || ());
        let sent = before - sending.transfer.rest.len;
        self.slot.bytes_out.fetch_add(sent, Relaxed);
        match pumped {
            Pumped::Blocked => {
                sending.waits = true;
                conn.state = State::Sending(sending);
                if sent > 0 {
                    self.timers.stop(key); // Progress: the wait begins anew.
                }
                Next::Write
            }
            Pumped::Enough => {
                sending.waits = false;
                conn.state = State::Sending(sending);
                Next::Later
            }
            Pumped::Done => {
                let (site, Transfer { file, path, keep, .. }) = (conn.site, sending.transfer);
                self.close_file(site, &path, file);
                self.after_answer(key, keep, Ending::Plain)
            }
            broken => {
                log_broken(&sending.transfer.path, &broken);
                conn.state = State::Sending(sending);
                Next::Close
            }
        }
    }
}
