//! Futexes in shared memory: kernel/futex. Those that are private to a process never come here: [`is_private`].

use aya_ebpf::cty::c_void;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{LruHashMap, PerCpuArray};
use ipctrace_common::spread::SPREAD;
use ipctrace_common::syscall::Special;
use ipctrace_common::wire::{Key, channel_flag, wake_flag};
use ipctrace_common::{Cause, Mechanism};

use crate::config::{offset, page_shift};
use crate::kernel::{LOADS, Result, load, read, read_user};
use crate::memory::NOTHING;
use crate::object::is_at_object;
use crate::repeat::opaque;
use crate::repeat::{Repeat, repeat};
use crate::wake::{self, Ended, Place, role};
use crate::{channel, ring, special};

/// `FUTEX_PRIVATE_FLAG`, and with `FUTEX_CLOCK_REALTIME` all that is not the operation: include/uapi/linux/futex.h.
const PRIVATE: u32 = 128;
const FLAGS: u32 = 128 | 256;
/// `VM_MAYSHARE`, include/linux/mm.h: mapped with MAP_SHARED. `VM_SHARED` is not there if the file is open for reading alone.
const VM_MAYSHARE: u64 = 0x80;
/// Size of `struct futex_waitv` and where its address and flags are, include/uapi/linux/futex.h.
const WAITV: u64 = 24;
const WAITV_ADDRESS: usize = 8;
const WAITV_FLAGS: usize = 16;

/// What a futex operation does.
mod op {
    pub(super) const WAIT: u32 = 0;
    pub(super) const WAKE: u32 = 1;
    pub(super) const REQUEUE: u32 = 3;
    pub(super) const CMP_REQUEUE: u32 = 4;
    pub(super) const WAKE_OP: u32 = 5;
    pub(super) const LOCK_PI: u32 = 6;
    pub(super) const UNLOCK_PI: u32 = 7;
    pub(super) const WAIT_BITSET: u32 = 9;
    pub(super) const WAKE_BITSET: u32 = 10;
    pub(super) const WAIT_REQUEUE_PI: u32 = 11;
    pub(super) const CMP_REQUEUE_PI: u32 = 12;
    pub(super) const LOCK_PI2: u32 = 13;
}

/// Whether a call is one of futex(2) on a futex that no other process can have.
///
/// # Safety
/// `regs` must be the `struct pt_regs` of a tracepoint.
#[inline(always)]
pub(crate) unsafe fn is_private(regs: *const u8, special: u8) -> bool {
    // SAFETY: as the caller argues.
    special == Special::Futex as u8
        && is_private_operation(unsafe { crate::syscall::argument(regs, 1) } as u32)
}

/// Whether an operation is on a futex that no other process can have.
#[inline(always)]
pub(crate) fn is_private_operation(operation: u32) -> bool {
    operation & PRIVATE != 0
}

/// Where waiters were moved to by a call that requeues, by where they waited.
#[map]
static REQUEUED: LruHashMap<Place, Place> = LruHashMap::with_max_entries(1024, 0);

/// Where the waiters of a place were moved to, if they were.
#[inline(always)]
pub(crate) fn moved(place: &Place) -> Option<Place> {
    // SAFETY: the value is copied; one that is written at the same moment is compared and found to be another.
    REQUEUED.get_ptr(place).map(|to| unsafe { *to })
}

/// A futex in shared memory.
#[derive(Clone, Copy)]
#[repr(C)]
struct Found {
    /// Its address.
    address: u64,
    /// `struct file` that is mapped there; 0 if none is, or if it is not shared.
    file: u64,
    /// The file's inode.
    inode: u64,
    /// Offset in the file.
    offset: u64,
}

/// What bpf_find_vma calls, with the mapping's lock held.
extern "C" fn mapping(_task: *mut c_void, vma: *const u8, found: *mut Found) -> i64 {
    // SAFETY: the helper passes a mapping, whose type the verifier knows, and the caller's state; the offsets are those of
    // this kernel.
    unsafe {
        let flags: u64 = load(vma, offset!(vma_flags));
        // A number, where a load would give a pointer that may not go into a function that is verified by itself.
        let file: u64 = read(vma as u64, offset!(vma_file)).unwrap_or(0);
        if flags & VM_MAYSHARE != 0 && file != 0 {
            let start: u64 = load(vma, offset!(vma_start));
            let pages: u64 = load(vma, offset!(vma_pgoff));
            (*found).file = file;
            (*found).inode = read(file, offset!(file_inode)).unwrap_or(0);
            (*found).offset = (*found).address.wrapping_sub(start) + (pages << page_shift());
        }
    }
    0
}

/// The shared memory at an address of the current process; `file` is 0 if there is none.
///
/// # Errors
/// If another thread is changing the process's mappings at this moment.
#[inline(always)]
fn resolve(address: u64) -> Result<Found> {
    let mut found = Found { address, file: 0, inode: 0, offset: u64::MAX };
    if address == 0 {
        return Ok(found);
    }
    let space = Space::current();
    if let Some(known) = space.known(address) {
        return Ok(known);
    }
    #[cfg(feature = "plain")]
    let status = {
        let _: extern "C" fn(*mut c_void, *const u8, *mut Found) -> i64 = mapping;
        found.file = 0;
        NOTHING
    };
    #[cfg(not(feature = "plain"))]
    // SAFETY: `mapping` has the signature that the helper calls, and the state outlives the call.
    let status = unsafe {
        let visit: extern "C" fn(*mut c_void, *const u8, *mut Found) -> i64 = mapping;
        crate::memory::visit_mapping(address, visit as *mut c_void, (&raw mut found).cast())
    };
    // Where nothing is mapped the call will find that, too.
    if status != 0 && status != NOTHING {
        return Err(Cause::MappingsBusy);
    }
    if status == 0 {
        space.note(&found);
    }
    Ok(found)
}

/// The current process's address space, as it is now.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Space {
    /// `struct mm_struct`; 0 if it cannot be known again.
    mm: u64,
    /// The process, and how many programs it has run: addresses are used again.
    whose: u64,
    /// Grows with each change of a mapping: `mm_lock_seq`, include/linux/mmap_lock.h. A mapping is changed under that lock only.
    sequence: u64,
}

/// What was mapped at an address when it was last looked for.
#[derive(Clone, Copy)]
#[repr(C)]
struct Mapped {
    space: Space,
    found: Found,
}

/// How many addresses are remembered for each processor: a power of two.
const MAPPED: u32 = 16;

/// Looking for a mapping costs more than all else that is done for a futex.
#[map]
static MAPPINGS: PerCpuArray<Mapped> = PerCpuArray::with_max_entries(MAPPED, 0);

impl Space {
    /// Programs on functions may be interrupted by another task's, so that what they have to themselves on a processor is not theirs.
    #[inline(always)]
    fn current() -> Space {
        let mut space = Space { mm: 0, whose: 0, sequence: 0 };
        let task = special::task();
        if LOADS && offset!(mm_lock_seq) != 0 && task != 0 && !is_at_object(Mechanism::Futex as u8) {
            let word = |at, offset| read::<u32>(at, offset).unwrap_or(0);
            let mm = read(task, offset!(task_mm)).unwrap_or(0);
            let sequence = word(mm, offset!(mm_lock_seq));
            if sequence & 1 == 0 {
                space.mm = mm;
            }
            space.whose = u64::from(word(task, offset!(task_tgid))) << 32
                | u64::from(word(task, offset!(task_exec_id)));
            space.sequence = u64::from(sequence);
        }
        space
    }

    /// Where an address of it would be remembered: another place than the same address of a process that was forked from it.
    #[inline(always)]
    fn place(self, address: u64) -> Option<*mut Mapped> {
        let mixed = (address ^ self.mm.rotate_left(32)).wrapping_mul(SPREAD);
        MAPPINGS.get_ptr_mut((mixed >> (u64::BITS - MAPPED.ilog2())) as u32)
    }

    /// What is mapped there, if it has been looked for and nothing has changed since.
    #[inline(always)]
    fn known(self, address: u64) -> Option<Found> {
        if self.mm == 0 {
            return None;
        }
        // SAFETY: this CPU's valid, aligned place; programs on sys_enter and sys_exit, which alone come here, do not interrupt each other.
        let mapped = unsafe { &*self.place(address)? };
        (mapped.space == self && mapped.found.address == address).then_some(mapped.found)
    }

    /// Remembers what is mapped at an address.
    #[inline(always)]
    fn note(self, found: &Found) {
        if self.mm != 0
            && let Some(place) = self.place(found.address)
        {
            // SAFETY: as above.
            unsafe { *place = Mapped { space: self, found: *found } };
        }
    }
}

impl Found {
    #[inline(always)]
    fn place(&self) -> Place {
        if self.inode == 0 { Place::NONE } else { Place { object: self.inode, detail: self.offset } }
    }
}

/// What a call is about to do, and to which addresses.
pub(crate) struct Intent {
    roles: u8,
    addresses: [u64; 2],
    requeues: bool,
}

impl Intent {
    #[inline(always)]
    const fn waits(addresses: [u64; 2]) -> Intent {
        Intent { roles: role::WAITS, addresses, requeues: false }
    }

    #[inline(always)]
    const fn wakes(addresses: [u64; 2], requeues: bool) -> Intent {
        Intent { roles: role::WAKES, addresses, requeues }
    }

    /// That of futex(2) with these addresses.
    #[inline(always)]
    pub(crate) fn of_operation(operation: u32, first: u64, second: u64) -> Option<Intent> {
        Some(match operation & !FLAGS {
            op::WAIT | op::WAIT_BITSET | op::LOCK_PI | op::LOCK_PI2 => Intent::waits([first, 0]),
            op::WAIT_REQUEUE_PI => Intent::waits([first, second]),
            op::WAKE | op::WAKE_BITSET | op::UNLOCK_PI => Intent::wakes([first, 0], false),
            op::WAKE_OP => Intent::wakes([first, second], false),
            op::REQUEUE | op::CMP_REQUEUE | op::CMP_REQUEUE_PI => Intent::wakes([first, second], true),
            _ => return None,
        })
    }

    #[inline(always)]
    fn of(special: u32) -> Result<Option<Intent>> {
        let [first, second, _, fourth, fifth, _] = special::arguments()?;
        let intent = match Special::from_wire(special as u8) {
            Some(Special::Futex) => return Ok(Intent::of_operation(second as u32, first, fifth)),
            Some(Special::FutexWait) if fourth as u32 & PRIVATE == 0 => Intent::waits([first, 0]),
            Some(Special::FutexWake) if fourth as u32 & PRIVATE == 0 => Intent::wakes([first, 0], false),
            Some(Special::FutexRequeue) => Intent::wakes([waitv(first, 0)?, waitv(first, 1)?], true),
            // Which of many it waits at is known when it ends.
            Some(Special::FutexWaitv) => Intent { roles: role::WAITS | role::OPEN, ..Intent::waits([0, 0]) },
            _ => return Ok(None),
        };
        Ok(Some(intent))
    }
}

/// The address of a `struct futex_waitv`; 0 if it is private to the process.
#[inline(always)]
fn waitv(array: u64, index: u64) -> Result<u64> {
    let entry = array.wrapping_add(index.wrapping_mul(WAITV));
    let flags: u32 = read_user(entry, WAITV_FLAGS)?;
    if flags & PRIVATE != 0 { Ok(0) } else { read_user(entry, WAITV_ADDRESS) }
}

/// A call on futexes begins. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn futex_entered(tid: u32, special: u32) -> i32 {
    // That of futex(2) is seen by the program on the function that it calls.
    if special == Special::Futex as u32 && is_at_object(Mechanism::Futex as u8) {
        return 0;
    }
    let begun = Intent::of(special).and_then(|intent| match intent {
        Some(intent) => begin(tid, &intent),
        None => Ok(()),
    });
    if let Err(cause) = begun {
        ring::count(cause);
    }
    0
}

/// Remembers a call that has begun, if it is on shared memory.
///
/// # Errors
/// [`Cause::MapFull`] if there are too many.
#[inline(always)]
pub(crate) fn begin(tid: u32, intent: &Intent) -> Result<()> {
    // Whatever it is, the verifier goes through the rest once.
    let mut roles = opaque(u64::from(intent.roles)) as u8;
    let requeues = opaque(u64::from(intent.requeues)) != 0;
    let mut places = [Place::NONE; 2];
    for index in 0..2 {
        match resolve(opaque(intent.addresses[index])) {
            Ok(found) => {
                let Place { object, detail } = found.place();
                places[index] = Place { object: opaque(object), detail: opaque(detail) };
            }
            // Looked for again when the call ends.
            Err(_) => roles |= role::OPEN,
        }
    }
    if roles & role::OPEN == 0 && places[0].object | places[1].object == 0 {
        return Ok(());
    }
    if requeues && places[0].object != 0 && places[1].object != 0 {
        let _ = REQUEUED.insert(places[0], places[1], 0);
    }
    wake::begin(tid, Mechanism::Futex, roles, places)
}

/// It ends. The verifier looks at it by itself.
///
/// Where futex(2) is seen by the programs on the function that it calls, this ends what those have not: what began before
/// there were any, and what the kernel skipped one for.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn futex_exited(tid: u32, special: u32, returned: i64) -> i32 {
    end(tid, returned, || {
        let [first, second, ..] = special::arguments()?;
        Ok(match Special::from_wire(special as u8) {
            Some(Special::Futex) => Waited { address: first, locks: locks(second as u32) },
            Some(Special::FutexWaitv) => Waited { address: waitv(first, returned as u64)?, locks: false },
            _ => Waited { address: first, locks: false },
        })
    });
    0
}

/// What a wait was given.
pub(crate) struct Waited {
    /// The futex at which it was woken.
    pub(crate) address: u64,
    /// Whether success need not mean that it waited.
    pub(crate) locks: bool,
}

/// Whether an operation that waits takes a lock: success of a plain wait means that somebody woke, locks are also taken without a
/// wait.
#[inline(always)]
pub(crate) fn locks(operation: u32) -> bool {
    !matches!(operation & !FLAGS, op::WAIT | op::WAIT_BITSET)
}

/// Ends the call that the thread is in, and tells of it if it is a wait that ended well, on what `waited` gives.
#[inline(always)]
pub(crate) fn end(tid: u32, returned: i64, waited: impl FnOnce() -> Result<Waited>) {
    let Some(place) = wake::get(tid) else {
        return;
    };
    // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
    let call = unsafe { &*place };
    if call.roles & role::WAITS != 0
        && returned >= 0
        && let Err(cause) = waited().and_then(|waited| woken(call, &waited))
    {
        ring::count(cause);
    }
    // SAFETY: as above.
    unsafe { wake::end(place) };
}

/// Tells of a wait that ended well.
#[inline(always)]
fn woken(call: &wake::Call, waited: &Waited) -> Result<()> {
    // What woke those that waited when tracing began was perhaps before it.
    if !wake::has_waker(call) && (waited.locks || call.enter == 0) {
        return Ok(());
    }
    let address = waited.address;
    let found = match (resolve(address), wake::place(call)) {
        (Ok(found), _) => found,
        (Err(_), Some(place)) => Found { address, file: 0, inode: place.object, offset: place.detail },
        // A thread waits for the end of another: such futexes lie in memory that is not shared.
        (Err(_), None) if wake::is_within_process(call) => return Ok(()),
        (Err(cause), None) => return Err(cause),
    };
    if found.inode == 0 {
        return Ok(());
    }
    let known = wake::has_waker(call) && (call.roles & role::OPEN == 0 || wake::proven(call, &found.place()));
    let number: u64 = read(found.inode, offset!(inode_ino))?;
    let device: u32 = read(read(found.inode, offset!(inode_sb))?, offset!(sb_dev))?;
    let key = Key { id: found.inode, space: u64::from(device) };
    let flags = if found.file != 0 {
        futex_file(found.file, found.inode, key.space) as u16
    } else {
        called_before(found.inode, number)?
    };
    let ended = Ended { key, inode: number, detail: found.offset, flags };
    wake::tell(call, &ended, known);
    Ok(())
}

/// What a file was called when it was told of, by the address of its inode.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Called {
    dentry: u64,
    name: u64,
    generation: u32,
    flags: u16,
    wake_flags: u16,
    number: u64,
}

/// Files that user space knows the name of.
#[map]
static FUTEX_FILES: LruHashMap<u64, Called> = LruHashMap::with_max_entries(16_384, 0);

/// [`wake_flag`]s of a file that user space knows the name of.
///
/// # Errors
/// If it does not.
#[inline(always)]
fn called_before(inode: u64, number: u64) -> Result<u16> {
    match FUTEX_FILES.get_ptr(inode) {
        // SAFETY: the value is copied at once; one that is written at the same moment is of the same file.
        Some(known) if unsafe { (*known).number } == number => Ok(unsafe { (*known).wake_flags }),
        Some(_) | None => Err(Cause::ReadFailed),
    }
}

/// Tells user space what a file is called, unless it knows; gives [`wake_flag`]s. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn futex_file(file: u64, inode: u64, device: u64) -> i32 {
    match try_file(file, inode, device) {
        Ok(flags) => i32::from(flags),
        Err(cause) => {
            // It will have no name.
            ring::count(cause);
            0
        }
    }
}

#[inline(always)]
fn try_file(file: u64, inode: u64, device: u64) -> Result<u16> {
    let opened: u64 = read(file, offset!(file_dentry))?;
    let mut mount: u64 = read(file, offset!(file_mnt))?;
    let mut aliases = Aliases { next: 0, dentry: opened };
    let mut flags = 0;
    let mut shm = 0;
    if read::<u64>(opened, offset!(dentry_parent))? == opened {
        flags = channel_flag::PSEUDO;
        mount = 0;
        let name: u64 = read(opened, offset!(dentry_name))?;
        if &read::<[u8; 4]>(name, 0)? == b"SYSV" {
            shm = wake_flag::SYSV_SHM;
        }
    } else if read::<u64>(opened, offset!(dentry_hash))? == 0 {
        // It was opened by a name that is no more; it may have another.
        aliases.next = read(inode, offset!(inode_dentries))?;
        repeat(&mut aliases);
        if aliases.dentry == opened {
            flags = channel_flag::DELETED;
        }
    }
    let called = Called {
        dentry: aliases.dentry,
        name: read(aliases.dentry, offset!(dentry_hash_len))?,
        generation: read(inode, offset!(inode_generation))?,
        flags,
        wake_flags: shm,
        number: read(inode, offset!(inode_ino))?,
    };
    // SAFETY: the value is copied at once; one that is written at the same moment differs, and the name is told again.
    if FUTEX_FILES.get_ptr(inode).is_none_or(|known| unsafe { *known } != called) {
        let key = Key { id: inode, space: device };
        channel::tell_file(Mechanism::Futex, flags, key, aliases.dentry, mount)?;
        // It may be told twice, but not be used before it is told.
        let _ = FUTEX_FILES.insert(inode, called, 0);
    }
    Ok(shm)
}

/// Looks through the names of an inode for one that is not deleted.
struct Aliases {
    next: u64,
    dentry: u64,
}

impl Repeat for Aliases {
    const LIMIT: u32 = 64;
    const PLAIN_LIMIT: u32 = 8;

    #[inline(always)]
    fn turn(&mut self, _index: u32) -> bool {
        if self.next == 0 {
            return true;
        }
        let dentry = self.next - offset!(dentry_alias) as u64;
        match read::<u64>(dentry, offset!(dentry_hash)) {
            Ok(0) => {}
            Ok(_) => {
                self.dentry = dentry;
                return true;
            }
            Err(_) => return true,
        }
        self.next = read(self.next, 0).unwrap_or(0);
        false
    }
}
