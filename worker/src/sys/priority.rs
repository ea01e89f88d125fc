//! Priorities of a thread: for the disk, ioprio_set(2), and for the processor, sched(7).

/// Lowest level of the best-effort class: behind everything else, but never starved as the idle
/// class can be on a busy disk.
const LOWEST: i64 = (2 << 13) | 7;
/// What a thread has when nothing was set.
const DEFAULT: i64 = 0;
/// IOPRIO_WHO_PROCESS; 0 is the calling thread.
const WHO: i64 = 1;

/// Lowered priority of the calling thread; ends when dropped.
#[derive(Debug)]
pub struct Lowered(());

/// Lowers the I/O priority of the calling thread. Schedulers without priorities ignore it.
pub fn lower() -> Lowered {
    set(LOWEST);
    Lowered(())
}

impl Drop for Lowered {
    fn drop(&mut self) {
        set(DEFAULT);
    }
}

/// The calling thread does not interrupt others when it wakes up: SCHED_BATCH, sched(7). On a busy
/// processor the loop then gets through its events before the disk threads that it has woken begin;
/// on an idle one nothing changes.
#[expect(unsafe_code, reason = "sched_setscheduler")]
pub fn yield_to_loop() {
    // SAFETY: plain integers, for which zero is valid: the priority that this policy wants.
    let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: the structure outlives the call; 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) } != 0 {
        log::debug!("SCHED_BATCH: {}", std::io::Error::last_os_error());
    }
}

#[expect(unsafe_code, reason = "ioprio_set")]
fn set(priority: i64) {
    // SAFETY: takes integers only.
    unsafe { libc::syscall(libc::SYS_ioprio_set, WHO, 0i64, priority) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(unsafe_code, reason = "ioprio_get")]
    fn current() -> i64 {
        // SAFETY: takes integers only.
        unsafe { libc::syscall(libc::SYS_ioprio_get, WHO, 0i64) }
    }

    #[test]
    fn priority_is_low_while_it_is_held() {
        let before = current();
        let low = lower();
        assert_eq!(current(), LOWEST);
        drop(low);
        assert_eq!(current(), before);
    }
}
