//! Numbers that everybody goes by: of workers, docroots and devices.

use std::fmt;

/// Number of a worker: its slot on the scoreboard. It keeps it over a respawn.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct WorkerId(pub u16);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Index of a docroot in [`WorkerSpec::sites`](crate::spec::WorkerSpec::sites); 0 unless the node runs with `--multi`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SiteId(pub u8);

/// A device of the node: docroot and devid. Devid 0 stands for the docroot itself, whose
/// files (`/somefile`) are served as if it were a device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct DeviceKey {
    /// The docroot.
    pub site: SiteId,
    /// The N of `devN`, 1 to 16777215, or 0 for the docroot itself.
    pub devid: u32,
}

impl fmt::Display for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.devid {
            0 => f.write_str("docroot"),
            devid => write!(f, "dev{devid}"),
        }
    }
}
