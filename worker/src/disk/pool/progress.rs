//! What a disk thread tells of itself while it works: to the stall clock, and to its pool.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::clock;

/// When the disk operation that a thread is in began; shared with the stall clock.
#[derive(Debug)]
pub struct Progress {
    clock: Arc<Clock>,
    /// Milliseconds of [`Clock::now`], plus one; 0: in no operation.
    began: AtomicU64,
    /// The job has begun, and has not said yet that it calls the disk.
    untried: AtomicBool,
    /// The same of a wait for our own writeback.
    paced: AtomicU64,
    /// For whom the thread works: a number of the job's own choice; 0: nobody.
    client: AtomicUsize,
    /// The pool, which may have another thread while this one waits for a third.
    room: Weak<dyn Room>,
}

/// Who can have another thread in the place of one.
pub(super) trait Room: Send + Sync {
    /// A thread waits for what others do, or does so no more.
    fn change(self: Arc<Self>, aside: bool);
}

/// What all threads of a pool tell of time.
#[derive(Debug)]
pub(super) struct Clock {
    /// When an operation last completed, in milliseconds of [`Clock::now`].
    completed: AtomicU64,
    /// Jobs that wait for a thread.
    waiting: AtomicUsize,
}

impl Default for Clock {
    fn default() -> Clock {
        Clock { completed: AtomicU64::new(Clock::now()), waiting: AtomicUsize::new(0) }
    }
}

impl Clock {
    /// CLOCK_MONOTONIC in milliseconds, a few of them late: that costs least.
    fn now() -> u64 {
        let now = clock::coarse();
        now.as_secs() * 1000 + u64::from(now.subsec_millis())
    }

    /// Since a time that was noted plus one; `None` for 0.
    fn since(noted: u64) -> Option<Duration> {
        let at = noted.checked_sub(1)?;
        Some(Duration::from_millis(Clock::now().saturating_sub(at)))
    }

    /// Since an operation completed last.
    pub(super) fn since_completion(&self) -> Duration {
        Duration::from_millis(Clock::now().saturating_sub(self.completed.load(Relaxed)))
    }

    /// So many jobs wait for a thread now.
    pub(super) fn note_waiting(&self, jobs: usize) {
        self.waiting.store(jobs, Relaxed);
    }

    /// True when a job waits for a thread.
    pub(super) fn is_wanted(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }
}

impl Progress {
    /// Of a new thread of the pool that has this clock.
    pub(super) fn new(clock: Arc<Clock>, room: Weak<dyn Room>) -> Progress {
        let (began, untried, paced, client) = Default::default();
        Progress { clock, began, untried, paced, client, room }
    }

    /// Of a thread that no pool has.
    #[cfg(test)]
    pub(crate) fn in_test() -> Progress {
        Progress::new(Arc::default(), Weak::<tests::Nowhere>::new())
    }

    /// A job begins, as far as is known with a disk operation.
    pub(super) fn begin(&self) {
        self.began.store(Clock::now() + 1, Relaxed);
        self.untried.store(true, Relaxed);
    }

    /// A disk operation starts, or the next one of a job that does many: the one before it, if
    /// any, has completed. The beginning of the job is none: on a disk that hangs, jobs begin.
    pub fn touch(&self) {
        let now = Clock::now();
        let first = self.untried.swap(false, Relaxed);
        if self.began.swap(now + 1, Relaxed) != 0 && !first {
            self.clock.completed.store(now, Relaxed);
        }
    }

    /// No disk operation is under way any more.
    pub fn rest(&self) {
        if self.began.swap(0, Relaxed) != 0 {
            self.clock.completed.store(Clock::now(), Relaxed);
        }
    }

    /// There was no disk operation in this turn so far.
    pub fn pass(&self) {
        self.began.store(0, Relaxed);
        self.untried.store(false, Relaxed);
    }

    /// Waits for our own writeback to make room: no operation, for as long as the disk lives.
    pub fn pace<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.rest();
        self.paced.store(Clock::now() + 1, Relaxed);
        let waited = wait();
        self.paced.store(0, Relaxed);
        waited
    }

    /// Waits for what another thread or the kernel does for several: a disk operation for the stall
    /// clock, but none of this thread's own, so that another job has this one's place meanwhile.
    pub fn stand_aside(&self, wait: &mut dyn FnMut()) {
        let change = |aside| self.room.upgrade().map(|room| room.change(aside));
        change(true);
        wait();
        change(false);
    }

    /// Says for whom the thread works: [`Pool::clients_of_old`].
    ///
    /// [`Pool::clients_of_old`]: super::Pool::clients_of_old
    pub fn serve(&self, client: usize) {
        self.client.store(client, Relaxed);
    }

    /// True when a job waits for a thread.
    pub fn is_wanted(&self) -> bool {
        self.clock.is_wanted()
    }

    /// Age of the disk operation that it is in.
    pub(super) fn operation_age(&self) -> Option<Duration> {
        Clock::since(self.began.load(Relaxed))
    }

    /// Age of a wait for our own writeback.
    pub(super) fn pace_age(&self) -> Option<Duration> {
        Clock::since(self.paced.load(Relaxed))
    }

    /// True when the operation that it is in is so old, or older.
    pub(super) fn is_old(&self, age: Duration) -> bool {
        self.operation_age().is_some_and(|own| own >= age)
    }

    /// For whom it works.
    pub(super) fn client(&self) -> Option<usize> {
        Some(self.client.load(Relaxed)).filter(|client| *client != 0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// No pool.
    pub(super) struct Nowhere;

    impl Room for Nowhere {
        fn change(self: Arc<Self>, _: bool) {}
    }

    /// The last completion is set back: has another one been noted since?
    fn completes(progress: &Progress, act: impl FnOnce(&Progress)) -> bool {
        progress.clock.completed.store(0, Relaxed);
        act(progress);
        progress.clock.completed.load(Relaxed) != 0
    }

    #[test]
    fn each_operation_but_the_first_tells_that_one_has_completed() {
        let progress = Progress::in_test();
        assert!(!completes(&progress, Progress::begin));
        assert!(!completes(&progress, Progress::touch), "the job's first call");
        assert!(completes(&progress, Progress::touch));
        assert!(completes(&progress, Progress::rest));
        assert!(!completes(&progress, Progress::rest), "nothing was under way");
        assert!(!completes(&progress, Progress::touch), "after a rest");
        assert!(completes(&progress, |progress| progress.pace(|| ())));
    }

    #[test]
    fn turn_without_an_operation_tells_nothing() {
        let progress = Progress::in_test();
        progress.begin();
        assert!(progress.operation_age().is_some());
        assert!(!completes(&progress, Progress::pass));
        assert_eq!(progress.operation_age(), None);
        assert!(!progress.is_old(Duration::ZERO));
        assert!(!completes(&progress, Progress::rest));
    }

    #[test]
    fn wait_for_our_own_writeback_is_no_operation() {
        let progress = Progress::in_test();
        progress.touch();
        progress.pace(|| {
            assert_eq!(progress.operation_age(), None);
            assert!(progress.pace_age().is_some());
        });
        assert_eq!((progress.operation_age(), progress.pace_age()), (None, None));
    }

    #[test]
    fn ages_are_those_of_the_clock() {
        let progress = Progress::in_test();
        progress.began.store(Clock::now() + 1 - 5000, Relaxed);
        let age = progress.operation_age().unwrap();
        assert!((5000..15_000).contains(&age.as_millis()), "{age:?}");
        assert!(progress.is_old(Duration::from_secs(5)));
        assert!(!progress.is_old(Duration::from_secs(60)));
    }

    #[test]
    fn who_stands_aside_has_another_in_its_place_meanwhile() {
        #[derive(Default)]
        struct Noted(Mutex<Vec<bool>>);
        impl Room for Noted {
            fn change(self: Arc<Self>, aside: bool) {
                self.0.lock().unwrap().push(aside);
            }
        }
        let room = Arc::new(Noted::default());
        let weak: Weak<dyn Room> = Arc::<Noted>::downgrade(&room);
        let progress = Progress::new(Arc::default(), weak);
        progress.stand_aside(&mut || assert_eq!(*room.0.lock().unwrap(), [true]));
        assert_eq!(*room.0.lock().unwrap(), [true, false]);
        Progress::in_test().stand_aside(&mut || ()); // Its pool has gone.
    }

    #[test]
    fn nobody_is_no_client() {
        let progress = Progress::in_test();
        assert_eq!(progress.client(), None);
        progress.serve(7);
        assert_eq!(progress.client(), Some(7));
        progress.serve(0);
        assert_eq!(progress.client(), None);
    }
}
