//! Loops that the verifier can see the end of.
//!
//! It walks through a plain loop turn by turn, and again on every path that leads to it; the body of a `bpf_loop` (Linux
//! 5.17) it walks through once. On kernels without it loops are plain and shorter.

use core::sync::atomic::AtomicU64;

#[cfg(not(feature = "plain"))]
use aya_ebpf::cty::c_void;
#[cfg(not(feature = "plain"))]
use aya_ebpf::helpers::generated::bpf_loop;

/// The state of a loop, kept on the stack, and its body.
pub(crate) trait Repeat {
    /// Most turns.
    #[cfg_attr(feature = "plain", expect(dead_code, reason = "the plain programs have plain loops"))]
    const LIMIT: u32;
    /// The same where the loop is a plain one.
    #[cfg_attr(not(feature = "plain"), expect(dead_code, reason = "for the plain programs"))]
    const PLAIN_LIMIT: u32;

    /// One turn; `true` ends the loop.
    fn turn(&mut self, index: u32) -> bool;
}

/// Runs the loop until its body ends it, or to its limit.
#[inline(always)]
pub(crate) fn repeat<R: Repeat>(state: &mut R) {
    #[cfg(not(feature = "plain"))]
    // SAFETY: `step` has the signature that bpf_loop calls, and the state outlives the call.
    unsafe {
        let step: extern "C" fn(u32, *mut R) -> i64 = step::<R>;
        bpf_loop(R::LIMIT, step as *mut c_void, (&raw mut *state).cast(), 0);
    }
    #[cfg(feature = "plain")]
    for index in 0..R::PLAIN_LIMIT {
        if step(index, &raw mut *state) != 0 {
            break;
        }
    }
}

/// What bpf_loop calls; 1 ends the loop. Never part of its caller, whose stack it would add to.
#[inline(never)]
extern "C" fn step<R: Repeat>(index: u32, state: *mut R) -> i64 {
    // SAFETY: `repeat` passes its caller's state, which lives on the stack and is not used meanwhile.
    i64::from(unsafe { &mut *state }.turn(index))
}

/// Nothing, of which the verifier does not know that nobody writes it.
static NOTHING: AtomicU64 = AtomicU64::new(0);

/// The same value, of which the verifier knows nothing.
///
/// A sum that starts at a known number has other bounds in every turn, and the verifier follows each by itself; from
/// nothing it learns nothing, and is done after two. What came by several ways is followed by one from here on, for states that differ
/// in known numbers are different to it, and before Linux 6.2 nearly all numbers are compared.
#[inline(always)]
pub(crate) fn opaque(value: u64) -> u64 {
    // SAFETY: an initialised static.
    value.wrapping_add(unsafe { core::ptr::read_volatile(NOTHING.as_ptr()) })
}
