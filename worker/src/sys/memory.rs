//! Telling the allocator what a worker is like.

/// Largest piece of memory that comes from the heap: larger ones are mapped, and go when freed.
const LARGEST_ON_HEAP: libc::c_int = 128 * 1024;

/// Keeps the buffers of disk threads out of the heap. By itself glibc raises the limit to the size
/// of the first such buffer that is freed; from then on each thread's buffer stays in a heap of
/// its own after the thread has gone: mallopt(3), M_MMAP_THRESHOLD.
#[expect(unsafe_code, reason = "mallopt")]
pub fn give_back_large_buffers() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallopt takes two numbers by value and touches no memory of ours.
        let known = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST_ON_HEAP) };
        if known == 0 {
            log::debug!("mallopt: M_MMAP_THRESHOLD refused");
        }
    }
}
