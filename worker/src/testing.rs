//! A worker without a master, for tests.

use std::path::Path;
use std::time::Duration;

use crate::control::Channel;
use crate::scoreboard::Scoreboard;
use crate::spec::{Settings, Site, WorkerId, WorkerSpec};
use crate::sys::socket::seqpacket_pair;

/// What worker 0 starts with, alone and without listeners; and the master's end of its channel.
pub(crate) fn spec(docroot: &Path, usage: bool) -> (WorkerSpec, Channel) {
    let (master, control) = Channel::pair().unwrap();
    let second = Duration::from_secs(1);
    let settings = Settings {
        maxconns: 10,
        header_timeout: second,
        body_timeout: second,
        idle_timeout: second,
        stall_timeout: second,
        drain_timeout: second,
        aio_threads: 1,
        max_queue: 1,
        fsync: Default::default(),
        accesslog: None,
        slow_log: Duration::ZERO,
    };
    let spec = WorkerSpec {
        id: WorkerId(0),
        sites: vec![Site { docroot: docroot.to_owned(), usage, require_mount: false }],
        listeners: Vec::new(),
        settings,
        control,
        inbox: seqpacket_pair().unwrap().1,
        peers: Vec::new(),
        board: Scoreboard::new().unwrap(),
        accesslog: None,
        reopen_log: drop,
    };
    (spec, master)
}
