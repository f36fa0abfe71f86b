//! One process makes another run again. The kernel's record has both; what is left to do is to name the object.

use std::rc::Rc;

use bytes::Bytes;
use foldhash::HashMap;
use ipctrace_common::wire::{self, wake_flag};
use ipctrace_common::{Mechanism, Shape};

use crate::model::{Channel, End, Proc, Wake, Why};

use super::naming::{self, Home, file};

/// What tells two places to wait at apart: mechanism, object (the address of a file's inode, which is another's later, and its number), and
/// where in it.
type Place = (Mechanism, wire::Key, u64, u64);

/// Files and semaphores that processes wait at.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    /// Names of files with futexes in them.
    names: HashMap<wire::Key, Option<Vec<u8>>>,
    /// Channels in use.
    channels: HashMap<Place, Rc<Channel>>,
}

impl Wakes {
    /// A file with futexes in it has that name. No more than `limit` are kept.
    pub(super) fn named(&mut self, record: &wire::Channel, name: &Bytes, limit: usize) {
        if self.names.len() >= limit {
            self.names.clear();
        }
        let name = naming::file_name(record.header.flags, name);
        if self.names.get(&record.key) != Some(&name) {
            self.names.insert(record.key, name);
            self.channels.retain(|(_, key, ..), _| *key != record.key);
        }
    }

    /// What happened. `waker` is `None` if it was not seen. `None`: the record claims what cannot be.
    pub(super) fn event(
        &mut self,
        record: &wire::Wake,
        waker: Option<Rc<Proc>>,
        woken: Rc<Proc>,
        home: Home,
        limit: usize,
    ) -> Option<Wake> {
        let mechanism = Mechanism::from_wire(record.header.mechanism)?;
        if mechanism.shape() != Shape::Wake {
            return None;
        }
        let time = record.header.time;
        let latency = match record.enter {
            0 => None,
            enter => Some(time.checked_sub(enter)?),
        };
        Some(Wake {
            time,
            mechanism,
            channel: self.channel(mechanism, record, home, limit),
            sender: waker.map_or(End::Unknown(Why::Lost), End::Known),
            receiver: End::Known(woken),
            latency,
        })
    }

    fn channel(
        &mut self,
        mechanism: Mechanism,
        record: &wire::Wake,
        home: Home,
        limit: usize,
    ) -> Rc<Channel> {
        if self.channels.len() >= limit {
            self.channels.clear();
        }
        let names = &self.names;
        let place = (mechanism, record.key, record.inode, record.detail);
        let channel = self.channels.entry(place).or_insert_with(|| {
            Rc::new(if mechanism == Mechanism::SysvSem {
                let id = home.ipc(format!("sysv_sem:{}", record.key.id), record.key.space);
                Channel { id, name: semaphore_name(record) }
            } else {
                Channel { id: futex_id(record), name: names.get(&record.key).cloned().flatten() }
            })
        });
        Rc::clone(channel)
    }
}

/// The key that processes find the set by; private ones have none.
fn semaphore_name(record: &wire::Wake) -> Option<Vec<u8>> {
    let known = record.header.flags & wake_flag::KEY != 0 && record.detail != 0;
    known.then(|| format!("{:#x}", record.detail as u32).into_bytes())
}

/// The file as lsof shows it, and where in it.
fn futex_id(record: &wire::Wake) -> String {
    let file = if record.header.flags & wake_flag::SYSV_SHM != 0 {
        format!("futex:[sysv_shm:{}]", record.inode)
    } else {
        file("futex", record.key.space, record.inode)
    };
    format!("{file}+{:#x}", record.detail)
}

#[cfg(test)]
mod tests;
