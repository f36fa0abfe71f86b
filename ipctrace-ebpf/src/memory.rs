//! Shared memory: who maps what, and who touches which page of it first.
//!
//! Most processes share no memory. Those that do stand in [`SHARING`] with the ranges of addresses in question, so that all
//! else that processes do with their memory ends after a lookup or two. A range may be larger than what is shared: user
//! space knows exactly.

use aya_ebpf::cty::c_void;
#[cfg(not(feature = "plain"))]
use aya_ebpf::helpers::generated::{bpf_find_vma, bpf_get_current_task_btf};
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel_str, bpf_probe_read_user_str};
use aya_ebpf::macros::{btf_tracepoint, map, tracepoint};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use aya_ebpf::programs::{BtfTracePointContext, TracePointContext};
use ipctrace_common::syscall::Special;
use ipctrace_common::wire::{self, Key, Kind, NAME_MAX, share_event};
use ipctrace_common::{Cause, Mechanism};

use crate::config::{self, offset};
use crate::kernel::{Result, add, exchange, read, read_user};
use crate::object::{self, is_at_object, is_on};
use crate::{channel, event, ring, segment, special, sysv, task};

const MAP_SHARED: u64 = 1;
const MAP_SHARED_VALIDATE: u64 = 3;
const MAP_TYPE: u64 = 0xf;
const MAP_FIXED: u64 = 0x10;
const MREMAP_FIXED: u64 = 2;
const MREMAP_DONTUNMAP: u64 = 4;
const PROT_WRITE: u64 = 2;
/// `VM_WRITE` and `VM_MAYSHARE`, include/linux/mm.h: the latter is what /proc/PID/maps shows as `s`.
pub(crate) const VM_WRITE: u64 = 0x2;
const VM_MAYSHARE: u64 = 0x80;
/// `X86_PF_WRITE`, arch/x86/include/asm/trap_pf.h.
const FAULT_WRITE: u64 = 0x2;
const IPC_CREAT: u64 = 0o1000;
const IPC_EXCL: u64 = 0o2000;
const O_CREAT: u64 = 0o100;
/// include/linux/fs.h: the file did not exist before it was opened.
const FMODE_CREATED: u32 = 1 << 20;
const PAGE: u64 = 4096;
const S_IFMT: u16 = 0o170_000;
const S_IFREG: u16 = 0o100_000;

/// How the names begin that the kernel gives to files which are in no directory.
const MEMFD: u64 = u64::from_be_bytes(*b"\0\0memfd:");
const DEV_ZERO: u64 = u64::from_be_bytes(*b"dev/zero");
const ANON_HUGEPAGE: u64 = u64::from_be_bytes(*b"anon_hug");
const SYSV: u64 = u64::from_be_bytes(*b"\0\0\0\0SYSV");
/// How the paths of POSIX shared memory begin, but for the last slash.
const DEV_SHM: u64 = u64::from_be_bytes(*b"/dev/shm");

/// Ranges that are told apart in one process; more are merged.
const SLOTS: usize = 16;
/// Touches told of one process between two of its mappings.
const TOUCHES: u64 = 16_384;

/// Addresses from `start` (0: none) to `end`.
#[repr(C)]
struct Range {
    start: u64,
    end: u64,
}

/// Where a process has shared memory.
#[repr(C)]
struct Ranges {
    slots: [Range; SLOTS],
    /// Touches told since it last mapped anything.
    touches: u64,
}

/// By thread group id.
#[map]
static SHARING: HashMap<u32, Ranges> = HashMap::with_max_entries(16_384, 0);

/// What a process begins with.
#[map]
static NO_RANGES: Array<Ranges> = Array::with_max_entries(1, 0);

/// A record with room for its name.
#[repr(C)]
struct Named {
    fixed: wire::Share,
    name: [u8; NAME_MAX + 256],
}

/// Where records are made: by the hooks, and by the iterator, which they can interrupt.
#[map]
static SHARE_DESK: PerCpuArray<Named> = PerCpuArray::with_max_entries(2, 0);
const HOOKS: u32 = 0;
const ITERATOR: u32 = 1;

#[inline(always)]
fn overlaps(ranges: *const Ranges, start: u64, end: u64) -> bool {
    for index in 0..SLOTS {
        // SAFETY: a valid pointer into the map; other CPUs write these fields in single stores.
        let (from, to) = unsafe {
            let slot = &raw const (*ranges).slots[index];
            (
                core::ptr::read_volatile(&raw const (*slot).start),
                core::ptr::read_volatile(&raw const (*slot).end),
            )
        };
        if from < end && start < to && from != 0 {
            return true;
        }
    }
    false
}

/// Whether the current process has shared memory at these addresses.
#[inline(always)]
pub(crate) fn shares(start: u64, end: u64) -> bool {
    SHARING.get_ptr_mut(tgid()).is_some() && shares_range(start, end) != 0
}

/// The same for one that may have. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn shares_range(start: u64, end: u64) -> i32 {
    SHARING.get_ptr(tgid()).map_or(0, |ranges| i32::from(overlaps(ranges, start, end)))
}

/// Enters a range of a process. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn share_claim(tgid: u32, start: u64, end: u64) -> i32 {
    if let Err(cause) = claim(tgid, start, end) {
        ring::count(cause);
    }
    0
}

#[inline(always)]
fn claim(tgid: u32, start: u64, end: u64) -> Result<()> {
    if SHARING.get_ptr_mut(tgid).is_none() {
        let none = NO_RANGES.get_ptr(0).ok_or(Cause::MapFull)?;
        // SAFETY: a valid pointer into the map, which nothing writes. If another thread was first, so much the better.
        let _ = SHARING.insert(tgid, unsafe { &*none }, 1);
    }
    let ranges = SHARING.get_ptr_mut(tgid).ok_or(Cause::MapFull)?;
    // SAFETY: a valid pointer into the map; a slot belongs to whoever exchanged its 0.
    unsafe {
        (*ranges).touches = 0;
        for index in 0..SLOTS {
            let slot = &raw mut (*ranges).slots[index];
            if exchange(&raw mut (*slot).start, 0, start) == 0 {
                core::ptr::write_volatile(&raw mut (*slot).end, end);
                return Ok(());
            }
        }
        let last = &raw mut (*ranges).slots[SLOTS - 1];
        if start < (*last).start {
            (*last).start = start;
        }
        if end > (*last).end {
            (*last).end = end;
        }
    }
    Ok(())
}

/// These addresses of the current process share nothing any more. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn share_release(start: u64, end: u64) -> i32 {
    let Some(ranges) = SHARING.get_ptr_mut(tgid()) else {
        return 0;
    };
    for index in 0..SLOTS {
        // SAFETY: a valid pointer into the map; fields are read and written in single accesses.
        unsafe {
            let slot = &raw mut (*ranges).slots[index];
            let from = core::ptr::read_volatile(&raw const (*slot).start);
            let to = core::ptr::read_volatile(&raw const (*slot).end);
            if from >= start && to <= end {
                core::ptr::write_volatile(&raw mut (*slot).end, 0);
                core::ptr::write_volatile(&raw mut (*slot).start, 0);
            } else if from >= start && from < end {
                core::ptr::write_volatile(&raw mut (*slot).start, end);
            } else if to > start && to <= end {
                core::ptr::write_volatile(&raw mut (*slot).end, start);
            }
        }
    }
    0
}

#[inline(always)]
fn tgid() -> u32 {
    (task::pid_tgid() >> 32) as u32
}

/// Page-aligned length.
#[inline(always)]
fn pages(len: u64) -> u64 {
    len.wrapping_add(PAGE - 1) & !(PAGE - 1)
}

/// A record begun on a desk: everything but header and task is 0.
#[inline(always)]
fn desk(index: u32, event: u16) -> Result<&'static mut Named> {
    let place = SHARE_DESK.get_ptr_mut(index).ok_or(Cause::MapFull)?;
    // SAFETY: this CPU's valid, aligned place. Each desk is used by programs that do not interrupt each other.
    let named = unsafe { &mut *place };
    let record = &mut named.fixed;
    record.header.flags = event;
    record.header.mechanism = 0;
    /// Writes zeros one by one: the compiler would make a loop over bytes of them, which the verifier walks through.
    macro_rules! zero {
        ($($field:ident),*) => {$(
            // SAFETY: a field of a valid record.
            unsafe { core::ptr::write_volatile(&raw mut record.$field, 0) };
        )*};
    }
    zero!(start, len, offset, to, to_len, size, mounts, magic, writable, flag, name_len);
    // SAFETY: as above.
    unsafe {
        core::ptr::write_volatile(&raw mut record.key.id, 0);
        core::ptr::write_volatile(&raw mut record.key.space, 0);
    }
    Ok(named)
}

/// Writes whose doing a record tells of.
///
/// # Safety
/// `record` must be valid for a write.
#[inline(always)]
pub(crate) unsafe fn done_by(record: *mut wire::Share, task: u64) {
    let spaces: u64 = read(task, offset!(task_nsproxy)).unwrap_or(0);
    let mounts: u64 = read(spaces, offset!(nsproxy_mnt_ns)).unwrap_or(0);
    // SAFETY: valid by contract.
    unsafe {
        (*record).mounts = u64::from(read::<u32>(mounts, offset!(mnt_ns_inum)).unwrap_or(0));
        task::describe(task, &raw mut (*record).task);
    }
}

/// Completes the record on a desk and hands it over. `file`: the object, 0 if it needs none. On the desk of the iterator
/// the task is written already. Gives 0 if the file is no shared memory that is traced. The verifier looks at it by
/// itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn share_tell(index: u32, file: u64) -> i32 {
    let Some(place) = SHARE_DESK.get_ptr_mut(index & 1) else {
        return 0;
    };
    // SAFETY: as in `desk`.
    let named = unsafe { &mut *place };
    if file != 0 {
        match describe(file, named) {
            Ok(true) => {}
            Ok(false) => return 0,
            Err(cause) => {
                ring::count(cause);
                return 0;
            }
        }
    }
    let record = &raw mut named.fixed;
    // SAFETY: places in a valid record.
    unsafe {
        if index != ITERATOR {
            done_by(record, task::current() as u64);
        }
        let (mechanism, event) = ((*record).header.mechanism, (*record).header.flags);
        ring::begin(&raw mut (*record).header, Kind::Share, mechanism, event, ring::now());
    }
    let len = named.fixed.name_len as usize;
    let len = if len > NAME_MAX { NAME_MAX } else { len };
    named.fixed.name_len = len as u32;
    // SAFETY: a record with room for its name, initialised memory of a map.
    unsafe { ring::output_with::<wire::Share, NAME_MAX>(record, len) };
    1
}

/// What an open file is as shared memory; `false` if it is none that is traced.
#[inline(always)]
fn describe(file: u64, named: &mut Named) -> Result<bool> {
    let inode: u64 = read(file, offset!(file_inode))?;
    let mode: u16 = read(inode, offset!(inode_mode))?;
    if mode & S_IFMT != S_IFREG {
        return Ok(false);
    }
    let super_block: u64 = read(inode, offset!(inode_sb))?;
    let dentry: u64 = read(file, offset!(file_dentry))?;
    named.fixed.size = read(inode, offset!(inode_size))?;
    named.fixed.magic = read::<u64>(super_block, offset!(sb_magic))? as u32;
    let key = Key {
        id: read(inode, offset!(inode_ino))?,
        space: u64::from(read::<u32>(super_block, offset!(sb_dev))?),
    };
    if read::<u64>(dentry, offset!(dentry_parent))? != dentry {
        if !is_on(Mechanism::SharedFile) && !is_on(Mechanism::PosixShm) {
            return Ok(false);
        }
        named.fixed.header.mechanism = Mechanism::SharedFile as u8;
        named.fixed.key = key;
        named.fixed.name_len = channel::path(file, &mut named.name) as u32;
        return Ok(true);
    }
    // In no directory: the kernel made it for a call.
    let name: u64 = read(dentry, offset!(dentry_name))?;
    // SAFETY: the place is longer; the helper checks the source.
    let copied = unsafe { bpf_probe_read_kernel_str(named.name.as_mut_ptr().cast(), 256, name as *const _) };
    if copied < 0 {
        return Err(Cause::ReadFailed);
    }
    named.fixed.name_len = (copied as u32) & 0x1ff;
    // Names of less than 8 bytes stand in an array of more.
    let head = u64::from_be(read(name, 0)?);
    let mechanism = if head >> 16 == MEMFD {
        Mechanism::Memfd
    } else if head == DEV_ZERO || head == ANON_HUGEPAGE {
        Mechanism::SharedAnon
    } else if head >> 32 == SYSV {
        Mechanism::SysvShm
    } else {
        return Ok(false);
    };
    if !is_on(mechanism) {
        return Ok(false);
    }
    named.fixed.header.mechanism = mechanism as u8;
    named.fixed.key = if mechanism as u8 == Mechanism::SysvShm as u8 { segment::key_of(file)? } else { key };
    Ok(true)
}

/// A mapping, as found by its address.
#[repr(C)]
struct Vma {
    start: u64,
    end: u64,
    flags: u64,
    offset: u64,
    file: u64,
}

#[inline(always)]
fn read_vma(vma: u64, found: &mut Vma) -> Result<()> {
    found.start = read(vma, offset!(vma_start))?;
    found.end = read(vma, offset!(vma_end))?;
    found.flags = read(vma, offset!(vma_flags))?;
    found.offset = read::<u64>(vma, offset!(vma_pgoff))? * PAGE;
    found.file = read(vma, offset!(vma_file))?;
    Ok(())
}

/// The mapping that was looked for last. In a map rather than on the stack: the verifier would follow each content of the
/// latter by itself.
#[map]
static FOUND: PerCpuArray<Vma> = PerCpuArray::with_max_entries(1, 0);

/// What bpf_find_vma calls.
extern "C" fn found_vma(_task: *mut c_void, vma: *mut c_void, _state: *mut c_void) -> i64 {
    if let Some(found) = FOUND.get_ptr_mut(0) {
        // SAFETY: this CPU's valid, aligned place.
        let _ = read_vma(vma as u64, unsafe { &mut *found });
    }
    0
}

/// -ENOENT: nothing is mapped there.
pub(crate) const NOTHING: i64 = -2;

/// Calls `visit` with the mapping at an address of the current process and `state`; 0, [`NOTHING`], or what bpf_find_vma fails with while
/// another thread changes the process's mappings, though it is asked again, for that does not take long.
///
/// # Safety
/// `visit` must be a function that bpf_find_vma can call, and `state` what that takes.
#[cfg(not(feature = "plain"))]
#[inline(always)]
pub(crate) unsafe fn visit_mapping(address: u64, visit: *mut c_void, state: *mut c_void) -> i64 {
    let mut status = NOTHING;
    for _ in 0..4 {
        // SAFETY: valid by contract; the current task.
        status = unsafe { bpf_find_vma(bpf_get_current_task_btf(), address, visit, state, 0) };
        if status == 0 || status == NOTHING {
            break;
        }
    }
    status
}

/// Looks for the mapping at an address of the current process; not 0 if there is none. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn vma_find(address: u64) -> i32 {
    #[cfg(feature = "plain")]
    let status = {
        // Not called: what needs it is off.
        let _: extern "C" fn(*mut c_void, *mut c_void, *mut c_void) -> i64 = found_vma;
        -i64::from(address != 0)
    };
    #[cfg(not(feature = "plain"))]
    // SAFETY: `found_vma` has the signature that the helper calls; it needs no state.
    let status = unsafe {
        let visit: extern "C" fn(*mut c_void, *mut c_void, *mut c_void) -> i64 = found_vma;
        visit_mapping(address, visit as *mut c_void, core::ptr::null_mut())
    };
    status as i32
}

/// The mapping at an address of the current process.
#[inline(always)]
fn find(address: u64) -> Result<&'static Vma> {
    let found = FOUND.get_ptr_mut(0).ok_or(Cause::MapFull)?;
    // SAFETY: this CPU's valid, aligned place; nothing else uses it meanwhile.
    let found = unsafe { &mut *found };
    found.file = 0;
    match i64::from(vma_find(address)) {
        0 if found.file != 0 => Ok(found),
        0 | NOTHING => Err(Cause::ReadFailed),
        _ => Err(Cause::MappingsBusy),
    }
}

/// Whether a call is one on segments, and those are told of at their functions.
#[inline(always)]
fn is_told_elsewhere(special: u32) -> bool {
    is_at_object(Mechanism::SysvShm as u8)
        && matches!(
            Special::from_wire(special as u8),
            Some(Special::Shmget | Special::Shmat | Special::Shmdt | Special::Shmctl)
        )
}

/// The begin of a call after which addresses are not to be relied on. The verifier looks at it by itself.
///
/// Told at the begin: what another thread maps there in the meantime is told after it, and so not taken for gone.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn memory_entered(tid: u32, special: u32) -> i32 {
    if is_told_elsewhere(special) {
        return 0;
    }
    let outcome = match Special::from_wire(special as u8) {
        Some(Special::Munmap) => unmapping(),
        Some(Special::Shmdt) => special::arguments().map(|[start, ..]| {
            segment::segment_detached(start);
        }),
        Some(Special::Shmctl) => removing(tid),
        Some(_) | None => Ok(()),
    };
    if let Err(cause) = outcome {
        ring::count(cause);
    }
    0
}

#[inline(always)]
fn unmapping() -> Result<()> {
    let [start, len, ..] = special::arguments()?;
    // What the kernel refuses changes nothing.
    if start & (PAGE - 1) == 0 && len != 0 && len < 1 << 57 {
        unmapped(start, pages(len))?;
    }
    Ok(())
}

/// Tells that these addresses are no longer what they were, if any of them was shared.
#[inline(always)]
fn unmapped(start: u64, len: u64) -> Result<()> {
    if shares(start, start.wrapping_add(len)) {
        share_release(start, start.wrapping_add(len));
        let record = &mut desk(HOOKS, share_event::UNMAP)?.fixed;
        record.start = start;
        record.len = len;
        share_tell(HOOKS, 0);
    }
    Ok(())
}

#[inline(always)]
fn removing(tid: u32) -> Result<()> {
    let [id, command, ..] = special::arguments()?;
    if sysv::removes(command as u32) {
        segment::segment_removing(tid, id as u32);
    }
    Ok(())
}

/// The end of a call. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn memory_exited(tid: u32, special: u32, returned: i64) -> i32 {
    if is_told_elsewhere(special) {
        return 0;
    }
    let failed = (-4095..0).contains(&returned);
    let outcome = match Special::from_wire(special as u8) {
        Some(Special::Shmctl) => removed(tid, failed),
        _ if failed => Ok(()),
        Some(Special::Mmap) => mapped(returned as u64),
        Some(Special::Mremap) => moved(returned as u64),
        Some(Special::Mprotect) => protected(),
        Some(Special::Shmat) => {
            segment::segment_attached(returned as u64);
            Ok(())
        }
        Some(Special::Shmget) => made_segment(returned as u32),
        Some(Special::MemfdCreate) => made_memfd(returned as u32),
        Some(Special::Open) => opened(returned as u32, 0),
        Some(Special::Openat) => opened(returned as u32, 1),
        Some(Special::Unlink) => unlinked(0),
        Some(Special::Unlinkat) => unlinked(1),
        Some(_) | None => Ok(()),
    };
    if let Err(cause) = outcome {
        ring::count(cause);
    }
    0
}

#[inline(always)]
fn mapped(start: u64) -> Result<()> {
    let [_, len, _, flags, fd, offset] = special::arguments()?;
    let len = pages(len);
    if flags & MAP_TYPE != MAP_SHARED && flags & MAP_TYPE != MAP_SHARED_VALIDATE {
        return if flags & MAP_FIXED != 0 { unmapped(start, len) } else { Ok(()) };
    }
    told_map(start, len, fd as u32, offset)
}

#[inline(always)]
fn told_map(start: u64, len: u64, fd: u32, offset: u64) -> Result<()> {
    let (file, offset, writable) = match find(start) {
        Ok(found) if found.flags & VM_MAYSHARE == 0 => return Ok(()),
        Ok(found) => (found.file, found.offset + (start - found.start), found.flags & VM_WRITE != 0),
        Err(cause) => {
            let file = object::file(fd)?;
            if file == 0 {
                // Devices that map memory without a file, or anonymous memory that was not found.
                return if fd == u32::MAX { Err(cause) } else { Ok(()) };
            }
            (file, offset, special::arguments()?[2] & PROT_WRITE != 0)
        }
    };
    let record = &mut desk(HOOKS, share_event::MAP)?.fixed;
    record.start = start;
    record.len = len;
    record.offset = offset;
    record.writable = u32::from(writable);
    if share_tell(HOOKS, file) != 0 {
        share_claim(tgid(), start, start.wrapping_add(len));
    }
    Ok(())
}

#[inline(always)]
fn moved(to: u64) -> Result<()> {
    let [start, len, to_len, flags, ..] = special::arguments()?;
    let (len, to_len) = (pages(len), pages(to_len));
    if !shares(start, start.wrapping_add(if len == 0 { 1 } else { len })) {
        // What was at the new place is there no more.
        return if flags & MREMAP_FIXED != 0 { unmapped(to, to_len) } else { Ok(()) };
    }
    let stays = len == 0 || flags & MREMAP_DONTUNMAP != 0;
    if !stays {
        share_release(start, start.wrapping_add(len));
    }
    share_claim(tgid(), to, to.wrapping_add(to_len));
    let record = &mut desk(HOOKS, share_event::MOVE)?.fixed;
    record.start = start;
    record.len = len;
    record.to = to;
    record.to_len = to_len;
    record.flag = u32::from(stays);
    share_tell(HOOKS, 0);
    Ok(())
}

#[inline(always)]
fn protected() -> Result<()> {
    let [start, len, protection, ..] = special::arguments()?;
    if shares(start, start.wrapping_add(pages(len))) {
        let record = &mut desk(HOOKS, share_event::PROTECT)?.fixed;
        record.start = start;
        record.len = pages(len);
        record.writable = u32::from(protection & PROT_WRITE != 0);
        share_tell(HOOKS, 0);
    }
    Ok(())
}

/// shmget(2) gave an id: of a new segment, or of one that was there.
#[inline(always)]
fn made_segment(id: u32) -> Result<()> {
    let [key, _, flags, ..] = special::arguments()?;
    if key as u32 == 0 || flags & IPC_CREAT != 0 {
        segment::segment_made(id, u32::from(key as u32 == 0 || flags & IPC_EXCL != 0));
    }
    Ok(())
}

#[inline(always)]
fn removed(tid: u32, failed: bool) -> Result<()> {
    let [id, ..] = special::arguments()?;
    segment::segment_removed(tid, id as u32, u32::from(failed));
    Ok(())
}

#[inline(always)]
fn made_memfd(fd: u32) -> Result<()> {
    let file = object::file(fd)?;
    let record = &mut desk(HOOKS, share_event::CREATE)?.fixed;
    record.flag = 1;
    record.writable = 1;
    if file != 0 {
        share_tell(HOOKS, file);
    }
    Ok(())
}

/// Whether a path in the caller's memory is one of POSIX shared memory.
#[inline(always)]
fn is_posix(path: u64) -> bool {
    read_user::<u64>(path, 0).map(u64::from_be) == Ok(DEV_SHM) && read_user::<u8>(path, 8) == Ok(b'/')
}

/// Opening a file may have made it: told if it may be POSIX shared memory.
#[inline(always)]
fn opened(fd: u32, argument: usize) -> Result<()> {
    let arguments = special::arguments()?;
    let (path, flags) =
        if argument == 0 { (arguments[0], arguments[1]) } else { (arguments[1], arguments[2]) };
    if flags & O_CREAT == 0 || !is_posix(path) {
        return Ok(());
    }
    let file = object::file(fd)?;
    if file == 0 || read::<u32>(file, offset!(file_mode))? & FMODE_CREATED == 0 {
        return Ok(());
    }
    let record = &mut desk(HOOKS, share_event::CREATE)?.fixed;
    record.flag = 1;
    record.writable = 1;
    share_tell(HOOKS, file);
    Ok(())
}

/// A name is gone: told if it may be that of POSIX shared memory.
#[inline(always)]
fn unlinked(argument: usize) -> Result<()> {
    let arguments = special::arguments()?;
    let path = if argument == 0 { arguments[0] } else { arguments[1] };
    if !is_posix(path) {
        return Ok(());
    }
    let named = desk(HOOKS, share_event::REMOVE)?;
    // SAFETY: the place is that long; the helper checks the source.
    let copied =
        unsafe { bpf_probe_read_user_str(named.name.as_mut_ptr().cast(), NAME_MAX as u32, path as *const _) };
    if copied <= 0 {
        return Err(Cause::PageAbsent);
    }
    named.fixed.header.mechanism = Mechanism::PosixShm as u8;
    named.fixed.name_len = copied as u32 - 1;
    share_tell(HOOKS, 0);
    Ok(())
}

/// A new process has what its parent has. Gives whether it is the very same memory.
#[inline(always)]
pub(crate) fn forked(child: u64, pid: u32) -> bool {
    if let Some(ranges) = SHARING.get_ptr(tgid()) {
        // SAFETY: a valid pointer into the map.
        if SHARING.insert(pid, unsafe { &*ranges }, 0).is_err() {
            ring::count(Cause::MapFull);
        }
    }
    let own: u64 = read(task::current() as u64, offset!(task_mm)).unwrap_or(0);
    own != 0 && read(child, offset!(task_mm)) == Ok(own)
}

/// The current process has left its memory: exec, exit.
#[inline(always)]
pub(crate) fn left() {
    // Nothing to do if it shared none.
    let _ = SHARING.remove(tgid());
}

/// hook: tp_btf/page_fault_user `void (unsigned long address, struct pt_regs *regs, unsigned long error_code)` — include/trace/events/exceptions.h
#[btf_tracepoint(function = "page_fault_user")]
pub fn page_fault_user(ctx: BtfTracePointContext) -> i32 {
    touched(ctx.arg(0), ctx.arg(2));
    0
}

/// hook: tp_btf/page_fault_kernel `void (unsigned long address, struct pt_regs *regs, unsigned long error_code)` — include/trace/events/exceptions.h
#[btf_tracepoint(function = "page_fault_kernel")]
pub fn page_fault_kernel(ctx: BtfTracePointContext) -> i32 {
    touched(ctx.arg(0), ctx.arg(2));
    0
}

/// hook: tracepoint/exceptions/page_fault_user
#[tracepoint]
pub fn page_fault_user_event(ctx: TracePointContext) -> u32 {
    touched(event::field!(&ctx, PageFaultUser, 0, u64), event::field!(&ctx, PageFaultUser, 1, u64));
    0
}

/// hook: tracepoint/exceptions/page_fault_kernel
#[tracepoint]
pub fn page_fault_kernel_event(ctx: TracePointContext) -> u32 {
    touched(event::field!(&ctx, PageFaultKernel, 0, u64), event::field!(&ctx, PageFaultKernel, 1, u64));
    0
}

/// Tells of a page of shared memory that is not, or not for writing, in the page tables of the current process.
#[inline(always)]
fn touched(address: u64, error: u64) {
    let Some(ranges) = SHARING.get_ptr_mut(tgid()) else {
        return;
    };
    if !overlaps(ranges, address, address.wrapping_add(1)) {
        return;
    }
    // SAFETY: a valid, aligned pointer into the map.
    if unsafe { add(&raw mut (*ranges).touches, 1) } >= TOUCHES {
        return;
    }
    let Some(mut entry) = ring::reserve::<wire::Touch>() else {
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: room for a record; every field is written.
    unsafe {
        ring::begin(&raw mut (*record).header, Kind::Touch, 0, 0, ring::now());
        task::describe_current(&raw mut (*record).task);
        (*record).address = address;
        (*record).write = u32::from(error & FAULT_WRITE != 0);
        (*record).reserved = 0;
    }
    ring::submit(entry);
}

/// For each mapping of each process, once: tells of those that are shared already when tracing begins.
///
/// `struct bpf_iter__task_vma`, kernel/bpf/task_iter.c.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_vma")]
pub extern "C" fn memory_seen(ctx: *mut c_void) -> i32 {
    // SAFETY: the context has a pointer to the task at 8 and one to the mapping at 16.
    let (task, vma) = unsafe { (*ctx.cast::<u64>().add(1), *ctx.cast::<u64>().add(2)) };
    if task == 0 || vma == 0 {
        return 0;
    }
    if let Err(cause) = try_seen(task, vma) {
        ring::count(cause);
    }
    0
}

#[inline(always)]
fn try_seen(task: u64, vma: u64) -> Result<()> {
    let mut found = Vma { start: 0, end: 0, flags: 0, offset: 0, file: 0 };
    read_vma(vma, &mut found)?;
    if found.flags & VM_MAYSHARE == 0 || found.file == 0 {
        return Ok(());
    }
    let tgid: u32 = read(task, offset!(task_tgid))?;
    let shared: u64 = read(task, offset!(task_signal))?;
    // One that is about to end has told so already.
    if tgid == config::own_tgid() || read::<u32>(shared, offset!(signal_live))? == 0 {
        return Ok(());
    }
    let record = &mut desk(ITERATOR, share_event::SEEN)?.fixed;
    record.start = found.start;
    record.len = found.end - found.start;
    record.offset = found.offset;
    record.writable = u32::from(found.flags & VM_WRITE != 0);
    // SAFETY: a valid record.
    unsafe { done_by(record, task) };
    if share_tell(ITERATOR, found.file) != 0 {
        share_claim(tgid, found.start, found.end);
    }
    Ok(())
}
