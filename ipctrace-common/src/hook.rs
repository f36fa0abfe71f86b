//! Where programs are attached. One table: the loader, `doctor` and the test against the kernel's BTF read it.

use crate::mechanism::{Mechanism, Shape};

macro_rules! hooks {
    ($($(#[$doc:meta])* $variant:ident, $program:literal, $tracepoint:literal, $needs:expr, $purpose:literal;)*) => {
        /// A BTF tracepoint that a program of ours is attached to.
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
            /// The kernel's name of the tracepoint.
            pub const fn tracepoint(self) -> &'static str {
                match self { $(Hook::$variant => $tracepoint,)* }
            }
            /// The set of mechanisms ([`Mechanism::bit`]) that cannot be traced without this hook.
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
const BY_SYSCALL: u32 = Mechanism::Pipe.bit()
    | Mechanism::Fifo.bit()
    | Mechanism::UnixStream.bit()
    | Mechanism::UnixDgram.bit()
    | Mechanism::UnixSeqpacket.bit()
    | Mechanism::Eventfd.bit()
    | Mechanism::Pty.bit()
    | Mechanism::ProcessVm.bit()
    | Mechanism::Tcp.bit()
    | UDP
    | Mechanism::PosixMq.bit()
    | Mechanism::SysvMsg.bit()
    | SHARED;
const SHARED: u32 = Mechanism::of_shape(Shape::Shared);
const SIGNAL: u32 = Mechanism::Signal.bit();
const UDP: u32 = Mechanism::Udp.bit();
/// Mechanisms by which one task wakes another.
const WAKE: u32 = Mechanism::of_shape(Shape::Wake);
const DATAGRAM: u32 = Mechanism::UnixDgram.bit() | Mechanism::UnixSeqpacket.bit();

hooks! {
    /// The end of processes.
    ProcessExit, "process_exit", "sched_process_exit", 0, "the end of processes";
    /// Programs that processes change to.
    ProcessExec, "process_exec", "sched_process_exec", 0, "changes of a process's program and name";
    /// New processes.
    ProcessFork, "process_fork", "sched_process_fork", 0, "new processes and their parents";
    /// What system calls returned.
    SysExit, "sys_exit", "sys_exit", BY_SYSCALL | SIGNAL | WAKE, "what system calls returned";
    /// Which message a receiver really took.
    ConsumeSkb, "consume_skb", "consume_skb", DATAGRAM, "which datagram a receiver took";
    /// Which datagram of an internet socket a receiver copies.
    SkbCopied, "skb_copied", "skb_copy_datagram_iovec", 0, "which large UDP datagram a receiver took";
    /// Datagrams of internet sockets that reach the queue of their receiver.
    SkDataReady, "sk_data_ready", "sk_data_ready", UDP, "UDP datagrams that reach their receiver's socket";
    /// Datagrams of internet sockets that leave their sender.
    NetDevQueue, "net_dev_queue", "net_dev_queue", UDP, "UDP datagrams that leave their sender's socket";
    /// What went out through sockets.
    SockSend, "sock_send", "sock_send_length", 0, "sends through io_uring, at the socket";
    /// What came in through sockets.
    SockReceive, "sock_receive", "sock_recv_length", 0, "receives through io_uring, at the socket";
    /// Ends of requests through rings.
    UringComplete, "uring_complete", "io_uring_complete", 0, "what requests through io_uring returned";
    /// Ends of requests for which the ring has no room.
    UringOverflow, "uring_overflow", "io_uring_cqe_overflow", 0, "the same where the ring has no room for it";
    /// The order of calls that waited for one pipe's lock.
    ContentionEnd, "contention_end", "contention_end", 0, "the order of writers that contend for one pipe";
    /// Who wakes whom.
    SchedWaking, "sched_waking", "sched_waking", WAKE, "who wakes whom";
    /// What system calls are about to work on.
    SysEnter, "sys_enter", "sys_enter", BY_SYSCALL | SIGNAL | WAKE, "the object behind a descriptor at the time of the call";
    /// First touches of pages.
    PageFaultUser, "page_fault_user", "page_fault_user", 0, "who first writes and who first reads a page of shared memory";
    /// The same by the kernel on behalf of a process.
    PageFaultKernel, "page_fault_kernel", "page_fault_kernel", 0, "the same where the kernel does it in a system call";
    /// Begins of requests through rings.
    UringSubmit, "uring_submit", "io_uring_submit_req", 0, "requests through io_uring";
    /// The same, by the name that it has on older kernels.
    UringSubmitSqe, "uring_submit_sqe", "io_uring_submit_sqe", 0, "the same, on older kernels";
    /// Signals that reach their receiver.
    SignalDeliver, "signal_deliver", "signal_deliver", SIGNAL, "signals that reach their receiver";
    /// Signals that are sent.
    SignalGenerate, "signal_generate", "signal_generate", SIGNAL, "signals that are sent";
}

impl Hook {
    /// The set of mechanisms that have a use for this hook, though some do without it.
    pub const fn serves(self) -> u32 {
        match (self.needed_by(), self) {
            (0, Hook::PageFaultUser | Hook::PageFaultKernel) => SHARED,
            (0, Hook::SkbCopied) => UDP,
            (0, _) => u32::MAX,
            (needed, _) => needed,
        }
    }
}
