//! The option table. What was written becomes [`Options`]; what it means is the master's
//! `config`, the same for an option as for a line of a file.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Parser, ValueHint};
use rmogstored_master::config::{Entry, Key, Options, Origin};
use rmogstored_master::report::request::Request;

use command::{Command, Help};
use logs::Logs;
pub use scrub::Scrub;

#[path = "cli/command.rs"]
mod command;
#[path = "cli/logs.rs"]
mod logs;
#[path = "cli/scrub.rs"]
mod scrub;

/// Shown below the options.
const SIGNALS: &str = "Signals to the master:
  QUIT        finish every request in progress, then exit
  TERM, INT   the same; a second one ends it at once
  HUP         read the configuration again and replace the workers
  USR1        reopen log files; lines that wait are written out
  USR2        start the executable afresh beside this process (see: rmogstored upgrade)
  WINCH       let all workers drain and go; HUP starts them again";

/// A MogileFS storage node: HTTP and sidechannel.
///
/// Each option with a value is a key of the configuration file too, with underscores for dashes.
/// Durations are seconds (60, 0.5) or have a suffix: 500ms, 60s, 10m, 1h.
#[derive(Debug, Parser)]
#[command(
    name = "rmogstored",
    version,
    disable_help_flag = true,
    disable_version_flag = true,
    disable_help_subcommand = true,
    infer_long_args = true,
    args_conflicts_with_subcommands = true,
    after_help = SIGNALS
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    /// Detach from the terminal; returns once the node serves
    #[arg(short, long, action = ArgAction::Count)]
    daemonize: u8,

    /// Configuration file; several need --multi
    #[arg(short, long, value_name = "FILE")]
    config: Vec<PathBuf>,

    // Not a doc comment: rustdoc would take the brackets for a link.
    #[arg(
        long,
        value_name = "ADDR",
        help = "Where HTTP is spoken: IP:PORT, :PORT, PORT or [IPv6]:PORT [default: 0.0.0.0:7500]"
    )]
    httplisten: Vec<String>,

    /// Where the sidechannel is spoken [default: 0.0.0.0:7501]
    #[arg(long, value_name = "ADDR")]
    mgmtlisten: Vec<String>,

    /// Folder that holds dev1, dev2 ... [default: /var/mogdata]
    #[arg(long, value_name = "DIR")]
    docroot: Vec<String>,

    /// Answer 503 for each devN that is no mount: see require_mount in mogstored.conf(5)
    #[arg(long, action = ArgAction::Count)]
    require_mount: u8,

    /// Connections that one worker holds at most [default: 10000]
    #[arg(long, value_name = "N")]
    maxconns: Vec<String>,

    /// Where the master's process id is written
    #[arg(long, value_name = "FILE")]
    pidfile: Vec<String>,

    /// `none`: sidechannel only
    #[arg(long, value_name = "perlbal|none")]
    server: Vec<String>,

    /// Accepted for compatibility, no effect
    #[arg(short, long, action = ArgAction::Count)]
    skipconfig: u8,

    /// How many workers: one per device, one per CPU, or a number [default: device]
    #[arg(long, value_name = "device|cpu|N")]
    workers: Vec<String>,

    /// The compatible spelling of --workers=N
    #[arg(short = 'W', long, value_name = "N")]
    worker_processes: Vec<String>,

    /// Each --config describes a docroot of its own
    #[arg(long, action = ArgAction::Count)]
    multi: u8,

    /// From a request's first byte to its whole head [default: 60]
    #[arg(long, value_name = "TIME")]
    header_timeout: Vec<String>,

    /// Between two reads of a PUT body, or two writes of an answer [default: 60]
    #[arg(long, value_name = "TIME")]
    body_timeout: Vec<String>,

    /// Between requests; 0: never [default: 0]
    #[arg(long, value_name = "TIME")]
    idle_timeout: Vec<String>,

    /// Age of a disk operation from which its device counts as stalled [default: 5]
    #[arg(long, value_name = "TIME")]
    stall_timeout: Vec<String>,

    /// How long a graceful quit waits for requests in progress; 0: no bound [default: 3600, ample
    /// for the largest file on a slow link, while a dead disk cannot hold up a quit for good]
    #[arg(long, value_name = "TIME")]
    drain_timeout: Vec<String>,

    /// Disk operations that may wait for one device before 503 is answered [default: 1024]
    #[arg(long, value_name = "N")]
    max_queue: Vec<String>,

    /// What is on the disk before a PUT or DELETE is answered: off, file or batch [default: off]
    #[arg(long, value_name = "MODE")]
    fsync: Vec<String>,

    /// Disk threads per device, 1 to 100 [default: 10]
    #[arg(long, value_name = "N")]
    aio_threads: Vec<String>,

    /// Whom workers run as; needs a master run by root, which binds and opens and stays root
    #[arg(long, value_name = "NAME")]
    user: Vec<String>,

    /// The main group of that user's workers [default: the user's own]
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,

    /// How long a successor (SIGUSR2) may take to be ready before it is given up [default: 60]
    #[arg(long, value_name = "TIME")]
    upgrade_timeout: Vec<String>,

    /// Open descriptor that gets a JSON line for each event
    #[arg(long, value_name = "FD")]
    status_fd: Vec<String>,

    /// Unix socket that gives the node's status to whoever connects
    #[arg(long, value_name = "PATH")]
    status_socket: Vec<String>,

    /// Where metrics and a status page are served; off unless given
    #[arg(long, value_name = "ADDR")]
    statuslisten: Vec<String>,

    #[command(flatten)]
    logs: Logs,

    /// Check everything, print the effective settings as a configuration file, and exit
    #[arg(long, action = ArgAction::Count)]
    check_config: u8,

    /// Try it out: make DIR (or a new temporary folder) with dev1 and dev2, serve it on
    /// 127.0.0.1:7500 and 7501, and print curl lines to paste
    #[arg(
        long,
        value_name = "DIR",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        value_hint = ValueHint::AnyPath,
        conflicts_with_all = ["config", "docroot", "multi", "daemonize", "check_config", "server"]
    )]
    quickstart: Vec<String>,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,

    #[command(flatten)]
    help: Help,
}

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Task {
    /// Show a running node.
    Status {
        /// As JSON.
        json: bool,
        /// Again and again.
        follow: bool,
        /// Its status socket.
        socket: PathBuf,
    },
    /// Replace a running node's executable: its status socket or pid file.
    Upgrade(PathBuf),
    /// Read all files of devices.
    Scrub(Scrub),
    /// Tell a running node what it cannot know.
    Tell {
        /// What it is.
        request: Request,
        /// Its status socket.
        socket: PathBuf,
    },
    /// Print the effective settings.
    CheckConfig(Options),
    /// Serve.
    Serve(Options),
    /// Serve a folder that is made first; the default is a temporary one.
    Quickstart(Option<PathBuf>, Options),
}

impl Cli {
    /// The task, with the options in the form in which they are checked.
    pub fn task(mut self) -> Task {
        if let Some(command) = self.command.take() {
            return command.task();
        }
        let quickstart = self.quickstart.last().map(|folder| {
            Some(PathBuf::from(folder)).filter(|folder| !folder.as_os_str().is_empty())
        });
        let check = self.check_config > 0;
        let options = self.options(env::var_os("PATH"));
        match quickstart {
            Some(folder) => Task::Quickstart(folder, options),
            None if check => Task::CheckConfig(options),
            None => Task::Serve(options),
        }
    }

    fn options(self, search_path: Option<OsString>) -> Options {
        let repeated = self.repeated();
        let settings = [
            (Key::Daemonize, vec![String::new(); self.daemonize.into()]),
            (Key::Docroot, self.docroot),
            (Key::RequireMount, vec![String::new(); self.require_mount.into()]),
            (Key::Maxconns, self.maxconns),
            (Key::Pidfile, self.pidfile),
            (Key::Server, self.server),
            (Key::Workers, self.workers),
            (Key::WorkerProcesses, self.worker_processes),
            (Key::HeaderTimeout, self.header_timeout),
            (Key::BodyTimeout, self.body_timeout),
            (Key::IdleTimeout, self.idle_timeout),
            (Key::StallTimeout, self.stall_timeout),
            (Key::DrainTimeout, self.drain_timeout),
            (Key::MaxQueue, self.max_queue),
            (Key::Fsync, self.fsync),
            (Key::AioThreads, self.aio_threads),
            (Key::User, self.user),
            (Key::Group, self.group),
            (Key::UpgradeTimeout, self.upgrade_timeout),
            (Key::StatusFd, self.status_fd),
            (Key::StatusSocket, self.status_socket),
            (Key::Statuslisten, self.statuslisten),
            (Key::Httplisten, self.httplisten),
            (Key::Mgmtlisten, self.mgmtlisten),
        ];
        let each = |(key, values): (Key, Vec<String>)| values.into_iter().map(move |v| (key, v));
        Options {
            files: self.config,
            multi: self.multi > 0,
            entries: settings
                .into_iter()
                .chain(self.logs.settings())
                .flat_map(each)
                .map(entry)
                .collect(),
            repeated,
            search_path,
        }
    }

    /// Options without a key that were given more than once.
    fn repeated(&self) -> Vec<String> {
        let given = [
            ("check-config", self.check_config.into()),
            ("multi", self.multi.into()),
            ("quickstart", self.quickstart.len()),
            ("skipconfig", self.skipconfig.into()),
        ];
        given.into_iter().filter(|(_, times)| *times > 1).map(|(name, _)| name.to_owned()).collect()
    }
}

/// A setting as an option gives it.
pub fn entry((key, value): (Key, String)) -> Entry {
    Entry { key, value, origin: Origin::CommandLine }
}

#[cfg(test)]
#[path = "cli/tests.rs"]
mod tests;
