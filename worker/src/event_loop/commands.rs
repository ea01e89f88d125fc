//! Lines of the sidechannel: what each asks for, answered at once or by a disk thread.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::disk::device::Device;
use crate::disk::operation::Op;
use crate::disk::path::DevPath;
use crate::event_loop::Worker;
use crate::event_loop::serve::Placed;
use crate::sidechannel::digest::{self, Digest};
use crate::sidechannel::line::{Command, Kind};
use crate::sidechannel::size::{self, Size};
use crate::spec::{DeviceKey, SiteId, WorkerId};

/// What became of a line.
#[derive(Debug)]
pub(super) enum Heard {
    /// Answered into the worker's output.
    Answered,
    /// A disk thread of this worker answers.
    Lend(Arc<Device>, Op),
    /// The device's owner answers.
    Move(WorkerId),
    /// It waits until fsck's earlier digests on its device are done.
    Queue(Arc<Device>, Op),
    /// From now on this connection watches.
    Watch,
    /// The connection ends.
    End,
}

impl Worker {
    /// Does what a line says.
    pub(super) fn do_command(&mut self, key: usize, command: Command<'_>) -> Heard {
        match command {
            Command::Blank => self.say(""),
            Command::Unknown(word) => {
                self.out.extend_from_slice(b"ERROR: unknown command: ");
                self.out.extend_from_slice(word);
                self.say("")
            }
            Command::BadPath => self.say("ERROR: uri invalid (contains ..)"),
            Command::Watch => Heard::Watch,
            Command::Shutdown => {
                self.ask_for_shutdown(key);
                Heard::End
            }
            Command::AioThreads(threads) => {
                if let Some(threads) = threads {
                    self.ask_for_threads(threads);
                }
                self.say("")
            }
            Command::Size(path) => self.size(key, path),
            Command::Digest { kind, path, fsck } => self.digest(key, path, kind, fsck),
        }
    }

    fn say(&mut self, line: &str) -> Heard {
        self.out.extend_from_slice(line.as_bytes());
        self.out.extend_from_slice(b"\r\n");
        Heard::Answered
    }

    fn size(&mut self, key: usize, path: DevPath) -> Heard {
        self.slot.note_path(path.as_str().as_bytes());
        if let Some((_, text)) = self.devices.usage_at_hand(self.conns[key].site(), &path) {
            let (path, len) = (path.as_str(), text.len());
            return self.say(&format!("{path} {len}"));
        }
        let site = self.conns[key].site();
        let cached = match self.devices.has_usage(site, &path) {
            true => None,
            false => self.cached_size(site, &path),
        };
        match cached {
            Some(size) => {
                size::answer(&mut self.out, &path, size);
                Heard::Answered
            }
            None => {
                let device = self.device_of(key, &path);
                self.ask_disk(&device, Box::new(Size::new(path)))
            }
        }
    }

    /// The size, when no disk is needed to know it.
    fn cached_size(&mut self, site: SiteId, path: &DevPath) -> Option<i64> {
        let file = self.open_cached(site, path)?.ok()?;
        let size = file.size() as i64;
        self.close_file(site, path, file);
        Some(size)
    }

    fn digest(&mut self, key: usize, path: DevPath, kind: Kind, fsck: bool) -> Heard {
        self.slot.note_path(path.as_str().as_bytes());
        if let Some((_, text)) = self.devices.usage_at_hand(self.conns[key].site(), &path) {
            let digest = digest::of_bytes(kind, text.as_bytes());
            return self.say(&format!("{} {}={digest}", path.as_str(), kind.name()));
        }
        let device = self.device_of(key, &path);
        let heard = self.ask_disk(&device, Box::new(Digest::new(path, kind, fsck)));
        match heard {
            Heard::Lend(device, op) if fsck => match self.fsck.enter(device.key(), key) {
                true => Heard::Lend(device, op),
                false => Heard::Queue(device, op),
            },
            heard => heard,
        }
    }

    fn ask_disk(&mut self, device: &Arc<Device>, op: Op) -> Heard {
        match self.place(device.key()) {
            Placed::Here => Heard::Lend(Arc::clone(device), op),
            Placed::At(owner) => Heard::Move(owner),
            Placed::Nowhere => self.say_stalled(device.key()),
        }
    }

    /// The device does not answer, or has too much to do.
    pub(super) fn say_stalled(&mut self, device: DeviceKey) -> Heard {
        self.slot.errors.fetch_add(1, Relaxed);
        self.say(&format!("ERR device {} stalled", device.devid))
    }

    /// There is no thread that could ask the device.
    pub(super) fn say_threadless(&mut self, device: DeviceKey) -> Heard {
        self.slot.errors.fetch_add(1, Relaxed);
        self.say(&format!("ERR device {} has no thread", device.devid))
    }

    /// A digest for fsck is done, or its connection has gone: the next one's turn, which it takes
    /// when the connection at hand has been seen to.
    pub(super) fn leave_fsck(&mut self, key: usize) {
        for next in self.fsck.leave(key) {
            self.schedule.queue(next);
        }
    }
}
