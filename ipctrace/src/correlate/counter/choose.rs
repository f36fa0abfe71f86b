//! Which writes a read took: those whose values add up to what it got.

use std::collections::{BTreeMap, VecDeque};

use super::Access;

/// How many steps a search may take.
const STEPS: usize = 4096;

/// How well the writes that a read is credited with fit it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// No others can have been taken, as far as names go.
    Certain,
    /// Others add up as well.
    Doubt,
    /// They do not add up: the kernel added something, or a record is missing.
    Short,
}

/// A set of writes that adds up.
struct Found {
    /// What each process has in it.
    units: BTreeMap<(u32, u64), u64>,
    places: Vec<usize>,
}

/// The search for sets of writes that a read can have taken.
struct Search<'a> {
    /// Writes that overlapped the read, in the order of the books.
    writes: Vec<&'a Access>,
    /// The first set found.
    found: Option<Found>,
    /// Another set credits processes otherwise, or there was no time to know.
    doubt: bool,
    steps: usize,
}

/// The places in `pending` (ascending) of the writes that `read` took, which got `value`, and how well they fit.
///
/// Writes that were over when the read began are taken. Of those that overlapped it, a set is looked for that makes up
/// the rest and that, with a write, holds every write that was over when that one began.
pub(super) fn choose(pending: &VecDeque<Access>, read: &Access, value: u64) -> (Vec<usize>, Fit) {
    let mut taken: Vec<usize> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    let mut need = value;
    for (index, write) in pending.iter().enumerate().filter(|(_, write)| write.enter <= read.time) {
        if write.time <= read.enter {
            taken.push(index);
            need = need.saturating_sub(write.units());
        } else {
            open.push(index);
        }
    }
    if need == 0 {
        return (taken, Fit::Certain);
    }
    let process = |place: &usize| pending[*place].process();
    let single = open.iter().all(|place| Some(process(place)) == open.first().map(process));
    let mut search = Search {
        writes: open.iter().map(|index| &pending[*index]).collect(),
        found: None,
        doubt: false,
        steps: 0,
    };
    search.from(0, need, &mut Vec::new());
    let fit = match search.found {
        Some(set) => {
            taken.extend(set.places.into_iter().map(|place| open[place]));
            if search.doubt && !single { Fit::Doubt } else { Fit::Certain }
        }
        None => {
            // As many as there is room for, in order.
            for index in &open {
                let units = pending[*index].units();
                if units <= need {
                    need -= units;
                    taken.push(*index);
                }
            }
            Fit::Short
        }
    };
    taken.sort_unstable();
    (taken, fit)
}

impl Search<'_> {
    /// Goes on at write `index` with `need` units to be made up, of which `set` is taken already.
    fn from(&mut self, index: usize, need: u64, set: &mut Vec<usize>) {
        self.steps += 1;
        if self.steps > STEPS {
            self.doubt = true;
            return;
        }
        if need == 0 {
            self.note(set);
            return;
        }
        if self.doubt {
            return;
        }
        let Some(write) = self.writes.get(index) else { return };
        let skipped = |place: &usize| !set.contains(place) && self.writes[*place].time <= write.enter;
        if write.units() <= need && !(0..index).any(|place| skipped(&place)) {
            set.push(index);
            self.from(index + 1, need - self.writes[index].units(), set);
            set.pop();
        }
        self.from(index + 1, need, set);
    }

    fn note(&mut self, set: &[usize]) {
        let mut units = BTreeMap::new();
        for place in set {
            let write = self.writes[*place];
            *units.entry(write.process()).or_insert(0) += write.units();
        }
        match &self.found {
            None => self.found = Some(Found { units, places: set.to_vec() }),
            Some(known) => self.doubt |= known.units != units,
        }
    }
}
