//! The order of calls that overlapped in time, from what they saw of the object.
//!
//! Each call moved the object's position once, from somewhere at or above `low` (what it saw when it began) to somewhere
//! at or below `high` (what it saw when it ended). All orders of the calls that agree with every one of these bounds,
//! and that account for everything between the start and the highest bound, are found; where they agree with one
//! another the order is certain.

use super::position;

/// Most calls that are ordered together: the states are the subsets of them.
pub(super) const WINDOW: usize = 48;
/// Most states that are looked at.
const STATES: usize = 4096;

/// How far a call moves the position from where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advance {
    /// By its bytes: positions are offsets in the stream.
    Bytes,
    /// As a write into pages does.
    Pages,
    /// By an unknown way: to anywhere above.
    Opaque,
}

/// What is known of one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// Identity of the process.
    pub(super) process: (u32, u64),
    /// Beginning of the call.
    pub(super) enter: u64,
    /// Its end.
    pub(super) time: u64,
    /// It began at this position or above.
    pub(super) low: u64,
    /// It ended at this position or below.
    pub(super) high: u64,
    /// Nothing was seen there: it is only a bound.
    pub(super) rough: bool,
    /// Bytes moved.
    pub(super) bytes: u64,
    /// How they move the position.
    pub(super) advance: Advance,
}

impl Piece {
    /// All that began below this may have come before its end; what begins at a bound shows whether it is the end.
    fn reach(&self) -> u64 {
        self.high.saturating_add(u64::from(self.rough))
    }

    /// Where it may end if it begins at `from`.
    fn ends(&self, from: u64) -> [Option<u64>; 2] {
        match self.advance {
            Advance::Bytes => [from.checked_add(self.bytes), None],
            Advance::Pages => position::ends(from, self.bytes),
            Advance::Opaque => [from.checked_add(1), None],
        }
    }

    /// Whether it accounts by itself for all that it saw move.
    pub(super) fn is_tight(&self) -> bool {
        self.advance != Advance::Opaque && !self.rough && self.ends(self.low).contains(&Some(self.high))
    }
}

/// A call in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    /// Index of the piece.
    pub(super) index: usize,
    /// Where it began and ended; within a group in doubt one possibility of several. `None` if a call before it moved
    /// the position by an unknown way.
    pub(super) span: Option<(u64, u64)>,
    /// Whether every possible order has the same calls before it, but for those of its own process.
    pub(super) exact: bool,
}

/// What can be said of the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All pieces in order; where that is in doubt in an order that is possible.
    Settled(Vec<Placed>),
    /// No order accounts for what was seen: a call is missing.
    Missing,
}

/// Bit of a piece in a set of them.
fn bit(index: usize) -> u64 {
    1 << index
}

/// A set of calls done and the position after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    done: u64,
    position: u64,
    /// The position is only a lower bound.
    vague: bool,
}

struct Search<'a> {
    pieces: &'a [Piece],
    /// All positions that any call saw, ascending.
    seen: Vec<u64>,
    /// For each piece those that had ended when it began.
    earlier: Vec<u64>,
    /// Calls of more than one process are among the pieces.
    mixed: bool,
}

impl<'a> Search<'a> {
    fn new(pieces: &'a [Piece]) -> Search<'a> {
        let highs = pieces.iter().filter(|piece| !piece.rough).map(|piece| piece.high);
        let mut seen: Vec<u64> = pieces.iter().map(|piece| piece.low).chain(highs).collect();
        seen.retain(|position| !position::is_vague(*position));
        seen.sort_unstable();
        seen.dedup();
        let earlier = pieces
            .iter()
            .map(|piece| {
                let ended = |(_, other): &(usize, &Piece)| other.time < piece.enter;
                pieces.iter().enumerate().filter(ended).fold(0, |set, (index, _)| set | bit(index))
            })
            .collect();
        let mixed = pieces.iter().any(|piece| piece.process != pieces[0].process);
        Search { pieces, seen, earlier, mixed }
    }

    /// Whether a call that is not done ended below the position: no way leads on from here.
    fn dead(&self, state: State) -> bool {
        let late =
            |(index, piece): (usize, &Piece)| state.done & bit(index) == 0 && piece.high <= state.position;
        self.pieces.iter().enumerate().any(late)
    }

    /// The states that one more call leads to.
    fn next(&self, state: State, mut each: impl FnMut(State)) {
        for (index, piece) in self.pieces.iter().enumerate() {
            let free = state.done & bit(index) == 0 && self.earlier[index] & !state.done == 0;
            let done = state.done | bit(index);
            if !free || (piece.low > state.position && !state.vague) {
                continue;
            }
            let vague = state.vague || piece.advance == Advance::Opaque;
            let from = state.position.max(piece.low);
            let ends = piece.ends(from);
            if vague {
                // The lowest end is a bound again; one that can be no higher is certain.
                if let Some(position) = ends.into_iter().flatten().min().filter(|end| *end <= piece.high) {
                    each(State { done, position, vague: position < piece.high });
                }
                continue;
            }
            for position in ends.into_iter().flatten() {
                let moved = position > from || piece.bytes == 0;
                if moved && position <= piece.high && !self.torn(piece, from, position) {
                    each(State { done, position, vague });
                }
            }
        }
    }

    /// Whether somebody saw the middle of a move that happens in one piece, or, for one that does not, whether
    /// another process may have come between its parts.
    fn torn(&self, piece: &Piece, from: u64, end: u64) -> bool {
        match piece.advance {
            Advance::Pages if piece.bytes > position::ATOMIC => {
                self.mixed && (from != piece.low || end != piece.high)
            }
            Advance::Bytes | Advance::Pages => {
                let after = self.seen.partition_point(|position| *position <= from);
                self.seen.get(after).is_some_and(|position| *position < end)
            }
            Advance::Opaque => false,
        }
    }

    /// Whether all is accounted for: the calls done lead to the highest position, or where that is only a bound, somewhere between it and
    /// the highest one that was seen.
    fn arrives(&self, state: State, goal: u64) -> bool {
        let highs = self.pieces.iter().filter(|piece| !piece.rough).map(|piece| piece.high);
        let seen = highs.filter(|high| *high != u64::MAX).max().unwrap_or(0);
        if seen < goal {
            // The page is that of the one who began it; if there is nobody else, it is known.
            let page = self.mixed || state.position >> 32 == goal >> 32;
            return !state.vague && page && (seen..=goal).contains(&state.position);
        }
        state.position == goal || (state.vague && state.position <= goal)
    }

    /// The states of each step that lie on a way from `starts` to all calls done at `goal`. Empty if there is none.
    fn levels(&self, starts: &[u64], goal: u64) -> Vec<Vec<State>> {
        let mut levels: Vec<Vec<State>> =
            vec![starts.iter().map(|start| State { done: 0, position: *start, vague: false }).collect()];
        let mut states = 0;
        for step in 0..self.pieces.len() {
            let mut reached = Vec::new();
            for state in &levels[step] {
                self.next(*state, |state| {
                    if !self.dead(state) {
                        reached.push(state);
                    }
                });
            }
            reached.sort_unstable();
            reached.dedup();
            states += reached.len();
            if reached.is_empty() || states > STATES {
                return Vec::new();
            }
            levels.push(reached);
        }
        let last = &mut levels[self.pieces.len()];
        last.retain(|state| self.arrives(*state, goal));
        if last.iter().any(|state| !state.vague && state.position != last[0].position) {
            // Each may be where they ended.
            return Vec::new();
        }
        for step in (0..self.pieces.len()).rev() {
            let (before, after) = levels.split_at_mut(step + 1);
            let kept = &after[0];
            before[step].retain(|state| {
                let mut leads = false;
                self.next(*state, |next| leads |= kept.binary_search(&next).is_ok());
                leads
            });
        }
        if levels[0].is_empty() { Vec::new() } else { levels }
    }
}

/// The first piece that may begin at `floor`, and all that may have moved the position below where it saw it, or
/// below where they did. Without one that may begin there, the first piece is taken.
pub(super) fn window(pieces: &[Piece], floor: u64) -> Vec<usize> {
    let first = pieces.iter().position(|piece| piece.low <= floor && piece.high > floor).unwrap_or(0);
    let mut window = vec![first];
    let mut reach = pieces.get(first).map_or(0, Piece::reach);
    loop {
        let before = window.len();
        for (index, piece) in pieces.iter().enumerate() {
            if window.len() < WINDOW && piece.low < reach && !window.contains(&index) {
                window.push(index);
                if reach == u64::MAX || (piece.high != u64::MAX && piece.reach() > reach) {
                    reach = piece.reach();
                }
            }
        }
        if window.len() == before {
            window.sort_unstable();
            return window;
        }
    }
}

/// Orders `pieces` (given in the order of the channel's books), the first of which begins at one of `starts`.
pub(super) fn decide(pieces: &[Piece], starts: &[u64]) -> Verdict {
    debug_assert!(pieces.len() <= WINDOW, "the caller keeps to the window");
    let Some(goal) = pieces.iter().map(|piece| piece.high).filter(|high| *high != u64::MAX).max() else {
        return Verdict::Missing;
    };
    let search = Search::new(pieces);
    let levels = search.levels(starts, goal);
    let Some(mut state) = levels.first().and_then(|starts| starts.first()).copied() else {
        return Verdict::Missing;
    };
    let mut placed: Vec<Placed> = Vec::with_capacity(pieces.len());
    // Where the calls done are the same in all orders: a group in doubt ends there.
    let mut begun = 0;
    for level in &levels[1..] {
        let from = state;
        // Of the ways that lead on the one closest to the books.
        let mut best: Option<State> = None;
        search.next(from, |next| {
            let closer = best.is_none_or(|best| (next.done & !from.done) < (best.done & !from.done));
            if closer && level.binary_search(&next).is_ok() {
                best = Some(next);
            }
        });
        let Some(next) = best else { return Verdict::Missing };
        let index = (next.done & !from.done).trailing_zeros() as usize;
        let known = !from.vague && !next.vague;
        let span = known.then_some((from.position, next.position));
        placed.push(Placed { index, span, exact: true });
        state = next;
        if level.iter().all(|other| other.done == next.done) {
            let group = &mut placed[begun..];
            let process = pieces[group[0].index].process;
            let exact = group.iter().all(|placed| pieces[placed.index].process == process);
            group.iter_mut().for_each(|placed| placed.exact = exact);
            begun = placed.len();
        }
    }
    Verdict::Settled(placed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(process: u32, times: (u64, u64), span: (u64, u64), bytes: u64) -> Piece {
        Piece {
            process: (process, 1),
            enter: times.0,
            time: times.1,
            low: span.0,
            high: span.1,
            rough: false,
            bytes,
            advance: Advance::Pages,
        }
    }

    fn at(head: u64, end: u64) -> u64 {
        head << 32 | end
    }

    fn order(verdict: &Verdict) -> Vec<(usize, bool)> {
        match verdict {
            Verdict::Settled(placed) => placed.iter().map(|placed| (placed.index, placed.exact)).collect(),
            Verdict::Missing => Vec::new(),
        }
    }

    #[test]
    fn a_lone_write_is_certain() {
        let verdict = decide(&[write(1, (0, 1), (at(1, 10), at(1, 15)), 5)], &[at(1, 10)]);
        assert_eq!(order(&verdict), [(0, true)]);
    }

    #[test]
    fn a_write_that_began_above_the_end_reveals_another() {
        let verdict = decide(&[write(1, (0, 1), (at(1, 20), at(1, 25)), 5)], &[at(1, 10)]);
        assert_eq!(verdict, Verdict::Missing);
    }

    #[test]
    fn a_write_that_ended_too_high_reveals_another() {
        let verdict = decide(&[write(1, (0, 1), (at(1, 10), at(1, 25)), 5)], &[at(1, 10)]);
        assert_eq!(verdict, Verdict::Missing);
    }

    #[test]
    fn the_later_exit_wrote_first() {
        let late = write(2, (0, 9), (at(1, 10), at(1, 25)), 10);
        let early = write(1, (2, 3), (at(1, 20), at(1, 25)), 5);
        assert_eq!(order(&decide(&[early, late], &[at(1, 10)])), [(1, true), (0, true)]);
    }

    #[test]
    fn alike_writes_that_saw_the_same_are_in_doubt_and_the_next_is_not() {
        let one = write(1, (0, 5), (at(1, 10), at(1, 20)), 5);
        let two = write(2, (0, 5), (at(1, 10), at(1, 20)), 5);
        let three = write(1, (6, 7), (at(1, 20), at(1, 23)), 3);
        assert_eq!(order(&decide(&[one, two, three], &[at(1, 10)])), [(0, false), (1, false), (2, true)]);
    }

    #[test]
    fn threads_of_one_process_are_never_in_doubt() {
        let one = write(1, (0, 5), (at(1, 10), at(1, 20)), 5);
        assert_eq!(order(&decide(&[one, one], &[at(1, 10)])), [(0, true), (1, true)]);
    }

    #[test]
    fn a_bound_is_not_seen() {
        let rough = |piece: Piece| Piece { rough: true, ..piece };
        let first = rough(write(1, (0, 1), (at(1, 10), at(1, 20)), 5));
        let settled =
            |exact| Verdict::Settled(vec![Placed { index: 0, span: Some((at(1, 10), at(1, 15))), exact }]);
        // Nobody else is known, and it ended where it had to.
        assert_eq!(decide(&[first], &[at(1, 10)]), settled(true));
        let next = write(1, (2, 3), (at(1, 15), at(1, 23)), 8);
        assert_eq!(order(&decide(&[first, next], &[at(1, 10)])), [(0, true), (1, true)]);
        // What another wrote meanwhile may stand before it or behind it.
        let other = write(2, (0, 1), (at(1, 10), at(1, 20)), 5);
        assert_eq!(order(&decide(&[first, other], &[at(1, 10)])), [(0, false), (1, false)]);
        // A page that was begun is its own, unless there are others.
        let fresh = rough(write(1, (0, 1), (at(1, 10), at(2, 20)), 5));
        let span = |verdict: &Verdict| match verdict {
            Verdict::Settled(placed) => placed[0].span,
            Verdict::Missing => None,
        };
        assert_eq!(span(&decide(&[fresh], &[at(1, 10)])), Some((at(1, 10), at(2, 5))));
        let other = rough(Piece { enter: 2, time: 3, bytes: 8, process: (2, 1), ..fresh });
        assert_eq!(decide(&[fresh, other], &[at(1, 10)]), Verdict::Missing);
        // Until somebody sees where they ended.
        let next = write(1, (4, 5), (at(1, 23), at(1, 24)), 1);
        assert_eq!(order(&decide(&[fresh, other, next], &[at(1, 10)])), [(0, true), (1, true), (2, true)]);
        let behind = write(1, (4, 5), (at(2, 20), at(2, 21)), 1);
        assert_eq!(window(&[fresh, behind], at(1, 10)), [0, 1]);
    }

    #[test]
    fn an_opaque_call_is_only_bounded_by_what_others_saw() {
        let opaque = Piece { advance: Advance::Opaque, ..write(2, (0, 9), (at(1, 10), at(4, 9)), 5000) };
        let above = write(1, (2, 3), (at(4, 4), at(4, 9)), 5);
        assert_eq!(order(&decide(&[above, opaque], &[at(1, 10)])), [(1, true), (0, true)]);
        let anywhere = write(1, (2, 3), (at(1, 10), at(4, 9)), 5);
        assert_eq!(order(&decide(&[anywhere, opaque], &[at(1, 10)])), [(0, false), (1, false)]);
    }
}
