//! Forking one worker, and its first steps.

use std::ffi::CString;
use std::io;
use std::sync::atomic::Ordering::Relaxed;

use nix::sys::signal::Signal;
use rmogstored_worker::control::Channel;
use rmogstored_worker::scoreboard::{Scoreboard, WorkerState};
use rmogstored_worker::spec::WorkerId;

use crate::sys;

/// Which process goes on, with its end of the control channel.
#[derive(Debug)]
pub enum Forked {
    /// The master.
    Master {
        /// The new process.
        pid: i32,
        /// To the new worker.
        control: Channel,
    },
    /// The new worker. Whatever it inherited for others is still open.
    Worker {
        /// To the master.
        control: Channel,
    },
}

/// Forks a worker. Signals stay blocked in it until it says which it wants.
pub fn fork(board: Scoreboard, id: WorkerId, generation: u32) -> io::Result<Forked> {
    let (master, worker) = Channel::pair()?;
    let slot = board.worker(id);
    // Before the fork: a quick worker may be running before the master is back.
    slot.begin(0);
    slot.generation.store(generation, Relaxed);
    slot.set_state(WorkerState::Starting);
    match sys::fork() {
        Ok(Some(pid)) => {
            slot.pid.store(pid.as_raw().cast_unsigned(), Relaxed);
            Ok(Forked::Master { pid: pid.as_raw(), control: master })
        }
        Ok(None) => {
            first_steps(id);
            Ok(Forked::Worker { control: worker })
        }
        Err(e) => {
            slot.set_state(WorkerState::Empty);
            Err(e)
        }
    }
}

/// Workers ignore what is meant for the master only, also when it is sent to all processes of
/// that name.
fn first_steps(id: WorkerId) {
    sys::ignore(&[Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2]);
    if let Ok(name) = CString::new(format!("rmogstored-w{id}")) {
        let _ = nix::sys::prctl::set_name(&name); // a name is a convenience
    }
}
