//! Where the books of channels stand, and how they are found.
//!
//! A channel has a home in an array, which its key says. Where that is taken its books stand elsewhere in it, and a hash table says
//! where: a look-up in one costs several calls within the kernel, each of which returns, and that is what is dear on processors
//! whose returns are guarded against speculation. Calls make two such look-ups each.
//!
//! The hash table knows all channels, and decides which of two processors opens the books of one.

use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use ipctrace_common::Cause;
use ipctrace_common::config::CHANNELS as MOST;
use ipctrace_common::wire::Key;

use crate::channel::Books;
use crate::kernel::Result;

/// Flag of bpf_map_update_elem: fail if the key is there.
pub(crate) const BPF_NOEXIST: u64 = 1;

/// `-EEXIST`.
const EXISTS: i32 = -17;

/// Whether what has been put into a hash table was the first with its key.
#[inline(always)]
fn is_first(put: core::result::Result<(), i32>) -> Result<bool> {
    match put {
        Ok(()) => Ok(true),
        Err(EXISTS) => Ok(false),
        Err(_) => Err(Cause::MapFull),
    }
}

/// The books of a channel.
#[inline(always)]
pub(crate) fn books(key: &Key) -> Option<*mut Books> {
    let books = find(key);
    if books.is_null() { None } else { Some(books) }
}

#[cfg(not(feature = "plain"))]
pub(crate) use placed::{close, close_those, find, open};

/// The books of channels in an array.
#[cfg(not(feature = "plain"))]
mod placed {
    use core::ptr::{null_mut, read_volatile, write_volatile};

    use aya_ebpf::maps::Array;
    use ipctrace_common::config::books_state::{CLOSING, FREE, OPEN, OPENING};
    use ipctrace_common::config::{BOOKS_PLACE, BOOKS_STATE};
    use ipctrace_common::spread;

    use super::{BPF_NOEXIST, Books, Cause, HashMap, Key, MOST, Result, is_first, map};
    use crate::kernel::exchange;
    use crate::repeat::{Repeat, repeat};
    use crate::ring::MMAPABLE;

    /// Room for the books of one channel. Zeros are a place that is free. What is looked at to find them is in a cache line that is
    /// hardly ever written to.
    #[repr(C, align(64))]
    struct Place {
        key: Key,
        /// See [`ipctrace_common::config::books_state`].
        state: u64,
        reserved: [u64; 5],
        books: Books,
    }

    const _: () = assert!(size_of::<Place>() == BOOKS_PLACE);
    const _: () = assert!(core::mem::offset_of!(Place, state) == BOOKS_STATE);

    /// What may be mapped begins at a page, and so each place at a cache line.
    #[map]
    static BOOKS: Array<Place> = Array::with_max_entries(MOST, MMAPABLE);

    /// For each home whether the books of a channel that belongs there had to go elsewhere. Stays so.
    #[map]
    static CROWDED: Array<u32> = Array::with_max_entries(MOST, 0);

    /// Channels seen so far, and where in [`BOOKS`] theirs are. User space removes those that it has forgotten.
    #[map]
    static CHANNELS: HashMap<Key, u32> = HashMap::with_max_entries(MOST, 0);

    /// The place of that number; `None` if it is that of no place.
    #[inline(always)]
    fn place_at(index: u32) -> Option<*mut Place> {
        BOOKS.get_ptr_mut(index & (MOST - 1)).filter(|_| index < MOST)
    }

    /// Whether a place has the key of that channel.
    ///
    /// # Safety
    /// `place` must be valid.
    #[inline(always)]
    unsafe fn is_of(place: *const Place, key: &Key) -> bool {
        // SAFETY: by contract; each field is read in one access.
        unsafe {
            read_volatile(&raw const (*place).key.id) == key.id
                && read_volatile(&raw const (*place).key.space) == key.space
        }
    }

    /// The books that stand at that place, if they are the channel's; else null.
    #[inline(always)]
    fn at(place: u32, key: &Key) -> *mut Books {
        let Some(place) = BOOKS.get_ptr_mut(place & (MOST - 1)) else {
            return null_mut();
        };
        // SAFETY: a valid, aligned pointer into the map; each field is read in one access.
        unsafe {
            let open = read_volatile(&raw const (*place).state) == OPEN && is_of(place, key);
            if open { &raw mut (*place).books } else { null_mut() }
        }
    }

    /// The books of a channel; null if it has none. No `Option`, as in [`crate::inflight`].
    #[inline(always)]
    pub(crate) fn find(key: &Key) -> *mut Books {
        let home = spread::Place::home(key).index();
        let books = at(home, key);
        if !books.is_null() {
            return books;
        }
        // SAFETY: a valid, aligned pointer into the map.
        if CROWDED.get_ptr(home).is_none_or(|crowded| unsafe { read_volatile(crowded) } == 0) {
            return null_mut();
        }
        at(elsewhere(key.id, key.space), key)
    }

    /// Where the books of a channel stand that are not at home; `u32::MAX`, which is no place of such, if there are none. The verifier
    /// looks at it by itself.
    #[unsafe(no_mangle)]
    #[inline(never)]
    pub extern "C" fn elsewhere(id: u64, space: u64) -> u32 {
        // SAFETY: a valid, aligned pointer into the map.
        CHANNELS.get_ptr(Key { id, space }).map_or(u32::MAX, |place| unsafe { read_volatile(place) })
    }

    /// Takes a free place for a channel, and gives which it is; `u32::MAX` if there is none. The verifier looks at it by itself.
    #[unsafe(no_mangle)]
    #[inline(never)]
    pub extern "C" fn take_books(id: u64, space: u64) -> u32 {
        let mut next = spread::Place::home(&Key { id, space });
        let home = next.index();
        for attempt in 0..spread::ATTEMPTS {
            let index = next.index();
            next = next.next();
            let Some(place) = BOOKS.get_ptr_mut(index) else {
                return u32::MAX;
            };
            // SAFETY: a valid, aligned pointer into the map.
            if unsafe { exchange(&raw mut (*place).state, FREE, OPENING) } != FREE {
                continue;
            }
            if attempt != 0
                && let Some(crowded) = CROWDED.get_ptr_mut(home)
            {
                // SAFETY: as above; whoever writes it writes the same.
                unsafe { write_volatile(crowded, 1) };
            }
            return index;
        }
        u32::MAX
    }

    /// Opens the books of a channel that has none, which begin with these; false if another CPU was first, which then tells of the
    /// channel. There are books after that.
    ///
    /// # Errors
    /// [`Cause::MapFull`] if there are too many channels, or if another CPU that closes those that were there does not come to an end.
    #[inline(always)]
    pub(crate) fn open(key: &Key, begin: &Books) -> Result<bool> {
        let index = take_books(key.id, key.space);
        let place = place_at(index).ok_or(Cause::MapFull)?;
        // SAFETY: a valid, aligned pointer into the map; the place is ours until its state says otherwise.
        unsafe {
            (*place).books = *begin;
            write_volatile(&raw mut (*place).key.space, key.space);
            write_volatile(&raw mut (*place).key.id, key.id);
        }
        let mut opened = is_first(CHANNELS.insert(key, index, BPF_NOEXIST));
        if opened == Ok(false) && opened_by_others(key.id, key.space) == 0 {
            // There were others, which have been closed.
            opened = is_first(CHANNELS.insert(key, index, BPF_NOEXIST));
            if opened == Ok(false) && opened_by_others(key.id, key.space) == 0 {
                opened = Err(Cause::MapFull);
            }
        }
        // SAFETY: as above. By atomic operations, across which nothing moves.
        unsafe {
            if matches!(opened, Ok(true)) {
                exchange(&raw mut (*place).state, OPENING, OPEN);
            } else {
                write_volatile(&raw mut (*place).key.id, 0);
                if exchange(&raw mut (*place).state, OPENING, FREE) == OPEN {
                    exchange(&raw mut (*place).state, OPEN, FREE);
                }
            }
        }
        opened
    }

    /// Another CPU has opened the books of a channel, or is about to, and may not be at it just now: what it has left to do is done
    /// here. 0 if there are none, or those that were there are being closed. The verifier looks at it by itself.
    #[unsafe(no_mangle)]
    #[inline(never)]
    pub extern "C" fn opened_by_others(id: u64, space: u64) -> i32 {
        let mut wait = Wait { key: Key { id, space }, open: false };
        repeat(&mut wait);
        i32::from(wait.open)
    }

    /// Looks at a place until its books are not being closed any more.
    struct Wait {
        key: Key,
        open: bool,
    }

    impl Repeat for Wait {
        /// Milliseconds: whoever closes them may have its processor taken away meanwhile, as a guest of a busy host, and the
        /// collector does it with a system call.
        const LIMIT: u32 = 1 << 16;
        const PLAIN_LIMIT: u32 = 16;

        #[inline(always)]
        fn turn(&mut self, _index: u32) -> bool {
            let index = elsewhere(self.key.id, self.key.space);
            let Some(place) = place_at(index) else {
                return true;
            };
            // SAFETY: a valid, aligned pointer into the map.
            unsafe {
                if !is_of(place, &self.key) {
                    return true;
                }
                let state = exchange(&raw mut (*place).state, OPENING, OPEN);
                self.open = state == OPENING || state == OPEN;
                state != CLOSING
            }
        }
    }

    /// Closes the books of a channel, if there are any.
    #[inline(always)]
    pub(crate) fn close(key: &Key) {
        close_books(key.id, key.space, 0, 0, 0);
    }

    /// Closes them if they are still those of which this is [`Books::identity`]: another CPU may have been faster, and have opened others.
    #[inline(always)]
    pub(crate) fn close_those(key: &Key, (inode, origin): (u64, u64)) {
        close_books(key.id, key.space, 1, inode, origin);
    }

    /// As [`close`], and [`close_those`] where they are to be of an identity. The verifier looks at it by itself.
    #[unsafe(no_mangle)]
    #[inline(never)]
    pub extern "C" fn close_books(id: u64, space: u64, those: u32, inode: u64, origin: u64) -> i32 {
        let key = Key { id, space };
        let index = elsewhere(id, space);
        let Some(place) = place_at(index) else {
            return 0;
        };
        let is_theirs = move || {
            // SAFETY: a valid, aligned pointer into the map; each field is read in one access.
            let (its, identity) = unsafe { (is_of(place, &key), Books::identity(&raw const (*place).books)) };
            its && (those == 0 || identity == (inode, origin))
        };
        // SAFETY: as above.
        if !is_theirs() || unsafe { exchange(&raw mut (*place).state, OPEN, CLOSING) } != OPEN {
            return 0;
        }
        // Now nobody else closes them, or opens others there.
        let state = if is_theirs() {
            // It is there.
            let _ = CHANNELS.remove(key);
            // SAFETY: as above.
            unsafe { write_volatile(&raw mut (*place).key.id, 0) };
            FREE
        } else {
            OPEN
        };
        // SAFETY: as above.
        unsafe { exchange(&raw mut (*place).state, CLOSING, state) };
        0
    }
}

#[cfg(feature = "plain")]
pub(crate) use hashed::{close, close_those, find, open};

/// The same in the plain programs: older verifiers would have too many paths to follow through an array and what goes with it.
#[cfg(feature = "plain")]
mod hashed {
    use core::ptr::null_mut;

    use super::{BPF_NOEXIST, Books, HashMap, Key, MOST, Result, is_first, map};

    /// Channels seen so far. User space removes those that it has forgotten.
    #[map]
    static CHANNELS: HashMap<Key, Books> = HashMap::with_max_entries(MOST, 0);

    /// The books of a channel; null if it has none.
    #[inline(always)]
    pub(crate) fn find(key: &Key) -> *mut Books {
        CHANNELS.get_ptr_mut(key).unwrap_or(null_mut())
    }

    /// Opens the books of a channel that has none, which begin with these; false if another CPU was first, which then tells of the
    /// channel.
    ///
    /// # Errors
    /// [`Cause::MapFull`] if there are too many channels.
    #[inline(always)]
    pub(crate) fn open(key: &Key, begin: &Books) -> Result<bool> {
        is_first(CHANNELS.insert(key, begin, BPF_NOEXIST))
    }

    /// Closes the books of a channel, if there are any.
    #[inline(always)]
    pub(crate) fn close(key: &Key) {
        // There may be none.
        let _ = CHANNELS.remove(key);
    }

    /// Closes them if they are still those of which this is [`Books::identity`]: another CPU may have been faster, and have opened others.
    #[inline(always)]
    pub(crate) fn close_those(key: &Key, identity: (u64, u64)) {
        let books = find(key);
        // SAFETY: a valid pointer into the map.
        if !books.is_null() && unsafe { Books::identity(books) } == identity {
            close(key);
        }
    }
}
