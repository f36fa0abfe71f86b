//! The programs on `sys_enter` and `sys_exit`, through which all data goes.

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::{btf_tracepoint, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, TracePointContext};
use ipctrace_common::Cause;
use ipctrace_common::Mechanism;
use ipctrace_common::syscall::{Class, Form, SPECIAL, Special};
use ipctrace_common::wire::op_flag;

use crate::config::{self, offset, registers};
use crate::emit::{self, has_messages};
use crate::inflight::{self, InFlight, Moved, Side, Taken};
use crate::kernel::{LOADS, Result, load};
use crate::message::{self, MMSGHDR, MsgHdr};
use crate::object::{self, Direction, Found, Slots};
use crate::{
    channel, event, futex, handoff, inet, own, pipe, pipe_object, pty_object, ring, signal, socket_object,
    special, straddle, task, udp_taken, unix,
};

/// MSG_PEEK | MSG_ERRQUEUE: nothing is taken from the queue of messages.
pub(crate) const TAKES_NOTHING: u64 = 0x2 | 0x2000;
/// `FMODE_WRITE`, include/linux/fs.h.
const FMODE_WRITE: u32 = 0x2;

/// The flags of a receive from a socket (`MSG_PEEK` and the like); 0 of other calls.
///
/// # Safety
/// `regs` must be the `struct pt_regs` of a tracepoint.
#[inline(always)]
unsafe fn receive_flags(regs: *const u8, form: Form) -> u64 {
    // SAFETY: by contract.
    form.receive_flags().map_or(0, |index| unsafe { argument(regs, index) })
}

/// Whether a receive only looks ([`TAKES_NOTHING`]).
///
/// # Safety
/// As for [`receive_flags`].
#[inline(always)]
unsafe fn takes_nothing(regs: *const u8, form: Form) -> bool {
    // SAFETY: by contract.
    unsafe { receive_flags(regs, form) & TAKES_NOTHING != 0 }
}

/// Argument `index` (from 0) of the system call.
///
/// # Safety
/// `regs` must be the `struct pt_regs` of a tracepoint.
#[inline(always)]
pub(crate) unsafe fn argument(regs: *const u8, index: usize) -> u64 {
    // SAFETY: points into an initialised static; then, by contract, a typed pointer with an offset of this kernel.
    unsafe {
        let place = core::ptr::read_volatile((&raw const (*registers()).argument).cast::<u32>().add(index));
        load(regs, place as usize)
    }
}

/// hook: tp_btf/sys_enter `void (struct pt_regs *regs, long id)` — include/trace/events/syscalls.h
#[btf_tracepoint(function = "sys_enter")]
pub fn sys_enter(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: `regs` is the tracepoint's first argument.
    unsafe { entered(&ctx, ctx.arg(0), ctx.arg(1)) };
    0
}

/// hook: tracepoint/raw_syscalls/sys_enter
#[tracepoint]
pub fn sys_enter_event(ctx: TracePointContext) -> u32 {
    let number = event::field!(&ctx, SysEnter, 0, u64);
    // SAFETY: the registers of the current task, whose type the verifier knows.
    unsafe { entered(&ctx, task::registers(), number) };
    0
}

/// A system call begins.
///
/// # Safety
/// `regs` must be the `struct pt_regs` of a tracepoint.
#[inline(always)]
unsafe fn entered(ctx: &impl EbpfContext, regs: *const u8, number: u64) {
    let class = config::class_at_begin(number);
    // SAFETY: by contract.
    if class == 0 || unsafe { futex::is_private(regs, class) } {
        return;
    }
    let task = task::in_call();
    let ids = task::ids_of(task);
    if task::is_tracer(ids) {
        return;
    }
    if class >= SPECIAL {
        if is_compat(task) {
            ring::failed!(ctx, Cause::CompatCall);
        } else {
            // SAFETY: by contract.
            unsafe { special::enter(regs, task, ids as u32, class) };
        }
        return;
    }
    if let Err(cause) = try_enter(regs, class, task, ids) {
        ring::failed!(ctx, cause);
    }
}

/// Describes the call and remembers it, if it works on a channel.
///
/// A function of its own, for its stack is not to be that of the special calls as well. But where that is not short: each return costs as
/// much as ten other instructions on processors whose returns are guarded.
#[cfg_attr(feature = "loads", inline(always))]
#[cfg_attr(not(feature = "loads"), inline(never))]
fn try_enter(regs: *const u8, class: u8, task: *const u8, ids: u64) -> Result<()> {
    if is_compat(task) {
        return Err(Cause::CompatCall);
    }
    // SAFETY: `regs` is the tracepoint's first argument.
    let argument = |index| unsafe { argument(regs, index) };
    let form = Form::of(class);
    // SAFETY: as above.
    if unsafe { takes_nothing(regs, form) } {
        return Ok(());
    }
    if (class == Class::Read as u8 || class == Class::Readv as u8) && argument(2) == 0 {
        // Without room nothing is taken, not even from a socket that has messages.
        return Ok(());
    }
    let tid = ids as u32;
    let slots = Slots::of(task);
    let found = if form.has_first() { slots.find(argument(0) as u32)? } else { Found::NOTHING };
    let may = found.may_be_channel();
    let found = found.looked_at();
    let second = || argument(form.second()) as u32;
    // Not kept, for the stack is small; there is seldom one.
    let other_may = form.has_second() && object::find(second())?.may_be_channel();
    let waits = class == Class::Sigwait as u8;
    if !may && !other_may && !waits {
        return Ok(());
    }
    if found.is_told_of_at_object() && !form.moves() {
        return Ok(());
    }
    let direction = if form.goes_either_way() {
        vmsplice_direction(argument(0) as u32)?
    } else {
        Direction::of(form.receives())
    };
    let place = inflight::place(tid)?;
    // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
    let call = unsafe { &mut *place };
    // See below.
    let later = form.has_first() && !form.has_second() && found.may_begin_later(direction);
    if !later {
        // Before the objects are looked at: what others did before this was there to be seen.
        call.enter = ring::now();
    }
    if LOADS {
        // What is left there may be another thread's that had this number.
        call.task = task as u64;
    }
    call.class = class;
    call.user = argument(1);
    call.count = argument(2);
    call.address = 0;
    if form.has_address() {
        call.address = argument(4);
        call.address_len = argument(5);
    }
    call.sides[0].mechanism = 0;
    call.sides[1].mechanism = 0;
    if form.has_first() {
        object::describe_found(found, direction, &mut call.sides[0])?;
        if !form.moves() {
            object::pass_over(&mut call.sides[0], false);
        }
    }
    if form.has_second() {
        object::resolve(second(), Direction::of(form.second_receives()), &mut call.sides[1])?;
    }
    if waits {
        call.sides[0].mechanism = Mechanism::Signal as u8;
        call.sides[0].key.id = 0;
        call.sides[0].last.file = 0;
    }
    if call.sides[0].mechanism == 0 && call.sides[1].mechanism == 0 {
        return Ok(());
    }
    call.index = 0;
    call.taken = Taken::NOTHING;
    call.active = inflight::ACTIVE;
    let alone = channel::begin(tid, call, 0, (ids >> 32) as u32);
    if later {
        // Which call of several processes came first may be told by when they began. As long as there has been one alone, or nothing has
        // moved meanwhile, that it was after an earlier moment is enough, and saves a look at the clock.
        let side = &call.sides[0];
        let pipe = pipe::is_pipe(side.mechanism);
        let earlier = if pipe {
            call.rested_since()
        } else if alone && !has_messages(side.mechanism) {
            call.ended
        } else {
            0
        };
        call.enter = if earlier == 0 { ring::now() } else { earlier };
        if pipe && earlier == 0 {
            pipe::pipe_looked(tid);
        }
    } else {
        channel::begin(tid, call, 1, (ids >> 32) as u32);
    }
    udp_taken::look(&mut call.sides[0]);
    Ok(())
}

/// Whether this is a 32-bit call, whose numbers and arguments differ: `in_ia32_syscall`, arch/x86.
#[inline(always)]
pub(crate) fn is_compat(task: *const u8) -> bool {
    // SAFETY: points into an initialised static.
    let mask = unsafe { core::ptr::read_volatile(&raw const (*registers()).compat) };
    // SAFETY: an offset of this kernel.
    mask != 0 && unsafe { task::member::<u32>(task, offset!(task_thread_info_status)) } & mask != 0
}

/// A pipe's write end takes from the caller's memory, its read end gives: vmsplice(2).
#[inline(always)]
fn vmsplice_direction(fd: u32) -> Result<Direction> {
    let file = object::file(fd)?;
    let mode: u32 = if file == 0 { 0 } else { crate::kernel::read(file, offset!(file_mode))? };
    Ok(if mode & FMODE_WRITE != 0 { Direction::Send } else { Direction::Receive })
}

/// hook: tp_btf/sys_exit `void (struct pt_regs *regs, long ret)` — include/trace/events/syscalls.h
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let regs = ctx.arg::<*const u8>(0);
    // SAFETY: the tracepoint's first argument.
    unsafe { left(regs, number(regs), ctx.arg(1)) };
    0
}

/// hook: tracepoint/raw_syscalls/sys_exit
#[tracepoint]
pub fn sys_exit_event(ctx: TracePointContext) -> u32 {
    let (number, returned) = (event::field!(&ctx, SysExit, 0, u64), event::field!(&ctx, SysExit, 1, i64));
    // SAFETY: the registers of the current task, whose type the verifier knows.
    unsafe { left(task::registers(), number, returned) };
    0
}

/// The number of the system call that these are the registers of.
///
/// # Safety
/// `regs` must be the `struct pt_regs` of a tracepoint or of the current task.
#[inline(always)]
pub(crate) unsafe fn number(regs: *const u8) -> u64 {
    // SAFETY: by contract, at an offset of this kernel; the static is initialised.
    unsafe { load(regs, core::ptr::read_volatile(&raw const (*registers()).number) as usize) }
}

/// A system call ends.
///
/// # Safety
/// `regs` must be the `struct pt_regs` of a tracepoint.
#[inline(always)]
unsafe fn left(regs: *const u8, number: u64, returned: i64) {
    let class = config::class_at_end(number);
    // SAFETY: by contract.
    if class == 0 || unsafe { futex::is_private(regs, class) } {
        return;
    }
    let task = task::in_call();
    let ids = task::ids_of(task);
    let tid = ids as u32;
    if class >= SPECIAL {
        // By an eventfd of the tracer's own the programs learn what one looks like.
        if (!task::is_tracer(ids) || class == Special::Eventfd as u8) && !is_compat(task) {
            // SAFETY: by contract.
            unsafe { special::exit(regs, task, tid, class, returned) };
        }
        return;
    }
    let Some(call) = inflight::get(tid) else {
        if straddle::may_be(tid) && !task::is_tracer(ids) {
            // SAFETY: by contract.
            let (fd, user) = unsafe { (argument(regs, 0), argument(regs, 1)) };
            // SAFETY: as above.
            let flags = unsafe { receive_flags(regs, Form::of(class)) };
            if flags & TAKES_NOTHING == 0 {
                straddle::ended(tid, class, fd as u32, flags, returned, user);
            }
        }
        return;
    };
    // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
    let call = unsafe { &mut *call };
    // SAFETY: by contract.
    let fd = || unsafe { argument(regs, 0) } as u32;
    // SAFETY: as above.
    let looks = || unsafe { takes_nothing(regs, Form::of(class)) };
    if ((pipe_object::is_told_of_here(call) || pty_object::is_told_of_here(call))
        && object::object_was_of(tid, fd()) == 0)
        || (socket_object::is_told_of_here(call)
            && (looks() || socket_object::socket_object_was_of(tid, fd(), u32::from(class)) == 0))
    {
        // Left over from something else.
        call.active = 0;
        return;
    }
    // A message is gone although it could not be copied to where it was to go.
    let is_gone = returned < 0 && call.taken.sock != 0 && unix::keeps_messages(call.sides[0].mechanism);
    let returned = if is_gone { 0 } else { returned };
    if returned >= 0 {
        call.active = inflight::ENDING;
        match exited(tid, call, returned as u64) {
            Rest::Nothing => {}
            Rest::LookedInto => {
                own::exited_looked_into(tid);
            }
            Rest::InMemory => {
                exited_slowly(tid, returned as u64);
            }
            Rest::Messages => {
                exited_messages(tid, returned as u32);
            }
            Rest::Second => {
                second(tid);
            }
        }
    }
    // There was nothing to tell.
    if call.sides[0].present | call.sides[1].present != 0 {
        channel::left(tid);
    }
    call.active = 0;
}

/// What is left to do at the end of a call. `sys_exit` does it, not [`exited`], whose part of the stack is free again then:
/// before Linux 6.13 the frames of a chain of calls share 512 bytes, each of them a multiple of 32.
enum Rest {
    Nothing,
    LookedInto,
    /// The result is in the caller's memory.
    InMemory,
    Messages,
    Second,
}

/// Tells what the call did.
///
/// A function of its own for its stack, as `try_enter`.
#[cfg_attr(feature = "loads", inline(always))]
#[cfg_attr(not(feature = "loads"), inline(never))]
fn exited(tid: u32, call: &mut InFlight, returned: u64) -> Rest {
    match Class::from_wire(call.class) {
        Some(Class::Splice | Class::Tee | Class::Sendfile) => {
            call.moved = Moved { flags: op_flag::SPLICED, ..Moved::of(returned) };
        }
        Some(
            Class::Read
            | Class::Readv
            | Class::Write
            | Class::Writev
            | Class::Sendto
            | Class::Recvfrom
            | Class::Vmsplice,
        ) => {
            // What vmsplice puts into a pipe stays in the caller's pages, wherever in them it is.
            let spliced = call.class == Class::Vmsplice as u8 && call.sides[0].receive == 0;
            call.moved = Moved {
                flags: if spliced { op_flag::SPLICED } else { 0 },
                user: call.user,
                count: call.count,
                address: call.address,
                address_len: call.address_len,
                ..Moved::of(returned)
            };
            if own::is_looked_into(call.sides[0].mechanism) {
                return Rest::LookedInto;
            }
        }
        Some(Class::Sendmsg | Class::Recvmsg | Class::Sigwait) => return Rest::InMemory,
        Some(Class::Sendmmsg | Class::Recvmmsg) => return Rest::Messages,
        None => return Rest::Nothing,
    }
    one(tid, call);
    if call.sides[1].mechanism != 0 { Rest::Second } else { Rest::Nothing }
}

/// The second side of a call between two descriptors. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn second(tid: u32) -> i32 {
    if let Some(call) = inflight::get(tid) {
        // SAFETY: a valid pointer into the map; the entry is the current thread's.
        let call = unsafe { &mut *call };
        if prepare(call, 1) {
            emit::op(tid, call, 1);
        } else {
            inet::late(tid, call, 1);
        }
    }
    0
}

/// The same for calls whose result is in the caller's memory. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn exited_slowly(tid: u32, returned: u64) -> i32 {
    let Some(call) = inflight::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    if let Err(cause) = try_exited_slowly(tid, unsafe { &mut *call }, returned) {
        ring::count(cause);
    }
    0
}

#[inline(always)]
fn try_exited_slowly(tid: u32, call: &mut InFlight, returned: u64) -> Result<()> {
    if call.class == Class::Sigwait as u8 {
        signal::taken(call.user, returned as u32);
        return Ok(());
    }
    let header = MsgHdr::read(call.user)?;
    call.moved =
        Moved { user: call.user, address: header.name, address_len: header.name_len, ..Moved::of(returned) };
    one(tid, call);
    if call.sides[0].mechanism == 0 {
        return Ok(());
    }
    handoff::passed_along(tid, call.user);
    Ok(())
}

/// The same for calls with several messages. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn exited_messages(tid: u32, count: u32) -> i32 {
    let Some(call) = inflight::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    let call = unsafe { &mut *call };
    let receive = call.class == Class::Recvmmsg as u8;
    if let Err(cause) = messages(tid, call, count, receive) {
        ring::count(cause);
    }
    0
}

/// Tells of one message, or one run of bytes, through the first side, if there is anything to tell.
#[inline(always)]
fn one(tid: u32, call: &mut InFlight) {
    if udp_taken::receives(&call.sides[0]) {
        udp_taken::tell(tid);
        return;
    }
    if prepare(call, 0) {
        emit::op(tid, call, 0);
    } else {
        inet::late(tid, call, 0);
    }
}

/// Whether there is anything to tell of one side; makes `moved` and the side fit it.
#[inline(always)]
pub(crate) fn prepare(call: &mut InFlight, index: usize) -> bool {
    // Vectors without room, and what is moved from another file, make no message of nothing. At functions there is one.
    const NO_EMPTY: u32 = 1 << Class::Writev as u8 | 1 << Class::Splice as u8 | 1 << Class::Sendfile as u8;
    let may_be_empty = NO_EMPTY >> (call.class & 31) & 1 == 0 || object::is_of_object(call);
    let side = &mut call.sides[index];
    let moved = &mut call.moved;
    if side.mechanism == 0 {
        return false;
    }
    let receive = side.receive != 0;
    if has_messages(side.mechanism) {
        if moved.bytes == 0 && !receive && !may_be_empty {
            return false;
        }
        if receive {
            if call.taken.sock != 0 {
                moved.flags |= op_flag::FROM;
                moved.len = call.taken.len;
            } else if moved.bytes == 0 && side.mechanism != Mechanism::Udp as u8 {
                // Nothing was taken: the end of a connection, not an empty message.
                return false;
            }
        }
    } else if moved.bytes == 0 || side.key.id == 0 {
        return false;
    }
    // Only datagrams go where an address says; where that is, the receiver's record tells.
    if receive || side.mechanism != Mechanism::UnixDgram as u8 || moved.address_len == 0 {
        moved.address = 0;
    }
    if moved.address != 0 {
        channel::leave(side);
        side.key.id = 0;
        side.key.space = 0;
        side.peer_inode = 0;
    }
    true
}

/// sendmmsg(2) and recvmmsg(2): each message by itself; on a stream their sum.
#[inline(always)]
fn messages(tid: u32, call: &mut InFlight, count: u32, receive: bool) -> Result<()> {
    if !has_messages(call.sides[0].mechanism) {
        let sum = message::each::<message::AddUp>(tid, count)?;
        call.moved = Moved { messages: count, ..Moved::of(sum) };
        one(tid, call);
        return Ok(());
    }
    if !receive || call.sides[0].mechanism == Mechanism::Udp as u8 {
        udp_taken::counted(call, count);
        return message::each::<One>(tid, count).map(|_| ());
    }
    // Those before the last were told of when the next one was taken: [`crate::skb`].
    if call.index < count {
        message_received(tid);
    }
    Ok(())
}

/// Tells of one message of sendmmsg, or of recvmmsg where the messages themselves are told of otherwise.
struct One;

impl message::Visit for One {
    #[inline(always)]
    fn visit(tid: u32, call: &mut InFlight, index: u32, bytes: u64) -> Result<()> {
        let user = call.user + u64::from(index) * MMSGHDR;
        let header = MsgHdr::read(user)?;
        call.moved = Moved { user, address: header.name, address_len: header.name_len, ..Moved::of(bytes) };
        udp_taken::choose(tid, call, index);
        // Where one message goes says nothing of the next. What it overwrites is kept with the side that such calls do not have:
        // the stack is short here.
        call.sides[1].key = call.sides[0].key;
        call.sides[1].peer_inode = call.sides[0].peer_inode;
        if udp_taken::receives(&call.sides[0]) {
            udp_taken::tell(tid);
        } else if prepare(call, 0) {
            emit::op(tid, call, 0);
        }
        handoff::passed_along(tid, user);
        call.sides[0].key = call.sides[1].key;
        call.sides[0].peer_inode = call.sides[1].peer_inode;
        Ok(())
    }
}

/// One message of recvmmsg, which is in `taken` of the call in flight. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn message_received(tid: u32) -> i32 {
    let Some(call) = inflight::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    let call = unsafe { &mut *call };
    let index = call.index;
    match message::moved(call.user, index) {
        Ok(bytes) => {
            let user = call.user + u64::from(index) * MMSGHDR;
            call.moved = Moved { user, ..Moved::of(bytes) };
            if prepare(call, 0) {
                emit::op(tid, call, 0);
            }
            handoff::passed_along(tid, user);
        }
        Err(cause) => ring::count(cause),
    }
    call.index = index + 1;
    call.taken = Taken::NOTHING;
    0
}

/// Fills a side for a call whose begin was not seen.
#[inline(always)]
pub(crate) fn side_of(fd: u32, class: Class, side: &mut Side) -> Result<()> {
    match class {
        Class::Read | Class::Readv | Class::Recvfrom | Class::Recvmsg | Class::Recvmmsg => {
            object::resolve(fd, Direction::Receive, side)
        }
        Class::Write | Class::Writev | Class::Sendto | Class::Sendmsg | Class::Sendmmsg => {
            object::resolve(fd, Direction::Send, side)
        }
        // Calls between two descriptors, or none: not followed across the start.
        Class::Splice | Class::Tee | Class::Vmsplice | Class::Sendfile | Class::Sigwait => Ok(()),
    }
}
