//! One task makes another run again: who sits in a wait, who is in a call that can end it, and who ended it.
//!
//! Both sides are remembered here while their calls last. What joins them is `sched_waking`, which comes in the waker's
//! context with the task that it wakes; what proves the join is that the wait returned success, on the object that the
//! waker's call worked on.

use aya_ebpf::macros::{btf_tracepoint, map};
use aya_ebpf::maps::{Array, HashMap};
use aya_ebpf::programs::BtfTracePointContext;
use ipctrace_common::waiting;
pub(crate) use ipctrace_common::waiting::role;
use ipctrace_common::wire::{self, Key, Kind, Task, wake_flag};
use ipctrace_common::{Cause, Mechanism};

use crate::config::offset;
use crate::kernel::{Result, add, load, read};
use crate::{futex, ring, task};

/// `PF_EXITING`, include/linux/sched.h.
const EXITING: u32 = 0x4;

/// Whether the waker was seen.
mod seen {
    pub(super) const NOBODY: u8 = 0;
    /// In a call that wakes.
    pub(super) const CALLER: u8 = 1;
    /// In its end: what it held is given back (robust futexes, `SEM_UNDO`).
    pub(super) const EXITING: u8 = 2;
}

/// Where tasks wait. Never told to user space: an object in memory, as long as somebody waits there.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Place {
    /// Futexes: address of the `struct inode`; semaphores: inode of the IPC namespace. 0 is no place.
    pub(crate) object: u64,
    /// Offset in the file; id of the set.
    pub(crate) detail: u64,
}

impl Place {
    /// None.
    pub(crate) const NONE: Place = Place { object: 0, detail: 0 };
}

/// A call that waits, wakes, or does both.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Call {
    /// [`role`]s.
    pub(crate) roles: u8,
    /// [`Mechanism`].
    pub(crate) mechanism: u8,
    /// [`seen`].
    seen: u8,
    /// Explicit padding.
    reserved: [u8; 5],
    /// When it began; 0 if before tracing did.
    pub(crate) enter: u64,
    /// When the waker came.
    woken: u64,
    /// Where it waits or wakes; the second where there are two.
    pub(crate) places: [Place; 2],
    /// Where the waker wakes.
    waker_places: [Place; 2],
    /// The waker.
    waker: Task,
}

const _: () = assert!(size_of::<Call>() == waiting::SIZE);

/// Calls that wait or wake, by thread id: of a thread that has made one the last, whose roles are 0 once it is over, until the
/// thread ends. User space enters those that began before tracing did.
#[map]
static WAKE_CALLS: HashMap<u32, Call> = HashMap::with_max_entries(32_768, 0);

/// How many are under way, those that user space entered in a place of their own (which counts up only: the sum is right).
/// Without any, a wake-up on this host costs two loads.
#[map]
static WAKE_COUNT: Array<u64> = Array::with_max_entries(2, 0);

impl Call {
    /// None.
    const NONE: Call = Call {
        roles: 0,
        mechanism: 0,
        seen: seen::NOBODY,
        reserved: [0; 5],
        enter: 0,
        woken: 0,
        places: [Place::NONE; 2],
        waker_places: [Place::NONE; 2],
        waker: task::NOBODY,
    };
}

#[inline(always)]
fn count(amount: u64) {
    if let Some(counter) = WAKE_COUNT.get_ptr_mut(0) {
        // SAFETY: a valid, aligned pointer into the map; the add is atomic.
        unsafe { add(counter, amount) };
    }
}

#[inline(always)]
fn any() -> bool {
    // SAFETY: a valid, aligned pointer into the map, read in one load.
    let count =
        |index| WAKE_COUNT.get_ptr(index).map_or(0, |counter| unsafe { core::ptr::read_volatile(counter) });
    count(0).wrapping_add(count(1)) != 0
}

/// Remembers a call that has begun.
///
/// # Errors
/// [`Cause::MapFull`] if there are too many.
#[inline(always)]
pub(crate) fn begin(tid: u32, mechanism: Mechanism, roles: u8, places: [Place; 2]) -> Result<()> {
    let enter = ring::now();
    let Some(call) = WAKE_CALLS.get_ptr_mut(tid) else {
        let first = Call { mechanism: mechanism as u8, roles, enter, places, ..Call::NONE };
        WAKE_CALLS.insert(tid, first, 0).map_err(|_| Cause::MapFull)?;
        count(1);
        return Ok(());
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's. Others look at it when its roles say so, and write
    // to it what `seen` makes valid.
    unsafe {
        let going_on = (*call).roles != 0;
        (*call).mechanism = mechanism as u8;
        core::ptr::write_volatile(&raw mut (*call).seen, seen::NOBODY);
        (*call).enter = enter;
        (*call).woken = 0;
        (*call).places = places;
        (*call).waker_places = [Place::NONE; 2];
        core::ptr::write_volatile(&raw mut (*call).roles, roles);
        if !going_on {
            // Else it takes the place of one whose end was not seen.
            count(1);
        }
    }
    Ok(())
}

/// The call that this thread is in.
#[inline(always)]
pub(crate) fn get(tid: u32) -> Option<*mut Call> {
    let call = WAKE_CALLS.get_ptr_mut(tid)?;
    // SAFETY: a valid pointer into the map, read in one load.
    if unsafe { core::ptr::read_volatile(&raw const (*call).roles) } == 0 { None } else { Some(call) }
}

/// The call is over.
///
/// # Safety
/// It must be one that [`get`] gave for the current thread.
#[inline(always)]
pub(crate) unsafe fn end(call: *mut Call) {
    // SAFETY: valid by contract.
    unsafe { core::ptr::write_volatile(&raw mut (*call).roles, 0) };
    count(u64::MAX);
}

/// The thread is over.
#[inline(always)]
pub(crate) fn forget(tid: u32) {
    if get(tid).is_some() {
        count(u64::MAX);
    }
    // Most threads have made no such call.
    let _ = WAKE_CALLS.remove(tid);
}

/// hook: tp_btf/sched_waking `void (struct task_struct *p)` — include/trace/events/sched.h
///
/// Comes whenever a task that sleeps, or is about to, is made to run, in the context of who does it.
#[btf_tracepoint(function = "sched_waking")]
pub fn sched_waking(ctx: BtfTracePointContext) -> i32 {
    if !any() {
        return 0;
    }
    let woken: *const u8 = ctx.arg(0);
    // SAFETY: the tracepoint's argument, an offset of this kernel.
    let tid = unsafe { load::<u32>(woken, offset!(task_pid)) };
    let Some(call) = get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the woken does not end its call before it runs again.
    let call = unsafe { &mut *call };
    if call.roles & role::WAITS != 0 && !has_signal(woken as u64) {
        met(call);
    }
    0
}

/// Whether a signal is what makes the task run: signals wake a task after they are made pending.
#[inline(always)]
fn has_signal(task: u64) -> bool {
    let shared = read::<u64>(task, offset!(task_signal))
        .and_then(|signal| read::<u64>(signal, offset!(signal_shared_pending)))
        .unwrap_or(0);
    let own: u64 = read(task, offset!(task_pending)).unwrap_or(0);
    let blocked: u64 = read(task, offset!(task_blocked)).unwrap_or(0);
    (own | shared) & !blocked != 0
}

/// Notes the current task as the waker, if it can be. The last one counts: whoever really ended the wait left nothing
/// to be waited for.
#[inline(always)]
fn met(waiting: &mut Call) {
    let current = task::pid_tgid() as u32;
    let seen = match get(current) {
        Some(call) => {
            // SAFETY: a valid pointer into the map; the entry is the current thread's, which is here.
            let call = unsafe { &*call };
            if call.roles & role::WAKES == 0 || call.mechanism != waiting.mechanism || !fits(waiting, call) {
                return;
            }
            waiting.waker_places = call.places;
            seen::CALLER
        }
        None => {
            // SAFETY: the current task, an offset of this kernel.
            if unsafe { load::<u32>(task::current(), offset!(task_flags)) } & EXITING == 0 {
                return;
            }
            seen::EXITING
        }
    };
    waiting.woken = ring::now();
    // SAFETY: a place in the map.
    unsafe { task::describe_current(&raw mut waiting.waker) };
    // Last: should the wait end at this very moment, it ends without a waker rather than with half of one.
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(&raw mut waiting.seen, seen) };
}

/// Whether two calls have a place in common, or may have.
#[inline(always)]
fn fits(waiting: &Call, waking: &Call) -> bool {
    (waiting.roles | waking.roles) & role::OPEN != 0
        || meet(&waiting.places, &waking.places)
        || futex::moved(&waiting.places[0]).is_some_and(|to| meet(&[to, Place::NONE], &waking.places))
}

/// Whether two pairs of places have one in common.
#[inline(always)]
fn meet(one: &[Place; 2], other: &[Place; 2]) -> bool {
    let is = |place: &Place, other: &Place| place.object != 0 && *place == *other;
    is(&one[0], &other[0]) || is(&one[0], &other[1]) || is(&one[1], &other[0]) || is(&one[1], &other[1])
}

/// What a wait that ended well tells of its end.
pub(crate) struct Ended {
    /// The object, as user space knows it.
    pub(crate) key: Key,
    /// Its inode number, if it is a file.
    pub(crate) inode: u64,
    /// See [`wire::Wake::detail`].
    pub(crate) detail: u64,
    /// Flags known already.
    pub(crate) flags: u16,
}

/// Whether somebody was seen to end the wait.
#[inline(always)]
pub(crate) fn has_waker(call: &Call) -> bool {
    call.seen != seen::NOBODY
}

/// Where the wait was, as far as is known without looking again: where it began, or where its waker was.
#[inline(always)]
pub(crate) fn place(call: &Call) -> Option<Place> {
    let [waker, other] = call.waker_places;
    if call.places[0].object != 0 {
        Some(call.places[0])
    } else if call.seen == seen::CALLER && waker.object != 0 && other.object == 0 {
        Some(waker)
    } else {
        None
    }
}

/// Whether the waker belongs to the same process.
#[inline(always)]
pub(crate) fn is_within_process(call: &Call) -> bool {
    has_waker(call) && call.waker.tgid == (task::pid_tgid() >> 32) as u32
}

/// Whether who was seen could have ended a wait at this place, which was not known when it began.
#[inline(always)]
pub(crate) fn proven(call: &Call, place: &Place) -> bool {
    // Places of a waker that are not known do not contradict.
    call.seen != seen::CALLER
        || call.waker_places[0].object | call.waker_places[1].object == 0
        || meet(&[*place, Place::NONE], &call.waker_places)
}

/// Tells of a wait that ended well. `known`: who was seen to end it did.
#[inline(always)]
pub(crate) fn tell(call: &Call, ended: &Ended, known: bool) {
    let Some(mut entry) = ring::reserve::<wire::Wake>() else {
        return;
    };
    let record = entry.as_mut_ptr();
    let flags = ended.flags | if known { wake_flag::WAKER } else { 0 };
    // SAFETY: room for a record; every field is written.
    unsafe {
        ring::begin(&raw mut (*record).header, Kind::Wake, call.mechanism, flags, ring::now());
        task::describe_current(&raw mut (*record).task);
        (*record).waker = if known { call.waker } else { task::NOBODY };
        (*record).key = ended.key;
        (*record).inode = ended.inode;
        (*record).detail = ended.detail;
        (*record).enter = call.enter;
        (*record).woken = call.woken;
    }
    ring::submit(entry);
}
