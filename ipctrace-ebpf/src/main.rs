//! The eBPF programs of ipctrace.
//!
//! Each program is two functions: an outer one, which skips the tracer itself and counts what goes wrong under a
//! numbered cause, and an inner `try_…`. `docs/architecture.md` tells how they work together.
#![no_std]
#![no_main]
#![expect(internal_features, reason = "atomic adds that return a value, see kernel::add")]
#![feature(core_intrinsics)]
#![expect(unreachable_pub, reason = "the attribute macros of aya-ebpf want programs to be pub")]

mod alike;
mod beginning;
mod books;
mod channel;
mod config;
mod emit;
mod event;
mod eventfd;
mod eventfd_object;
mod floor;
mod futex;
mod futex_object;
mod handoff;
mod inet;
mod inflight;
mod iter;
mod kernel;
mod lock;
mod memory;
mod message;
mod messages;
mod object;
mod own;
mod payload;
mod pid;
mod pipe;
mod pipe_object;
mod posix_mq;
mod process;
mod process_vm;
mod pty;
mod pty_object;
mod queue;
mod queue_object;
mod repeat;
mod ring;
mod run;
mod segment;
mod signal;
mod skb;
mod socket_object;
mod special;
mod straddle;
mod syscall;
mod sysv;
mod sysv_msg;
mod sysv_sem;
mod sysv_shm_object;
mod task;
mod udp;
mod udp_taken;
mod unix;
mod uring;
mod uring_done;
mod uring_socket;
mod wake;

/// Helpers that read kernel memory are for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Not reached: nothing here panics, and the verifier would refuse a program that could loop.
    loop {}
}
