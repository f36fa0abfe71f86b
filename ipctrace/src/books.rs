//! The programs' books of channels, as far as the collector has to do with them: see `ipctrace-ebpf/src/books.rs`.

use anyhow::Result;
use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData};
use ipctrace_common::config::{BOOKS_PLACE, BOOKS_SIZE, BOOKS_STATE};
use ipctrace_common::wire::Key;
use zerocopy::IntoBytes;

use crate::attach::take;

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
        places: Array<MapData, [u8; BOOKS_PLACE]>,
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
            Ok(places) => Books::Placed { channels: channels.try_into()?, places: places.try_into()? },
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
                if let Ok(index) = channels.get(&name, 0)
                    && let Ok(mut place) = places.get(&index, 0)
                    && place.starts_with(key.as_bytes())
                {
                    // Before the key is given up: who opens books for it meanwhile is told that there are some.
                    place[BOOKS_STATE..BOOKS_STATE + size_of::<u64>()].fill(0);
                    let _ = places.set(index, place, 0);
                }
                let _ = channels.remove(&name);
            }
        }
    }
}
