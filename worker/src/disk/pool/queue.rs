//! The queue of a pool, and who is there to work on it. Whoever changes it is told whom to call:
//! nothing here starts, wakes or waits for a thread, and nothing locks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{Thread, ThreadId};

use super::progress::{Clock, Progress};

/// Threads that may be started in the place of those that wait for what others do.
const MOST_ASIDE: usize = 256;

/// Jobs that wait, threads that work, threads that rest.
#[derive(Debug)]
pub(super) struct Queue<J> {
    clock: Arc<Clock>,
    jobs: VecDeque<J>,
    threads: Vec<Arc<Progress>>,
    /// Threads without work; the last to rest is the first to be woken, its caches are warm.
    idle: Vec<Thread>,
    /// One was woken or started and has not come yet. It wakes the next when there is more than it
    /// can do: so a burst of short jobs costs two wake-ups, and none waits behind a slow one.
    waking: bool,
    limit: usize,
    /// Threads beyond the limit, in the place of stuck ones.
    spare: usize,
    /// Threads that wait for what others do.
    aside: usize,
    finished: bool,
}

/// Who is to be called for the jobs that wait.
#[derive(Debug)]
pub(super) enum Helper {
    /// Nobody: there is nothing to do, one is on its way, or no more are allowed.
    Nobody,
    /// This one, which rests. It counts as called.
    Idle(Thread),
    /// A new thread: [`Queue::add_thread`] when it has been started.
    New,
}

impl<J> Queue<J> {
    /// An empty one, for at most `limit` threads.
    pub(super) fn new(limit: usize) -> Queue<J> {
        Queue {
            clock: Arc::default(),
            jobs: VecDeque::new(),
            threads: Vec::new(),
            idle: Vec::new(),
            waking: false,
            limit: limit.max(1),
            spare: 0,
            aside: 0,
            finished: false,
        }
    }

    /// What all its threads tell of time.
    pub(super) fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }

    /// What each thread is in.
    pub(super) fn threads(&self) -> impl Iterator<Item = &Progress> {
        self.threads.iter().map(|progress| &**progress)
    }

    /// True when there is somebody to do a job, now or later.
    pub(super) fn has_threads(&self) -> bool {
        !self.threads.is_empty()
    }

    /// True when a thread has come back from a job.
    pub(super) fn has_finished(&self) -> bool {
        self.finished
    }

    /// True when no job waits for a thread.
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Jobs that wait or are being done.
    pub(super) fn in_flight(&self) -> usize {
        let resting = self.idle.len() + usize::from(self.waking);
        self.jobs.len() + self.threads.len().saturating_sub(resting)
    }

    /// Lets a job wait, if there are fewer than `most`.
    pub(super) fn push(&mut self, job: J, most: usize) -> Result<(), J> {
        if self.jobs.len() >= most {
            return Err(job);
        }
        self.jobs.push_back(job);
        self.count();
        Ok(())
    }

    /// Takes the job back that came last.
    pub(super) fn take_back(&mut self) -> Option<J> {
        let job = self.jobs.pop_back();
        self.count();
        job
    }

    /// The job that has waited longest.
    pub(super) fn next(&mut self) -> Option<J> {
        let job = self.jobs.pop_front()?;
        self.count();
        Some(job)
    }

    /// A thread has come back from a job, with what is left of it: that waits behind the others.
    pub(super) fn come_back(&mut self, unfinished: Option<J>) {
        self.finished = true;
        self.jobs.extend(unfinished);
        self.count();
    }

    fn count(&self) {
        self.clock.note_waiting(self.jobs.len());
    }

    /// Finds somebody for the jobs that wait, unless one is on its way.
    pub(super) fn helper(&mut self) -> Helper {
        if self.jobs.is_empty() || self.waking {
            return Helper::Nobody;
        }
        match self.idle.pop() {
            Some(thread) => {
                self.waking = true;
                Helper::Idle(thread)
            }
            None if self.threads.len() < self.most_threads() => Helper::New,
            None => Helper::Nobody,
        }
    }

    /// One has been started, and comes.
    pub(super) fn add_thread(&mut self, progress: Arc<Progress>) {
        self.threads.push(progress);
        self.waking = true;
    }

    /// The one that was called has come.
    pub(super) fn has_come(&mut self) {
        self.waking = false;
    }

    /// There are more threads than may be: who asks goes.
    pub(super) fn is_crowded(&self) -> bool {
        self.threads.len() > self.most_threads()
    }

    /// A thread goes. No job counts on it any more.
    pub(super) fn remove_thread(&mut self, progress: &Arc<Progress>) {
        self.threads.retain(|one| !Arc::ptr_eq(one, progress));
    }

    /// A thread without work rests until it is called.
    pub(super) fn rest(&mut self, thread: Thread) {
        self.idle.push(thread);
    }

    /// Whether a thread that rested was called, and so has come now.
    pub(super) fn was_called(&mut self, thread: ThreadId) -> bool {
        let called = self.idle.iter().all(|one| one.id() != thread);
        if called {
            self.waking = false;
        }
        called
    }

    /// A thread does not wait to be called any longer.
    pub(super) fn stop_resting(&mut self, thread: ThreadId) {
        self.idle.retain(|one| one.id() != thread);
    }

    /// How many threads there may be. Those that rest do not wait for the next job to come, for
    /// surplus ones go: they are to be woken.
    pub(super) fn set_limit(&mut self, limit: usize) -> Vec<Thread> {
        self.limit = limit.max(1);
        std::mem::take(&mut self.idle)
    }

    /// How many there may be beyond the limit. False: as many as before.
    pub(super) fn set_spare(&mut self, spare: usize) -> bool {
        std::mem::replace(&mut self.spare, spare) != spare
    }

    /// A thread waits for what others do, or does so no more.
    pub(super) fn set_aside(&mut self, aside: bool) {
        match aside {
            true => self.aside += 1,
            false => self.aside -= 1,
        }
    }

    fn most_threads(&self) -> usize {
        self.limit + self.spare + self.aside.min(MOST_ASIDE)
    }

    /// How many threads there are, if all of them rest.
    #[cfg(test)]
    pub(super) fn all_at_rest(&self) -> Option<usize> {
        let all = !self.waking && self.idle.len() == self.threads.len();
        all.then_some(self.threads.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(limit: usize) -> Queue<u32> {
        Queue::new(limit)
    }

    /// A thread that has been called, and has come.
    fn comes(queue: &mut Queue<u32>) -> Arc<Progress> {
        assert!(matches!(queue.helper(), Helper::New), "{queue:?}");
        let progress = Arc::new(Progress::in_test());
        queue.add_thread(Arc::clone(&progress));
        queue.has_come();
        progress
    }

    /// A handle that nobody parks on.
    fn handle() -> Thread {
        let thread = std::thread::spawn(|| ());
        let handle = thread.thread().clone();
        thread.join().unwrap();
        handle
    }

    #[test]
    fn one_is_called_at_a_time() {
        let mut queue = queue(9);
        assert!(matches!(queue.helper(), Helper::Nobody), "nothing to do");
        queue.push(1, 9).unwrap();
        queue.push(2, 9).unwrap();
        assert!(matches!(queue.helper(), Helper::New));
        assert!(matches!(queue.helper(), Helper::New), "it could not be started");
        queue.add_thread(Arc::new(Progress::in_test()));
        assert!(matches!(queue.helper(), Helper::Nobody), "it is on its way");
        assert_eq!(queue.in_flight(), 2);
        queue.has_come();
        assert_eq!(queue.next(), Some(1));
        assert!(matches!(queue.helper(), Helper::New), "it calls the next");
    }

    #[test]
    fn last_to_rest_is_first_to_be_called() {
        let mut queue = queue(2);
        queue.push(1, 9).unwrap();
        comes(&mut queue);
        comes(&mut queue);
        assert_eq!(queue.next(), Some(1));
        let (one, two) = (handle(), handle());
        queue.rest(one.clone());
        queue.rest(two.clone());
        assert_eq!(queue.all_at_rest(), Some(2));
        queue.push(2, 9).unwrap();
        let helper = queue.helper();
        assert!(matches!(&helper, Helper::Idle(thread) if thread.id() == two.id()), "{helper:?}");
        assert!(!queue.was_called(one.id()), "woken by accident");
        assert_eq!(queue.in_flight(), 1, "the job; who is on its way does nothing yet");
        assert!(queue.was_called(two.id()));
        queue.stop_resting(one.id());
        assert_eq!(queue.all_at_rest(), None);
        assert_eq!(queue.next(), Some(2));
        assert_eq!(queue.in_flight(), 2);
    }

    #[test]
    fn jobs_are_bounded_and_keep_their_order() {
        let mut queue = queue(1);
        queue.push(1, 2).unwrap();
        queue.push(2, 2).unwrap();
        assert_eq!(queue.push(3, 2), Err(3));
        assert_eq!(queue.take_back(), Some(2));
        assert!(!queue.has_finished());
        queue.come_back(Some(4));
        queue.come_back(None);
        assert!(queue.has_finished());
        assert_eq!([queue.next(), queue.next(), queue.next()], [Some(1), Some(4), None]);
    }

    #[test]
    fn threads_learn_that_a_job_waits() {
        let mut queue = queue(1);
        let clock = Arc::clone(queue.clock());
        queue.push(1, 9).unwrap();
        assert!(clock.is_wanted());
        queue.take_back();
        assert!(!clock.is_wanted());
        queue.come_back(Some(1));
        assert!(clock.is_wanted());
        queue.next();
        assert!(!clock.is_wanted());
    }

    #[test]
    fn as_many_threads_as_may_be_and_one_for_each_that_waits_for_others() {
        let mut queue = queue(0);
        queue.push(1, 9).unwrap();
        let first = comes(&mut queue);
        assert!(matches!(queue.helper(), Helper::Nobody), "one, at least and at most");
        queue.set_aside(true);
        comes(&mut queue);
        queue.set_aside(false);
        assert!(queue.is_crowded());
        assert!(queue.set_spare(1) && !queue.set_spare(1));
        assert!(!queue.is_crowded());
        assert!(queue.set_limit(2).is_empty());
        comes(&mut queue);
        assert!(matches!(queue.helper(), Helper::Nobody));
        queue.set_spare(0);
        assert!(queue.is_crowded());
        queue.remove_thread(&first);
        assert!(!queue.is_crowded() && queue.has_threads());
        assert_eq!(queue.threads().count(), 2);
    }

    #[test]
    fn those_who_rest_are_woken_by_another_limit() {
        let mut queue = queue(2);
        queue.push(1, 9).unwrap();
        comes(&mut queue);
        queue.next();
        let thread = handle();
        queue.rest(thread.clone());
        assert_eq!(queue.set_limit(1).len(), 1);
        assert!(queue.was_called(thread.id()));
    }

    #[test]
    fn threads_aside_do_not_multiply_without_end() {
        let mut queue = queue(1);
        queue.push(1, 9).unwrap();
        for _ in 0..2 * MOST_ASIDE {
            queue.set_aside(true);
        }
        for _ in 0..=MOST_ASIDE {
            comes(&mut queue);
        }
        assert!(matches!(queue.helper(), Helper::Nobody));
    }
}
