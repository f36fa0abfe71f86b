//! Requests through io_uring: their begin, and what is known of them until they end (`uring_done.rs`). Sends and receives
//! on sockets are told at the socket (`uring_socket.rs`).
//!
//! A request works in a thread of the process that submitted it: the one that calls `io_uring_enter`, one that the kernel
//! made to look at the ring (SQPOLL), or a worker. All of them belong to the process (since Linux 5.12), so that who it is
//! needs no search.

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::{btf_tracepoint, map, tracepoint};
use aya_ebpf::maps::{HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::programs::{BtfTracePointContext, TracePointContext};
use ipctrace_common::Cause;
use ipctrace_common::syscall::Class;
use ipctrace_common::uring::Places;
use ipctrace_common::wire::{Task, op_flag};

use crate::config::{self, place};
use crate::inflight::{self, Side, Taken};
use crate::kernel::{Result, load, read};
use crate::object::{self, Direction};
use crate::syscall::TAKES_NOTHING;
use crate::{channel, event, pipe, ring, task};

/// `PF_IO_WORKER`, include/linux/sched.h.
const PF_IO_WORKER: u32 = 0x10;
/// `REQ_F_FIXED_FILE` and `REQ_F_CQE_SKIP`: the bits of `IOSQE_FIXED_FILE` and `IOSQE_CQE_SKIP_SUCCESS`,
/// include/uapi/linux/io_uring.h.
const FIXED_FILE: u32 = 1 << 0;
const SKIPS_COMPLETION: u32 = 1 << 6;
/// `REQ_F_BUFFER_SELECT`, of `IOSQE_BUFFER_SELECT`.
const CHOOSES_BUFFER: u32 = 1 << 5;
/// `SPLICE_F_FD_IN_FIXED`, include/uapi/linux/io_uring.h.
const FD_IN_FIXED: u32 = 1 << 31;
/// `FFS_MASK` inverted, io_uring/filetable.h: the alignment of a file leaves room for flags.
const FILE_FLAGS: u64 = 7;
/// Flag of maps: memory is taken as it is needed.
const BPF_F_NO_PREALLOC: u32 = 1;

/// What a request does, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Takes from its file.
    Take(Class),
    /// Puts into it.
    Put(Class),
    /// Takes from one file and puts into another.
    Move(Class),
}

/// `enum io_uring_op`, include/uapi/linux/io_uring.h.
#[inline(always)]
pub(crate) fn work(opcode: u8) -> Option<Work> {
    Some(match opcode {
        // READ, READ_FIXED, READ_MULTISHOT
        22 | 4 | 49 => Work::Take(Class::Read),
        // READV, READV_FIXED
        1 | 60 => Work::Take(Class::Readv),
        // WRITE, WRITE_FIXED
        23 | 5 => Work::Put(Class::Write),
        // WRITEV, WRITEV_FIXED
        2 | 61 => Work::Put(Class::Writev),
        // RECV, RECVMSG, RECV_ZC
        27 | 10 | 58 => Work::Take(Class::Recvmsg),
        // SEND, SENDMSG, SEND_ZC, SENDMSG_ZC
        26 | 9 | 47 | 48 => Work::Put(Class::Sendmsg),
        30 => Work::Move(Class::Splice),
        33 => Work::Move(Class::Tee),
        _ => return None,
    })
}

/// A request that has begun and works on a channel.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Request {
    /// When it was submitted.
    pub(crate) enter: u64,
    /// Who did that.
    pub(crate) task: Task,
    /// The file of the first side as it was then; 0 if it could not be found.
    pub(crate) file: u64,
    /// Position of the first side's object once the request was done, where that was seen before its completion.
    pub(crate) done: u64,
    /// Buffer or vector of the submitter; 0 if it is chosen later, or there is none.
    pub(crate) user: u64,
    /// A [`Class`] of system calls that does the same.
    pub(crate) class: u8,
    /// Explicit padding.
    pub(crate) reserved: [u8; 7],
    /// What the submitter calls it.
    pub(crate) user_data: u64,
    /// Its ring.
    pub(crate) ctx: u64,
    /// As in [`inflight::InFlight`].
    pub(crate) sides: [Side; 2],
}

/// Requests under way, by the address of their `struct io_kiocb`.
#[map]
static REQUESTS: HashMap<u64, Request> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// The same by ring and by what the submitter calls them, for completions that do not name the request. Two of one name
/// are [`AMBIGUOUS`], from then on.
#[map]
static BY_NAME: HashMap<[u64; 2], u64> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Where a request is described before it goes into the map: too large for the stack.
#[map]
static REQUEST_DESK: PerCpuArray<Request> = PerCpuArray::with_max_entries(1, 0);

/// No request has that address.
const AMBIGUOUS: u64 = 0;

/// What a thread that works for rings did last.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Thread {
    /// When: what it does now began later.
    pub(crate) latest: u64,
    /// The request that it submitted last; 0 if it is over.
    pub(crate) request: u64,
    /// The datagram that it has taken and not yet told of.
    pub(crate) taken: Taken,
}

impl Thread {
    pub(crate) const NEW: Thread = Thread { latest: 0, request: 0, taken: Taken::NOTHING };
}

#[map]
static THREADS: LruHashMap<u32, Thread> = LruHashMap::with_max_entries(16_384, 0);

/// What this thread did last, with room to change it.
#[inline(always)]
pub(crate) fn thread(tid: u32) -> Option<*mut Thread> {
    if let Some(known) = THREADS.get_ptr_mut(tid) {
        return Some(known);
    }
    // Should it not fit, the next lookup shows it.
    let _ = THREADS.insert(tid, Thread::NEW, 0);
    THREADS.get_ptr_mut(tid)
}

/// Whether the current thread has to do with rings at all.
#[inline(always)]
pub(crate) fn is_user() -> bool {
    if config::uring_on() == 0 {
        return false;
    }
    let task = task::current();
    // SAFETY: the current task; a pointer and an integer in it, at offsets of this kernel.
    unsafe {
        load::<u64>(task, place!(task_uring)) != 0
            || load::<u32>(task, place!(task_flags)) & PF_IO_WORKER != 0
    }
}

/// hook: tp_btf/io_uring_submit_req `void (struct io_kiocb *req)` — include/trace/events/io_uring.h
///
/// From `io_submit_sqe`, in the submitter or in the kernel's thread for the ring, before the request begins.
#[btf_tracepoint(function = "io_uring_submit_req")]
pub fn uring_submit(ctx: BtfTracePointContext) -> i32 {
    submitted(&ctx, ctx.arg::<*const u8>(0) as u64);
    0
}

/// hook: tracepoint/io_uring/io_uring_submit_req
#[tracepoint]
pub fn uring_submit_event(ctx: TracePointContext) -> u32 {
    submitted(&ctx, event::field!(&ctx, UringSubmit, 0, u64));
    0
}

/// hook: tp_btf/io_uring_submit_sqe `void (struct io_kiocb *req)` — include/trace/events/io_uring.h
#[btf_tracepoint(function = "io_uring_submit_sqe")]
pub fn uring_submit_sqe(ctx: BtfTracePointContext) -> i32 {
    submitted(&ctx, ctx.arg::<*const u8>(0) as u64);
    0
}

/// A request begins.
#[inline(always)]
fn submitted(ctx: &impl EbpfContext, request: u64) {
    let ids = task::pid_tgid();
    if !task::is_tracer(ids)
        && let Err(cause) = try_submitted(request, ids as u32)
    {
        ring::failed!(ctx, cause);
    }
}

/// Describes the request and remembers it, if it works on a channel.
#[inline(always)]
fn try_submitted(request: u64, tid: u32) -> Result<()> {
    let Some(work) = work(read(request, place!(opcode))?) else {
        return Ok(());
    };
    let (Some(desk), Some(thread)) = (REQUEST_DESK.get_ptr_mut(0), thread(tid)) else {
        return Err(Cause::MapFull);
    };
    // SAFETY: this CPU's valid, aligned place; this program does not interrupt itself.
    let call = unsafe { &mut *desk };
    // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
    let thread = unsafe { &mut *thread };
    call.ctx = read(request, place!(ctx))?;
    settled(thread, call.ctx);
    call.sides = [Side::NONE, Side::NONE];
    let flags: u32 = read(request, place!(flags))?;
    let fd: i32 = read(request, place!(fd))?;
    let direction = if matches!(work, Work::Take(_)) { Direction::Receive } else { Direction::Send };
    call.file = file(call.ctx, fd, flags & FIXED_FILE != 0)?;
    if call.file != 0 {
        call.sides[0].fd = if flags & FIXED_FILE != 0 { -1 } else { fd };
        object::describe(call.file, direction, &mut call.sides[0])?;
        // What is spliced to a socket comes to its functions where there is a hook for it, as it does since Linux 6.5.
        let moves = matches!(work, Work::Move(_)) && !at_socket(&call.sides[0]);
        object::pass_over(&mut call.sides[0], moves);
    }
    if only_looks(request, work)? {
        return Ok(());
    }
    if let Work::Move(class) = work
        && class != Class::Tee
        && has(place!(splice_fd))
    {
        let splice_flags: u32 = read(request, place!(splice_flags))?;
        let fixed = splice_flags & FD_IN_FIXED != 0;
        let fd: i32 = read(request, place!(splice_fd))?;
        let source = file(call.ctx, fd, fixed)?;
        if source != 0 {
            call.sides[1].fd = if fixed { -1 } else { fd };
            object::describe(source, Direction::Receive, &mut call.sides[1])?;
            object::pass_over(&mut call.sides[1], true);
        }
    }
    thread.latest = ring::now();
    // What goes through sockets is told there; their books are to be open before.
    if call.sides[0].mechanism != 0 {
        open(tid, &call.sides[0])?;
    }
    if call.sides[1].mechanism != 0 {
        open(tid, &call.sides[1])?;
    }
    // A socket that is spliced from has no such place.
    if at_socket(&call.sides[0]) {
        call.sides[0].mechanism = 0;
    }
    if call.sides[0].mechanism == 0 && call.sides[1].mechanism == 0 {
        return Ok(());
    }
    if flags & SKIPS_COMPLETION != 0 {
        return Err(Cause::NoCompletion);
    }
    call.enter = thread.latest;
    call.done = 0;
    let (Work::Take(class) | Work::Put(class) | Work::Move(class)) = work;
    call.class = class as u8;
    call.user = buffer(request, class)?;
    call.user_data = read(request, place!(user_data))?;
    // SAFETY: a field of a valid structure.
    unsafe { task::describe_current(&raw mut call.task) };
    REQUESTS.insert(request, &*call, 0).map_err(|_| Cause::MapFull)?;
    thread.request = request;
    let name = [call.ctx, call.user_data];
    let other = if BY_NAME.get_ptr(name).is_some() { AMBIGUOUS } else { request };
    BY_NAME.insert(name, other, 0).map_err(|_| Cause::MapFull)
}

/// Whether an offset is there. The verifier knows, and does not look at what depends on it if not.
#[inline(always)]
pub(crate) fn has(place: usize) -> bool {
    place != Places::ABSENT as usize
}

/// A request that its submitter has already carried out when it submits the next one waits in the ring's list for its
/// completion to be written: notes where its object stands now, before anything else moves it.
#[inline(always)]
fn settled(thread: &mut Thread, ctx: u64) {
    let request = thread.request;
    if request == 0 || !has(place!(comp_list)) || !has(place!(comp_last)) {
        return;
    }
    thread.request = 0;
    if read::<u64>(ctx, place!(comp_last)) != Ok(request.wrapping_add(place!(comp_list) as u64)) {
        return;
    }
    let Some(call) = get(request) else {
        return;
    };
    // SAFETY: a valid pointer into the map; the request is over and nobody else looks at it before its completion, which is
    // this thread's to write.
    let call = unsafe { &mut *call };
    if call.sides[0].flags & op_flag::POSITIONS != 0 && pipe::is_pipe(call.sides[0].mechanism) {
        call.done = pipe::position(
            call.sides[0].object,
            call.sides[0].receive != 0,
            pipe::Bound::Upper,
            pipe::NOWHERE,
        )
        .unwrap_or(0);
    }
}

/// Whether it receives, but takes nothing: where sockets do not tell what they move.
#[inline(always)]
pub(crate) fn only_looks(request: u64, work: Work) -> Result<bool> {
    if config::uring_by_socket() != 0 || !has(place!(msg_flags)) || work != Work::Take(Class::Recvmsg) {
        return Ok(false);
    }
    let flags: u32 = read(request, place!(msg_flags))?;
    Ok(u64::from(flags) & TAKES_NOTHING != 0)
}

/// Whether what goes through this side is told at the socket.
#[inline(always)]
pub(crate) fn at_socket(side: &Side) -> bool {
    config::uring_by_socket() != 0 && object::is_socket(side.mechanism)
}

/// Opens the books of a channel before the request moves anything.
#[inline(always)]
fn open(tid: u32, side: &Side) -> Result<()> {
    if side.key.id == 0 || channel::is_known(side) {
        return Ok(());
    }
    // A thread that submits is in no call of those that are in flight.
    let place = inflight::place(tid)?;
    // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
    let call = unsafe { &mut *place };
    if call.active == 0 {
        call.sides[0] = *side;
        call.active = 1;
        channel::introduce(tid, side, 0, 0);
        call.active = 0;
    }
    Ok(())
}

/// The open file that a number stands for in a request of the current process; 0 if it cannot be found.
#[inline(always)]
fn file(ctx: u64, fd: i32, fixed: bool) -> Result<u64> {
    if !fixed {
        return object::file(fd as u32);
    }
    let slot = if has(place!(nodes)) && has(place!(nodes_count)) && has(place!(node_file)) {
        if fd as u32 >= read::<u32>(ctx, place!(nodes_count))? {
            return Ok(0);
        }
        let nodes: u64 = read(ctx, place!(nodes))?;
        let node: u64 = read(nodes, fd as usize * 8)?;
        if node == 0 { 0 } else { read(node, place!(node_file))? }
    } else if has(place!(files)) && has(place!(files_count)) {
        if fd as u32 >= read::<u32>(ctx, place!(files_count))? {
            return Ok(0);
        }
        let files: u64 = read(ctx, place!(files))?;
        read(files, fd as usize * 8)?
    } else {
        0
    };
    Ok(slot & !FILE_FLAGS)
}

/// Buffer or vector of a read or write; 0 if it is chosen when the request works, or unknown.
#[inline(always)]
pub(crate) fn buffer(request: u64, class: Class) -> Result<u64> {
    let flags: u32 = read(request, place!(flags))?;
    let has_buffer = matches!(class, Class::Read | Class::Readv | Class::Write | Class::Writev);
    if has(place!(rw_addr)) && has_buffer && flags & CHOOSES_BUFFER == 0 {
        read(request, place!(rw_addr))
    } else {
        Ok(0)
    }
}

/// The request at that address.
#[inline(always)]
pub(crate) fn get(request: u64) -> Option<*mut Request> {
    REQUESTS.get_ptr_mut(request)
}

/// The request that a completion means which does not name it.
///
/// # Errors
/// [`Cause::NoCompletion`] if it may be one of several.
#[inline(always)]
pub(crate) fn by_name(ctx: u64, user_data: u64) -> Result<Option<u64>> {
    let Some(place) = BY_NAME.get_ptr([ctx, user_data]) else {
        return Ok(None);
    };
    // SAFETY: a valid, aligned pointer into the map.
    match unsafe { core::ptr::read_volatile(place) } {
        AMBIGUOUS => Err(Cause::NoCompletion),
        request => Ok(Some(request)),
    }
}

/// The request is over.
#[inline(always)]
pub(crate) fn end(request: u64, ctx: u64, user_data: u64) {
    let _ = REQUESTS.remove(request);
    if by_name(ctx, user_data) == Ok(Some(request)) {
        let _ = BY_NAME.remove([ctx, user_data]);
    }
}
