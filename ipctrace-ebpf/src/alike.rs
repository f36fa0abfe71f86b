//! Queues whose messages need not be told apart by what is in them.
//!
//! As long as one process has sent, one has received, and all messages have the same priority or type, the first that was sent is the
//! first that is received, and the sender of each is known. Then neither end's memory need be looked at, and calls that follow each
//! other make one record ([`crate::run`]). That it is over is noted when a call begins that ends it, so before its message can be
//! taken: who finds at the end of a receive that it still holds knows what it has taken.

use core::ptr::{read_volatile, write_volatile};

use crate::channel::{self, Books, RECEIVING, SENDING};
use crate::config;
use crate::inflight::InFlight;
use crate::kernel::exchange;
use crate::run;

/// Of [`channel::Account::alike`], which is the same on both sides: it does not hold. 0: nothing has been sent yet. Else the priority
/// or type of all that has been sent, plus 1.
pub(crate) const MIXED: u64 = u64::MAX;

/// How long after the first sight of a queue calls may begin of which this is made use, ns: what was being sent at that moment has been
/// told of, or is seen to be of another kind.
const SETTLED: u64 = 10_000_000;

/// Notes that a process makes a call on a queue. Gives whether the call, in flight, may be one of those: whoever makes it calls again
/// and again.
///
/// # Safety
/// `books` must be valid.
#[inline(always)]
pub(crate) unsafe fn meet(books: *mut Books, call: &InFlight, tgid: u32) -> bool {
    // SAFETY: valid by contract; each field is read in one access.
    unsafe {
        let own = channel::account(books, call.sides[0].receive);
        let who = channel::first(&raw mut (*own).present, tgid);
        if who != 0 && who != u64::from(tgid) {
            end(books);
            return false;
        }
        read_volatile(&raw const (*own).alike) != MIXED
            && is_settled(books, call)
            && run::is_soon(call, call.enter)
            && config::payload() == 0
    }
}

/// Whether the call began long enough after the first sight of the queue.
///
/// # Safety
/// `books` must be valid.
#[inline(always)]
pub(crate) unsafe fn is_settled(books: *mut Books, call: &InFlight) -> bool {
    // SAFETY: valid by contract; read in one access.
    let ready = unsafe { read_volatile(&raw const (*channel::account(books, call.sides[0].receive)).ready) };
    ready != 0 && call.enter > ready + SETTLED
}

/// Whether it holds, and that process is the one that makes calls on that side.
///
/// # Safety
/// `books` must be valid.
#[inline(always)]
pub(crate) unsafe fn holds_for(books: *mut Books, receive: u8, tgid: u32) -> bool {
    // SAFETY: valid by contract; each field is read in one access.
    unsafe {
        let own = channel::account(books, receive);
        read_volatile(&raw const (*own).alike) != MIXED && channel::is_first(&raw const (*own).present, tgid)
    }
}

/// Notes that a message of this priority or type (-1: not known) is sent. Gives whether all have been of that.
///
/// # Safety
/// `books` must be valid.
#[inline(always)]
pub(crate) unsafe fn send(books: *mut Books, detail: i64) -> bool {
    let kind = detail.cast_unsigned().wrapping_add(1);
    // SAFETY: valid by contract; each field is read and written in one access.
    unsafe {
        let alike = read_volatile(&raw const (*channel::account(books, SENDING)).alike);
        if alike == kind && kind != 0 {
            return true;
        }
        if alike == 0 && kind != 0 {
            let first = exchange(&raw mut (*channel::account(books, SENDING)).alike, 0, kind);
            let other = exchange(&raw mut (*channel::account(books, RECEIVING)).alike, 0, kind);
            if (first == 0 || first == kind) && (other == 0 || other == kind) {
                return true;
            }
        }
        end(books);
        false
    }
}

/// It does not hold any more.
///
/// # Safety
/// `books` must be valid.
#[inline(always)]
pub(crate) unsafe fn end(books: *mut Books) {
    for side in [SENDING, RECEIVING] {
        // SAFETY: valid by contract; everybody writes the same.
        unsafe {
            let place = &raw mut (*channel::account(books, side)).alike;
            if read_volatile(place) != MIXED {
                write_volatile(place, MIXED);
            }
        }
    }
}

/// What was in the queue when its books were opened has been told of, at `now`.
///
/// # Safety
/// `books` must be valid.
#[inline(always)]
pub(crate) unsafe fn ready(books: *mut Books, now: u64) {
    for side in [SENDING, RECEIVING] {
        // SAFETY: valid by contract; read and written in one access.
        unsafe { write_volatile(&raw mut (*channel::account(books, side)).ready, now) };
    }
}

/// The priority or type of all messages; `None` if they are not alike.
///
/// # Safety
/// `books` must be valid.
#[inline(always)]
pub(crate) unsafe fn detail(books: *mut Books, receive: u8) -> Option<i64> {
    // SAFETY: valid by contract; read in one access.
    let alike = unsafe { read_volatile(&raw const (*channel::account(books, receive)).alike) };
    if alike == 0 || alike == MIXED { None } else { Some(alike.wrapping_sub(1).cast_signed()) }
}
