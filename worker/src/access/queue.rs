//! The way from the loop to the thread that writes: bounded, and never waited for.

use std::fs::File;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::due;

/// Bytes that may wait; a line more is lost.
const ROOM: usize = 1 << 20;
/// From so many on they are written at once.
const ENOUGH: usize = 64 * 1024;

/// Lines on their way. The lock is held for moments only, never while anything is written.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Whole lines.
    lines: Vec<u8>,
    /// When the first of them came.
    first: Option<Instant>,
    /// The file has been opened again.
    file: Option<File>,
    writing: bool,
    /// What is there is written at once.
    ending: bool,
    why_lost: Option<&'static str>,
}

/// A line is lost: as many wait as may.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// What the thread is to do.
#[derive(Debug)]
pub(super) struct Batch {
    /// To be written to from now on.
    pub file: Option<File>,
    /// Whole lines.
    pub lines: Vec<u8>,
}

impl Queue {
    /// Adds a line with its end, if there is room.
    pub(super) fn push(&self, line: &[u8]) -> Result<(), Full> {
        let mut state = self.state();
        let before = state.lines.len();
        if before + line.len() > ROOM {
            return Err(Full);
        }
        state.lines.extend_from_slice(line);
        let after = state.lines.len();
        if before == 0 {
            state.first = Some(crate::clock::instant());
        }
        drop(state);
        if before == 0 || before < ENOUGH && after >= ENOUGH {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Lines are written to this file from now on.
    pub(super) fn replace(&self, file: File) {
        // What is closed here is closed under no lock.
        let unused = self.state().file.replace(file);
        drop(unused);
        self.filled.notify_one();
    }

    /// Thread: waits until there is enough to write, or for long enough. `spare`: an empty buffer.
    pub(super) fn next(&self, spare: Vec<u8>) -> Batch {
        let mut state = self.state();
        state.writing = false;
        if state.lines.is_empty() {
            self.emptied.notify_all();
        }
        loop {
            let wait = state.first.map(due);
            let is_due = state.ending || wait.is_some_and(|wait| wait.is_zero());
            if state.file.is_some() || state.lines.len() >= ENOUGH || is_due && wait.is_some() {
                break;
            }
            state = match wait {
                None => self.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(wait) => {
                    let waited = self.filled.wait_timeout(state, wait);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        state.writing = true;
        state.first = None;
        let lines = std::mem::replace(&mut state.lines, spare);
        Batch { file: state.file.take(), lines }
    }

    /// Thread: why lines were lost.
    pub(super) fn note_lost(&self, why: &'static str) {
        self.state().why_lost = Some(why);
    }

    /// Why lines were lost.
    pub(super) fn why_lost(&self) -> &'static str {
        self.state().why_lost.unwrap_or("it takes them too slowly")
    }

    /// Has all written at once, and waits for it, no longer than until then.
    pub(super) fn finish(&self, until: Instant) {
        let mut state = self.state();
        state.ending = true;
        self.filled.notify_one();
        let left = until.saturating_duration_since(crate::clock::instant());
        let pending = |state: &mut State| state.writing || !state.lines.is_empty();
        drop(self.emptied.wait_timeout_while(state, left, pending));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn lines_come_together_and_those_without_room_are_refused() {
        let queue = Queue::default();
        let line = [b'x'; 1024];
        let taken = (0..ROOM / line.len()).filter(|_| queue.push(&line).is_ok()).count();
        assert_eq!((taken, queue.push(b"one more")), (1024, Err(Full)));
        assert_eq!(queue.next(Vec::new()).lines.len(), ROOM);
        assert_eq!(queue.push(&line), Ok(()));
    }

    #[test]
    fn who_ends_waits_for_the_writer_and_not_for_ever() {
        let queue = Queue::default();
        queue.push(b"one\n").unwrap();
        let begun = Instant::now();
        queue.finish(begun + Duration::from_millis(5));
        assert!(begun.elapsed() >= Duration::from_millis(5), "nobody writes");
        thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!(queue.next(Vec::new()).lines, b"one\n");
                // The second call says that it is written, and is ended by the next line.
                queue.next(Vec::new());
            });
            queue.finish(begun + Duration::from_secs(60));
            assert!(begun.elapsed() < Duration::from_secs(60));
            queue.push(b"two\n").unwrap();
        });
    }

    #[test]
    fn a_new_file_is_told_of_at_once() {
        let queue = Queue::default();
        queue.replace(tempfile::tempfile().unwrap());
        let batch = queue.next(Vec::new());
        assert!(batch.file.is_some() && batch.lines.is_empty());
    }
}
