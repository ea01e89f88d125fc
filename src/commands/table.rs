//! Two looks at a node into a table. Pure: documents and the time between them in, text out.

use std::fmt::Write;
use std::time::Duration;

use rmogstored_master::report::status::{DeviceStatus, Document, WorkerStatus};

/// The table of a node as it is `now`; rates are since `before`.
pub fn of(before: &Document, now: &Document, passed: Duration) -> String {
    let mut text = String::new();
    headline(&mut text, now);
    let mut workers =
        vec![words("worker pid state gen restarts conns req/s in-MB/s out-MB/s 5xx devices")];
    workers.extend(now.workers.iter().map(|worker| {
        let earlier = before.workers.iter().find(|w| w.worker == worker.worker);
        worker_row(earlier.filter(|_| before.pid == now.pid), worker, passed)
    }));
    write_aligned(&mut text, &workers);
    let mut devices = vec![words("device owner state used% busy% in-flight oldest-ms docroot")];
    devices.extend(now.devices.iter().map(device_row));
    text.push('\n');
    write_aligned(&mut text, &devices);
    text
}

fn headline(text: &mut String, now: &Document) {
    let uptime = now.uptime as u64;
    let (days, hours) = (uptime / 86_400, uptime / 3600 % 24);
    let (minutes, seconds) = (uptime / 60 % 60, uptime % 60);
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "node {} PID {}, up {days}d {hours:02}:{minutes:02}:{seconds:02}, generation {}",
        now.state, now.pid, now.generation
    );
    for listener in &now.listeners {
        let _ = writeln!(text, "{} {}: {}", listener.service, listener.address, listener.docroot);
    }
    if let Some(pid) = now.upgrade.successor {
        let stage = if now.upgrade.ready { "ready" } else { "starting" };
        let _ = writeln!(text, "upgrade: successor PID {pid} {stage}");
    }
    if let Some(failure) = &now.upgrade.last_failure {
        let _ = writeln!(text, "last upgrade failed: {failure}");
    }
    text.push('\n');
}

fn worker_row(before: Option<&WorkerStatus>, now: &WorkerStatus, passed: Duration) -> Vec<String> {
    let rate = |of: fn(&WorkerStatus) -> u64| {
        let more = before.map(|before| of(now).saturating_sub(of(before)));
        more.map(|more| more as f64 / passed.as_secs_f64().max(1e-3))
    };
    let shown = |value: Option<f64>, unit: f64| {
        value.map_or("-".to_owned(), |value| format!("{:.1}", value / unit))
    };
    vec![
        now.worker.to_string(),
        now.pid.map_or("-".to_owned(), |pid| pid.to_string()),
        now.state.clone(),
        now.generation.to_string(),
        now.restarts.to_string(),
        now.connections.to_string(),
        shown(rate(|w| w.requests), 1.0),
        shown(rate(|w| w.bytes_in), 1e6),
        shown(rate(|w| w.bytes_out), 1e6),
        now.errors.to_string(),
        now.devices.join(","),
    ]
}

fn device_row(device: &DeviceStatus) -> Vec<String> {
    let used = match (device.used_kib, device.total_kib) {
        (Some(used), Some(total)) if total > 0 => {
            format!("{:.0}", used as f64 * 100.0 / total as f64)
        }
        _ => "-".to_owned(),
    };
    vec![
        device.device.clone(),
        device.owner.to_string(),
        device.state.clone(),
        used,
        device.busy_percent.map_or("-".to_owned(), |busy| format!("{busy:.1}")),
        device.in_flight.to_string(),
        device.oldest_ms.to_string(),
        device.docroot.clone(),
    ]
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// Columns as wide as their widest cell; the last one is as long as it is.
fn write_aligned(text: &mut String, rows: &[Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns).filter_map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(requests: u64, bytes: u64) -> Document {
        let text = format!(
            r#"{{"version": 1, "pid": 7, "generation": 3, "uptime": 93784.5, "state": "running",
            "upgrade": {{"successor": 8, "ready": false, "failures": 1, "last_failure": "bad"}},
            "listeners": [{{"service": "http", "address": "127.0.0.1:7500", "docroot": "/d"}}],
            "workers": [{{"worker": 0, "pid": 70, "state": "running", "generation": 3,
            "restarts": 2, "connections": 5, "requests": {requests}, "accepted": 5,
            "handed_over": 0, "bytes_in": {bytes}, "bytes_out": 0, "errors": 0, "wakeups": 9,
            "heartbeat_age_ms": 10, "devices": ["dev1", "dev2"]}}],
            "devices": [{{"device": "dev1", "docroot": "/d", "owner": 0, "state": "stalled",
            "in_flight": 4, "oldest_ms": 7000, "inline_reads": true, "used_kib": 25,
            "total_kib": 100, "busy_percent": 99.5}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn shown(text: &str) -> Vec<Vec<&str>> {
        text.lines().map(|line| line.split_whitespace().collect()).collect()
    }

    #[test]
    fn rates_are_those_between_two_looks() {
        let text = of(&document(100, 0), &document(300, 5_000_000), Duration::from_secs(2));
        let expected = "0 70 running 3 2 5 100.0 2.5 0.0 0 dev1,dev2";
        let expected: Vec<&str> = expected.split(' ').collect();
        assert!(shown(&text).contains(&expected), "{text}");
        assert!(text.contains("up 1d 02:03:04, generation 3"), "{text}");
        assert!(text.contains("successor PID 8 starting"), "{text}");
        assert!(text.contains("last upgrade failed: bad"), "{text}");
    }

    #[test]
    fn device_shows_how_full_and_how_busy_it_is() {
        let text = of(&document(0, 0), &document(0, 0), Duration::from_secs(1));
        let expected = ["dev1", "0", "stalled", "25", "99.5", "4", "7000", "/d"];
        assert!(shown(&text).contains(&expected.to_vec()), "{text}");
    }

    #[test]
    fn worker_of_another_master_has_no_rates_yet() {
        let mut before = document(0, 0);
        before.pid = 6;
        let text = of(&before, &document(100, 0), Duration::from_secs(1));
        assert!(shown(&text).iter().any(|row| row.get(6) == Some(&"-")), "{text}");
    }
}
