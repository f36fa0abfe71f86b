//! Which datagram a receiver of UDP took, as far as that can be seen: its buffer, or what the receiver's memory has of it.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_probe_read_user;
use aya_ebpf::macros::{btf_tracepoint, map, tracepoint};
use aya_ebpf::maps::{LruHashMap, PerCpuArray};
use aya_ebpf::programs::{BtfTracePointContext, TracePointContext};
use ipctrace_common::syscall::Class;
use ipctrace_common::wire::{Op, op_flag};
use ipctrace_common::{Mechanism, digest};

use crate::config::{self, offset};
use crate::inflight::{self, InFlight, Side, Taken};
use crate::kernel::{Result, add, read, read_either, read_user};
use crate::message::MsgHdr;
use crate::repeat::opaque;
use crate::{channel, emit, event, ring, syscall, task, udp, uring, uring_socket};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// Buffers of an iovec that are looked into.
const SEGMENTS: u64 = 8;

/// Buffers that recvmmsg(2) has received from, by thread (upper half) and number of the message; `inode` is the begin of the call.
/// Those of calls that failed make room for others in time.
#[map]
static BUFFERS: LruHashMap<u64, Taken> = LruHashMap::with_max_entries(1024, 0);

/// The beginning of what was received. Twice the room, so that the verifier sees that a copy fits whose place and length
/// are masked.
#[map]
static RECEIVED: PerCpuArray<[u64; digest::WORDS * 3]> = PerCpuArray::with_max_entries(1, 0);

/// Not 0 while a task has that place: of two programs on functions one may come in between the other.
#[map]
static RECEIVED_IN_USE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Whether that side of a call receives from a UDP socket.
#[inline(always)]
pub(crate) fn receives(side: &Side) -> bool {
    side.mechanism == Mechanism::Udp as u8 && side.receive != 0
}

/// hook: tp_btf/skb_copy_datagram_iovec `void (struct sk_buff *skb, int len)` — include/trace/events/skb.h
///
/// Comes in the receiver's call if the content is not in the buffer itself but in pages.
#[btf_tracepoint(function = "skb_copy_datagram_iovec")]
pub fn skb_copied(ctx: BtfTracePointContext) -> i32 {
    copied(&ctx, ctx.arg::<*const u8>(0) as u64);
    0
}

/// hook: tracepoint/skb/skb_copy_datagram_iovec
#[tracepoint]
pub fn skb_copied_event(ctx: TracePointContext) -> u32 {
    copied(&ctx, event::field!(&ctx, SkbCopied, 0, u64));
    0
}

/// A receiver copies from a buffer.
#[inline(always)]
fn copied(ctx: &impl EbpfContext, buffer: u64) {
    if let Err(cause) = try_copied(buffer, task::pid_tgid() as u32) {
        ring::failed!(ctx, cause);
    }
}

/// Remembers the buffer with the call that takes it.
#[inline(always)]
fn try_copied(buffer: u64, tid: u32) -> Result<()> {
    let Some(call) = inflight::get(tid) else {
        return if uring::is_user() { uring_socket::copied(tid, taken(buffer)?) } else { Ok(()) };
    };
    // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
    let call = unsafe { &mut *call };
    if receives(&call.sides[0]) { note(tid, call, buffer) } else { Ok(()) }
}

/// Notes the buffer of the message that a call is receiving.
#[inline(always)]
fn note(tid: u32, call: &mut InFlight, buffer: u64) -> Result<()> {
    let taken = taken(buffer)?;
    if call.class == Class::Recvmmsg as u8 {
        // It makes room where there is none. Without the buffer the message is known by its length.
        let _ = BUFFERS.insert(place(tid, call.index), Taken { inode: call.enter, ..taken }, 0);
    } else {
        call.taken = taken;
    }
    Ok(())
}

/// The datagram that a call has received is freed within it: until Linux 6.17 each is of which nobody else has a part, who only looks
/// at it perhaps.
#[inline(always)]
pub(crate) fn took(tid: u32, call: &mut InFlight, buffer: u64) -> Result<()> {
    note(tid, call, buffer)?;
    if config::udp_by_taking() != 0 && call.class == Class::Recvmmsg as u8 {
        // The kernel does not tell that a receive is done.
        call.index += 1;
    }
    Ok(())
}

#[inline(always)]
fn taken(buffer: u64) -> Result<Taken> {
    let len: u32 = read(buffer, offset!(skb_len))?;
    Ok(Taken { sock: read(buffer, offset!(skb_head))?, inode: 0, len: u64::from(len) })
}

#[inline(always)]
fn place(tid: u32, index: u32) -> u64 {
    u64::from(tid) << 32 | u64::from(index)
}

/// A receive is done: the next buffer that recvmmsg(2) copies from is that of the next message.
#[inline(always)]
pub(crate) fn received(tid: u32) {
    if let Some(call) = inflight::get(tid) {
        // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
        let call = unsafe { &mut *call };
        if call.class == Class::Recvmmsg as u8 && receives(&call.sides[0]) {
            call.index += 1;
        }
    }
}

/// recvmmsg(2) has received so many messages. If not so many buffers were freed, it is not known which are whose.
#[inline(always)]
pub(crate) fn counted(call: &mut InFlight, count: u32) {
    if config::udp_by_taking() != 0 && call.index != count {
        call.index = 0;
    }
}

/// Makes `call.taken` what is known of message `index` of recvmmsg(2).
#[inline(always)]
pub(crate) fn choose(tid: u32, call: &mut InFlight, index: u32) {
    if receives(&call.sides[0]) {
        let place = place(tid, index);
        // SAFETY: the entry is this thread's, which is here; it is copied at once.
        call.taken = match unsafe { BUFFERS.get(place) } {
            Some(taken) if index < call.index && taken.inode == call.enter => Taken { inode: 0, ..*taken },
            _ => Taken::NOTHING,
        };
        if call.taken.sock != 0 {
            let _ = BUFFERS.remove(place);
        }
    }
}

/// Looks what is first in the queue as the call begins, if no other call can be taking it just then.
#[inline(always)]
pub(crate) fn look(side: &mut Side) {
    if receives(side) {
        let before = channel::receivers(side);
        side.pos_locked = before.1;
        side.pos_enter = if before.0 == 1 { udp::queue_front(side.object) } else { Op::UNKNOWN };
        if channel::receivers(side) != before {
            side.pos_enter = Op::UNKNOWN;
        }
    }
}

/// Tells of the datagram that the call in flight of thread `tid` took, of which `moved` tells.
#[inline(always)]
pub(crate) fn tell(tid: u32) {
    if udp_received(tid) != 0
        && let Some(call) = inflight::get(tid)
    {
        // SAFETY: a valid pointer into the map; the entry is the current thread's.
        emit::op(tid, unsafe { &mut *call }, 0);
    }
}

/// Makes what `moved` tells of the datagram that the call in flight of thread `tid` took complete, and ready to be told. The
/// verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn udp_received(tid: u32) -> i32 {
    let Some(call) = inflight::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    let call = unsafe { &mut *call };
    let moved = &call.moved;
    if moved.bytes == 0
        && call.class == Class::Readv as u8
        && moved.count <= SEGMENTS
        && received_room(moved.user, moved.count) == 0
    {
        // Without room nothing is taken (`vfs_readv`, fs/read_write.c).
        return 0;
    }
    complete(call);
    i32::from(syscall::prepare(call, 0))
}

/// Completes what is known of what was received from what the receiver's memory has.
#[inline(always)]
fn complete(call: &mut InFlight) {
    let InFlight { class, moved, .. } = call;
    // As long as nothing else is known, it may have been longer.
    moved.flags |= op_flag::CUT;
    if moved.user == 0 {
        return;
    }
    if moved.address != 0
        && let Ok(source) = source(|offset| read_user(moved.address, offset))
        && source != 0
    {
        moved.detail = source;
        moved.flags |= op_flag::DETAIL;
    }
    let parts = match Class::from_wire(*class) {
        Some(Class::Read | Class::Recvfrom) => {
            if moved.bytes < moved.count {
                moved.flags &= !op_flag::CUT;
            }
            if moved.bytes <= moved.count {
                moved.digest = received_digest(moved.user, 0, moved.bytes);
            }
            return;
        }
        Some(Class::Readv) => Some((moved.user, moved.count)),
        Some(Class::Recvmsg | Class::Recvmmsg) => {
            MsgHdr::read(moved.user).ok().map(|header| (header.iov, header.iov_count))
        }
        Some(
            Class::Write
            | Class::Writev
            | Class::Sendto
            | Class::Sendmsg
            | Class::Sendmmsg
            | Class::Splice
            | Class::Tee
            | Class::Vmsplice
            | Class::Sendfile
            | Class::Sigwait,
        )
        | None => None,
    };
    let Some((vector, count)) = parts else {
        return;
    };
    moved.digest = received_digest(vector, count, moved.bytes);
    if count <= SEGMENTS && moved.bytes < received_room(vector, count) {
        moved.flags &= !op_flag::CUT;
    }
}

/// The same of a call that is told of at its object: what is its caller's was copied to the kernel, and how much room there was is in
/// `address_len`.
#[inline(always)]
pub(crate) fn complete_at_object(call: &mut InFlight) {
    let InFlight { class, moved, enter, address_len, .. } = call;
    let (bytes, room) = (moved.bytes, if *enter == 0 { 0 } else { *address_len });
    if bytes >= room {
        moved.flags |= op_flag::CUT;
    }
    if moved.address != 0
        && let Ok(source) = source(|offset| read(moved.address, offset))
        && source != 0
    {
        moved.detail = source;
        moved.flags |= op_flag::DETAIL;
    }
    let Some(in_use) = RECEIVED_IN_USE.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's valid, aligned place; a task stays on its CPU as long as the program runs.
    if unsafe { add(in_use, 1) } == 0 && moved.user != 0 && bytes <= room {
        let count = if *class == Class::Readv as u8 { moved.count } else { 0 };
        moved.digest = received_digest(moved.user, count, bytes);
    }
    // SAFETY: as above.
    unsafe { add(in_use, u64::MAX) };
}

/// See [`Op::detail`]; 0 if it is no address. `part` reads what stands so many bytes into it.
#[inline(always)]
fn source(part: impl Fn(usize) -> Result<u32>) -> Result<i64> {
    let [low, high, first, second] = part(0)?.to_ne_bytes();
    let (family, port) = (u16::from_ne_bytes([low, high]), u16::from_be_bytes([first, second]));
    let last = match family {
        AF_INET => part(4)?,
        AF_INET6 => part(20)?,
        _ => return Ok(0),
    };
    Ok(i64::from(port) << 32 | i64::from(u32::from_be(last)))
}

/// Room in the first parts of a caller's iovec. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn received_room(vector: u64, count: u64) -> u64 {
    let mut room = opaque(0);
    for index in 0..SEGMENTS {
        if index >= count {
            break;
        }
        let Ok(len) = read_user::<u64>(vector, index as usize * 16 + 8) else {
            return 0;
        };
        room = room.saturating_add(len);
    }
    room
}

/// Digest of the first `bytes` bytes in a caller's iovec, or, if `count` is 0, behind that address; 0 if they are not there.
/// The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn received_digest(vector: u64, count: u64, bytes: u64) -> u64 {
    let Some(words) = RECEIVED.get_ptr_mut(0) else {
        return 0;
    };
    let wanted = opaque(if bytes > digest::BYTES { digest::BYTES } else { bytes });
    // SAFETY: this CPU's valid, aligned place; only programs at the end of a system call come here, which do not interrupt each
    // other, or who has `RECEIVED_IN_USE`: where there are both, all receives from UDP sockets are told of at these.
    unsafe { *words = [0; digest::WORDS * 3] };
    let mut done = opaque(0);
    for index in 0..SEGMENTS {
        if done >= wanted || (count != 0 && index >= count) {
            break;
        }
        let (base, len) = if count == 0 {
            (vector, wanted)
        } else {
            match read_either::<[u64; 2]>(vector, index as usize * 16) {
                Ok([base, len]) => (base, len),
                Err(_) => return 0,
            }
        };
        let left = wanted - done;
        let part = if len > left { left } else { len };
        // Masks rather than checks: bounds that the verifier cannot lose.
        let at = opaque(done) & (digest::BYTES - 1);
        let part = opaque(part) & (digest::BYTES * 2 - 1);
        let part = if part > digest::BYTES { 0 } else { part };
        if part != 0 {
            // SAFETY: the place has room for as many bytes as the masks let `at` and `part` be together; the helper checks the source.
            let status = unsafe {
                bpf_probe_read_user(words.cast::<u8>().add(at as usize).cast(), part as u32, base as *const _)
            };
            if status != 0 {
                return 0;
            }
        }
        done = opaque(done + part);
    }
    if done < wanted {
        return 0;
    }
    // SAFETY: as above; the first half of it.
    digest::of(unsafe { &*words.cast::<[u64; digest::WORDS]>() })
}
