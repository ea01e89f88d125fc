//! Disk threads of one device: a queue that the loop fills, threads that come when there is work
//! and go when there has been none for a while. Nothing here is locked across a disk operation.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use nix::time::ClockId;

use crate::disk::on_disk::OnDisk;
use crate::disk::shortage;
use crate::disk::stall::Evidence;
use crate::sys::priority;

/// A thread without work ends after this time, and its memory goes with it.
const IDLE_LIFE: Duration = Duration::from_secs(10);
/// Enough for the deepest call chain of a job several times over.
const STACK: usize = 256 * 1024;
/// Threads that may be started in the place of those that wait for what others do.
const MOST_ASIDE: usize = 256;

/// Something to do on a disk. It delivers its result itself.
pub trait Job: Send + Sized + 'static {
    /// Runs in a disk thread until done, or returns itself to be continued after the others in
    /// the queue have had their turn.
    fn run(self, on: &OnDisk, progress: &Progress) -> Option<Self>;
}

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

trait Room: Send + Sync {
    fn change(self: Arc<Self>, aside: bool);
}

/// What all threads of a pool tell of time.
#[derive(Debug)]
struct Clock {
    /// When an operation last completed, in milliseconds of [`Clock::now`].
    completed: AtomicU64,
    /// Jobs that wait for a thread.
    waiting: AtomicUsize,
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

impl Clock {
    fn start() -> Clock {
        Clock { completed: AtomicU64::new(Clock::now()), waiting: AtomicUsize::new(0) }
    }

    /// CLOCK_MONOTONIC in milliseconds, a few of them late: that costs least.
    fn now() -> u64 {
        let now = ClockId::CLOCK_MONOTONIC_COARSE.now().map_or(Duration::ZERO, Duration::from);
        now.as_secs() * 1000 + u64::from(now.subsec_millis())
    }

    fn age(&self, at: u64) -> Duration {
        Duration::from_millis(Clock::now().saturating_sub(at))
    }
}

impl Progress {
    /// Of a thread that no pool has.
    #[cfg(test)]
    pub(crate) fn in_test() -> Progress {
        let room: Weak<dyn Room> = Weak::<Shared<tests::Step>>::new();
        let (began, untried, paced, client) = Default::default();
        Progress { clock: Arc::new(Clock::start()), began, untried, paced, client, room }
    }

    /// A job begins, as far as is known with a disk operation.
    fn begin(&self) {
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

fn wake(helper: Option<Thread>) {
    if let Some(thread) = helper {
        thread.unpark();
    }
}

impl<J> State<J> {
    fn most_threads(&self) -> usize {
        self.limit + self.spare + self.aside.min(MOST_ASIDE)
    }
}

impl<J: Job> Room for Shared<J> {
    fn change(self: Arc<Self>, aside: bool) {
        let mut state = self.lock();
        match aside {
            true => state.aside += 1,
            false => state.aside -= 1,
        }
        let helper = if aside { self.call_helper(&mut state) } else { None };
        drop(state);
        wake(helper);
    }
}

impl<J: Job> Shared<J> {
    fn lock(&self) -> MutexGuard<'_, State<J>> {
        // A job that panicked was not holding the lock; the state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_waiting(&self, state: &State<J>) {
        self.clock.waiting.store(state.queue.len(), Relaxed);
    }

    /// Finds a thread for the jobs that wait, unless one is on its way: returns it to be woken when
    /// the lock is free, or starts one.
    fn call_helper(self: &Arc<Self>, state: &mut State<J>) -> Option<Thread> {
        if state.queue.is_empty() || state.waking {
            return None;
        }
        let helper = state.idle.pop();
        if helper.is_some() {
            state.waking = true;
        } else if state.threads.len() < state.most_threads() {
            match self.start_thread(state) {
                Ok(()) => state.waking = true,
                Err(e) if state.threads.is_empty() => {
                    shortage::note(&self.name, &e);
                }
                Err(e) => log::debug!("{}: cannot start one more disk thread: {e}", self.name),
            }
        }
        helper
    }

    fn start_thread(self: &Arc<Self>, state: &mut State<J>) -> io::Result<()> {
        let (began, untried, paced, client) = Default::default();
        let clock = Arc::clone(&self.clock);
        let room: Weak<dyn Room> = Arc::<Self>::downgrade(self);
        let progress = Arc::new(Progress { clock, began, untried, paced, client, room });
        let (shared, own) = (Arc::clone(self), Arc::clone(&progress));
        let work = move || {
            priority::yield_to_loop();
            shared.work_until_idle(&OnDisk::begin(), &own);
        };
        thread::Builder::new().name(self.name.clone()).stack_size(STACK).spawn(work)?;
        state.threads.push(progress);
        Ok(())
    }

    fn work_until_idle(self: &Arc<Self>, on: &OnDisk, progress: &Arc<Progress>) {
        let mut state = self.lock();
        state.waking = false;
        while state.threads.len() <= state.most_threads() {
            let Some(job) = state.queue.pop_front() else {
                let (again, has_waited) = self.wait(state);
                state = again;
                if has_waited && state.queue.is_empty() {
                    break;
                }
                continue;
            };
            self.count_waiting(&state);
            let helper = self.call_helper(&mut state);
            drop(state);
            wake(helper);
            progress.begin();
            let unfinished = catch_unwind(AssertUnwindSafe(|| job.run(on, progress)));
            progress.rest();
            state = self.lock();
            state.finished = true;
            // The panic has been reported; the thread lives on, for others may wait for it.
            state.queue.extend(unfinished.ok().flatten());
            self.count_waiting(&state);
        }
        // In the same breath as the decision to go, so that no job counts on this thread.
        state.threads.retain(|p| !Arc::ptr_eq(p, progress));
        let helper = self.call_helper(&mut state);
        drop(state);
        wake(helper);
    }

    /// Rests until called; true when nobody did for long.
    fn wait<'a>(&'a self, mut state: MutexGuard<'a, State<J>>) -> (MutexGuard<'a, State<J>>, bool) {
        let me = thread::current();
        let until = Instant::now() + IDLE_LIFE;
        state.idle.push(me.clone());
        loop {
            drop(state);
            let left = until.saturating_duration_since(Instant::now());
            thread::park_timeout(left);
            state = self.lock();
            match state.idle.iter().position(|thread| thread.id() == me.id()) {
                None => {
                    state.waking = false;
                    return (state, false);
                }
                Some(place) if left.is_zero() => {
                    state.idle.remove(place);
                    return (state, true);
                }
                Some(_) => {} // Woken by accident, or a little early.
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    pub(super) struct Step(Box<dyn FnOnce() + Send>);

    impl Job for Step {
        fn run(self, _: &OnDisk, _: &Progress) -> Option<Self> {
            (self.0)();
            None
        }
    }

    fn blocker() -> (Step, Sender<()>, Receiver<()>) {
        let (release, released) = channel();
        let (tell, started) = channel();
        let step = Step(Box::new(move || {
            tell.send(()).unwrap();
            let _ = released.recv_timeout(Duration::from_secs(10));
        }));
        (step, release, started)
    }

    #[test]
    fn threads_are_bounded_and_the_queue_is_too() {
        let pool = Pool::new("test".into(), 2);
        let (one, release_one, started_one) = blocker();
        let (two, release_two, started_two) = blocker();
        assert!(pool.submit(one, 1).is_ok());
        started_one.recv().unwrap();
        assert!(pool.submit(two, 1).is_ok());
        started_two.recv().unwrap();
        let (tell, done) = channel();
        let waiting = Step(Box::new(move || tell.send(()).unwrap()));
        assert!(pool.submit(waiting, 1).is_ok());
        assert_eq!(pool.in_flight(), 3);
        assert!(pool.submit(Step(Box::new(|| {})), 1).is_err());
        assert!(pool.oldest().is_some());
        assert!(!pool.has_answered());
        release_one.send(()).unwrap();
        done.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(pool.has_answered());
        release_two.send(()).unwrap();
    }

    #[test]
    fn raised_limit_helps_those_who_wait_already() {
        let pool = Pool::new("test".into(), 1);
        let (one, release_one, started_one) = blocker();
        let (two, release_two, started_two) = blocker();
        assert!(pool.submit(one, 9).is_ok());
        started_one.recv().unwrap();
        assert!(pool.submit(two, 9).is_ok());
        pool.set_limit(2);
        started_two.recv_timeout(Duration::from_secs(5)).unwrap();
        release_one.send(()).unwrap();
        release_two.send(()).unwrap();
    }

    /// A job on a disk that hangs begins, and is about to make its first call.
    #[test]
    fn job_that_begins_is_no_sign_of_life() {
        struct Hung(Receiver<()>, Sender<()>, fn(&Progress));
        impl Job for Hung {
            fn run(self, _: &OnDisk, progress: &Progress) -> Option<Self> {
                (self.2)(progress);
                self.1.send(()).unwrap();
                let _ = self.0.recv_timeout(Duration::from_secs(10));
                None
            }
        }
        let pool = Pool::new("test".into(), 9);
        thread::sleep(Duration::from_millis(60)); // The age that must not be lost.
        let mut held = Vec::new();
        let firsts: [fn(&Progress); 3] = [Progress::touch, Progress::pass, |progress| {
            progress.pass();
            progress.touch();
        }];
        for first in firsts {
            let ((release, released), (tell, begun)) = (channel(), channel());
            pool.submit(Hung(released, tell, first), 9).ok().unwrap();
            begun.recv_timeout(Duration::from_secs(10)).unwrap();
            held.push(release);
        }
        let age = || pool.evidence(Duration::ZERO).0.since_completion;
        assert!(age() >= Duration::from_millis(60), "{:?}", age());
        drop(held);
        let begun = Instant::now();
        while age() >= Duration::from_millis(60) {
            assert!(begun.elapsed() < Duration::from_secs(10), "an end is a sign of life");
            thread::yield_now();
        }
    }

    #[test]
    fn unfinished_job_lets_the_others_pass() {
        struct Long(u32, Sender<u32>, Option<Receiver<()>>);
        impl Job for Long {
            fn run(self, _: &OnDisk, _: &Progress) -> Option<Self> {
                if let Some(gate) = self.2 {
                    gate.recv().unwrap();
                }
                self.1.send(self.0).unwrap();
                (!self.0.is_multiple_of(10)).then(|| Long(self.0 - 1, self.1, None))
            }
        }
        let pool = Pool::new("test".into(), 1);
        let (tell, told) = channel();
        let (open, gate) = channel();
        pool.submit(Long(12, tell.clone(), Some(gate)), 9).ok().unwrap();
        pool.submit(Long(20, tell, None), 9).ok().unwrap();
        open.send(()).unwrap();
        assert_eq!(told.iter().collect::<Vec<_>>(), [12, 20, 11, 10]);
    }

    #[test]
    fn every_job_is_done_whatever_the_limit_does_meanwhile() {
        struct Turns(u32, Sender<()>);
        impl Job for Turns {
            fn run(self, _: &OnDisk, _: &Progress) -> Option<Self> {
                match self.0 {
                    0 => self.1.send(()).ok().and(None),
                    left => Some(Turns(left - 1, self.1)),
                }
            }
        }
        let pool = Pool::new("test".into(), 3);
        let (tell, done) = channel();
        for n in 0..2000 {
            pool.submit(Turns(n % 3, tell.clone()), usize::MAX).ok().unwrap();
            match n % 7 {
                // The threads come to rest in between.
                0 => thread::sleep(Duration::from_micros(200)),
                3 => pool.set_limit(1 + n as usize % 5),
                _ => {}
            }
        }
        for _ in 0..2000 {
            done.recv_timeout(Duration::from_secs(10)).unwrap();
        }
        let begun = Instant::now();
        let at_rest = |state: &State<_>| !state.waking && state.idle.len() == state.threads.len();
        while !at_rest(&pool.0.lock()) {
            assert!(begun.elapsed() < Duration::from_secs(10), "a thread is lost");
            thread::yield_now();
        }
        assert_eq!(pool.in_flight(), 0);
        assert!(pool.0.lock().threads.len() <= 5);
    }

    #[test]
    fn panic_in_a_job_costs_that_job_only() {
        let pool = Pool::new("test".into(), 1);
        let panicking = Step(Box::new(|| std::panic::resume_unwind(Box::new(()))));
        assert!(pool.submit(panicking, 9).is_ok());
        let (tell, done) = channel();
        let next = Step(Box::new(move || tell.send(()).unwrap()));
        assert!(pool.submit(next, 9).is_ok());
        done.recv_timeout(Duration::from_secs(10)).unwrap();
    }
}
