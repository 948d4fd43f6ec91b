//! Tells the processor what will be looked at soon.

/// Begins to fetch the line of a cache that `what` begins in, and waits for nothing. It changes nothing but the time that it
/// takes to look at it later; where the processor has no such hint that Rust offers, not even that.
#[expect(unsafe_code, reason = "the standard library's function takes any pointer")]
pub fn line<T>(what: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of any address is harmless, and this one is of a live object; every x86-64 has SSE.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(what).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = what;
}
