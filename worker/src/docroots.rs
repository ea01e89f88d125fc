//! The docroots of a worker: listed by their names, every two seconds and when one has changed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::control::Up;
use crate::disk::device::Device;
use crate::disk::docroot_watch::DocrootWatch;
use crate::event_loop::Worker;
use crate::exchange::Op;
use crate::spec::{DeviceKey, SiteId};

/// How often docroots are listed, whether or not something is known to have changed.
const LIST_MS: u64 = 2000;

impl Worker {
    /// Has a thread list each docroot of this worker. The master, which may not wait, hears of it.
    pub(crate) fn list_docroots(&mut self) {
        let hinted = self.docroots.values().any(DocrootWatch::is_hinted);
        let due = hinted || self.listed == 0 || self.now.saturating_sub(self.listed) >= LIST_MS;
        if !due || self.drain.is_some() {
            return;
        }
        self.listed = self.now.max(1);
        for site in 0..self.sites.len() as u8 {
            let key = DeviceKey { site: SiteId(site), devid: 0 };
            let owned = self.board.device(key).is_some_and(|slot| slot.owner() == self.id);
            let device = self.device(key);
            if !owned || !self.is_listed(key) {
                self.docroots.remove(&key.site); // Its new owner watches it.
                continue;
            }
            // A hint that comes while a listing is under way is good for the next one.
            if !device.looking.swap(true, Relaxed) {
                self.watch_docroot(&device).take();
                self.in_background(&device, Op::List);
            }
        }
    }

    /// The loop was woken, for a change of a docroot perhaps.
    pub(crate) fn heed_hints(&mut self) {
        if self.docroots.values().any(DocrootWatch::is_hinted) {
            self.list_docroots();
        }
    }

    fn watch_docroot(&mut self, device: &Device) -> &DocrootWatch {
        let context = &self.context;
        self.docroots.entry(device.key.site).or_insert_with(|| {
            let context = Arc::clone(context);
            DocrootWatch::start(device.path(), move || context.completions.wake())
        })
    }

    /// Tells the master of a docroot's devices, if that is news.
    pub(crate) fn tell_devices(&mut self, site: SiteId, devids: BTreeSet<u32>) {
        if self.told.get(&site) == Some(&devids) {
            return;
        }
        let message = Up::Devices { site: site.0, devids: devids.clone() };
        match self.control.send(&message, None) {
            Ok(()) => drop(self.told.insert(site, devids)),
            Err(e) => log::debug!("control channel: {e}"), // Told with the next look.
        }
    }
}
