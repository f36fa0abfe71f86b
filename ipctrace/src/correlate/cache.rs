//! Bringing memory into the processor's caches before it is wanted.
//!
//! A host with hundreds of busy channels has more on the way than the caches hold, and what is next in each of them is read, or
//! written, some hundred records later. By then it is there, if it has been asked for.

/// Bytes that a cache holds together.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// A `T`, which begins where a line does, will be looked at there, or written. Nothing is accessed: it may be any place.
#[cfg(target_arch = "x86_64")]
pub(super) fn expect<T>(place: *const T) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

    const { assert!(align_of::<T>().is_multiple_of(LINE)) };
    for at in (0..size_of::<T>()).step_by(LINE) {
        // SAFETY: a hint, which accesses no memory and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast::<i8>().wrapping_add(at)) };
    }
}

/// The same on other processors: their own guesses have to do.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn expect<T>(_place: *const T) {}
