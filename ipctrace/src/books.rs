//! The programs' books of channels, as far as the collector has to do with them: see `ipctrace-ebpf/src/books.rs`.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData};
use ipctrace_common::config::books_state::{CLOSING, FREE, OPEN};
use ipctrace_common::config::{BOOKS_PLACE, BOOKS_SIZE, BOOKS_STATE, CHANNELS};
use ipctrace_common::wire::Key;
use memmap2::MmapOptions;

use crate::attach::take;
use crate::ring::page_size;

/// [`Key`] as a kernel map's key.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct KernelKey([u64; 2]);

// SAFETY: two integers without padding, for which every bit pattern is valid.
unsafe impl aya::Pod for KernelKey {}

/// Where they stand.
pub enum Books {
    /// With each key.
    Hashed(HashMap<MapData, KernelKey, [u8; BOOKS_SIZE]>),
    /// In an array, with each key where in it.
    Placed {
        /// See there.
        channels: HashMap<MapData, KernelKey, u32>,
        /// See there.
        places: Places,
    },
}

impl Books {
    /// Those of the programs that have been loaded.
    ///
    /// # Errors
    /// If they have none.
    pub fn of(ebpf: &mut Ebpf) -> Result<Books> {
        let channels = take(ebpf, "CHANNELS")?;
        Ok(match take(ebpf, "BOOKS") {
            Ok(places) => Books::Placed { channels: channels.try_into()?, places: Places::of(places)? },
            Err(_) => Books::Hashed(channels.try_into()?),
        })
    }

    /// Closes those of a channel, if there are any.
    pub fn close(&mut self, key: Key) {
        let name = KernelKey([key.id, key.space]);
        // What is gone already is as good.
        match self {
            Books::Hashed(channels) => {
                let _ = channels.remove(&name);
            }
            Books::Placed { channels, places } => {
                let Ok(index) = channels.get(&name, 0) else { return };
                // If it cannot be mapped they stay open, and what the channel moves next begins behind a gap.
                let _ = places.close(index, key, || {
                    let _ = channels.remove(&name);
                });
            }
        }
    }
}

/// The places of books.
pub struct Places(MapData);

impl Places {
    fn of(map: Map) -> Result<Places> {
        let Map::Array(map) = map else { anyhow::bail!("the books of channels stand in no array") };
        Ok(Places(map))
    }

    /// Closes the books at a place, if they are those of that channel, as a program does: between that nobody else does and that others
    /// may be opened there `remove` lets go of the key.
    ///
    /// All of them would be a quarter of the memory that we take; so the page is mapped that this one begins in.
    fn close(&self, index: u32, key: Key, remove: impl FnOnce()) -> Result<()> {
        // What we look at is in the first of its cache lines, and places begin at such.
        const _: () = assert!(BOOKS_PLACE.is_multiple_of(64) && BOOKS_STATE < 64);
        let (at, page) = (BOOKS_PLACE * (index % CHANNELS) as usize, page_size());
        let mapped =
            MmapOptions::new().offset((at / page * page) as u64).len(page).map_raw(&self.0.fd().as_fd());
        let mapped = mapped.context("mapping the books of a channel")?;
        let word = |offset: usize| {
            // SAFETY: a word of a live mapping, aligned, which others write to in one access too.
            unsafe { AtomicU64::from_ptr(mapped.as_mut_ptr().add(at % page + offset).cast()) }
        };
        let state = word(BOOKS_STATE);
        let is_its = || {
            let (id, space) = (word(0).load(Ordering::SeqCst), word(size_of::<u64>()).load(Ordering::SeqCst));
            (id, space) == (key.id, key.space)
        };
        if !is_its() || state.compare_exchange(OPEN, CLOSING, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return Ok(());
        }
        // Now nobody else closes them, or opens others there.
        let its = is_its();
        if its {
            remove();
            word(0).store(0, Ordering::SeqCst);
        }
        state.store(if its { FREE } else { OPEN }, Ordering::SeqCst);
        Ok(())
    }
}
