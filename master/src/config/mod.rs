//! The one configuration: what the node does, after everything that was written has been checked.
//!
//! | module | holds |
//! |---|---|
//! | [`parse`] | the keys, and the grammar of a configuration file |
//! | [`values`] | the grammar of single values: addresses, durations, numbers |
//! | [`check`] | options and files into a [`Config`], or every reason why not |
//! | `sites` | docroots and listeners, one or several |
//! | `written` | which of several places wins |
//! | [`problem`] | what an operator is told, with file and line |
//! | `logs` | the logs' settings |
//! | `print` | a [`Config`] written as a file that loads again |

use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use crate::privileges::Identity;
use rmogstored_worker::spec::{Service, Settings};

pub mod check;
mod logs;
pub mod parse;
mod print;
pub mod problem;
mod sites;
pub mod values;
mod written;

pub use check::{Loaded, load};
pub use parse::{Entry, Key};
pub use problem::{Origin, Problem};
pub use sites::note_served;
pub use written::Options;

/// All settings of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The docroots with their listeners; one unless `multi`.
    pub sites: Vec<SiteConfig>,
    /// How many workers there are, and what they own.
    pub workers: Workers,
    /// What each worker acts on.
    pub settings: Settings,
    /// Where the master's process id is written.
    pub pidfile: Option<PathBuf>,
    /// What the node says of itself, and where.
    pub log: LogConfig,
    /// Whom workers run as; `None`: as whoever started the node.
    pub identity: Option<Identity>,
    /// How long a successor may take to be ready.
    pub upgrade_timeout: Duration,
    /// Detach from the terminal.
    pub daemonize: bool,
    /// Descriptor that gets a JSON line for each event.
    pub status_fd: Option<RawFd>,
    /// Unix socket that gives the node's status to whoever connects.
    pub status_socket: Option<PathBuf>,
    /// Where metrics and the status page are served.
    pub status_listen: Option<SocketAddr>,
}

/// The node's own log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// The least of what is said.
    pub level: LevelFilter,
    /// Lines on standard error and in the file are JSON.
    pub json: bool,
    /// Goes there instead of to standard error and syslog.
    pub file: Option<PathBuf>,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig { level: LevelFilter::Info, json: false, file: None }
    }
}

/// One docroot and where it is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteConfig {
    /// The folder that holds `dev1/`, `dev2/` ...
    pub docroot: PathBuf,
    /// Its devices must be mounts, from the start.
    pub require_mount: bool,
    /// Its listeners, in the order in which they were written.
    pub listeners: Vec<ListenerConfig>,
}

/// One address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenerConfig {
    /// What is spoken there.
    pub service: Service,
    /// Where.
    pub address: SocketAddr,
}

/// The `workers` setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// One per device; one per CPU while the docroots have no device. The default.
    Device,
    /// One per CPU that the process may use.
    Cpu,
    /// So many.
    Count(usize),
}
