//! Process titles: what `ps` shows.

use nix::unistd::Pid;
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

/// Names the monitor.
pub(crate) fn set_monitor() {
    title::set("rmogstored: monitor");
}

/// Names the process that passes on what a successor says.
pub(crate) fn of_relay(pid: Pid) {
    title::set(&format!("rmogstored: standard error of PID {pid}"));
}

/// Names the process that opens log files.
pub(crate) fn set_opener() {
    title::set("rmogstored: opening log files");
}

/// The drain has begun.
pub(crate) fn shutting_down() {
    title::set(&format!("{MASTER} shutting down"));
}
