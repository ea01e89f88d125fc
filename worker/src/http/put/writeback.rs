//! The pacing of writeback: how far a file that grows may be ahead of what the disk has. Pure.
//!
//! Writeback is started one window behind, and the window before is waited for: no device may pile
//! up the dirty pages for which the writers of every other one would have to wait. What smaller
//! files leave dirty, the kernel writes in its own time.

/// Writeback of a large file is started in steps of this size.
pub(super) const WINDOW: u64 = 8 * 1024 * 1024;

/// How far writeback has been started, counted from where the content begins.
#[derive(Debug, Default)]
pub(super) struct Writeback {
    started: u64,
}

/// The next thing to do. Each window has [`WINDOW`] bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Step {
    /// The window whose writeback starts, by its first byte.
    pub(super) start: u64,
    /// The one whose end is waited for, then.
    pub(super) wait: Option<u64>,
}

impl Writeback {
    /// What is due when so much has been written; to be asked again until there is nothing.
    pub(super) fn due(&mut self, written: u64) -> Option<Step> {
        if written - self.started < 2 * WINDOW {
            return None;
        }
        let step = Step { start: self.started, wait: self.started.checked_sub(WINDOW) };
        self.started += WINDOW;
        Some(step)
    }

    /// Some of the file is on its way, or was: the kernel may know of an error.
    pub(super) fn has_begun(&self) -> bool {
        self.started > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_are_left_to_the_kernel() {
        let mut writeback = Writeback::default();
        assert_eq!(writeback.due(0), None);
        assert_eq!(writeback.due(2 * WINDOW - 1), None);
        assert!(!writeback.has_begun());
    }

    #[test]
    fn each_window_is_started_once_and_the_one_before_waited_for() {
        let mut writeback = Writeback::default();
        let (mut started, mut waited) = (0, 0);
        for written in (0..=40 * WINDOW).step_by(256 * 1024) {
            while let Some(Step { start, wait }) = writeback.due(written) {
                assert_eq!(start, started);
                assert_eq!(wait, start.checked_sub(WINDOW));
                started += WINDOW;
                waited = wait.map_or(waited, |wait| wait + WINDOW);
            }
            // What may be dirty, or on its way.
            assert!(written - waited < 3 * WINDOW, "{written}: {waited}");
            assert!(started + WINDOW <= written || started == 0, "{written}: {started}");
        }
        assert_eq!((started, waited), (39 * WINDOW, 38 * WINDOW));
        assert!(writeback.has_begun());
    }

    #[test]
    fn one_large_piece_makes_several_steps() {
        let mut writeback = Writeback::default();
        let starts: Vec<_> = std::iter::from_fn(|| writeback.due(4 * WINDOW)).collect();
        let step = |start, wait| Step { start, wait };
        assert_eq!(starts, [step(0, None), step(WINDOW, Some(0)), step(2 * WINDOW, Some(WINDOW))]);
    }
}
