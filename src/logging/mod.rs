//! The log: standard error and the local syslog, never waited for.
//!
//! | module | holds |
//! |---|---|
//! | [`stderr`] | lines for standard error |
//! | [`syslog`] | messages for the local syslog |
//! | [`queue`] | the way from a worker's threads to its log thread |
//!
//! The master has one thread and writes where it logs, without waiting. A worker's event loop
//! must not wait even for a file on a hung disk, so there a thread of its own writes.

mod queue;
mod stderr;
mod syslog;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use log::{Level, Log, Metadata, Record};
use nix::sys::signal::{SigSet, SigmaskHow};
use rmogstored_master::config::LogConfig;
use rmogstored_master::logs;
use rmogstored_worker::access;

use queue::Queue;
use stderr::Stderr;
use syslog::Syslog;

/// How long [`Log::flush`] waits for a log thread that may be stuck on a hung disk.
const FLUSH_DEADLINE: Duration = Duration::from_millis(200);

/// Ample for what formatting and the time conversion need.
const STACK: usize = 128 * 1024;

static LOGGER: Logger = Logger {
    sinks: Mutex::new(Sinks { file: None, stderr: None, syslog: None, one_journal: false }),
    next_file: Mutex::new(None),
    queue: Queue::new(),
    queued: AtomicBool::new(false),
};

/// Lines on standard error and in a file are JSON.
static JSON: AtomicBool = AtomicBool::new(false);

/// The file that is written to, for a reload that names another one.
static PATH: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Starts logging in this process, without a thread. Its children inherit it.
///
/// # Errors
/// Tells why the log's file cannot be opened.
pub fn init(config: &LogConfig) -> Result<(), String> {
    let mut sinks = LOGGER.sinks();
    sinks.syslog = Some(Syslog::open());
    sinks.stderr = Some(Stderr::open());
    sinks.one_journal = stderr::is_journal();
    drop(sinks);
    // Fails only when called again, and then the logger is the same.
    let _ = log::set_logger(&LOGGER);
    change(config)
}

/// What is said from now on, and where. The file is opened if it is another one.
///
/// # Errors
/// Tells why the file cannot be opened; then nothing changes.
pub fn change(config: &LogConfig) -> Result<(), String> {
    let mut path = PATH.lock().unwrap_or_else(PoisonError::into_inner);
    if *path != config.file {
        let file = config.file.as_deref().map(|path| {
            logs::open(path).map_err(|e| format!("cannot open the log {}: {e}", path.display()))
        });
        LOGGER.sinks().file = file.transpose()?.map(Stderr::file);
        path.clone_from(&config.file);
    }
    JSON.store(config.json, Ordering::Relaxed);
    log::set_max_level(config.level);
    Ok(())
}

/// The log's file has been opened again.
pub fn write_to(file: OwnedFd) {
    // Not under the lock under which lines are written: a worker's loop comes here.
    let mut next = LOGGER.next_file.lock().unwrap_or_else(PoisonError::into_inner);
    *next = Some(file.into());
}

fn is_json() -> bool {
    JSON.load(Ordering::Relaxed)
}

/// Called in a forked worker: from now on a thread of its own writes the lines.
pub fn in_worker() {
    if let Some(syslog) = &mut LOGGER.sinks().syslog {
        syslog.speak_for(process::id());
    }
    match start_thread() {
        Ok(()) => LOGGER.queued.store(true, Ordering::Release),
        Err(e) => log::warn!("no log thread: {e}"),
    }
}

/// Called for SIGUSR1: what waits is written out. A file comes to [`write_to`] once it is open.
pub fn reopen() {
    log::logger().flush();
}

/// Called when standard error has become `/dev/null`: syslog alone remains.
pub fn leave_stderr() {
    LOGGER.sinks().stderr = None;
}

/// One line on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    time: SystemTime,
    level: Level,
    text: String,
    /// Of the access log: for the syslog alone.
    is_access: bool,
}

impl Line {
    fn now(level: Level, text: String) -> Self {
        Self { time: SystemTime::now(), level, text, is_access: false }
    }

    /// The line that stands for those that could not be written.
    fn lost(count: u64) -> Self {
        Self::now(Level::Warn, format!("{count} log lines lost"))
    }
}

/// Where a line goes. A line that cannot go at once is counted, and the count is told before
/// the next line that can.
trait Sink {
    /// Writes without waiting; false if the line could not be taken now.
    fn write(&mut self, line: &Line) -> bool;

    /// Lines lost so far.
    fn lost(&mut self) -> &mut u64;

    /// Writes the line, and the count of lost ones first.
    fn take(&mut self, line: &Line) {
        let lost = *self.lost();
        if lost > 0 && self.write(&Line::lost(lost)) {
            *self.lost() = 0;
        }
        if *self.lost() > 0 || !self.write(line) {
            *self.lost() += 1;
        }
    }
}

struct Sinks {
    /// Instead of the others, if there is one.
    file: Option<Stderr>,
    stderr: Option<Stderr>,
    syslog: Option<Syslog>,
    /// Both end in systemd's journal: a line for each would be there twice.
    one_journal: bool,
}

impl Sinks {
    fn take(&mut self, line: &Line) {
        let next = LOGGER.next_file.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(next) = next {
            self.file = Some(Stderr::file(next));
        }
        if line.is_access {
            if !self.syslog.as_mut().is_some_and(|syslog| syslog.write(line)) {
                access::note_lost_in_syslog(1);
            }
            return;
        }
        if let Some(file) = &mut self.file {
            return file.take(line);
        }
        if self.one_journal && self.syslog.as_mut().is_some_and(|syslog| syslog.write(line)) {
            return;
        }
        if let Some(stderr) = &mut self.stderr {
            stderr.take(line);
        }
        if let Some(syslog) = self.syslog.as_mut().filter(|_| !self.one_journal) {
            syslog.take(line);
        }
    }

    /// Lines that never came out of the queue.
    fn note_lost(&mut self, count: u64) {
        if let Some(file) = &mut self.file {
            *file.lost() += count;
            return;
        }
        if let Some(stderr) = &mut self.stderr {
            *stderr.lost() += count;
        }
        if let Some(syslog) = &mut self.syslog {
            *syslog.lost() += count;
        }
    }
}

struct Logger {
    sinks: Mutex<Sinks>,
    /// To be written to from the next line on.
    next_file: Mutex<Option<File>>,
    queue: Queue,
    queued: AtomicBool,
}

impl Logger {
    fn sinks(&self) -> MutexGuard<'_, Sinks> {
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let is_access = record.target() == access::SYSLOG_TARGET;
        if !is_access && !self.enabled(record.metadata()) {
            return;
        }
        let text = record.args().to_string();
        let line = Line { is_access, ..Line::now(record.level(), text) };
        if self.queued.load(Ordering::Acquire) {
            self.queue.push(line);
        } else {
            self.sinks().take(&line);
        }
    }

    fn flush(&self) {
        if self.queued.load(Ordering::Acquire) {
            self.queue.wait_until_written(FLUSH_DEADLINE);
        }
    }
}

/// Signals are the event loop's: the thread is started with all of them blocked.
fn start_thread() -> std::io::Result<()> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let started = thread::Builder::new().name("log".into()).stack_size(STACK).spawn(write_queued);
    before.thread_set_mask()?;
    started.map(drop)
}

fn write_queued() {
    loop {
        let (line, lost) = LOGGER.queue.next();
        let mut sinks = LOGGER.sinks();
        sinks.note_lost(lost);
        sinks.take(&line);
        drop(sinks);
        LOGGER.queue.written();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as many lines as it has room for.
    #[derive(Default)]
    struct Narrow {
        room: usize,
        taken: Vec<String>,
        lost: u64,
    }

    impl Sink for Narrow {
        fn write(&mut self, line: &Line) -> bool {
            let fits = self.room > 0;
            if fits {
                self.room -= 1;
                self.taken.push(line.text.clone());
            }
            fits
        }

        fn lost(&mut self) -> &mut u64 {
            &mut self.lost
        }
    }

    fn line(text: &str) -> Line {
        Line::now(Level::Info, text.into())
    }

    #[test]
    fn lost_lines_are_told_before_the_next_that_gets_through() {
        let mut sink = Narrow { room: 1, ..Narrow::default() };
        ["a", "b", "c"].into_iter().for_each(|text| sink.take(&line(text)));
        sink.room = 5;
        ["d", "e"].into_iter().for_each(|text| sink.take(&line(text)));
        assert_eq!(sink.taken, ["a", "2 log lines lost", "d", "e"]);
    }

    #[test]
    fn a_line_after_the_told_loss_may_be_lost_itself() {
        let mut sink = Narrow::default();
        sink.take(&line("a"));
        sink.room = 1;
        sink.take(&line("b"));
        sink.room = 5;
        sink.take(&line("c"));
        assert_eq!(sink.taken, ["1 log lines lost", "1 log lines lost", "c"]);
    }
}
