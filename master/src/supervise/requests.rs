//! Doing what was asked for over the status socket.

use std::path::Path;

use super::Supervisor;
use crate::report::request::{Answer, Request};

impl Supervisor {
    pub(super) fn obey_request(&self, line: &str) -> Answer {
        match serde_json::from_str(line) {
            Ok(Request::ForgetMount(device)) => self.forget_mount(&device),
            Err(e) => Err(format!("the node does not understand this: {e}")),
        }
    }

    /// The operator knows better: the folder is the device.
    fn forget_mount(&self, wanted: &str) -> Answer {
        let path = |site, name: &str| self.plan.devices.docroot(site).join(name);
        let mut found = self.board.devices();
        found.retain(|(key, _)| {
            let name = key.to_string();
            key.devid != 0 && (name == wanted || path(key.site, &name) == Path::new(wanted))
        });
        let [(key, slot)] = found[..] else {
            return Err(match found[..] {
                [] => format!("there is no device {wanted}"),
                _ => format!("several docroots have a {wanted}: write its whole path"),
            });
        };
        let path = path(key.site, &key.to_string());
        let path = path.display();
        if self.plan.sites.get(usize::from(key.site.0)).is_some_and(|site| site.require_mount) {
            return Err(format!("{path} stays refused: require_mount"));
        }
        slot.mount.forget();
        log::warn!("{path}: forgotten that it was a mount, as asked");
        Ok(format!("{path}: the node takes what is there now for the device"))
    }
}
