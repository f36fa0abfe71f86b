//! Writes that the kernel took apart.
//!
//! A write of more than PIPE_BUF may fill the pipe and sleep with a part of it written; what others write meanwhile stands between
//! its parts (pipe(7)). If all others stand where they saw themselves, what is between them is of the one that was torn, page for
//! page, and its length says whether that is so.

use super::order::{Advance, Piece};
use super::position::{self, OFFSET, PAGE};

/// A call, or one part of it, in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Index of the piece.
    pub(super) index: usize,
    /// Where it began and ended.
    pub(super) span: (u64, u64),
    /// How many bytes of the call it is.
    pub(super) bytes: u64,
}

/// Where everything stands between `start` and the highest position that was seen, if one of the calls was torn and all others
/// were not. `None` if that does not account for what was seen.
pub(super) fn parts(pieces: &[Piece], start: u64) -> Option<Vec<Part>> {
    if pieces.iter().any(|piece| piece.rough) {
        return None;
    }
    let is_torn = |piece: &Piece| {
        piece.advance == Advance::Pages && piece.bytes > position::ATOMIC && !piece.is_tight()
    };
    let mut torn = (0..pieces.len()).filter(|index| is_torn(&pieces[*index]));
    let (index, None) = (torn.next()?, torn.next()) else { return None };
    let whole = &pieces[index];
    let mut others: Vec<usize> = (0..pieces.len()).filter(|other| *other != index).collect();
    let whole_where_seen = |piece: &Piece| match piece.advance {
        Advance::Pages => piece.bytes <= position::ATOMIC && piece.is_tight(),
        Advance::Opaque => true,
        Advance::Bytes => false,
    };
    if !others.iter().all(|other| whole_where_seen(&pieces[*other])) {
        return None;
    }
    others.sort_unstable_by_key(|other| pieces[*other].low);
    let mut parts: Vec<Part> = Vec::with_capacity(pieces.len() * 2);
    let mut at = start;
    // A last gap, up to where the torn one ended, if nobody is behind it.
    let gap = |from: u64, to: u64, parts: &mut Vec<Part>| {
        let fits = whole.low <= from && from < to && to <= whole.high;
        parts.push(Part { index, span: (from, to), bytes: 0 });
        fits
    };
    for other in others {
        let Piece { low, high, bytes, .. } = pieces[other];
        if low < at || high == u64::MAX || (low > at && !gap(at, low, &mut parts)) {
            return None;
        }
        parts.push(Part { index: other, span: (low, high), bytes });
        at = high;
    }
    if at < whole.high && !gap(at, whole.high, &mut parts) {
        return None;
    }
    fill(whole, index, &mut parts).then_some(parts)
}

/// Gives each part of the torn call its bytes: all of its pages are full but the last. False if they are not what it wrote.
fn fill(whole: &Piece, index: usize, parts: &mut [Part]) -> bool {
    let odd = whole.bytes % PAGE;
    let merges = |from: u64| odd > 0 && from >> 32 > 0 && (from & OFFSET) + odd <= PAGE;
    // A write into a page of its own does not show whether the torn one put its odd part into the page before it.
    let hidden = parts.iter().take_while(|part| part.index != index).any(|part| {
        let (from, to) = part.span;
        from >= whole.low && merges(from) && position::hides(from, to, part.bytes)
    });
    let mut own: Vec<&mut Part> = parts.iter_mut().filter(|part| part.index == index).collect();
    let count = own.len();
    let mut total = 0;
    for (place, part) in own.iter_mut().enumerate() {
        let (from, to) = part.span;
        let (pages, end) = ((to >> 32).wrapping_sub(from >> 32), to & OFFSET);
        part.bytes = match pages {
            // Only what it began with can have gone into a page that was there.
            0 if place == 0 => 0,
            0 => return false,
            pages if place + 1 == count => (pages - 1) * PAGE + end,
            pages if end == PAGE => pages * PAGE,
            _ => return false,
        };
        total += part.bytes;
    }
    let Some(first) = own.first_mut() else { return false };
    let (from, to) = first.span;
    let in_place = from >> 32 == to >> 32;
    if merges(from)
        && !hidden
        && total + odd == whole.bytes
        && (!in_place || (to & OFFSET) == (from & OFFSET) + odd)
    {
        first.bytes += odd;
        return true;
    }
    total == whole.bytes && !in_place
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(page: u64, offset: u64) -> u64 {
        page << 32 | offset
    }

    fn write(process: u32, span: (u64, u64), bytes: u64) -> Piece {
        Piece {
            process: (process, 1),
            enter: 0,
            time: 9,
            low: span.0,
            high: span.1,
            rough: false,
            bytes,
            advance: Advance::Pages,
        }
    }

    #[test]
    fn what_is_between_the_others_is_of_the_one_that_was_torn() {
        let pieces = [
            write(2, (at(3, PAGE), at(4, 50)), 50),
            write(1, (at(1, 10), at(7, 100)), 4 * PAGE + 100),
            write(2, (at(4, 50), at(4, 60)), 10),
        ];
        let expected = [
            Part { index: 1, span: (at(1, 10), at(3, PAGE)), bytes: 2 * PAGE },
            Part { index: 0, span: (at(3, PAGE), at(4, 50)), bytes: 50 },
            Part { index: 2, span: (at(4, 50), at(4, 60)), bytes: 10 },
            Part { index: 1, span: (at(4, 60), at(7, 100)), bytes: 2 * PAGE + 100 },
        ];
        assert_eq!(parts(&pieces, at(1, 10)).as_deref(), Some(&expected[..]));
        // Somebody else wrote, too.
        let less = Piece { bytes: 3 * PAGE + 100, ..pieces[1] };
        assert_eq!(parts(&[pieces[0], less, pieces[2]], at(1, 10)), None);
    }

    #[test]
    fn its_odd_part_may_be_in_the_page_that_was_there() {
        let pieces =
            [write(1, (at(1, 10), at(4, PAGE)), 2 * PAGE + 100), write(2, (at(2, PAGE), at(3, 5)), 5)];
        let expected = [
            Part { index: 0, span: (at(1, 10), at(2, PAGE)), bytes: PAGE + 100 },
            Part { index: 1, span: (at(2, PAGE), at(3, 5)), bytes: 5 },
            Part { index: 0, span: (at(3, 5), at(4, PAGE)), bytes: PAGE },
        ];
        assert_eq!(parts(&pieces, at(1, 10)).as_deref(), Some(&expected[..]));
    }

    #[test]
    fn where_its_odd_part_is_may_be_hidden() {
        // Before the other in its page, or behind it.
        let pieces =
            [write(2, (at(5, 2721), at(6, 3753)), 3753), write(1, (at(5, 2721), at(7, PAGE)), PAGE + 96)];
        assert_eq!(parts(&pieces, at(5, 2721)), None);
    }

    #[test]
    fn two_that_were_torn_are_not_told_apart() {
        let pieces =
            [write(1, (at(1, 10), at(7, PAGE)), 3 * PAGE), write(2, (at(1, 10), at(7, PAGE)), 3 * PAGE)];
        assert_eq!(parts(&pieces, at(1, 10)), None);
    }
}
