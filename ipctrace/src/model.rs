//! What a trace consists of: the facts that renderers show, free of how they were found and of how they are shown.
//!
//! Times are nanoseconds since boot (`CLOCK_BOOTTIME`), as the kernel's records carry them; renderers turn them into
//! wall-clock time.

use std::fmt;
use std::rc::Rc;

use bytes::Bytes;
use ipctrace_common::{Cause, Mechanism};

/// A process as it was at the moment of a call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proc {
    /// Thread group id in the host's PID namespace.
    pub pid: u32,
    /// The thread that made the call.
    pub tid: u32,
    /// Start of the process, ns since boot: `(pid, start)` never repeats. 0 if it could not be read.
    pub start: u64,
    /// Command name, any bytes but NUL, at most 15 of them.
    pub comm: Vec<u8>,
    /// Real user id; `None` if it could not be read.
    pub uid: Option<u32>,
    /// Identity of its control group in the unified hierarchy (the inode of its directory); 0 if unknown.
    pub cgroup: u64,
}

impl Proc {
    /// What makes it this process and no other.
    pub fn identity(&self) -> (u32, u64) {
        (self.pid, self.start)
    }

    /// What makes it this thread. Where messages can be cut short, which of two threads of a process took which of two
    /// equal ones makes a difference.
    pub(crate) fn thread(&self) -> (u32, u64) {
        (self.tid, self.start)
    }
}

/// Why an end of a transfer has no process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// The bytes were in the channel before tracing began.
    BeforeStart,
    /// The kernel sent it.
    Kernel,
    /// On another host: its address.
    Remote(String),
    /// The record of it was lost.
    Lost,
    /// Nobody took it while tracing.
    Unread,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::BeforeStart => f.write_str("before-start"),
            Why::Kernel => f.write_str("kernel"),
            Why::Remote(address) => write!(f, "remote {address}"),
            Why::Lost => f.write_str("lost"),
            Why::Unread => f.write_str("unread"),
        }
    }
}

/// One end of a transfer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// That process.
    Known(Rc<Proc>),
    /// None, for that reason.
    Unknown(Why),
}

impl End {
    /// The process, if there is one.
    pub fn process(&self) -> Option<&Rc<Proc>> {
        match self {
            End::Known(process) => Some(process),
            End::Unknown(_) => None,
        }
    }
}

/// A channel as users know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Channel {
    /// As ss, lsof, ipcs and /proc show it: `pipe:[4711]`, `socket:[52]->socket:[53]`.
    pub id: String,
    /// Path, key or abstract name (with `@` for its leading NUL), if it has one. Any bytes.
    pub name: Option<Vec<u8>>,
}

impl Channel {
    /// The name, unless the id says it already.
    pub fn own_name(&self) -> Option<&[u8]> {
        // A queue of another IPC namespace than the tracer's has that at the end.
        let id = self.id.rsplit_once("@ipc:[").map_or(self.id.as_str(), |(id, _)| id);
        let said = |name: &[u8]| id.as_bytes().ends_with(name);
        self.name.as_deref().filter(|name| !name.is_empty() && !said(name))
    }
}

/// Bytes or messages that went from one process to another (or were left unread).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// End of the receive; of the send, if nobody received.
    pub time: u64,
    /// Over what kind of channel.
    pub mechanism: Mechanism,
    /// Over which.
    pub channel: Rc<Channel>,
    /// Who put it in.
    pub sender: End,
    /// Who took it out.
    pub receiver: End,
    /// How many bytes.
    pub bytes: u64,
    /// How many calls of the sender it stands for, whole or in part.
    pub messages: u64,
    /// From the end of the send to the end of the receive, ns. 0 where the receiver was done before the sender's call
    /// had returned.
    pub latency: Option<u64>,
    /// False where the calls of two processes overlapped so that their order could not be seen.
    pub exact: bool,
    /// The rest of a message that did not fit the receiver's buffer and is gone: `bytes` of it nobody took.
    pub truncated: bool,
    /// Start of the first message, if it was captured.
    pub payload: Option<Bytes>,
    /// Priority of a POSIX message.
    pub priority: Option<u32>,
    /// Type of a System V message.
    pub msg_type: Option<i64>,
    /// Units that the reader of an eventfd took of those that the sender had added.
    pub value: Option<u64>,
}

impl Transfer {
    /// One call's `bytes`, of which nothing else is known, and nothing is in doubt.
    pub fn new(
        mechanism: Mechanism,
        channel: Rc<Channel>,
        sender: End,
        receiver: End,
        bytes: u64,
        time: u64,
    ) -> Transfer {
        Transfer {
            time,
            mechanism,
            channel,
            sender,
            receiver,
            bytes,
            messages: 1,
            latency: None,
            exact: true,
            truncated: false,
            payload: None,
            priority: None,
            msg_type: None,
            value: None,
        }
    }
}

/// What became of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It reached the receiver (a handler, a default action, or `sigwait`).
    Delivered,
    /// The receiver ignores it.
    Ignored,
    /// One of its kind was pending already.
    AlreadyPending,
    /// The receiver blocked it, and had not taken it when tracing or the receiver ended.
    Blocked,
    /// It did not reach the receiver: the receiver ended first, its queue was full, or tracing ended.
    Undelivered,
}

impl Outcome {
    /// The name in text and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Delivered => "delivered",
            Outcome::Ignored => "ignored",
            Outcome::AlreadyPending => "already-pending",
            Outcome::Blocked => "blocked",
            Outcome::Undelivered => "undelivered",
        }
    }
}

/// A signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// When it was delivered; else when it was generated.
    pub time: u64,
    /// Its number.
    pub number: u32,
    /// `si_code`.
    pub code: i32,
    /// Value of sigqueue(3), where the code carries one.
    pub value: Option<u64>,
    /// Who sent it.
    pub sender: End,
    /// For whom it was (tid: the thread that took it, or the one it was for).
    pub receiver: Rc<Proc>,
    /// What became of it.
    pub outcome: Outcome,
    /// Generation to delivery, ns.
    pub latency: Option<u64>,
    /// The terminal it came from (Ctrl-C), if it did.
    pub tty: Option<Vec<u8>>,
}

/// What a process did to shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShareAction {
    /// It made the segment.
    Create,
    /// It mapped it.
    Attach,
    /// It no longer maps it.
    Detach,
    /// It removed it.
    Remove,
}

impl ShareAction {
    /// The name in text and JSON.
    pub fn name(self) -> &'static str {
        match self {
            ShareAction::Create => "create",
            ShareAction::Attach => "attach",
            ShareAction::Detach => "detach",
            ShareAction::Remove => "remove",
        }
    }
}

/// A change in who shares memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// When.
    pub time: u64,
    /// What kind of memory.
    pub mechanism: Mechanism,
    /// Which.
    pub channel: Rc<Channel>,
    /// Who.
    pub process: Rc<Proc>,
    /// Did what.
    pub action: ShareAction,
    /// Whether it may write.
    pub writable: bool,
    /// Size of the segment or mapping.
    pub bytes: u64,
}

/// One process made another run again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wake {
    /// When the woken ran on.
    pub time: u64,
    /// Futex or semaphore.
    pub mechanism: Mechanism,
    /// Which.
    pub channel: Rc<Channel>,
    /// The waker.
    pub sender: End,
    /// The woken.
    pub receiver: End,
    /// How long the woken had waited, ns.
    pub latency: Option<u64>,
}

/// A descriptor passed from one process to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handoff {
    /// When the receiver had it.
    pub time: u64,
    /// How: the mechanism of the socket it went over, or `pidfd_getfd`.
    pub via: &'static str,
    /// The channel it went over.
    pub channel: Rc<Channel>,
    /// Who gave it.
    pub sender: End,
    /// Who has it now.
    pub receiver: End,
    /// What was passed.
    pub object: Rc<Channel>,
}

/// One process wrote to a page of shared memory, and another read it for the first time afterwards: evidence that bytes went
/// from the one to the other, not how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// When it was read.
    pub time: u64,
    /// What kind of memory.
    pub mechanism: Mechanism,
    /// Which.
    pub channel: Rc<Channel>,
    /// Who wrote.
    pub sender: Rc<Proc>,
    /// Who read.
    pub receiver: Rc<Proc>,
    /// Where the page begins in the object, bytes.
    pub page: u64,
    /// From the writer's first touch to the reader's, ns.
    pub latency: u64,
    /// False where several processes wrote to the page before: what was read may be another's.
    pub exact: bool,
}

/// Something was not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// When that was known.
    pub time: u64,
    /// Why.
    pub cause: Cause,
    /// How many since the last such event of this cause.
    pub count: u64,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// See [`Transfer`].
    Transfer(Transfer),
    /// See [`Signal`].
    Signal(Signal),
    /// See [`Share`].
    Share(Share),
    /// See [`Wake`].
    Wake(Wake),
    /// See [`Handoff`].
    Handoff(Handoff),
    /// See [`Evidence`].
    Evidence(Evidence),
    /// See [`Lost`].
    Lost(Lost),
}

/// Distribution of latencies, ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

/// All that went from one process to another over one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Over what kind of channel.
    pub mechanism: Mechanism,
    /// Over which.
    pub channel: Rc<Channel>,
    /// From whom.
    pub sender: End,
    /// To whom.
    pub receiver: End,
    /// How many messages (signals, wake-ups), whole or in part: the sum of those of its events; 0 for shared memory.
    pub messages: u64,
    /// How many bytes; for shared memory the size of the segment.
    pub bytes: u64,
    /// Time of the first event.
    pub first: u64,
    /// Time of the last.
    pub last: u64,
    /// How long they took, if any latency is known.
    pub latency: Option<Latency>,
}
