//! Moves one connection on until it has to wait, and does what the next step asks for: the one
//! place that acts on what a connection waits for, while draining too.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use nix::sys::socket::{Shutdown, shutdown};
use std::os::fd::AsRawFd;

use crate::conn::{Discard, Ending, Left, Read, Sending, State, Then};
use crate::disk::device::Device;
use crate::event_loop::Worker;
use crate::exchange::{Answered, Need, Op, Outcome, Released, Work};
use crate::handover;
use crate::http::chunked::Step;
use crate::http::get::{Get, Pumped, log_broken};
use crate::http::head::{self, Body, HeadScan, Parsed};
use crate::http::put::Put;
use crate::http::refuse::Refused;
use crate::http::{answer, status_of_refusal};
use crate::serve::Served;
use crate::sidechannel::line::{self, Command, Line};
use crate::sidechannel::{Heard, watch};
use crate::spec::{DeviceKey, Service, SiteId, WorkerId};
use crate::timer::Wait;

/// Bytes that one connection may have sent from the loop before the others get their turn.
const TURN: u64 = 1024 * 1024;
/// Pipelined answers are collected up to this size before they are sent.
const BATCH: usize = 256 * 1024;

/// What a connection waits for.
enum Next {
    /// More from the peer.
    Read,
    /// The peer to take more.
    Write,
    /// Nothing: it goes on at once.
    Again,
    /// The others' turn.
    Later,
    /// A disk thread.
    Disk(Arc<Device>, Op),
    /// To be with another worker.
    HandOver(WorkerId),
    /// Its end.
    Close,
    /// The disk thread that has it, or its turn.
    Lent,
}

/// How the input at hand was used.
struct Used {
    bytes: usize,
    next: Next,
}

impl Worker {
    /// Moves a connection on as far as it goes.
    pub(crate) fn advance(&mut self, key: usize) {
        loop {
            let Some(conn) = self.conns.get_mut(key) else { return };
            let waiting = conn.output.len();
            let next = match conn.flush() {
                _ if matches!(conn.state, State::Lent) => Next::Lent,
                Err(_) => Next::Close,
                Ok(true) => self.step(key),
                Ok(false) => {
                    if conn.output.len() < waiting {
                        self.timers.stop(key); // Progress: the wait begins anew.
                    }
                    Next::Write
                }
            };
            if !self.act(key, next) {
                return;
            }
        }
    }

    /// One step of a connection whose output is sent.
    fn step(&mut self, key: usize) -> Next {
        let conn = &mut self.conns[key];
        if let Some(ending) = conn.closing {
            return self.end(key, ending);
        }
        match std::mem::replace(&mut conn.state, State::Lent) {
            State::Reading(scan) => self.read_requests(key, scan),
            State::Discarding(discard) => self.discard(key, discard),
            State::Sending(sending) => self.send_file(key, sending),
            State::Blocked(op, need) => self.resume(key, op, need),
            State::Lingering => self.linger(key),
            State::Queued(device, op) => self.wait_for_turn(key, device, op),
            State::Watching => self.ignore_input(key),
            State::Lent => Next::Lent,
        }
    }

    /// Does what the connection needs next. True: it can go on at once.
    fn act(&mut self, key: usize, next: Next) -> bool {
        match next {
            Next::Again => return true,
            Next::Lent => self.timers.stop(key),
            Next::Later => self.again.push(key),
            Next::Close => self.close(key),
            Next::Write if matches!(self.conns[key].state, State::Watching) => {}
            Next::Write => self.timers.keep(key, Wait::Body, self.now),
            Next::Read => self.wait_for_input(key),
            Next::Disk(device, op) => return self.lend(key, device, op),
            Next::HandOver(owner) => return self.hand_over(key, owner),
        }
        false
    }

    fn wait_for_input(&mut self, key: usize) {
        let conn = &self.conns[key];
        if conn.service == Service::Mgmt && !self.draining_in_line(key) {
            return self.timers.stop(key); // The sidechannel never idles out.
        }
        let wait = match conn.state {
            State::Lingering => Wait::Linger,
            State::Reading(_) if conn.input.is_empty() => Wait::Idle,
            State::Reading(_) => Wait::Head,
            _ => Wait::Body,
        };
        self.timers.keep(key, wait, self.now);
    }

    /// While draining, half a line is waited for as long as half a head.
    fn draining_in_line(&self, key: usize) -> bool {
        self.drain.is_some() && !self.conns[key].input.is_empty()
    }

    /// Answers all requests that are there.
    fn read_requests(&mut self, key: usize, scan: HeadScan) -> Next {
        let mut input = std::mem::take(&mut self.conns[key].input);
        if !input.is_empty() {
            // A partial head that was looked at before has nothing new unless something is read.
            let used = self.requests(key, &input, scan);
            input.drain(..used.bytes);
            self.conns[key].input = input;
            if !matches!(used.next, Next::Read) {
                return used.next;
            }
            return self.read_behind(key);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let next = match self.conns[key].read(&mut scratch) {
            Read::Some(n) => {
                let used = self.requests(key, &scratch[..n], scan);
                if let Some(conn) = self.conns.get_mut(key) {
                    conn.input = scratch[used.bytes..n].to_vec();
                }
                match used.next {
                    // A client that always has more to ask must not keep the others waiting.
                    Next::Read if self.conns[key].readable => Next::Later,
                    next => next,
                }
            }
            Read::Nothing => {
                self.conns[key].state = State::Reading(scan);
                Next::Read
            }
            Read::End | Read::Broken => Next::Close,
        };
        self.scratch = scratch;
        next
    }

    /// Reads more of a head that is there in part.
    fn read_behind(&mut self, key: usize) -> Next {
        let mut scratch = std::mem::take(&mut self.scratch);
        let conn = &mut self.conns[key];
        let next = match conn.read(&mut scratch) {
            Read::Some(n) => {
                conn.input.extend_from_slice(&scratch[..n]);
                Next::Again
            }
            Read::Nothing => Next::Read,
            Read::End | Read::Broken => Next::Close,
        };
        self.scratch = scratch;
        next
    }

    /// Parses and serves request after request; answers pile up and are sent together.
    fn requests(&mut self, key: usize, input: &[u8], mut scan: HeadScan) -> Used {
        if self.conns[key].service == Service::Mgmt {
            return self.lines(key, input);
        }
        let mut bytes = 0;
        let next = loop {
            let rest = &input[bytes..];
            let (request, len) = match head::parse(rest, &mut scan) {
                Parsed::Complete { request, len } => (request, len),
                Parsed::Incomplete => {
                    break self.after_batch(key, Next::Read, State::Reading(scan));
                }
                Parsed::Refused(refusal) => {
                    self.slot.requests.fetch_add(1, Relaxed);
                    answer::empty(&mut self.out, status_of_refusal(refusal), &self.date, false);
                    bytes = input.len();
                    break self.finish_batch(key, Ending::Lingering);
                }
            };
            self.timers.stop(key);
            let behind = &rest[len..];
            let served = self.serve(key, &request, behind);
            if !matches!(served, Served::Move(_)) {
                self.slot.requests.fetch_add(1, Relaxed);
            }
            match served {
                Served::Answered(true) if self.out.len() < BATCH => bytes += len,
                Served::Answered(true) => {
                    bytes += len;
                    break self.after_batch(key, Next::Later, State::idle());
                }
                Served::Answered(false) => {
                    let clean = behind.is_empty() && request.body == Body::None;
                    bytes = input.len();
                    let ending = if clean { Ending::Plain } else { Ending::Lingering };
                    break self.finish_batch(key, ending);
                }
                Served::Refused => {
                    bytes = input.len();
                    break self.finish_batch(key, Ending::Lingering);
                }
                Served::Discard(discard) => {
                    bytes += len;
                    break self.after_batch(key, Next::Again, State::Discarding(discard));
                }
                Served::Send(sending) => {
                    bytes += len;
                    break self.after_batch(key, Next::Again, State::Sending(sending));
                }
                Served::Lend(device, op) => match self.send_batch(key) {
                    Next::Again => {
                        // A PUT has taken all that follows its head.
                        bytes = if matches!(op, Op::Put(_)) { input.len() } else { bytes + len };
                        break Next::Disk(device, op);
                    }
                    next => break self.postpone(key, next),
                },
                Served::Move(owner) => match self.send_batch(key) {
                    Next::Again => break Next::HandOver(owner),
                    next => break self.postpone(key, next),
                },
            }
        };
        Used { bytes, next }
    }

    /// Obeys line after line of the sidechannel; answers pile up and are sent together.
    fn lines(&mut self, key: usize, input: &[u8]) -> Used {
        let mut bytes = 0;
        let next = loop {
            let (line, len) = match line::split(&input[bytes..]) {
                Line::Whole(line, len) => (line, len),
                Line::Partial => break self.after_batch(key, Next::Read, State::idle()),
                Line::TooLong => {
                    // What was answered before goes out, as far as it does, and to nobody else.
                    let _ = self.send_batch(key);
                    break Next::Close;
                }
            };
            let heard = self.obey_line(key, line::parse(line));
            if !matches!(heard, Heard::Move(_)) {
                self.slot.requests.fetch_add(1, Relaxed);
            }
            let sent = match heard {
                Heard::Answered if self.out.len() < BATCH => {
                    bytes += len;
                    continue;
                }
                _ => self.send_batch(key),
            };
            if !matches!(sent, Next::Again) {
                // Earlier answers must go first: the line is read again when they are through.
                let answered = matches!(heard, Heard::Answered);
                bytes += if answered { len } else { 0 };
                break self.postpone_line(key, heard, sent);
            }
            bytes += if matches!(heard, Heard::Move(_)) { 0 } else { len };
            break match heard {
                Heard::Answered => self.postpone(key, Next::Later),
                Heard::Lend(device, op) => Next::Disk(device, op),
                Heard::Move(owner) => Next::HandOver(owner),
                Heard::Queue(device, op) => {
                    self.conns[key].state = State::Queued(device, op);
                    Next::Lent
                }
                Heard::Watch => {
                    self.start_watching(key);
                    Next::Again
                }
                Heard::End => {
                    self.conns[key].closing = Some(Ending::Lingering);
                    self.postpone(key, Next::Again)
                }
            };
        };
        Used { bytes, next }
    }

    /// A digest that has entered fsck's queue leaves it again.
    fn postpone_line(&mut self, key: usize, heard: Heard, next: Next) -> Next {
        if matches!(heard, Heard::Lend(_, Op::Digest(_)) | Heard::Queue(..)) {
            self.leave_fsck(key);
        }
        self.postpone(key, next)
    }

    fn start_watching(&mut self, key: usize) {
        self.conns[key].state = State::Watching;
        self.watchers.push(key);
        self.slot.watchers.store(self.watchers.len() as u32, Relaxed);
        self.next_tick_soon();
    }

    pub(crate) fn stop_watching(&mut self, key: usize) {
        self.watchers.retain(|watcher| *watcher != key);
        self.slot.watchers.store(self.watchers.len() as u32, Relaxed);
    }

    /// Sends each watcher its group; those that do not read are dropped.
    pub(crate) fn send_groups(&mut self) {
        let sites = 0..self.sites.len() as u8;
        let groups: Vec<Vec<u8>> =
            sites.map(|site| watch::group(self.board, SiteId(site))).collect();
        for key in self.watchers.clone() {
            let conn = &mut self.conns[key];
            let sent = conn.send(&groups[usize::from(conn.site.0)], false);
            if sent.is_err() || conn.output.len() > watch::MOST_PENDING {
                self.close(key);
            }
        }
    }

    /// A watcher has nothing more to say.
    fn ignore_input(&mut self, key: usize) -> Next {
        let conn = &mut self.conns[key];
        conn.state = State::Watching;
        conn.input = Vec::new();
        match conn.read(&mut self.scratch) {
            Read::Some(_) => Next::Later,
            Read::Nothing => Next::Lent,
            Read::End | Read::Broken => Next::Close,
        }
    }

    /// In fsck's queue: goes on when it is its turn, unless its client has gone.
    fn wait_for_turn(&mut self, key: usize, device: Arc<Device>, op: Op) -> Next {
        let conn = &mut self.conns[key];
        let turn = self.fsck.get(&device.key).is_some_and(|queue| queue.is_turn_of(key));
        if turn && !conn.ended {
            return Next::Disk(device, op);
        }
        conn.state = State::Queued(device, op);
        if conn.ended { Next::Close } else { Next::Lent }
    }

    /// Earlier answers must go first: the request is read again when they are through.
    fn postpone(&mut self, key: usize, next: Next) -> Next {
        self.conns[key].state = State::idle();
        next
    }

    fn after_batch(&mut self, key: usize, next: Next, state: State) -> Next {
        let more = matches!(state, State::Sending(_));
        self.conns[key].state = state;
        match self.send_output(key, more) {
            Next::Again => next,
            other => other,
        }
    }

    fn finish_batch(&mut self, key: usize, ending: Ending) -> Next {
        let conn = &mut self.conns[key];
        conn.closing = Some(ending);
        conn.state = State::idle();
        self.send_batch(key)
    }

    fn send_batch(&mut self, key: usize) -> Next {
        self.send_output(key, false)
    }

    /// Sends the collected answers. `Again`: all of them went.
    fn send_output(&mut self, key: usize, more: bool) -> Next {
        if self.out.is_empty() {
            return Next::Again;
        }
        let conn = &mut self.conns[key];
        let sent = conn.send(&self.out, more);
        self.out.clear();
        match sent {
            Ok(()) if conn.output.is_empty() => Next::Again,
            Ok(()) => Next::Write,
            Err(_) => Next::Close,
        }
    }

    /// Closes, now that the last answer is sent.
    fn end(&mut self, key: usize, ending: Ending) -> Next {
        let conn = &mut self.conns[key];
        if ending == Ending::Plain && !conn.readable {
            return Next::Close;
        }
        if shutdown(conn.socket.as_raw_fd(), Shutdown::Write).is_err() {
            return Next::Close;
        }
        conn.closing = None;
        conn.input = Vec::new();
        conn.state = State::Lingering;
        conn.readable = true;
        self.timers.start(key, Wait::Linger, self.now);
        Next::Again
    }

    fn linger(&mut self, key: usize) -> Next {
        let conn = &mut self.conns[key];
        conn.state = State::Lingering;
        match conn.read(&mut self.scratch) {
            Read::Some(_) => Next::Later,
            Read::Nothing => Next::Read,
            Read::End | Read::Broken => Next::Close,
        }
    }

    /// Throws away a body, as far as it has come.
    fn discard(&mut self, key: usize, mut discard: Box<Discard>) -> Next {
        let mut input = std::mem::take(&mut self.conns[key].input);
        if input.is_empty() {
            let conn = &mut self.conns[key];
            input.resize(8 * 1024, 0);
            match conn.read(&mut input) {
                Read::Some(n) => {
                    input.truncate(n);
                    self.timers.stop(key); // Progress: the wait begins anew.
                }
                Read::Nothing => {
                    conn.state = State::Discarding(discard);
                    return Next::Read;
                }
                Read::End | Read::Broken => return Next::Close,
            }
        }
        match discard.take(&input) {
            Discarded::All(used) => {
                input.drain(..used);
                self.conns[key].input = input;
                self.after_discard(key, discard.then)
            }
            Discarded::Part => {
                self.conns[key].state = State::Discarding(discard);
                Next::Again
            }
            Discarded::Malformed(status) => {
                self.answer(status, false);
                self.finish_batch(key, Ending::Lingering)
            }
            Discarded::TooLong => {
                // What is left of the body must not be taken for a request.
                match &mut discard.then {
                    Then::Serve(request) => request.keep_alive = false,
                    Then::Answer(_, keep) => *keep = false,
                }
                self.after_discard(key, discard.then)
            }
        }
    }

    fn after_discard(&mut self, key: usize, then: Then) -> Next {
        let last = self.conns[key].input.is_empty();
        let served = match then {
            Then::Answer(status, keep) => {
                let keep = self.may_keep(keep, last);
                self.answer(status, keep)
            }
            Then::Serve(request) => self.serve_bodiless(key, &request, last),
        };
        match served {
            Served::Answered(true) => self.after_batch(key, Next::Again, State::idle()),
            Served::Send(sending) => self.after_batch(key, Next::Again, State::Sending(sending)),
            Served::Lend(device, op) => Next::Disk(device, op),
            // The body is gone, so it cannot be served elsewhere: rare, and rather a refusal.
            Served::Move(_) => {
                self.answer(answer::Status::ServiceUnavailable503, false);
                self.finish_batch(key, Ending::Lingering)
            }
            _ => self.finish_batch(key, Ending::Lingering),
        }
    }

    /// Sends a file whose pages have just been seen in the page cache.
    fn send_file(&mut self, key: usize, mut sending: Box<Sending>) -> Next {
        let conn = &mut self.conns[key];
        let before = sending.transfer.rest.len;
        conn.writable = false;
        let pumped = sending.transfer.pump(conn.fd(), TURN, || ());
        self.slot.bytes_out.fetch_add(before - sending.transfer.rest.len, Relaxed);
        match pumped {
            Pumped::Blocked => {
                let device = self.device_of(key, &sending.transfer.path);
                // The peer may take its time, and the pages may go: a disk thread does the rest.
                let request = sending.request;
                let get = Get::resume(sending.transfer, request);
                let conn = &mut self.conns[key];
                conn.state = State::Blocked(Op::Get(Box::new(get)), Need::Write);
                self.note_use(device.key);
                Next::Write
            }
            Pumped::Enough => {
                conn.state = State::Sending(sending);
                Next::Later
            }
            Pumped::Done => {
                let (keep, mark) = (sending.transfer.keep, sending.mark);
                let device = self.device_of(key, &sending.transfer.path);
                self.close_file(&device, sending.transfer.file, mark);
                self.after_answer(key, keep, Ending::Plain)
            }
            broken => {
                log_broken(&sending.transfer.path, &broken);
                conn.state = State::Sending(sending);
                Next::Close
            }
        }
    }

    fn after_answer(&mut self, key: usize, keep: bool, ending: Ending) -> Next {
        let conn = &mut self.conns[key];
        conn.state = State::idle();
        if !keep {
            conn.closing = Some(ending);
        }
        Next::Again
    }

    /// Gives an operation to a disk thread of this worker.
    fn lend(&mut self, key: usize, device: Arc<Device>, op: Op) -> bool {
        let conn = &mut self.conns[key];
        conn.state = State::Lent;
        conn.writable = false;
        self.timers.stop(key);
        self.note_use(device.key);
        self.next_tick_soon();
        let conn = &self.conns[key];
        // What has begun is never refused: it would be a broken transfer.
        let max_queue = if op.is_fresh() { self.settings.max_queue } else { usize::MAX };
        let work = Work::for_connection(
            key,
            Arc::clone(&conn.socket),
            conn.peer,
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
    fn refuse_op(&mut self, key: usize, device: DeviceKey, op: Option<Op>) -> Next {
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

    /// Sends the connection, with its unread input, to the worker that owns its next device.
    fn hand_over(&mut self, key: usize, owner: WorkerId) -> bool {
        let conn = &self.conns[key];
        let Some(inbox) = self.peers.get(&owner) else {
            self.conns[key].state = State::idle();
            return true; // Retired since it was chosen: served here.
        };
        self.unwatch(conn);
        let target = self.board.worker(owner);
        target.inbox_pending.fetch_add(1, Relaxed);
        match handover::send_connection(
            inbox.as_fd(),
            conn.fd(),
            conn.service,
            conn.site,
            &conn.input,
        ) {
            Ok(()) => {
                self.slot.handed_over.fetch_add(1, Relaxed);
                self.close(key);
                false
            }
            Err(e) => {
                target.inbox_pending.fetch_sub(1, Relaxed);
                self.keep_unmoved(key, owner, &e)
            }
        }
    }

    /// The owner takes no connection. True: it is served here instead.
    fn keep_unmoved(&mut self, key: usize, owner: WorkerId, why: &io::Error) -> bool {
        if let Err(e) = self.watch_conn(key) {
            log::error!("cannot watch a connection: {e}");
            self.close(key);
            return false;
        }
        let gone = matches!(
            why.raw_os_error(),
            Some(libc::EPIPE | libc::ECONNRESET | libc::ECONNREFUSED | libc::ENOTCONN)
        );
        if !gone {
            // Full, or short of memory, or too many descriptors under way: it is there still.
            log::debug!("the inbox of worker {owner} takes nothing: {why}");
            return self.answer_unmoved(key);
        }
        log::debug!("worker {owner} has gone: {why}");
        self.peers.remove(&owner);
        self.conns[key].state = State::idle();
        true
    }

    /// The owner's inbox is full: the request at the front of the input is answered 503.
    fn answer_unmoved(&mut self, key: usize) -> bool {
        if self.conns[key].service == Service::Mgmt {
            return self.answer_unmoved_line(key);
        }
        let mut input = std::mem::take(&mut self.conns[key].input);
        let next = match head::parse(&input, &mut HeadScan::default()) {
            Parsed::Complete { request, len } => {
                input.drain(..len);
                let last = input.is_empty();
                self.conns[key].input = input;
                self.slot.requests.fetch_add(1, Relaxed);
                let status = answer::Status::ServiceUnavailable503;
                match self.refuse(&request, Refused { status, close: false }, last) {
                    Served::Answered(true) => self.after_batch(key, Next::Again, State::idle()),
                    Served::Discard(discard) => {
                        self.conns[key].state = State::Discarding(discard);
                        Next::Again
                    }
                    _ => self.finish_batch(key, Ending::Lingering),
                }
            }
            _ => Next::Close,
        };
        self.act(key, next)
    }

    fn answer_unmoved_line(&mut self, key: usize) -> bool {
        let mut input = std::mem::take(&mut self.conns[key].input);
        let next = match line::split(&input) {
            Line::Whole(line, len) => {
                if let Command::Size(path) | Command::Digest { path, .. } = line::parse(line) {
                    let device = Device::key_of(self.conns[key].site, &path);
                    self.say_stalled(device);
                }
                input.drain(..len);
                self.conns[key].input = input;
                self.after_batch(key, Next::Again, State::idle())
            }
            _ => Next::Close,
        };
        self.act(key, next)
    }

    /// A blocked operation goes on if its socket has become ready.
    fn resume(&mut self, key: usize, op: Op, need: Need) -> Next {
        let conn = &mut self.conns[key];
        let (ready, wait) = match need {
            Need::Read => (conn.readable, Next::Read),
            Need::Write => (conn.writable, Next::Write),
        };
        if !ready {
            conn.state = State::Blocked(op, need);
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
                conn.state = State::Blocked(op, Need::Write);
                if conn.writable { Next::Again } else { Next::Write }
            }
            Outcome::Blocked { op, need } => {
                conn.state = State::Blocked(op, need);
                if conn.readable { Next::Again } else { Next::Read }
            }
            Outcome::Broken | Outcome::Finished => Next::Close,
        };
        self.leave_fsck(key);
        if self.act(key, next) {
            self.advance(key);
        }
    }

    fn after_disk(&mut self, key: usize, answered: Answered) -> Next {
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
    fn refuse_put(&mut self, key: usize, refused: Refused, put: Put) -> Next {
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

    /// A deadline has passed.
    pub(crate) fn time_out(&mut self, key: usize) {
        self.timers.stop(key);
        let Some(conn) = self.conns.get(key) else { return };
        if let State::Blocked(Op::Put(put), _) = &conn.state {
            put.log_vanished(conn.fd(), conn.peer, "Connection timed out");
        }
        self.close(key);
    }

    /// What a connection leaves behind is let go where waiting for the disk does no harm.
    pub(crate) fn let_go(&mut self, site: SiteId, state: State) {
        match state {
            State::Sending(sending) => {
                let Sending { transfer, mark, .. } = *sending;
                let device = self.device(Device::key_of(site, &transfer.path));
                self.close_file(&device, transfer.file, mark);
            }
            State::Blocked(op, _) => {
                let path = match &op {
                    Op::Put(put) => *put.path(),
                    Op::Get(get) => *get.path(),
                    _ => return,
                };
                let device = self.device(Device::key_of(site, &path));
                self.in_background(&device, Op::Release(Released::Op(Box::new(op))));
            }
            _ => {}
        }
    }
}

enum Discarded {
    /// It is over; so much of the input was part of it.
    All(usize),
    /// All of the input was part of it.
    Part,
    TooLong,
    Malformed(answer::Status),
}

impl Discard {
    fn take(&mut self, input: &[u8]) -> Discarded {
        match &mut self.left {
            Left::Length(left) => {
                let used = (*left).min(input.len() as u64);
                *left -= used;
                if *left == 0 { Discarded::All(used as usize) } else { Discarded::Part }
            }
            Left::Chunked(decoder, most) => {
                let mut at = 0;
                loop {
                    match decoder.next(&input[at..]) {
                        Step::More => return Discarded::Part,
                        Step::End { consumed } => return Discarded::All(at + consumed),
                        Step::Refused(refusal) => {
                            return Discarded::Malformed(status_of_refusal(refusal));
                        }
                        Step::Data { range, consumed } => {
                            at += consumed;
                            *most = match most.checked_sub(range.len() as u64) {
                                Some(left) => left,
                                None => return Discarded::TooLong,
                            };
                        }
                    }
                }
            }
        }
    }
}
