//! What a loop must have done on a disk where no pool of threads is at hand: closes, mostly. One
//! thread for each errand, so that a dead disk holds up nobody else's; they are rare.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::disk::on_disk::OnDisk;
use crate::disk::shortage;

const STACK: usize = 128 * 1024;

/// Runs it in a thread of its own, or here if this is a disk thread. If no thread can be had it is
/// not run at all, and what it would have closed stays open: never in the loop.
pub fn run(errand: impl FnOnce(&OnDisk) + Send + 'static) {
    if OnDisk::is_here() {
        return errand(&OnDisk::begin());
    }
    let kept = Arc::new(Mutex::new(Some(errand)));
    let theirs = Arc::clone(&kept);
    let work = move || {
        let on = OnDisk::begin();
        let errand = theirs.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(errand) = errand {
            errand(&on);
        }
    };
    if let Err(e) = thread::Builder::new().name("disk".into()).stack_size(STACK).spawn(work) {
        shortage::note("work on a disk", &e);
        std::mem::forget(kept);
    }
}
