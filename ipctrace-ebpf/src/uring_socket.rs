//! Sends and receives through io_uring, told where they happen: at the socket, in the thread that does it. So every one
//! of them is seen, whatever becomes of its completion, however often one request receives, and with the datagram that
//! it took.

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::{btf_tracepoint, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, TracePointContext};
use ipctrace_common::Mechanism;
use ipctrace_common::syscall::Class;
use ipctrace_common::wire::op_flag;

use crate::config::offset;
use crate::inflight::{self, Moved, Side, Taken};
use crate::kernel::{Result, load, read};
use crate::object::{self, Direction};
use crate::{channel, emit, event, ring, straddle, syscall, task, udp_taken, unix, uring};

/// `inode` of what was taken where `sock` is no socket but the buffer of a UDP datagram.
const BUFFER: u64 = u64::MAX;

/// hook: tp_btf/sock_send_length `void (struct sock *sk, int ret, int flags)` — include/trace/events/sock.h
#[btf_tracepoint(function = "sock_send_length")]
pub fn sock_send(ctx: BtfTracePointContext) -> i32 {
    sent(&ctx, ctx.arg::<*const u8>(0) as u64, ctx.arg(1));
    0
}

/// hook: tracepoint/sock/sock_send_length
#[tracepoint]
pub fn sock_send_event(ctx: TracePointContext) -> u32 {
    sent(&ctx, event::field!(&ctx, SockSend, 0, u64), event::field!(&ctx, SockSend, 1, i32));
    0
}

/// So much was sent through a socket.
#[inline(always)]
fn sent(ctx: &impl EbpfContext, sock: u64, returned: i32) {
    if uring::is_user()
        && let Err(cause) = try_moved(sock, returned, Direction::Send)
    {
        ring::failed!(ctx, cause);
    }
}

/// hook: tp_btf/sock_recv_length `void (struct sock *sk, int ret, int flags)` — include/trace/events/sock.h
#[btf_tracepoint(function = "sock_recv_length")]
pub fn sock_receive(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint's argument has BTF type sock; an offset of this kernel.
    let protocol: u16 = unsafe { load(ctx.arg(0), offset!(sock_protocol)) };
    received(&ctx, ctx.arg::<*const u8>(0) as u64, protocol, ctx.arg(1), ctx.arg(2));
    0
}

/// hook: tracepoint/sock/sock_recv_length
#[tracepoint]
pub fn sock_receive_event(ctx: TracePointContext) -> u32 {
    let (sock, protocol) =
        (event::field!(&ctx, SockReceive, 0, u64), event::field!(&ctx, SockReceive, 1, u16));
    let (returned, flags) =
        (event::field!(&ctx, SockReceive, 2, i32), event::field!(&ctx, SockReceive, 3, u32));
    received(&ctx, sock, protocol, returned, flags);
    0
}

/// So much was received through a socket.
#[inline(always)]
fn received(ctx: &impl EbpfContext, sock: u64, protocol: u16, returned: i32, flags: u32) {
    const IPPROTO_UDP: u16 = 17;
    if returned >= 0 && protocol == IPPROTO_UDP {
        udp_taken::received(task::pid_tgid() as u32);
    }
    if uring::is_user()
        && u64::from(flags) & syscall::TAKES_NOTHING == 0
        && let Err(cause) = try_moved(sock, returned, Direction::Receive)
    {
        ring::failed!(ctx, cause);
    }
}

/// Tells of it, unless a system call does.
#[inline(always)]
fn try_moved(sock: u64, returned: i32, direction: Direction) -> Result<()> {
    let ids = task::pid_tgid();
    let tid = ids as u32;
    let Some(thread) = uring::thread(tid) else {
        return Ok(());
    };
    // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
    let thread = unsafe { &mut *thread };
    let (taken, enter) = (thread.taken, thread.latest);
    thread.taken = Taken::NOTHING;
    if returned < 0 || task::is_tracer(ids) || inflight::get(tid).is_some() || straddle::is(tid) {
        return Ok(());
    }
    let socket: u64 = read(sock, offset!(sock_socket))?;
    if socket == 0 {
        return Ok(());
    }
    let file: u64 = read(socket, offset!(socket_file))?;
    if file == 0 {
        return Ok(());
    }
    let place = inflight::place(tid)?;
    // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
    let call = unsafe { &mut *place };
    call.sides[0].fd = -1;
    call.sides[1].mechanism = 0;
    object::describe(file, direction, &mut call.sides[0])?;
    object::pass_over(&mut call.sides[0], false);
    if call.sides[0].mechanism == 0 {
        return Ok(());
    }
    call.class = if direction == Direction::Send { Class::Write } else { Class::Read } as u8;
    if call.sides[0].key.id != 0 && !channel::is_known(&call.sides[0]) {
        // It began before tracing did, or with a file that was not known then.
        let Some(desk) = inflight::desk() else {
            return Ok(());
        };
        // SAFETY: this CPU's valid, aligned place; the programs on system calls, which also use it, do not interrupt this
        // one.
        let unknown = unsafe { &mut *desk };
        unknown.sides = [call.sides[0], Side::NONE];
        unknown.class = call.class;
        unknown.run = 0;
        straddle::unbegun(tid, unknown, returned as u64)?;
        inflight::end(tid);
        return Ok(());
    }
    // Positions at its begin are not known.
    call.sides[0].flags &= !op_flag::POSITIONS;
    call.index = 0;
    call.task = 0;
    // What stood first in the queue of a UDP socket is known as it is now, not as it was before: without a begin nothing is
    // made of it.
    let late = direction == Direction::Receive && call.sides[0].mechanism == Mechanism::Udp as u8;
    call.enter = if late { 0 } else { enter };
    // Which of the two kinds it is that was noted.
    let buffer = taken.inode == BUFFER;
    call.taken = if buffer == late { taken } else { Taken::NOTHING };
    call.moved = Moved { flags: if late { op_flag::CUT } else { 0 }, ..Moved::of(returned as u64) };
    call.active = 1;
    channel::arrive(&mut call.sides[0], (ids >> 32) as u32);
    channel::left(tid);
    if syscall::prepare(call, 0) {
        emit::emit_plain(tid, 0);
    }
    call.active = 0;
    thread.latest = ring::now();
    Ok(())
}

/// A datagram that is taken by a thread that is in no call: perhaps by a request through a ring.
#[inline(always)]
pub(crate) fn consumed(tid: u32, buffer: u64) -> Result<()> {
    let sock: u64 = read(buffer, offset!(skb_sk))?;
    if sock == 0 || !unix::is_unix(sock) {
        return Ok(());
    }
    let Some(thread) = uring::thread(tid) else {
        return Ok(());
    };
    let len: u32 = read(buffer, offset!(skb_len))?;
    // SAFETY: as above.
    unsafe { (*thread).taken = Taken { sock, inode: unix::inode_of(sock)?, len: u64::from(len) } };
    Ok(())
}

/// The buffer that a thread copies from which is in no call: perhaps for a request through a ring.
#[inline(always)]
pub(crate) fn copied(tid: u32, taken: Taken) -> Result<()> {
    if let Some(thread) = uring::thread(tid) {
        // SAFETY: as above.
        unsafe { (*thread).taken = Taken { inode: BUFFER, ..taken } };
    }
    Ok(())
}
