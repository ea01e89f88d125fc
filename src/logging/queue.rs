//! The way from a worker's threads to its log thread: bounded, and never waited for.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rmogstored_worker::access;

use super::Line;

/// Lines that may wait; more are counted and dropped.
const ROOM: usize = 1024;

/// Lines on their way. The lock is held for moments only, never while anything is written.
pub struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    emptied: Condvar,
}

struct State {
    lines: VecDeque<Line>,
    lost: u64,
    writing: bool,
    /// A line took longer to write than somebody would wait, and is being written still.
    hangs: bool,
}

impl Queue {
    /// An empty queue.
    pub const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                lines: VecDeque::new(),
                lost: 0,
                writing: false,
                hangs: false,
            }),
            filled: Condvar::new(),
            emptied: Condvar::new(),
        }
    }

    /// Adds a line, or counts it as lost.
    pub fn push(&self, line: Line) {
        let mut state = self.state();
        if state.lines.len() < ROOM {
            state.lines.push_back(line);
            self.filled.notify_one();
        } else if line.is_access {
            access::note_lost_in_syslog(1);
        } else {
            state.lost += 1;
        }
    }

    /// Waits for the next line; with it the number of lines lost since the last call. The line
    /// counts as pending until [`Queue::written`] is called.
    pub fn next(&self) -> (Line, u64) {
        let mut state = self.state();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.writing = true;
                return (line, std::mem::take(&mut state.lost));
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The line that [`Queue::next`] gave has been written.
    pub fn written(&self) {
        let mut state = self.state();
        state.writing = false;
        state.hangs = false;
        if state.lines.is_empty() {
            self.emptied.notify_all();
        }
    }

    /// Waits until everything pushed so far has been written, but no longer than `deadline`, and
    /// not at all while the line for which that was too short is still being written. True if it
    /// has been written.
    pub fn wait_until_written(&self, deadline: Duration) -> bool {
        let state = self.state();
        if state.hangs {
            return false;
        }
        let pending = |state: &mut State| state.writing || !state.lines.is_empty();
        let waited = self.emptied.wait_timeout_while(state, deadline, pending);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        state.hangs = waited.timed_out() && state.writing;
        !waited.timed_out()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;
    use std::thread;
    use std::time::Instant;

    const LONG: Duration = Duration::from_secs(10);

    fn line(text: impl ToString) -> Line {
        Line::now(Level::Info, text.to_string())
    }

    #[test]
    fn lines_come_out_in_order() {
        let queue = Queue::new();
        for n in 0..3 {
            queue.push(line(n));
        }
        let texts = [0, 1, 2].map(|_| queue.next().0.text);
        assert_eq!(texts, ["0", "1", "2"]);
    }

    #[test]
    fn what_does_not_fit_is_counted_once() {
        let queue = Queue::new();
        for n in 0..ROOM + 7 {
            queue.push(line(n));
        }
        assert_eq!(queue.next().1, 7);
        assert_eq!(queue.next().1, 0);
    }

    #[test]
    fn flushing_ends_at_its_deadline_when_a_write_hangs() {
        let queue = Queue::new();
        assert!(queue.wait_until_written(LONG));
        queue.push(line("hangs"));
        let _ = queue.next();
        assert!(!queue.wait_until_written(Duration::from_millis(1)));
        let begun = Instant::now();
        assert!(!queue.wait_until_written(LONG), "nobody waits for it a second time");
        assert!(begun.elapsed() < LONG);
        queue.written();
        assert!(queue.wait_until_written(LONG));
    }

    #[test]
    fn flushing_waits_for_the_writer() {
        let queue = Queue::new();
        for n in 0..100 {
            queue.push(line(n));
        }
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..100 {
                    queue.next();
                    queue.written();
                }
            });
            assert!(queue.wait_until_written(LONG));
        });
        assert!(queue.state().lines.is_empty());
    }
}
