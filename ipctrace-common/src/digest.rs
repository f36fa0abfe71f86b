//! What is kept of a message's content, so that a receive is joined to the very message that it took.
//!
//! Not one number for the whole but one for each of four beginnings, so that a message of which only the beginning was
//! received can be compared too.

/// How many words of content are looked at.
pub const WORDS: usize = 8;
/// Bytes of content that are looked at.
pub const BYTES: u64 = WORDS as u64 * 8;
/// The shortest beginning, in bytes: of less of a message nothing can be compared.
pub const SHORTEST: u64 = 8;
/// The beginnings, in bytes: 16 bits of the digest for each, the shortest in the highest bits.
const BEGINNINGS: [u64; 4] = [SHORTEST, 16, 32, 64];
/// Odd, with bits all over: the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// The digest of a content, given as words with zeros behind its end. Never 0.
#[inline(always)]
pub const fn of(words: &[u64; WORDS]) -> u64 {
    let (mut mixed, mut digest, mut index) = (FACTOR, 0, 0);
    while index < WORDS {
        mixed = (mixed ^ words[index]).wrapping_mul(FACTOR);
        mixed ^= mixed >> 29;
        index += 1;
        if index.is_power_of_two() {
            digest = digest << 16 | mixed.wrapping_mul(FACTOR) >> 48;
        }
    }
    digest | 1
}

/// Whether two messages may be alike in their first `common` bytes, by their digests (0: none was taken).
///
/// `whole`: `common` is the length of both, so that what is behind it is alike as well.
pub fn agree(one: u64, two: u64, common: u64, whole: bool) -> bool {
    if one == 0 || two == 0 {
        return true;
    }
    BEGINNINGS
        .iter()
        .zip([48, 32, 16, 0])
        .filter(|(length, _)| whole || **length <= common)
        .all(|(_, shift)| one >> shift & 0xffff == two >> shift & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(content: &[u8]) -> u64 {
        let mut words = [0; WORDS];
        for (index, byte) in content.iter().take(BYTES as usize).enumerate() {
            words[index / 8] |= u64::from(*byte) << (index % 8 * 8);
        }
        of(&words)
    }

    #[test]
    fn equal_contents_agree_and_others_do_not() {
        let content: [u8; 64] = core::array::from_fn(|index| index as u8);
        for len in 0..64 {
            let whole = digest(&content[..len]);
            assert!(whole != 0 && agree(whole, whole, len as u64, true));
            for place in 0..len {
                let mut other = content;
                other[place] ^= 0x40;
                assert!(!agree(whole, digest(&other[..len]), len as u64, true), "{place} of {len}");
            }
        }
    }

    #[test]
    fn a_beginning_agrees_with_its_whole() {
        let content: [u8; 64] = core::array::from_fn(|index| (index as u8).wrapping_mul(7));
        for len in 0..64 {
            assert!(agree(digest(&content), digest(&content[..len]), len as u64, false), "{len}");
        }
        assert!(!agree(digest(&content), digest(&[9; 20]), 20, false));
        assert!(agree(0, digest(&content), 64, true));
    }
}
