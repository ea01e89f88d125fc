//! `watch`: once a second, what each device's disk is busy: PROTOCOL.md section 3.1. All workers
//! send at the same moment of the shared clock.

use std::fmt::Write as _;

use crate::scoreboard::{DeviceSlot, Scoreboard};
use crate::spec::{DeviceKey, SiteId};

/// A watcher with so many bytes pending is dropped.
pub const MOST_PENDING: usize = 64 * 1024;

/// One group: a line for each device of a docroot, then a dot. Lines end in LF.
pub fn group(board: Scoreboard, site: SiteId) -> Vec<u8> {
    let devices = board.devices();
    text(devices.iter().filter(|(key, _)| key.site == site && key.devid > 0))
}

fn text<'a>(devices: impl Iterator<Item = &'a (DeviceKey, &'static DeviceSlot)>) -> Vec<u8> {
    let mut text = String::new();
    for (key, slot) in devices {
        let _ = match slot.busy() {
            Some(busy) => {
                writeln!(text, "{}\t{}.{:02}", key.devid, busy / 100, busy % 100)
            }
            None => writeln!(text, "{}\t-", key.devid),
        };
    }
    text.push_str(".\n");
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::WorkerId;

    #[test]
    fn group_lists_devices_in_ascending_order() {
        let board = Scoreboard::new().unwrap();
        let key = |site, devid| DeviceKey { site: SiteId(site), devid };
        for (devid, busy) in [(10, Some(10_000)), (2, Some(5)), (3, None), (0, Some(1))] {
            let slot = board.list_device(key(0, devid), WorkerId(0)).unwrap();
            slot.set_busy(busy);
        }
        board.list_device(key(1, 4), WorkerId(0)).unwrap();
        assert_eq!(group(board, SiteId(0)), b"2\t0.05\n3\t-\n10\t100.00\n.\n");
        assert_eq!(group(board, SiteId(1)), b"4\t-\n.\n");
        assert_eq!(group(board, SiteId(2)), b".\n");
    }
}
