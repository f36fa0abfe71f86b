//! Datagrams of internet sockets on their way: when one leaves its socket, and when it is put into the queue of another.
//!
//! Packets are handled in whichever task is current, but the buffer that carries one is the same from end to end, on
//! loopback and between network namespaces: its address joins the two, and the queue is first in, first out.

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::btf_tracepoint;

use aya_ebpf::programs::BtfTracePointContext;
use ipctrace_common::wire::{self, Kind, datagram};
use ipctrace_common::{Cause, Mechanism};

use crate::config::offset;
use crate::inet::mapped;
use crate::kernel::{Result, copy, load, read};
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
    let queue = sock + offset!(sock_receive_queue) as u64;
    match read::<u64>(queue, offset!(skb_prev)) {
        // A receiver on another CPU was faster: one came, that is all that is known.
        Ok(last) => tell_datagram(if last == queue { 0 } else { last }, sock, u32::from(datagram::ARRIVED)),
        Err(cause) => {
            ring::count(cause);
            0
        }
    };
    0
}

/// Tells of a buffer that is freed within a call that receives from a socket, if it holds a datagram for that socket. An
/// interrupt may free others meanwhile. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn datagram_taken(buffer: u64, sock: u64) -> i32 {
    if let Ok(Some(packet)) = Packet::of(buffer)
        && packet.protocol() == Ok(IPPROTO_UDP as u8)
        // The port that it is for, in struct udphdr.
        && read::<u16>(packet.transport, 2) == read::<u16>(sock, offset!(inet_sport))
    {
        tell_datagram(buffer, sock, u32::from(datagram::TAKEN));
    }
    0
}

/// The first argument as a number, which functions can be handed that the verifier looks at by themselves; 0 if it could not
/// be read.
#[inline(always)]
pub(crate) fn address(ctx: &BtfTracePointContext) -> u64 {
    read(ctx.as_ptr() as u64, 0).unwrap_or(0)
}

/// Tells of what is in the queue of a socket that is seen for the first time. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tell_queued(sock: u64) -> i32 {
    for queue in [sock + offset!(udp_reader_queue) as u64, sock + offset!(sock_receive_queue) as u64] {
        match read(queue, offset!(skb_next)) {
            Ok(buffer) => repeat(&mut Walk { queue, buffer, sock }),
            Err(cause) => ring::count(cause),
        }
    }
    0
}

/// Address of the data of the datagram that is next in the queue of a socket; 0 if there is none. The verifier looks at it by
/// itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn queue_front(sock: u64) -> u64 {
    for queue in [sock + offset!(udp_reader_queue) as u64, sock + offset!(sock_receive_queue) as u64] {
        match read::<u64>(queue, offset!(skb_next)) {
            Ok(buffer) if buffer != queue => return read(buffer, offset!(skb_head)).unwrap_or(0),
            Ok(_) | Err(_) => {}
        }
    }
    0
}

/// A walk along a queue.
struct Walk {
    queue: u64,
    buffer: u64,
    sock: u64,
}

impl Repeat for Walk {
    const LIMIT: u32 = 4096;
    const PLAIN_LIMIT: u32 = 16;

    #[inline(always)]
    fn turn(&mut self, _index: u32) -> bool {
        if self.buffer == self.queue {
            return true;
        }
        tell_datagram(self.buffer, self.sock, u32::from(datagram::QUEUED));
        match read(self.buffer, offset!(skb_next)) {
            Ok(next) => {
                self.buffer = next;
                false
            }
            Err(_) => true,
        }
    }
}

/// Writes a record of a datagram. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tell_datagram(buffer: u64, sock: u64, what: u32) -> i32 {
    let packet = if buffer == 0 { Ok(Packet::NONE) } else { Packet::of(buffer) };
    let packet = match packet {
        Ok(Some(packet)) => packet,
        // Not the beginning of a datagram.
        Ok(None) => return 0,
        Err(cause) => {
            ring::count(cause);
            Packet { head: 0, network: 0, transport: 0, v6: false }
        }
    };
    let Some(mut entry) = ring::reserve::<wire::Datagram>() else {
        return 0;
    };
    let record = entry.as_mut_ptr();
    let tid = task::pid_tgid() as u32;
    let sent = what == u32::from(datagram::SENT);
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
        if sent
            && let Some(call) = inflight::get(tid)
            && ((*call).sides[0].object == sock || (*call).sides[1].object == sock)
        {
            (*record).enter = (*call).enter;
        }
        task::describe_current(&raw mut (*record).task);
        if packet.write(record).is_err() {
            (*record).data = 0;
            (*record).from_port = 0;
            (*record).to_port = 0;
            (*record).len = 0;
        }
        (*record).netns =
            read::<u64>(sock, offset!(sock_net)).and_then(|net| read(net, offset!(net_inum))).unwrap_or(0);
        (*record).reserved = 0;
    }
    ring::submit(entry);
    0
}

/// Where the headers of a packet are.
struct Packet {
    /// Its memory; 0 if nothing is known of it.
    head: u64,
    network: u64,
    transport: u64,
    v6: bool,
}

impl Packet {
    /// A datagram that was gone before it could be looked at.
    const NONE: Option<Packet> = Some(Packet { head: 0, network: 0, transport: 0, v6: false });

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

    /// Writes what they say; the addresses are left as they are if nothing is known.
    ///
    /// # Safety
    /// `record` must be valid for a write.
    #[inline(always)]
    unsafe fn write(&self, record: *mut wire::Datagram) -> Result<()> {
        // SAFETY: valid by contract.
        unsafe {
            let (from, to) = (&raw mut (*record).from, &raw mut (*record).to);
            if self.head == 0 {
                zero(from);
                zero(to);
                return Err(Cause::ReadFailed);
            }
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

/// # Safety
/// `place` must be valid for a write and aligned to four bytes.
#[inline(always)]
unsafe fn zero(place: *mut [u8; 16]) {
    for index in 0..4 {
        // SAFETY: valid by contract.
        unsafe { core::ptr::write_volatile(place.cast::<u32>().add(index), 0) };
    }
}
