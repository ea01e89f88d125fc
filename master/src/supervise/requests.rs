//! Doing what was asked for over the status socket.

use std::path::{Path, PathBuf};

use rmogstored_worker::scoreboard::DeviceSlot;
use rmogstored_worker::spec::DeviceKey;

use super::Supervisor;
use crate::report::request::{Answer, Request};

impl Supervisor {
    pub(super) fn obey_request(&mut self, line: &str) -> Answer {
        match serde_json::from_str(line) {
            Ok(Request::ForgetMount(device)) => self.forget_mount(&device),
            Ok(Request::ClearFailing(device)) => self.clear_failing(&device),
            Err(e) => Err(format!("the node does not understand this: {e}")),
        }
    }

    /// The device that was meant, and its folder.
    fn find(&self, wanted: &str) -> Result<(DeviceKey, &'static DeviceSlot, PathBuf), String> {
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
        Ok((key, slot, path(key.site, &key.to_string())))
    }

    /// The operator knows better: the folder is the device.
    fn forget_mount(&self, wanted: &str) -> Answer {
        let (key, slot, path) = self.find(wanted)?;
        let path = path.display();
        if self.plan.sites.get(usize::from(key.site.0)).is_some_and(|site| site.require_mount) {
            return Err(format!("{path} stays refused: require_mount"));
        }
        slot.mount.forget();
        log::warn!("{path}: forgotten that it was a mount, as asked");
        Ok(format!("{path}: the node takes what is there now for the device"))
    }

    /// The disk is mended, or what it said was of no importance.
    fn clear_failing(&mut self, wanted: &str) -> Answer {
        let (key, _, path) = self.find(wanted)?;
        let path = path.display();
        if !self.device_health.clear(key) {
            return Err(format!("{path} is not failing"));
        }
        log::warn!("{path}: forgotten that its disk was failing, as asked");
        self.look_at_devices();
        Ok(format!("{path}: errors are counted anew"))
    }
}
