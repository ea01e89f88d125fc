//! Connections on their way to the worker that owns their next device, and what is said when it
//! takes none.

use crate::clients::conn::{Ending, State};
use crate::event_loop::Worker;
use crate::event_loop::advance::Next;
use crate::event_loop::serve::Served;
use crate::http::answer;
use crate::http::head::{self, HeadScan, Parsed};
use crate::http::refuse::Refused;
use crate::sidechannel::line::{self, Command, Line};
use crate::spec::{Service, WorkerId};
use std::io;
use std::sync::atomic::Ordering::Relaxed;

impl Worker {
    /// Sends the connection, with its unread input, to the worker that owns its next device.
    pub(super) fn hand_over(&mut self, key: usize, owner: WorkerId) -> bool {
        let conn = &self.conns[key];
        if !self.neighbours.knows(owner) {
            self.conns[key].enter(State::idle());
            return true; // Retired since it was chosen: served here.
        }
        match self.neighbours.send(owner, &conn.as_passenger(conn.input())) {
            Ok(()) => {
                self.unwatch(&self.conns[key]);
                self.close(key);
                false
            }
            Err(e) => self.keep_unmoved(key, owner, &e),
        }
    }

    /// The owner takes no connection. True: it is served here instead.
    pub(super) fn keep_unmoved(&mut self, key: usize, owner: WorkerId, why: &io::Error) -> bool {
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
        self.neighbours.remove(owner);
        self.conns[key].enter(State::idle());
        true
    }

    /// The owner's inbox is full: the request at the front of the input is answered 503.
    pub(super) fn answer_unmoved(&mut self, key: usize) -> bool {
        if self.conns[key].service() == Service::Mgmt {
            return self.answer_unmoved_line(key);
        }
        let mut input = self.conns[key].take_input();
        let next = match head::parse(&input, &mut HeadScan::default()) {
            Parsed::Complete { request, len } => {
                let trace = self.begin_trace(key, &input[..len], Some(&request));
                self.keep_trace(key, trace);
                input.drain(..len);
                let last = input.is_empty();
                self.conns[key].put_back(input);
                self.slot.requests.fetch_add(1, Relaxed);
                let status = answer::Status::ServiceUnavailable503;
                match self.refuse(key, &request, Refused { status, close: false }, last) {
                    Served::Answered(true) => self.after_batch(key, Next::Again, State::idle()),
                    Served::Discard(discard) => {
                        self.conns[key].enter(State::Discarding(discard));
                        Next::Again
                    }
                    _ => self.finish_batch(key, Ending::Lingering),
                }
            }
            _ => Next::Close,
        };
        self.act(key, next)
    }

    pub(super) fn answer_unmoved_line(&mut self, key: usize) -> bool {
        let mut input = self.conns[key].take_input();
        let next = match line::split(&input) {
            Line::Whole(line, len) => {
                if let Command::Size(path) | Command::Digest { path, .. } = line::parse(line) {
                    let device = path.key(self.conns[key].site());
                    self.say_stalled(device);
                }
                input.drain(..len);
                self.conns[key].put_back(input);
                self.after_batch(key, Next::Again, State::idle())
            }
            _ => Next::Close,
        };
        self.act(key, next)
    }
}
