//! Reading what a peer sends, and answering all requests that are there: answers pile up and are
//! sent together.

use crate::clients::conn::{Ending, Read, State};
use crate::event_loop::Worker;
use crate::event_loop::advance::Next;
use crate::event_loop::serve::Served;
use crate::http::head::{self, Body, HeadScan, Parsed};
use crate::http::{answer, status_of_refusal};
use crate::spec::Service;
use std::sync::atomic::Ordering::Relaxed;

/// Pipelined answers are collected up to this size before they are sent.
pub(super) const BATCH: usize = 256 * 1024;

/// How the input at hand was used.
pub(super) struct Used {
    pub(super) bytes: usize,
    pub(super) next: Next,
}

impl Worker {
    /// Answers all requests that are there.
    pub(super) fn read_requests(&mut self, key: usize, scan: HeadScan) -> Next {
        let mut input = self.conns[key].take_input();
        if !input.is_empty() {
            // A partial head that was looked at before has nothing new unless something is read.
            let used = self.requests(key, &input, scan);
            input.drain(..used.bytes);
            self.conns[key].put_back(input);
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
                    conn.put_back(scratch[used.bytes..n].to_vec());
                }
                match used.next {
                    // A client that always has more to ask must not keep the others waiting.
                    Next::Read if self.conns[key].is_readable() => Next::Later,
                    next => next,
                }
            }
            Read::Nothing => {
                self.conns[key].enter(State::Reading(scan));
                Next::Read
            }
            Read::End | Read::Broken => Next::Close,
        };
        self.scratch = scratch;
        next
    }

    /// Reads more of a head that is there in part.
    pub(super) fn read_behind(&mut self, key: usize) -> Next {
        let mut scratch = std::mem::take(&mut self.scratch);
        let conn = &mut self.conns[key];
        let next = match conn.read_more(&mut scratch) {
            // As in `read_requests`: one whose pieces never end with a request's end, too.
            Read::Some(_) if conn.is_readable() => Next::Later,
            Read::Some(_) => Next::Again,
            Read::Nothing => Next::Read,
            Read::End | Read::Broken => Next::Close,
        };
        self.scratch = scratch;
        next
    }

    /// Parses and serves request after request; answers pile up and are sent together.
    pub(super) fn requests(&mut self, key: usize, input: &[u8], mut scan: HeadScan) -> Used {
        if self.conns[key].service() == Service::Mgmt {
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
                    let (trace, start) = (self.begin_trace(key, rest, None), self.out.len());
                    answer::empty(
                        &mut self.out,
                        status_of_refusal(refusal),
                        self.clock.date(),
                        false,
                    );
                    self.trace_served(trace, &Served::Refused, start);
                    bytes = input.len();
                    break self.finish_batch(key, Ending::Lingering);
                }
            };
            self.timers.stop(key);
            let behind = &rest[len..];
            let trace = self.begin_trace(key, &rest[..len], Some(&request));
            let start = self.out.len();
            let served = self.serve(key, &request, behind);
            let trace = self.trace_served(trace, &served, start);
            if !matches!(served, Served::Move(_)) {
                self.slot.requests.fetch_add(1, Relaxed);
            }
            if matches!(served, Served::Answered(true)) && self.out.len() < BATCH {
                bytes += len;
                continue;
            }
            let clean = behind.is_empty() && request.body == Body::None;
            let used = self.after_request(key, served, len, rest.len(), clean);
            bytes += used.bytes;
            // What was postponed is read again.
            self.keep_trace(key, trace.filter(|_| used.bytes > 0));
            break used.next;
        };
        Used { bytes, next }
    }

    /// What follows a request, which stands for the last one of a batch. It takes `len` bytes of
    /// the input, of which `all` are left. `clean`: nothing of the peer's is left behind it.
    fn after_request(
        &mut self,
        key: usize,
        served: Served,
        len: usize,
        all: usize,
        clean: bool,
    ) -> Used {
        let (bytes, next) = match served {
            Served::Answered(true) => (len, self.after_batch(key, Next::Later, State::idle())),
            Served::Answered(false) => {
                let ending = if clean { Ending::Plain } else { Ending::Lingering };
                (all, self.finish_batch(key, ending))
            }
            Served::Refused => (all, self.finish_batch(key, Ending::Lingering)),
            Served::Discard(discard) => {
                (len, self.after_batch(key, Next::Again, State::Discarding(discard)))
            }
            Served::Send(sending) => {
                (len, self.after_batch(key, Next::Again, State::Sending(sending)))
            }
            Served::Lend(device, op) => match self.send_batch(key) {
                // A PUT has taken all that follows its head.
                Next::Again if op.has_input() => (all, Next::Disk(device, op)),
                Next::Again => (len, Next::Disk(device, op)),
                next => (0, self.postpone(key, next)),
            },
            Served::Move(owner) => match self.send_batch(key) {
                Next::Again => (0, Next::HandOver(owner)),
                next => (0, self.postpone(key, next)),
            },
        };
        Used { bytes, next }
    }

    /// Earlier answers must go first: the request is read again when they are through.
    pub(super) fn postpone(&mut self, key: usize, next: Next) -> Next {
        self.conns[key].enter(State::idle());
        next
    }

    pub(super) fn after_batch(&mut self, key: usize, next: Next, state: State) -> Next {
        let more = matches!(state, State::Sending(_));
        self.conns[key].enter(state);
        let sent = self.send_output(key, more);
        if matches!(sent, Next::Again) {
            return next;
        }
        // By the time the head has gone, the pages that have just been seen may have gone too.
        self.conns[key].note_head_waits();
        sent
    }

    pub(super) fn finish_batch(&mut self, key: usize, ending: Ending) -> Next {
        let conn = &mut self.conns[key];
        conn.close_after_output(ending);
        conn.enter(State::idle());
        self.send_batch(key)
    }

    pub(super) fn send_batch(&mut self, key: usize) -> Next {
        self.send_output(key, false)
    }

    /// Sends the collected answers. `Again`: all of them went.
    pub(super) fn send_output(&mut self, key: usize, more: bool) -> Next {
        if self.out.is_empty() {
            return Next::Again;
        }
        self.trace_output(key, more);
        let conn = &mut self.conns[key];
        let sent = conn.send(&self.out, more);
        self.out.clear();
        match sent {
            Ok(()) if conn.unsent() == 0 => Next::Again,
            Ok(()) => Next::Write,
            Err(_) => Next::Close,
        }
    }
}
