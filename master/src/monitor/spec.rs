//! What the monitor starts with. The master fills it in before the fork.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;

use rmogstored_worker::scoreboard::Scoreboard;

use super::news::News;
use crate::supervise::counters::Counters;

/// Everything it starts with.
#[derive(Debug)]
pub struct Spec {
    /// Where it is asked; non-blocking.
    pub(crate) listener: TcpListener,
    /// The master's news, line by line; non-blocking. Its end ends the monitor.
    pub(crate) link: UnixStream,
    /// The first of them: how the node was when this was forked.
    pub(crate) told: News,
    /// The numbers that all processes share.
    pub(crate) board: Scoreboard,
    /// What was done before this node.
    pub(crate) counters: Counters,
}
