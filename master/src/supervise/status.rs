//! Filling in the status document, and passing it to whoever connected.

use std::time::{Instant, UNIX_EPOCH};

use mio::{Interest, Token};
use rmogstored_worker::scoreboard::DeviceSlot;
use rmogstored_worker::spec::{DeviceKey, WorkerId};

use super::children::Child;
use super::device_health::Trouble;
use super::{FIRST_READER, Supervisor};
use crate::Listening;
use crate::report::status::{DeviceStatus, Document, ListenerStatus, VERSION, WorkerStatus};
use crate::report::{STATUS_NAME, service_name};

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

    /// How the node is.
    pub(super) fn document(&self) -> Document {
        let children = self.policy.children().iter();
        let devices = self.board.devices().into_iter().filter(|(key, _)| key.devid != 0);
        Document {
            version: VERSION,
            pid: std::process::id(),
            generation: self.policy.generation(),
            uptime: self.began.elapsed().as_secs_f64(),
            state: self.policy.phase().name().to_owned(),
            upgrade: self.upgrade_status(),
            listeners: self.listener_statuses(),
            totals: self.board.totals(),
            workers: children.map(|(id, child)| self.worker_status(id, child)).collect(),
            devices: devices.map(|(key, slot)| self.device_status(key, slot)).collect(),
        }
    }

    fn worker_status(&self, id: WorkerId, child: &Child) -> WorkerStatus {
        let mut status = WorkerStatus {
            worker: id.0,
            pid: child.life.pid(),
            state: if self.stuck.contains(&id) { "stuck" } else { child.life.name() }.to_owned(),
            generation: child.generation,
            devices: self.devices_of(id),
            ..WorkerStatus::default()
        };
        status.count(self.board.worker(id));
        status
    }

    fn device_status(&self, key: DeviceKey, slot: &DeviceSlot) -> DeviceStatus {
        let (trouble, since) = self.device_health.of(key);
        let mut status = DeviceStatus {
            device: key.to_string(),
            docroot: self.plan.devices.docroot(key.site).display().to_string(),
            state: trouble.map_or("ok", Trouble::name).to_owned(),
            since: since
                .and_then(|since| Some(since.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())),
            ..DeviceStatus::default()
        };
        status.measure(slot);
        status
    }

    fn listener_statuses(&self) -> Vec<ListenerStatus> {
        let mut all: Vec<_> = self.listening.iter().map(listener_status).collect();
        all.extend(self.status_listener().map(|status| ListenerStatus {
            service: STATUS_NAME.to_owned(),
            address: status.address.to_string(),
            docroot: String::new(),
        }));
        all
    }
}

fn listener_status(listening: &Listening) -> ListenerStatus {
    ListenerStatus {
        service: service_name(listening.service).to_owned(),
        address: listening.address.to_string(),
        docroot: listening.docroot.display().to_string(),
    }
}
