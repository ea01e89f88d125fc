//! Operations on their way to a disk thread and back, and files that the loop sends by itself.

use crate::clients::conn::{Conn, Ending, State};
use crate::disk::completions::Client;
use crate::disk::device::Device;
use crate::disk::loan::{Loan, Stage, Style};
use crate::disk::operation::{Answered, Need, Op, Outcome};
use crate::disk::path::DevPath;
use crate::disk::pool::Lack;
use crate::disk::work::{Released, Task, Work};
use crate::event_loop::advance::Next;
use crate::event_loop::serve::Served;
use crate::event_loop::{FIRST_CONN, Worker};
use crate::http::answer;
use crate::http::get::Get;
use crate::http::put::Put;
use crate::http::refuse::Refused;
use crate::http::transfer::{Pumped, Sending, log_broken};
use crate::ids::DeviceKey;
use crate::trace::Part;
use nix::sys::socket::{Shutdown, shutdown};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Bytes that one connection may have sent from the loop before the others get their turn.
const TURN: u64 = 1024 * 1024;

impl Worker {
    /// Gives an operation to a disk thread of this worker.
    pub(super) fn lend(&mut self, key: usize, device: Arc<Device>, op: Op) -> bool {
        let pool = self.devices.pool_key(device.key());
        if self.devices.is_stalled(pool) {
            let next = self.refuse_op(key, device, Some(op), Lack::Room);
            return self.act(key, next);
        }
        let loan = self.loan_for(key, device.key(), pool, &op);
        let borrowed = self.conns[key].lend(key, FIRST_CONN + key, loan);
        self.timers.stop(key);
        if !self.neighbours.is_empty() {
            self.loans.note_rooted(key);
        }
        self.note_use(device.key());
        self.next_tick_soon();
        // With other workers on the same processor it would be given to them.
        if op.is_short() && self.neighbours.is_empty() {
            self.schedule.yield_after_round();
        }
        // What has begun is never refused: it would be a broken transfer.
        let max_queue = if op.is_fresh() { self.settings.max_queue } else { usize::MAX };
        let work =
            Work::for_connection(borrowed, Arc::clone(&device), Arc::clone(&self.context), op);
        let submitted = self.devices.submit(work, max_queue);
        let Err((work, lack)) = submitted else { return false };
        let next = self.refuse_op(key, device, work.into_op(), lack);
        self.act(key, next)
    }

    fn loan_for(&mut self, key: usize, device: DeviceKey, pool: DeviceKey, op: &Op) -> Arc<Loan> {
        let style = op.style(device);
        let reads = matches!(style, Style::Http(_)) && !op.changes();
        let urgent = reads && self.devices.has_usage(self.conns[key].site(), op.path());
        if urgent {
            self.loans.set_urgent(true);
        }
        let loan = Loan::new(pool, style, op.stage(), self.clock.now(), urgent);
        let trace = self.tracing.of(key).filter(|_| matches!(style, Style::Http(_)));
        trace.iter().for_each(|trace| trace.enter(Part::Queue));
        Arc::new(loan.traced(trace.map(Arc::clone)))
    }

    /// The device has too much to do: 503, and the body goes the way of any refused one.
    pub(super) fn refuse_op(
        &mut self,
        key: usize,
        device: Arc<Device>,
        op: Option<Op>,
        lack: Lack,
    ) -> Next {
        let status = answer::Status::ServiceUnavailable503;
        let Some(op) = op else { return Next::Close };
        if !op.is_fresh() {
            self.log_cut_off(key, &device);
            self.devices.in_background(&device, Task::Release(Released::Op(op)));
            return Next::Close;
        }
        match Put::of(op) {
            Ok(put) => self.refuse_put(key, Refused { status, close: false }, *put),
            Err(op) => match op.style(device.key()) {
                Style::Line(device) if lack == Lack::Thread => {
                    self.say_threadless(device);
                    self.after_line(key)
                }
                style => self.answer_for(key, style),
            },
        }
    }

    /// Says for a device that it does not answer, or has too much to do.
    pub(super) fn answer_for(&mut self, key: usize, style: Style) -> Next {
        let keep = match style {
            Style::Http(keep) => {
                self.answer(answer::Status::ServiceUnavailable503, keep);
                keep
            }
            Style::Line(device) => {
                self.say_stalled(device);
                return self.after_line(key);
            }
        };
        match keep {
            true => self.after_batch(key, Next::Again, State::idle()),
            false => self.finish_batch(key, Ending::Lingering),
        }
    }

    fn after_line(&mut self, key: usize) -> Next {
        self.leave_fsck(key);
        self.after_batch(key, Next::Again, State::idle())
    }

    /// Takes a connection back from a disk thread that does not come back, and answers in its
    /// place as far as there is an answer.
    pub(super) fn take_back(&mut self, key: usize) {
        let Some(State::Lent(loan)) = self.conns.get(key).map(Conn::state) else { return };
        let loan = Arc::clone(loan);
        let Some(stage) = loan.take() else { return }; // Its outcome is on the way.
        self.unwatch(&self.conns[key]);
        let back = self.conns[key].reclaim();
        self.leave_fsck(key);
        let back = back.and_then(|()| self.watch_conn(key));
        if stage != Stage::Fresh || back.is_err() {
            let device = self.devices.get(loan.device());
            self.log_cut_off(key, &device);
            let _ = shutdown(self.conns[key].fd().as_raw_fd(), Shutdown::Both);
            return self.close(key);
        }
        let next = self.answer_for(key, loan.style());
        if self.act(key, next) {
            self.advance(key);
        }
    }

    /// Answers everything that waits for a device whose disk does not answer.
    pub(super) fn answer_for_stalled(&mut self, pool: DeviceKey) {
        for key in self.conns.keys_where(|_| true) {
            let Some(conn) = self.conns.get(key) else { continue };
            match conn.state() {
                State::Lent(loan) if loan.device() == pool => self.take_back(key),
                State::Queued(device, _) if self.devices.pool_key(device.key()) == pool => {
                    let style = Style::Line(device.key());
                    let next = self.answer_for(key, style);
                    if self.act(key, next) {
                        self.advance(key);
                    }
                }
                State::Blocked(op, _) => self.cut_off_if_on(key, *op.path(), pool),
                State::Sending(sending) => {
                    self.cut_off_if_on(key, *sending.path(), pool);
                }
                _ => {}
            }
        }
    }

    fn cut_off_if_on(&mut self, key: usize, path: DevPath, pool: DeviceKey) {
        let device = path.key(self.conns[key].site());
        if self.devices.pool_key(device) == pool {
            let device = self.devices.get(device);
            self.log_cut_off(key, &device);
            self.close(key);
        }
    }

    fn log_cut_off(&self, key: usize, device: &Device) {
        let (peer, device) = (self.conns[key].peer(), device.path().display());
        log::warn!("{device} does not answer: a transfer of {peer} is cut off");
    }

    /// A blocked operation goes on if its socket has become ready.
    pub(super) fn resume(&mut self, key: usize, op: Op, need: Need) -> Next {
        let conn = &mut self.conns[key];
        if !conn.go_on_if_ready_for(need) {
            conn.enter(State::Blocked(op, need));
            return waits_for(need);
        }
        Next::Disk(self.device_of(key, op.path()), op)
    }

    /// What came of an operation.
    pub(super) fn complete(&mut self, client: Client, outcome: Outcome) {
        let Some(conn) = self.conns.lent(&client) else { return };
        let key = client.key;
        let next = match outcome {
            Outcome::Answered(answered) => self.after_disk(key, answered),
            Outcome::Refused(op) => match Put::of(op) {
                Ok(put) if let Some(refused) = put.refused() => self.refuse_put(key, refused, *put),
                _ => Next::Close,
            },
            Outcome::Blocked { op, need } => {
                conn.enter(State::Blocked(op, need));
                if conn.is_ready_for(need) { Next::Again } else { waits_for(need) }
            }
            Outcome::Broken | Outcome::Finished | Outcome::Listed(..) => Next::Close,
        };
        self.leave_fsck(key);
        if self.act(key, next) {
            self.advance(key);
        }
    }

    pub(super) fn after_disk(&mut self, key: usize, answered: Answered) -> Next {
        self.end_trace_of_thread(key);
        let keep = answered.keep;
        let ending = self.conns[key].note_answered(answered);
        self.after_answer(key, keep, ending)
    }

    /// Nothing of the body has been taken: it is thrown away if that can be done.
    pub(super) fn refuse_put(&mut self, key: usize, refused: Refused, put: Put) -> Next {
        let (request, input) = put.into_request();
        let last = input.is_empty();
        self.conns[key].put_back(input);
        match self.refuse(key, &request, refused, last) {
            Served::Answered(true) => self.after_batch(key, Next::Again, State::idle()),
            Served::Discard(discard) => {
                self.conns[key].enter(State::Discarding(discard));
                Next::Again
            }
            _ => self.finish_batch(key, Ending::Lingering),
        }
    }

    /// Sends a file whose pages have just been seen in the page cache, or are looked for again
    /// after a wait for the peer.
    pub(super) fn send_file(&mut self, key: usize, mut sending: Box<Sending>) -> Next {
        let conn = &mut self.conns[key];
        if sending.waits() && !conn.is_writable() {
            conn.enter(State::Sending(sending));
            return Next::Write;
        }
        let device = sending.path().key(conn.site());
        if !sending.is_in_memory() || !self.may_look(device) {
            let device = self.devices.get(device);
            let (transfer, request) = sending.into_parts();
            return Next::Disk(device, Box::new(Get::resume(transfer, request)));
        }
        let conn = &mut self.conns[key];
        let (pumped, sent) = sending.pump(conn.feed(), TURN);
        self.slot.bytes_out.fetch_add(sent, Relaxed);
        match pumped {
            Pumped::Blocked => {
                conn.enter(State::Sending(sending));
                self.trace_sent(key, sent, Part::Peer);
                if sent > 0 {
                    self.timers.stop(key); // Progress: the wait begins anew.
                }
                Next::Write
            }
            Pumped::Enough => {
                conn.enter(State::Sending(sending));
                self.trace_sent(key, sent, Part::Loop);
                Next::Later
            }
            Pumped::Done => {
                self.trace_sent(key, sent, Part::Loop);
                self.end_trace(key);
                let conn = &self.conns[key];
                let (site, path, keep) = (conn.site(), *sending.path(), sending.keeps());
                self.close_file(site, &path, sending.into_file());
                self.after_answer(key, keep, Ending::Plain)
            }
            broken => {
                let device = sending.path().key(conn.site());
                log_broken(device, self.board.device(device), sending.path(), &broken);
                conn.enter(State::Sending(sending));
                self.trace_sent(key, sent, Part::Loop);
                Next::Close
            }
        }
    }
}

fn waits_for(need: Need) -> Next {
    match need {
        Need::Read => Next::Read,
        Need::Write => Next::Write,
    }
}
