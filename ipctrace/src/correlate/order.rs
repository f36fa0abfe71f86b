//! The order of calls that overlapped in time, from what they saw of the object.
//!
//! Each call moved the object's position once, from somewhere at or above `low` (what it saw when it began) to somewhere
//! at or below `high` (what it saw when it ended). All orders of the calls that agree with every one of these bounds,
//! and that account for everything between the start and the highest bound, are found; where they agree with one
//! another the order is certain.

use super::position;

/// Most calls that are ordered together: the states are the subsets of them.
pub(super) const WINDOW: usize = 12;
/// Most states that are looked at.
const STATES: usize = 8192;

/// How far a call moves the position from where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advance {
    /// By its bytes: positions are offsets in the stream.
    Bytes,
    /// As a write into pages does.
    Pages,
    /// Unknown: to any position that another call saw, or its own `high`.
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
    /// Bytes moved.
    pub(super) bytes: u64,
    /// How they move the position.
    pub(super) advance: Advance,
}

impl Piece {
    /// Positions where it may end if it begins at `from`.
    fn ends(&self, from: u64, seen: &[u64]) -> impl Iterator<Item = u64> {
        let fixed = match self.advance {
            Advance::Bytes => [from.checked_add(self.bytes), None],
            Advance::Pages => position::ends(from, self.bytes),
            Advance::Opaque => [None, None],
        };
        let jumps = if self.advance == Advance::Opaque { seen } else { &[] };
        let high = self.high;
        fixed
            .into_iter()
            .flatten()
            .chain(jumps.iter().copied())
            .filter(move |end| *end <= high && (*end > from || self.bytes == 0))
    }
}

/// Calls that stand together: one, or several whose order among themselves could not be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Indices of the pieces, ascending.
    pub(super) members: Vec<usize>,
    /// Where the block begins and ends, if only one position is possible.
    pub(super) span: Option<(u64, u64)>,
    /// Whether no two processes are in doubt.
    pub(super) exact: bool,
}

/// What can be said of the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All pieces stand, in this order, and end there.
    Settled(Vec<Block>, u64),
    /// No order accounts for what was seen: a call is missing.
    Missing,
}

/// Bit of a piece in a set of them.
fn bit(index: usize) -> u32 {
    1 << index
}

/// A set of calls done and the position after them.
type State = (u32, u64);

struct Search<'a> {
    pieces: &'a [Piece],
    /// All positions that any call saw, ascending.
    seen: Vec<u64>,
    /// For each piece those that had ended when it began.
    earlier: Vec<u32>,
    /// Calls of more than one process are among the pieces.
    mixed: bool,
}

impl<'a> Search<'a> {
    fn new(pieces: &'a [Piece]) -> Search<'a> {
        let mut seen: Vec<u64> = pieces.iter().flat_map(|piece| [piece.low, piece.high]).collect();
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

    /// The states that one more call leads to.
    fn next(&self, (done, from): State, mut each: impl FnMut(State)) {
        for (index, piece) in self.pieces.iter().enumerate() {
            let free = done & bit(index) == 0 && self.earlier[index] & !done == 0 && piece.low <= from;
            if !free {
                continue;
            }
            for end in piece.ends(from, &self.seen) {
                if !self.torn(piece, from, end) {
                    each((done | bit(index), end));
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

    /// The states of each step that lie on a way from `starts` to all calls done at `goal`. Empty if there is none.
    fn levels(&self, starts: &[u64], goal: u64) -> Vec<Vec<State>> {
        let mut levels: Vec<Vec<State>> = vec![starts.iter().map(|start| (0, *start)).collect()];
        let mut states = 0;
        for step in 0..self.pieces.len() {
            let mut reached = Vec::new();
            for state in &levels[step] {
                self.next(*state, |state| reached.push(state));
            }
            reached.sort_unstable();
            reached.dedup();
            states += reached.len();
            if reached.is_empty() || states > STATES {
                return Vec::new();
            }
            levels.push(reached);
        }
        levels[self.pieces.len()].retain(|(_, position)| *position == goal);
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

/// The one position of all states of a step, if it is one.
fn only(states: &[State]) -> Option<u64> {
    let first = states.first()?.1;
    states.iter().all(|state| state.1 == first).then_some(first)
}

/// The first piece and all that may have moved the position below where it saw it, or below where they did.
pub(super) fn window(pieces: &[Piece]) -> Vec<usize> {
    let mut window = vec![0];
    let mut high = pieces.first().map_or(0, |piece| piece.high);
    loop {
        let before = window.len();
        for (index, piece) in pieces.iter().enumerate() {
            if window.len() < WINDOW && piece.low < high && !window.contains(&index) {
                window.push(index);
                if high == u64::MAX || (piece.high != u64::MAX && piece.high > high) {
                    high = piece.high;
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
    if levels.is_empty() {
        return Verdict::Missing;
    }
    let mut blocks = Vec::new();
    let mut begun = 0;
    for step in 1..levels.len() {
        let done = levels[step][0].0;
        if levels[step].iter().any(|state| state.0 != done) {
            continue;
        }
        let inside = done & !levels[begun][0].0;
        let members: Vec<usize> = (0..pieces.len()).filter(|index| inside & bit(*index) != 0).collect();
        let exact = members.iter().all(|index| pieces[*index].process == pieces[members[0]].process);
        let span = only(&levels[begun]).zip(only(&levels[step]));
        blocks.push(Block { members, span, exact });
        begun = step;
    }
    Verdict::Settled(blocks, goal)
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
            bytes,
            advance: Advance::Pages,
        }
    }

    fn at(head: u64, end: u64) -> u64 {
        head << 32 | end
    }

    fn order(verdict: &Verdict) -> Vec<(Vec<usize>, bool)> {
        match verdict {
            Verdict::Settled(blocks, _) => {
                blocks.iter().map(|block| (block.members.clone(), block.exact)).collect()
            }
            Verdict::Missing => Vec::new(),
        }
    }

    #[test]
    fn a_lone_write_is_certain() {
        let verdict = decide(&[write(1, (0, 1), (at(1, 10), at(1, 15)), 5)], &[at(1, 10)]);
        assert_eq!(order(&verdict), [(vec![0], true)]);
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
        assert_eq!(order(&decide(&[early, late], &[at(1, 10)])), [(vec![1], true), (vec![0], true)]);
    }

    #[test]
    fn alike_writes_that_saw_the_same_are_in_doubt_and_the_next_is_not() {
        let one = write(1, (0, 5), (at(1, 10), at(1, 20)), 5);
        let two = write(2, (0, 5), (at(1, 10), at(1, 20)), 5);
        let three = write(1, (6, 7), (at(1, 20), at(1, 23)), 3);
        assert_eq!(order(&decide(&[one, two, three], &[at(1, 10)])), [(vec![0, 1], false), (vec![2], true)]);
    }

    #[test]
    fn threads_of_one_process_are_never_in_doubt() {
        let one = write(1, (0, 5), (at(1, 10), at(1, 20)), 5);
        assert_eq!(order(&decide(&[one, one], &[at(1, 10)])), [(vec![0, 1], true)]);
    }

    #[test]
    fn an_opaque_call_fills_what_others_saw() {
        let opaque = Piece { advance: Advance::Opaque, ..write(2, (0, 9), (at(1, 10), at(4, 9)), 5000) };
        let write = write(1, (2, 3), (at(4, 4), at(4, 9)), 5);
        assert_eq!(order(&decide(&[write, opaque], &[at(1, 10)])), [(vec![1], true), (vec![0], true)]);
    }
}
