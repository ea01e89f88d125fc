//! Who may wait for a disk is a type. What may wait takes [`OnDisk`], which only a disk thread has;
//! a device's descriptor is a [`DiskFd`](crate::disk::disk_fd::DiskFd), which gives itself away to nobody else.
//!
//! The few calls that do no harm to a loop are in [`crate::disk::harmless`], each with its proof.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

/// The calling thread is a disk thread: it may wait. Neither copied nor sent elsewhere.
pub struct OnDisk(PhantomData<*const ()>);

thread_local! {
    static HERE: Cell<bool> = const { Cell::new(false) };
}

impl OnDisk {
    /// For a thread that does nothing but disk work, at its start.
    pub(in crate::disk) fn begin() -> OnDisk {
        HERE.set(true);
        OnDisk(PhantomData)
    }

    /// A test may wait.
    #[cfg(test)]
    pub(crate) fn in_test() -> OnDisk {
        OnDisk::begin()
    }

    /// Whether the calling thread has one.
    pub(in crate::disk) fn is_here() -> bool {
        HERE.get()
    }
}

impl fmt::Debug for OnDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnDisk")
    }
}
