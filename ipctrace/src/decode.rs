//! From the bytes of the ring to records: a check of kind and length, and a copy.
//!
//! Pure: it knows nothing of aya, tokio or the terminal, and cannot panic on what it is given.

use bytes::Bytes;
use ipctrace_common::wire::{self, Kind};
use zerocopy::FromBytes;

/// A record as the kernel made it, its variable parts cut out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A channel seen for the first time, and its name (empty: none).
    Channel(wire::Channel, Bytes),
    /// A call's effect on a channel.
    Op(Box<Op>),
    /// A signal on its way.
    Signal(Box<wire::Signal>),
    /// Fork, exec or exit.
    Process(Box<wire::Process>),
    /// A descriptor passed.
    Handoff(Box<wire::Handoff>),
}

/// A call's effect on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// The fixed part.
    pub fixed: wire::Op,
    /// `struct sockaddr` that the sender named as destination (empty: none).
    pub address: Bytes,
    /// Start of the message, if it was captured.
    pub payload: Bytes,
}

/// Why bytes of the ring are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Shorter than its kind.
    #[error("a record of {found} bytes where its kind has {needed}")]
    Short {
        /// Bytes there were.
        found: usize,
        /// Bytes there should be.
        needed: usize,
    },
    /// A kind that does not exist.
    #[error("unknown kind {0} of record")]
    Kind(u8),
}

/// Reads one record.
///
/// # Errors
/// [`Malformed`] if the bytes are shorter than the record they claim to be, or of no known kind.
pub fn decode(mut bytes: Bytes) -> Result<Record, Malformed> {
    let kind = *bytes.first().ok_or(Malformed::Short { found: 0, needed: size_of::<wire::Header>() })?;
    Ok(match Kind::from_wire(kind).ok_or(Malformed::Kind(kind))? {
        Kind::Channel => {
            let fixed: wire::Channel = fixed(&mut bytes)?;
            Record::Channel(fixed, tail(&mut bytes, fixed.name_len)?)
        }
        Kind::Op => {
            let fixed: wire::Op = fixed(&mut bytes)?;
            let address = tail(&mut bytes, fixed.address_len)?;
            let payload = tail(&mut bytes, fixed.payload_len)?;
            Record::Op(Box::new(Op { fixed, address, payload }))
        }
        Kind::Signal => Record::Signal(Box::new(fixed(&mut bytes)?)),
        Kind::Process => Record::Process(Box::new(fixed(&mut bytes)?)),
        Kind::Handoff => Record::Handoff(Box::new(fixed(&mut bytes)?)),
    })
}

/// Splits the fixed part off the front.
fn fixed<T: FromBytes>(bytes: &mut Bytes) -> Result<T, Malformed> {
    let (value, _) = T::read_from_prefix(bytes)
        .map_err(|_| Malformed::Short { found: bytes.len(), needed: size_of::<T>() })?;
    let _ = bytes.split_to(size_of::<T>());
    Ok(value)
}

/// Splits a variable part off the front.
fn tail(bytes: &mut Bytes, len: u32) -> Result<Bytes, Malformed> {
    let len = len as usize;
    if bytes.len() < len {
        return Err(Malformed::Short { found: bytes.len(), needed: len });
    }
    Ok(bytes.split_to(len))
}
