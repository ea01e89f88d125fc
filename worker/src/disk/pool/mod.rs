//! Disk threads of one device: a queue that the loop fills, threads that come when there is work
//! and go when there has been none for a while. Nothing here is locked across a disk operation.
//!
//! | module | holds |
//! |---|---|
//! | `queue` | the jobs that wait, and who is called for them |
//! | `threads` | the threads: started, woken, at work, at rest |
//! | [`Progress`] | what a thread tells the stall clock meanwhile |

mod progress;
mod queue;
#[cfg(test)]
mod tests;
mod threads;

use std::sync::Arc;
use std::thread::Thread;
use std::time::Duration;

pub use progress::Progress;
use threads::{Threads, wake};

use crate::disk::on_disk::OnDisk;
use crate::disk::stall::Evidence;

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
pub struct Pool<J: Job>(Arc<Threads<J>>);

impl<J: Job> Pool<J> {
    /// A pool of at most `limit` threads, which carry `name`.
    pub fn new(name: String, limit: usize) -> Self {
        Pool(Arc::new(Threads::new(name, limit)))
    }

    /// Queues a job. The error gives it back and says what it is for the lack of.
    pub fn submit(&self, job: J, max_queue: usize) -> Result<(), (J, Lack)> {
        let mut queue = self.0.lock();
        queue.push(job, max_queue).map_err(|job| (job, Lack::Room))?;
        let helper = self.0.call_helper(&mut queue);
        if !queue.has_threads() {
            return queue.take_back().map_or(Ok(()), |job| Err((job, Lack::Thread)));
        }
        drop(queue);
        wake(helper);
        Ok(())
    }

    /// How many threads there may be from now on; surplus ones end when they are done.
    pub fn set_limit(&self, limit: usize) {
        let mut queue = self.0.lock();
        let idle = queue.set_limit(limit);
        let helper = self.0.call_helper(&mut queue);
        drop(queue);
        idle.iter().for_each(Thread::unpark);
        wake(helper);
    }

    /// How many threads there may be beyond the limit from now on.
    pub fn set_spare(&self, spare: usize) {
        let mut queue = self.0.lock();
        if !queue.set_spare(spare) {
            return;
        }
        let helper = self.0.call_helper(&mut queue);
        drop(queue);
        wake(helper);
    }

    /// Jobs queued or running.
    pub fn in_flight(&self) -> usize {
        self.0.lock().in_flight()
    }

    /// True when a thread has come back from a job: the disk has answered this process.
    pub fn has_answered(&self) -> bool {
        self.0.lock().has_finished()
    }

    /// Age of the oldest disk operation that has not returned.
    pub fn oldest(&self) -> Option<Duration> {
        self.0.lock().threads().filter_map(Progress::operation_age).max()
    }

    /// What the stall clock goes by, but for the disk's own counters; and how many threads have
    /// been in one operation for `stuck` or longer.
    pub fn evidence(&self, stuck: Duration) -> (Evidence, usize) {
        let queue = self.0.lock();
        let evidence = Evidence {
            oldest: queue.threads().filter_map(Progress::operation_age).max(),
            oldest_pace: queue.threads().filter_map(Progress::pace_age).max(),
            since_completion: queue.clock().since_completion(),
            ..Evidence::default()
        };
        (evidence, queue.threads().filter(|thread| thread.is_old(stuck)).count())
    }

    /// For whom those threads work that have been in one operation for `age` or longer.
    pub fn clients_of_old(&self, age: Duration) -> Vec<usize> {
        let queue = self.0.lock();
        let old = queue.threads().filter(|thread| thread.is_old(age));
        old.filter_map(Progress::client).collect()
    }
}
