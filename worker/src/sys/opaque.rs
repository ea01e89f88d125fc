//! A value that the optimiser knows nothing about.

/// Returns `x`. The compiler may move the call, but not look through it: sums stay grouped as
/// they are written, which decides what a chain of dependent operations has to wait for.
#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "an empty asm block is the only such barrier that stays in a register"
)]
#[inline(always)]
pub fn opaque(mut x: u32) -> u32 {
    // SAFETY: no instruction at all; the register goes in and comes out as it is.
    unsafe {
        std::arch::asm!("/* {0:e} */", inout(reg) x, options(pure, nomem, nostack, preserves_flags));
    }
    x
}

/// Returns `x`.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub fn opaque(x: u32) -> u32 {
    x
}
