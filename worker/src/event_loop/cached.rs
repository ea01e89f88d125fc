//! What the page cache has: files that are answered without their disk, proven to be in memory
//! first. See DESIGN.md, "Where a request runs".

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, LazyLock};

use crate::clients::conn::Sending;
use crate::disk::device::Device;
use crate::disk::device_dir::DeviceDir;
use crate::disk::disk_fd::DiskFd;
use crate::disk::harmless;
use crate::disk::hot_files::{Dropped, Extent, OpenFile};
use crate::disk::path::DevPath;
use crate::disk::work::{Released, Task};
use crate::event_loop::Worker;
use crate::event_loop::serve::Served;
use crate::http::get::{self, Transfer};
use crate::http::head::Request;
use crate::http::status_of;
use crate::spec::SiteId;
use crate::sys::doors::Door;

/// The effective user: whose files mincore(2) speaks the truth about.
static USER: LazyLock<u32> = LazyLock::new(|| nix::unistd::geteuid().as_raw());

/// Files up to this size are read into the answer; larger ones are sent from the page cache.
const SMALL: u64 = 16 * 1024;
/// The same where the loop cannot send from the page cache.
const SMALL_ON_XFS: u64 = 64 * 1024;
/// Files up to this size are sent by the loop when all their pages are there.
const INLINE: u64 = 1024 * 1024;

impl Worker {
    /// Way 1: everything is in memory. `None`: only the disk knows.
    pub(super) fn serve_cached(
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
        (file.owner == *USER || *USER == 0) && file.is_resident(body.offset)
    }

    /// A file that can be opened without its disk, or has been lately. `None`: only the disk knows.
    pub(super) fn open_cached(
        &mut self,
        site: SiteId,
        path: &DevPath,
    ) -> Option<io::Result<Arc<OpenFile>>> {
        let device = path.key(site);
        if !path.is_fid() || !self.may_look(device) {
            return None;
        }
        if let Some(file) = self.files.get(site, path, self.clock.now()) {
            return Some(Ok(file));
        }
        let device = self.devices.get(device);
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
    pub(super) fn dir_for_reading(&mut self, device: &Arc<Device>) -> Option<Arc<DeviceDir>> {
        let Some(dir) = device.dir_at_hand() else {
            if !device.is_shut() {
                self.want_dir(device.key);
            }
            return None;
        };
        self.dirs.note_use(device.key, self.clock.now());
        (dir.traits.inline_reads && dir.is_tried()).then_some(dir)
    }

    fn cached_error(&mut self, error: &io::Error, keep: bool) -> Option<Served> {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => Some(self.answer(status_of(error), keep)),
            // Not cached, no such call, O_NOATIME refused, an absolute link, something to log: a
            // disk thread sees.
            _ => None,
        }
    }

    /// Closes a file that was opened a moment ago: here where that frees nothing, else in a disk
    /// thread.
    pub(super) fn close_file(&mut self, site: SiteId, path: &DevPath, file: Arc<OpenFile>) {
        if let Some(file) = Arc::into_inner(file)
            && let Err(fd) = file.close_fresh()
        {
            self.close_elsewhere(site, path, fd);
        }
    }

    /// The same for a file that has been open for longer: without the device's directory it may be
    /// what keeps the device mounted.
    pub(super) fn close_kept(&mut self, dropped: Dropped) {
        let Dropped { site, path, file } = dropped;
        let Some(file) = Arc::into_inner(file) else { return };
        let held = self.devices.at_hand(path.key(site)).is_some_and(Device::holds_dir);
        let left = if held { file.close_kept() } else { Err(file.into_fd()) };
        if let Err(fd) = left {
            self.close_elsewhere(site, &path, fd);
        }
    }

    /// A file about to be changed or removed is not kept: its blocks are to be free at once.
    pub(super) fn forget_file(&mut self, site: SiteId, path: &DevPath) {
        if let Some(dropped) = self.files.forget(site, path) {
            self.close_kept(dropped);
        }
    }

    /// Closes all files that are kept, for want of descriptors. False: there are none.
    pub(super) fn give_up_files(&mut self) -> bool {
        let kept = self.files.sweep(u64::MAX);
        let any = !kept.is_empty();
        kept.into_iter().for_each(|dropped| self.close_kept(dropped));
        any
    }

    fn close_elsewhere(&mut self, site: SiteId, path: &DevPath, file: DiskFd) {
        let device = self.devices.get(path.key(site));
        self.devices.in_background(&device, Task::Release(Released::File(file)));
    }
}
