//! What happens to the node and what is to be done about it, in words.

use std::fmt;
use std::time::{Duration, Instant};

use rmogstored_worker::spec::WorkerId;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself.
    Status(i32),
    /// By a signal.
    Signal(i32),
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// The fork asked for was done.
    Forked {
        /// Its slot.
        worker: WorkerId,
        /// The new process.
        pid: i32,
    },
    /// The fork asked for failed.
    ForkFailed(WorkerId),
    /// A worker accepts connections.
    Ready(WorkerId),
    /// A worker has drained and is about to exit.
    Drained(WorkerId),
    /// A worker's process ended.
    Exited {
        /// Its slot.
        worker: WorkerId,
        /// How.
        exit: Exit,
    },
    /// A worker's duty has gone.
    Retire(WorkerId),
    /// SIGWINCH: all workers drain and go, the master stays.
    Rest,
    /// A new generation of workers is to take over; [`add`](super::Policy::add) follows.
    Renew,
    /// The new generation is not to be: its workers go again.
    FallBack,
    /// The devices have new owners: the older generations may drain.
    Settle,
    /// SIGQUIT, or the sidechannel's `shutdown`.
    Quit,
    /// SIGTERM or SIGINT.
    Terminate,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Fork a worker, and report [`Event::Forked`] or [`Event::ForkFailed`].
    Spawn(WorkerId),
    /// Tell a worker to drain.
    Drain(WorkerId),
    /// SIGKILL.
    Kill(WorkerId),
    /// The worker now serves: tell it.
    Started(WorkerId),
    /// All first workers serve: tell it.
    NodeReady,
    /// All workers of the new generation serve: give them the devices, then
    /// [`Event::Settle`].
    Renewed,
    /// A worker of the new generation ended before it was ready: tell it, then
    /// [`Event::FallBack`].
    RenewalFailed {
        /// Its slot.
        worker: WorkerId,
        /// How it ended.
        exit: Exit,
    },
    /// A worker that ended, or could not be forked, is replaced after this delay: log it.
    Respawn {
        /// Its slot.
        worker: WorkerId,
        /// The time until then.
        delay: Duration,
        /// False when it went because it was told to.
        crashed: bool,
    },
    /// The slot's last process is gone: its inbox with it.
    Release(WorkerId),
    /// A worker ended before it was ready, the node with it.
    StartFailed {
        /// Its slot.
        worker: WorkerId,
        /// How it ended.
        exit: Exit,
    },
    /// The drain begins: close the listeners, tell it.
    NodeDraining,
    /// Leave with this status.
    Finish(i32),
}

/// The phase of the whole node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not all first workers are ready.
    Starting,
    /// All were ready.
    Running,
    /// Without workers, until a reload brings new ones.
    Resting,
    /// On its way out.
    Draining {
        /// The exit status at the end.
        status: i32,
        /// When patience ends; `None`: never.
        until: Option<Instant>,
        /// Whether what is left has been killed; it is then left behind at `until`.
        killed: bool,
    },
}

impl Phase {
    /// One word for reports.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Running => "running",
            Phase::Resting => "resting",
            Phase::Draining { .. } => "draining",
        }
    }
}

impl Exit {
    /// The exit status, if it ended by itself.
    pub fn status(self) -> Option<i32> {
        match self {
            Exit::Status(status) => Some(status),
            Exit::Signal(_) => None,
        }
    }

    /// The signal that ended it.
    pub fn signal(self) -> Option<i32> {
        match self {
            Exit::Status(_) => None,
            Exit::Signal(signal) => Some(signal),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Status(status) => write!(f, "exited with status {status}"),
            Exit::Signal(signal) => match nix::sys::signal::Signal::try_from(*signal) {
                Ok(name) => write!(f, "was ended by {}", name.as_str()),
                Err(_) => write!(f, "was ended by signal {signal}"),
            },
        }
    }
}
