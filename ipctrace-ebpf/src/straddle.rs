//! Calls that began before tracing did.
//!
//! When the hooks are in place the collector looks for threads that sit in a system call and enters them here; each is
//! taken out when its call ends. Until they are entered, from the moment at which begins of calls are seen, every call that ends
//! and was not seen to begin is one of them: to look for the threads takes milliseconds, in which what was sent would else find
//! no receiver. What such a call had moved by the time its channel was first seen is part of what was
//! queued then; the rest is what the channel's books do not explain otherwise.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use ipctrace_common::syscall::Class;
use ipctrace_common::wire::op_flag;
use ipctrace_common::{Cause, Mechanism, straddling};

use crate::emit::{self, has_messages};
use crate::inflight::{self, InFlight, Moved, Side, Taken};
use crate::kernel::Result;
use crate::message::{self, MMSGHDR};
use crate::{channel, config, inet, own, ring, syscall, unix};

/// Threads in a call that began before tracing.
#[map]
static STRADDLERS: HashMap<u32, u32> = HashMap::with_max_entries(16_384, 0);

/// One of [`straddling`]: without it every call that is no IPC would cost a lookup.
#[map]
static STRADDLING: Array<u32> = Array::with_max_entries(1, 0);

/// A bit for each thread in [`STRADDLERS`], by the last digits of its id: those of which it is not set cost no lookup either.
#[map]
static STRADDLER_BITS: Array<u64> = Array::with_max_entries(straddling::WORDS, 0);

/// Which threads may be in such a call.
#[inline(always)]
fn straddling() -> u32 {
    // SAFETY: a u32 in a map, written by user space in one store.
    STRADDLING.get_ptr(0).map_or(straddling::NONE, |which| unsafe { core::ptr::read_volatile(which) })
}

/// Whether there may be any.
#[inline(always)]
pub(crate) fn any() -> bool {
    straddling() != straddling::NONE
}

/// Whether this thread may be in a call that began before tracing.
#[inline(always)]
pub(crate) fn may_be(tid: u32) -> bool {
    match straddling() {
        straddling::NONE => false,
        straddling::LISTED => {
            let (word, bit) = straddling::bit(tid);
            // SAFETY: a u64 in a map, written by user space before it says that there are any.
            STRADDLER_BITS
                .get_ptr(word)
                .is_some_and(|word| unsafe { core::ptr::read_volatile(word) } & bit != 0)
        }
        _ => true,
    }
}

/// Whether this thread is in a call that began before tracing.
#[inline(always)]
pub(crate) fn is(tid: u32) -> bool {
    may_be(tid) && STRADDLERS.get_ptr(tid).is_some()
}

/// In the class that [`straddled`] is given: the call waited for all that it had room for.
const WAITS_FOR_ALL: u32 = 1 << 8;
/// MSG_WAITALL.
const MSG_WAITALL: u64 = 0x100;

/// The end of a call that is not in flight: perhaps one of them. `flags`: of a receive from a socket.
#[inline(always)]
pub(crate) fn ended(tid: u32, class: u8, fd: u32, flags: u64, returned: i64, user: u64) {
    let waits = if flags & MSG_WAITALL != 0 { WAITS_FOR_ALL } else { 0 };
    // Not in one: calls may be nested eight deep.
    if straddled(tid, u32::from(class) | waits, fd, returned, user) == SEVERAL {
        several(tid, returned as u32);
    }
}

/// What is left to do when [`straddled`] is done: it was a call of several messages, which is in flight now.
const SEVERAL: i32 = 1;

/// The same as far as there is one message, or none. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn straddled(tid: u32, class: u32, fd: u32, returned: i64, user: u64) -> i32 {
    if straddling() != straddling::ALL && STRADDLERS.get_ptr(tid).is_none() {
        return 0;
    }
    let _ = STRADDLERS.remove(tid);
    // It was found in a call that began just then, and that its object has told of.
    if config::objects() != 0 && inflight::was_told(tid) {
        return 0;
    }
    let (waits, Some(class), true) =
        (class & WAITS_FOR_ALL != 0, Class::from_wire(class as u8), returned >= 0)
    else {
        return 0;
    };
    match try_straddled(tid, class, fd, returned as u64, user, waits) {
        Ok(left) if left == SEVERAL => return SEVERAL,
        Ok(_) => {}
        Err(cause) => ring::count(cause),
    }
    inflight::end(tid);
    0
}

#[inline(always)]
fn try_straddled(
    tid: u32,
    class: Class,
    fd: u32,
    returned: u64,
    user: u64,
    waits_for_all: bool,
) -> Result<i32> {
    let desk = inflight::desk().ok_or(Cause::MapFull)?;
    // SAFETY: this CPU's valid, aligned place; sys_enter, which also uses it, does not interrupt sys_exit.
    let call = unsafe { &mut *desk };
    call.sides = [Side::NONE, Side::NONE];
    syscall::side_of(fd, class, &mut call.sides[0])?;
    let side = &mut call.sides[0];
    if side.mechanism == 0 || side.key.id == 0 {
        return Ok(0);
    }
    if returned == 0 && !is_message(side)? {
        return Ok(0);
    }
    call.class = class as u8;
    call.user = user;
    if own::is_looked_into(side.mechanism) {
        return unbegun_looked_into(tid, call, returned).map(|()| 0);
    }
    if matches!(class, Class::Sendmmsg | Class::Recvmmsg) {
        return begin(tid, call, 0).map(|_| SEVERAL);
    }
    let bytes = if side.receive != 0
        && side.mechanism == Mechanism::UnixStream as u8
        && (waits_for_all || unix::waits_for_more_than_one(side.object))
    {
        taken_out(side, returned)
    } else {
        returned
    };
    unbegun(tid, call, bytes).map(|()| 0)
}

/// Whether a receive that gave nothing took a message in which there was nothing.
#[inline(always)]
fn is_message(side: &Side) -> Result<bool> {
    Ok(side.receive != 0 && has_messages(side.mechanism) && !unix::is_shut(side.object)?)
}

/// As [`unbegun`], of a call on an eventfd or a terminal: more is looked for than how many bytes it moved.
///
/// # Errors
/// As for [`unbegun`].
#[inline(always)]
pub(crate) fn unbegun_looked_into(tid: u32, call: &mut InFlight, returned: u64) -> Result<()> {
    let receive = call.sides[0].receive != 0;
    let Some(call) = begin(tid, call, returned)? else {
        return Ok(());
    };
    let taken = own::look(tid, call);
    channel::open(tid, call, 0, if receive { taken } else { 0 });
    emit::emit_plain(tid, 0);
    Ok(())
}

/// Tells of a call, described in its first side, whose begin was not seen. Leaves it in flight.
///
/// # Errors
/// If something could not be read, or too many calls are in flight.
#[inline(always)]
pub(crate) fn unbegun(tid: u32, call: &mut InFlight, returned: u64) -> Result<()> {
    let side = &call.sides[0];
    let (receive, messages) = (side.receive != 0, has_messages(side.mechanism));
    let Some(call) = begin(tid, call, returned)? else {
        return Ok(());
    };
    let known = channel::books(&call.sides[0].key).is_some();
    channel::open(
        tid,
        call,
        0,
        if !receive {
            0
        } else if messages {
            1
        } else {
            returned
        },
    );
    if !receive {
        if messages && !known {
            // It is among what is queued now.
            return Ok(());
        }
        if !messages {
            call.moved.bytes = since_first_seen(&call.sides[0])?.min(returned);
        }
    }
    if messages || call.moved.bytes != 0 {
        emit::emit_plain(tid, 0);
    }
    Ok(())
}

/// A call whose begin was not seen, described in its first side, is in flight: what is told is what stands in the map, which is given.
#[inline(always)]
fn begin<'a>(tid: u32, call: &mut InFlight, bytes: u64) -> Result<Option<&'a mut InFlight>> {
    let side = &mut call.sides[0];
    // Positions at its begin are not known.
    side.flags = (side.flags | op_flag::STRADDLES_START) & !op_flag::POSITIONS;
    call.enter = 0;
    call.index = 0;
    call.taken = Taken::NOTHING;
    call.moved = Moved::of(bytes);
    inflight::begin(tid, call)?;
    // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
    Ok(inflight::get(tid).map(|call| unsafe { &mut *call }))
}

/// Tells of a sendmmsg(2) or recvmmsg(2) whose begin was not seen, which is in flight and moved so many messages. The verifier looks at it by
/// itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn several(tid: u32, count: u32) -> i32 {
    if let Some(call) = inflight::get(tid) {
        // SAFETY: a valid pointer into the map; the entry is the current thread's.
        if let Err(cause) = try_several(tid, unsafe { &mut *call }, count) {
            ring::count(cause);
        }
        inflight::end(tid);
    }
    0
}

#[inline(always)]
fn try_several(tid: u32, call: &mut InFlight, count: u32) -> Result<()> {
    let side = &call.sides[0];
    let (receive, messages) = (side.receive != 0, has_messages(side.mechanism));
    let sum = if messages { u64::from(count) } else { message::each::<message::AddUp>(tid, count)? };
    let known = channel::books(&side.key).is_some();
    channel::open(tid, call, 0, if receive { sum } else { 0 });
    let since = match (receive, known) {
        // Those before were there when it was first seen. The last one had to wait, for a receive that has taken a message and may be under way
        // still.
        (false, true) if messages => {
            let tally = Tally::of(&call.sides[0])?;
            tally.put_in(tally.taking).max(1).min(sum)
        }
        (false, true) => since_first_seen(&call.sides[0])?.min(sum),
        (false, false) => 0,
        // Who is connected receives from its peer alone, whose sends are in the books.
        (true, _) if unix::is_connected(&call.sides[0]) => taken_out(&call.sides[0], sum),
        (true, _) => sum,
    };
    if !messages {
        call.moved = Moved { messages: count, ..Moved::of(since) };
        if since != 0 {
            emit::emit_plain(tid, 0);
        }
        return Ok(());
    }
    // The first were put in, or taken out, before.
    call.user += (sum - since) * MMSGHDR;
    message::each::<Message>(tid, since as u32).map(|_| ())
}

/// One message of such a call.
struct Message;

impl message::Visit for Message {
    #[inline(always)]
    fn visit(tid: u32, call: &mut InFlight, _index: u32, bytes: u64) -> Result<()> {
        call.moved = Moved::of(bytes);
        emit::emit_plain(tid, 0);
        Ok(())
    }
}

/// What a channel has and its books say: bytes of a stream, or messages.
struct Tally {
    /// What is in it now.
    queued: u64,
    /// Receives that are under way.
    taking: u64,
    taken: u64,
    /// Sends that are under way.
    sending: u64,
    sent: u64,
    /// What was in it when it was first seen.
    first: u64,
}

impl Tally {
    /// In the order of the fields: what is not in it any more is of those that take it until it is among what they took, and what is in
    /// it is of those that send it until it is among what they sent.
    #[inline(always)]
    fn of(side: &Side) -> Result<Tally> {
        let books = channel::books(&side.key).ok_or(Cause::MapFull)?;
        let queued = own::queued(side);
        // SAFETY: a valid pointer into the map; each field is read in one access.
        unsafe {
            let (sending, receiving) =
                (channel::account(books, channel::SENDING), channel::account(books, channel::RECEIVING));
            Ok(Tally {
                queued,
                taking: channel::calls(books, channel::RECEIVING),
                taken: core::ptr::read_volatile(&raw const (*receiving).moved),
                sending: channel::calls(books, channel::SENDING),
                sent: core::ptr::read_volatile(&raw const (*sending).moved),
                first: (*sending).queued,
            })
        }
    }

    /// What has been put in since that no record explains, if those that receive have taken so much.
    #[inline(always)]
    fn put_in(&self, taking: u64) -> u64 {
        (self.queued + taking + self.taken).saturating_sub(self.first + self.sent)
    }

    /// What has been taken out since that no record explains, if those that send have put in so much.
    #[inline(always)]
    fn taken_out(&self, sending: u64) -> u64 {
        (self.first + self.sent + sending).saturating_sub(self.taken + self.queued)
    }
}

/// How many of the bytes, or messages, that a receive from a connected unix socket returned it took since that was first seen: it may have
/// waited for more when it had some already. What a send that is under way has put in no record explains yet: of messages, that is one each,
/// most likely the one that it waited for; of bytes it is not known, and it took all of them since, as most calls did.
#[inline(always)]
fn taken_out(side: &Side, returned: u64) -> u64 {
    match Tally::of(side) {
        Ok(tally) if tally.sending == 0 || has_messages(side.mechanism) => {
            tally.taken_out(tally.sending).min(returned)
        }
        _ => returned,
    }
}

/// How many of the bytes that a call has put into a stream, which was not seen to begin and returned so many, are not among what is
/// told to have been in it when it was first seen. `known`: that was before the call ended.
#[inline(always)]
pub(crate) fn put_in(side: &Side, returned: u64, known: bool) -> u64 {
    if !known || any() || channel::began_with_content(side) {
        since_first_seen(side).unwrap_or(0).min(returned)
    } else {
        returned
    }
}

/// Bytes put into a stream since it was first seen that no other record explains.
#[inline(always)]
pub(crate) fn since_first_seen(side: &Side) -> Result<u64> {
    if side.mechanism == Mechanism::Tcp as u8 {
        let books = channel::books(&side.key).ok_or(Cause::MapFull)?;
        // SAFETY: a valid pointer into the map; each field is read in one load.
        let (sent, sequence) = unsafe {
            let sending = channel::account(books, channel::SENDING);
            ((*sending).moved, (*sending).origin)
        };
        let moved = inet::sequence(side.object, false)?.wrapping_sub(sequence as u32);
        return Ok(u64::from(moved).saturating_sub(sent));
    }
    Ok(Tally::of(side)?.put_in(0))
}
