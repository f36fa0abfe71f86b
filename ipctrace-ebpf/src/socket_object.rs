//! Sockets at the functions of their protocols, which every send and receive comes to: system calls of 64 and of 32 bits, each message
//! of one that has several, io_uring, and what the kernel sends itself. What is spliced or sent from a file by a system call stays with
//! the programs on system calls. As for [`crate::queue_object`], nothing is kept in places of a CPU.

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::{fentry, fexit};
use aya_ebpf::programs::{FEntryContext, FExitContext};
use ipctrace_common::syscall::{Class, Form};
use ipctrace_common::wire::op_flag;
use ipctrace_common::{Cause, Mechanism};

use crate::config::{self, offset};
use crate::emit::{self, has_messages};
use crate::inflight::{self, InFlight, Moved};
use crate::iter;
use crate::kernel::{Result, argument, first_two, read};
use crate::object::{is_at_object, is_of_object, is_socket};
use crate::syscall::TAKES_NOTHING;
use crate::{channel, handoff, inet, object, own, ring, straddle, syscall, task, udp_taken, unix};

/// A 32-bit caller, whose control messages have another form: include/linux/socket.h.
const MSG_CMSG_COMPAT: u64 = 0x8000_0000;
const SOCK_DGRAM: u16 = 2;
/// Sockets that nothing goes along with.
const INTERNET: u32 = Mechanism::Tcp.bit() | Mechanism::Udp.bit();

/// hook: fentry/unix_stream_sendmsg `int (struct socket *sock, struct msghdr *msg, size_t len)` — net/unix/af_unix.c
#[fentry(function = "unix_stream_sendmsg")]
pub fn unix_stream_send_entry(ctx: FEntryContext) -> i32 {
    begin(protocol(&ctx), None)
}

/// hook: fexit/unix_stream_sendmsg `int (struct socket *sock, struct msghdr *msg, size_t len)` — net/unix/af_unix.c
#[fexit(function = "unix_stream_sendmsg")]
pub fn unix_stream_send_exit(ctx: FExitContext) -> i32 {
    end(protocol(&ctx), None, ctx.arg(3))
}

/// hook: fentry/unix_stream_recvmsg `int (struct socket *sock, struct msghdr *msg, size_t size, int flags)` — net/unix/af_unix.c
#[fentry(function = "unix_stream_recvmsg")]
pub fn unix_stream_receive_entry(ctx: FEntryContext) -> i32 {
    begin(protocol(&ctx), Some(ctx.arg(3)))
}

/// hook: fexit/unix_stream_recvmsg `int (struct socket *sock, struct msghdr *msg, size_t size, int flags)` — net/unix/af_unix.c
#[fexit(function = "unix_stream_recvmsg")]
pub fn unix_stream_receive_exit(ctx: FExitContext) -> i32 {
    end(protocol(&ctx), Some(ctx.arg(3)), ctx.arg(4))
}

/// hook: fentry/unix_dgram_sendmsg `int (struct socket *sock, struct msghdr *msg, size_t len)` — net/unix/af_unix.c
#[fentry(function = "unix_dgram_sendmsg")]
pub fn unix_dgram_send_entry(ctx: FEntryContext) -> i32 {
    begin(datagrams(&ctx), None)
}

/// hook: fexit/unix_dgram_sendmsg `int (struct socket *sock, struct msghdr *msg, size_t len)` — net/unix/af_unix.c
#[fexit(function = "unix_dgram_sendmsg")]
pub fn unix_dgram_send_exit(ctx: FExitContext) -> i32 {
    end(datagrams(&ctx), None, ctx.arg(3))
}

/// hook: fentry/unix_dgram_recvmsg `int (struct socket *sock, struct msghdr *msg, size_t size, int flags)` — net/unix/af_unix.c
#[fentry(function = "unix_dgram_recvmsg")]
pub fn unix_dgram_receive_entry(ctx: FEntryContext) -> i32 {
    begin(datagrams(&ctx), Some(ctx.arg(3)))
}

/// hook: fexit/unix_dgram_recvmsg `int (struct socket *sock, struct msghdr *msg, size_t size, int flags)` — net/unix/af_unix.c
#[fexit(function = "unix_dgram_recvmsg")]
pub fn unix_dgram_receive_exit(ctx: FExitContext) -> i32 {
    end(datagrams(&ctx), Some(ctx.arg(3)), ctx.arg(4))
}

/// hook: fentry/unix_seqpacket_sendmsg `int (struct socket *sock, struct msghdr *msg, size_t len)` — net/unix/af_unix.c
#[fentry(function = "unix_seqpacket_sendmsg")]
pub fn unix_seqpacket_send_entry(ctx: FEntryContext) -> i32 {
    begin(protocol(&ctx), None)
}

/// hook: fexit/unix_seqpacket_sendmsg `int (struct socket *sock, struct msghdr *msg, size_t len)` — net/unix/af_unix.c
#[fexit(function = "unix_seqpacket_sendmsg")]
pub fn unix_seqpacket_send_exit(ctx: FExitContext) -> i32 {
    end(protocol(&ctx), None, ctx.arg(3))
}

/// hook: fentry/unix_seqpacket_recvmsg `int (struct socket *sock, struct msghdr *msg, size_t size, int flags)` — net/unix/af_unix.c
#[fentry(function = "unix_seqpacket_recvmsg")]
pub fn unix_seqpacket_receive_entry(ctx: FEntryContext) -> i32 {
    begin(protocol(&ctx), Some(ctx.arg(3)))
}

/// hook: fexit/unix_seqpacket_recvmsg `int (struct socket *sock, struct msghdr *msg, size_t size, int flags)` — net/unix/af_unix.c
#[fexit(function = "unix_seqpacket_recvmsg")]
pub fn unix_seqpacket_receive_exit(ctx: FExitContext) -> i32 {
    end(protocol(&ctx), Some(ctx.arg(3)), ctx.arg(4))
}

/// hook: fentry/tcp_sendmsg `int (struct sock *sk, struct msghdr *msg, size_t size)` — net/ipv4/tcp.c
#[fentry(function = "tcp_sendmsg")]
pub fn tcp_send_entry(ctx: FEntryContext) -> i32 {
    begin(first_two(&ctx), None)
}

/// hook: fexit/tcp_sendmsg `int (struct sock *sk, struct msghdr *msg, size_t size)` — net/ipv4/tcp.c
#[fexit(function = "tcp_sendmsg")]
pub fn tcp_send_exit(ctx: FExitContext) -> i32 {
    end(first_two(&ctx), None, ctx.arg(3))
}

/// hook: fentry/tcp_recvmsg `int (struct sock *sk, struct msghdr *msg, size_t len, int flags)` — net/ipv4/tcp.c
///
/// With more arguments on older kernels.
#[fentry(function = "tcp_recvmsg")]
pub fn tcp_receive_entry(ctx: FEntryContext) -> i32 {
    begin(first_two(&ctx), Some(inet_flags(&ctx)))
}

/// hook: fexit/tcp_recvmsg `int (struct sock *sk, struct msghdr *msg, size_t len, int flags)` — net/ipv4/tcp.c
#[fexit(function = "tcp_recvmsg")]
pub fn tcp_receive_exit(ctx: FExitContext) -> i32 {
    end(first_two(&ctx), Some(inet_flags(&ctx)), inet_returned(&ctx))
}

/// hook: fentry/udp_sendmsg `int (struct sock *sk, struct msghdr *msg, size_t len)` — net/ipv4/udp.c
#[fentry(function = "udp_sendmsg")]
pub fn udp_send_entry(ctx: FEntryContext) -> i32 {
    begin(datagrams_v4(&ctx), None)
}

/// hook: fexit/udp_sendmsg `int (struct sock *sk, struct msghdr *msg, size_t len)` — net/ipv4/udp.c
#[fexit(function = "udp_sendmsg")]
pub fn udp_send_exit(ctx: FExitContext) -> i32 {
    end(datagrams_v4(&ctx), None, ctx.arg(3))
}

/// hook: fentry/udpv6_sendmsg `int (struct sock *sk, struct msghdr *msg, size_t len)` — net/ipv6/udp.c
#[fentry(function = "udpv6_sendmsg")]
pub fn udp6_send_entry(ctx: FEntryContext) -> i32 {
    begin(first_two(&ctx), None)
}

/// hook: fexit/udpv6_sendmsg `int (struct sock *sk, struct msghdr *msg, size_t len)` — net/ipv6/udp.c
#[fexit(function = "udpv6_sendmsg")]
pub fn udp6_send_exit(ctx: FExitContext) -> i32 {
    end(first_two(&ctx), None, ctx.arg(3))
}

/// hook: fentry/udp_recvmsg `int (struct sock *sk, struct msghdr *msg, size_t len, int flags)` — net/ipv4/udp.c
///
/// With more arguments on older kernels.
#[fentry(function = "udp_recvmsg")]
pub fn udp_receive_entry(ctx: FEntryContext) -> i32 {
    begin(first_two(&ctx), Some(inet_flags(&ctx)));
    socket_object_looked(task::pid_tgid() as u32)
}

/// hook: fexit/udp_recvmsg `int (struct sock *sk, struct msghdr *msg, size_t len, int flags)` — net/ipv4/udp.c
#[fexit(function = "udp_recvmsg")]
pub fn udp_receive_exit(ctx: FExitContext) -> i32 {
    end(first_two(&ctx), Some(inet_flags(&ctx)), inet_returned(&ctx))
}

/// hook: fentry/udpv6_recvmsg `int (struct sock *sk, struct msghdr *msg, size_t len, int flags)` — net/ipv6/udp.c
///
/// With more arguments on older kernels.
#[fentry(function = "udpv6_recvmsg")]
pub fn udp6_receive_entry(ctx: FEntryContext) -> i32 {
    begin(first_two(&ctx), Some(inet_flags(&ctx)));
    socket_object_looked(task::pid_tgid() as u32)
}

/// hook: fexit/udpv6_recvmsg `int (struct sock *sk, struct msghdr *msg, size_t len, int flags)` — net/ipv6/udp.c
#[fexit(function = "udpv6_recvmsg")]
pub fn udp6_receive_exit(ctx: FExitContext) -> i32 {
    end(first_two(&ctx), Some(inet_flags(&ctx)), inet_returned(&ctx))
}

/// The UDP socket of IPv4 that a function is given and the header of the message; no socket if it is one of IPv6, whose function calls that
/// of IPv4 for addresses of that.
#[inline(always)]
fn datagrams_v4(context: &impl EbpfContext) -> [u64; 2] {
    const AF_INET6: u16 = 10;
    let [sock, message] = first_two(context);
    [if read::<u16>(sock, offset!(sock_family)) == Ok(AF_INET6) { 0 } else { sock }, message]
}

/// Looks what is first in the queue of the UDP socket of the call in flight of thread `tid`. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn socket_object_looked(tid: u32) -> i32 {
    if let Some(call) = inflight::get(tid) {
        // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
        let call = unsafe { &mut *call };
        if is_told_of_here(call) {
            udp_taken::look(&mut call.sides[0]);
        }
    }
    0
}

/// The flags of a receive from an internet socket. By a helper: which argument it is the compiler would add to the address of the
/// context, of which the verifier allows no other.
#[inline(always)]
fn inet_flags(context: &impl EbpfContext) -> u64 {
    argument(context, if config::inet_receive() == 6 { 4 } else { 3 })
}

/// What one returned.
#[inline(always)]
fn inet_returned(context: &impl EbpfContext) -> u64 {
    argument(context, config::inet_receive() as usize)
}

/// The protocol state of the `struct socket` that a function is given, 0 if there is none, and the header of the message.
#[inline(always)]
fn protocol(context: &impl EbpfContext) -> [u64; 2] {
    let [socket, message] = first_two(context);
    [read(socket, offset!(socket_sk)).unwrap_or(0), message]
}

/// The same, if it is a datagram socket: those of sequenced packets, which have functions of their own, call the same ones.
#[inline(always)]
fn datagrams(context: &impl EbpfContext) -> [u64; 2] {
    let [sock, message] = protocol(context);
    [if read::<u16>(sock, offset!(sock_type)) == Ok(SOCK_DGRAM) { sock } else { 0 }, message]
}

/// What is to be done next with a call, as for pipes.
mod next {
    /// Nothing: it is no call of ours.
    pub(super) const NOTHING: u32 = 0;
    /// The channel is known, or there is none (yet).
    pub(super) const GO: u32 = 1;
    /// The books of the channel are to be opened.
    pub(super) const OPEN: u32 = 2;
}

/// Whether a call on that socket is none of ours. `flags`: those of a receive.
#[inline(always)]
fn is_nothing(ids: u64, sock: u64, flags: Option<u64>) -> bool {
    sock == 0 || flags.is_some_and(|flags| flags & TAKES_NOTHING != 0) || task::is_tracer(ids)
}

/// The begin of a send, or of a receive with these flags.
#[inline(always)]
fn begin([sock, message]: [u64; 2], flags: Option<u64>) -> i32 {
    let ids = task::pid_tgid();
    if is_nothing(ids, sock, flags) {
        return 0;
    }
    let tid = ids as u32;
    let receive = u32::from(flags.is_some());
    if socket_object_begun(tid, sock, message, receive, ring::now()) == next::OPEN {
        open(tid, 0);
        if let Some(call) = inflight::get(tid) {
            // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
            channel::arrive(unsafe { &mut (*call).sides[0] }, (ids >> 32) as u32);
        }
    }
    0
}

/// Opens the books of the channel of the call in flight, and tells what else there is to tell of one that is new.
#[inline(always)]
fn open(tid: u32, taken_before: u64) {
    if channel::opened_by_name(tid, taken_before) == 1
        && let Some(call) = inflight::get(tid)
    {
        // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
        let (mechanism, object) = unsafe { ((*call).sides[0].mechanism, (*call).sides[0].object) };
        own::opened(mechanism, object);
    }
}

/// The end of one, which returned that.
#[inline(always)]
fn end([sock, message]: [u64; 2], flags: Option<u64>, returned: u64) -> i32 {
    let ids = task::pid_tgid();
    if is_nothing(ids, sock, flags) {
        return 0;
    }
    let (tid, returned) = (ids as u32, returned as i32);
    let mut known = u64::MAX;
    if !is_in_flight(tid, sock) {
        let receive = u32::from(flags.is_some());
        let next = socket_object_begun(tid, sock, message, receive, 0);
        if next == next::NOTHING {
            return 0;
        }
        known = u64::from(next == next::GO);
        if next == next::OPEN {
            open(tid, taken(tid, returned));
        }
    }
    if returned >= 0 {
        if socket_object_ended(tid, message, returned as u64, known) != 0 {
            open(tid, returned as u64);
            socket_object_told(tid);
        }
        socket_object_passed(tid, message, flags.unwrap_or(0));
    }
    if let Some(call) = inflight::get(tid)
        // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
        && unsafe { (*call).sides[0].present } != 0
    {
        // There was nothing to tell.
        channel::left(tid);
    }
    inflight::tell(tid);
    0
}

/// Whether the thread is in a call on that socket that a program of this module has put there.
#[inline(always)]
fn is_in_flight(tid: u32, sock: u64) -> bool {
    match inflight::get(tid) {
        // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
        Some(call) => unsafe { is_told_of_here(&*call) && (*call).sides[0].object == sock },
        None => false,
    }
}

/// What the call in flight has taken out of its channel, in the unit of its books.
#[inline(always)]
fn taken(tid: u32, returned: i32) -> u64 {
    match inflight::get(tid) {
        // SAFETY: as above.
        Some(call) if returned > 0 && unsafe { (*call).sides[0].receive } != 0 => {
            // SAFETY: as above.
            if has_messages(unsafe { (*call).sides[0].mechanism }) { 1 } else { returned as u64 }
        }
        Some(_) | None => 0,
    }
}

/// Whether a call in flight was put there by a program of this module.
#[inline(always)]
pub(crate) fn is_told_of_here(call: &InFlight) -> bool {
    // What the verifier knows comes first: where no socket is traced here it looks no further.
    config::objects() & Mechanism::SOCKETS != 0 && is_socket(call.sides[0].mechanism) && is_of_object(call)
}

/// The end of a system call of that class on descriptor `fd` with a call of this module in flight: the program at the end of the
/// function was skipped, for another task was in the middle of it on this CPU. Whether it was this system call, and what it did can
/// be told by what it returned: 1. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn socket_object_was_of(tid: u32, fd: u32, class: u32) -> i32 {
    const SEVERAL: u32 = 1 << Class::Sendmmsg as u8 | 1 << Class::Recvmmsg as u8;
    let Some(call) = inflight::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    let call = unsafe { &mut *call };
    let side = &call.sides[0];
    let Ok(file) = object::file(fd) else {
        return 0;
    };
    let Ok(socket) = read::<u64>(file, offset!(file_private_data)) else {
        return 0;
    };
    let Ok(sock) = read::<u64>(socket, offset!(socket_sk)) else {
        return 0;
    };
    // What was copied for it, as the address of its destination, is gone.
    let gone = side.receive == 0 && call.address != 0;
    if SEVERAL >> (class & 31) & 1 != 0 || sock != side.object || gone {
        return 0;
    }
    call.user = 0;
    1
}

/// Describes a call that began at `enter` (0: not seen) and puts it in flight; gives what is to be done next. The verifier looks
/// at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn socket_object_begun(tid: u32, sock: u64, message: u64, receive: u32, enter: u64) -> u32 {
    match try_begun(tid, sock, message, receive != 0, enter) {
        Ok(next) => next,
        Err(cause) => {
            ring::count(cause);
            next::NOTHING
        }
    }
}

#[inline(always)]
fn try_begun(tid: u32, sock: u64, message: u64, receive: bool, enter: u64) -> Result<u32> {
    let place = inflight::place(tid)?;
    // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
    let call = unsafe { &mut *place };
    if call.active != 0 && !is_of_object(call) {
        // A system call on two files, which tells of it. Of one on something else, in which the kernel sends on its own behalf, nobody
        // tells.
        let counted = enter == 0 || Form::of(call.class).moves();
        return if counted { Ok(next::NOTHING) } else { Err(Cause::MapFull) };
    }
    call.active = 0;
    let socket: u64 = read(sock, offset!(sock_socket))?;
    if socket == 0 {
        return Ok(next::NOTHING);
    }
    let side = call.only(receive, enter);
    side.last.file = 0;
    object::protocol(sock, unix::beside(socket), side)?;
    if !is_at_object(side.mechanism) {
        side.mechanism = 0;
        return Ok(next::NOTHING);
    }
    if enter == 0 {
        // Where it stood then is not known.
        side.flags &= !op_flag::POSITIONS;
    }
    let known = if side.key.id == 0 {
        true
    } else if enter == 0 {
        channel::is_known(side)
    } else {
        channel::arrive_if_known(side, (task::pid_tgid() >> 32) as u32)
    };
    let iter = message + offset!(msghdr_iter) as u64;
    let digested = udp_taken::receives(&call.sides[0]);
    let memory = iter::memory(iter, receive, digested)?;
    call.start_in(&memory, enter);
    let mechanism = call.sides[0].mechanism;
    if !receive {
        if mechanism == Mechanism::UnixDgram as u8 {
            call.address = read(message, offset!(msghdr_name))?;
            call.address_len = u64::from(read::<u32>(message, offset!(msghdr_namelen))?);
        }
    } else if enter == 0 {
        // Where it stood then is not known.
    } else if mechanism == Mechanism::Udp as u8 {
        // The room for its content.
        call.address_len = read(iter, offset!(iter_bytes))?;
    } else if mechanism != Mechanism::Tcp as u8 {
        // Where what comes along with the message is put.
        call.address = read(message, offset!(msghdr_control))?;
    }
    Ok(if known { next::GO } else { next::OPEN })
}

/// Tells of the call in flight of thread `tid`, which returned that and had that header. `known`: `u64::MAX` if it was seen to begin, else whether
/// its channel was known before its end. 1 if the books of its connection, which was made meanwhile, are to be opened before. The
/// verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn socket_object_ended(tid: u32, message: u64, returned: u64, known: u64) -> i32 {
    let Some(call) = inflight::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    let call = unsafe { &mut *call };
    call.active = inflight::ENDING;
    let side = &call.sides[0];
    let receive = side.receive != 0;
    let mut bytes = returned;
    if known != u64::MAX && !receive {
        // What a send has put in by the time that its channel is first seen is among what is told to be in it.
        if !has_messages(side.mechanism) {
            bytes = straddle::put_in(side, returned, known != 0);
        } else if known == 0 {
            return 0;
        }
    }
    call.moved = Moved { user: call.user, count: call.count, ..Moved::of(bytes) };
    if receive && call.sides[0].mechanism == Mechanism::Udp as u8 {
        // Where it came from.
        call.moved.address = read(message, offset!(msghdr_name)).unwrap_or(0);
        udp_taken::complete_at_object(call);
    }
    if !receive {
        call.moved.address = call.address;
        call.moved.address_len = call.address_len;
    }
    if syscall::prepare(call, 0) {
        emit::at_object(tid, call);
        return 0;
    }
    if !inet::is_connected_meanwhile(call, 0) {
        return 0;
    }
    match inet::connect(&mut call.sides[0]) {
        Ok(()) => 1,
        Err(cause) => {
            ring::count(cause);
            0
        }
    }
}

/// The same of a call that is ready to be told. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn socket_object_told(tid: u32) -> i32 {
    if let Some(call) = inflight::get(tid) {
        // SAFETY: a valid pointer into the map; the entry is the current thread's.
        emit::at_object(tid, unsafe { &mut *call });
    }
    0
}

/// Tells of the descriptors that went along with the message of the call in flight of thread `tid`. `flags`: those of a receive. The
/// verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn socket_object_passed(tid: u32, message: u64, flags: u64) -> i32 {
    let Some(call) = inflight::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    let call = unsafe { &mut *call };
    if INTERNET >> (call.sides[0].mechanism & 31) & 1 != 0 {
        return 0;
    }
    let Ok(control) = read::<u64>(message, offset!(msghdr_control)) else {
        ring::count(Cause::ReadFailed);
        return 0;
    };
    if call.sides[0].receive == 0 {
        if control == 0 {
            return 0;
        }
        let Ok(room) = read::<u64>(message, offset!(msghdr_controllen)) else {
            ring::count(Cause::ReadFailed);
            return 0;
        };
        return handoff::passed(tid, control, room);
    }
    // The kernel moves it on by what it has put there.
    let begin = call.address;
    if begin == 0 || control <= begin {
        return 0;
    }
    if flags & MSG_CMSG_COMPAT != 0 {
        ring::count(Cause::CompatCall);
        return 0;
    }
    handoff::passed(tid, begin, control - begin)
}
