//! Futexes at the function that futex(2) calls, for programs of 64 and of 32 bits, and the kernel itself for who waits until a
//! thread has ended (`mm_release`, kernel/fork.c). The calls with futex in their name that came later do without it and stay with
//! the programs on system calls; so does the end of a wait that began before there was a program here, or whose program the kernel
//! skipped. As for [`crate::queue_object`], nothing is kept in places of a CPU.

use aya_ebpf::macros::{fentry, fexit};
use aya_ebpf::programs::{FEntryContext, FExitContext};

use crate::futex::{self, Intent, Waited};
use crate::{ring, task};

/// hook: fentry/do_futex `long (u32 *uaddr, int op, u32 val, ktime_t *timeout, u32 *uaddr2, u32 val2, u32 val3)` — kernel/futex/syscalls.c
#[fentry(function = "do_futex")]
pub fn futex_entry(ctx: FEntryContext) -> i32 {
    let operation: u32 = ctx.arg(1);
    if futex::is_private_operation(operation) {
        return 0;
    }
    let ids = task::pid_tgid();
    if !task::is_tracer(ids) {
        futex_object_begun(ids as u32, operation, ctx.arg(0), ctx.arg(4));
    }
    0
}

/// hook: fexit/do_futex `long (u32 *uaddr, int op, u32 val, ktime_t *timeout, u32 *uaddr2, u32 val2, u32 val3)` — kernel/futex/syscalls.c
#[fexit(function = "do_futex")]
pub fn futex_exit(ctx: FExitContext) -> i32 {
    let operation: u32 = ctx.arg(1);
    if futex::is_private_operation(operation) {
        return 0;
    }
    futex_object_ended(task::pid_tgid() as u32, operation, ctx.arg(0), ctx.arg(7));
    0
}

/// A call begins. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn futex_object_begun(tid: u32, operation: u32, first: u64, second: u64) -> i32 {
    if let Some(intent) = Intent::of_operation(operation, first, second)
        && let Err(cause) = futex::begin(tid, &intent)
    {
        ring::count(cause);
    }
    0
}

/// It ends. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn futex_object_ended(tid: u32, operation: u32, address: u64, returned: i64) -> i32 {
    futex::end(tid, returned, || Ok(Waited { address, locks: futex::locks(operation) }));
    0
}
