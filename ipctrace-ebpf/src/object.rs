//! The object behind a descriptor, at the time of the call.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use ipctrace_common::syscall::Class;
use ipctrace_common::wire::op_flag;
use ipctrace_common::{Cause, Mechanism};

use crate::config::{mechanisms, objects, offset};
use crate::emit::has_messages;
use crate::inflight::{self, InFlight, Last, Side};
use crate::kernel::{LOADS, Result, copy, read};
use crate::repeat::opaque;
use crate::{eventfd, inet, pipe, pty, task, unix};

pub(crate) const S_IFMT: u16 = 0o170_000;
pub(crate) const S_IFIFO: u16 = 0o010_000;
pub(crate) const S_IFSOCK: u16 = 0o140_000;
const S_IFREG: u16 = 0o100_000;
const S_IFCHR: u16 = 0o020_000;
/// Of no type: anonymous inodes before Linux 6.16, since when they are regular files.
const S_IFNONE: u16 = 0;
/// Of a device number, as the kernel packs it: include/linux/kdev_t.h.
const MINOR_BITS: u32 = 20;
const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Which way a call moves data, seen from the descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Into the object.
    Send,
    /// Out of it.
    Receive,
}

impl Direction {
    /// Whichever.
    #[inline(always)]
    pub(crate) fn of(receives: bool) -> Direction {
        if receives { Direction::Receive } else { Direction::Send }
    }
}

impl Side {
    /// No channel.
    pub(crate) const NONE: Side = Side {
        mechanism: 0,
        receive: 0,
        flags: 0,
        fd: -1,
        key: ipctrace_common::wire::Key { id: 0, space: 0 },
        object: 0,
        own_inode: 0,
        peer: 0,
        peer_inode: 0,
        pos_enter: 0,
        pos_locked: 0,
        left: 0,
        present: 0,
        last: Last { file: 0, inode: 0, mechanism: 0, announced: 0, reserved: [0; 6] },
    };
}

/// The `struct file` behind a descriptor of the current task; 0 if it is not open.
///
/// `struct fdtable`, include/linux/fdtable.h.
#[inline(always)]
pub(crate) fn file(fd: u32) -> Result<u64> {
    let files: u64 = read(task::untyped(), offset!(task_files))?;
    let table: u64 = read(files, offset!(files_fdt))?;
    Slots { first: read(table, offset!(fdt_fd))?, limit: read(table, offset!(fdt_max_fds))? }.file(fd)
}

/// The descriptors of the current task.
#[derive(Clone, Copy)]
pub(crate) struct Slots {
    first: u64,
    limit: u32,
}

impl Slots {
    /// Finds those of the current task. To be called where the verifier comes by once: see `task::task_leader`.
    #[inline(always)]
    pub(crate) fn of(task: *const u8) -> Slots {
        // SAFETY: offsets of the running kernel. Typed pointers from the current task on, where it is one: task_struct.files is a pointer
        // to files_struct, its fdt one to fdtable. `fd` in it is a pointer to pointers, which the verifier takes for a number.
        unsafe {
            let files: *const u8 = task::member(task, offset!(task_files));
            let table: *const u8 = task::member(files, offset!(files_fdt));
            Slots {
                first: task::member(table, offset!(fdt_fd)),
                limit: task::member(table, offset!(fdt_max_fds)),
            }
        }
    }

    /// The `struct file` behind a descriptor; 0 if it is not open.
    #[inline(always)]
    fn file(self, fd: u32) -> Result<u64> {
        if fd >= self.limit { Ok(0) } else { read(self.first, fd as usize * 8) }
    }

    /// The open file behind `fd`; nothing if it is known to be no channel.
    ///
    /// # Errors
    /// If a structure of the kernel could not be read.
    #[inline(always)]
    pub(crate) fn find(self, fd: u32) -> Result<Found> {
        let file = self.file(fd)?;
        if file == 0 || (!LOADS && !Found::stand_together()) {
            return Found::new(fd, file);
        }
        let (operations, private, inode);
        if LOADS {
            operations = read(file, offset!(file_op))?;
            if is_strange(operations) {
                return Ok(Found::NOTHING);
            }
            private = read(file, offset!(file_private_data))?;
            inode = read(file, offset!(file_inode))?;
        } else {
            let desk = FILE_DESK.get_ptr_mut(0).ok_or(Cause::MapFull)?;
            // SAFETY: this CPU's valid, aligned place of that size; nothing interrupts the program on sys_enter that comes here
            // too.
            [operations, _, private, inode] = unsafe {
                copy(desk, file, offset!(file_op))?;
                *desk
            };
            if is_strange(operations) {
                return Ok(Found::NOTHING);
            }
        }
        Ok(Found { fd, file, inode, operations, private, mode: read(inode, offset!(inode_mode))? })
    }
}

/// Where a part of a `struct file` is read to: the stack is small.
#[map]
static FILE_DESK: PerCpuArray<[u64; 4]> = PerCpuArray::with_max_entries(1, 0);

/// File operations (`f_op`) of files that are no channels: what was found out once of a kind of file need not be found out of
/// the next. Operations are part of the kernel or of a module and are of no channel later on: those of channels are part of
/// the kernel proper.
#[map]
static STRANGE: Array<u64> = Array::with_max_entries(STRANGERS, 0);

/// How many kinds of file are remembered: a power of two.
const STRANGERS: u32 = 64;

/// Where operations would stand in [`STRANGE`].
#[inline(always)]
fn strange(operations: u64) -> Option<*mut u64> {
    STRANGE.get_ptr_mut(((operations >> 5) ^ (operations >> 11)) as u32 & (STRANGERS - 1))
}

/// Whether files with these operations are known to be no channels.
#[inline(always)]
fn is_strange(operations: u64) -> bool {
    // SAFETY: a valid, aligned pointer into the map, read in one load.
    strange(operations).is_some_and(|place| unsafe { core::ptr::read_volatile(place) } == operations)
}

/// Whether a mechanism is traced.
#[inline(always)]
pub(crate) fn is_on(mechanism: Mechanism) -> bool {
    mechanisms() & mechanism.bit() != 0
}

/// Whether a mechanism is told of at its objects, by number. Known to the verifier.
#[inline(always)]
pub(crate) fn is_at_object(mechanism: u8) -> bool {
    objects() >> (mechanism & 31) & 1 != 0
}

/// Whether a call in flight was put there by a program on a function, of whatever object: system calls on those are of other classes.
#[inline(always)]
pub(crate) fn is_of_object(call: &InFlight) -> bool {
    const CLASSES: u32 =
        1 << Class::Read as u8 | 1 << Class::Readv as u8 | 1 << Class::Write as u8 | 1 << Class::Writev as u8;
    is_at_object(call.sides[0].mechanism) && CLASSES >> (call.class & 31) & 1 != 0
}

/// The end of a system call on descriptor `fd` with a call in flight that a program on a function of files has put there: that at
/// the end of the function was skipped, for another task was in the middle of it on this CPU. Whether it was this system call: 1. The
/// verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn object_was_of(tid: u32, fd: u32) -> i32 {
    let Some(call) = inflight::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    let told = unsafe { (*call).sides[0].last.file };
    i32::from(told != 0 && file(fd) == Ok(told))
}

/// An open file, as far as it takes to see whether it can be a channel.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    fd: u32,
    file: u64,
    inode: u64,
    /// `f_op`, if it was read on the way; else 0.
    operations: u64,
    /// `private_data`, if it was read on the way.
    private: u64,
    mode: u16,
}

impl Found {
    /// No open file.
    pub(crate) const NOTHING: Found = Found { fd: 0, file: 0, inode: 0, operations: 0, private: 0, mode: 0 };

    /// The open file at that address; 0 is none.
    #[inline(always)]
    fn new(fd: u32, file: u64) -> Result<Found> {
        if file == 0 {
            return Ok(Found::NOTHING);
        }
        let inode: u64 = read(file, offset!(file_inode))?;
        Ok(Found { fd, file, inode, operations: 0, private: 0, mode: read(inode, offset!(inode_mode))? })
    }

    /// Whether `f_op`, `private_data` and `f_inode` can be read in one go, as they can since Linux 6.12. Known to the verifier.
    #[inline(always)]
    fn stand_together() -> bool {
        offset!(file_private_data) == offset!(file_op) + 16 && offset!(file_inode) == offset!(file_op) + 24
    }

    /// The same to go on with: what kind of file it was found to be the verifier forgets, and follows one way from here on.
    #[inline(always)]
    pub(crate) fn looked_at(self) -> Found {
        Found { mode: opaque(u64::from(self.mode)) as u16, ..self }
    }

    /// Its `private_data`.
    #[inline(always)]
    fn private(self) -> Result<u64> {
        if self.operations != 0 { Ok(self.private) } else { read(self.file, offset!(file_private_data)) }
    }

    /// Whether what may be a channel is a pipe, FIFO or terminal and plain calls on these are told of at their functions.
    #[inline(always)]
    pub(crate) fn is_told_of_at_object(self) -> bool {
        (objects() & Mechanism::PIPES != 0 && self.mode & S_IFMT == S_IFIFO)
            || (is_at_object(Mechanism::Pty as u8) && self.mode & S_IFMT == S_IFCHR)
    }

    /// Whether a call that moves data that way may be taken to have begun after its object was looked at, or, where its process is the
    /// only one, right after the thread's call before it. Not reads of counters, which take what was written before they began. Pipes are
    /// looked at again, for their positions are compared with times.
    #[inline(always)]
    pub(crate) fn may_begin_later(self, direction: Direction) -> bool {
        match self.mode & S_IFMT {
            S_IFSOCK | S_IFIFO => true,
            S_IFREG | S_IFNONE => direction == Direction::Send,
            _ => false,
        }
    }

    /// Whether it may be a channel. If not, the call is over for us.
    #[inline(always)]
    pub(crate) fn may_be_channel(self) -> bool {
        let (may, always) = match self.mode & S_IFMT {
            S_IFIFO | S_IFSOCK => return true,
            S_IFREG | S_IFNONE if self.file == 0 => return false,
            S_IFREG | S_IFNONE if is_at_object(Mechanism::Eventfd as u8) => (false, true),
            S_IFREG | S_IFNONE => (eventfd::is_one(self.file), eventfd::is_certain()),
            // All terminals have the same operations, whatever drives them.
            S_IFCHR => (pty::is_one(self.inode), is_memory(self.inode)),
            _ => (false, true),
        };
        if !may
            && always
            && self.operations != 0
            && let Some(place) = strange(self.operations)
        {
            // SAFETY: a valid, aligned pointer into the map, written in one store.
            unsafe { core::ptr::write_volatile(place, self.operations) };
        }
        may
    }
}

/// Whether a character device is one of those that are memory (`/dev/null`, `/dev/zero`): `MEM_MAJOR`,
/// include/uapi/linux/major.h.
#[inline(always)]
fn is_memory(inode: u64) -> bool {
    read::<u32>(inode, offset!(inode_rdev)).is_ok_and(|device| device >> MINOR_BITS == 1)
}

/// The open file behind `fd`.
///
/// # Errors
/// If a structure of the kernel could not be read.
#[inline(always)]
pub(crate) fn find(fd: u32) -> Result<Found> {
    Found::new(fd, file(fd)?)
}

/// Describes the channel behind `fd` in `side`; `mechanism` stays 0 if it is none that is traced.
///
/// # Errors
/// If a structure of the kernel could not be read.
#[inline(always)]
pub(crate) fn resolve(fd: u32, direction: Direction, side: &mut Side) -> Result<()> {
    describe_found(find(fd)?, direction, side)
}

/// What is told of at its object is none of a request or a system call; but for a pipe or a connection of one that `moves` from file
/// to file, which does not come to their functions.
#[inline(always)]
pub(crate) fn pass_over(side: &mut Side, moves: bool) {
    let connected = is_socket(side.mechanism) && !has_messages(side.mechanism);
    if is_at_object(side.mechanism) && !(moves && (connected || pipe::is_pipe(side.mechanism))) {
        side.mechanism = 0;
    }
}

/// Whether a mechanism, by number, is a kind of socket.
#[inline(always)]
pub(crate) fn is_socket(mechanism: u8) -> bool {
    Mechanism::SOCKETS >> (mechanism & 31) & 1 != 0
}

/// Describes the channel that an open file is.
///
/// # Errors
/// If a structure of the kernel could not be read.
#[inline(always)]
pub(crate) fn describe(file: u64, direction: Direction, side: &mut Side) -> Result<()> {
    describe_found(Found::new(side.fd as u32, file)?, direction, side)
}

/// As [`describe`].
///
/// # Errors
/// If a structure of the kernel could not be read.
#[inline(always)]
pub(crate) fn describe_found(found: Found, direction: Direction, side: &mut Side) -> Result<()> {
    let Found { fd, file, inode, mode, .. } = found;
    side.mechanism = 0;
    side.fd = fd as i32;
    side.receive = u8::from(direction == Direction::Receive);
    side.flags = if direction == Direction::Receive { op_flag::RECEIVE } else { 0 };
    match mode & S_IFMT {
        S_IFIFO => pipe::describe(file, inode, found.private()?, side),
        S_IFSOCK => socket(found.private()?, inode, side),
        S_IFREG | S_IFNONE => {
            side.last.file = 0;
            eventfd::describe(file, side)
        }
        S_IFCHR => {
            side.last.file = 0;
            pty::describe(file, inode, side)
        }
        _ => Ok(()),
    }
}

/// Describes the channel that a socket is.
#[inline(always)]
fn socket(socket: u64, inode: u64, side: &mut Side) -> Result<()> {
    side.last.file = 0;
    let sock: u64 = read(socket, offset!(socket_sk))?;
    if sock == 0 { Ok(()) } else { protocol(sock, inode, side) }
}

/// Describes the channel that a socket of that protocol state is.
///
/// # Errors
/// If a structure of the kernel could not be read.
#[inline(always)]
pub(crate) fn protocol(sock: u64, inode: u64, side: &mut Side) -> Result<()> {
    match read::<u16>(sock, offset!(sock_family))? {
        AF_UNIX => unix::describe(sock, inode, side),
        AF_INET | AF_INET6 => inet::describe(sock, inode, side),
        _ => Ok(()),
    }
}
