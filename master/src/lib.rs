//! The supervisor of rmogstored: one process with one thread that binds, forks and looks after
//! the workers, and never touches a disk.
//!
//! | module | holds |
//! |---|---|
//! | [`clean_start`] | what a parent left that is not meant for this process |
//! | [`config`] | the one configuration, its grammar, its checks |
//! | [`inherit`] | listening sockets that an earlier process or systemd left open |
//! | [`invocation`] | how this process was started, to start its successor |
//! | `legacy` | what a successor is told of the devices |
//! | [`limits`] | RLIMIT_NOFILE, raised to what maxconns needs |
//! | [`listeners`] | binding what was not inherited |
//! | [`logs`] | opening log files |
//! | `monitor` | metrics and the status page, from a process of their own |
//! | [`notify`] | telling systemd |
//! | [`pidfile`] | the pid file and its rules |
//! | [`privileges`] | whom the workers run as |
//! | [`process`] | who a process is whose number somebody has noted |
//! | [`report`] | the status pipe's lines and the status socket's document |
//! | `succession` | how connections follow an upgrade |
//! | [`successor`] | this process as the successor in an upgrade |
//! | [`supervise`] | the loop, its rules, its table of workers |
//! | `title` | what `ps` shows |

pub mod clean_start;
pub mod config;
pub mod inherit;
pub mod invocation;
mod legacy;
pub mod limits;
pub mod listeners;
pub mod logs;
mod monitor;
pub mod notify;
pub mod pidfile;
pub mod privileges;
pub mod process;
pub mod report;
mod succession;
pub mod successor;
pub mod supervise;
mod sys;
mod title;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use config::Config;
use invocation::Invocation;
use pidfile::{Pidfile, PidfileError};
use privileges::Identity;
use rmogstored_worker::spec::{Service, SiteId, WorkerId, WorkerSpec};
use rmogstored_worker::sys::title as process_title;
use supervise::plan::Plan;
use supervise::policy::Exit;
use supervise::{Kit, Outcome, Supervisor};

pub use sys::fork;

/// What the master calls that it does not know itself.
pub struct Hooks {
    /// A whole worker, from its first step to its exit status. Called in the forked process.
    pub worker: fn(WorkerSpec) -> i32,
    /// Called in the forked process before `worker`: the place to start a log thread.
    pub in_worker: fn(),
    /// Called in the master once every worker accepts connections.
    pub on_ready: Option<OnReady>,
    /// Reads the configuration again, for SIGHUP.
    pub reload: Reload,
    /// Writes out the log's lines that wait, for SIGUSR1.
    pub reopen_logs: fn(),
    /// Writes the log to this file from now on: it has been opened again.
    pub reopen_log: fn(OwnedFd),
    /// How the process was started, for SIGUSR2.
    pub invocation: Invocation,
}

/// The configuration as it is now, or the operator's sentences why it is refused.
pub type Reload = Box<dyn FnMut() -> Result<Config, String>>;

/// Gets the listeners with their real ports.
pub type OnReady = Box<dyn FnOnce(&[Listening])>;

/// One address that the node serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// What is spoken there.
    pub service: Service,
    /// Which docroot it serves.
    pub site: SiteId,
    /// The bound address; never port 0.
    pub address: SocketAddr,
    /// The docroot itself.
    pub docroot: PathBuf,
}

/// Why the node did not start, or could not go on.
#[derive(Debug)]
pub enum MasterError {
    /// The environment announces sockets that cannot be taken over.
    Inherit(inherit::InheritError),
    /// An address cannot be listened on.
    Bind {
        /// The address.
        address: SocketAddr,
        /// The errno.
        source: io::Error,
    },
    /// The pid file cannot be had.
    Pidfile(PidfileError),
    /// The status pipe's number is no open descriptor.
    StatusFd(RawFd),
    /// The status socket cannot be made.
    StatusSocket {
        /// Its path.
        path: PathBuf,
        /// The errno, or that another process answers on it.
        source: io::Error,
    },
    /// A worker ended before it was ready.
    Start {
        /// Its slot.
        worker: WorkerId,
        /// How it ended.
        exit: Exit,
    },
    /// A log file cannot be opened.
    Log {
        /// Its path.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// Reloads have named more docroots than can be told apart.
    TooManySites,
    /// A system call that the master cannot do without.
    System {
        /// What was tried.
        what: &'static str,
        /// The errno.
        source: io::Error,
    },
}

/// Serves until told to stop, and returns the exit status.
///
/// In a forked worker this does not return: the process ends with the worker's exit status.
/// What the caller holds is then not dropped.
pub fn run(config: Config, hooks: Hooks) -> Result<i32, MasterError> {
    let Hooks { worker, in_worker, on_ready, reload, reopen_logs, reopen_log, invocation } = hooks;
    let (legacy, predecessor) = (legacy::take(), succession::take());
    let origin = successor::origin(config.pidfile.as_deref());
    if let Some(path) = &config.pidfile {
        Pidfile::check(path).map_err(MasterError::Pidfile)?;
    }
    let inherited = inherit::take().map_err(MasterError::Inherit)?;
    let plan = Plan::first(&config, inherited)?;
    limits::raise_nofile(&config);
    process_title::prepare();
    let upgrade_timeout = config.upgrade_timeout;
    let kit = Kit {
        on_ready,
        reload,
        reopen_logs,
        reopen_log,
        invocation,
        upgrade_timeout,
        legacy,
        predecessor,
    };
    match Supervisor::new(config, plan, origin, kit)?.run()? {
        Outcome::Finished(status) => Ok(status),
        Outcome::Worker(spec, identity) => {
            let name = format!("worker {}", spec.id);
            live(&name, identity, in_worker, move || worker(*spec))
        }
        Outcome::Monitor(spec, identity) => {
            live("monitor", identity, in_worker, move || monitor::run(*spec))
        }
    }
}

/// The rest of a child's life. A panic must not unwind into the caller, whose stack belongs to
/// the master: files it removes on the way out are still needed.
fn live(name: &str, identity: Option<Identity>, prepare: fn(), work: impl FnOnce() -> i32) -> ! {
    const PANICKED: i32 = 101;
    let life = AssertUnwindSafe(move || {
        successor::in_worker();
        // Before any thread: each would have to give up its own.
        if let Err(e) = identity.map_or(Ok(()), |identity| identity.assume()) {
            log::error!("{name}: cannot give up privileges: {e}");
            return 1;
        }
        prepare();
        work()
    });
    let status = catch_unwind(life).unwrap_or(PANICKED);
    log::logger().flush();
    std::process::exit(status)
}

impl MasterError {
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> MasterError {
        move |source| MasterError::System { what, source }
    }
}

impl fmt::Display for MasterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MasterError::Inherit(e) => e.fmt(f),
            MasterError::Bind { address, source } => {
                write!(f, "cannot listen on {address}: {source}")?;
                let advice = listeners::advice(*address, source);
                advice.map_or(Ok(()), |advice| write!(f, ": {advice}"))
            }
            MasterError::Pidfile(e) => e.fmt(f),
            MasterError::StatusFd(fd) => {
                write!(f, "status_fd = {fd} is not a descriptor open for writing")
            }
            MasterError::StatusSocket { path, source } => {
                write!(f, "cannot make the status socket {}: {source}", path.display())?;
                match source.kind() {
                    io::ErrorKind::NotFound => f.write_str(": its folder does not exist"),
                    _ => Ok(()),
                }
            }
            MasterError::Start { worker, exit } => {
                write!(f, "worker {worker} {exit} before it was ready")
            }
            MasterError::Log { path, source } => {
                write!(f, "cannot open the log {}: {source}", path.display())
            }
            MasterError::TooManySites => {
                f.write_str("more than 256 docroots since the start: a restart is needed")
            }
            MasterError::System { what, source } => write!(f, "{what}: {source}"),
        }
    }
}

impl std::error::Error for MasterError {}
