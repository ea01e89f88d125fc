//! Bodies that nobody wants: read and thrown away as far as PROTOCOL.md section 2.1 says, then
//! the answer.

use crate::clients::conn::{Ending, Read, State};
use crate::event_loop::Worker;
use crate::event_loop::advance::Next;
use crate::event_loop::serve::Served;
use crate::http::answer;
use crate::http::discard::{Discard, Discarded, Then};

impl Worker {
    /// Throws away a body, as far as it has come.
    pub(super) fn discard(&mut self, key: usize, mut discard: Box<Discard>) -> Next {
        let mut input = self.conns[key].take_input();
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
                    conn.enter(State::Discarding(discard));
                    return Next::Read;
                }
                Read::End | Read::Broken => return Next::Close,
            }
        }
        match discard.take(&input) {
            Discarded::All(used) => {
                input.drain(..used);
                self.conns[key].put_back(input);
                self.after_discard(key, discard.into_then())
            }
            Discarded::Part => {
                self.conns[key].enter(State::Discarding(discard));
                // A peer that always has more to send must not keep the others waiting.
                if fresh { Next::Later } else { Next::Again }
            }
            Discarded::Malformed(status) => {
                self.answer(status, false);
                self.finish_batch(key, Ending::Lingering)
            }
            Discarded::TooLong => self.after_discard(key, discard.into_then()),
        }
    }

    pub(super) fn after_discard(&mut self, key: usize, then: Then) -> Next {
        let last = self.conns[key].input().is_empty();
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
