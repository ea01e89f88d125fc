//! One worker of rmogstored: a process with an event loop and disk threads.
//!
//! Floors, the highest first; a module knows those below it, and on its own floor.
//!
//! | module | holds |
//! |---|---|
//! | `event_loop` | the only one that knows the whole worker: what each event means, and acting on it |
//! | [`clients`] | connections without what is said on them; listeners; the other workers |
//! | [`access`] | the access log, and the lines of slow operations |
//! | [`http`], [`sidechannel`] | parsers, answers, and the operations that disk threads do |
//! | [`disk`] | devices, their threads, and all that may wait for a disk |
//! | [`scoreboard`] | counters in shared memory that every process sees |
//! | [`spec`], [`control`] | what a worker is told when it starts; messages between master and worker |
//! | [`route`] | what is spoken on a connection, where it belongs in a successor |
//! | [`trace`] | what is noted of a request while it is served |
//! | [`ids`], [`clock`] | numbers of workers, docroots, devices and connections; the only reader of clocks |
//! | [`sys`] | the only unsafe code: system calls that nix does not wrap |

pub mod access;
pub mod clients;
pub mod clock;
pub mod control;
pub mod disk;
mod event_loop;
#[cfg(test)]
mod failing_disk;
pub mod http;
pub mod ids;
pub mod route;
pub mod scoreboard;
pub mod sidechannel;
pub mod spec;
pub mod sys;
#[cfg(test)]
mod testing;
pub mod trace;

pub use event_loop::odd_usage_interval;

/// Runs a worker in the process just forked for it. Returns its exit status when it has drained.
pub fn run(spec: spec::WorkerSpec) -> i32 {
    let id = spec.id;
    sys::memory::give_back_large_buffers();
    sys::signal::ignore_file_size_signal();
    try_doors(&spec);
    // What is still open is closed by the kernel when the process ends: not by this thread.
    let worker = event_loop::Worker::new(spec).map(std::mem::ManuallyDrop::new);
    match worker.and_then(|mut worker| worker.run()) {
        Ok(()) => 0,
        Err(e) => {
            log::error!("worker {id}: {e}");
            1
        }
    }
}

/// What the kernel or a sandbox does not allow is told once for all workers.
fn try_doors(spec: &spec::WorkerSpec) {
    let news = spec.board.note_closed(spec.id, sys::doors::look()).names();
    if !news.is_empty() {
        let names = news.join(", ");
        log::info!("the kernel, or a sandbox, has not or forbids: {names}. Other ways are used");
    }
}
