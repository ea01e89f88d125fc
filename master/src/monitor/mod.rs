//! The monitor: a process of its own that tells the network how the node is. It has its listener,
//! the scoreboard, and what the master tells it over a channel; no disk, no docroot, no privilege.
//! It answers when every disk is dead, and while the master stands still.
//!
//! | module | holds |
//! |---|---|
//! | [`spec`] | what it starts with |
//! | [`news`] | what the master tells it |
//! | `facts` | what it knows: the master's last word, and the numbers of this moment |
//! | `metrics` | that as Prometheus and OpenMetrics have it |
//! | `accept` | which of the two a client would rather have |
//! | `answer` | the bytes of an answer |
//! | `endpoints` | what is answered where |
//! | `connection` | one client |
//! | `server` | the loop |

mod accept;
mod answer;
mod connection;
mod endpoints;
mod facts;
mod metrics;
pub(crate) mod news;
mod server;
pub(crate) mod spec;

use server::Server;
use spec::Spec;

/// Runs the monitor in the process just forked for it. Returns its exit status once the master has
/// closed its end of the channel.
pub(crate) fn run(spec: Spec) -> i32 {
    match Server::new(spec).and_then(Server::run) {
        Ok(()) => 0,
        Err(e) => {
            log::error!("monitor: {e}");
            1
        }
    }
}
