//! Bodies that nobody wants: read and thrown away as far as PROTOCOL.md section 2.1 says, then
//! the answer.

use crate::clients::conn::{Discard, Ending, Left, Read, State, Then};
use crate::event_loop::Worker;
use crate::event_loop::advance::Next;
use crate::event_loop::serve::Served;
use crate::http::chunked::Step;
use crate::http::{answer, status_of_refusal};

impl Worker {
    /// Throws away a body, as far as it has come.
    pub(super) fn discard(&mut self, key: usize, mut discard: Box<Discard>) -> Next {
        let mut input = std::mem::take(&mut self.conns[key].input);
        let fresh = input.is_empty();
        if fresh {
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
                // A peer that always has more to send must not keep the others waiting.
                if fresh { Next::Later } else { Next::Again }
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

    pub(super) fn after_discard(&mut self, key: usize, then: Then) -> Next {
        let last = self.conns[key].input.is_empty();
        let served = match then {
            Then::Answer(status, keep) => {
                let keep = self.may_keep(key, keep, last);
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
            Left::Chunked(decoder, most, raw) => {
                *raw = raw.saturating_sub(input.len() as u64);
                let too_much = *raw == 0;
                let mut at = 0;
                loop {
                    match decoder.next(&input[at..]) {
                        Step::More if too_much => return Discarded::TooLong,
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
