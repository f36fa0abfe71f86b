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
use crate::{channel, config, inet, own, ring, syscall};

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

/// The end of a call that is not in flight: perhaps one of them. The verifier looks at it by itself.
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
    let (Some(class), true) = (Class::from_wire(class as u8), returned > 0) else {
        return 0;
    };
    if let Err(cause) = try_straddled(tid, class, fd, returned as u64, user) {
        ring::count(cause);
    }
    inflight::end(tid);
    0
}

#[inline(always)]
fn try_straddled(tid: u32, class: Class, fd: u32, returned: u64, user: u64) -> Result<()> {
    let desk = inflight::desk().ok_or(Cause::MapFull)?;
    // SAFETY: this CPU's valid, aligned place; sys_enter, which also uses it, does not interrupt sys_exit.
    let call = unsafe { &mut *desk };
    call.sides = [Side::NONE, Side::NONE];
    syscall::side_of(fd, class, &mut call.sides[0])?;
    let side = &mut call.sides[0];
    if side.mechanism == 0 || side.key.id == 0 {
        return Ok(());
    }
    call.class = class as u8;
    call.user = user;
    if own::is_looked_into(side.mechanism) {
        return unbegun_looked_into(tid, call, returned);
    }
    unbegun(tid, call, returned)
}

/// As [`unbegun`], of a call on an eventfd or a terminal: more is looked for than how many bytes it moved.
///
/// # Errors
/// As for [`unbegun`].
#[inline(always)]
pub(crate) fn unbegun_looked_into(tid: u32, call: &mut InFlight, returned: u64) -> Result<()> {
    let side = &mut call.sides[0];
    side.flags = (side.flags | op_flag::STRADDLES_START) & !op_flag::POSITIONS;
    let receive = side.receive != 0;
    call.enter = 0;
    call.index = 0;
    call.taken = Taken::NOTHING;
    call.moved = Moved::of(returned);
    inflight::begin(tid, call)?;
    // What is told is what stands in the map.
    let Some(call) = inflight::get(tid) else {
        return Ok(());
    };
    // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
    let call = unsafe { &mut *call };
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
    let side = &mut call.sides[0];
    // Positions at its begin are not known.
    side.flags = (side.flags | op_flag::STRADDLES_START) & !op_flag::POSITIONS;
    let receive = side.receive != 0;
    let messages = has_messages(side.mechanism);
    call.enter = 0;
    call.index = 0;
    call.taken = Taken::NOTHING;
    call.moved = Moved::of(returned);
    inflight::begin(tid, call)?;
    // What is told is what stands in the map.
    let Some(call) = inflight::get(tid) else {
        return Ok(());
    };
    // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
    let call = unsafe { &mut *call };
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
            call.moved = Moved::of(since_first_seen(&call.sides[0])?.min(returned));
        }
    }
    if call.moved.bytes != 0 {
        emit::emit_plain(tid, 0);
    }
    Ok(())
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
    let books = channel::books(&side.key).ok_or(Cause::MapFull)?;
    if side.mechanism == Mechanism::Tcp as u8 {
        // SAFETY: as below.
        let (sent, sequence) = unsafe {
            let sending = channel::account(books, channel::SENDING);
            ((*sending).moved, (*sending).origin)
        };
        let moved = inet::sequence(side.object, false)?.wrapping_sub(sequence as u32);
        return Ok(u64::from(moved).saturating_sub(sent));
    }
    // SAFETY: a valid pointer into the map; each field is read in one load.
    let (sent, taken, queued) = unsafe {
        let (sending, receiving) =
            (channel::account(books, channel::SENDING), channel::account(books, channel::RECEIVING));
        ((*sending).moved, (*receiving).moved, (*sending).queued)
    };
    Ok((taken + own::queued(side)).saturating_sub(queued + sent))
}
