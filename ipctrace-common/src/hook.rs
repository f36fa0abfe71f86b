//! Where programs are attached. One table: the loader, `doctor` and the test against the kernel's BTF read it.

use crate::mechanism::{Mechanism, Shape};

/// What a program is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A BTF tracepoint.
    Tracepoint,
    /// The begin of a function (fentry) of which the kernel's types say one of these: result and arguments, without their names.
    Entry(&'static [&'static str]),
    /// The end of such a function (fexit).
    Exit(&'static [&'static str]),
}

/// A field of the record that a tracepoint makes for perf events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// As `format` in tracefs calls it.
    pub name: &'static str,
    /// Where it begins.
    pub offset: usize,
    /// Its size.
    pub size: usize,
}

/// A tracepoint as a perf event: the program there is not preempted, and is handed a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The name of the program in the eBPF object.
    pub program: &'static str,
    /// The folder of the tracepoint in tracefs.
    pub category: &'static str,
    /// What the program reads of the record.
    pub fields: &'static [Field],
}

/// `name @ offset: size`.
macro_rules! fields {
    ($($name:ident @ $offset:literal : $size:literal),*) => {
        &[$(Field { name: stringify!($name), offset: $offset, size: $size }),*]
    };
}

macro_rules! hooks {
    ($($(#[$doc:meta])* $variant:ident, $program:literal, $point:expr, $target:literal, $needs:expr, $purpose:literal;)*) => {
        /// A place in the kernel that a program of ours is attached to: a tracepoint, or one of the functions by which objects are
        /// used.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Hook { $($(#[$doc])* $variant,)* }

        impl Hook {
            /// All hooks, in the order in which they are attached: those that end a call come before those that
            /// begin one, so that no call is seen to begin whose end would be missed.
            pub const ALL: &'static [Hook] = &[$(Hook::$variant,)*];
            /// The name of the program in the eBPF object.
            pub const fn program(self) -> &'static str {
                match self { $(Hook::$variant => $program,)* }
            }
            /// What it is attached to.
            pub const fn point(self) -> Point {
                match self { $(Hook::$variant => $point,)* }
            }
            /// The kernel's name of the tracepoint or the function.
            pub const fn target(self) -> &'static str {
                match self { $(Hook::$variant => $target,)* }
            }
            /// The set of mechanisms ([`Mechanism::bit`]) that cannot be traced without this hook: those that are traced
            /// at the objects if it is on a function, else those that are traced otherwise.
            pub const fn needed_by(self) -> u32 {
                match self { $(Hook::$variant => $needs,)* }
            }
            /// What it is for, in words for `doctor`.
            pub const fn purpose(self) -> &'static str {
                match self { $(Hook::$variant => $purpose,)* }
            }
        }
    };
}

/// Mechanisms that are traced at system calls. Signals are too where a thread waits for one (`sigwait`).
const BY_SYSCALL: u32 = PIPES
    | UNIX_STREAM
    | DATAGRAM
    | Mechanism::Eventfd.bit()
    | Mechanism::Pty.bit()
    | Mechanism::ProcessVm.bit()
    | TCP
    | UDP
    | Mechanism::PosixMq.bit()
    | Mechanism::SysvMsg.bit()
    | SHARED;
const SHARED: u32 = Mechanism::of_shape(Shape::Shared);
const SIGNAL: u32 = Mechanism::Signal.bit();
const UDP: u32 = Mechanism::Udp.bit();
/// Mechanisms by which one task wakes another.
const WAKE: u32 = Mechanism::of_shape(Shape::Wake);
/// Message queues, traced at the functions that they are used by.
const QUEUES: u32 = Mechanism::of_shape(Shape::Queue);
const POSIX_MQ: u32 = Mechanism::PosixMq.bit();
const EVENTFD: u32 = Mechanism::Eventfd.bit();
const SYSV_MSG: u32 = Mechanism::SysvMsg.bit();
const PIPES: u32 = Mechanism::PIPES;
const FUTEX: u32 = Mechanism::Futex.bit();
const PTY: u32 = Mechanism::Pty.bit();
const SYSV_SHM: u32 = Mechanism::SysvShm.bit();

/// What futex(2) calls: more than fit into the registers for arguments, and programs before Linux 6.6 are given no others.
const FUTEX_CALLS: &[&str] = &["long (u32 *, int, u32, ktime_t *, u32 *, u32, u32)"];
/// By what System V segments are changed or removed.
const SEGMENT_CONTROLS: &[&str] = &["int (struct ipc_namespace *, int, int, struct shmid64_ds *)"];
/// A function by which files are read or written.
const READS_OR_WRITES: &[&str] = &["ssize_t (struct kiocb *, struct iov_iter *)"];
/// A function by which sockets of the unix family are sent through.
const UNIX_SENDS: &[&str] = &["int (struct socket *, struct msghdr *, size_t)"];
/// A function by which they are received from.
const UNIX_RECEIVES: &[&str] = &["int (struct socket *, struct msghdr *, size_t, int)"];
const UNIX_STREAM: u32 = Mechanism::UnixStream.bit();
const UNIX_DGRAM: u32 = Mechanism::UnixDgram.bit();
const UNIX_SEQPACKET: u32 = Mechanism::UnixSeqpacket.bit();
/// A function by which sockets of the internet families are sent through.
const INET_SENDS: &[&str] = &["int (struct sock *, struct msghdr *, size_t)"];
/// A function by which they are received from, which lost arguments in the course of time: [`crate::Config::inet_receive`].
const INET_RECEIVES: &[&str] = &[
    "int (struct sock *, struct msghdr *, size_t, int)",
    "int (struct sock *, struct msghdr *, size_t, int, int *)",
    "int (struct sock *, struct msghdr *, size_t, int, int, int *)",
];
const TCP: u32 = Mechanism::Tcp.bit();
const DATAGRAM: u32 = UNIX_DGRAM | UNIX_SEQPACKET;

hooks! {
    /// The end of processes.
    ProcessExit, "process_exit", Point::Tracepoint, "sched_process_exit", 0, "the end of processes";
    /// Programs that processes change to.
    ProcessExec, "process_exec", Point::Tracepoint, "sched_process_exec", 0, "changes of a process's program and name";
    /// New processes.
    ProcessFork, "process_fork", Point::Tracepoint, "sched_wakeup_new", 0, "new processes and their parents";
    /// What system calls returned. Before those on functions, of whose calls it sees whether they have been told of.
    SysExit, "sys_exit", Point::Tracepoint, "sys_exit", BY_SYSCALL | SIGNAL | WAKE, "what system calls returned";
    /// New event counters.
    EventfdMade, "eventfd_made_exit", Point::Exit(&["int (unsigned int, int)"]), "do_eventfd", EVENTFD, "new event counters";
    /// The end of a read of an event counter.
    EventfdReadExit, "eventfd_read_exit", Point::Exit(&["ssize_t (struct kiocb *, struct iov_iter *)"]), "eventfd_read", EVENTFD,
        "what reads of event counters returned";
    /// The end of a write to an event counter.
    EventfdWriteExit, "eventfd_write_exit", Point::Exit(&["ssize_t (struct file *, char *, size_t, loff_t *)"]), "eventfd_write",
        EVENTFD, "what writes to event counters returned";
    /// What the kernel adds to an event counter.
    EventfdSignal, "eventfd_signal_entry",
        Point::Entry(&["void (struct eventfd_ctx *, __poll_t)", "__u64 (struct eventfd_ctx *, __u64, unsigned int)"]),
        "eventfd_signal_mask", EVENTFD, "what the kernel adds to event counters";
    /// Messages that are freed, received or not.
    FreeMsg, "free_msg_entry", Point::Entry(&["void (struct msg_msg *)"]), "free_msg", QUEUES, "messages that are gone";
    /// System V queues that are removed.
    Freeque, "freeque_entry", Point::Entry(&["void (struct ipc_namespace *, struct kern_ipc_perm *)"]), "freeque", SYSV_MSG,
        "message queues that are removed";
    /// The end of msgrcv.
    MsgrcvExit, "msgrcv_exit", Point::Exit(&["long (int, void *, size_t, long, int, function *)"]), "do_msgrcv", SYSV_MSG,
        "what receives from System V message queues returned";
    /// The end of msgsnd.
    MsgsndExit, "msgsnd_exit", Point::Exit(&["long (int, long, void *, size_t, int)"]), "do_msgsnd", SYSV_MSG,
        "what sends to System V message queues returned";
    /// The end of mq_timedreceive.
    MqReceiveExit, "mq_receive_exit", Point::Exit(&["int (mqd_t, char *, size_t, unsigned int *, struct timespec64 *)"]),
        "do_mq_timedreceive", POSIX_MQ, "what receives from POSIX message queues returned";
    /// The end of mq_timedsend.
    MqSendExit, "mq_send_exit", Point::Exit(&["int (mqd_t, char *, size_t, unsigned int, struct timespec64 *)"]),
        "do_mq_timedsend", POSIX_MQ, "what sends to POSIX message queues returned";
    /// Messages that are given to their receiver.
    StoreMsg, "store_msg_entry", Point::Entry(&["int (void *, struct msg_msg *, size_t)"]), "store_msg", QUEUES,
        "the very message that a receiver takes";
    /// Messages that are made of what their sender wrote.
    LoadMsg, "load_msg_exit", Point::Exit(&["struct msg_msg *(void *, size_t)"]), "load_msg", QUEUES,
        "the very message that a sender sends";
    /// The end of a read of a pipe.
    PipeReadExit, "pipe_read_exit", Point::Exit(READS_OR_WRITES), "pipe_read", PIPES,
        "what reads of pipes and FIFOs returned";
    /// The end of a write to a pipe.
    PipeWriteExit, "pipe_write_exit", Point::Exit(READS_OR_WRITES), "pipe_write", PIPES,
        "what writes to pipes and FIFOs returned";
    /// The end of a read of a pipe, on newer kernels.
    AnonPipeReadExit, "anon_pipe_read_exit", Point::Exit(READS_OR_WRITES), "anon_pipe_read", PIPES,
        "what reads of pipes and FIFOs returned, on newer kernels";
    /// The end of a write to a pipe, on newer kernels.
    AnonPipeWriteExit, "anon_pipe_write_exit", Point::Exit(READS_OR_WRITES), "anon_pipe_write", PIPES,
        "what writes to pipes and FIFOs returned, on newer kernels";
    /// The end of a send through a unix stream socket.
    UnixStreamSendExit, "unix_stream_send_exit", Point::Exit(UNIX_SENDS), "unix_stream_sendmsg", UNIX_STREAM,
        "what sends through unix stream sockets returned";
    /// The end of a receive from one.
    UnixStreamReceiveExit, "unix_stream_receive_exit", Point::Exit(UNIX_RECEIVES), "unix_stream_recvmsg", UNIX_STREAM,
        "what receives from unix stream sockets returned";
    /// The end of a send through a unix datagram socket.
    UnixDgramSendExit, "unix_dgram_send_exit", Point::Exit(UNIX_SENDS), "unix_dgram_sendmsg", UNIX_DGRAM,
        "what sends through unix datagram sockets returned";
    /// The end of a receive from one.
    UnixDgramReceiveExit, "unix_dgram_receive_exit", Point::Exit(UNIX_RECEIVES), "unix_dgram_recvmsg", UNIX_DGRAM,
        "what receives from unix datagram sockets returned";
    /// The end of a send through a unix socket of sequenced packets.
    UnixSeqpacketSendExit, "unix_seqpacket_send_exit", Point::Exit(UNIX_SENDS), "unix_seqpacket_sendmsg", UNIX_SEQPACKET,
        "what sends through unix sockets of sequenced packets returned";
    /// The end of a receive from one.
    UnixSeqpacketReceiveExit, "unix_seqpacket_receive_exit", Point::Exit(UNIX_RECEIVES), "unix_seqpacket_recvmsg",
        UNIX_SEQPACKET, "what receives from unix sockets of sequenced packets returned";
    /// The end of a send through a TCP connection.
    TcpSendExit, "tcp_send_exit", Point::Exit(INET_SENDS), "tcp_sendmsg", TCP, "what sends through TCP connections returned";
    /// The end of a receive from one.
    TcpReceiveExit, "tcp_receive_exit", Point::Exit(INET_RECEIVES), "tcp_recvmsg", TCP,
        "what receives from TCP connections returned";
    /// The end of a send through a UDP socket.
    UdpSendExit, "udp_send_exit", Point::Exit(INET_SENDS), "udp_sendmsg", UDP, "what sends through UDP sockets returned";
    /// The end of a send through a UDP socket of IPv6.
    Udp6SendExit, "udp6_send_exit", Point::Exit(INET_SENDS), "udpv6_sendmsg", UDP, "what sends through UDP sockets of IPv6 returned";
    /// The end of a receive from a UDP socket.
    UdpReceiveExit, "udp_receive_exit", Point::Exit(INET_RECEIVES), "udp_recvmsg", UDP, "what receives from UDP sockets returned";
    /// The end of a receive from a UDP socket of IPv6.
    Udp6ReceiveExit, "udp6_receive_exit", Point::Exit(INET_RECEIVES), "udpv6_recvmsg", UDP, "what receives from UDP sockets of IPv6 returned";
    /// New pairs of terminals.
    PtyMade, "pty_made_exit", Point::Exit(&["int (struct inode *, struct file *)"]), "ptmx_open", PTY, "new pseudoterminals";
    /// The end of a read of a terminal.
    PtyReadExit, "pty_read_exit", Point::Exit(READS_OR_WRITES), "tty_read", PTY, "what reads of terminals returned";
    /// The end of a write to a terminal.
    PtyWriteExit, "pty_write_exit", Point::Exit(READS_OR_WRITES), "tty_write", PTY, "what writes to terminals returned";
    /// New System V segments.
    ShmMade, "shm_made_exit", Point::Exit(&["int (struct ipc_namespace *, struct ipc_params *)"]), "newseg", SYSV_SHM,
        "new System V segments";
    /// System V segments that a process has attached.
    ShmatExit, "shmat_exit", Point::Exit(&["long (int, char *, int, ulong *, unsigned long)"]), "do_shmat", SYSV_SHM,
        "who attaches System V segments";
    /// The end of a removal of a System V segment.
    ShmctlExit, "shmctl_exit", Point::Exit(SEGMENT_CONTROLS), "shmctl_down", SYSV_SHM, "System V segments that were removed";
    /// The end of a call on a futex.
    FutexExit, "futex_exit", Point::Exit(FUTEX_CALLS), "do_futex", FUTEX, "waits at futexes that are over";
    /// Which message a receiver really took.
    ConsumeSkb, "consume_skb", Point::Tracepoint, "consume_skb", DATAGRAM, "which datagram a receiver took";
    /// Which datagram of an internet socket a receiver copies.
    SkbCopied, "skb_copied", Point::Tracepoint, "skb_copy_datagram_iovec", 0, "which large UDP datagram a receiver took";
    /// Datagrams of internet sockets that reach the queue of their receiver.
    SkDataReady, "sk_data_ready", Point::Tracepoint, "sk_data_ready", UDP, "UDP datagrams that reach their receiver's socket";
    /// Datagrams of internet sockets that leave their sender.
    NetDevQueue, "net_dev_queue", Point::Tracepoint, "net_dev_queue", UDP, "UDP datagrams that leave their sender's socket";
    /// What went out through sockets.
    SockSend, "sock_send", Point::Tracepoint, "sock_send_length", 0, "sends through io_uring, at the socket";
    /// What came in through sockets.
    SockReceive, "sock_receive", Point::Tracepoint, "sock_recv_length", 0, "receives through io_uring, at the socket";
    /// Ends of requests through rings.
    UringComplete, "uring_complete", Point::Tracepoint, "io_uring_complete", 0, "what requests through io_uring returned";
    /// Ends of requests for which the ring has no room.
    UringOverflow, "uring_overflow", Point::Tracepoint, "io_uring_cqe_overflow", 0, "the same where the ring has no room for it";
    /// The order of calls that waited for one pipe's lock.
    ContentionEnd, "contention_end", Point::Tracepoint, "contention_end", 0, "the order of writers that contend for one pipe";
    /// Who wakes whom.
    SchedWaking, "sched_waking", Point::Tracepoint, "sched_waking", WAKE, "who wakes whom";
    /// The begin of a write to an event counter.
    EventfdWriteEntry, "eventfd_write_entry", Point::Entry(&["ssize_t (struct file *, char *, size_t, loff_t *)"]),
        "eventfd_write", EVENTFD, "writes to event counters";
    /// The begin of a read of an event counter.
    EventfdReadEntry, "eventfd_read_entry", Point::Entry(&["ssize_t (struct kiocb *, struct iov_iter *)"]), "eventfd_read",
        EVENTFD, "reads of event counters";
    /// The begin of mq_timedsend.
    MqSendEntry, "mq_send_entry", Point::Entry(&["int (mqd_t, char *, size_t, unsigned int, struct timespec64 *)"]),
        "do_mq_timedsend", POSIX_MQ, "sends to POSIX message queues";
    /// The begin of mq_timedreceive.
    MqReceiveEntry, "mq_receive_entry", Point::Entry(&["int (mqd_t, char *, size_t, unsigned int *, struct timespec64 *)"]),
        "do_mq_timedreceive", POSIX_MQ, "receives from POSIX message queues";
    /// The begin of msgsnd.
    MsgsndEntry, "msgsnd_entry", Point::Entry(&["long (int, long, void *, size_t, int)"]), "do_msgsnd", SYSV_MSG,
        "sends to System V message queues";
    /// The begin of msgrcv.
    MsgrcvEntry, "msgrcv_entry", Point::Entry(&["long (int, void *, size_t, long, int, function *)"]), "do_msgrcv", SYSV_MSG,
        "receives from System V message queues";
    /// The begin of a read of a pipe.
    PipeReadEntry, "pipe_read_entry", Point::Entry(READS_OR_WRITES), "pipe_read", PIPES,
        "reads of pipes and FIFOs";
    /// The begin of a write to a pipe.
    PipeWriteEntry, "pipe_write_entry", Point::Entry(READS_OR_WRITES), "pipe_write", PIPES,
        "writes to pipes and FIFOs";
    /// The begin of a read of a pipe, on newer kernels.
    AnonPipeReadEntry, "anon_pipe_read_entry", Point::Entry(READS_OR_WRITES), "anon_pipe_read", PIPES,
        "reads of pipes and FIFOs, on newer kernels";
    /// The begin of a write to a pipe, on newer kernels.
    AnonPipeWriteEntry, "anon_pipe_write_entry", Point::Entry(READS_OR_WRITES), "anon_pipe_write", PIPES,
        "writes to pipes and FIFOs, on newer kernels";
    /// The begin of a send through a unix stream socket.
    UnixStreamSendEntry, "unix_stream_send_entry", Point::Entry(UNIX_SENDS), "unix_stream_sendmsg", UNIX_STREAM,
        "sends through unix stream sockets";
    /// The begin of a receive from one.
    UnixStreamReceiveEntry, "unix_stream_receive_entry", Point::Entry(UNIX_RECEIVES), "unix_stream_recvmsg", UNIX_STREAM,
        "receives from unix stream sockets";
    /// The begin of a send through a unix datagram socket.
    UnixDgramSendEntry, "unix_dgram_send_entry", Point::Entry(UNIX_SENDS), "unix_dgram_sendmsg", UNIX_DGRAM,
        "sends through unix datagram sockets";
    /// The begin of a receive from one.
    UnixDgramReceiveEntry, "unix_dgram_receive_entry", Point::Entry(UNIX_RECEIVES), "unix_dgram_recvmsg", UNIX_DGRAM,
        "receives from unix datagram sockets";
    /// The begin of a send through a unix socket of sequenced packets.
    UnixSeqpacketSendEntry, "unix_seqpacket_send_entry", Point::Entry(UNIX_SENDS), "unix_seqpacket_sendmsg", UNIX_SEQPACKET,
        "sends through unix sockets of sequenced packets";
    /// The begin of a receive from one.
    UnixSeqpacketReceiveEntry, "unix_seqpacket_receive_entry", Point::Entry(UNIX_RECEIVES), "unix_seqpacket_recvmsg",
        UNIX_SEQPACKET, "receives from unix sockets of sequenced packets";
    /// The begin of a send through a TCP connection.
    TcpSendEntry, "tcp_send_entry", Point::Entry(INET_SENDS), "tcp_sendmsg", TCP, "sends through TCP connections";
    /// The begin of a receive from one.
    TcpReceiveEntry, "tcp_receive_entry", Point::Entry(INET_RECEIVES), "tcp_recvmsg", TCP,
        "receives from TCP connections";
    /// The begin of a send through a UDP socket.
    UdpSendEntry, "udp_send_entry", Point::Entry(INET_SENDS), "udp_sendmsg", UDP, "sends through UDP sockets";
    /// The begin of a send through a UDP socket of IPv6.
    Udp6SendEntry, "udp6_send_entry", Point::Entry(INET_SENDS), "udpv6_sendmsg", UDP, "sends through UDP sockets of IPv6";
    /// The begin of a receive from a UDP socket.
    UdpReceiveEntry, "udp_receive_entry", Point::Entry(INET_RECEIVES), "udp_recvmsg", UDP, "receives from UDP sockets";
    /// The begin of a receive from a UDP socket of IPv6.
    Udp6ReceiveEntry, "udp6_receive_entry", Point::Entry(INET_RECEIVES), "udpv6_recvmsg", UDP, "receives from UDP sockets of IPv6";
    /// The begin of a read of a terminal.
    PtyReadEntry, "pty_read_entry", Point::Entry(READS_OR_WRITES), "tty_read", PTY, "reads of terminals";
    /// The begin of a write to a terminal.
    PtyWriteEntry, "pty_write_entry", Point::Entry(READS_OR_WRITES), "tty_write", PTY, "writes to terminals";
    /// System V segments that a process detaches.
    ShmdtEntry, "shmdt_entry", Point::Entry(&["long (char *)"]), "ksys_shmdt", SYSV_SHM, "who detaches System V segments";
    /// The begin of a removal of a System V segment.
    ShmctlEntry, "shmctl_entry", Point::Entry(SEGMENT_CONTROLS), "shmctl_down", SYSV_SHM,
        "System V segments that are to be removed";
    /// The begin of a call on a futex.
    FutexEntry, "futex_entry", Point::Entry(FUTEX_CALLS), "do_futex", FUTEX, "waits at futexes, and calls that wake";
    /// What system calls are about to work on.
    SysEnter, "sys_enter", Point::Tracepoint, "sys_enter", BY_SYSCALL | SIGNAL | WAKE, "the object behind a descriptor at the time of the call";
    /// First touches of pages.
    PageFaultUser, "page_fault_user", Point::Tracepoint, "page_fault_user", 0, "who first writes and who first reads a page of shared memory";
    /// The same by the kernel on behalf of a process.
    PageFaultKernel, "page_fault_kernel", Point::Tracepoint, "page_fault_kernel", 0, "the same where the kernel does it in a system call";
    /// Begins of requests through rings.
    UringSubmit, "uring_submit", Point::Tracepoint, "io_uring_submit_req", 0, "requests through io_uring";
    /// The same, by the name that it has on older kernels.
    UringSubmitSqe, "uring_submit_sqe", Point::Tracepoint, "io_uring_submit_sqe", 0, "the same, on older kernels";
    /// Signals that reach their receiver.
    SignalDeliver, "signal_deliver", Point::Tracepoint, "signal_deliver", SIGNAL, "signals that reach their receiver";
    /// Signals that are sent.
    SignalGenerate, "signal_generate", Point::Tracepoint, "signal_generate", SIGNAL, "signals that are sent";
}

impl Hook {
    /// Whether it is on a function by which objects are used.
    pub const fn is_on_object(self) -> bool {
        match self.point() {
            Point::Tracepoint => false,
            Point::Entry(_) | Point::Exit(_) => true,
        }
    }

    /// Whether kernels may have no such function, because others do what it did.
    pub fn may_be_absent(self) -> bool {
        self.other().is_some()
    }

    /// The hook on the function that takes the place of this one's in other kernels.
    pub fn other(self) -> Option<Hook> {
        const NAMES: &[[Hook; 2]] = &[
            [Hook::PipeReadEntry, Hook::AnonPipeReadEntry],
            [Hook::PipeReadExit, Hook::AnonPipeReadExit],
            [Hook::PipeWriteEntry, Hook::AnonPipeWriteEntry],
            [Hook::PipeWriteExit, Hook::AnonPipeWriteExit],
        ];
        let both = NAMES.iter().find(|both| both.contains(&self))?;
        both.iter().copied().find(|hook| *hook != self)
    }

    /// The mechanisms that have a use for this tracepoint when they are traced at their objects, too, by [`Mechanism::bit`].
    pub const fn at_objects_too(self) -> u32 {
        if matches!(self, Hook::SysExit) {
            // Calls whose program at the end of a function does not run: those from before, and those that were in it when somebody attached
            // another program (`bpf_tramp_image_put`, kernel/bpf/trampoline.c).
            Self::objects()
        } else if matches!(self, Hook::SysEnter) {
            let mut set = 0;
            let mut index = 0;
            while index < CALLS_ALONE.len() {
                set |= CALLS_ALONE[index].0;
                index += 1;
            }
            set
        } else if matches!(
            self,
            Hook::UringSubmit | Hook::UringSubmitSqe | Hook::UringComplete | Hook::UringOverflow
        ) {
            PIPES | Mechanism::SOCKETS
        } else if matches!(self, Hook::PageFaultUser | Hook::PageFaultKernel) {
            SYSV_SHM
        } else if matches!(self, Hook::SchedWaking) {
            // Who ends a wait the functions do not say.
            FUTEX
        } else if matches!(self, Hook::ContentionEnd) {
            PIPES
        } else if matches!(self, Hook::ConsumeSkb) {
            // Which of the messages it was the functions do not say.
            DATAGRAM
        } else if matches!(self, Hook::SkbCopied | Hook::SockReceive | Hook::SkDataReady | Hook::NetDevQueue)
        {
            UDP
        } else {
            0
        }
    }

    /// The mechanisms of which every hook can be on the objects, by [`Mechanism::bit`].
    pub const fn objects_alone() -> u32 {
        Self::objects() & !Hook::SysEnter.at_objects_too()
    }

    /// What is done with a mechanism's objects and shows at system calls alone; `None` if it is none of those whose objects have hooks.
    pub fn calls_alone(mechanism: Mechanism) -> Option<&'static str> {
        CALLS_ALONE.iter().find(|(set, _)| set & mechanism.bit() != 0).map(|(_, calls)| *calls)
    }

    /// The same tracepoint as a perf event. Only of those that come in a task which can be preempted there: others do without.
    pub const fn event(self) -> Option<Event> {
        let mut index = 0;
        while index < EVENTS.len() {
            if EVENTS[index].0 as u32 == self as u32 {
                return Some(EVENTS[index].1);
            }
            index += 1;
        }
        None
    }

    /// Field `index` of [`Hook::event`]. For programs, at compile time.
    pub const fn field(self, index: usize) -> Field {
        match self.event() {
            Some(event) => event.fields[index],
            None => panic!("no event"),
        }
    }

    /// Whether all that it tells is between which others a call came: where it is missing nothing is lost, but less is certain.
    pub const fn only_narrows(self) -> bool {
        matches!(self, Hook::ContentionEnd)
    }

    /// Whether it is on the begin or end of all system calls.
    pub const fn is_on_calls(self) -> bool {
        matches!(self, Hook::SysEnter | Hook::SysExit)
    }

    /// The mechanisms that can be traced at their objects, by [`Mechanism::bit`].
    pub const fn objects() -> u32 {
        let mut set = 0;
        let mut index = 0;
        while index < Self::ALL.len() {
            if Self::ALL[index].is_on_object() {
                set |= Self::ALL[index].needed_by();
            }
            index += 1;
        }
        set
    }

    /// The set of mechanisms that have a use for this hook, though some do without it.
    pub const fn serves(self) -> u32 {
        match (self.needed_by(), self) {
            (0, Hook::PageFaultUser | Hook::PageFaultKernel) => SHARED,
            (0, Hook::SkbCopied) => UDP,
            (0, Hook::ContentionEnd) => PIPES,
            (0, Hook::SockSend | Hook::SockReceive) => Mechanism::SOCKETS,
            (0, _) => u32::MAX,
            (needed, _) => needed,
        }
    }
}

/// What is done with objects (by the set of their mechanisms) without the functions that hooks on objects are on.
const CALLS_ALONE: &[(u32, &str)] = &[
    (PIPES, "splice(2) and its like"),
    (Mechanism::SOCKETS, "splice(2) and sendfile(2)"),
    (PTY, "splice(2)"),
    (SYSV_SHM, "mmap(2) and its like"),
    (FUTEX, "futex_waitv(2) and its like"),
];

/// Tracepoints that programs can be on as perf events.
const EVENTS: &[(Hook, Event)] = &[
    (Hook::SysEnter, event("sys_enter_event", "raw_syscalls", fields![id @ 8: 8])),
    (Hook::SysExit, event("sys_exit_event", "raw_syscalls", fields![id @ 8: 8, ret @ 16: 8])),
    (Hook::ProcessExec, event("process_exec_event", "sched", fields![])),
    (Hook::ProcessExit, event("process_exit_event", "sched", fields![])),
    (Hook::ConsumeSkb, event("consume_skb_event", "skb", fields![skbaddr @ 8: 8])),
    (Hook::SkbCopied, event("skb_copied_event", "skb", fields![skbaddr @ 8: 8])),
    (Hook::SockSend, event("sock_send_event", "sock", fields![sk @ 8: 8, ret @ 20: 4])),
    (
        Hook::SockReceive,
        event("sock_receive_event", "sock", fields![sk @ 8: 8, protocol @ 18: 2, ret @ 20: 4, flags @ 24: 4]),
    ),
    (Hook::UringSubmit, event("uring_submit_event", "io_uring", fields![req @ 16: 8])),
    (
        Hook::UringComplete,
        event(
            "uring_complete_event",
            "io_uring",
            fields![ctx @ 8: 8, req @ 16: 8, user_data @ 24: 8, res @ 32: 4, cflags @ 36: 4],
        ),
    ),
    (
        Hook::UringOverflow,
        event(
            "uring_overflow_event",
            "io_uring",
            fields![ctx @ 8: 8, user_data @ 16: 8, res @ 24: 4, cflags @ 28: 4],
        ),
    ),
    (
        Hook::PageFaultUser,
        event("page_fault_user_event", "exceptions", fields![address @ 8: 8, error_code @ 24: 8]),
    ),
    (
        Hook::PageFaultKernel,
        event("page_fault_kernel_event", "exceptions", fields![address @ 8: 8, error_code @ 24: 8]),
    ),
];

const fn event(program: &'static str, category: &'static str, fields: &'static [Field]) -> Event {
    Event { program, category, fields }
}
