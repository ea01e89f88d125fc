//! Priorities of a thread: for the disk, ioprio_set(2), and for the processor, sched(7).

use std::cell::Cell;
use std::io;
use std::time::Duration;

use super::check;
use super::doors::Door;
use super::raw::{LOWEST, WHO, attributes, set_attributes, set_batch, set_io_priority};

/// The idle class: served when nobody else wants the disk.
const IDLE: i64 = 3 << 13;
/// What a thread has when nothing was set.
const DEFAULT: i64 = 0;

/// Lowered priority of the calling thread, and what it was before; ends when dropped.
#[derive(Debug)]
pub struct Lowered(i64);

/// Lowers the I/O priority of the calling thread, unless it is idle already: ionice(1) may have
/// started the node. Schedulers without priorities ignore it.
pub fn lower() -> Lowered {
    let before = get().unwrap_or(DEFAULT);
    if before < IDLE {
        set(LOWEST);
    }
    Lowered(before)
}

/// Puts the calling thread, for good, into the idle class: for work that may take any time.
pub fn idle() {
    set(IDLE);
}

impl Drop for Lowered {
    fn drop(&mut self) {
        set(self.0);
    }
}

/// The calling thread does not interrupt others when it wakes up: SCHED_BATCH, sched(7). On a busy
/// processor the loop then gets through its events before the disk threads that it has woken begin;
/// on an idle one nothing changes.
pub fn yield_to_loop() {
    if Door::SchedSetscheduler.is_open()
        && let Err(e) = set_batch(0)
    {
        log::debug!("SCHED_BATCH: {e}");
    }
}

/// The turn on the processor that a thread with much to do asks for: longer than what others have,
/// who therefore need not wait for its end when they wake up.
const LONG_TURN: Duration = Duration::from_millis(20);

thread_local! {
    static HAS_LONG_TURNS: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread, which yields to the loop, is about to use the processor for long:
/// sched_setattr(2), the `sched_runtime` of threads without a deadline, Linux 6.12. The share of
/// the processor stays the same, but a loop that wakes up gets it at once instead of after some
/// milliseconds. Earlier kernels ignore it.
pub fn take_long_turns(long: bool) {
    if HAS_LONG_TURNS.replace(long) == long || !Door::SchedSetattr.is_open() {
        return;
    }
    let set = attributes().and_then(|mut attributes| {
        attributes.sched_runtime = if long { LONG_TURN.as_nanos() as u64 } else { 0 };
        set_attributes(0, &attributes)
    });
    if let Err(e) = set {
        log::debug!("sched_setattr: {e}");
    }
}

fn set(priority: i64) {
    if Door::IoprioSet.is_open()
        && let Err(e) = set_io_priority(0, priority)
    {
        log::debug!("ioprio_set: {e}");
    }
}

#[expect(unsafe_code, reason = "ioprio_get")]
fn get() -> io::Result<i64> {
    // SAFETY: takes integers only.
    check(unsafe { libc::syscall(libc::SYS_ioprio_get, WHO, 0i64) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_long_while_there_is_much_to_do() {
        yield_to_loop();
        let policy_and_nice = |it: &libc::sched_attr| (it.sched_policy, it.sched_nice);
        let before = attributes().unwrap();
        take_long_turns(true);
        let long = attributes().unwrap();
        take_long_turns(false);
        let after = attributes().unwrap();
        assert_eq!(before.sched_policy, libc::SCHED_BATCH as u32);
        assert_eq!(policy_and_nice(&long), policy_and_nice(&before));
        assert_eq!(policy_and_nice(&after), policy_and_nice(&before));
        assert_eq!(after.sched_runtime, before.sched_runtime);
        if before.sched_runtime == 0 {
            println!("SKIPPED in part: turns have no length before Linux 6.12");
            return;
        }
        assert_eq!(u128::from(long.sched_runtime), LONG_TURN.as_nanos());
    }

    #[test]
    fn priority_is_low_while_it_is_held() {
        let before = get().unwrap();
        let low = lower();
        assert_eq!(get().unwrap(), if before < IDLE { LOWEST } else { before });
        drop(low);
        assert_eq!(get().unwrap(), before);
    }

    #[test]
    fn a_thread_that_ionice_made_idle_stays_so() {
        let of_thread = std::thread::spawn(|| {
            idle();
            let low = lower();
            let during = get().unwrap();
            drop(low);
            (during, get().unwrap())
        });
        assert_eq!(of_thread.join().unwrap(), (IDLE, IDLE));
    }

    #[test]
    fn an_idle_thread_is_so_alone() {
        let before = get().unwrap();
        let of_thread = std::thread::spawn(|| {
            idle();
            get().unwrap()
        });
        assert_eq!((of_thread.join().unwrap(), get().unwrap()), (IDLE, before));
    }
}
