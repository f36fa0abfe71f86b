//! Programs that do nothing, on the hooks that the others are on: what no tracer there can be cheaper than. Only the
//! benchmark loads them.

use aya_ebpf::macros::{btf_tracepoint, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, TracePointContext};

/// One for each [`ipctrace_common::Hook`]: `floor_` and the name of its program.
macro_rules! floor {
    ($($program:ident, $tracepoint:tt;)*) => {$(
        #[doc = concat!("Nothing, at ", $tracepoint, ".")]
        #[btf_tracepoint(function = $tracepoint)]
        pub fn $program(_ctx: BtfTracePointContext) -> i32 {
            0
        }
    )*};
}

floor! {
    floor_process_exit, "sched_process_exit";
    floor_process_exec, "sched_process_exec";
    floor_process_fork, "sched_wakeup_new";
    floor_sys_exit, "sys_exit";
    floor_consume_skb, "consume_skb";
    floor_skb_copied, "skb_copy_datagram_iovec";
    floor_sk_data_ready, "sk_data_ready";
    floor_net_dev_queue, "net_dev_queue";
    floor_sock_send, "sock_send_length";
    floor_sock_receive, "sock_recv_length";
    floor_uring_complete, "io_uring_complete";
    floor_uring_overflow, "io_uring_cqe_overflow";
    floor_contention_end, "contention_end";
    floor_sched_waking, "sched_waking";
    floor_sys_enter, "sys_enter";
    floor_page_fault_user, "page_fault_user";
    floor_page_fault_kernel, "page_fault_kernel";
    floor_uring_submit, "io_uring_submit_req";
    floor_uring_submit_sqe, "io_uring_submit_sqe";
    floor_signal_deliver, "signal_deliver";
    floor_signal_generate, "signal_generate";
}

/// Nothing, at the begin or end of one kind of system call: the other way to hook them.
#[tracepoint]
pub fn floor_call(_ctx: TracePointContext) -> u32 {
    0
}
