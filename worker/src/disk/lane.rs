//! Those who wait for one filesystem to be flushed, and share it. Disk threads only.
//!
//! Who comes during a flush shares the next one, which begins when that has ended. It begins a
//! moment later if there are others whose data is still on its way: they say so before, and have
//! often waited for the flush as well. Without others there is no such moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::clock;

/// At most so long, and half of what the last flush has taken, is waited for those who are coming:
/// without them they would wait for all of the next one.
const PATIENCE: Duration = Duration::from_millis(10);

static LANES: Mutex<BTreeMap<u64, Arc<Lane>>> = Mutex::new(BTreeMap::new());

/// Those who wait for one filesystem.
#[derive(Debug, Default)]
pub struct Lane {
    state: Mutex<State>,
    /// Somebody who was coming is there, or will not come.
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    /// Shared by all who come before it begins.
    next: Arc<Group>,
    /// The numbers of those who are coming, and the last one given.
    coming: BTreeSet<u64>,
    last: u64,
    /// By the flush before.
    took: Duration,
}

/// Those who share a flush.
#[derive(Debug, Default)]
struct Group {
    outcome: OnceLock<nix::Result<()>>,
    /// It is this group's turn, or its flush has ended.
    turn: Condvar,
}

/// One who is coming, until it is dropped.
#[derive(Debug)]
pub struct Coming {
    lane: Arc<Lane>,
    number: u64,
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.lane.lock().coming.remove(&self.number);
        self.lane.arrived.notify_one(); // Only who leads waits.
    }
}

impl Lane {
    /// By the number of the filesystem; it says nothing of the filesystem but who waits.
    pub fn of(filesystem: u64) -> Arc<Lane> {
        let mut lanes = LANES.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|number, lane| *number == filesystem || Arc::strong_count(lane) > 1);
        Arc::clone(lanes.entry(filesystem).or_default())
    }

    /// Says that this thread will [pass](Lane::pass) soon.
    pub fn announce(self: &Arc<Self>) -> Coming {
        let mut state = self.lock();
        state.last += 1;
        let number = state.last;
        state.coming.insert(number);
        Coming { lane: Arc::clone(self), number }
    }

    /// Returns when a flush that began after this call has ended, and what it came to. One of
    /// those who wait does it for all. `wait` runs the waits for others.
    pub fn pass(
        &self,
        coming: Option<Coming>,
        flush: impl FnOnce() -> nix::Result<()>,
        wait: impl Fn(&mut dyn FnMut()),
    ) -> nix::Result<()> {
        let mine = Arc::clone(&self.lock().next);
        drop(coming); // It counts as one of the group now.
        loop {
            let mut state = self.lock();
            if let Some(outcome) = mine.outcome.get() {
                return *outcome;
            }
            if !state.running {
                state.running = true;
                break;
            }
            drop(state);
            let waits = |state: &mut State| state.running && mine.outcome.get().is_none();
            wait(&mut || drop(mine.turn.wait_while(self.lock(), waits)));
        }
        // What has no outcome while none runs is the next.
        wait(&mut || self.gather());
        let (begun, done) = (clock::instant(), flush());
        let _ = mine.outcome.set(done);
        let mut state = self.lock();
        state.running = false;
        state.took = begun.elapsed();
        let next = Arc::clone(&state.next);
        drop(state);
        next.turn.notify_one(); // The next flush first.
        mine.turn.notify_all();
        done
    }

    /// Waits for those who were coming before this, and lets nobody into the group afterwards.
    fn gather(&self) {
        let state = self.lock();
        let (last, patience) = (state.last, PATIENCE.min(state.took / 2));
        let comes = |state: &mut State| state.coming.first().is_some_and(|number| *number <= last);
        let waited = self.arrived.wait_timeout_while(state, patience, comes);
        waited.unwrap_or_else(PoisonError::into_inner).0.next = Arc::default();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::SeqCst;
    use std::sync::mpsc::channel;
    use std::thread;

    #[test]
    fn those_who_come_during_a_flush_share_the_next_and_its_outcome() {
        let (lane, count) = (Lane::default(), AtomicUsize::new(0));
        let (tell, begun) = channel();
        let (release, released) = channel::<()>();
        let waiting = AtomicUsize::new(0);
        thread::scope(|scope| {
            let lane = &lane;
            let first = scope.spawn(move || {
                let flush = || {
                    tell.send(()).unwrap();
                    released.recv().unwrap();
                    Ok(())
                };
                lane.pass(None, flush, |wait| wait())
            });
            begun.recv().unwrap();
            let others: Vec<_> = (0..8)
                .map(|_| {
                    let (count, waiting) = (&count, &waiting);
                    scope.spawn(move || {
                        let flush = || {
                            count.fetch_add(1, SeqCst);
                            Err(Errno::EIO)
                        };
                        lane.pass(None, flush, |wait| {
                            waiting.fetch_add(1, SeqCst);
                            wait();
                        })
                    })
                })
                .collect();
            while waiting.load(SeqCst) < 8 {
                thread::yield_now();
            }
            assert_eq!(count.load(SeqCst), 0);
            release.send(()).unwrap();
            assert_eq!(first.join().unwrap(), Ok(()));
            for other in others {
                assert_eq!(other.join().unwrap(), Err(Errno::EIO));
            }
        });
        assert_eq!(count.load(SeqCst), 1);
    }

    /// Whether one who had announced himself was in the flush of another that took the lead.
    fn shares(took: Duration) -> bool {
        let lane = Arc::new(Lane::default());
        lane.lock().took = took;
        let coming = lane.announce();
        let (tell, leads) = channel();
        let flushes = AtomicUsize::new(0);
        let flush = || {
            flushes.fetch_add(1, SeqCst);
            Ok(())
        };
        thread::scope(|scope| {
            let (lane, flush) = (&lane, &flush);
            let leader = scope.spawn(move || {
                lane.pass(None, flush, |wait| {
                    tell.send(()).unwrap();
                    wait();
                })
            });
            leads.recv().unwrap();
            if took.is_zero() {
                assert_eq!(leader.join().unwrap(), Ok(()));
            }
            assert_eq!(lane.pass(Some(coming), flush, |wait| wait()), Ok(()));
        });
        assert!(lane.lock().coming.is_empty());
        flushes.load(SeqCst) == 1
    }

    #[test]
    fn flush_waits_a_moment_for_those_who_are_coming() {
        // On a busy machine even the moment may not be enough.
        let held = (0..50).any(|_| shares(2 * PATIENCE));
        assert!(held, "never");
    }

    #[test]
    fn without_a_flush_before_nobody_is_waited_for() {
        assert!(!shares(Duration::ZERO));
    }

    #[test]
    fn who_does_not_come_is_not_waited_for_long() {
        let lane = Arc::new(Lane::default());
        lane.lock().took = Duration::from_secs(3600);
        let never = lane.announce();
        let begun = clock::instant();
        assert_eq!(lane.pass(None, || Ok(()), |wait| wait()), Ok(()));
        let took = begun.elapsed();
        assert!(took >= PATIENCE && took < 200 * PATIENCE, "{took:?}");
        drop(never);
        assert!(lane.lock().coming.is_empty());
    }
}
