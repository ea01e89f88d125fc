//! The threads of a pool: they come when called, work, rest, and go.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, Thread};
use std::time::Duration;

use super::Job;
use super::progress::{Progress, Room};
use super::queue::{Helper, Queue};
use crate::clock;
use crate::disk::on_disk::OnDisk;
use crate::disk::{recent_folder, shortage};
use crate::sys::priority;

/// A thread without work ends after this time, and its memory goes with it.
const IDLE_LIFE: Duration = Duration::from_secs(10);
/// Enough for the deepest call chain of a job several times over.
const STACK: usize = 256 * 1024;

/// Threads that share a queue.
#[derive(Debug)]
pub(super) struct Threads<J> {
    name: String,
    queue: Mutex<Queue<J>>,
}

/// Wakes a thread; not under the queue's lock, which it wants first of all.
pub(super) fn wake(helper: Option<Thread>) {
    if let Some(thread) = helper {
        thread.unpark();
    }
}

impl<J: Job> Room for Threads<J> {
    fn change(self: Arc<Self>, aside: bool) {
        let mut queue = self.lock();
        queue.set_aside(aside);
        let helper = if aside { self.call_helper(&mut queue) } else { None };
        drop(queue);
        wake(helper);
    }
}

impl<J: Job> Threads<J> {
    /// At most `limit` threads, which carry `name`. None is there before there is work.
    pub(super) fn new(name: String, limit: usize) -> Threads<J> {
        Threads { name, queue: Mutex::new(Queue::new(limit)) }
    }

    /// The queue.
    pub(super) fn lock(&self) -> MutexGuard<'_, Queue<J>> {
        // A job that panicked was not holding the lock; the queue is whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds a thread for the jobs that wait, unless one is on its way: returns it to be woken when
    /// the lock is free, or starts one.
    pub(super) fn call_helper(self: &Arc<Self>, queue: &mut Queue<J>) -> Option<Thread> {
        match queue.helper() {
            Helper::Nobody => None,
            Helper::Idle(thread) => Some(thread),
            Helper::New => {
                match self.start_thread(queue) {
                    Ok(()) => {}
                    Err(e) if !queue.has_threads() => {
                        shortage::note(&self.name, &e);
                    }
                    Err(e) => log::debug!("{}: cannot start one more disk thread: {e}", self.name),
                }
                None
            }
        }
    }

    fn start_thread(self: &Arc<Self>, queue: &mut Queue<J>) -> io::Result<()> {
        let room: Weak<dyn Room> = Arc::<Self>::downgrade(self);
        let progress = Arc::new(Progress::new(Arc::clone(queue.clock()), room));
        let (threads, own) = (Arc::clone(self), Arc::clone(&progress));
        let work = move || {
            priority::yield_to_loop();
            threads.work_until_idle(&OnDisk::begin(), &own);
        };
        thread::Builder::new().name(self.name.clone()).stack_size(STACK).spawn(work)?;
        queue.add_thread(progress);
        Ok(())
    }

    fn work_until_idle(self: &Arc<Self>, on: &OnDisk, progress: &Arc<Progress>) {
        let mut queue = self.lock();
        queue.has_come();
        while !queue.is_crowded() {
            let Some(job) = queue.next() else {
                if recent_folder::is_kept() {
                    drop(queue);
                    progress.begin();
                    recent_folder::forget(on);
                    progress.rest();
                    queue = self.lock();
                    continue;
                }
                let (again, has_waited) = self.rest(queue);
                queue = again;
                if has_waited && queue.is_empty() {
                    break;
                }
                continue;
            };
            let helper = self.call_helper(&mut queue);
            drop(queue);
            wake(helper);
            progress.begin();
            let unfinished = catch_unwind(AssertUnwindSafe(|| job.run(on, progress)));
            progress.rest();
            queue = self.lock();
            // The panic has been reported; the thread lives on, for others may wait for it.
            queue.come_back(unfinished.ok().flatten());
        }
        // In the same breath as the decision to go, so that no job counts on this thread.
        queue.remove_thread(progress);
        let helper = self.call_helper(&mut queue);
        drop(queue);
        wake(helper);
        recent_folder::forget(on);
    }

    /// Rests until called; true when nobody did for long.
    fn rest<'a>(&'a self, mut queue: MutexGuard<'a, Queue<J>>) -> (MutexGuard<'a, Queue<J>>, bool) {
        let me = thread::current();
        let until = clock::instant() + IDLE_LIFE;
        queue.rest(me.clone());
        loop {
            drop(queue);
            let left = until.saturating_duration_since(clock::instant());
            thread::park_timeout(left);
            queue = self.lock();
            if queue.was_called(me.id()) {
                return (queue, false);
            }
            if left.is_zero() {
                queue.stop_resting(me.id());
                return (queue, true);
            }
            // Woken by accident, or a little early.
        }
    }
}
