//! I/O priority of a thread: ioprio_set(2).

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
