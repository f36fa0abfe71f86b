//! The records that the programs put on the ring.
//!
//! Every record begins with a [`Header`]; `kind` says which structure follows. Integers are in the byte order of the
//! machine, padding is explicit, and nothing here has a bit pattern that is not valid, so that decoding is a check of
//! the length and a copy.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $number:literal;)*) => {
        /// Which record it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $variant = $number,)* }
        impl Kind {
            /// The kind with that number on the wire.
            pub const fn from_wire(number: u8) -> Option<Kind> {
                match number { $($number => Some(Kind::$variant),)* _ => None }
            }
        }
    };
}

kinds! {
    /// [`Channel`]: a channel seen for the first time.
    Channel = 1;
    /// [`Op`]: bytes or a message sent or received.
    Op = 2;
    /// [`Signal`]: a signal generated, delivered or taken.
    Signal = 3;
    /// [`Process`]: fork, exec or exit.
    Process = 4;
    /// [`Handoff`]: a descriptor sent or received.
    Handoff = 5;
    /// [`Datagram`]: a datagram of an internet socket on its way.
    Datagram = 11;
    /// [`Share`]: a change in who shares memory.
    Share = 6;
    /// [`Touch`]: a page of shared memory touched for the first time.
    Touch = 10;
    /// [`Direct`]: bytes copied from one process to another in one call.
    Direct = 8;
    /// [`Wake`]: a wait that another process ended.
    Wake = 7;
}

/// Begins every record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`Kind`].
    pub kind: u8,
    /// [`crate::Mechanism`]; 0 where none applies.
    pub mechanism: u8,
    /// The record's own flags ([`op_flag`], [`signal_phase`], …).
    pub flags: u16,
    /// For the programs: not 0 if the record is to wake the collector.
    pub wakes: u32,
    /// When the record was made: `bpf_ktime_get_boot_ns`, ns since boot, suspend included.
    pub time: u64,
}

/// Who did it, as at that moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Task {
    /// Process: thread group id in the initial PID namespace.
    pub tgid: u32,
    /// Thread, likewise.
    pub tid: u32,
    /// Start of the process (its first thread), ns since boot. 0 if it could not be read.
    pub start: u64,
    /// Identity of its group in the unified control group hierarchy. 0 if it could not be read.
    pub cgroup: u64,
    /// Real user id in the initial user namespace; `u32::MAX` if it could not be read.
    pub uid: u32,
    /// Explicit padding.
    pub reserved: u32,
    /// Command name of the process (its first thread), NUL-padded.
    pub comm: [u8; 16],
}

impl Task {
    /// None, or none that is known.
    pub const NOBODY: Task =
        Task { tgid: 0, tid: 0, start: 0, cgroup: 0, uid: 0, reserved: 0, comm: [0; 16] };
}

/// Names one queue of bytes or messages, in one direction.
///
/// Pipes and FIFOs: `(device, inode)`. Sockets: `(address of the struct sock whose receive queue it is, 1 << 63)`: an
/// address is used again after the socket is gone, which [`Op::receiver_inode`] tells. Files with futexes in them:
/// `(address of the struct inode, device)`. System V semaphores: `(id, inode of the IPC namespace)`.
///
/// Internet sockets have no way from one end to the other, so that each direction has a key at each end: `(address of
/// the struct sock, Key::SOCKET | Key::RECEIVES or 0 | local port << 16 | remote port)`, the ports for TCP alone.
///
/// Event counters: `(address of the struct eventfd_ctx, 1 << 61)`. Terminals:
/// `(address of the slave's struct tty_struct, 1 << 60 | direction)`.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct Key {
    /// Inode number, or address.
    pub id: u64,
    /// Device or namespace, or [`Key::SOCKET`]. Of a FIFO, 28 bits of the inode's generation above the device.
    pub space: u64,
}

impl Key {
    /// `space` of a key whose `id` is the address of a socket.
    pub const SOCKET: u64 = 1 << 63;
    /// `space` of a key whose `id` is the address of an event counter (`struct eventfd_ctx`).
    pub const EVENTFD: u64 = 1 << 61;
    /// `space` of a key whose `id` is the address of the slave of a pseudoterminal; with the lowest bit what goes to the
    /// screen, without it what goes to the program.
    pub const TERMINAL: u64 = 1 << 60;
    /// `space` of a key whose `id` is the identifier of a System V message queue, but for the number of its IPC
    /// namespace.
    pub const SYSV_MSG: u64 = 1 << 61 | (crate::Mechanism::SysvMsg as u64) << 32;
    /// Added to it for what an internet socket receives; without it, it is what that socket sends.
    pub const RECEIVES: u64 = 1 << 62;
}

/// The ends of an internet socket: the `name` of its [`Channel`] records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ends {
    /// Its own address; an IPv4 address as IPv6 maps it (`::ffff:a.b.c.d`). The unspecified one if it is bound to none.
    pub local: [u8; 16],
    /// The address that it is connected to, likewise.
    pub remote: [u8; 16],
    /// Its own port.
    pub local_port: u16,
    /// The port that it is connected to; 0 if it is to none.
    pub remote_port: u16,
    /// Inode of its network namespace.
    pub netns: u32,
}

/// Added to [`Op::pos_exit`] of a writer of a pipe: it was not higher, but may have been lower by what a reader was just taking.
pub const ROUGH: u64 = 1 << 31;

/// Flags of an [`Op`].
pub mod op_flag {
    /// The receiving side; else the sending side.
    pub const RECEIVE: u16 = 1 << 0;
    /// The beginning of the call was not seen (it began before tracing did): `enter` is 0, and `bytes` counts what
    /// the kernel's books show to have been moved since the channel was first seen.
    pub const STRADDLES_START: u16 = 1 << 1;
    /// `pos_enter` and `pos_exit` are valid.
    pub const POSITIONS: u16 = 1 << 2;
    /// `pos_locked` is valid: the call waited for the object's lock, and this was the position once it held it.
    pub const LOCKED: u16 = 1 << 3;
    /// `before` is valid.
    pub const SEQUENCED: u16 = 1 << 4;
    /// `from` is valid: the very message taken was seen. Of UDP it is its buffer that was seen, and `sender_sock` is
    /// [`super::Datagram::data`]. Queues, sender and receiver: it is `sender_sock` that names the message, by a number that no other
    /// has or will have.
    pub const FROM: u16 = 1 << 5;
    /// The tail of the record begins with the destination's socket address ([`super::Op::address_len`] bytes).
    pub const ADDRESS: u16 = 1 << 6;
    /// The call moved data from one descriptor to another (splice, tee, sendfile): its payload is not captured.
    pub const SPLICED: u16 = 1 << 7;
    /// Another process was, or may have been, in a call on the same side of the channel at the same time.
    /// Of receives from sockets that keep messages apart: another thread was. Not told of pipes and FIFOs, whose
    /// positions tell more.
    pub const OVERLAPS: u16 = 1 << 10;
    /// `detail` is valid, for event counters, terminals and UDP: elsewhere the mechanism alone says whether there is one.
    pub const DETAIL: u16 = 1 << 8;
    /// A descriptor that its receiver took itself, from `owner`.
    pub const GETFD: u16 = 1 << 9;
    /// Queues and UDP: the message filled the receiver's buffer and may have been longer; what did not fit is gone.
    pub const CUT: u16 = 1 << 12;
    /// Queues: the content was not looked at, for one process sends, one receives, and all messages have this priority or type. The
    /// record may stand for several ([`super::Op::messages`]), each as long as `message_len` says.
    pub const ALIKE: u16 = 1 << 11;
    /// Event counters: nobody's call, but what the kernel added by itself.
    pub const BY_KERNEL: u16 = 1 << 14;
    /// Queues: nobody's call, but a message that was in the queue when it was first seen.
    pub const FOUND: u16 = 1 << 13;
}

/// Flags of a [`Channel`].
pub mod channel_flag {
    /// Not seen for the first time but removed, with what was in it.
    pub const REMOVED: u16 = 1 << 2;
    /// An event counter of which each read takes 1 (`EFD_SEMAPHORE`); else it takes all.
    pub const SEMAPHORE: u16 = 1 << 0;
    /// `task` has just made it, and put in what is in it.
    pub const MADE: u16 = 1 << 1;
    /// A file with futexes in it: the name is that of a file without a path (memfd, shared anonymous memory, System V
    /// shared memory).
    pub const PSEUDO: u16 = 1 << 3;
    /// A file with futexes in it that has no name any more: this was its last.
    pub const DELETED: u16 = 1 << 4;
    /// An event counter that is traced at its own functions: what the kernel adds to it is told of like what others add.
    pub const COMPLETE: u16 = 1 << 5;
}

/// One call's effect on one channel: what it put in or took out.
///
/// Followed by `address_len` bytes of `struct sockaddr`, then `payload_len` bytes of payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Op {
    /// `time` is the end of the call.
    pub header: Header,
    /// The caller.
    pub task: Task,
    /// The channel. `id` is 0 for a datagram sent by address: the receiver's record tells where it went.
    pub key: Key,
    /// Beginning of the call, same clock as `header.time`; or the end of the thread's call before it, where no other process has used
    /// that side of the channel, for then it is not looked up.
    pub enter: u64,
    /// Bytes moved: what the call returned; for messages of `recvmmsg` and `sendmmsg` what it wrote to `msg_len`.
    pub bytes: u64,
    /// Messages: whole length of the message as sent, of which `bytes` were received.
    pub message_len: u64,
    /// What had been moved through this end of the channel before, as the kernel's books have it: bytes for streams,
    /// messages for messages, calls for counters and terminals. A gap between records is a loss.
    pub before: u64,
    /// Position in the channel at enter. Writers of a pipe: `head << 32 | end of the last buffer`; readers:
    /// `tail << 32 | start of the first buffer`. Positions grow and never repeat (but for the wrap of `head`). TCP: sequence
    /// number. Receivers of UDP, without the flag: [`Datagram::data`] of what was next in the queue, 0 if it was empty,
    /// [`Op::UNKNOWN`] if another call was under way when this one began or ended. Receivers of queues: how many calls were sending, 0 if
    /// these have all been of one process.
    pub pos_enter: u64,
    /// The same once the lock was held. Receivers of UDP: how many datagrams had been received when the call began, which is
    /// `before` if no other was meanwhile. Receivers of queues: when `pos_enter` was looked at.
    pub pos_locked: u64,
    /// The same at exit. Writers of a pipe: with [`ROUGH`] an upper bound.
    pub pos_exit: u64,
    /// Sockets: address of the sending `struct sock`: the caller's own, or that of the message received. 0 if none.
    pub sender_sock: u64,
    /// Sockets: inode of the sending socket; 0 if it has none (closed) or unknown.
    pub sender_inode: u64,
    /// Sockets: inode of the receiving socket; 0 if it has none yet (not accepted) or unknown. Internet sockets: that of the
    /// caller's own, whichever end it is. Event counters and terminals: their number
    /// plus 1.
    pub receiver_inode: u64,
    /// What the mechanism says of the message besides: priority of a POSIX message (-1: not known), type of a System V message, value of
    /// an eventfd. Terminals: of a write how many bytes it is expected to be at the other end, of a read how many it left
    /// there. Receivers of UDP that asked: where it came from, port `<< 32 |` last four bytes of the address as a number. 0
    /// where there is none.
    pub detail: i64,
    /// Digest of the message's beginning ([`crate::digest`]), by which a receiver's record is joined to its sender's where
    /// the kernel shows nothing better; 0 if none was taken.
    /// Terminals: how many bytes are expected to be echoed.
    pub digest: u64,
    /// Calls that this record stands for (`sendmmsg` on a stream: its messages; [`op_flag::ALIKE`]: messages; queues with
    /// [`op_flag::FROM`]: messages whose numbers follow each other).
    pub messages: u32,
    /// Length of the socket address that follows.
    pub address_len: u32,
    /// Length of the payload that follows.
    pub payload_len: u32,
    /// Descriptor that the call named.
    pub fd: i32,
}

impl Op {
    /// Of `pos_enter` of a receiver of UDP: not known.
    pub const UNKNOWN: u64 = u64::MAX;
}

/// A channel that the programs see for the first time (or again, after user space made them forget it).
///
/// Followed by `name_len` bytes of name: the path of a FIFO or of a file with futexes in it (see [`channel_flag`]), the
/// `sockaddr_un` path bytes of a unix socket, the [`Ends`] of an internet socket, the number of the IPC namespace (4 bytes) and
/// the file name of a POSIX queue, the key of a System V one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Channel {
    /// `mechanism` says what it is; `time` when; `flags` as in [`channel_flag`].
    pub header: Header,
    /// The caller that touched it.
    pub task: Task,
    /// The channel.
    pub key: Key,
    /// What was in it at that moment: bytes for streams, messages for messages, the value of a counter. `u64::MAX`: could
    /// not be read.
    pub queued: u64,
    /// Position of the next byte to be written (see [`Op::pos_enter`]); 0 if it has none. TCP, of what is sent: its
    /// sequence number (32 bits), the same as at the other end.
    pub write_pos: u64,
    /// Position of the next byte to be read; 0 if it has none. TCP, of what is received: its sequence number.
    pub read_pos: u64,
    /// Inode of the sending socket, as in [`Op`], where there is one only; else 0.
    pub sender_inode: u64,
    /// Inode of the receiving socket, as in [`Op`].
    pub receiver_inode: u64,
    /// Length of the name that follows.
    pub name_len: u32,
    /// How long before `time` counting what was in it began, ns: what was put in since may not be in `queued`.
    pub counting: u32,
}

/// `flags` of a [`Signal`].
pub mod signal_phase {
    /// `task` sent it to `target`.
    pub const GENERATE: u16 = 1;
    /// `task` got it.
    pub const DELIVER: u16 = 2;
    /// `task` took it with `sigwait` and its like.
    pub const TAKE: u16 = 3;
}

/// Which form of signal information the kernel passed (`include/linux/sched/signal.h`).
pub mod signal_info {
    /// A `struct kernel_siginfo`.
    pub const FULL: u32 = 0;
    /// `SEND_SIG_NOINFO`: from the kernel, although the receiver sees `SI_USER`.
    pub const NO_INFO: u32 = 1;
    /// `SEND_SIG_PRIV`: from the kernel, seen as `SI_KERNEL`.
    pub const PRIVATE: u32 = 2;
    /// None: whoever took it did not ask.
    pub const UNASKED: u32 = 3;
}

/// `TRACE_SIGNAL_*` of `include/trace/events/signal.h`.
pub mod signal_result {
    /// Queued.
    pub const DELIVERED: u32 = 0;
    /// The receiver ignores it.
    pub const IGNORED: u32 = 1;
    /// One of its kind was pending already.
    pub const ALREADY_PENDING: u32 = 2;
    /// A real-time signal that did not fit the queue: the sender got EAGAIN.
    pub const OVERFLOW_FAIL: u32 = 3;
    /// Queued without its information, for lack of memory.
    pub const LOSE_INFO: u32 = 4;
}

/// A signal at one point of its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Signal {
    /// `flags` is a [`signal_phase`].
    pub header: Header,
    /// The current task: sender when generated (unless the kernel is), receiver when delivered or taken.
    pub task: Task,
    /// The task it is for, when generated; else the same as `task`.
    pub target: Task,
    /// Signal number.
    pub signal: u32,
    /// `si_code`.
    pub code: i32,
    /// `si_value` where the code carries one.
    pub value: u64,
    /// [`signal_info`].
    pub info: u32,
    /// [`signal_result`], when generated.
    pub result: u32,
    /// 1 if for the process, 0 if for one thread, when generated.
    pub group: u32,
    /// 1 if the target blocked it, when generated.
    pub blocked: u32,
    /// `signal_struct.group_exit_code`, when delivered: the signal that is ending the process, if any.
    pub exit_code: u32,
    /// 1 if nothing is done about it, when delivered: SIG_IGN, or a default action of that kind.
    pub ignored: u32,
    /// Name of the target's controlling terminal, NUL-padded; empty if none.
    pub tty: [u8; 16],
}

/// `flags` of a [`Process`].
pub mod process_event {
    /// A new process; `other` is its parent.
    pub const FORK: u16 = 1;
    /// A new program in the process.
    pub const EXEC: u16 = 2;
    /// The last thread of the process ended.
    pub const EXIT: u16 = 3;
}

/// A process begins, changes its program or ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Process {
    /// `flags` is a [`process_event`].
    pub header: Header,
    /// The process.
    pub task: Task,
    /// Its parent, at fork.
    pub parent: Task,
    /// wait(2) status, at exit.
    pub exit_code: u32,
    /// 1 if it has no memory of its own but that of its parent (`CLONE_VM`), at fork.
    pub same_memory: u32,
}

/// A descriptor passed over a unix socket, or taken with pidfd_getfd(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Handoff {
    /// `mechanism` is the channel's; `flags` as in [`op_flag`].
    pub header: Header,
    /// The caller.
    pub task: Task,
    /// Whose descriptor it was, if it was taken ([`op_flag::GETFD`]); else, or if that process is gone, zeros.
    pub owner: Task,
    /// The channel it went over.
    pub key: Key,
    /// As in [`Op`].
    pub sender_sock: u64,
    /// As in [`Op`].
    pub sender_inode: u64,
    /// As in [`Op`].
    pub receiver_inode: u64,
    /// Address of the `struct file` passed: the same in the sender's and the receiver's table.
    pub file: u64,
    /// The object behind it: inode, or number of an event counter or a terminal.
    pub object_inode: u64,
    /// The device of that object's file system.
    pub object_device: u64,
    /// Inode of the peer, if it is a connected socket.
    pub object_peer_inode: u64,
    /// Descriptor number in the caller's table.
    pub fd: i32,
    /// [`crate::Mechanism`] of that object; 0 if it is none. Of one that is not traced: one that is called alike.
    pub object_mechanism: u32,
}

/// `flags` of a [`Datagram`].
pub mod datagram {
    /// It left the socket that sent it.
    pub const SENT: u16 = 1;
    /// It was put into the queue of the socket that is to receive it.
    pub const ARRIVED: u16 = 2;
    /// It was in that queue when the socket was first seen.
    pub const QUEUED: u16 = 3;
    /// A receiver has taken it out of that queue: where the kernel does not tell of arrivals.
    pub const TAKEN: u16 = 4;
}

/// A datagram of an internet socket at one point of its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Datagram {
    /// `flags` is one of [`datagram`].
    pub header: Header,
    /// The current task; the sender if `enter` is not 0.
    pub task: Task,
    /// Address of the `struct sock`: the sender's if it was sent, else the receiver's.
    pub sock: u64,
    /// Inode of that socket; 0 if it has none.
    pub inode: u64,
    /// Beginning of the call in which it was sent, as in its [`Op`]; 0 if it left outside of the sender's call.
    pub enter: u64,
    /// Address of the data, which stays the same from socket to socket, and is used again later. 0 if the datagram was
    /// gone before it could be looked at, or could not be read: nothing below is known then.
    pub data: u64,
    /// Where it comes from, as in [`Ends`].
    pub from: [u8; 16],
    /// Where it goes.
    pub to: [u8; 16],
    /// Port that it comes from.
    pub from_port: u16,
    /// Port that it goes to.
    pub to_port: u16,
    /// Length of the message.
    pub len: u32,
    /// Inode of the socket's network namespace.
    pub netns: u32,
    /// The device that it leaves by: a number that tells those apart which there are at one time. 0 if it was not sent just now.
    pub device: u32,
    /// Digest of the message's beginning ([`crate::digest`]); 0 if it is not in the buffer itself but in pages.
    pub digest: u64,
}

/// `flags` of a [`Share`].
pub mod share_event {
    /// It was mapped when tracing began.
    pub const SEEN: u16 = 1;
    /// Shared memory was mapped: mmap, shmat.
    pub const MAP: u16 = 2;
    /// Addresses from `start` on are no longer what they were; `len` 0 stands for the whole segment attached there (shmdt).
    pub const UNMAP: u16 = 3;
    /// A mapping got another length, or went from `start` to `to`.
    pub const MOVE: u16 = 4;
    /// Access to a mapping changed to `writable`.
    pub const PROTECT: u16 = 5;
    /// The object was made.
    pub const CREATE: u16 = 6;
    /// The object, or its name (`key` is 0 then), was removed.
    pub const REMOVE: u16 = 7;
}

/// A change in who shares memory.
///
/// Followed by `name_len` bytes of name: the path of a file as in [`Channel`], the name in memory of what has no path
/// (`memfd:NAME`, `SYSV000004d2`), the path given to unlink(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Share {
    /// `mechanism`: files are all `SharedFile`, their path tells which of them are POSIX shared memory. `flags` is a
    /// [`share_event`]. `time`: of an UNMAP the begin of the call, else its end.
    pub header: Header,
    /// Who did it, or has it mapped.
    pub task: Task,
    /// The object: `(inode, device)`, or `(id, IPC namespace)` of a System V segment. 0 where only addresses are known.
    pub key: Key,
    /// Begin of the addresses.
    pub start: u64,
    /// How many.
    pub len: u64,
    /// Where in the object they begin, bytes.
    pub offset: u64,
    /// MOVE: where the mapping is now.
    pub to: u64,
    /// MOVE: how long.
    pub to_len: u64,
    /// Size of the object, bytes.
    pub size: u64,
    /// Mount namespace of the task.
    pub mounts: u64,
    /// Magic number of the object's file system.
    pub magic: u32,
    /// 1 if the addresses may be written to.
    pub writable: u32,
    /// MOVE: 1 if the old addresses stay mapped. CREATE: 1 if it is certain that the call made the object.
    pub flag: u32,
    /// Length of the name that follows.
    pub name_len: u32,
}

/// A page of shared memory that a process had not touched before, as far as the page tables know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Touch {
    /// Nothing special.
    pub header: Header,
    /// Who.
    pub task: Task,
    /// Which address.
    pub address: u64,
    /// 1 for writing, 0 for reading.
    pub write: u32,
    /// Explicit padding.
    pub reserved: u32,
}

/// Bytes that one process copied from or to another's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Direct {
    /// [`op_flag::RECEIVE`]: the caller read; else it wrote.
    pub header: Header,
    /// The caller.
    pub task: Task,
    /// The other process.
    pub target: Task,
    /// What the call returned.
    pub bytes: u64,
}

/// `flags` of a [`Wake`].
pub mod wake_flag {
    /// The waker was seen: `waker` and `woken` are valid.
    pub const WAKER: u16 = 1 << 0;
    /// `detail` of a semaphore is valid: the key of its set.
    pub const KEY: u16 = 1 << 1;
    /// The key is one of System V shared memory, whose inode number is its id.
    pub const SYSV_SHM: u16 = 1 << 2;
}

/// A wait on a futex or a semaphore that another task ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Wake {
    /// `mechanism` is futex or sysv_sem; `time` is the end of the wait; `flags` are [`wake_flag`]s.
    pub header: Header,
    /// Who was woken.
    pub task: Task,
    /// Who did it, as it was then.
    pub waker: Task,
    /// Where: see [`Key`].
    pub key: Key,
    /// Futexes: inode number of the file.
    pub inode: u64,
    /// Futexes: offset in the file. Semaphores: the key of the set.
    pub detail: u64,
    /// Begin of the wait; 0 if it began before tracing did.
    pub enter: u64,
    /// When the waker woke the task.
    pub woken: u64,
}

const _: () = {
    assert!(size_of::<Datagram>() == 152);
    assert!(size_of::<Share>() == 152);
    assert!(size_of::<Touch>() == 80);
    assert!(size_of::<Header>() == 16);
    assert!(size_of::<Task>() == 48);
    assert!(size_of::<Op>() == 192);
    assert!(size_of::<Ends>() == 40);
    assert!(size_of::<Channel>() == 128);
    assert!(size_of::<Signal>() == 168);
    assert!(size_of::<Process>() == 120);
    assert!(size_of::<Handoff>() == 192);
    assert!(size_of::<Direct>() == 120);
    assert!(size_of::<Wake>() == 160);
};

/// Longest name in a [`Channel`]: a path.
pub const NAME_MAX: usize = 4096;
/// Longest socket address in an [`Op`]: `struct sockaddr_storage`.
pub const ADDRESS_MAX: usize = 128;
