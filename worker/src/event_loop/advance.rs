//! Moves one connection on until it has to wait, and does what the next step asks for: the one
//! place that acts on what a connection waits for, while draining too.

use crate::clients::conn::{Ending, Read, State};
use crate::clients::timers::Wait;
use crate::disk::device::Device;
use crate::disk::operation::Op;
use crate::event_loop::Worker;
use crate::event_loop::drain::Given;
use crate::spec::{Service, WorkerId};
use nix::sys::socket::{Shutdown, shutdown};
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// What is thrown away of a peer that goes on sending after its last answer.
const MOST_LINGERED: u32 = 2 * 1024 * 1024;

/// What a connection waits for.
pub(super) enum Next {
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
    /// What has no deadline: the disk thread that has it, its turn, the next second.
    Untimed,
}

impl Worker {
    /// Moves a connection on as far as it goes.
    pub(super) fn advance(&mut self, key: usize) {
        loop {
            let Some(conn) = self.conns.get_mut(key) else { return };
            let waiting = conn.unsent();
            let next = match conn.flush() {
                _ if conn.is_lent() => Next::Untimed,
                Err(_) => Next::Close,
                Ok(true) => match self.is_held(key) {
                    true => Next::Untimed,
                    false => self.step(key),
                },
                Ok(false) => {
                    if conn.unsent() < waiting {
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
    pub(super) fn step(&mut self, key: usize) -> Next {
        let conn = &mut self.conns[key];
        if let Some(ending) = conn.ending() {
            return self.end(key, ending);
        }
        match conn.leave_state() {
            State::Reading(scan) => self.read_requests(key, scan),
            State::Discarding(discard) => self.discard(key, discard),
            State::Sending(sending) => self.send_file(key, sending),
            State::Blocked(op, need) => self.resume(key, op, need),
            State::Lingering(left) => self.linger(key, left),
            State::Queued(device, op) => self.wait_for_turn(key, device, op),
            State::Watching => self.ignore_input(key),
            State::Lent(loan) => {
                conn.enter(State::Lent(loan));
                Next::Untimed
            }
            State::Between => Next::Close, // Cannot be: nobody knows what it was in.
        }
    }

    /// Does what the connection needs next. True: it can go on at once.
    pub(super) fn act(&mut self, key: usize, next: Next) -> bool {
        match next {
            Next::Again => return true,
            Next::Untimed => self.timers.stop(key),
            Next::Later => self.schedule.queue(key),
            Next::Close => self.close(key),
            Next::Write if matches!(self.conns[key].state(), State::Watching) => {}
            Next::Write => self.timers.keep(key, Wait::Body, self.clock.now()),
            Next::Read if self.follows(key) => {}
            Next::Read => self.wait_for_input(key),
            Next::Disk(device, op) => return self.lend(key, device, op),
            Next::HandOver(owner) => return self.hand_over(key, owner),
        }
        false
    }

    /// In a drain, as soon as a connection is between two requests, it is with whoever stays.
    fn follows(&mut self, key: usize) -> bool {
        self.drain.is_on()
            && !self.drain.is_crowded()
            && self.conns[key].is_between_requests()
            && self.bequeath(key) == Given::Gone
    }

    pub(super) fn wait_for_input(&mut self, key: usize) {
        let conn = &self.conns[key];
        let lingers = matches!(conn.state(), State::Lingering(_));
        if conn.service() == Service::Mgmt && !lingers && !self.draining_in_line(key) {
            return self.timers.stop(key); // The sidechannel never idles out.
        }
        let wait = match conn.state() {
            State::Lingering(_) => Wait::Linger,
            State::Reading(_) if conn.input().is_empty() => Wait::Idle,
            State::Reading(_) => Wait::Head,
            _ => Wait::Body,
        };
        self.timers.keep(key, wait, self.clock.now());
    }

    /// While draining, half a line is waited for as long as half a head.
    pub(super) fn draining_in_line(&self, key: usize) -> bool {
        self.drain.is_on() && !self.conns[key].input().is_empty()
    }

    /// Closes, now that the last answer is sent.
    pub(super) fn end(&mut self, key: usize, ending: Ending) -> Next {
        let conn = &mut self.conns[key];
        if ending == Ending::Plain && !conn.is_readable() {
            return Next::Close;
        }
        if shutdown(conn.fd().as_raw_fd(), Shutdown::Write).is_err() {
            return Next::Close;
        }
        conn.linger(MOST_LINGERED);
        self.timers.start(key, Wait::Linger, self.clock.now());
        Next::Again
    }

    pub(super) fn linger(&mut self, key: usize, left: u32) -> Next {
        let conn = &mut self.conns[key];
        match conn.read(&mut self.scratch) {
            Read::Some(n) => match left.checked_sub(n as u32) {
                Some(left) => {
                    conn.enter(State::Lingering(left));
                    Next::Later
                }
                None => Next::Close,
            },
            Read::Nothing => {
                conn.enter(State::Lingering(left));
                Next::Read
            }
            Read::End | Read::Broken => Next::Close,
        }
    }

    pub(super) fn after_answer(&mut self, key: usize, keep: bool, ending: Ending) -> Next {
        let conn = &mut self.conns[key];
        conn.enter(State::idle());
        if !keep {
            conn.close_after_output(ending);
        }
        Next::Again
    }

    /// A deadline has passed.
    pub(super) fn time_out(&mut self, key: usize) {
        self.timers.stop(key);
        let Some(conn) = self.conns.get(key) else { return };
        if let State::Blocked(op, _) = conn.state() {
            op.log_vanished(conn.fd(), conn.peer(), "Connection timed out");
        }
        self.close(key);
    }
}
