//! Message queues, POSIX and System V: what both have in common.
//!
//! Both keep their messages as `struct msg_msg`, and no call tells which of them a receiver took but by what it is: the
//! records carry its priority or type, its length and a digest of its beginning.

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use ipctrace_common::syscall::{Class, Special};
use ipctrace_common::wire::{self, Key, Kind, op_flag};
use ipctrace_common::{Cause, Mechanism, digest};

use crate::channel::{self, Books};
use crate::config::offset;
use crate::inflight::{self, InFlight, Side};
use crate::kernel::{Result, read, read_user};
use crate::object::is_at_object;
use crate::repeat::{Repeat, opaque, repeat};
use crate::{alike, emit, messages, own, posix_mq, queue_object, ring, run, special, sysv, sysv_msg, task};

/// Flags of msgrcv, include/uapi/linux/ipc.h, msg.h.
const MSG_NOERROR: u64 = 0o10_000;
const MSG_EXCEPT: u64 = 0o20_000;
pub(crate) const MSG_COPY: u64 = 0o40_000;

/// What a call returns that was given memory which is not there.
const EFAULT: i64 = -14;
/// In place of what a receive returned: [`is_gone`].
const GONE: u64 = u64::MAX;

/// Whether the call is one of a POSIX queue.
#[inline(always)]
pub(crate) fn is_posix(special: u32) -> bool {
    special == Special::MqSend as u32 || special == Special::MqReceive as u32
}

/// Whether a system call sends or receives.
#[inline(always)]
pub(crate) fn is_call(special: u8) -> bool {
    const CALLS: u64 = 1 << Special::MqSend as u8
        | 1 << Special::MqReceive as u8
        | 1 << Special::Msgsnd as u8
        | 1 << Special::Msgrcv as u8;
    CALLS >> (special & 63) & 1 != 0
}

/// Of which of the two.
#[inline(always)]
fn mechanism(special: u32) -> Mechanism {
    if is_posix(special) { Mechanism::PosixMq } else { Mechanism::SysvMsg }
}

/// Whether it takes a message.
#[inline(always)]
pub(crate) fn is_receive(special: u32) -> bool {
    special == Special::MqReceive as u32 || special == Special::Msgrcv as u32
}

/// Priority of a POSIX message: of what is sent, or as the caller's memory has it of what was received.
#[inline(always)]
fn priority(special: u32, argument: u64) -> i64 {
    if !is_receive(special) {
        i64::from(argument as u32)
    } else if argument == 0 {
        -1
    } else {
        read_user::<u32>(argument, 0).map_or(-1, i64::from)
    }
}

/// The same, or the type of a System V message that is sent. The verifier looks at it by itself, but where it is part of its callers, for
/// returns cost: see `try_enter` of [`crate::syscall`].
#[cfg_attr(feature = "loads", inline(always))]
#[cfg_attr(not(feature = "loads"), unsafe(no_mangle), inline(never))]
pub extern "C" fn queue_detail(special: u32) -> i64 {
    let Ok([_, message, _, argument, ..]) = special::arguments() else {
        return -1;
    };
    if is_posix(special) { priority(special, argument) } else { read_user(message, 0).unwrap_or(0) }
}

/// What is known of the queue of a call: it is not to be traced; it has books, and all is known of the call that is known at its begin;
/// it is seen for the first time.
const NOT_TRACED: i32 = 0;
const KNOWN: i32 = 1;
const NEW: i32 = 2;

/// As the begin of a call: it begins now.
const NOW: u64 = u64::MAX;

/// When a call began that begins now, on a queue with these books. Where one process sends and one receives, it is enough to know that it
/// was after the thread's last call ended, which saves a look at the clock; only who calls again and again is worth it.
#[inline(always)]
fn begins(call: &InFlight, task: u64, receive: bool, books: *mut Books) -> u64 {
    let repeats = call.run != 0 && call.ended != 0 && !books.is_null();
    // SAFETY: a valid pointer into the map.
    if repeats && unsafe { alike::holds_for(books, u8::from(receive), task::tgid_of(task)) } {
        call.ended
    } else {
        ring::now()
    }
}

/// Writes to the thread's place which queue the call works on, and where its message is, and puts it in flight.
#[inline(always)]
fn describe(tid: u32, special: u32, enter: u64) -> Result<i32> {
    let [queue, message, size, _, flags, _] = special::arguments()?;
    if special == Special::Msgrcv as u32 && flags & MSG_COPY != 0 {
        return Ok(NOT_TRACED);
    }
    let place = inflight::place(tid)?;
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    let call = unsafe { &mut *place };
    let task = special::task();
    call.sides[1].mechanism = 0;
    call.sides[1].present = 0;
    call.sides[1].last.file = 0;
    let side = &mut call.sides[0];
    *side = Side::NONE;
    if is_posix(special) {
        posix_mq::describe(queue as u32, side)?;
        call.user = message;
    } else {
        sysv_msg::describe(task, queue as u32, side);
        call.user = message + size_of::<i64>() as u64;
    }
    if side.mechanism == 0 {
        return Ok(NOT_TRACED);
    }
    let receive = is_receive(special);
    let books = channel::find(&side.key);
    let enter = if enter == NOW { begins(call, task, receive, books) } else { enter };
    call.sides[0].used(receive, enter);
    // The message is in one buffer, as with read and write.
    call.start(if receive { Class::Read } else { Class::Write }, enter, size);
    call.task = task;
    call.count = size;
    call.alike = 0;
    if !books.is_null() {
        prepare(tid, special, call, books);
        return Ok(KNOWN);
    }
    if !is_posix(special) {
        call.sides[0].object = sysv_msg::sysv_msg_object(queue as u32);
    }
    Ok(NEW)
}

/// The begin of a call that sends or receives. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn queue_entered(tid: u32, special: u32) -> i32 {
    if queue_begun(tid, special, NOW) == NEW {
        open(tid, special, 0);
    }
    0
}

/// Opens the books of a queue that is seen for the first time, tells of what is in it, and begins the call once more, now that it has
/// books. Gives whether they were opened now.
#[inline(always)]
fn open(tid: u32, special: u32, taken_before: u64) -> bool {
    let first = channel::announce(tid, 0, taken_before) == 1;
    if first {
        find_all(tid);
    }
    if let Some(call) = inflight::get(tid) {
        // SAFETY: a valid pointer into the map; the entry is the current thread's.
        let call = unsafe { &*call };
        queue_begun(tid, special, call.enter);
    }
    first
}

/// Tells of all that is in the queue of the call in flight, whose books were opened just now.
#[inline(always)]
pub(crate) fn find_all(tid: u32) {
    queue_found(tid);
    if let Some(call) = inflight::get(tid)
        // SAFETY: a valid pointer into the map; the entry is the current thread's.
        && let Some(books) = channel::books(unsafe { &(*call).sides[0].key })
    {
        // SAFETY: a valid pointer into the map.
        unsafe { alike::ready(books, ring::now()) };
    }
}

/// Puts a call in flight that began at `enter` (0: not seen), and gives what is known of its queue. The verifier looks at it by
/// itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn queue_begun(tid: u32, special: u32, enter: u64) -> i32 {
    match describe(tid, special, enter) {
        Ok(known) => known,
        Err(cause) => {
            ring::count(cause);
            NOT_TRACED
        }
    }
}

/// Completes what is known of a call in flight on a queue with these books at its begin.
#[inline(always)]
fn prepare(tid: u32, special: u32, call: &mut InFlight, books: *mut Books) {
    if call.enter == 0 {
        // It began before tracing did.
        // SAFETY: a valid pointer into the map.
        unsafe { alike::end(books) };
    }
    // SAFETY: as above.
    let mut alike = unsafe { alike::meet(books, call, task::tgid_of(call.task)) };
    if !is_receive(special) {
        // Before the caller can change it.
        if alike {
            call.moved.detail = queue_detail(special);
        } else {
            queue_content(tid, special);
        }
        // SAFETY: as above.
        if !unsafe { alike::send(books, call.moved.detail) } && alike {
            queue_content(tid, special);
            alike = false;
        }
    }
    call.alike = u8::from(alike);
    if !alike {
        channel::arrive_at(books, &mut call.sides[0], task::tgid_of(call.task));
    }
}

/// Notes with the call in flight of thread `tid` what the caller's memory has of the message: its type or priority, and a digest
/// of as much as was moved; 0 if that could not be read. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn queue_content(tid: u32, special: u32) -> i32 {
    let (Some(call), Ok([_, message, _, argument, ..])) = (inflight::get(tid), special::arguments()) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    let InFlight { moved, user, .. } = unsafe { &mut *call };
    if is_posix(special) {
        moved.detail = priority(special, argument);
        moved.digest = queue_digest(*user, moved.bytes, 0);
        return i32::from(moved.digest != 0);
    }
    // The type stands before the content: one read for both.
    let Some(place) = CONTENT.get_ptr_mut(0) else {
        return 0;
    };
    let len = if moved.bytes > digest::BYTES { digest::BYTES } else { moved.bytes } as u32;
    // SAFETY: this CPU's valid, aligned place, which has room for a type and so many bytes; programs on sys_enter and sys_exit do
    // not interrupt each other. The helper checks the source.
    unsafe {
        (*place).content = [0; digest::WORDS];
        let status = bpf_probe_read_user(place.cast(), len + size_of::<i64>() as u32, message as *const _);
        moved.detail = (*place).kind;
        moved.digest = if status == 0 { digest::of(&(*place).content) } else { 0 };
    }
    i32::from(moved.digest != 0)
}

/// The end of a call that sends or receives. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn queue_exited(tid: u32, special: u32, returned: i64) -> i32 {
    if is_at_object(mechanism(special) as u8) {
        if !inflight::was_told(tid) {
            queue_object::queue_object_late(tid, special, returned);
        }
        return 0;
    }
    let gone = returned == EFAULT && is_gone(special);
    if (gone || (returned >= 0 && queue_joined(tid, special, returned as u64) == 0))
        && (inflight::get(tid).is_some() || straddled(tid, special))
    {
        queue_completed(tid, special, if gone { GONE } else { returned as u64 });
        if let Some(call) = inflight::get(tid) {
            // SAFETY: a valid pointer into the map; the entry is the current thread's.
            let call = unsafe { &mut *call };
            call.active = inflight::ENDING;
            emit::op(tid, call, 0);
        }
    }
    if let Some(call) = inflight::get(tid) {
        // SAFETY: as above.
        unsafe {
            if (*call).sides[0].present != 0 {
                // It failed.
                channel::left(tid);
            }
            (*call).active = 0;
        }
    }
    0
}

/// Whether a call that failed with [`EFAULT`] is a receive that has taken its message and then found no memory to copy it to: it is gone.
#[inline(always)]
fn is_gone(special: u32) -> bool {
    let Ok([_, _, _, _, timeout, _]) = special::arguments() else {
        return false;
    };
    // Without the time by which it is to end, mq_timedreceive(2) does not begin.
    is_receive(special)
        && (special == Special::Msgrcv as u32 || timeout == 0 || read_user::<[u64; 2]>(timeout, 0).is_ok())
}

/// Tells of a call whose message need not be told from others, as part of a run; 0 if it does. As [`queue_detail`] for the verifier.
#[cfg_attr(feature = "loads", inline(always))]
#[cfg_attr(not(feature = "loads"), unsafe(no_mangle), inline(never))]
pub extern "C" fn queue_joined(tid: u32, special: u32, returned: u64) -> i32 {
    let Some(call) = inflight::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    let call = unsafe { &mut *call };
    if call.alike == 0 || (call.count == returned && may_cut(special)) {
        return 0;
    }
    let side = &call.sides[0];
    let Some(books) = channel::books(&side.key) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map.
    let Some(detail) = (unsafe { alike::detail(books, side.receive) }) else {
        return 0;
    };
    if side.receive != 0 {
        call.moved.bytes = returned;
        call.moved.len = returned;
        call.moved.detail = detail;
    }
    // SAFETY: as above.
    i32::from(unsafe { run::add_message(tid, call, books, op_flag::ALIKE) })
}

/// Whether a receive that has filled its buffer may have taken less than the message.
#[inline(always)]
fn may_cut(special: u32) -> bool {
    special == Special::Msgrcv as u32
        && !special::arguments().is_ok_and(|[_, _, _, _, flags, _]| flags & MSG_NOERROR == 0)
}

/// A call that began before tracing did, and has ended; false if there is nothing to tell of it.
#[inline(always)]
fn straddled(tid: u32, special: u32) -> bool {
    let receive = is_receive(special);
    let known = queue_begun(tid, special, 0);
    if known == NOT_TRACED {
        return false;
    }
    let first = known == NEW && open(tid, special, u64::from(receive));
    // What is sent is among what has been found.
    receive || !first
}

/// Writes to the call in flight what it did. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn queue_completed(tid: u32, special: u32, returned: u64) -> i32 {
    let Some(call) = inflight::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    let InFlight { moved, user, count: size, sides: [side, _], .. } = unsafe { &mut *call };
    moved.user = *user;
    if is_receive(special) {
        note_senders(side);
    }
    if returned == GONE {
        // Nothing of it has been received, and it may be any.
        moved.bytes = 0;
        moved.len = 0;
        moved.flags = op_flag::CUT;
        moved.user = 0;
        moved.detail = detail_of_gone(special);
        return 0;
    }
    if is_receive(special) {
        moved.bytes = returned;
        moved.len = returned;
        moved.digest = 0;
        if returned == *size && may_cut(special) {
            moved.flags = op_flag::CUT;
        }
    }
    moved.count = moved.bytes;
    // Pages of a sender that were not there when the call began are there now. Should its memory be gone again, as another thread
    // may have it, which message it was is not certain.
    if moved.digest == 0 && queue_content(tid, special) == 0 {
        ring::count(Cause::PageAbsent);
    }
    0
}

/// Notes how many processes are sending now, where there are several: what was taken may be theirs, and is told of when their calls end.
#[inline(always)]
fn note_senders(side: &mut Side) {
    let Some(books) = channel::books(&side.key) else {
        return;
    };
    // SAFETY: a valid pointer into the map.
    unsafe {
        if channel::calls_of_several(books, channel::SENDING) != 0 {
            side.pos_locked = ring::now();
            side.pos_enter = channel::calls(books, channel::SENDING);
        }
    }
}

/// Priority or type of a message that could not be copied to its receiver's memory, as far as that or the call has it; -1 if it is not known.
#[inline(always)]
fn detail_of_gone(special: u32) -> i64 {
    let Ok([_, message, _, argument, flags, _]) = special::arguments() else {
        return -1;
    };
    if is_posix(special) {
        priority(special, argument)
    } else if argument.cast_signed() > 0 && flags & MSG_EXCEPT == 0 {
        argument.cast_signed()
    } else {
        read_user(message, 0).unwrap_or(-1)
    }
}

/// The end of msgctl. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn queue_controlled(returned: i64) -> i32 {
    if !is_at_object(Mechanism::SysvMsg as u8)
        && let (Ok([id, command, ..]), 0) = (special::arguments(), returned)
        && sysv::removes(command as u32)
    {
        channel::removed(Mechanism::SysvMsg, sysv_msg::key(id as u32));
    }
    0
}

/// `struct msgbuf`, include/uapi/linux/msg.h: a System V message in its caller's memory, or rather its beginning.
#[repr(C)]
struct Content {
    kind: i64,
    content: [u64; digest::WORDS],
}

#[map]
static CONTENT: PerCpuArray<Content> = PerCpuArray::with_max_entries(1, 0);

/// Digest of `len` bytes of the caller's memory, or the kernel's; 0 if they could not be read. The verifier looks at it by
/// itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn queue_digest(source: u64, len: u64, kernel: u32) -> u64 {
    let Some(place) = CONTENT.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's valid, aligned place; programs on sys_enter and sys_exit do not interrupt each other.
    let words = unsafe { &mut (*place).content };
    *words = [0; digest::WORDS];
    let place: *mut [u64; digest::WORDS] = words;
    let len = if len > digest::BYTES { digest::BYTES } else { len } as u32;
    // SAFETY: the place has so many bytes; the helpers check the source.
    let status = unsafe {
        if len == 0 {
            0
        } else if kernel != 0 {
            bpf_probe_read_kernel(place.cast(), len, source as *const _)
        } else {
            bpf_probe_read_user(place.cast(), len, source as *const _)
        }
    };
    if status == 0 { digest::of(words) } else { 0 }
}

/// A walk over the messages of a queue: for a POSIX one over its priorities, from the highest down, and the list of each.
struct Walk {
    key: Key,
    mechanism: u8,
    /// Tree of priorities; 0 if there is one list only.
    root: u64,
    /// Node that is looked at on the way to the highest priority below `bound`.
    cursor: u64,
    best: u64,
    bound: i64,
    /// Head of the list; 0 if none has been chosen.
    head: u64,
    message: u64,
    /// Messages still to be told of.
    left: u64,
}

impl Repeat for Walk {
    const LIMIT: u32 = 8192;
    const PLAIN_LIMIT: u32 = 16;

    #[inline(always)]
    fn turn(&mut self, _index: u32) -> bool {
        self.left == 0 || self.step().unwrap_or(true)
    }
}

impl Walk {
    /// One message, or one node of the tree; `true` at the end.
    #[inline(always)]
    fn step(&mut self) -> Result<bool> {
        if self.head != 0 {
            if self.message != self.head {
                self.tell()?;
                self.left -= 1;
                self.message = read(self.message, offset!(msg_next))?;
                return Ok(false);
            }
            (self.head, self.cursor, self.best) = (0, self.root, 0);
            return Ok(self.root == 0);
        }
        if self.cursor != 0 {
            let priority: i32 = read(leaf(self.cursor), offset!(mqueue_leaf_priority))?;
            let next = if i64::from(priority) < self.bound {
                self.best = self.cursor;
                offset!(rb_right)
            } else {
                offset!(rb_left)
            };
            self.cursor = read(self.cursor, next)?;
            return Ok(false);
        }
        if self.best == 0 {
            return Ok(true);
        }
        let leaf = leaf(self.best);
        self.bound = i64::from(read::<i32>(leaf, offset!(mqueue_leaf_priority))?);
        self.head = leaf + offset!(mqueue_leaf_messages) as u64;
        self.message = read(self.head, offset!(msg_next))?;
        Ok(false)
    }

    /// Tells of one message.
    #[inline(always)]
    fn tell(&self) -> Result<()> {
        let len: u64 = read(self.message, offset!(msg_len))?;
        let detail: i64 = read(self.message, offset!(msg_type))?;
        // Where the very message is seen later on, nothing of its content is needed.
        let (digest, number) = if is_at_object(self.mechanism) {
            (0, messages::found(self.message, self.key, self.mechanism))
        } else {
            (queue_digest(self.message + offset!(msg_size) as u64, len, 1), 0)
        };
        let Some(mut entry) = ring::reserve::<wire::Op>() else {
            return Ok(());
        };
        let record = entry.as_mut_ptr();
        let flags = op_flag::FOUND | if number != 0 { op_flag::FROM } else { 0 };
        // SAFETY: room for a record; every byte is written.
        unsafe {
            ring::clear(record);
            ring::begin(&raw mut (*record).header, Kind::Op, self.mechanism, flags, ring::now());
            (*record).key = self.key;
            (*record).sender_sock = number;
            (*record).bytes = len;
            (*record).message_len = len;
            (*record).detail = detail;
            (*record).digest = digest;
            (*record).messages = 1;
        }
        ring::submit(entry);
        Ok(())
    }
}

/// The `struct posix_msg_tree_node` around a node.
#[inline(always)]
fn leaf(node: u64) -> u64 {
    node - offset!(mqueue_leaf_node) as u64
}

/// Tells of what is in the queue of the call in flight of thread `tid`. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn queue_found(tid: u32) -> i32 {
    let Some(call) = inflight::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    let call = unsafe { &mut *call };
    let side = &call.sides[0];
    let left = own::queued(side);
    if left == 0 || left == u64::MAX {
        return 0;
    }
    let posix = side.mechanism == Mechanism::PosixMq as u8;
    let head = if posix { 0 } else { side.object + offset!(msg_queue_messages) as u64 };
    let place = if posix { side.object + offset!(mqueue_root) as u64 } else { head };
    let Ok(first) = read::<u64>(place, 0) else {
        return 0;
    };
    let mut walk = Walk {
        key: side.key,
        mechanism: side.mechanism,
        root: if posix { first } else { 0 },
        cursor: if posix { first } else { 0 },
        best: opaque(0),
        bound: i64::MAX,
        head,
        message: if posix { 0 } else { first },
        left: opaque(left),
    };
    repeat(&mut walk);
    // What is found in the queue was there before this call.
    if call.enter != 0 {
        call.enter = ring::now();
    }
    0
}
