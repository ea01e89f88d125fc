//! The docroots of a worker: listed by their names, every two seconds and when one has changed.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Token};

use crate::control::Up;
use crate::disk::docroot_watch::DocrootWatch;
use crate::disk::errands;
use crate::disk::work::list_docroot;
use crate::event_loop::{DOCROOTS, Worker};
use crate::spec::{DeviceKey, SiteId};

impl Worker {
    /// Has a thread list each docroot of this worker. The master, which may not wait, hears of it.
    pub(super) fn list_docroots(&mut self) {
        if self.drain.is_on() || !self.listings.are_due(self.clock.now()) {
            return;
        }
        for site in 0..self.devices.sites().len() as u8 {
            let key = DeviceKey { site: SiteId(site), devid: 0 };
            let owned = self.board.device(key).is_some_and(|slot| slot.owner() == self.id);
            if !owned || !self.devices.is_listed(key) {
                continue;
            }
            let device = self.devices.get(key);
            if device.looking.swap(true, Relaxed) {
                // It may have been read before it changed: again with the next tick.
                self.listings.are_outdated();
                self.next_tick_soon();
                continue;
            }
            self.watch_docroots();
            // Not in a disk thread, which would stay for longer than until the next time.
            let context = Arc::clone(&self.context);
            errands::run(move |on| list_docroot(on, &device, &context));
        }
    }

    /// A docroot has changed: it is listed now, or at the next tick if that is being done.
    pub(super) fn heed_docroots(&mut self) {
        if self.context.docroots.get().is_some_and(DocrootWatch::take) {
            self.listings.are_outdated();
            self.list_docroots();
        }
    }

    /// Once this worker owns a docroot: users may have few of what this takes.
    fn watch_docroots(&self) {
        self.context.docroots.get_or_init(|| {
            let watch = DocrootWatch::start();
            if let Some(fd) = watch.fd().map(|fd| fd.as_raw_fd()) {
                let registry = self.poll.registry();
                let told = SourceFd(&fd).register(registry, Token(DOCROOTS), Interest::READABLE);
                told.unwrap_or_else(|e| log::debug!("docroots: {e}"));
            }
            watch
        });
    }

    /// Tells the master of a docroot's devices, if that is news.
    pub(super) fn tell_devices(&mut self, site: SiteId, devids: BTreeSet<u32>) {
        if !self.listings.is_news(site, &devids) {
            return;
        }
        let message = Up::Devices { site: site.0, devids: devids.clone() };
        match self.control.send(&message, None) {
            Ok(()) => self.listings.note_told(site, devids),
            Err(e) => log::debug!("control channel: {e}"), // Told with the next look.
        }
    }
}
