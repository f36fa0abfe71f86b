//! Programs that do nothing, on the hooks that the others are on: what no tracer there can be cheaper than. Only the
//! benchmark loads them.

use aya_ebpf::macros::{btf_tracepoint, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, TracePointContext};

/// Nothing, at the begin of every system call.
#[btf_tracepoint(function = "sys_enter")]
pub fn floor_enter(_ctx: BtfTracePointContext) -> i32 {
    0
}

/// Nothing, at the end of every system call.
#[btf_tracepoint(function = "sys_exit")]
pub fn floor_exit(_ctx: BtfTracePointContext) -> i32 {
    0
}

/// Nothing, at the begin or end of one kind of system call: the other way to hook them.
#[tracepoint]
pub fn floor_call(_ctx: TracePointContext) -> u32 {
    0
}
