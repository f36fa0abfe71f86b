//! Rings of records in memory that programs and collector share, for kernels that let programs read their memory by plain loads. Others
//! have the kernel's ring buffers (kernel/bpf/ringbuf.c), which take two calls, a lock and a wait for memory a record.
//!
//! A ring begins with a [`Head`]; then come its data, a power of two of bytes, and [`SLACK`]. A record that begins near the end of
//! the data goes on in the slack, so that each is in one piece; the next one begins where it would if the record had gone on at the front.
//!
//! Who makes a record looks whether there is room, moves [`Head::end`] behind it (by an atomic addition, for an interrupt may be making
//! another), writes it, and last its [`header`], which the collector waits for. That says for which position it is, so what stood in its place before, a header or
//! whatever else, is not taken for it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How far records were made and taken, in bytes since the beginning, padding included. A cache line for each who writes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Head {
    /// Behind the last record that there is, finished or not. Programs write it.
    pub end: u64,
    #[doc(hidden)]
    pub reserved: [u64; 7],
    /// Up to where the room of records may be used again. The collector writes it.
    pub taken: u64,
    /// Not 0 while the collector waits to be woken by the next record, whatever there is. Else it looks by itself.
    pub resting: u64,
    #[doc(hidden)]
    pub reserved_too: [u64; 6],
}

/// What the programs are told of the rings before they are loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
pub struct Shape {
    /// How many there are: a processor's is that of its number, modulo this.
    pub count: u32,
    /// How large the data of each are, less 1.
    pub mask: u32,
    /// How much of them may be filled when a record is begun: what interrupts may add before its room is taken is left.
    pub room: u32,
    /// 1 if processors do not put a store before another.
    pub stores_in_order: u32,
    /// How much is written, a power of two, between two times that the collector is woken: it looks at short intervals by itself, so that a
    /// record does not cost a wake-up.
    pub wake: u32,
    #[doc(hidden)]
    pub reserved: u32,
    /// A number that nobody who is traced knows: see [`header`].
    pub secret: u64,
}

/// Bytes before each record. Records begin at multiples of it.
pub const HEADER: u64 = 8;

/// Most bytes that a record may take, with its header.
pub const SLACK: u64 = 16 << 10;

/// Most bytes that the data of a ring may be: verifiers let programs reckon with offsets below twice that (`BPF_MAX_VAR_OFF`).
pub const LARGEST: u32 = 1 << 28;

/// What interrupts may add, at most: a few records each.
const MARGIN: u32 = 64 << 10;

/// [`Shape::wake`] of rings that are large enough.
const WAKE: u32 = 256 << 10;

impl Shape {
    /// That of so many rings, with so many bytes of data each, a power of two.
    pub const fn of(count: u32, data: u32, secret: u64, stores_in_order: u32) -> Shape {
        let quarter = data / 4;
        let margin = if quarter < MARGIN { quarter } else { MARGIN };
        let wake = if quarter < WAKE { quarter } else { WAKE };
        Shape { count, mask: data - 1, room: data - margin, stores_in_order, wake, reserved: 0, secret }
    }
}

/// How many of a header's bits tell the length; the others which record it is of.
const LENGTH_BITS: u32 = 16;

const _: () = assert!(SLACK < 1 << LENGTH_BITS);

/// What stands before a finished record of `length` bytes at a position. `secret`: that of the [`Shape`].
pub const fn header(position: u64, secret: u64, length: u64) -> u64 {
    (((position / HEADER) ^ secret) << LENGTH_BITS) | length
}

/// Length of the finished record at a position; `None` if it is not finished.
pub const fn finished(header: u64, position: u64, secret: u64) -> Option<u64> {
    let length = header & ((1 << LENGTH_BITS) - 1);
    if header == self::header(position, secret, length) { Some(length) } else { None }
}

/// How much room a record of that length takes.
pub const fn space(length: u64) -> u64 {
    (length + HEADER).next_multiple_of(HEADER)
}

/// How large a ring of so much data is.
pub const fn size(data: u32) -> u64 {
    size_of::<Head>() as u64 + data as u64 + SLACK
}
