//! Disk threads of one device: a queue that the loop fills, threads that come when there is work
//! and go when there has been none for a while. Nothing here is locked across a disk operation.

mod progress;
mod threads;

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::thread::Thread;
use std::time::Duration;

pub use progress::Progress;

use crate::disk::on_disk::OnDisk;
use crate::disk::stall::Evidence;
use progress::Clock;
use threads::wake;

/// Threads that may be started in the place of those that wait for what others do.
const MOST_ASIDE: usize = 256;

/// Something to do on a disk. It delivers its result itself.
pub trait Job: Send + Sized + 'static {
    /// Runs in a disk thread until done, or returns itself to be continued after the others in
    /// the queue have had their turn.
    fn run(self, on: &OnDisk, progress: &Progress) -> Option<Self>;
}

/// Why a job is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// As many wait as may.
    Room,
    /// There is no thread and none can be started.
    Thread,
}

/// The threads and the queue of one device.
#[derive(Debug)]
pub struct Pool<J: Job>(Arc<Shared<J>>);

#[derive(Debug)]
struct Shared<J> {
    name: String,
    clock: Arc<Clock>,
    state: Mutex<State<J>>,
}

#[derive(Debug)]
struct State<J> {
    queue: VecDeque<J>,
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

impl<J: Job> Pool<J> {
    /// A pool of at most `limit` threads, which carry `name`.
    pub fn new(name: String, limit: usize) -> Self {
        let limit = limit.max(1);
        let state = State {
            queue: VecDeque::new(),
            threads: Vec::new(),
            idle: Vec::new(),
            waking: false,
            limit,
            spare: 0,
            aside: 0,
            finished: false,
        };
        let clock = Arc::new(Clock::start());
        Pool(Arc::new(Shared { name, clock, state: Mutex::new(state) }))
    }

    /// Queues a job. The error gives it back and says what it is for the lack of.
    pub fn submit(&self, job: J, max_queue: usize) -> Result<(), (J, Lack)> {
        let mut state = self.0.lock();
        if state.queue.len() >= max_queue {
            return Err((job, Lack::Room));
        }
        state.queue.push_back(job);
        self.0.count_waiting(&state);
        let helper = self.0.call_helper(&mut state);
        if state.threads.is_empty() {
            let job = state.queue.pop_back();
            self.0.count_waiting(&state);
            return job.map_or(Ok(()), |job| Err((job, Lack::Thread)));
        }
        drop(state);
        wake(helper);
        Ok(())
    }

    /// How many threads there may be from now on; surplus ones end when they are done.
    pub fn set_limit(&self, limit: usize) {
        let mut state = self.0.lock();
        state.limit = limit.max(1);
        // Those that wait already do not wait for the next one to come; surplus threads go.
        let surplus = std::mem::take(&mut state.idle);
        let helper = self.0.call_helper(&mut state);
        drop(state);
        surplus.iter().for_each(Thread::unpark);
        wake(helper);
    }

    /// Jobs queued or running.
    pub fn in_flight(&self) -> usize {
        let state = self.0.lock();
        let resting = state.idle.len() + usize::from(state.waking);
        state.queue.len() + state.threads.len().saturating_sub(resting)
    }

    /// True when a thread has come back from a job: the disk has answered this process.
    pub fn has_answered(&self) -> bool {
        self.0.lock().finished
    }

    /// Age of the oldest disk operation that has not returned.
    pub fn oldest(&self) -> Option<Duration> {
        let state = self.0.lock();
        let oldest = oldest_of(&state, |progress| &progress.began)?;
        Some(self.0.clock.age(oldest))
    }

    /// What the stall clock goes by, but for the disk's own counters; and how many threads have
    /// been in one operation for `stuck` or longer.
    pub fn evidence(&self, stuck: Duration) -> (Evidence, usize) {
        let (state, clock) = (self.0.lock(), &self.0.clock);
        let age = |at: u64| clock.age(at);
        let evidence = Evidence {
            oldest: oldest_of(&state, |progress| &progress.began).map(age),
            oldest_pace: oldest_of(&state, |progress| &progress.paced).map(age),
            since_completion: age(clock.completed.load(Relaxed)),
            ..Evidence::default()
        };
        let is_stuck = |progress: &&Arc<Progress>| {
            let began = progress.began.load(Relaxed);
            began != 0 && age(began - 1) >= stuck
        };
        (evidence, state.threads.iter().filter(is_stuck).count())
    }

    /// For whom those threads work that have been in one operation for `age` or longer.
    pub fn clients_of_old(&self, age: Duration) -> Vec<usize> {
        let state = self.0.lock();
        let is_old = |progress: &&Arc<Progress>| {
            let began = progress.began.load(Relaxed);
            began != 0 && self.0.clock.age(began - 1) >= age
        };
        let old = state.threads.iter().filter(is_old);
        old.map(|progress| progress.client.load(Relaxed)).filter(|client| *client != 0).collect()
    }

    /// How many threads there may be beyond the limit from now on.
    pub fn set_spare(&self, spare: usize) {
        let mut state = self.0.lock();
        if state.spare == spare {
            return;
        }
        state.spare = spare;
        let helper = self.0.call_helper(&mut state);
        drop(state);
        wake(helper);
    }
}

fn oldest_of<J>(state: &State<J>, since: impl Fn(&Progress) -> &AtomicU64) -> Option<u64> {
    let times = state.threads.iter().map(|progress| since(progress).load(Relaxed));
    times.filter(|&ms| ms != 0).min().map(|ms| ms - 1)
}

impl<J> State<J> {
    fn most_threads(&self) -> usize {
        self.limit + self.spare + self.aside.min(MOST_ASIDE)
    }
}

#[cfg(test)]
mod tests;
