//! What the load and endurance tests share.

mod chance;
mod link;
pub mod process;

pub use chance::Chance;
pub use link::{Link, Reply};

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use nix::unistd::Pid;

use crate::harness::{Node, until};

/// One disk thread may be kept alive by what is looked at every few seconds.
const FEW_THREADS: usize = 1;

/// Sets a flag when the thread that holds it ends, in whatever way.
pub struct Ends<'a>(pub &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// One number of each worker in the status document, in the order of their slots.
pub fn worker_numbers(node: &Node, key: &str) -> Vec<u64> {
    let status = node.status();
    let workers = status["workers"].as_array().expect("a list");
    let number = |worker: &serde_json::Value| worker[key].as_u64().expect("a number");
    workers.iter().map(number).collect()
}

/// The same, added up.
pub fn total(node: &Node, key: &str) -> u64 {
    worker_numbers(node, key).iter().sum()
}

/// Each worker's process and how many descriptors it has, once it serves no connection.
pub fn descriptors_at_rest(node: &Node) -> Vec<(Pid, usize)> {
    until("the connections to be gone", || total(node, "connections") == 0);
    node.workers().into_iter().map(|pid| (pid, process::descriptors(pid))).collect()
}

/// The private memory of each worker, once it serves no connection and its disk threads, which
/// have buffers of their own, have gone for lack of work.
pub fn memory_at_rest(node: &Node) -> Vec<u64> {
    until("the connections to be gone", || total(node, "connections") == 0);
    let workers = node.workers();
    until("idle disk threads to go", || {
        workers.iter().all(|pid| process::disk_threads(*pid) <= FEW_THREADS)
    });
    workers.into_iter().map(process::private_memory).collect()
}
