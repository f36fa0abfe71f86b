//! Positions in a pipe, and where a write that nobody disturbs moves them.
//!
//! A writer's position is `head << 32 | end of the last buffer`, a reader's `tail << 32 | start of the first buffer`.
//! The kernel keeps a pipe as a ring of pages: a write puts the odd part of its length behind what the last page
//! holds, if it fits there and the pipe is not empty, and the rest into new pages (`pipe_write` in `fs/pipe.c`).

use std::num::NonZero;

/// Bytes of a pipe buffer: the page size of the machines that ipctrace runs on.
pub(super) const PAGE: u64 = 4096;
/// The part of a position that is an offset within a page.
pub(super) const OFFSET: u64 = 0xffff_ffff;

/// Largest write that the kernel puts into a pipe in one piece, PIPE_BUF.
pub(super) const ATOMIC: u64 = PAGE;

/// A writer's position from its two halves. `head` wraps as the kernel's counter does.
fn position(head: u64, end: u64) -> u64 {
    (head & OFFSET) << 32 | end
}

/// Where a lone write of `bytes` that begins at `from` may end: behind the last buffer, and in new buffers.
pub(super) fn ends(from: u64, bytes: u64) -> [Option<u64>; 2] {
    if bytes == 0 {
        return [Some(from), None];
    }
    let (head, end) = (from >> 32, from & OFFSET);
    let (pages, part) = (bytes / PAGE, bytes % PAGE);
    let merged = (part > 0 && head > 0 && end + part <= PAGE).then(|| match pages {
        0 => position(head, end + part),
        pages => position(head.wrapping_add(pages), PAGE),
    });
    let last = if part == 0 { PAGE } else { part };
    [merged, Some(position(head.wrapping_add(bytes.div_ceil(PAGE)), last))]
}

/// Whether where a write of `bytes` ended does not show that another came between `from` and its beginning: a small
/// one, that went into what was left of the last page.
pub(super) fn hides(from: u64, to: u64, bytes: u64) -> bool {
    let merged = bytes < PAGE && from >> 32 == to >> 32;
    !merged && from & OFFSET < PAGE && from >> 32 > 0
}

/// Whether of a writer's position only the page is known: the buffer there was just being filled in, or read to its end.
pub(super) fn is_vague(position: u64) -> bool {
    position & OFFSET == 0 && position >> 32 > 0
}

/// Where the bytes of one write stand in the pipe, in the readers' terms: in one word, also if there is none, for there is one with
/// each range of a stream.
///
/// From the highest bit down, and all bits inverted: page of the first byte, offset in it, and how many bytes stand in that page (the rest
/// begins at the next), [`Place::ALL`] if all do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(NonZero<u64>);

const _: () = assert!(PAGE < Place::ALL);

impl Place {
    /// Bits of how many bytes stand in the first page.
    const BITS: u32 = 13;
    const ALL: u64 = (1 << Place::BITS) - 1;

    /// `first`: position of the first byte. `merged`: how many stand in its page. What was spliced from a socket can be more than a page in
    /// one buffer, and lie behind as much: half a megabyte, else it has no place.
    fn new(first: u64, merged: u64) -> Option<Place> {
        let offset = (first & OFFSET) << Place::BITS;
        // More than a page holds is all of it in one buffer.
        let merged = if merged > PAGE { Place::ALL } else { merged };
        let fits = offset <= OFFSET;
        NonZero::new(!(first & !OFFSET | offset | merged)).filter(|_| fits).map(Place)
    }

    fn first(self) -> u64 {
        let bits = !self.0.get();
        bits & !OFFSET | (bits & OFFSET) >> Place::BITS
    }

    fn merged(self) -> u64 {
        match !self.0.get() & Place::ALL {
            Place::ALL => u64::MAX,
            merged => merged,
        }
    }

    /// The place of a lone write of `bytes` from one writer's position to another, if that is where it would end.
    pub(super) fn between(from: u64, to: u64, bytes: u64) -> Option<Place> {
        let [merged, fresh] = ends(from, bytes);
        let (head, end) = (from >> 32, from & OFFSET);
        if merged == Some(to) {
            Place::new(position(head.wrapping_sub(1), end), bytes % PAGE)
        } else if fresh == Some(to) {
            Place::new(position(head, 0), 0)
        } else {
            None
        }
    }

    /// The place of `bytes` that were spliced in from one writer's position to another: in pages of their own, wherever in them,
    /// so that it is known where if it is one page, or all are full.
    pub(super) fn spliced(from: u64, to: u64, bytes: u64) -> Option<Place> {
        let (head, end) = (from >> 32, to & OFFSET);
        let pages = (to >> 32).checked_sub(head)?;
        if pages == 1 {
            Place::new(position(head, end.checked_sub(bytes)?), bytes)
        } else {
            (pages > 0 && pages.checked_mul(PAGE) == Some(bytes)).then(|| Place::new(position(head, 0), 0))?
        }
    }

    /// The place of the `bytes` between a reader's position and a writer's, if they leave no page partly filled
    /// but the first and the last.
    pub(super) fn queued(from: u64, to: u64, bytes: u64) -> Option<Place> {
        let ((tail, start), (head, end)) = ((from >> 32, from & OFFSET), (to >> 32, to & OFFSET));
        let pages = head.checked_sub(tail)?;
        let (merged, total) = match pages {
            0 => return None,
            1 => (end.checked_sub(start)?, end.checked_sub(start)?),
            pages => {
                let first = PAGE.checked_sub(start)?;
                (first, first + (pages - 2).checked_mul(PAGE)? + end)
            }
        };
        (total == bytes).then(|| Place::new(from, merged))?
    }

    /// A reader's position with byte `offset` of the write next.
    pub(super) fn at(self, offset: u64) -> u64 {
        let (first, merged) = (self.first(), self.merged());
        if offset < merged {
            return first + offset;
        }
        let rest = offset - merged;
        let page = (first >> 32).wrapping_add(u64::from(merged > 0)).wrapping_add(rest / PAGE);
        position(page, rest % PAGE)
    }

    /// A reader's position with all `bytes` of the write taken and nothing behind them in their last page.
    pub(super) fn past(self, bytes: u64) -> u64 {
        match bytes {
            0 => self.first(),
            bytes => position((self.at(bytes - 1) >> 32).wrapping_add(1), 0),
        }
    }

    /// A reader's position with all `bytes` of the write taken and more behind them in their last page.
    pub(super) fn end(self, bytes: u64) -> u64 {
        match bytes {
            0 => self.first(),
            bytes => self.at(bytes - 1) + 1,
        }
    }

    /// Counts the pages from `next` on that the write has filled to the end. False if it left one before that out.
    pub(super) fn fills(self, bytes: u64, next: &mut u64) -> bool {
        if bytes == 0 {
            return true;
        }
        if self.first() >> 32 > *next {
            return false;
        }
        let end = self.end(bytes);
        let full = if end & OFFSET == PAGE { (end >> 32) + 1 } else { end >> 32 };
        *next = (*next).max(full);
        true
    }

    /// How many of the write's `bytes` a reader at `position` has behind it.
    pub(super) fn before(self, position: u64, bytes: u64) -> u64 {
        let (mut low, mut high) = (0, bytes);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.at(middle) < position { low = middle + 1 } else { high = middle }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spliced_into_one_page_or_full_ones_has_a_place() {
        let place = Place::spliced(position(7, 20), position(8, 3521), 17).expect("one page");
        assert_eq!((place.at(0), place.at(16)), (position(7, 3504), position(7, 3520)));
        assert_eq!((place.end(17), place.past(17)), (position(7, 3521), position(8, 0)));
        assert_eq!(place.before(position(7, 3510), 17), 6);
        let full = Place::spliced(position(7, 20), position(9, PAGE), 2 * PAGE).expect("two full pages");
        assert_eq!((full.at(0), full.at(PAGE)), (position(7, 0), position(8, 0)));
        assert_eq!(Place::spliced(position(7, 20), position(9, 30), 40), None, "parts of two pages");
        // As a network device's pages come.
        let large = Place::spliced(position(7, 20), position(8, 65_536), 40_000).expect("one buffer");
        assert_eq!((large.at(0), large.at(39_999)), (position(7, 25_536), position(7, 65_535)));
        assert_eq!((large.end(40_000), large.past(40_000)), (position(7, 65_536), position(8, 0)));
        assert_eq!(large.before(position(7, 30_536), 40_000), 5_000);
        assert_eq!(Place::spliced(position(7, 20), position(8, 1 << 21), 17), None, "too far in its pages");
        assert_eq!(Place::spliced(position(7, 20), position(8, 10), 17), None, "not its page");
    }

    #[test]
    fn a_small_write_goes_behind_the_last_buffer_or_into_a_new_one() {
        assert_eq!(ends(position(3, 100), 50), [Some(position(3, 150)), Some(position(4, 50))]);
        assert_eq!(ends(position(3, 4090), 50), [None, Some(position(4, 50))]);
        assert_eq!(ends(position(0, 0), 50), [None, Some(position(1, 50))]);
    }

    #[test]
    fn a_large_write_puts_its_odd_part_first_when_that_fits() {
        assert_eq!(ends(position(3, 100), 8292), [Some(position(5, 4096)), Some(position(6, 100))]);
        assert_eq!(ends(position(3, 100), 8192), [None, Some(position(5, 4096))]);
    }

    #[test]
    fn readers_find_each_byte_where_the_write_put_it() {
        let place = Place::between(position(3, 100), position(5, 4096), 8292).unwrap();
        assert_eq!(place.at(0), position(2, 100));
        assert_eq!(place.at(99), position(2, 199));
        assert_eq!(place.at(100), position(3, 0));
        assert_eq!(place.at(4196), position(4, 0));
        assert_eq!(place.past(8292), position(5, 0));
        for offset in [0, 1, 99, 100, 101, 4195, 4196, 8291] {
            assert_eq!(place.before(place.at(offset), 8292), offset);
        }
        assert_eq!(place.before(place.past(8292), 8292), 8292);
    }

    #[test]
    fn what_is_queued_has_a_place_if_its_pages_are_full() {
        let place = Place::queued(position(3, 100), position(6, 7), 3996 + 4096 + 7).unwrap();
        assert_eq!(place.at(3995), position(3, 4095));
        assert_eq!(place.at(3996), position(4, 0));
        assert_eq!(place.past(3996 + 4096 + 7), position(6, 0));
        assert_eq!(
            Place::queued(position(3, 100), position(4, 107), 7).map(|place| place.at(6)),
            Some(position(3, 106))
        );
        assert_eq!(Place::queued(position(3, 100), position(6, 7), 5000), None);
        assert_eq!(Place::queued(position(3, 0), position(3, 4096), 0), None);
    }

    #[test]
    fn a_write_that_was_not_alone_has_no_place() {
        assert_eq!(Place::between(position(3, 100), position(3, 151), 50), None);
    }

    #[test]
    fn the_head_wraps() {
        assert_eq!(ends(position(u64::from(u32::MAX), 4096), 1)[1], Some(position(0, 1)));
    }
}
