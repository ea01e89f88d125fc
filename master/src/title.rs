//! Process titles: what `ps` shows.

use rmogstored_worker::spec::WorkerId;
use rmogstored_worker::sys::title;

use crate::supervise::children::Duty;

/// The master's.
pub(crate) const MASTER: &str = "rmogstored: master";

/// Names a new worker by what it is there for.
pub(crate) fn of_worker(id: WorkerId, duty: Duty) {
    match duty {
        Duty::Device(device) => title::set(&format!("rmogstored: worker {device}")),
        Duty::Shared(_) => title::set(&format!("rmogstored: worker {id}")),
    }
}

/// The drain has begun.
pub(crate) fn shutting_down() {
    title::set(&format!("{MASTER} shutting down"));
}
