//! Memory that several processes map: who has what mapped, who can write to it, and who touched which page first.
//!
//! The kernel tells of mappings by address; here each process has a map from its addresses to objects, and each object
//! the processes that have it mapped. A process attaches with its first mapping of an object (once more if a later one
//! lets it write where it could only read) and detaches when its last one goes. Files that nobody has mapped for writing
//! are the page cache, not communication: who maps them is told once somebody does.

mod evidence;
mod object;
mod regions;

use std::rc::Rc;

use foldhash::HashMap;
use ipctrace_common::wire::{self, share_event};
use ipctrace_common::{Mechanism, Shape};

use crate::model::{Event, Flow, Proc, Share, ShareAction};

use super::context::Context;
use super::intern::until_nul;
use object::{Id, Object};
use regions::{Region, Regions};

/// Objects known at once, apart from those that are mapped.
const OBJECTS: usize = 16_384;
/// Flows kept of objects that are gone.
const FINISHED: usize = 100_000;
/// Pages of which it is known who wrote to them first.
const PAGES: usize = 262_144;
/// Longer than any address space.
const LONGEST: u64 = 1 << 57;

/// The addresses of one process.
#[derive(Debug)]
struct Space {
    /// Start of the process.
    start: u64,
    regions: Regions,
}

/// All shared memory.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// By thread group id.
    spaces: HashMap<u32, Space>,
    /// Processes that have no memory of their own, and whose it is.
    aliases: HashMap<u32, (u32, Rc<Proc>)>,
    objects: HashMap<Id, Object>,
    /// Which object has an id that follows from its name.
    named: HashMap<String, Id>,
    /// Pairs of objects, and of processes, that are gone.
    finished: Vec<Flow>,
    pages: usize,
}

impl Shared {
    /// One record. `None`: it claims what cannot be.
    pub(super) fn push(
        &mut self,
        record: &wire::Share,
        name: &[u8],
        who: &Rc<Proc>,
        context: &mut Context<'_>,
    ) -> Option<()> {
        if record.len.max(record.to_len) > LONGEST {
            return None;
        }
        let end = record.start.checked_add(record.len)?;
        self.owner(who, context);
        match record.header.flags {
            share_event::SEEN | share_event::MAP => self.map(record, name, who, context),
            share_event::UNMAP if record.len == 0 => {
                let space = self.spaces.get(&self.root(who.pid))?;
                let gone = space.regions.attached(record.start);
                for (start, end) in gone {
                    self.unmap(start, end, who, record.header.time, context);
                }
                Some(())
            }
            share_event::UNMAP => {
                self.unmap(record.start, end, who, record.header.time, context);
                Some(())
            }
            share_event::MOVE => self.relocate(record, who, context),
            share_event::PROTECT => {
                let space = self.spaces.get_mut(&self.root(who.pid))?;
                let changed = space.regions.protect(record.start, end, record.writable != 0);
                self.settle(changed, who, record.header.time, context);
                Some(())
            }
            share_event::CREATE => self.create(record, name, who, context),
            share_event::REMOVE => self.remove(record, name, who, context),
            _ => None,
        }
    }

    /// The process whose memory `pid` uses.
    fn root(&self, pid: u32) -> u32 {
        self.aliases.get(&pid).map_or(pid, |(root, _)| *root)
    }

    /// Makes sure that there is a space for the process, and none of an earlier one of the same number.
    fn owner(&mut self, who: &Rc<Proc>, context: &mut Context<'_>) {
        if self.aliases.contains_key(&who.pid) {
            return;
        }
        if self.spaces.get(&who.pid).is_some_and(|space| space.start != who.start) {
            self.left(who.pid, None, context.now, context);
        }
        self.spaces.entry(who.pid).or_insert_with(|| Space { start: who.start, regions: Regions::default() });
    }

    /// What the memory in this file is called. Not of a file on disk that nobody has mapped: its inode number can be that of
    /// another by now. Those of memory are not used again.
    pub(super) fn channel(&self, key: &wire::Key) -> Option<&Rc<crate::model::Channel>> {
        self.objects
            .get(&Id { sysv: false, key: *key })
            .filter(|object| object.mechanism != Mechanism::SharedFile || object.is_used())
            .map(|object| &object.channel)
    }

    /// The object of a record, as it is now.
    fn object(&mut self, record: &wire::Share, name: &[u8], context: &Context<'_>) -> Option<Id> {
        let mut mechanism = Mechanism::from_wire(record.header.mechanism)?;
        if mechanism.shape() != Shape::Shared {
            return None;
        }
        if mechanism == Mechanism::SharedFile && object::is_posix(name, record.magic) {
            mechanism = Mechanism::PosixShm;
        }
        let id = Id { sysv: mechanism == Mechanism::SysvShm, key: record.key };
        let name = if mechanism == Mechanism::SharedAnon { &[][..] } else { until_nul(name) };
        if self.objects.get(&id).is_some_and(|known| known.is_other(mechanism, name)) {
            self.retire(id, context);
        }
        if !self.objects.contains_key(&id) {
            self.make_room(context);
            let channel = object::channel(mechanism, record, name, context.home, |text| {
                *self.named.entry(text.to_owned()).or_insert(id) == id
            });
            self.objects.insert(id, Object::new(mechanism, channel, name, record.mounts));
        }
        let object = self.objects.get_mut(&id)?;
        object.used = context.now;
        object.size = if record.size == 0 { object.size.max(record.len) } else { record.size };
        Some(id)
    }

    fn map(
        &mut self,
        record: &wire::Share,
        name: &[u8],
        who: &Rc<Proc>,
        context: &mut Context<'_>,
    ) -> Option<()> {
        let time = record.header.time;
        let known = self.objects.len();
        let id = self.object(record, name, context)?;
        let seen = record.header.flags == share_event::SEEN;
        let object = self.objects.get(&id)?;
        if object.mechanism == Mechanism::SharedAnon && !seen && self.objects.len() > known {
            context.out.push(share(object, time, who, ShareAction::Create, true));
        }
        let region = Region {
            end: record.start + record.len,
            id,
            offset: record.offset,
            writable: record.writable != 0,
        };
        let space = self.spaces.get_mut(&self.root(who.pid))?;
        let mut changed = space.regions.insert(record.start, region);
        changed.push(id);
        if seen {
            self.learn(id, who, time);
        } else {
            self.settle(changed, who, time, context);
        }
        Some(())
    }

    fn unmap(&mut self, start: u64, end: u64, who: &Rc<Proc>, time: u64, context: &mut Context<'_>) {
        let root = self.root(who.pid);
        if let Some(space) = self.spaces.get_mut(&root) {
            let changed = space.regions.cut(start, end);
            self.settle(changed, who, time, context);
        }
    }

    fn relocate(&mut self, record: &wire::Share, who: &Rc<Proc>, context: &mut Context<'_>) -> Option<()> {
        let space = self.spaces.get_mut(&self.root(who.pid))?;
        let Some((start, first)) = space.regions.at(record.start) else {
            return Some(());
        };
        let offset = first.offset + (record.start - start);
        let region = Region { end: record.to.checked_add(record.to_len)?, offset, ..first };
        let mut changed = if record.flag == 0 {
            space.regions.cut(record.start, record.start + record.len)
        } else {
            Vec::new()
        };
        changed.extend(space.regions.insert(record.to, region));
        changed.push(first.id);
        self.settle(changed, who, record.header.time, context);
        Some(())
    }

    fn create(
        &mut self,
        record: &wire::Share,
        name: &[u8],
        who: &Rc<Proc>,
        context: &mut Context<'_>,
    ) -> Option<()> {
        let id = Id { sysv: record.header.mechanism == Mechanism::SysvShm as u8, key: record.key };
        if record.flag == 0 && self.objects.contains_key(&id) {
            return Some(());
        }
        // A namespace that ends takes its segments with it without a word, and the next one has its number, and begins with the same ids.
        if id.sysv && record.flag != 0 && self.objects.get(&id).is_some_and(|known| !known.is_used()) {
            self.retire(id, context);
        }
        let id = self.object(record, name, context)?;
        let object = self.objects.get(&id)?;
        if object.mechanism != Mechanism::SharedFile {
            context.out.push(share(object, record.header.time, who, ShareAction::Create, true));
        }
        Some(())
    }

    fn remove(
        &mut self,
        record: &wire::Share,
        name: &[u8],
        who: &Rc<Proc>,
        context: &mut Context<'_>,
    ) -> Option<()> {
        let id = if record.header.mechanism == Mechanism::SysvShm as u8 {
            self.object(record, name, context)?
        } else {
            let named = |object: &Object| {
                object.mechanism == Mechanism::PosixShm
                    && !object.removed
                    && object.mounts == record.mounts
                    && object.channel.name.as_deref() == Some(until_nul(name))
            };
            let Some((id, _)) = self.objects.iter().find(|(_, object)| named(object)) else {
                return Some(());
            };
            *id
        };
        let object = self.objects.get_mut(&id)?;
        object.removed = true;
        context.out.push(share(object, record.header.time, who, ShareAction::Remove, true));
        self.named.remove(&object.channel.id);
        self.bury(id, context);
        Some(())
    }

    /// A page touched for the first time.
    pub(super) fn touch(&mut self, record: &wire::Touch, who: &Rc<Proc>, context: &mut Context<'_>) {
        let Some(space) = self.spaces.get(&self.root(who.pid)) else {
            return;
        };
        let Some((start, region)) = space.regions.at(record.address) else {
            return;
        };
        let at = region.offset + (record.address - start);
        if let Some(object) = self.objects.get_mut(&region.id) {
            if let Some(user) = object.users.get_mut(&who.identity()) {
                // It may have another name by now.
                user.process = Rc::clone(who);
            }
            let known = object.pages.len();
            let room = self.pages < PAGES;
            if record.write == 0 {
                object.read(at, record.header.time, who, context.out);
            } else if room {
                object.written(at, record.header.time, who);
            }
            self.pages += object.pages.len() - known;
        }
    }

    /// A process was made by another, and has its memory: a copy, or the very same.
    pub(super) fn forked(
        &mut self,
        parent: u32,
        child: &Rc<Proc>,
        same: bool,
        time: u64,
        context: &mut Context<'_>,
    ) {
        let root = self.root(parent);
        if !self.spaces.contains_key(&root) {
            return;
        }
        if same {
            self.aliases.insert(child.pid, (root, Rc::clone(child)));
            return;
        }
        self.owner(child, context);
        let regions = self.spaces[&root].regions.clone();
        if let Some(space) = self.spaces.get_mut(&child.pid) {
            let changed = space.regions.inherit(regions);
            self.settle(changed, child, time, context);
        }
    }

    /// A process has left its memory: exec or exit. `who`: as it is now, if it still has the name under which it used
    /// it.
    pub(super) fn left(&mut self, pid: u32, who: Option<&Rc<Proc>>, time: u64, context: &mut Context<'_>) {
        if self.aliases.remove(&pid).is_some() {
            return;
        }
        let Some(space) = self.spaces.remove(&pid) else {
            return;
        };
        let Space { start, regions } = space;
        let heir = self.aliases.iter().find(|(_, (root, _))| *root == pid).map(|(heir, _)| *heir);
        for id in regions.objects() {
            let Some(object) = self.objects.get_mut(&id) else { continue };
            let Some(user) = object.users.get_mut(&(pid, start)) else { continue };
            if let Some(who) = who {
                user.process = Rc::clone(who);
            }
            let (who, writable, quiet) = (Rc::clone(&user.process), user.told == Some(true), user.quiet);
            user.detach(time);
            if !quiet {
                context.out.push(share(object, time, &who, ShareAction::Detach, writable));
            }
            if heir.is_none() {
                self.bury(id, context);
            }
        }
        // Whoever has borrowed it has it for itself from now on.
        if let Some((_, who)) = heir.and_then(|heir| self.aliases.remove(&heir)) {
            self.aliases.values_mut().filter(|(root, _)| *root == pid).for_each(|(root, _)| *root = who.pid);
            let objects = regions.objects();
            self.spaces.insert(who.pid, Space { start: who.start, regions });
            self.settle(objects, &who, time, context);
        }
    }

    /// What a process had mapped before tracing is known, but no news.
    fn learn(&mut self, id: Id, who: &Rc<Proc>, time: u64) {
        let writable = self.spaces.get(&who.pid).and_then(|space| space.regions.held(id));
        if let (Some(object), Some(writable)) = (self.objects.get_mut(&id), writable) {
            object.written |= writable;
            // Read by all and written by none, it is no more news when one of them lets go of it.
            let nobodys = object.mechanism == Mechanism::SharedFile && !object.written;
            let user = object.user((who.pid, who.start), who, time);
            user.attach(time, writable);
            user.quiet = nobodys;
            if writable {
                object.users.values_mut().for_each(|user| user.quiet = false);
            }
        }
    }

    /// Tells what has become of a process's hold on objects.
    fn settle(&mut self, changed: Vec<Id>, who: &Rc<Proc>, time: u64, context: &mut Context<'_>) {
        let root = self.root(who.pid);
        let Some(space) = self.spaces.get(&root) else {
            return;
        };
        let identity = (root, space.start);
        for id in changed {
            let held = self.spaces.get(&root).and_then(|space| space.regions.held(id));
            let Some(object) = self.objects.get_mut(&id) else { continue };
            let read_only = object.mechanism == Mechanism::SharedFile && !object.written;
            let user = object.user(identity, who, time);
            user.process = Rc::clone(who);
            let (told, before, quiet) = (user.told, user.told == Some(true), user.quiet);
            match held {
                None if told.is_some() => {
                    user.detach(time);
                    if !quiet {
                        context.out.push(share(object, time, who, ShareAction::Detach, before));
                    }
                    self.bury(id, context);
                }
                Some(writable) if told.is_none() || (writable && !before) => {
                    user.attach(time, writable);
                    user.quiet = read_only && !writable;
                    if writable && read_only {
                        object.written = true;
                        context.out.extend(object.readers());
                    }
                    if writable || !read_only {
                        context.out.push(share(object, time, who, ShareAction::Attach, writable));
                    }
                }
                None | Some(_) => {}
            }
        }
    }

    /// Forgets an object that nobody can use any more.
    fn bury(&mut self, id: Id, context: &mut Context<'_>) {
        let Some(object) = self.objects.get_mut(&id) else {
            return;
        };
        if object.is_used() {
            return;
        }
        object.trim(context.now, &mut self.finished, FINISHED);
        if object.removed || object.mechanism == Mechanism::SharedAnon {
            self.retire(id, context);
        }
    }

    fn retire(&mut self, id: Id, context: &Context<'_>) {
        if let Some(object) = self.objects.remove(&id) {
            object.pairs(context.now, &mut self.finished, FINISHED);
            self.pages -= object.pages.len();
            if self.named.get(&object.channel.id) == Some(&id) {
                self.named.remove(&object.channel.id);
            }
        }
    }

    /// Forgets half of the objects that nobody has mapped if there are too many, those used longest ago.
    fn make_room(&mut self, context: &Context<'_>) {
        if self.objects.len() < OBJECTS || !self.objects.len().is_multiple_of(OBJECTS / 4) {
            return;
        }
        let mut idle: Vec<(u64, Id)> = self
            .objects
            .iter()
            .filter(|(_, object)| !object.is_used())
            .map(|(id, object)| (object.used, *id))
            .collect();
        idle.sort_unstable_by_key(|(used, _)| *used);
        idle.truncate(idle.len().div_ceil(2));
        for (_, id) in idle {
            self.retire(id, context);
        }
    }

    /// The pairs so far of a process that can write and another that has the same memory mapped then or later.
    pub(super) fn pairs(&self, now: u64) -> Vec<Flow> {
        let mut flows = self.finished.clone();
        for object in self.objects.values() {
            object.pairs(now, &mut flows, FINISHED);
        }
        flows
    }
}

/// An event.
fn share(object: &Object, time: u64, who: &Rc<Proc>, action: ShareAction, writable: bool) -> Event {
    Event::Share(Share {
        time,
        mechanism: object.mechanism,
        channel: Rc::clone(&object.channel),
        process: Rc::clone(who),
        action,
        writable,
        bytes: object.size,
    })
}

#[cfg(test)]
mod tests;
