//! 5: real filesystems on a block device that hangs, crawls and fails: who waits for it, and who
//! must not.

/// Everybody has an answer in time, however long a disk hangs.
mod answers_in_time;
/// A disk that is slow, or serves some and not others, is not stalled.
mod busy_is_not_dead;
/// Cold files of a hanging disk.
mod cold_reads;
/// Chunk extensions without an end.
mod endless_extensions;
/// A list of extents that must be read first.
mod extents;
/// A flush that hangs, for those who wait for it.
mod flush_hangs;
/// Mounts that are no device's.
mod foreign_mounts;
/// What is kept open is looked at, and let go.
mod kept_files;
/// The last close of a device is its unmount.
mod lazy_unmount;
/// What ends a PUT in its middle.
mod mid_put;
/// What the other disks' clients notice.
mod neighbours;
/// One write that fails.
mod nth_write;
/// What an fsync of one folder makes safe.
mod one_fsync;
/// Flushes that many share.
mod shared_flush;
/// A docroot that stops answering.
mod silent_docroot;
/// The disk that the others use does what it is told.
mod the_disk;
/// Usage beside a disk that hangs from the start.
mod usage_at_start;
/// XFS takes a file's lock for reading.
mod xfs_lock;

use std::path::Path;
use std::time::Duration;

use crate::harness::real_disk::{RealSick, Tree};
use crate::harness::{Client, Node, until};
use crate::load::{process, total};

/// How long a disk hangs where the time matters: a minute where somebody has the patience.
pub fn long(short: u64, patient: u64) -> Duration {
    let patience = std::env::var_os("RMOGSTORED_LONG").is_some();
    Duration::from_secs(if patience { patient } else { short })
}

/// A file on each device, and each device in use, before anything hangs.
pub fn settle(node: &Node) {
    let mut client = node.client();
    for device in 1..=4 {
        client.put(&format!("/dev{device}/kept"), "kept").expect(201);
        let usage = format!("/dev{device}/usage");
        until("usage", || client.get(&usage).status == 200);
    }
}

/// So many connections, all of which the node has taken.
pub fn connect(node: &Node, count: usize) -> Vec<Client> {
    let allowed = process::allow_descriptors(count as u64 + 4096);
    assert!(allowed, "{count} connections need more descriptors than this machine allows");
    let clients: Vec<_> = (0..count).map(|_| node.client()).collect();
    until("them to be taken", || total(node, "connections") >= count as u64);
    clients
}

/// A GET for each path, on a connection for each.
pub fn ask_all(clients: &mut [Client], paths: &[String]) {
    for (client, path) in clients.iter_mut().zip(paths) {
        client.send(format!("GET {path} HTTP/1.1\r\n\r\n"));
    }
}

/// What writes a tree on a disk.
pub fn writes(tree: &Tree) -> impl Fn(&Path) + Sync {
    let tree = tree.clone();
    move |device| tree.write(device)
}

/// A node as [`RealSick::start`] makes it, settled, its tree's names known and its content cold.
pub fn ready(sick: &RealSick, tree: &Tree) {
    settle(&sick.node);
    tree.look_at(&sick.dev1());
}
