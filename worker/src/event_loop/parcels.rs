//! What other workers send: connections, and device directories.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;

use crate::clients::inbox::Parcel;
use crate::disk::disk_fd::DiskFd;
use crate::event_loop::Worker;
use crate::spec::DeviceKey;
use crate::sys::socket;

/// Parcels taken from the inbox before other events get their turn.
const PARCELS: usize = 64;

impl Worker {
    pub(super) fn take_parcels(&mut self) {
        if !self.inbox.is_ready() {
            return;
        }
        for _ in 0..PARCELS {
            match self.inbox.take_next() {
                Some(Ok(parcel)) => self.open_parcel(parcel),
                Some(Err(e)) if e.raw_os_error() == Some(libc::EMFILE) => {
                    // As for a new connection; this one waits where it is.
                    if !self.give_up_files() && !self.make_room() {
                        self.listeners.complain(&e, self.clock.now());
                        self.inbox.wait_for_room();
                    }
                }
                Some(Err(e)) => log::error!("inbox: {e}"),
                None => {
                    self.slot.inbox_pending.store(0, Relaxed);
                    break;
                }
            }
        }
    }

    /// True when the inbox is empty after a last look. Needed before a worker may go.
    pub(super) fn inbox_is_empty(&mut self) -> bool {
        self.inbox.note_arrival();
        self.take_parcels();
        !self.inbox.may_have_more()
    }

    fn open_parcel(&mut self, parcel: Parcel) {
        match parcel {
            Parcel::Connection { socket, service, site, input } => {
                // What came from elsewhere than this node's workers was not counted.
                if self.slot.inbox_pending.load(Relaxed) > 0 {
                    self.slot.inbox_pending.fetch_sub(1, Relaxed);
                }
                if !self.devices.has_site(site) {
                    return log::error!("inbox: a connection to docroot {}, unknown here", site.0);
                }
                if self.is_full() {
                    self.make_room(); // For it, as far as that is possible: it was accepted.
                }
                let peer = socket::peer_address(socket.as_fd());
                self.adopt(socket, peer, service, site, input);
            }
            Parcel::WantDir { device, from } => self.share_dir(device, from),
            Parcel::Dir { device, fd, .. } if !self.knows(device) => {
                fd.into_iter().for_each(DiskFd::close_elsewhere);
            }
            Parcel::Dir { device, fd: None, .. } => self.devices.get(device).shut(),
            Parcel::Dir { device, fd: Some(fd), traits } => {
                self.devices.get(device).adopt_dir(fd, traits);
                self.note_use(device);
            }
        }
    }

    fn knows(&self, device: DeviceKey) -> bool {
        self.devices.has_site(device.site) && self.devices.is_listed(device)
    }
}
