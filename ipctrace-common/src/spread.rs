//! Places in an array for keys of any kind: a key's home, and where it goes if that is taken.
//!
//! Keys come in rows: the numbers of inodes one after the other, the addresses of sockets at one distance. Multiplied they are spread so
//! evenly that rows hardly collide with themselves, which is why homes are found so. But what is spread evenly lies in a grid: whoever
//! finds his home taken and looks on at one distance, whatever it is, may meet nothing but the points of that grid, long before the array
//! is full. So each further place is found by mixing again what the one before was found by.

use crate::config::CHANNELS;
use crate::wire::Key;

/// 2⁶⁴ over the golden ratio. What is multiplied by it differs in the upper bits.
pub const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// How many places are looked at for one that is free.
pub const ATTEMPTS: u32 = 64;

/// One of the places at which the books of a channel may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u64);

impl Place {
    /// Where a channel is at home.
    #[inline(always)]
    #[must_use]
    pub const fn home(key: &Key) -> Place {
        Place((key.id ^ key.space.rotate_left(32)).wrapping_mul(SPREAD))
    }

    /// Which one it is of [`CHANNELS`].
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> u32 {
        const _: () = assert!(CHANNELS.is_power_of_two());
        (self.0 >> (u64::BITS - CHANNELS.ilog2())) as u32
    }

    /// The next one to be looked at.
    #[inline(always)]
    #[must_use]
    pub const fn next(self) -> Place {
        Place((self.0 ^ self.0 >> 32).wrapping_mul(SPREAD))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;

    use super::*;
    use crate::config::CHANNELS_KNOWN;

    /// As many channels as there are at most, but for a moment.
    const MANY: u64 = CHANNELS_KNOWN as u64;

    /// Has every key take a place; gives how many find none.
    fn lost(keys: impl Iterator<Item = Key>) -> usize {
        let mut taken = vec![false; CHANNELS as usize];
        keys.filter(|key| {
            let mut place = Place::home(key);
            for _ in 0..ATTEMPTS {
                let taken = &mut taken[place.index() as usize];
                if !*taken {
                    *taken = true;
                    return false;
                }
                place = place.next();
            }
            true
        })
        .count()
    }

    #[test]
    fn rows_of_keys_find_places() {
        for distance in [1, 2, 3, 8, 21, 34, 64, 1088, 4096] {
            let row = |number| Key { id: 10_000 + number * distance, space: 13 };
            assert_eq!(lost((0..MANY).map(row)), 0, "at a distance of {distance}");
        }
    }

    #[test]
    fn rows_of_keys_among_others_find_places() {
        for distance in [1, 2, 3, 1088] {
            let of = |number: u64| {
                let other = number.wrapping_mul(number).wrapping_mul(0x2545_f491_4f6c_dd1d) >> 36;
                let space = if number.is_multiple_of(2) { 13 } else { 33 | other << 32 };
                Key { id: 10_000 + number / 2 * distance, space }
            };
            assert_eq!(lost((0..MANY).map(of)), 0, "at a distance of {distance}");
        }
    }
}
