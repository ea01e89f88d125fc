//! The commands: what is done about a node that runs already, or about its files.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand};
use rmogstored_master::report::request::Request;

use super::{Scrub, Task};

/// The status socket of the node that a command is about when none is named: the unit's.
pub const DEFAULT_SOCKET: &str = "/run/rmogstored/status.sock";

/// What every command understands.
#[derive(Debug, Args)]
pub struct Help {
    /// Print this help; so does -h
    #[arg(short = '?', short_alias = 'h', long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// What is done about a node that runs already, or about its files.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show a running node: workers, devices, requests and bytes per second
    Status {
        /// Print the node's JSON document instead of a table
        #[arg(long, action = ArgAction::Count)]
        json: u8,

        /// Show it again every second, until Ctrl-C
        #[arg(long, action = ArgAction::Count)]
        follow: u8,

        /// The node's --status-socket [default: /run/rmogstored/status.sock]
        #[arg(default_value = DEFAULT_SOCKET, hide_default_value = true)]
        socket: PathBuf,

        #[command(flatten)]
        help: Help,
    },

    /// Put the executable that is installed now in a running node's place, without closing a port
    ///
    /// Starts it beside the running one (USR2), waits until it is ready, tells the old one to
    /// quit and waits for its last request. If the new one does not get ready the old one stays,
    /// and the exit status is 1. Signals nobody but the master of a node.
    Upgrade {
        /// The node's --status-socket, or its --pidfile [default: /run/rmogstored/status.sock]
        #[arg(
            value_name = "SOCKET|PIDFILE",
            default_value = DEFAULT_SOCKET,
            hide_default_value = true
        )]
        node: PathBuf,

        #[command(flatten)]
        help: Help,
    },

    /// Read every file of devices from the disk, and tell of those that are damaged or misplaced
    ///
    /// Reads at idle I/O priority, past the page cache, and gives way to whoever else uses the
    /// disk. Changes nothing. Each finding is a line of JSON, the last line is a summary. Exit
    /// status: 0 clean, 1 something was found, 2 wrong usage, 3 not all could be looked at,
    /// 130 or 143 interrupted.
    Scrub {
        #[command(flatten)]
        scrub: Scrub,

        #[command(flatten)]
        help: Help,
    },

    /// Tell a running node what it cannot know of a device
    ///
    /// Root and the node's user may say it. A device is named as devN, or by its whole path where
    /// several docroots have one.
    Device {
        /// Take the folder that is there for a device which was a mount before: it answers 503 until
        /// it is mounted again, its folder is removed and made anew, or this is said
        #[arg(long, value_name = "devN", required_unless_present = "clear")]
        forget: Option<String>,

        /// Its disk, which had many errors within a minute, is mended: it is failing no more
        #[arg(long, value_name = "devN", conflicts_with = "forget")]
        clear: Option<String>,

        /// The node's --status-socket [default: /run/rmogstored/status.sock]
        #[arg(default_value = DEFAULT_SOCKET, hide_default_value = true)]
        socket: PathBuf,

        #[command(flatten)]
        help: Help,
    },
}

impl Command {
    /// The same as a task.
    pub fn task(self) -> Task {
        match self {
            Command::Status { json, follow, socket, .. } => {
                Task::Status { json: json > 0, follow: follow > 0, socket }
            }
            Command::Upgrade { node, .. } => Task::Upgrade(node),
            Command::Scrub { scrub, .. } => Task::Scrub(scrub),
            Command::Device { forget, clear, socket, .. } => {
                let request = match (forget, clear) {
                    (Some(device), _) => Request::ForgetMount(device),
                    (None, clear) => Request::ClearFailing(clear.unwrap_or_default()),
                };
                Task::Tell { request, socket }
            }
        }
    }
}
