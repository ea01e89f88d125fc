//! Whether a device was a mount, as far as anybody in the node knows. It outlives the worker that
//! found it out, a reload, and an upgrade: a bare mount point is not taken for the disk.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use zerocopy::FromZeros;

/// What is known of one device's mount. Whoever opens the device writes it; the last one to look
/// is right.
#[derive(Debug, Default, FromZeros)]
#[repr(C)]
pub struct Mount {
    /// `st_dev` of the filesystem that it was mounted on, plus one; 0: it was never seen mounted.
    on: AtomicU64,
    /// Id of the filesystem seen there last; 0: none yet.
    filesystem: AtomicU64,
    refused: AtomicBool,
}

impl Mount {
    /// The number of the filesystem that has its mount point. `None`: never seen mounted.
    pub fn on(&self) -> Option<u64> {
        self.on.load(Relaxed).checked_sub(1)
    }

    /// The id of the filesystem seen there last; 0: none yet.
    pub fn filesystem(&self) -> u64 {
        self.filesystem.load(Relaxed)
    }

    /// It is mounted on that filesystem. The id of what was mounted there before.
    pub fn note(&self, on: u64, filesystem: u64) -> u64 {
        self.on.store(on.saturating_add(1), Relaxed);
        self.filesystem.swap(filesystem, Relaxed)
    }

    /// Its folder is there and may not be used.
    pub fn refused(&self) -> bool {
        self.refused.load(Relaxed)
    }

    /// Says whether it may be used; true when that is new.
    pub fn refuse(&self, refused: bool) -> bool {
        self.refused.swap(refused, Relaxed) != refused
    }

    /// The operator says that the folder is the device from now on, or it is another folder.
    pub fn forget(&self) {
        self.on.store(0, Relaxed);
        self.filesystem.store(0, Relaxed);
        self.refused.store(false, Relaxed);
    }
}
