//! Message queues at the functions that they are used by: every send and receive passes through `load_msg` and `store_msg` with
//! the very message.
//!
//! These programs may be interrupted by another task's, so nothing is kept in places of a CPU: a call stands in its
//! thread's place, where the programs on system calls leave it alone.

use aya_ebpf::macros::{fentry, fexit};
use aya_ebpf::programs::{FEntryContext, FExitContext};
use ipctrace_common::Mechanism;
use ipctrace_common::syscall::{Class, Special};
use ipctrace_common::wire::op_flag;

use crate::config::{self, offset};
use crate::inflight::{self, InFlight, Moved, Side};
use crate::kernel::{Result, argument, read};
use crate::queue::{MSG_COPY, is_posix, is_receive};
use crate::{alike, channel, emit, messages, posix_mq, queue, ring, run, special, sysv_msg, task};

/// In `index` of a call that is not in flight: its begin was not seen, but `taken` and `moved` say what it is about to receive.
const TAKES: u32 = inflight::TOLD - 1;

/// What a function is given: its programs find the same at its begin and at its end.
macro_rules! given {
    (do_msgsnd, $context:expr) => {
        Call {
            special: Special::Msgsnd,
            queue: $context.arg(0),
            user: $context.arg(2),
            size: $context.arg(3),
            detail: $context.arg(1),
        }
    };
    (do_msgrcv, $context:expr) => {
        Call {
            special: Special::Msgrcv,
            queue: $context.arg(0),
            user: $context.arg::<u64>(1) + 8,
            size: 0,
            detail: 0,
        }
    };
    (do_mq_timedsend, $context:expr) => {
        Call {
            special: Special::MqSend,
            queue: $context.arg(0),
            user: $context.arg(1),
            size: $context.arg(2),
            detail: i64::from($context.arg::<u32>(3)),
        }
    };
    (do_mq_timedreceive, $context:expr) => {
        Call {
            special: Special::MqReceive,
            queue: $context.arg(0),
            user: $context.arg(1),
            size: 0,
            detail: 0,
        }
    };
}

/// hook: fentry/do_msgsnd `long (int msqid, long mtype, void *mtext, size_t msgsz, int msgflg)` — ipc/msg.c
#[fentry(function = "do_msgsnd")]
pub fn msgsnd_entry(ctx: FEntryContext) -> i32 {
    begin(&given!(do_msgsnd, ctx))
}

/// hook: fexit/do_msgsnd `long (int msqid, long mtype, void *mtext, size_t msgsz, int msgflg)` — ipc/msg.c
#[fexit(function = "do_msgsnd")]
pub fn msgsnd_exit(ctx: FExitContext) -> i32 {
    end(&given!(do_msgsnd, ctx), ctx.arg(5))
}

/// hook: fentry/do_msgrcv `long (int msqid, void *buf, size_t bufsz, long msgtyp, int msgflg, function *msg_handler)` — ipc/msg.c
#[fentry(function = "do_msgrcv")]
pub fn msgrcv_entry(ctx: FEntryContext) -> i32 {
    if u64::from(ctx.arg::<u32>(4)) & MSG_COPY != 0 {
        return 0;
    }
    begin(&given!(do_msgrcv, ctx))
}

/// hook: fexit/do_msgrcv `long (int msqid, void *buf, size_t bufsz, long msgtyp, int msgflg, function *msg_handler)` — ipc/msg.c
#[fexit(function = "do_msgrcv")]
pub fn msgrcv_exit(ctx: FExitContext) -> i32 {
    if u64::from(ctx.arg::<u32>(4)) & MSG_COPY != 0 {
        return 0;
    }
    end(&given!(do_msgrcv, ctx), ctx.arg(6))
}

/// hook: fentry/do_mq_timedsend `int (mqd_t mqdes, char *u_msg_ptr, size_t msg_len, unsigned int msg_prio, struct timespec64 *ts)` — ipc/mqueue.c
#[fentry(function = "do_mq_timedsend")]
pub fn mq_send_entry(ctx: FEntryContext) -> i32 {
    begin(&given!(do_mq_timedsend, ctx))
}

/// hook: fexit/do_mq_timedsend `int (mqd_t mqdes, char *u_msg_ptr, size_t msg_len, unsigned int msg_prio, struct timespec64 *ts)` — ipc/mqueue.c
#[fexit(function = "do_mq_timedsend")]
pub fn mq_send_exit(ctx: FExitContext) -> i32 {
    end(&given!(do_mq_timedsend, ctx), i64::from(ctx.arg::<i32>(5)))
}

/// hook: fentry/do_mq_timedreceive `int (mqd_t mqdes, char *u_msg_ptr, size_t msg_len, unsigned int *u_msg_prio, struct timespec64 *ts)` — ipc/mqueue.c
#[fentry(function = "do_mq_timedreceive")]
pub fn mq_receive_entry(ctx: FEntryContext) -> i32 {
    begin(&given!(do_mq_timedreceive, ctx))
}

/// hook: fexit/do_mq_timedreceive `int (mqd_t mqdes, char *u_msg_ptr, size_t msg_len, unsigned int *u_msg_prio, struct timespec64 *ts)` — ipc/mqueue.c
#[fexit(function = "do_mq_timedreceive")]
pub fn mq_receive_exit(ctx: FExitContext) -> i32 {
    end(&given!(do_mq_timedreceive, ctx), i64::from(ctx.arg::<i32>(5)))
}

/// hook: fexit/load_msg `struct msg_msg *(void *src, size_t len)` — ipc/msgutil.c
///
/// In the sender's call, before the message can be seen by anybody else.
#[fexit(function = "load_msg")]
pub fn load_msg_exit(ctx: FExitContext) -> i32 {
    /// The highest that is an error and no address: `MAX_ERRNO`, include/linux/err.h.
    const ERRORS: u64 = 4095;
    let message = argument(&ctx, 2);
    if message == 0 || message >= ERRORS.wrapping_neg() {
        return 0;
    }
    if let Some(call) = inflight::get(task::pid_tgid() as u32) {
        // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
        let call = unsafe { &mut *call };
        let side = &call.sides[0];
        if emit::has_messages(side.mechanism) && side.receive == 0 {
            call.taken.sock = messages::made(message, side.key, side.mechanism);
        }
    }
    0
}

/// hook: fentry/store_msg `int (void *dest, struct msg_msg *msg, size_t len)` — ipc/msgutil.c
///
/// In the receiver's call, with the message that it took; it is freed behind it.
#[fentry(function = "store_msg")]
pub fn store_msg_entry(ctx: FEntryContext) -> i32 {
    if let Err(cause) = try_store(argument(&ctx, 1), ctx.arg(2), task::pid_tgid() as u32) {
        ring::count(cause);
    }
    0
}

#[inline(always)]
fn try_store(message: u64, copied: u64, tid: u32) -> Result<()> {
    let place = inflight::place(tid)?;
    // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
    let call = unsafe { &mut *place };
    let late = call.active == 0;
    if late {
        // The function that this call is in was entered before there was a program on it, so none will run at its end.
        call.index = TAKES;
        call.moved = Moved::of(copied);
    }
    call.taken.sock = messages::number(message);
    call.taken.inode = 0;
    call.taken.len = read(message, offset!(msg_len))?;
    call.moved.detail = read(message, offset!(msg_type))?;
    if late && let Some(known) = messages::get(message) {
        // SAFETY: a valid pointer into the map.
        let (key, mechanism) = unsafe { ((*known).key, (*known).mechanism) };
        call.sides = [Side::NONE, Side::NONE];
        let side = &mut call.sides[0];
        side.mechanism = mechanism as u8;
        side.key = key;
        side.receive = 1;
        side.flags = op_flag::RECEIVE | op_flag::STRADDLES_START;
        call.class = Class::Read as u8;
        call.user = 0;
        call.enter = 0;
        call.active = 1;
        told(tid, copied);
        call.index = inflight::TOLD;
        call.active = 0;
    }
    Ok(())
}

/// hook: fentry/free_msg `void (struct msg_msg *msg)` — ipc/msgutil.c
#[fentry(function = "free_msg")]
pub fn free_msg_entry(ctx: FEntryContext) -> i32 {
    messages::gone(argument(&ctx, 0));
    0
}

/// hook: fentry/freeque `void (struct ipc_namespace *ns, struct kern_ipc_perm *ipcp)` — ipc/msg.c
#[fentry(function = "freeque")]
pub fn freeque_entry(ctx: FEntryContext) -> i32 {
    match read::<u32>(argument(&ctx, 1), offset!(ipc_perm_id)) {
        Ok(id) => channel::removed(Mechanism::SysvMsg, sysv_msg::key_in(argument(&ctx, 0), id)),
        Err(cause) => ring::count(cause),
    }
    0
}

/// What the functions are given.
struct Call {
    special: Special,
    /// Descriptor or identifier.
    queue: i32,
    /// The content in the caller's memory.
    user: u64,
    /// Length of what is sent.
    size: u64,
    /// Its priority or type.
    detail: i64,
}

/// The begin of a call.
#[inline(always)]
fn begin(given: &Call) -> i32 {
    let ids = task::pid_tgid();
    if !task::is_tracer(ids) {
        start(given, ids as u32, ring::now());
    }
    0
}

/// Puts a call in flight that began at `enter` (0: not seen).
#[inline(always)]
fn start(given: &Call, tid: u32, enter: u64) {
    let late = enter == 0;
    // One after the other: what they have on the stack is not added up.
    if queue_object_begun(tid, given.special as u32, given.queue as u32, enter) == 0 {
        return;
    }
    if let Some(call) = inflight::get(tid)
        // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
        && channel::books(unsafe { &(*call).sides[0].key }).is_none()
    {
        // What the thread's run has sent may be found.
        // SAFETY: as above.
        run::end_before(tid, unsafe { &mut *call });
    }
    if channel::opened_in_place(tid, u64::from(late && is_receive(given.special as u32))) == 1 {
        queue::find_all(tid);
        if late && !is_receive(given.special as u32) {
            // What it has sent is among what was found.
            inflight::end(tid);
        }
    }
    if let Some(call) = inflight::get(tid) {
        // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
        let call = unsafe { &mut *call };
        call.user = given.user;
        if !is_receive(given.special as u32) {
            call.moved.bytes = given.size;
            call.moved.len = given.size;
            call.moved.detail = given.detail;
        }
    }
}

/// The end of a call.
#[inline(always)]
fn end(given: &Call, returned: i64) -> i32 {
    let ids = task::pid_tgid();
    if !task::is_tracer(ids) {
        ended(given, ids as u32, returned);
        inflight::tell(ids as u32);
    }
    0
}

/// Tells of a call that returned that, seen to begin or not.
#[inline(always)]
fn ended(given: &Call, tid: u32, returned: i64) {
    let (mut moved, call) = (returned, inflight::get(tid));
    // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
    if returned < 0 && call.is_some_and(|call| unsafe { (*call).taken.len } != 0) {
        // A message that was taken is gone, although it could not be copied to where it was to go.
        moved = 0;
    }
    if moved >= 0 {
        if call.is_none() {
            start(given, tid, 0);
        }
        told(tid, moved as u64);
    }
    inflight::end(tid);
}

/// Tells of the call in flight of thread `tid`, which returned that.
#[inline(always)]
fn told(tid: u32, returned: u64) {
    // One after the other, as above.
    if queue_object_ended(tid, returned) == 0
        && let Some(call) = inflight::get(tid)
    {
        // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
        emit::stream_at_object(tid, unsafe { &mut *call });
    }
}

/// Tells of a system call that ends and of which no program on a function has told: it began before there were any, or they were skipped. The
/// verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn queue_object_late(tid: u32, special: u32, returned: i64) -> i32 {
    let Ok([queue, message, size, _, flags, _]) = special::arguments() else {
        return 0;
    };
    let Some(kind) = Special::from_wire(special as u8) else {
        return 0;
    };
    if kind == Special::Msgrcv && flags & MSG_COPY != 0 {
        return 0;
    }
    let user = if is_posix(special) { message } else { message + 8 };
    let detail = if is_receive(special) { 0 } else { queue::queue_detail(special) };
    ended(&Call { special: kind, queue: queue as i32, user, size, detail }, tid, returned);
    0
}

/// Describes a call that began at `enter` and puts it in flight; 0 if it is not to be traced. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn queue_object_begun(tid: u32, special: u32, queue: u32, enter: u64) -> i32 {
    match try_begun(tid, special, queue, enter) {
        Ok(known) => i32::from(known),
        Err(cause) => {
            ring::count(cause);
            0
        }
    }
}

#[inline(always)]
fn try_begun(tid: u32, special: u32, queue: u32, enter: u64) -> Result<bool> {
    let place = inflight::place(tid)?;
    // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
    let call = unsafe { &mut *place };
    let takes = enter == 0 && call.index == TAKES;
    call.index = 0;
    call.sides = [Side::NONE, Side::NONE];
    let side = &mut call.sides[0];
    if is_posix(special) {
        posix_mq::describe(queue, side)?;
    } else {
        sysv_msg::describe(0, queue, side);
        if channel::books(&side.key).is_none() {
            side.object = sysv_msg::sysv_msg_object(queue);
        }
    }
    if side.mechanism == 0 {
        return Ok(false);
    }
    let receive = is_receive(special);
    side.used(receive, enter);
    let (taken, detail) = (call.taken, call.moved.detail);
    call.start(if receive { Class::Read } else { Class::Write }, enter, 0);
    if takes {
        call.taken = taken;
        call.moved.detail = detail;
    }
    Ok(true)
}

/// Notes what the call in flight of thread `tid` did, which returned that; 1 if it is part of a run, which will be told of. The verifier
/// looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn queue_object_ended(tid: u32, returned: u64) -> i32 {
    let Some(call) = inflight::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    let call = unsafe { &mut *call };
    let (side, moved, taken) = (&mut call.sides[0], &mut call.moved, &call.taken);
    if taken.sock != 0 {
        moved.flags |= op_flag::FROM;
        side.object = taken.sock;
    }
    if side.receive != 0 {
        // Seen, though it may have no number.
        moved.flags |= op_flag::FROM;
        moved.bytes = returned;
        moved.len = taken.len;
        if returned < taken.len {
            moved.flags |= op_flag::CUT;
        }
    }
    moved.user = call.user;
    moved.count = moved.bytes;
    if may_join(call)
        && let Some(books) = channel::books(&call.sides[0].key)
        // SAFETY: a valid pointer into the map.
        && unsafe { alike::is_settled(books, call) && run::add_message(tid, call, books, op_flag::FROM) }
    {
        return 1;
    }
    0
}

/// Whether a call may be told of together with others: all is known of its message, and the thread calls again and again.
#[inline(always)]
fn may_join(call: &InFlight) -> bool {
    config::run() != 0
        && config::payload() == 0
        && call.taken.sock != 0
        && call.enter != 0
        && call.moved.flags == op_flag::FROM
        && run::is_soon(call, call.enter)
}
