//! The access log: a line for each request that is wanted, on its way to a file or the syslog.
//! The loop writes lines into memory; a thread of the worker takes them from there.
//!
//! | module | holds |
//! |---|---|
//! | `asked` | what of a request's head goes into a line |
//! | `line` | a request as a line, in which a peer can forge nothing |
//! | `queue` | the way from the loop to the thread, bounded |
//! | `writer` | the thread, and how it writes to a file that may be full or hang |
//! | [`slow`] | the line of a slow operation, in the log |

mod asked;
mod line;
mod queue;
pub mod slow;
mod writer;

use std::fs::File;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

pub use asked::asked;
use queue::{Full, Queue};

use crate::clock;
use crate::disk::repeated::Repeated;
use crate::ids::WorkerId;
use crate::scoreboard::WorkerSlot;
use crate::spec::{AccessSettings, LogFormat, LogTarget, Wanted};
use crate::trace::Trace;

/// Where lines for the syslog go: the `log` facade, under this target.
pub const SYSLOG_TARGET: &str = "rmogstored::accesslog";
/// Lost lines are told this often at most.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long a worker that ends waits for its lines to be written.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// The counter of this worker.
static LOST: OnceLock<&'static AtomicU64> = OnceLock::new();

/// So many lines did not get to the syslog.
pub fn note_lost_in_syslog(lines: u64) {
    if let Some(lost) = LOST.get() {
        lost.fetch_add(lines, Relaxed);
    }
}

/// A worker's access log.
#[derive(Debug)]
pub struct AccessLog {
    settings: AccessSettings,
    worker: WorkerId,
    slot: &'static WorkerSlot,
    /// From which time without the peer a request is slow; zero: none is.
    slow: Duration,
    /// `None`: lines go to the syslog.
    queue: Option<Arc<Queue>>,
    line: Vec<u8>,
    /// How many lost lines have been told of.
    told: u64,
    telling: Repeated,
}

impl AccessLog {
    /// Starts it, with its thread where there is a file.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(
        settings: AccessSettings,
        file: Option<File>,
        slow: Duration,
        (worker, slot): (WorkerId, &'static WorkerSlot),
    ) -> io::Result<AccessLog> {
        let queue = match (&settings.target, file) {
            (LogTarget::File(_), Some(file)) => {
                let queue = Arc::new(Queue::default());
                writer::start(Arc::clone(&queue), file, slot)?;
                Some(queue)
            }
            _ => None,
        };
        LOST.get_or_init(|| &slot.accesslog_lost);
        let (line, telling) = (Vec::new(), Repeated::new(INTERVAL));
        let told = slot.accesslog_lost.load(Relaxed);
        Ok(AccessLog { settings, worker, slot, slow, queue, line, told, telling })
    }

    /// A request is over.
    pub fn note(&mut self, trace: &Trace) {
        if !self.wants(trace) {
            return;
        }
        self.line.clear();
        match self.settings.format {
            LogFormat::Combined => line::combined(&mut self.line, trace, self.worker),
            LogFormat::Json => line::json(&mut self.line, trace, self.worker),
        }
        match &self.queue {
            Some(queue) => {
                self.line.push(b'\n');
                if let Err(Full) = queue.push(&self.line) {
                    self.slot.accesslog_lost.fetch_add(1, Relaxed);
                }
            }
            None => to_syslog(&self.line),
        }
    }

    /// Whether a line of this request is wanted.
    fn wants(&self, trace: &Trace) -> bool {
        let Wanted { writes, errors, slow } = self.settings.only;
        if !(writes || errors || slow) {
            return true;
        }
        let line = &trace.asked().line;
        let is_write = [&b"PUT "[..], b"DELETE ", b"MKCOL "].iter().any(|m| line.starts_with(m));
        writes && is_write
            || errors && trace.status().is_none_or(|status| status >= 400)
            || slow && slow::is_slow(trace, self.slow)
    }

    /// From now on lines go to this file: it has been opened again.
    pub fn reopen(&self, file: File) {
        if let Some(queue) = &self.queue {
            queue.replace(file);
        }
    }

    /// Tells of lost lines, when it is time. Called by the clock.
    pub fn tell(&mut self) {
        let lost = self.slot.accesslog_lost.load(Relaxed);
        if lost == self.told || !self.telling.is_quiet(clock::instant()) {
            return;
        }
        self.telling.note(clock::instant());
        let why = self.queue.as_ref().map_or("the syslog takes no more", |queue| queue.why_lost());
        let target = &self.settings.target;
        log::warn!("accesslog = {target}: {} lines lost: {why}", lost - self.told);
        self.told = lost;
    }

    /// The worker ends: waits a moment until all is written.
    pub fn finish(&mut self) {
        if let Some(queue) = &self.queue {
            queue.finish(clock::instant() + LAST_WAIT);
        }
        self.telling = Repeated::new(Duration::ZERO);
        self.tell();
    }
}

/// The lines are ASCII.
fn to_syslog(line: &[u8]) {
    let text = String::from_utf8_lossy(line);
    let mut record = log::Record::builder();
    record.level(log::Level::Info).target(SYSLOG_TARGET);
    log::logger().log(&record.args(format_args!("{text}")).build());
}

/// When the thread writes what there is.
fn due(first: Instant) -> Duration {
    writer::AT_LEAST_EACH.saturating_sub(clock::instant().saturating_duration_since(first))
}
