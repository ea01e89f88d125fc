//! Filling in the status document, and passing it to whoever connected.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Instant, UNIX_EPOCH};

use mio::{Interest, Token};
use nix::time::{ClockId, clock_gettime};
use rmogstored_worker::scoreboard::DeviceSlot;
use rmogstored_worker::spec::{DeviceKey, WorkerId};
use rmogstored_worker::sys::doors::Closed;

use super::children::Child;
use super::device_health::Trouble;
use super::{FIRST_READER, Supervisor};
use crate::Listening;
use crate::report::service_name;
use crate::report::status::{DeviceStatus, Document, ListenerStatus, VERSION, WorkerStatus};

impl Supervisor {
    pub(super) fn answer_status(&mut self) {
        let Some(mut socket) = self.status.take() else { return };
        self.counters.look(&self.board, Instant::now());
        self.look_at_devices();
        for id in socket.answer(Instant::now(), || self.encoded_status()) {
            let Some(stream) = socket.reader(id) else { continue };
            let token = Token(FIRST_READER + id as usize);
            let asks = socket.is_asking(id);
            let interest = if asks { Interest::READABLE } else { Interest::WRITABLE };
            if let Err(e) = self.register(stream, token, interest) {
                log::warn!("status socket: {e}");
            }
        }
        self.status = Some(socket);
    }

    pub(super) fn resume_reader(&mut self, token: usize) {
        let Some(mut socket) = self.status.take() else { return };
        let id = (token - FIRST_READER) as u64;
        if !socket.is_asking(id) {
            socket.resume(id);
        } else if let Some(line) = socket.heard(id) {
            socket.reply(id, &self.obey_request(&line));
        }
        self.status = Some(socket);
    }

    fn encoded_status(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec(&self.document()).expect("plain fields have a JSON form");
        text.push(b'\n');
        text
    }

    fn document(&self) -> Document {
        let children = self.policy.children().iter();
        let devices = self.board.devices().into_iter().filter(|(key, _)| key.devid != 0);
        Document {
            version: VERSION,
            pid: std::process::id(),
            generation: self.policy.generation(),
            uptime: self.began.elapsed().as_secs_f64(),
            state: self.policy.phase().name().to_owned(),
            upgrade: self.upgrade_status(),
            listeners: self.listening.iter().map(listener_status).collect(),
            totals: self.board.totals(),
            workers: children.map(|(id, child)| self.worker_status(id, child)).collect(),
            devices: devices.map(|(key, slot)| self.device_status(key, slot)).collect(),
        }
    }

    fn worker_status(&self, id: WorkerId, child: &Child) -> WorkerStatus {
        let slot = self.board.worker(id);
        WorkerStatus {
            worker: id.0,
            pid: child.life.pid(),
            state: if self.stuck.contains(&id) { "stuck" } else { child.life.name() }.to_owned(),
            generation: child.generation,
            restarts: slot.restarts.load(Relaxed),
            connections: slot.connections.load(Relaxed),
            requests: slot.requests.load(Relaxed),
            accepted: slot.accepted.load(Relaxed),
            handed_over: slot.handed_over.load(Relaxed),
            bytes_in: slot.bytes_in.load(Relaxed),
            bytes_out: slot.bytes_out.load(Relaxed),
            errors: slot.errors.load(Relaxed),
            wakeups: slot.wakeups.load(Relaxed),
            heartbeat_age_ms: age_ms(slot.heartbeat.load(Relaxed)),
            devices: self.devices_of(id),
            closed: names(slot.closed.load(Relaxed)),
        }
    }

    fn device_status(&self, key: DeviceKey, slot: &DeviceSlot) -> DeviceStatus {
        let usage = slot.usage();
        let (trouble, since) = self.device_health.of(key);
        DeviceStatus {
            device: key.to_string(),
            docroot: self.plan.devices.docroot(key.site).display().to_string(),
            owner: slot.owner().0,
            state: trouble.map_or("ok", Trouble::name).to_owned(),
            since: since
                .and_then(|since| Some(since.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())),
            in_flight: slot.in_flight.load(Relaxed),
            oldest_ms: slot.oldest_ms.load(Relaxed),
            inline_reads: match slot.inline_reads.load(Relaxed) {
                1 => Some(true),
                2 => Some(false),
                _ => None,
            },
            closed: names(slot.closed.load(Relaxed)),
            faults: slot.faults.counts(),
            used_kib: usage.as_ref().map(|usage| usage.used),
            total_kib: usage.as_ref().map(|usage| usage.total),
            busy_percent: slot.busy().map(|busy| f64::from(busy) / 100.0),
        }
    }
}

fn names(closed: u32) -> Vec<String> {
    Closed(closed).names().into_iter().map(str::to_owned).collect()
}

fn listener_status(listening: &Listening) -> ListenerStatus {
    ListenerStatus {
        service: service_name(listening.service).to_owned(),
        address: listening.address.to_string(),
        docroot: listening.docroot.display().to_string(),
    }
}

/// How long ago a moment of CLOCK_MONOTONIC was; 0 stands for never.
pub(super) fn age_ms(moment: u64) -> Option<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?;
    let now = now.tv_sec() as u64 * 1000 + now.tv_nsec() as u64 / 1_000_000;
    (moment != 0).then(|| now.saturating_sub(moment))
}
