//! HTTP requests in the loop: what is answered at once, what the page cache can serve, what a disk
//! thread must do and where. See DESIGN.md, "Where a request runs".

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::clients::conn::{Discard, Left, Sending, Then};
use crate::clock::HttpDate;
use crate::disk::device::Device;
use crate::disk::device_dir::DeviceDir;
use crate::disk::disk_fd::DiskFd;
use crate::disk::hot_files::Extent;
use crate::disk::hot_files::{Dropped, OpenFile};
use crate::disk::mounted::Guard;
use crate::disk::operation::Op;
use crate::disk::path::DevPath;
use crate::disk::work::{Released, Task, Work};
use crate::disk::{errands, harmless};
use crate::event_loop::Worker;
use crate::http::answer::{self, Status};
use crate::http::chunked::Chunked;
use crate::http::delete::Delete;
use crate::http::get::{self, Get, Transfer};
use crate::http::head::{Body, Method, Request, Target};
use crate::http::put::Put;
use crate::http::refuse::{self, MOST_DISCARDED, Refused, Unwanted};
use crate::http::status_of;
use crate::scoreboard::{DeviceState, Usage, WorkerState};
use crate::spec::{DeviceKey, SiteId, WorkerId};
use crate::sys::doors::Door;

/// Files up to this size are read into the answer; larger ones are sent from the page cache.
const SMALL: u64 = 16 * 1024;
/// The same where the loop cannot send from the page cache.
const SMALL_ON_XFS: u64 = 64 * 1024;
/// Files up to this size are sent by the loop when all their pages are there.
const INLINE: u64 = 1024 * 1024;

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Served {
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
pub(crate) enum Placed {
    Here,
    At(WorkerId),
    Nowhere,
}

impl Worker {
    /// Serves a request whose head has been read. `input` is what follows the head.
    pub(crate) fn serve(&mut self, key: usize, request: &Request, input: &[u8]) -> Served {
        if let Target::Path(path) = &request.target {
            self.slot.note_path(path.as_str().as_bytes());
        }
        let service = self.conns[key].service;
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
                    discard(unwanted, then)
                }
            },
        }
    }

    /// A request without a body, or whose body is out of the way.
    pub(crate) fn serve_bodiless(&mut self, key: usize, request: &Request, last: bool) -> Served {
        let keep = self.may_keep(key, request.keep_alive, last);
        let Target::Path(path) = request.target else {
            answer::file(&mut self.out, self.clock.date(), &HttpDate::EPOCH, 0, keep);
            return Served::Answered(keep);
        };
        if request.method != Method::Delete
            && let Some((usage, text)) = self.usage_at_hand(self.conns[key].site, &path)
        {
            get::answer_usage(&mut self.out, request, &usage, &text, self.clock.date(), keep);
            return Served::Answered(keep);
        }
        let site = self.conns[key].site;
        if self.has_usage(site, &path) && !self.may_ask_for_usage(Device::key_of(site, &path)) {
            return self.answer(Status::ServiceUnavailable503, keep);
        }
        if request.method == Method::Delete {
            self.forget_file(site, &path);
            let device = self.device_of(key, &path);
            let (keep_alive, conditions) = (request.keep_alive, request.conditions);
            let op = Box::new(Delete { path, keep: keep_alive, conditions });
            return self.on_disk(&device, op, keep);
        }
        if !self.has_usage(site, &path)
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
        self.forget_file(device.key.site, &path);
        match self.place(device.key) {
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
    pub(crate) fn refuse(
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
                discard(unwanted, Then::Answer(refused.status, keep))
            }
            _ => {
                self.answer(refused.status, false);
                Served::Refused
            }
        }
    }

    /// Appends an answer without a body.
    pub(crate) fn answer(&mut self, status: Status, keep: bool) -> Served {
        if status.code() >= 500 {
            self.slot.errors.fetch_add(1, Relaxed);
        }
        answer::empty(&mut self.out, status, self.clock.date(), keep);
        Served::Answered(keep)
    }

    /// Not while draining, unless more was asked already.
    pub(crate) fn may_keep(&self, key: usize, keep: bool, last: bool) -> bool {
        keep && (!last || self.context.host.may_keep(self.conns[key].fd()))
    }

    /// Does an operation where its device's disk threads are.
    fn on_disk(&mut self, device: &Arc<Device>, op: Op, keep: bool) -> Served {
        match self.place(device.key) {
            Placed::Here => Served::Lend(Arc::clone(device), op),
            Placed::At(owner) => Served::Move(owner),
            Placed::Nowhere => self.answer(Status::ServiceUnavailable503, keep),
        }
    }

    pub(crate) fn place(&self, device: DeviceKey) -> Placed {
        if self.board.device(device).is_some_and(|s| s.state() == DeviceState::Stalled) {
            return Placed::Nowhere;
        }
        let owner = self.owner(device);
        let here = owner == self.id
            || self.context.host.draining.load(Relaxed)
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
        match self.place(Device::key_of(self.conns[key].site, path)) {
            Placed::At(owner) => Some(owner),
            Placed::Here | Placed::Nowhere => None,
        }
    }

    /// A device that the master has not listed belongs to whoever owns the docroot.
    pub(crate) fn owner(&self, device: DeviceKey) -> WorkerId {
        let docroot = DeviceKey { devid: 0, ..device };
        let there = |key| self.board.device(key).filter(|s| s.state() != DeviceState::Absent);
        let slot = there(device).or_else(|| there(docroot));
        slot.map_or(self.id, |slot| slot.owner())
    }

    /// The device that a path is on, as this worker sees it.
    pub(crate) fn device_of(&mut self, key: usize, path: &DevPath) -> Arc<Device> {
        let device = Device::key_of(self.conns[key].site, path);
        self.device(device)
    }

    /// One that the master has not listed is not remembered: peers may name sixteen million.
    pub(crate) fn device(&mut self, key: DeviceKey) -> Arc<Device> {
        if let Some(device) = self.devices.get(&key) {
            return Arc::clone(device);
        }
        let site = &self.sites[usize::from(key.site.0)];
        let guard = Guard::new(self.board.device(key), site.require_mount);
        let device = Arc::new(Device::new(key, &site.docroot, site.usage).guarded(guard));
        if self.is_listed(key) {
            self.devices.insert(key, Arc::clone(&device));
        }
        device
    }

    /// Whether the master has seen the device's folder.
    pub(crate) fn is_listed(&self, key: DeviceKey) -> bool {
        self.board.device(key).is_some_and(|slot| slot.state() != DeviceState::Absent)
    }

    /// Way 1: everything is in memory. `None`: only the disk knows.
    fn serve_cached(
        &mut self,
        site: SiteId,
        path: &DevPath,
        request: &Request,
        keep: bool,
    ) -> Option<Served> {
        let file = match self.open_cached(site, path)? {
            Ok(file) => file,
            Err(e) => return self.cached_error(&e, keep),
        };
        let start = self.out.len();
        let planned = get::plan(&mut self.out, request, file.described(), self.clock.date(), keep);
        let served = match planned {
            Err(status) => Some(self.answer(status, keep)),
            Ok(None) => Some(Served::Answered(keep)),
            Ok(Some(body)) if self.append(&file, body) => {
                self.slot.bytes_out.fetch_add(body.len, Relaxed);
                Some(Served::Answered(keep))
            }
            Ok(Some(body)) if self.is_sendable(&file, body) => {
                let transfer = Transfer::new(file, *path, body, keep, Vec::new());
                let sending = Sending { transfer, request: *request, waits: false };
                return Some(Served::Send(Box::new(sending)));
            }
            Ok(Some(_)) => None,
        };
        if served.is_none() {
            self.out.truncate(start);
        }
        self.close_file(site, path, file);
        served
    }

    /// Appends a part of a file to the answer, if it is in memory. What is kept is remembered.
    fn append(&mut self, file: &Arc<OpenFile>, body: Extent) -> bool {
        if let Some(content) = file.remembered(body) {
            self.out.extend_from_slice(content);
            return true;
        }
        let (start, len) = (self.out.len(), body.len as usize);
        let read = self.is_readable(file, body)
            && file.read_cached(&mut self.out, len, body.offset).ok() == Some(len);
        match read {
            true if Arc::strong_count(file) > 1 => file.remember(&self.out[start..]),
            true => {}
            false => self.out.truncate(start),
        }
        read
    }

    /// Whether the loop may read a part of a file into the answer: all of the file from there on
    /// is in the page cache.
    fn is_readable(&self, file: &OpenFile, body: Extent) -> bool {
        let most = if file.sends_unlocked { SMALL } else { SMALL_ON_XFS };
        let rest = file.facts.size - body.offset;
        body.len <= most
            && rest <= INLINE
            && Door::Preadv2.is_open()
            && file.is_cached(body.offset).unwrap_or_else(|| self.is_told(file, body))
    }

    /// Whether the loop may send a part of a file.
    fn is_sendable(&self, file: &OpenFile, body: Extent) -> bool {
        let rest = file.facts.size - body.offset;
        file.sends_unlocked && rest <= INLINE && self.is_told(file, body)
    }

    /// All pages from there on are resident, and mincore(2) tells the truth about it.
    fn is_told(&self, file: &OpenFile, body: Extent) -> bool {
        (file.owner == self.user || self.user == 0) && file.is_resident(body.offset)
    }

    /// Whether anything of a device may be looked for in the loop: not while its disk may be
    /// hanging, whatever is in memory.
    pub(crate) fn may_look(&self, device: DeviceKey) -> bool {
        self.board.device(device).is_some_and(|slot| {
            slot.state() == DeviceState::Ok && !slot.is_suspect(self.clock.monotonic())
        })
    }

    /// A file that can be opened without its disk, or has been lately. `None`: only the disk knows.
    pub(crate) fn open_cached(
        &mut self,
        site: SiteId,
        path: &DevPath,
    ) -> Option<std::io::Result<Arc<OpenFile>>> {
        let device = Device::key_of(site, path);
        if !path.is_fid() || !self.may_look(device) {
            return None;
        }
        if let Some(file) = self.files.get(site, path, self.clock.now()) {
            return Some(Ok(file));
        }
        let device = self.device(device);
        let dir = self.dir_for_reading(&device)?;
        let mark = self.board.device(device.key).map(|slot| slot.mark(path.name_hash()));
        let fd = match harmless::open_cached(&dir, path.relative()) {
            Ok(fd) => fd,
            Err(e) => return Some(Err(e)),
        };
        let Ok(stat) = harmless::stat(&fd) else {
            fd.close_elsewhere();
            return None;
        };
        let sends_unlocked = dir.traits.sends_unlocked;
        let file = Arc::new(OpenFile::new(fd, &stat, mark, sends_unlocked));
        if let Some(dropped) = self.files.keep(site, path, &file, self.clock.now()) {
            self.close_kept(dropped);
        }
        self.next_tick_soon();
        Some(Ok(file))
    }

    /// The device's directory, where files may be looked up without waiting for a disk.
    pub(crate) fn dir_for_reading(&mut self, device: &Arc<Device>) -> Option<Arc<DeviceDir>> {
        let Some(dir) = device.dir_at_hand() else {
            if !device.is_shut() {
                self.want_dir(device.key);
            }
            return None;
        };
        self.used.insert(device.key, self.clock.now());
        (dir.traits.inline_reads && dir.is_tried()).then_some(dir)
    }

    /// The usage file's content, if the path names one and its device can be trusted to answer.
    fn usage_at_hand(&self, site: SiteId, path: &DevPath) -> Option<(Usage, String)> {
        if !self.has_usage(site, path) {
            return None;
        }
        let key = Device::key_of(site, path);
        let slot = self.board.device(key).filter(|slot| slot.state() == DeviceState::Ok)?;
        let usage = slot.usage()?;
        let disk = self.sites[usize::from(site.0)].docroot.join(key.to_string());
        let text = usage.text(&disk);
        Some((usage, text))
    }

    /// Without numbers the disk is asked, if it may be expected to answer at once.
    fn may_ask_for_usage(&self, device: DeviceKey) -> bool {
        !self.is_listed(device) || self.may_look(device)
    }

    /// Whether a path names a usage file that is answered from memory or, with its device stalled,
    /// not at all: never from the page cache.
    pub(crate) fn has_usage(&self, site: SiteId, path: &DevPath) -> bool {
        path.is_usage() && self.sites[usize::from(site.0)].usage
    }

    /// The usage file's content, as the sidechannel sees it.
    pub(crate) fn usage_text(&self, site: SiteId, path: &DevPath) -> Option<String> {
        self.usage_at_hand(site, path).map(|(_, text)| text)
    }

    fn cached_error(&mut self, error: &std::io::Error, keep: bool) -> Option<Served> {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => Some(self.answer(status_of(error), keep)),
            // Not cached, no such call, O_NOATIME refused, an absolute link, something to log: a
            // disk thread sees.
            _ => None,
        }
    }

    /// Closes a file that was opened a moment ago: here where that frees nothing, else in a disk
    /// thread.
    pub(crate) fn close_file(&mut self, site: SiteId, path: &DevPath, file: Arc<OpenFile>) {
        if let Some(file) = Arc::into_inner(file)
            && let Err(fd) = file.close_fresh()
        {
            self.close_elsewhere(site, path, fd);
        }
    }

    /// The same for a file that has been open for longer: without the device's directory it may be
    /// what keeps the device mounted.
    pub(crate) fn close_kept(&mut self, dropped: Dropped) {
        let Dropped { site, path, file } = dropped;
        let Some(file) = Arc::into_inner(file) else { return };
        let held = self.devices.get(&Device::key_of(site, &path)).is_some_and(|d| d.holds_dir());
        let left = if held { file.close_kept() } else { Err(file.into_fd()) };
        if let Err(fd) = left {
            self.close_elsewhere(site, &path, fd);
        }
    }

    /// A file about to be changed or removed is not kept: its blocks are to be free at once.
    fn forget_file(&mut self, site: SiteId, path: &DevPath) {
        if let Some(dropped) = self.files.forget(site, path) {
            self.close_kept(dropped);
        }
    }

    /// Closes all files that are kept, for want of descriptors. False: there are none.
    pub(crate) fn give_up_files(&mut self) -> bool {
        let kept = self.files.sweep(u64::MAX);
        let any = !kept.is_empty();
        kept.into_iter().for_each(|dropped| self.close_kept(dropped));
        any
    }

    fn close_elsewhere(&mut self, site: SiteId, path: &DevPath, file: DiskFd) {
        let device = self.device(Device::key_of(site, path));
        self.in_background(&device, Task::Release(Released::File(file)));
    }

    /// Has a disk thread do something that no connection waits for.
    pub(crate) fn in_background(&mut self, device: &Arc<Device>, task: Task) {
        let work = Work::in_background(Arc::clone(device), Arc::clone(&self.context), task);
        // Never refused for the queue's length. Without threads it is not done: not here.
        if let Err((work, _)) = self.pool(device).submit(work, usize::MAX) {
            errands::run(move |_| drop(work));
        }
    }

    /// Without the device's directory nothing can be read inline: the owner's disk thread opens it,
    /// others ask the owner for a copy. Once a second at most.
    fn want_dir(&mut self, key: DeviceKey) {
        let recent =
            self.wanted.get(&key).is_some_and(|&at| self.clock.now().saturating_sub(at) < 1000);
        if recent || !self.is_listed(key) {
            return;
        }
        let owner = self.owner(key);
        if owner == self.id {
            return; // The request itself goes to a disk thread, which opens it.
        }
        self.wanted.insert(key, self.clock.now());
        self.neighbours.ask_for_dir(owner, key);
    }
}

impl Device {
    /// The device that a path of a docroot is on.
    pub(crate) fn key_of(site: SiteId, path: &DevPath) -> DeviceKey {
        DeviceKey { site, devid: path.device().map_or(0, |device| device.get()) }
    }
}

fn discard(unwanted: Unwanted, then: Then) -> Served {
    let left = match unwanted {
        Unwanted::Length(length) => Left::Length(length),
        _ => Left::Chunked(Box::new(Chunked::new()), MOST_DISCARDED, 2 * MOST_DISCARDED),
    };
    Served::Discard(Box::new(Discard { left, then }))
}
