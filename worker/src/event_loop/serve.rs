//! HTTP requests in the loop: what is answered at once, what the page cache can serve, what a disk
//! thread must do and where. See DESIGN.md, "Where a request runs".

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::clock::HttpDate;
use crate::disk::device::Device;
use crate::disk::operation::Op;
use crate::disk::path::DevPath;
use crate::event_loop::Worker;
use crate::http::answer::{self, Status};
use crate::http::delete::Delete;
use crate::http::discard::{Discard, Then};
use crate::http::get::{self, Get};
use crate::http::head::{Body, Method, Request, Target};
use crate::http::put::Put;
use crate::http::refuse::{self, Refused, Unwanted};
use crate::http::transfer::Sending;
use crate::scoreboard::{DeviceState, WorkerState};
use crate::spec::{DeviceKey, WorkerId};

/// What became of a request.
#[derive(Debug)]
pub(super) enum Served {
    /// Answered into the worker's output; the connection lives on or not.
    Answered(bool),
    /// Answered; the connection closes, and the peer may still be sending.
    Refused,
    /// A body is to be thrown away first.
    Discard(Box<Discard>),
    /// The loop sends a file.
    Send(Box<Sending>),
    /// A disk thread of this worker does it.
    Lend(Arc<Device>, Op),
    /// The device's owner does it.
    Move(WorkerId),
}

/// Where an operation on a device runs.
pub(super) enum Placed {
    Here,
    At(WorkerId),
    Nowhere,
}

impl Worker {
    /// Serves a request whose head has been read. `input` is what follows the head.
    pub(super) fn serve(&mut self, key: usize, request: &Request, input: &[u8]) -> Served {
        if let Target::Path(path) = &request.target {
            self.slot.note_path(path.as_str().as_bytes());
        }
        let service = self.conns[key].service();
        if let Some(refused) = refuse::refusal(request, service) {
            return self.refuse(key, request, refused, input.is_empty());
        }
        if request.method == Method::Put {
            return self.serve_put(key, request, input);
        }
        match refuse::unwanted(request, false) {
            Unwanted::Nothing => self.serve_bodiless(key, request, input.is_empty()),
            Unwanted::Close => {
                let request = Request { keep_alive: false, body: Body::None, ..*request };
                self.serve_bodiless(key, &request, input.is_empty())
            }
            unwanted => match self.must_move(key, request) {
                Some(owner) => Served::Move(owner),
                None => {
                    let then = Then::Serve(Box::new(Request { body: Body::None, ..*request }));
                    Served::Discard(Box::new(Discard::new(unwanted, then)))
                }
            },
        }
    }

    /// A request without a body, or whose body is out of the way.
    pub(super) fn serve_bodiless(&mut self, key: usize, request: &Request, last: bool) -> Served {
        let keep = self.may_keep(key, request.keep_alive, last);
        let Target::Path(path) = request.target else {
            answer::file(&mut self.out, self.clock.date(), &HttpDate::EPOCH, 0, keep);
            return Served::Answered(keep);
        };
        if request.method != Method::Delete
            && let Some((usage, text)) = self.devices.usage_at_hand(self.conns[key].site(), &path)
        {
            get::answer_usage(&mut self.out, request, &usage, &text, self.clock.date(), keep);
            return Served::Answered(keep);
        }
        let site = self.conns[key].site();
        if self.devices.has_usage(site, &path) && !self.may_ask_for_usage(path.key(site)) {
            return self.answer(Status::ServiceUnavailable503, keep);
        }
        if request.method == Method::Delete {
            self.forget_file(site, &path);
            let device = self.device_of(key, &path);
            let (keep_alive, conditions) = (request.keep_alive, request.conditions);
            let op = Box::new(Delete::new(path, keep_alive, conditions));
            return self.on_disk(&device, op, keep);
        }
        if !self.devices.has_usage(site, &path)
            && let Some(served) = self.serve_cached(site, &path, request, keep)
        {
            return served;
        }
        let device = self.device_of(key, &path);
        let get = Get::new(path, *request, request.keep_alive);
        self.on_disk(&device, Box::new(get), keep)
    }

    fn serve_put(&mut self, key: usize, request: &Request, input: &[u8]) -> Served {
        let Target::Path(path) = request.target else {
            return self.answer(Status::BadRequest400, false);
        };
        let device = self.device_of(key, &path);
        self.forget_file(device.key().site, &path);
        match self.place(device.key()) {
            Placed::Here => {
                let put = Put::new(path, *request, input.to_vec());
                Served::Lend(device, Box::new(put))
            }
            Placed::At(owner) => Served::Move(owner),
            Placed::Nowhere => {
                let refused = Refused { status: Status::ServiceUnavailable503, close: false };
                self.refuse(key, request, refused, input.is_empty())
            }
        }
    }

    /// Answers a refused request, after its body has been thrown away if that can be done.
    pub(super) fn refuse(
        &mut self,
        key: usize,
        request: &Request,
        refused: Refused,
        last: bool,
    ) -> Served {
        let keep = request.keep_alive && !refused.close;
        match refuse::unwanted(request, request.method == Method::Put) {
            Unwanted::Nothing => {
                let keep = self.may_keep(key, keep, last);
                self.answer(refused.status, keep)
            }
            unwanted if keep && unwanted != Unwanted::Close => {
                let then = Then::Answer(refused.status, keep);
                Served::Discard(Box::new(Discard::new(unwanted, then)))
            }
            _ => {
                self.answer(refused.status, false);
                Served::Refused
            }
        }
    }

    /// Appends an answer without a body.
    pub(super) fn answer(&mut self, status: Status, keep: bool) -> Served {
        if status.code() >= 500 {
            self.slot.errors.fetch_add(1, Relaxed);
        }
        answer::empty(&mut self.out, status, self.clock.date(), keep);
        Served::Answered(keep)
    }

    /// Not where it does not live on in a drain, unless more was asked already.
    pub(super) fn may_keep(&self, key: usize, keep: bool, last: bool) -> bool {
        keep && (!last || self.context.host().may_keep(self.conns[key].fd()))
    }

    /// Does an operation where its device's disk threads are.
    fn on_disk(&mut self, device: &Arc<Device>, op: Op, keep: bool) -> Served {
        match self.place(device.key()) {
            Placed::Here => Served::Lend(Arc::clone(device), op),
            Placed::At(owner) => Served::Move(owner),
            Placed::Nowhere => self.answer(Status::ServiceUnavailable503, keep),
        }
    }

    pub(super) fn place(&self, device: DeviceKey) -> Placed {
        if self.board.device(device).is_some_and(|s| s.state() == DeviceState::Stalled) {
            return Placed::Nowhere;
        }
        let owner = self.devices.owner(device);
        let here = owner == self.id
            || self.drain.is_on()
            || self.board.draining()
            || self.board.worker(owner).state() == WorkerState::Draining
            || !self.neighbours.knows(owner);
        match here {
            true => Placed::Here,
            false => {
                let (limit, now) = (self.settings.stall_timeout, self.clock.monotonic());
                match self.neighbours.is_stuck(owner, limit, now) {
                    true => Placed::Nowhere,
                    false => Placed::At(owner),
                }
            }
        }
    }

    /// The owner, where a body must be moved before it is thrown away.
    fn must_move(&self, key: usize, request: &Request) -> Option<WorkerId> {
        let Target::Path(path) = &request.target else { return None };
        match self.place(path.key(self.conns[key].site())) {
            Placed::At(owner) => Some(owner),
            Placed::Here | Placed::Nowhere => None,
        }
    }

    /// The device that a path is on, as this worker sees it.
    pub(super) fn device_of(&mut self, key: usize, path: &DevPath) -> Arc<Device> {
        self.devices.get(path.key(self.conns[key].site()))
    }

    /// Without numbers the disk is asked, if it may be expected to answer at once.
    fn may_ask_for_usage(&self, device: DeviceKey) -> bool {
        !self.devices.is_listed(device) || self.may_look(device)
    }

    /// Whether anything of a device may be looked for in the loop.
    pub(super) fn may_look(&self, device: DeviceKey) -> bool {
        self.devices.may_look(device, self.clock.monotonic())
    }
}
