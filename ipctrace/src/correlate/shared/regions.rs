//! Which addresses of a process are which part of which object.

use std::collections::BTreeMap;

use super::object::Id;

/// A run of addresses, which begin at the key it is filed under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    /// The first address behind it.
    pub(super) end: u64,
    /// What is mapped there.
    pub(super) id: Id,
    /// Which part of it, bytes from its begin.
    pub(super) offset: u64,
    /// Whether it may be written to.
    pub(super) writable: bool,
}

/// The shared regions of a process. They do not overlap.
#[derive(Clone, Debug, Default)]
pub(super) struct Regions(BTreeMap<u64, Region>);

impl Regions {
    /// The region that an address is in, and its begin.
    pub(super) fn at(&self, address: u64) -> Option<(u64, Region)> {
        let (start, region) = self.0.range(..=address).next_back()?;
        (region.end > address).then_some((*start, *region))
    }

    /// Puts a region in the place of what is there. Gives the objects that lost something by it.
    pub(super) fn insert(&mut self, start: u64, region: Region) -> Vec<Id> {
        let lost = self.cut(start, region.end);
        if region.end > start {
            self.0.insert(start, region);
        }
        lost
    }

    /// Takes addresses out. Gives the objects that were there.
    pub(super) fn cut(&mut self, start: u64, end: u64) -> Vec<Id> {
        self.split(start);
        self.split(end);
        let gone: Vec<u64> = self.range(start, end).map(|(start, _)| *start).collect();
        let mut objects: Vec<Id> =
            gone.iter().filter_map(|start| self.0.remove(start)).map(|region| region.id).collect();
        objects.sort_unstable();
        objects.dedup();
        objects
    }

    /// Changes access to addresses. Gives the objects that are there.
    pub(super) fn protect(&mut self, start: u64, end: u64, writable: bool) -> Vec<Id> {
        self.split(start);
        self.split(end);
        let mut objects = Vec::new();
        if start < end {
            for (_, region) in self.0.range_mut(start..end) {
                region.writable = writable;
                objects.push(region.id);
            }
        }
        objects.sort_unstable();
        objects.dedup();
        objects
    }

    /// The addresses of the System V segment that was attached at an address, in pieces if some of it was unmapped since.
    pub(super) fn attached(&self, start: u64) -> Vec<(u64, u64)> {
        let Some(first) = self.0.get(&start).filter(|region| region.id.sysv) else {
            return Vec::new();
        };
        let same = |at: u64, region: &Region| region.id == first.id && region.offset == at - start;
        self.0
            .range(start..)
            .filter(|(at, region)| same(**at, region))
            .map(|(at, region)| (*at, region.end))
            .collect()
    }

    /// Takes over what a parent has, but where there is something already. Gives the objects concerned.
    pub(super) fn inherit(&mut self, parent: Regions) -> Vec<Id> {
        let mut objects = Vec::new();
        for (start, region) in parent.0 {
            if self.range(start, region.end).next().is_none() && self.at(start).is_none() {
                self.0.insert(start, region);
                objects.push(region.id);
            }
        }
        objects.sort_unstable();
        objects.dedup();
        objects
    }

    /// Whether an object is mapped, and if so, whether it may be written to anywhere.
    pub(super) fn held(&self, id: Id) -> Option<bool> {
        let mine = self.0.values().filter(|region| region.id == id);
        mine.map(|region| region.writable).reduce(|one, other| one || other)
    }

    /// Everything that is mapped.
    pub(super) fn objects(&self) -> Vec<Id> {
        let mut objects: Vec<Id> = self.0.values().map(|region| region.id).collect();
        objects.sort_unstable();
        objects.dedup();
        objects
    }

    fn range(&self, start: u64, end: u64) -> impl Iterator<Item = (&u64, &Region)> {
        self.0.range(start..end.max(start))
    }

    /// Makes a region that an address is inside of two.
    fn split(&mut self, address: u64) {
        if let Some((start, region)) = self.0.range_mut(..address).next_back()
            && region.end > address
        {
            let right = Region { offset: region.offset + (address - start), ..*region };
            region.end = address;
            self.0.insert(address, right);
        }
    }
}

#[cfg(test)]
mod tests {
    use ipctrace_common::wire::Key;

    use super::*;

    fn id(id: u64) -> Id {
        Id { sysv: true, key: Key { id, space: 1 } }
    }

    fn region(end: u64, of: u64) -> Region {
        Region { end, id: id(of), offset: 0, writable: true }
    }

    #[test]
    fn a_hole_leaves_both_sides_with_their_offsets() {
        let mut regions = Regions::default();
        regions.insert(100, region(200, 1));
        assert_eq!(regions.cut(140, 160), [id(1)]);
        assert_eq!(regions.at(139).map(|(start, region)| (start, region.end)), Some((100, 140)));
        assert_eq!(regions.at(150), None);
        assert_eq!(regions.at(199).map(|(start, region)| (start, region.offset)), Some((160, 60)));
        assert_eq!(regions.attached(100), [(100, 140), (160, 200)]);
        assert_eq!(regions.cut(0, u64::MAX), [id(1)]);
        assert_eq!(regions.held(id(1)), None);
    }

    #[test]
    fn what_is_mapped_over_something_takes_its_place() {
        let mut regions = Regions::default();
        regions.insert(100, region(200, 1));
        assert_eq!(regions.insert(150, region(300, 2)), [id(1)]);
        assert_eq!(regions.at(160).map(|(_, region)| region.id), Some(id(2)));
        assert_eq!(regions.protect(100, 300, false), [id(1), id(2)]);
        assert_eq!((regions.held(id(1)), regions.held(id(3))), (Some(false), None));
    }

    #[test]
    fn a_child_keeps_what_it_has_already() {
        let (mut parent, mut child) = (Regions::default(), Regions::default());
        parent.insert(100, region(200, 1));
        parent.insert(300, region(400, 1));
        child.insert(100, region(200, 1));
        assert_eq!(child.inherit(parent), [id(1)]);
        assert_eq!(child.objects(), [id(1)]);
        assert!(child.at(350).is_some());
    }
}
