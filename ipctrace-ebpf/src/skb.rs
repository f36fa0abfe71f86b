//! Which datagram a receiver took: the buffer itself, as it is freed inside the receive call.

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::{btf_tracepoint, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, TracePointContext};
use ipctrace_common::Mechanism;
use ipctrace_common::syscall::Class;

use crate::config::offset;
use crate::emit::has_messages;
use crate::inflight::{self, Taken};
use crate::kernel::{Result, read};
use crate::{event, ring, syscall, task, udp, udp_taken, unix, uring, uring_socket};

/// hook: tp_btf/consume_skb `void (struct sk_buff *skb, void *location)` — include/trace/events/skb.h
///
/// `skb_free_datagram` at the end of `__unix_dgram_recvmsg` comes here unless the call only peeked. The buffer still
/// belongs to the sending socket.
#[btf_tracepoint(function = "consume_skb")]
pub fn consume_skb(ctx: BtfTracePointContext) -> i32 {
    consumed(&ctx, udp::address(&ctx));
    0
}

/// hook: tracepoint/skb/consume_skb
#[tracepoint]
pub fn consume_skb_event(ctx: TracePointContext) -> u32 {
    consumed(&ctx, event::field!(&ctx, ConsumeSkb, 0, u64));
    0
}

/// A buffer is freed.
#[inline(always)]
fn consumed(ctx: &impl EbpfContext, buffer: u64) {
    if let Err(cause) = try_consume(buffer, task::pid_tgid() as u32) {
        ring::failed!(ctx, cause);
    }
}

/// Remembers the message with the call that takes it.
#[inline(always)]
fn try_consume(buffer: u64, tid: u32) -> Result<()> {
    let Some(call) = inflight::get(tid) else {
        return if uring::is_user() { uring_socket::consumed(tid, buffer) } else { Ok(()) };
    };
    // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
    let call = unsafe { &mut *call };
    let side = &call.sides[0];
    if side.receive == 0 || !has_messages(side.mechanism) {
        return Ok(());
    }
    if side.mechanism == Mechanism::Udp as u8 {
        if udp::datagram_taken(buffer, side.object) != 0 {
            udp_taken::took(tid, call, buffer)?;
        }
        return Ok(());
    }
    let sock: u64 = read(buffer, offset!(skb_sk))?;
    // An interrupt may free buffers of other protocols while the call is under way.
    if sock == 0 || !unix::is_unix(sock) {
        return Ok(());
    }
    if call.class == Class::Recvmmsg as u8 && call.taken.sock != 0 {
        syscall::message_received(tid);
    }
    let len: u32 = read(buffer, offset!(skb_len))?;
    call.taken = Taken { sock, inode: unix::inode_of(sock)?, len: u64::from(len) };
    Ok(())
}
