//! Waiting for something to happen, never longer than a deadline.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Longest wait for anything; far beyond what a healthy node needs on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// The lines that another process writes, gathered by a thread as they come.
pub struct Lines(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    /// Starts gathering until the source ends.
    pub fn gather(source: impl Read + Send + 'static) -> Lines {
        let state = Mutex::new(State::default());
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let writer = Arc::clone(&shared);
        thread::spawn(move || writer.fill(source));
        Lines(shared)
    }

    /// Everything so far.
    pub fn so_far(&self) -> Vec<String> {
        self.0.lock().lines.clone()
    }

    /// Waits for the first line, gone by or to come, of which `pick` makes something.
    /// Panics at the deadline, or when the source has ended without such a line.
    pub fn find<T>(&self, what: &str, pick: impl FnMut(&str) -> Option<T>) -> T {
        self.look(0, what, pick).unwrap_or_else(|| panic!("no {what} in {:#?}", self.so_far()))
    }

    /// As [`Lines::find`], but passes over the first `skip` lines; `None` at the end.
    pub fn look<T>(
        &self,
        skip: usize,
        what: &str,
        mut pick: impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        let mut seen = skip;
        let mut found = None;
        self.wait(what, |state| {
            found = state.lines.get(seen..).unwrap_or_default().iter().find_map(|line| pick(line));
            seen = seen.max(state.lines.len());
            found.is_some()
        });
        found
    }

    /// Waits until the source has ended and gives all its lines.
    pub fn until_end(&self) -> Vec<String> {
        self.wait("the end", |state| state.ended);
        self.so_far()
    }

    /// Returns when `done` or, with it still false, when the source has ended.
    fn wait(&self, what: &str, mut done: impl FnMut(&State) -> bool) {
        let begun = Instant::now();
        let mut state = self.0.lock();
        while !done(&state) && !state.ended {
            let left = DEADLINE.saturating_sub(begun.elapsed());
            assert!(!left.is_zero(), "waited in vain for {what}: {:#?}", state.lines);
            state = self.0.changed.wait_timeout(state, left).expect("no holder panics").0;
        }
    }
}

impl Shared {
    fn fill(&self, source: impl Read) {
        let mut source = BufReader::new(source);
        let mut line = Vec::new();
        while source.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            self.lock().lines.push(text);
            self.changed.notify_all();
            line.clear();
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Waits for a state that announces itself by no event, looking again every few milliseconds.
pub fn until(what: &str, mut reached: impl FnMut() -> bool) {
    until_some(what, || reached().then_some(()));
}

/// As [`until`], for a state that comes with a value.
pub fn until_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(begun.elapsed() < DEADLINE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(3));
    }
}
