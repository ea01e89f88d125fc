//! Settings of the machine that are changed while we measure, so that ratios hold.

use std::fs;
use std::path::Path;

/// Parameters of `mm/page_reporting.c`, which not every kernel has, and what they are to be: how
/// long pages must be free until the host gets them back, in milliseconds, and how many MiB may
/// wait for that. Both are the largest values there may be, or more memory than there is.
const PAGE_REPORTING: [(&str, &str); 2] = [
    ("/sys/module/page_reporting/parameters/min_free_ms", "60000"),
    ("/sys/module/page_reporting/parameters/max_waiting_mib", "1048576"),
];
/// tcp(7). The servers' sockets and those of the load start with it.
const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// What is changed, and back at the end.
#[derive(Debug)]
pub struct Changed(Vec<Setting>);

#[derive(Debug)]
struct Setting {
    file: &'static str,
    before: String,
}

impl Changed {
    /// Sets what privileges allow, and says on stderr how the machine is now.
    ///
    /// Free page reporting gives memory back to the host between two slices, and whoever gets such
    /// a page next waits for the host: slices of large PUTs have cost up to six times as much, now
    /// for one server, now for another.
    ///
    /// `congestion` is the control of all connections. BBR sends by a timer at the rate that it
    /// has found, each connection at its own: what a large GET costs is then what the connection
    /// has been through, and a build compared with itself had ratios of 0.85 and of 1.40.
    pub fn new(congestion: &str) -> Changed {
        let mut changed = Vec::new();
        for (file, wanted) in PAGE_REPORTING {
            changed.extend(set(file, wanted));
        }
        if !changed.is_empty() {
            eprintln!("free page reporting is put off while we measure");
        }
        if congestion_control() != congestion {
            changed.extend(set(CONGESTION_CONTROL, congestion));
        }
        eprintln!("TCP congestion control: {}", congestion_control());
        Changed(changed)
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        for Setting { file, before } in &self.0 {
            let _ = fs::write(file, before);
        }
    }
}

/// `None`: it stays as it is.
fn set(file: &'static str, wanted: &str) -> Option<Setting> {
    let before = read(file);
    fs::write(file, wanted).is_ok().then_some(Setting { file, before })
}

fn read(file: impl AsRef<Path>) -> String {
    fs::read_to_string(file).unwrap_or_default().trim().to_owned()
}

/// Whether memory stays with the machine, whoever has seen to it.
pub fn keeps_memory() -> bool {
    let (file, wanted) = PAGE_REPORTING[0];
    read(file) == wanted
}

/// The congestion control of new connections.
pub fn congestion_control() -> String {
    read(CONGESTION_CONTROL)
}
