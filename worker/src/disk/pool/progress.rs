//! What a disk thread tells of itself while it works: to the stall clock, and to its pool.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::clock;

/// When the disk operation that a thread is in began; shared with the stall clock.
#[derive(Debug)]
pub struct Progress {
    pub(super) clock: Arc<Clock>,
    /// Milliseconds of [`Clock::now`], plus one; 0: in no operation.
    pub(super) began: AtomicU64,
    /// The job has begun, and has not said yet that it calls the disk.
    pub(super) untried: AtomicBool,
    /// The same of a wait for our own writeback.
    pub(super) paced: AtomicU64,
    /// For whom the thread works: a number of the job's own choice; 0: nobody.
    pub(super) client: AtomicUsize,
    /// The pool, which may have another thread while this one waits for a third.
    pub(super) room: Weak<dyn Room>,
}

pub(super) trait Room: Send + Sync {
    fn change(self: Arc<Self>, aside: bool);
}

/// What all threads of a pool tell of time.
#[derive(Debug)]
pub(super) struct Clock {
    /// When an operation last completed, in milliseconds of [`Clock::now`].
    pub(super) completed: AtomicU64,
    /// Jobs that wait for a thread.
    pub(super) waiting: AtomicUsize,
}

impl Clock {
    pub(super) fn start() -> Clock {
        Clock { completed: AtomicU64::new(Clock::now()), waiting: AtomicUsize::new(0) }
    }

    /// CLOCK_MONOTONIC in milliseconds, a few of them late: that costs least.
    fn now() -> u64 {
        let now = clock::coarse();
        now.as_secs() * 1000 + u64::from(now.subsec_millis())
    }

    pub(super) fn age(&self, at: u64) -> Duration {
        Duration::from_millis(Clock::now().saturating_sub(at))
    }
}

impl Progress {
    /// Of a thread that no pool has.
    #[cfg(test)]
    pub(crate) fn in_test() -> Progress {
        let room: Weak<dyn Room> = Weak::<super::Shared<super::tests::Step>>::new();
        let (began, untried, paced, client) = Default::default();
        Progress { clock: Arc::new(Clock::start()), began, untried, paced, client, room }
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
    pub fn serve(&self, client: usize) {
        self.client.store(client, Relaxed);
    }

    /// True when a job waits for a thread.
    pub fn is_wanted(&self) -> bool {
        self.clock.waiting.load(Relaxed) > 0
    }
}
