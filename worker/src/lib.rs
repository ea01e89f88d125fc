//! One worker of rmogstored: a process with an event loop and disk threads.
//!
//! | module | holds |
//! |---|---|
//! | [`spec`] | what a worker is told when it starts |
//! | [`control`] | messages between master and worker |
//! | [`scoreboard`] | counters in shared memory that every process sees |
//! | `event_loop` | waiting, tokens, what each event means |
//! | `advance` | moving one connection on, acting on what it waits for |
//! | `requests`, `lines` | what a peer has sent: HTTP requests, sidechannel lines |
//! | `discard`, `lend`, `transfer` | unwanted bodies; to a disk thread and back; to another worker |
//! | [`open_files`] | hot files that stay open for a second |
//! | `serve` | an HTTP request: answered, read from the page cache, lent to a disk thread, handed over |
//! | `accept`, `drain` | new connections; leaving |
//! | `tick`, `timer`, `devices` | what is done by the clock; deadlines of connections; of devices |
//! | `docroots` | which devices there are, for the master |
//! | [`loan`] | who may speak on a connection that a disk thread has |
//! | `clerk` | what one worker measures for all: how busy the disks are |
//! | [`conn`] | one client |
//! | [`exchange`], [`completions`] | what a disk thread does for the loop; its outcomes on the way back |
//! | `give_way` | when the loop lets the disk threads run first |
//! | [`handover`] | inboxes: connections from one worker to another |
//! | [`http`] | parsers, answers and exchanges of HTTP |
//! | [`sidechannel`] | the line protocol |
//! | [`disk`] | paths, devices, disk threads |
//! | [`sys`] | the only unsafe code: system calls that nix does not wrap |

mod accept;
mod advance;
mod clerk;
pub mod completions;
pub mod conn;
pub mod control;
mod devices;
mod discard;
pub mod disk;
mod docroots;
mod drain;
mod event_loop;
pub mod exchange;
#[cfg(test)]
mod failing_disk;
mod give_way;
pub mod handover;
pub mod http;
mod lend;
mod lines;
pub mod loan;
pub mod open_files;
mod requests;
pub mod scoreboard;
mod serve;
pub mod sidechannel;
pub mod spec;
pub mod sys;
#[cfg(test)]
mod testing;
mod tick;
mod timer;
mod transfer;

pub use tick::odd_usage_interval;

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
