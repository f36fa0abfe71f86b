//! The other way to a tracepoint: as a perf event, whose programs are not preempted and are handed the record that it makes.
//!
//! From Linux 7.0 on a program on a BTF tracepoint can be preempted, and while it is, the kernel skips it for all other tasks on
//! that CPU.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::programs::TracePointContext;

/// The field at `place` of the record, as [`ipctrace_common::hook::Event`] says.
///
/// # Safety
/// The record must have such a field there, as large as `T` and aligned.
#[inline(always)]
pub(crate) unsafe fn at<T: Copy>(ctx: &TracePointContext, place: usize) -> T {
    // SAFETY: by contract; the verifier checks that it is within a record.
    unsafe { core::ptr::read_volatile(ctx.as_ptr().cast::<u8>().add(place).cast::<T>()) }
}

/// The field of the record of a hook's tracepoint that has that index in [`ipctrace_common::hook::Event::fields`].
macro_rules! field {
    ($ctx:expr, $hook:ident, $index:literal, $type:ty) => {{
        const FIELD: ipctrace_common::hook::Field = ipctrace_common::Hook::$hook.field($index);
        const { assert!(FIELD.size == size_of::<$type>()) };
        // SAFETY: the loader uses the program only where the record has that field there.
        unsafe { $crate::event::at::<$type>($ctx, FIELD.offset) }
    }};
}
pub(crate) use field;
