//! Datagrams of internet sockets on their way: when one leaves its socket, when it is put into the queue of another, and
//! which one a receiver took.
//!
//! Packets are handled in whichever task is current, but the buffer that carries one is the same from end to end, on
//! loopback and between network namespaces: its address joins the two. Which buffer a receiver took is seen where its
//! content is in pages. Where it is in the buffer itself no hook comes by, but then it can be looked at on its way: a
//! digest of its beginning, which the receiver's memory has too, its length and its source tell which it was.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use ipctrace_common::wire::{self, Kind, datagram};
use ipctrace_common::{Cause, Mechanism, digest};

use crate::beginning::digest_of;
use crate::config::{self, offset};
use crate::inet::mapped;
use crate::kernel::{Result, argument, copy, load, read};
use crate::repeat::{Repeat, repeat};
use crate::{inflight, ring, task, unix};

const SOCK_DGRAM: u16 = 2;
const IPPROTO_UDP: u16 = 17;
/// `NEXTHDR_FRAGMENT`, include/net/ipv6.h.
const FRAGMENT: u8 = 44;

/// hook: tp_btf/net_dev_queue `void (struct sk_buff *skb)` — include/trace/events/net.h
///
/// For loopback and for devices between namespaces it runs in the sender's call, unless the neighbour's address has to be
/// found first.
#[btf_tracepoint(function = "net_dev_queue")]
pub fn net_dev_queue(ctx: BtfTracePointContext) -> i32 {
    let buffer = address(&ctx);
    let Ok(sock) = read::<u64>(buffer, offset!(skb_sk)) else {
        return 0;
    };
    if sock == 0
        || read::<u16>(sock, offset!(sock_protocol)) != Ok(IPPROTO_UDP)
        || read::<u16>(sock, offset!(sock_type)) != Ok(SOCK_DGRAM)
    {
        return 0;
    }
    tell_datagram(buffer, sock, u32::from(datagram::SENT));
    0
}

/// hook: tp_btf/sk_data_ready `void (struct sock *sk)` — include/trace/events/sock.h
///
/// Comes once for each datagram that was put into the queue, after that.
#[btf_tracepoint(function = "sk_data_ready")]
pub fn sk_data_ready(ctx: BtfTracePointContext) -> i32 {
    let sock: *const u8 = ctx.arg(0);
    // SAFETY: the tracepoint's argument has BTF type sock; offsets of this kernel.
    let (protocol, kind): (u16, u16) =
        unsafe { (load(sock, offset!(sock_protocol)), load(sock, offset!(sock_type))) };
    if protocol != IPPROTO_UDP || kind != SOCK_DGRAM {
        return 0;
    }
    let sock = address(&ctx);
    // Receivers move the whole queue to one of their own, and take from there.
    let (taken_from, put_into) = queues(sock);
    for queue in [put_into, taken_from] {
        match read::<u64>(queue, offset!(skb_prev)) {
            Ok(last) if last == queue => {}
            Ok(last) => {
                tell_datagram(last, sock, u32::from(datagram::ARRIVED));
                return 0;
            }
            Err(cause) => ring::count(cause),
        }
    }
    // A receiver on another CPU was faster: what it took will tell.
    0
}

/// Whether a buffer that is freed within a call that receives from a socket holds a datagram for that socket: an interrupt may
/// free others meanwhile. Tells of it where arrivals are not told of. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn datagram_taken(buffer: u64, sock: u64) -> i32 {
    if let Ok(Some(packet)) = Packet::of(buffer)
        && packet.protocol() == Ok(IPPROTO_UDP as u8)
        // The port that it is for, in struct udphdr.
        && read::<u16>(packet.transport, 2) == read::<u16>(sock, offset!(inet_sport))
    {
        if config::udp_by_taking() != 0 {
            tell_datagram(buffer, sock, u32::from(datagram::TAKEN));
        }
        return 1;
    }
    0
}

/// The first argument as a number, which functions can be handed that the verifier looks at by themselves; 0 if it could not
/// be read.
#[inline(always)]
pub(crate) fn address(ctx: &BtfTracePointContext) -> u64 {
    argument(ctx, 0)
}

/// Tells of what is in the queue of a socket that is seen for the first time. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tell_queued(sock: u64) -> i32 {
    let mut walk = Walk { sock, buffer: 0, last: 0, starts: STARTS, second: false };
    if let Err(cause) = walk.start() {
        ring::count(cause);
        return 0;
    }
    repeat(&mut walk);
    0
}

/// The queues of a socket: the one that receivers take from, and the one that what arrives is put into.
#[inline(always)]
fn queues(sock: u64) -> (u64, u64) {
    (sock + offset!(udp_reader_queue) as u64, sock + offset!(sock_receive_queue) as u64)
}

/// Address of the data of the datagram that is next in the queue of a socket; 0 if there is none. The verifier looks at it by
/// itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn queue_front(sock: u64) -> u64 {
    let (taken_from, put_into) = queues(sock);
    // Not only receivers but also poll(2) moves the one to the other, perhaps between two looks.
    for queue in [taken_from, put_into, taken_from] {
        match read::<u64>(queue, offset!(skb_next)) {
            Ok(buffer) if buffer == queue => {}
            Ok(buffer) => {
                if queue == put_into
                    && let Ok(first) = read::<u64>(taken_from, offset!(skb_next))
                    && first != taken_from
                {
                    return read(first, offset!(skb_head)).unwrap_or(wire::Op::UNKNOWN);
                }
                return read(buffer, offset!(skb_head)).unwrap_or(wire::Op::UNKNOWN);
            }
            Err(_) => return wire::Op::UNKNOWN,
        }
    }
    0
}

/// A walk along the two queues of a socket, of which receivers may take from the front meanwhile, and move all of the second to the
/// end of the first.
struct Walk {
    sock: u64,
    buffer: u64,
    /// What stood before it and has been told; 0 if nothing did.
    last: u64,
    /// How often it may begin again.
    starts: u32,
    /// It has come to the end of the first.
    second: bool,
}

/// More than receivers on all processors disturb a walk.
const STARTS: u32 = 64;

impl Walk {
    /// Goes to the front: what was there before has been taken.
    #[inline(always)]
    fn start(&mut self) -> Result<()> {
        self.buffer = read(queues(self.sock).0, offset!(skb_next))?;
        self.last = 0;
        self.second = false;
        Ok(())
    }

    /// One buffer; `true` at the end.
    #[inline(always)]
    fn step(&mut self) -> Result<bool> {
        let (first, second) = queues(self.sock);
        if self.buffer == second || (self.second && self.buffer == first) {
            return Ok(true);
        }
        if self.buffer == first {
            self.second = true;
            self.buffer = read(second, offset!(skb_next))?;
            if self.buffer == second {
                // It may have been moved to the end of the first just now.
                self.buffer = read(if self.last == 0 { first } else { self.last }, offset!(skb_next))?;
            }
            return Ok(false);
        }
        let next: u64 = read(self.buffer, offset!(skb_next))?;
        let linked = next != 0 && read::<u64>(next, offset!(skb_prev))? == self.buffer;
        if !linked || tell_datagram(self.buffer, self.sock, u32::from(datagram::QUEUED)) != 0 {
            // It has been taken, and with it all that stood before.
            self.starts -= 1;
            return if self.starts == 0 { Ok(true) } else { self.start().map(|()| false) };
        }
        self.last = self.buffer;
        self.buffer = next;
        Ok(false)
    }
}

impl Repeat for Walk {
    const LIMIT: u32 = 4096;
    const PLAIN_LIMIT: u32 = 16;

    #[inline(always)]
    fn turn(&mut self, _index: u32) -> bool {
        self.step().unwrap_or(true)
    }
}

/// Writes a record of a datagram; 1 if it was in a queue and is gone. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tell_datagram(buffer: u64, sock: u64, what: u32) -> i32 {
    let packet = match Packet::of(buffer) {
        Ok(Some(packet)) => packet,
        // Not the beginning of a datagram.
        Ok(None) => return 0,
        // What has arrived may be gone.
        Err(_) if in_queue(what) => return 1,
        Err(cause) => {
            ring::count(cause);
            return 0;
        }
    };
    if in_queue(what) && is_gone(buffer, sock, &packet) {
        return 1;
    }
    let Some(mut entry) = ring::reserve::<wire::Datagram>() else {
        return 0;
    };
    let record = entry.as_mut_ptr();
    let tid = task::pid_tgid() as u32;
    let sent = what == u32::from(datagram::SENT);
    let gone;
    // SAFETY: room for a record; every field is written. A call in flight is a valid entry of the map.
    unsafe {
        ring::begin(
            &raw mut (*record).header,
            Kind::Datagram,
            Mechanism::Udp as u8,
            what as u16,
            ring::now(),
        );
        (*record).sock = sock;
        (*record).inode = unix::inode_of(sock).unwrap_or(0);
        (*record).enter = 0;
        let mut task = 0;
        if sent
            && let Some(call) = inflight::get(tid)
            && ((*call).sides[0].object == sock || (*call).sides[1].object == sock)
        {
            (*record).enter = (*call).enter;
            task = (*call).task;
        }
        // Who else is current handles it for whoever it is.
        if (*record).enter == 0 {
            (*record).task = wire::Task::NOBODY;
        } else {
            task::describe_caller(task, &raw mut (*record).task);
        }
        (*record).digest = digest_of_content(buffer, &packet, what).unwrap_or(0);
        // What could not be read is nothing; what has arrived may be gone.
        let there = in_queue(what);
        gone = packet.write(record).is_err() || (there && is_gone(buffer, sock, &packet));
        if gone {
            if !there {
                ring::count(Cause::ReadFailed);
            }
            (*record).data = 0;
            (*record).from_port = 0;
            (*record).to_port = 0;
            (*record).len = 0;
        }
        (*record).netns =
            read::<u64>(sock, offset!(sock_net)).and_then(|net| read(net, offset!(net_inum))).unwrap_or(0);
        (*record).device = if sent { device_of(buffer).unwrap_or(0) } else { 0 };
    }
    ring::submit(entry);
    i32::from(gone && in_queue(what))
}

/// Tells the device that a buffer is at from others: its address, which is aligned to more than this is shifted by
/// (`NETDEV_ALIGN`, include/linux/netdevice.h).
#[inline(always)]
fn device_of(buffer: u64) -> Result<u32> {
    Ok((read::<u64>(buffer, offset!(skb_dev))? >> 5) as u32)
}

/// Whether a datagram of which this is told stands in a queue, from which a receiver on another CPU may take it.
#[inline(always)]
fn in_queue(what: u32) -> bool {
    what == u32::from(datagram::ARRIVED) || what == u32::from(datagram::QUEUED)
}

/// Whether a buffer that was in the queue of that socket is no longer in it: a receiver on another CPU may have taken it, and
/// it may be another's by now.
#[inline(always)]
fn is_gone(buffer: u64, sock: u64, packet: &Packet) -> bool {
    read::<u64>(buffer, offset!(skb_next)) == Ok(0)
        || read::<u16>(sock, offset!(inet_sport)) != read::<u16>(packet.transport, 2)
}

/// Where the headers of a packet are.
struct Packet {
    /// Its memory.
    head: u64,
    network: u64,
    transport: u64,
    v6: bool,
}

impl Packet {
    /// Finds them; `None` if it is not the first (or only) fragment of a datagram.
    #[inline(always)]
    fn of(buffer: u64) -> Result<Option<Packet>> {
        let head: u64 = read(buffer, offset!(skb_head))?;
        let network = head + u64::from(read::<u16>(buffer, offset!(skb_network_header))?);
        let transport = head + u64::from(read::<u16>(buffer, offset!(skb_transport_header))?);
        let v6 = match read::<u8>(network, 0)? >> 4 {
            // struct iphdr, include/uapi/linux/ip.h.
            4 => {
                if u16::from_be(read(network, 6)?) & 0x1fff != 0 {
                    return Ok(None);
                }
                false
            }
            // struct ipv6hdr, include/uapi/linux/ipv6.h; struct frag_hdr.
            6 => {
                if read::<u8>(network, 6)? == FRAGMENT && u16::from_be(read(network, 42)?) & 0xfff8 != 0 {
                    return Ok(None);
                }
                true
            }
            _ => return Err(Cause::ReadFailed),
        };
        Ok(Some(Packet { head, network, transport, v6 }))
    }

    /// The protocol of its content.
    #[inline(always)]
    fn protocol(&self) -> Result<u8> {
        if !self.v6 {
            return read(self.network, 9);
        }
        match read(self.network, 6)? {
            FRAGMENT => read(self.network, 40),
            protocol => Ok(protocol),
        }
    }

    /// Writes what they say.
    ///
    /// # Safety
    /// `record` must be valid for a write.
    #[inline(always)]
    unsafe fn write(&self, record: *mut wire::Datagram) -> Result<()> {
        // SAFETY: valid by contract.
        unsafe {
            let (from, to) = (&raw mut (*record).from, &raw mut (*record).to);
            if self.v6 {
                copy(from, self.network, 8)?;
                copy(to, self.network, 24)?;
            } else {
                mapped(from, self.network, 12)?;
                mapped(to, self.network, 16)?;
            }
            // struct udphdr, include/uapi/linux/udp.h.
            (*record).from_port = u16::from_be(read(self.transport, 0)?);
            (*record).to_port = u16::from_be(read(self.transport, 2)?);
            (*record).len = u32::from(u16::from_be(read(self.transport, 4)?)).saturating_sub(8);
            (*record).data = self.head;
        }
        Ok(())
    }
}

/// Digest of the content of a packet; 0 if it is not in the buffer itself.
#[inline(always)]
fn digest_of_content(buffer: u64, packet: &Packet, what: u32) -> Result<u64> {
    if offset!(skb_tail) == 0 {
        return Ok(0);
    }
    let content = packet.transport + 8;
    let len = u64::from(u16::from_be(read(packet.transport, 4)?)).saturating_sub(8);
    let here = (packet.head + u64::from(read::<u32>(buffer, offset!(skb_tail))?)).saturating_sub(content);
    let wanted = len.min(digest::BYTES);
    Ok(if here >= wanted { digest_of(content, wanted, what) } else { 0 })
}
