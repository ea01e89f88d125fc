//! Connections in an upgrade: the successor offers its workers' inboxes, the predecessor tells its
//! workers of them. [`crate::succession`] is the way between.

use std::io;

use rmogstored_worker::control::Channel;

use super::Supervisor;
use crate::succession::{self, Offer};

/// Offers in one go.
const MOST: usize = 64;

impl Supervisor {
    /// As a successor: this process's workers take connections over.
    pub(super) fn offer_heirs(&mut self) {
        let Some(predecessor) = &self.kit.predecessor else { return };
        let doors = succession::doors(&self.plan);
        for worker in self.policy.children().with_process() {
            let Some(inbox) = self.links.inbox_of(worker) else { continue };
            let offer = Offer { heir: worker.0.into(), doors: doors.clone() };
            if let Err(e) = predecessor.send(&offer, Some(inbox)) {
                return log::debug!("upgrade: connections do not follow: {e}");
            }
        }
    }

    /// As a predecessor: what the successor has offered.
    pub(super) fn hear_offers(&mut self) {
        for _ in 0..MOST {
            let Some(offers) = self.upgrades.offers() else { return };
            match offers.receive::<Offer>() {
                Ok(Some((offer, Some(inbox)))) => {
                    let routes = succession::routes(&self.plan, &offer.doors);
                    self.links.add_heir(offer.heir, inbox, routes);
                }
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                    log::debug!("upgrade: an offer that is not understood: {e}");
                }
                Ok(Some((_, None))) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Two ends: this process's, and its successor's. Without them connections are closed.
    pub(super) fn succession() -> Option<(Channel, Channel)> {
        Channel::pair().inspect_err(|e| log::warn!("upgrade: connections do not follow: {e}")).ok()
    }
}
