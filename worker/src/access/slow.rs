//! Operations that took long, with what their time went into: in the log, one line a second and
//! device.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock;
use crate::disk::repeated::Repeated;
use crate::ids::DeviceKey;
use crate::trace::{Part, Trace};

/// Lines of one device are as far apart as this at least.
const INTERVAL: Duration = Duration::from_secs(1);
/// Devices that are remembered; then all are forgotten.
const MOST: usize = 1000;

static DEVICES: Mutex<BTreeMap<Option<DeviceKey>, Repeated>> = Mutex::new(BTreeMap::new());

/// Whether a request that is over was slow: without what its peer needed.
pub fn is_slow(trace: &Trace, limit: Duration) -> bool {
    !limit.is_zero() && trace.own_time() >= limit
}

/// Tells of a slow request, unless its device was told of in this second.
pub fn tell(trace: &Trace) {
    let device = trace.asked().device;
    let untold = {
        let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
        if devices.len() >= MOST {
            devices.clear();
        }
        let repeated = devices.entry(device).or_insert(Repeated::new(INTERVAL));
        repeated.note(clock::instant())
    };
    match untold {
        Some(0) => log::warn!("{}", text(trace)),
        Some(untold) => log::warn!("{}; and {untold} others before", text(trace)),
        None => {}
    }
}

/// `slow: PUT /dev1/a of 192.0.2.7:4711: 201 after 730 ms: queue 0, open 1, read 0, write 700, ...`
fn text(trace: &Trace) -> String {
    let asked = trace.asked();
    let line = asked.line.escape_ascii().to_string();
    let method = line.split(' ').next().unwrap_or_default();
    let path = asked.path.as_deref().unwrap_or("-");
    let mut text = format!("slow: {method} {path} of {}: ", trace.peer());
    let _ = match trace.status() {
        Some(status) => write!(text, "{status}"),
        None => write!(text, "no answer"),
    };
    let _ = write!(text, " after {} ms:", trace.took().as_millis());
    for (index, part) in Part::ALL.into_iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(text, "{comma} {} {}", part.name(), trace.spent(part).as_millis());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Asked;
    use std::net::SocketAddr;
    use std::thread;

    #[test]
    fn the_peer_s_time_does_not_count_and_is_told() {
        let asked = Asked { line: b"GET /dev1/\x1b HTTP/1.1".to_vec(), ..Asked::default() };
        let trace = Trace::begin(asked, SocketAddr::from(([192, 0, 2, 7], 1)));
        trace.enter(Part::Peer);
        thread::sleep(Duration::from_millis(20));
        trace.enter(Part::Loop);
        assert!(!is_slow(&trace, Duration::from_millis(20)));
        assert!(!is_slow(&trace, Duration::ZERO), "off");
        let text = text(&trace);
        let begin = "slow: GET - of 192.0.2.7:1: no answer after ";
        assert!(text.starts_with(begin) && text.contains("ms: queue 0, open 0,"), "{text}");
        assert!(!text.contains("peer 0,"), "{text}");
    }
}
