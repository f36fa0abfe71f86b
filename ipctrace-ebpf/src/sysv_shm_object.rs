//! System V segments at the functions by which they are made, attached, detached and removed, for programs of 64 and of 32 bits. What
//! else is done with memory that is attached (mmap, munmap, mremap, mprotect) stays with the programs on system calls. As for
//! [`crate::queue_object`], nothing is kept in places of a CPU.

use aya_ebpf::macros::{fentry, fexit};
use aya_ebpf::programs::{FEntryContext, FExitContext};

use crate::kernel::{argument, read};
use crate::{ring, segment, sysv, task};

/// hook: fexit/newseg `int (struct ipc_namespace *ns, struct ipc_params *params)` — ipc/shm.c
#[fexit(function = "newseg")]
pub fn shm_made_exit(ctx: FExitContext) -> i32 {
    let id = argument(&ctx, 2) as i32;
    if id >= 0 && !is_tracer() {
        segment::segment_made(id as u32, 1);
    }
    0
}

/// hook: fexit/do_shmat `long (int shmid, char *shmaddr, int shmflg, ulong *raddr, unsigned long shmlba)` — ipc/shm.c
#[fexit(function = "do_shmat")]
pub fn shmat_exit(ctx: FExitContext) -> i32 {
    if argument(&ctx, 5) == 0 && !is_tracer() {
        match read(argument(&ctx, 3), 0) {
            Ok(start) => {
                segment::segment_attached(start);
            }
            Err(cause) => ring::count(cause),
        }
    }
    0
}

/// hook: fentry/ksys_shmdt `long (char *shmaddr)` — ipc/shm.c
///
/// Told at the begin: what another thread maps there in the meantime is told after it, and so not taken for gone.
#[fentry(function = "ksys_shmdt")]
pub fn shmdt_entry(ctx: FEntryContext) -> i32 {
    if !is_tracer() {
        segment::segment_detached(argument(&ctx, 0));
    }
    0
}

/// hook: fentry/shmctl_down `int (struct ipc_namespace *ns, int shmid, int cmd, struct shmid64_ds *shmid64)` — ipc/shm.c
#[fentry(function = "shmctl_down")]
pub fn shmctl_entry(ctx: FEntryContext) -> i32 {
    if sysv::removes(argument(&ctx, 2) as u32) && !is_tracer() {
        segment::segment_removing(task::pid_tgid() as u32, argument(&ctx, 1) as u32);
    }
    0
}

/// hook: fexit/shmctl_down `int (struct ipc_namespace *ns, int shmid, int cmd, struct shmid64_ds *shmid64)` — ipc/shm.c
#[fexit(function = "shmctl_down")]
pub fn shmctl_exit(ctx: FExitContext) -> i32 {
    if sysv::removes(argument(&ctx, 2) as u32) {
        let failed = argument(&ctx, 4) as i32 != 0;
        segment::segment_removed(task::pid_tgid() as u32, argument(&ctx, 1) as u32, u32::from(failed));
    }
    0
}

/// Whether it is the tracer that does it.
#[inline(always)]
fn is_tracer() -> bool {
    task::is_tracer(task::pid_tgid())
}
