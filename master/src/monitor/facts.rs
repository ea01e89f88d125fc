//! What the monitor knows: the master's last word, and the numbers of this moment, which it reads
//! from the scoreboard itself.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use nix::unistd::gethostname;
use rmogstored_worker::scoreboard::{Scoreboard, Totals};
use rmogstored_worker::spec::{DeviceKey, SiteId, WorkerId};
use serde::Serialize;
use serde_json::Value;

use super::news::{News, Status};
use crate::report::events::{REMEMBERED, timestamp};
use crate::report::live::monotonic_ms;
use crate::report::status::{DeviceStatus, Document};
use crate::supervise::counters::Counters;
use crate::supervise::device_health::{Facts as DeviceFacts, Trouble};

/// All that it knows.
#[derive(Debug)]
pub(super) struct Facts {
    board: Scoreboard,
    counters: Counters,
    status: Option<Status>,
    /// When the master spoke last.
    heard: Instant,
    /// When the node started, by the master's last word.
    started: SystemTime,
    events: VecDeque<Value>,
}

/// The status document with what the monitor adds.
#[derive(Serialize)]
struct Page<'a> {
    #[serde(flatten)]
    document: Document,
    /// What the host calls itself.
    host: String,
    /// The version of what runs.
    software: &'static str,
    /// When this was written, as in RFC 3339.
    time: String,
    events: &'a VecDeque<Value>,
}

impl Facts {
    /// Before the master's first word.
    pub fn new(board: Scoreboard, counters: Counters) -> Facts {
        let (heard, started) = (Instant::now(), SystemTime::now());
        Facts { board, counters, status: None, heard, started, events: VecDeque::new() }
    }

    /// Something new. An event is given back: others wait for it.
    pub fn hear(&mut self, news: News) -> Option<&Value> {
        self.heard = Instant::now();
        match news {
            News::Status(status) => {
                let uptime = Duration::try_from_secs_f64(status.document.uptime);
                let started = SystemTime::now().checked_sub(uptime.unwrap_or_default());
                self.started = started.unwrap_or(self.started);
                self.status = Some(*status);
                None
            }
            News::Event(event) => {
                if self.events.len() == REMEMBERED {
                    self.events.pop_front();
                }
                self.events.push_back(event);
                self.events.back()
            }
        }
    }

    /// Somebody asks how the node is: the load of the disks is measured while that goes on.
    pub fn note_look(&self) {
        if let Some(now) = monotonic_ms() {
            self.board.note_look(now);
        }
    }

    /// The numbers that all processes share.
    pub fn board(&self) -> &Scoreboard {
        &self.board
    }

    /// What the node has done until now.
    pub fn totals(&self) -> Totals {
        self.counters.totals(&self.board)
    }

    /// What the master said last, as it said it.
    pub fn said(&self) -> Option<&Document> {
        self.status.as_ref().map(|status| &status.document)
    }

    /// How long ago that was.
    pub fn silence(&self) -> Duration {
        self.heard.elapsed()
    }

    /// When the node started.
    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// A docroot by its number.
    pub fn docroot(&self, site: SiteId) -> &str {
        let docroots = self.status.as_ref().map(|status| status.docroots.as_slice());
        docroots.and_then(|all| all.get(usize::from(site.0))).map_or("", String::as_str)
    }

    /// What is wrong with a device now, the worst first.
    pub fn troubles(&self, key: DeviceKey) -> Vec<Trouble> {
        let slot = self.board.device(key);
        let facts = slot.map(|slot| DeviceFacts::of(&self.board, slot)).unwrap_or_default();
        facts.troubles(facts.failed_before)
    }

    /// The status document, with the numbers of this moment, in one line of JSON. `None`: the
    /// master has said nothing yet.
    pub fn status_json(&self) -> Option<String> {
        let page = Page {
            document: self.document()?,
            host: gethostname().unwrap_or_default().to_string_lossy().into_owned(),
            software: env!("CARGO_PKG_VERSION"),
            time: timestamp(),
            events: &self.events,
        };
        serde_json::to_string(&page).ok()
    }

    /// Why the node is not ready to serve; empty when it is.
    pub fn reasons(&self) -> Vec<String> {
        let Some(document) = self.document() else {
            return vec!["the master has not said anything yet".to_owned()];
        };
        let mut reasons = Vec::new();
        if document.state != "running" {
            reasons.push(format!("the node is {}", document.state));
        }
        if document.devices.is_empty() {
            reasons.push("there is no device".to_owned());
        } else if document.devices.iter().all(|device| device.state != "ok") {
            let told = document.devices.iter().map(|d| format!("{} is {}", d.device, d.state));
            reasons.push(format!("no device is ok: {}", told.collect::<Vec<_>>().join(", ")));
        }
        reasons
    }

    /// The master's document, with the numbers of this moment.
    fn document(&self) -> Option<Document> {
        let Status { document, docroots } = self.status.as_ref()?;
        let mut document = document.clone();
        document.totals = self.totals();
        document.uptime = self.started.elapsed().unwrap_or_default().as_secs_f64();
        for worker in &mut document.workers {
            worker.count(self.board.worker(WorkerId(worker.worker)));
        }
        for device in &mut document.devices {
            self.update(device, docroots);
        }
        Some(document)
    }

    fn update(&self, device: &mut DeviceStatus, docroots: &[String]) {
        let devid = device.device.strip_prefix("dev").and_then(|devid| devid.parse().ok());
        let site = docroots.iter().position(|docroot| *docroot == device.docroot);
        let (Some(devid), Some(site)) = (devid, site) else { return };
        let key = DeviceKey { site: SiteId(site as u8), devid };
        let Some(slot) = self.board.device(key) else { return };
        device.measure(slot);
        let state = self.troubles(key).first().map_or("ok", |trouble| trouble.name());
        if device.state != state {
            // The master will say since when.
            (device.state, device.since) = (state.to_owned(), None);
        }
    }
}
