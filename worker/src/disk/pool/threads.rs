//! The threads of a pool: they come when called, work, rest, and go.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::thread::{self, Thread};
use std::time::Duration;

use super::progress::{Progress, Room};
use super::{Job, Shared, State};
use crate::clock;
use crate::disk::on_disk::OnDisk;
use crate::disk::shortage;
use crate::sys::priority;

/// A thread without work ends after this time, and its memory goes with it.
const IDLE_LIFE: Duration = Duration::from_secs(10);
/// Enough for the deepest call chain of a job several times over.
const STACK: usize = 256 * 1024;

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
    pub(super) fn lock(&self) -> MutexGuard<'_, State<J>> {
        // A job that panicked was not holding the lock; the state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count_waiting(&self, state: &State<J>) {
        self.clock.waiting.store(state.queue.len(), Relaxed);
    }

    /// Finds a thread for the jobs that wait, unless one is on its way: returns it to be woken when
    /// the lock is free, or starts one.
    pub(super) fn call_helper(self: &Arc<Self>, state: &mut State<J>) -> Option<Thread> {
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
        let until = clock::instant() + IDLE_LIFE;
        state.idle.push(me.clone());
        loop {
            drop(state);
            let left = until.saturating_duration_since(clock::instant());
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

pub(super) fn wake(helper: Option<Thread>) {
    if let Some(thread) = helper {
        thread.unpark();
    }
}
