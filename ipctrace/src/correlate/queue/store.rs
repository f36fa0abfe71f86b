//! Messages, or receives, in the order of time, found by what they are.
//!
//! Where receives or sends were lost, as many wait as there is room for; each that comes looks at those of its own kind alone.
//! Of a few it looks at all, which takes less than to know where those of its kind are.

use std::collections::{BTreeMap, BTreeSet, btree_map, btree_set};
use std::iter::Peekable;

use foldhash::HashMap;

/// Where one stands: its time, and when it came.
pub(super) type Place = (u64, u64);

/// What one is, as far as others can be told from it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// The message with this number, or several, of which this is the first.
    Number(u64),
    /// A message of so many bytes, with this priority or type, and this digest.
    Content(u64, i64, u64),
    /// The same, whatever is in it: nobody has looked.
    Alike(u64, i64),
    /// Any message of so many bytes with this priority or type, looked at or not.
    Form(u64, i64),
    /// Not all of that is known.
    Any,
    /// A message of which it is not known who sent it, besides what else it is.
    Nameless,
}

impl Kind {
    /// A message of so many bytes, with this priority or type, if that is known, and this digest, 0 if none was taken: with `alike`
    /// because there was no need to.
    pub(super) fn of(bytes: u64, detail: Option<i64>, digest: u64, alike: bool) -> Kind {
        match (detail, digest) {
            (Some(detail), digest @ 1..) => Kind::Content(bytes, detail, digest),
            (Some(detail), 0) if alike => Kind::Alike(bytes, detail),
            (None, _) | (_, 0) => Kind::Any,
        }
    }

    /// Whether one that is of this kind may be one that is of that.
    pub(super) fn may_be(self, other: Kind) -> bool {
        let some_alike = matches!(self, Kind::Alike(..)) || matches!(other, Kind::Alike(..));
        self == other
            || self == Kind::Any
            || other == Kind::Any
            || (some_alike && self.form() == other.form())
    }

    /// What it is if nobody has looked.
    pub(super) fn unread(self) -> Option<Kind> {
        match self.form()? {
            Kind::Form(bytes, detail) => Some(Kind::Alike(bytes, detail)),
            Kind::Number(_) | Kind::Content(..) | Kind::Alike(..) | Kind::Any | Kind::Nameless => None,
        }
    }

    /// Its form, if that is known.
    pub(super) fn form(self) -> Option<Kind> {
        match self {
            Kind::Content(bytes, detail, _) | Kind::Alike(bytes, detail) => Some(Kind::Form(bytes, detail)),
            Kind::Number(_) | Kind::Form(..) | Kind::Any | Kind::Nameless => None,
        }
    }
}

/// The kinds that one is of.
pub(super) type Kinds = [Option<Kind>; 4];

/// What a [`Store`] keeps.
pub(super) trait Stored {
    /// When it was sent or received.
    fn time(&self) -> u64;
    /// When the call began.
    fn begin(&self) -> u64;
    /// Under which kinds it is to be found.
    fn kinds(&self) -> Kinds;
    /// How many messages it stands for.
    fn messages(&self) -> u64 {
        1
    }
}

/// Those of some kinds, or all.
#[derive(Clone, Copy, Debug)]
pub(super) enum Among {
    /// Of these kinds, of which one may be a number: of that, what begins with it, or with the last one below it that there is.
    Kinds(Kinds),
    /// Those whose first number is one of so many from this one on.
    Numbers(u64, u64),
    /// All.
    All,
}

impl Among {
    /// What may be a message, or take it, of which this is known: one that is just like it, or one of which not all is known.
    pub(super) fn like(kind: Kind) -> Among {
        let kinds = match kind {
            Kind::Number(_) | Kind::Nameless | Kind::Form(..) => [Some(kind), None, None, None],
            Kind::Content(bytes, detail, _) => {
                [Some(kind), Some(Kind::Alike(bytes, detail)), Some(Kind::Any), None]
            }
            Kind::Alike(bytes, detail) => [Some(Kind::Form(bytes, detail)), Some(Kind::Any), None, None],
            Kind::Any => return Among::All,
        };
        Among::Kinds(kinds)
    }

    /// The same, or the message with a number.
    pub(super) fn or_number(self, number: Option<Kind>) -> Among {
        match self {
            Among::Kinds([one, other, third, None]) => Among::Kinds([one, other, third, number]),
            Among::Kinds(_) | Among::Numbers(..) | Among::All => Among::All,
        }
    }
}

/// Where those of each kind are.
#[derive(Debug, Default)]
struct Indices {
    kinds: HashMap<Kind, Index>,
    /// Those with numbers, by the first of them.
    numbers: BTreeMap<u64, Place>,
}

impl Indices {
    /// Notes where one is.
    fn enter<T: Stored>(&mut self, place: Place, entry: &T) {
        for kind in entry.kinds().into_iter().flatten() {
            if let Kind::Number(number) = kind {
                self.numbers.insert(number, place);
                continue;
            }
            let index = self.kinds.entry(kind).or_default();
            index.places.insert(place);
            index.begins.insert((entry.begin(), place));
        }
    }

    /// It is there no more.
    fn leave<T: Stored>(&mut self, place: Place, entry: &T) {
        for kind in entry.kinds().into_iter().flatten() {
            if let Kind::Number(number) = kind {
                // What has been told of twice may have gone from elsewhere.
                if self.numbers.get(&number) == Some(&place) {
                    self.numbers.remove(&number);
                }
            } else if let Some(index) = self.kinds.get_mut(&kind) {
                index.places.remove(&place);
                index.begins.remove(&(entry.begin(), place));
                if index.places.is_empty() {
                    self.kinds.remove(&kind);
                }
            }
        }
    }

    /// Where the one with a number may be.
    fn with(&self, kind: Kind) -> Option<Place> {
        match kind {
            Kind::Number(number) => self.numbers.range(..=number).next_back().map(|(_, place)| *place),
            Kind::Content(..) | Kind::Alike(..) | Kind::Form(..) | Kind::Any | Kind::Nameless => None,
        }
    }
}

/// Where those of one kind are.
#[derive(Debug, Default)]
struct Index {
    places: BTreeSet<Place>,
    /// The same by when their calls began.
    begins: BTreeSet<(u64, Place)>,
}

/// Entries of a [`Store`], in order.
pub(super) enum Walk<'a, T> {
    /// All from some place on.
    All(btree_map::Range<'a, Place, T>),
    /// Those in any of these indices, and one more.
    Kinds([Option<Peekable<btree_set::Range<'a, Place>>>; 3], Option<Place>, &'a BTreeMap<Place, T>),
    /// Those at these places.
    Places(btree_set::IntoIter<Place>, &'a BTreeMap<Place, T>),
}

impl<'a, T> Iterator for Walk<'a, T> {
    type Item = (Place, &'a T);

    fn next(&mut self) -> Option<(Place, &'a T)> {
        let (place, entries) = match self {
            Walk::All(range) => return range.next().map(|(place, entry)| (*place, entry)),
            Walk::Places(places, entries) => (places.next()?, entries),
            Walk::Kinds(indices, one, entries) => {
                let firsts = indices.iter_mut().flatten().filter_map(|index| index.peek().copied());
                let place = firsts.copied().chain(*one).min()?;
                for index in indices.iter_mut().flatten() {
                    index.next_if(|next| **next == place);
                }
                *one = one.filter(|one| *one != place);
                (place, entries)
            }
        };
        entries.get(&place).map(|entry| (place, entry))
    }
}

/// How many are looked at one by one.
const FEW: usize = 32;

/// Things in the order of their times.
#[derive(Debug)]
pub(super) struct Store<T> {
    entries: BTreeMap<Place, T>,
    /// Where those of each kind are, once there have been more than [`FEW`] at a time.
    indices: Option<Indices>,
    arrivals: u64,
}

impl<T> Default for Store<T> {
    fn default() -> Store<T> {
        Store { entries: BTreeMap::new(), indices: None, arrivals: 0 }
    }
}

impl<T: Stored> Store<T> {
    /// One more. Records of two CPUs may have changed places, hence by time; of the same time the later comes last.
    pub(super) fn add(&mut self, entry: T) -> Place {
        self.arrivals += 1;
        let place = (entry.time(), self.arrivals);
        self.put_back(place, entry);
        place
    }

    /// Puts one that was taken out to where it stood, whatever has become of it.
    pub(super) fn put_back(&mut self, place: Place, entry: T) {
        if let Some(indices) = &mut self.indices {
            indices.enter(place, &entry);
        }
        self.entries.insert(place, entry);
        if self.indices.is_none() && self.entries.len() > FEW {
            let mut indices = Indices::default();
            self.entries.iter().for_each(|(place, entry)| indices.enter(*place, entry));
            self.indices = Some(indices);
        }
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, place: Place) -> Option<T> {
        let entry = self.entries.remove(&place)?;
        if self.entries.is_empty() {
            self.indices = None;
        }
        if let Some(indices) = &mut self.indices {
            indices.leave(place, &entry);
        }
        Some(entry)
    }

    /// Changes the one there in a way that leaves its times and kinds as they are.
    pub(super) fn get_mut(&mut self, place: Place) -> Option<&mut T> {
        self.entries.get_mut(&place)
    }

    /// The one there.
    pub(super) fn get(&self, place: Place) -> Option<&T> {
        self.entries.get(&place)
    }

    /// How many messages they stand for.
    pub(super) fn messages(&self) -> u64 {
        self.entries.values().map(T::messages).sum()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The places of all, in order.
    pub(super) fn places(&self) -> Vec<Place> {
        self.entries.keys().copied().collect()
    }

    /// Those of some kinds from a time on, in order. One that is of two of them comes once.
    pub(super) fn among(&self, among: Among, from: u64) -> Walk<'_, T> {
        let all = || Walk::All(self.entries.range((from, 0)..));
        let Some(indices) = &self.indices else { return all() };
        match among {
            Among::All => all(),
            Among::Numbers(first, count) => {
                let places = indices.numbers.range(first..first.saturating_add(count));
                let places: BTreeSet<Place> =
                    places.map(|(_, place)| *place).filter(|(time, _)| *time >= from).collect();
                Walk::Places(places.into_iter(), &self.entries)
            }
            Among::Kinds(wanted) => {
                // All but the number.
                let mut kinds = wanted.into_iter().flatten().filter(|kind| !matches!(kind, Kind::Number(_)));
                let places = std::array::from_fn(|_| {
                    let index = indices.kinds.get(&kinds.next()?)?;
                    Some(index.places.range((from, 0)..).peekable())
                });
                let one = wanted.into_iter().flatten().find_map(|kind| indices.with(kind));
                Walk::Kinds(places, one.filter(|(time, _)| *time >= from), &self.entries)
            }
        }
    }

    /// Those of some kinds whose calls had begun by then, in order.
    pub(super) fn begun(&self, among: Among, by: u64) -> impl Iterator<Item = (Place, &T)> {
        let first = self.among(among, 0).next();
        let walk = if let (Among::Kinds(wanted), Some(indices), Some((_, first))) =
            (among, &self.indices, first)
            && first.begin() > by
        {
            // Those few that were under way, or none: not to be looked for among all that came later.
            let wanted = || wanted.into_iter().flatten();
            let of_kinds = wanted().filter_map(|kind| indices.kinds.get(&kind));
            let begun = of_kinds.flat_map(|index| index.begins.range(..=(by, (u64::MAX, u64::MAX))));
            let one = wanted().find_map(|kind| indices.with(kind));
            let places: BTreeSet<Place> = begun.map(|(_, place)| *place).chain(one).collect();
            Walk::Places(places.into_iter(), &self.entries)
        } else {
            self.among(among, 0)
        };
        walk.filter(move |(_, entry)| entry.begin() <= by)
    }

    /// Forgets the older half: how many messages that were.
    pub(super) fn drop_half(&mut self) -> u64 {
        let half = self.entries.len().div_ceil(2);
        let places = self.places().into_iter().take(half);
        places.filter_map(|place| self.remove(place)).map(|entry| entry.messages()).sum()
    }

    /// Takes all out, in order.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> + use<T> {
        self.indices = None;
        std::mem::take(&mut self.entries).into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Stored for (u64, Kind) {
        fn time(&self) -> u64 {
            self.0
        }

        fn begin(&self) -> u64 {
            self.0 - 1
        }

        fn kinds(&self) -> Kinds {
            [Some(self.1), None, None, None]
        }
    }

    const ONE: Kind = Kind::Content(1, 1, 1);
    const OTHER: Kind = Kind::Content(1, 1, 2);

    /// The times of those that are just like it, with and without the index.
    fn times(store: &Store<(u64, Kind)>, among: Among, by: u64) -> Vec<u64> {
        let kind = |kind: &Kind| match among {
            Among::Kinds(kinds) => kinds.contains(&Some(*kind)),
            Among::Numbers(first, count) => {
                matches!(kind, Kind::Number(number) if (first..first + count).contains(number))
            }
            Among::All => true,
        };
        let all = store.begun(among, by).map(|(_, entry)| *entry);
        all.filter(|(_, other)| kind(other)).map(|(time, _)| time).collect()
    }

    #[test]
    fn what_is_alike_is_found_in_order() {
        for others in [0, 2 * FEW as u64] {
            let mut store = Store::default();
            for other in 0..others {
                store.add((100 + other, Kind::Number(1000 + other)));
            }
            for entry in [(3, ONE), (1, Kind::Any), (2, OTHER), (1, ONE), (5, Kind::Number(7))] {
                store.add(entry);
            }
            assert_eq!(store.indices.is_some(), others > 0);
            let like_one = Among::like(ONE);
            assert_eq!(times(&store, like_one, 9), [1, 1, 3]);
            assert_eq!(times(&store, Among::like(Kind::Number(7)), 9), [5]);
            assert_eq!(times(&store, Among::Numbers(5, 3), 9), [5]);
            assert_eq!(times(&store, Among::Numbers(5, 2), 9), [0; 0]);
            // What begins below may go on to that number.
            assert!(
                store.among(Among::like(Kind::Number(9)), 0).any(|(_, (_, kind))| *kind == Kind::Number(7))
            );
            assert_eq!(times(&store, Among::All, 9), [1, 1, 2, 3, 5]);
            assert_eq!((times(&store, like_one, 0), times(&store, like_one, 1)), (vec![1, 1], vec![1, 1]));
            let (place, _) = store.among(like_one, 0).next().expect("there are three");
            assert_eq!(store.remove(place), Some((1, Kind::Any)));
            assert_eq!(times(&store, like_one, 9), [1, 3]);
            let all = store.len();
            store.drop_half();
            assert_eq!(store.len(), all / 2);
            assert_eq!(store.drain().count(), all / 2);
            assert_eq!(times(&store, like_one, 9), [0; 0]);
        }
    }

    #[test]
    fn calls_that_began_early_are_found_behind_others() {
        #[derive(Debug)]
        struct Long(u64, u64);
        impl Stored for Long {
            fn time(&self) -> u64 {
                self.1
            }

            fn begin(&self) -> u64 {
                self.0
            }

            fn kinds(&self) -> Kinds {
                [Some(ONE), None, None, None]
            }
        }
        let mut store = Store::default();
        for index in 0..100 {
            store.add(Long(50 + index, 60 + index));
        }
        store.add(Long(10, 500));
        let found: Vec<_> = store.begun(Among::like(ONE), 20).map(|(_, long)| long.1).collect();
        assert_eq!(found, [500]);
    }
}
