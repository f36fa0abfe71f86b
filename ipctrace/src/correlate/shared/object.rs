//! What is shared, and by whom.

use std::collections::BTreeMap;
use std::rc::Rc;

use foldhash::{HashMap, HashMapExt};
use ipctrace_common::Mechanism;
use ipctrace_common::wire::{self, Key};

use crate::correlate::naming::{self, Home};
use crate::model::{Channel, End, Event, Flow, Proc, ShareAction};

use super::evidence::Page;

/// `TMPFS_MAGIC`, include/uapi/linux/magic.h.
const TMPFS: u32 = 0x0102_1994;
/// Where shm_open(3) makes its files.
const POSIX: &[u8] = b"/dev/shm/";
/// Processes that no longer have an object mapped and are still known for it.
const GONE: usize = 256;

/// What makes an object the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id {
    /// System V segments are numbered by themselves.
    pub(super) sysv: bool,
    /// See [`wire::Share::key`].
    pub(super) key: Key,
}

/// A process that has, or had, an object mapped.
#[derive(Debug)]
pub(super) struct User {
    pub(super) process: Rc<Proc>,
    /// What was last told of it: `None` if it is not attached, else whether it may write.
    pub(super) told: Option<bool>,
    /// Whether its being attached has not been told.
    pub(super) quiet: bool,
    /// When it first attached.
    since: u64,
    /// When it could first write.
    writes: Option<u64>,
    /// When it last detached.
    until: u64,
}

impl User {
    /// It is attached.
    pub(super) fn attach(&mut self, time: u64, writable: bool) {
        self.told = Some(writable);
        if writable {
            self.writes.get_or_insert(time);
        }
    }

    /// It is no longer.
    pub(super) fn detach(&mut self, time: u64) {
        self.told = None;
        self.until = time;
    }

    /// When it could last read.
    fn end(&self, now: u64) -> u64 {
        if self.told.is_some() { now.max(self.since) } else { self.until }
    }
}

/// A piece of memory.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) mechanism: Mechanism,
    pub(super) channel: Rc<Channel>,
    pub(super) size: u64,
    /// Mount namespace in which its path is.
    pub(super) mounts: u64,
    /// Whether anybody could ever write to it.
    pub(super) written: bool,
    /// Whether it, or its name, is gone.
    pub(super) removed: bool,
    /// When it was last mapped.
    pub(super) used: u64,
    /// By [`Proc::identity`].
    pub(super) users: HashMap<(u32, u64), User>,
    /// Pages that somebody was seen to write to.
    pub(super) pages: BTreeMap<u64, Page>,
    /// What it was called when it was first seen.
    called: Vec<u8>,
}

/// Whether a file is one that shm_open(3) opens.
pub(super) fn is_posix(path: &[u8], magic: u32) -> bool {
    magic == TMPFS && path.starts_with(POSIX)
}

/// The key of a System V segment: in the name of its file, or, where the segment is named by its id, in place of an offset.
fn sysv_key(record: &wire::Share, name: &[u8]) -> Option<u32> {
    let hex = name.strip_prefix(b"SYSV").and_then(|hex| std::str::from_utf8(hex).ok());
    let key = match hex {
        Some(hex) => u32::from_str_radix(hex, 16).ok()?,
        None => u32::try_from(record.offset).ok()?,
    };
    // IPC_PRIVATE is no key.
    (key != 0).then_some(key)
}

/// What users call it. `is_free` says whether an id is not that of another object.
pub(super) fn channel(
    mechanism: Mechanism,
    record: &wire::Share,
    name: &[u8],
    home: Home,
    mut is_free: impl FnMut(&str) -> bool,
) -> Rc<Channel> {
    let Key { id, space } = record.key;
    let by_inode = naming::file(mechanism.name(), space, id);
    let (id, name) = match mechanism {
        Mechanism::SysvShm => {
            let id = home.ipc(format!("sysv_shm:{}", id as u32 as i32), space);
            (id, sysv_key(record, name).map(|key| format!("{key:#x}").into_bytes()))
        }
        Mechanism::PosixShm => {
            let file = name.strip_prefix(POSIX).unwrap_or(name);
            let plain = std::str::from_utf8(file).ok().map(|file| format!("posix_shm:/{file}"));
            // Not if it is the same name in another mount namespace, or of a file that is gone.
            let id = plain.filter(|plain| is_free(plain)).unwrap_or(by_inode);
            (id, Some(name.to_vec()))
        }
        Mechanism::SharedAnon => (by_inode, None),
        Mechanism::Memfd
        | Mechanism::SharedFile
        | Mechanism::Pipe
        | Mechanism::Fifo
        | Mechanism::UnixStream
        | Mechanism::UnixDgram
        | Mechanism::UnixSeqpacket
        | Mechanism::Tcp
        | Mechanism::Udp
        | Mechanism::PosixMq
        | Mechanism::SysvMsg
        | Mechanism::SysvSem
        | Mechanism::Futex
        | Mechanism::Eventfd
        | Mechanism::Pty
        | Mechanism::ProcessVm
        | Mechanism::Signal => (by_inode, (!name.is_empty()).then(|| name.to_vec())),
    };
    Rc::new(Channel { id, name })
}

impl Object {
    pub(super) fn new(mechanism: Mechanism, channel: Rc<Channel>, called: &[u8], mounts: u64) -> Object {
        Object {
            mechanism,
            channel,
            size: 0,
            mounts,
            written: false,
            removed: false,
            used: 0,
            users: HashMap::new(),
            pages: BTreeMap::new(),
            called: called.to_vec(),
        }
    }

    /// Whether a file that is named so is another one with the same inode number.
    pub(super) fn is_other(&self, mechanism: Mechanism, name: &[u8]) -> bool {
        let renamed = mechanism != Mechanism::SysvShm && self.called != name;
        self.mechanism != mechanism || (!self.is_used() && (self.removed || renamed))
    }

    /// Whether anybody has it mapped.
    pub(super) fn is_used(&self) -> bool {
        self.users.values().any(|user| user.told.is_some())
    }

    /// The attachments that were not told, as they were. Tells them.
    pub(super) fn readers(&mut self) -> Vec<Event> {
        let mut waiting: Vec<(u64, Rc<Proc>)> = Vec::new();
        for user in self.users.values_mut().filter(|user| user.told.is_some() && user.quiet) {
            user.quiet = false;
            waiting.push((user.since, Rc::clone(&user.process)));
        }
        waiting.sort_by_key(|(since, process)| (*since, process.pid));
        let event = |(since, process): (u64, Rc<Proc>)| {
            super::share(self, since, &process, ShareAction::Attach, false)
        };
        waiting.into_iter().map(event).collect()
    }

    /// What it knows of a process; nothing yet if it is new.
    pub(super) fn user(&mut self, identity: (u32, u64), who: &Rc<Proc>, time: u64) -> &mut User {
        self.users.entry(identity).or_insert_with(|| User {
            process: Rc::clone(who),
            told: None,
            quiet: false,
            since: time,
            writes: None,
            until: 0,
        })
    }

    /// The flow from one user to another, if what the one wrote can have reached the other.
    fn pair(&self, from: &User, to: &User, now: u64) -> Option<Flow> {
        let writes = from.writes?;
        let last = to.end(now);
        (last > writes && from.process.identity() != to.process.identity()).then(|| Flow {
            mechanism: self.mechanism,
            channel: Rc::clone(&self.channel),
            sender: End::Known(Rc::clone(&from.process)),
            receiver: End::Known(Rc::clone(&to.process)),
            messages: 0,
            bytes: self.size,
            first: writes.max(to.since),
            last,
            latency: None,
        })
    }

    /// Appends the flow of each pair, up to a limit of all flows.
    pub(super) fn pairs(&self, now: u64, flows: &mut Vec<Flow>, limit: usize) {
        for from in self.users.values().filter(|user| user.writes.is_some()) {
            for to in self.users.values() {
                if flows.len() < limit {
                    flows.extend(self.pair(from, to, now));
                }
            }
        }
    }

    /// Forgets those that detached first if many have; their flows are kept.
    pub(super) fn trim(&mut self, now: u64, flows: &mut Vec<Flow>, limit: usize) {
        if self.users.len() < 2 * GONE {
            return;
        }
        let mut gone: Vec<(u64, (u32, u64))> = self
            .users
            .iter()
            .filter(|(_, user)| user.told.is_none())
            .map(|(identity, user)| (user.until, *identity))
            .collect();
        gone.sort_unstable();
        gone.truncate(gone.len().saturating_sub(GONE));
        for (_, identity) in gone {
            if let Some(user) = self.users.remove(&identity) {
                for other in self.users.values() {
                    if flows.len() < limit {
                        flows.extend(self.pair(&user, other, now));
                        flows.extend(self.pair(other, &user, now));
                    }
                }
            }
        }
    }
}
