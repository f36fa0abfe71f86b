//! From the bytes of the ring to records: a check of kind and length, and a copy.
//!
//! Pure: it knows nothing of aya, tokio or the terminal, and cannot panic on what it is given.

use bytes::Bytes;
use ipctrace_common::Mechanism;
use ipctrace_common::wire::{self, Kind};
use zerocopy::{FromBytes, IntoBytes};

/// A record as the kernel made it, its variable parts cut out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A channel seen for the first time, and its name (empty: none): a path, or the bytes of a socket address behind the
    /// family.
    Channel(wire::Channel, Bytes),
    /// A call's effect on a channel.
    Op(Box<Op>),
    /// A signal on its way.
    Signal(Box<wire::Signal>),
    /// Fork, exec or exit.
    Process(Box<wire::Process>),
    /// A descriptor passed.
    Handoff(Box<wire::Handoff>),
    /// A datagram of an internet socket on its way.
    Datagram(Box<wire::Datagram>),
    /// A change in who shares memory, and the name that came with it (empty: none): a path, or what the kernel calls it.
    Share(Box<wire::Share>, Bytes),
    /// A page of shared memory touched for the first time.
    Touch(Box<wire::Touch>),
    /// Bytes copied between two processes in one call.
    Direct(Box<wire::Direct>),
    /// A wait that another process ended.
    Wake(Box<wire::Wake>),
}

/// A call's effect on a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
pub fn decode(bytes: &[u8]) -> Result<Record, Malformed> {
    decode_reusing(bytes, &mut None)
}

/// As [`decode`]; the most frequent kind takes the memory of one that is done with, if there is any.
///
/// # Errors
/// As there.
pub fn decode_reusing(bytes: &[u8], spare: &mut Option<Box<Op>>) -> Result<Record, Malformed> {
    let kind = *bytes.first().ok_or(Malformed::Short { found: 0, needed: size_of::<wire::Header>() })?;
    Ok(match Kind::from_wire(kind).ok_or(Malformed::Kind(kind))? {
        Kind::Channel => {
            let (fixed, rest) = fixed::<wire::Channel>(bytes)?;
            let (name, _) = tail(rest, fixed.name_len)?;
            Record::Channel(fixed, if is_path(&fixed) { path(&name) } else { name })
        }
        Kind::Op => {
            let (source, rest) = split(bytes, size_of::<wire::Op>())?;
            let mut op = spare.take().unwrap_or_default();
            op.fixed.as_mut_bytes().copy_from_slice(source);
            // Mostly there was none, and is none.
            if op.fixed.address_len | op.fixed.payload_len != 0
                || !op.address.is_empty()
                || !op.payload.is_empty()
            {
                let (address, rest) = tail(rest, op.fixed.address_len)?;
                let (payload, _) = tail(rest, op.fixed.payload_len)?;
                (op.address, op.payload) = (address, payload);
            }
            Record::Op(op)
        }
        Kind::Signal => Record::Signal(Box::new(fixed(bytes)?.0)),
        Kind::Process => Record::Process(Box::new(fixed(bytes)?.0)),
        Kind::Direct => Record::Direct(Box::new(fixed(bytes)?.0)),
        Kind::Handoff => Record::Handoff(Box::new(fixed(bytes)?.0)),
        Kind::Datagram => Record::Datagram(Box::new(fixed(bytes)?.0)),
        Kind::Share => {
            let (fixed, rest) = fixed::<wire::Share>(bytes)?;
            let (name, _) = tail(rest, fixed.name_len)?;
            let is_path = Mechanism::from_wire(fixed.header.mechanism) == Some(Mechanism::SharedFile);
            Record::Share(Box::new(fixed), if is_path { path(&name) } else { name })
        }
        Kind::Touch => Record::Touch(Box::new(fixed(bytes)?.0)),
        Kind::Wake => Record::Wake(Box::new(fixed(bytes)?.0)),
    })
}

/// The fixed part, copied, and what follows it.
fn fixed<T: FromBytes>(bytes: &[u8]) -> Result<(T, &[u8]), Malformed> {
    T::read_from_prefix(bytes).map_err(|_| Malformed::Short { found: bytes.len(), needed: size_of::<T>() })
}

/// The first `len` bytes, and what follows them.
fn split(bytes: &[u8], len: usize) -> Result<(&[u8], &[u8]), Malformed> {
    bytes.split_at_checked(len).ok_or(Malformed::Short { found: bytes.len(), needed: len })
}

/// A variable part, copied, and what follows it.
fn tail(bytes: &[u8], len: u32) -> Result<(Bytes, &[u8]), Malformed> {
    let len = len as usize;
    let (tail, rest) = split(bytes, len)?;
    Ok((if len == 0 { Bytes::new() } else { Bytes::copy_from_slice(tail) }, rest))
}

/// Whether a channel's name is a path, which comes in components.
fn is_path(channel: &wire::Channel) -> bool {
    match Mechanism::from_wire(channel.header.mechanism) {
        Some(Mechanism::Fifo) => true,
        Some(Mechanism::Futex) => channel.header.flags & wire::channel_flag::PSEUDO == 0,
        Some(_) | None => false,
    }
}

/// A path from its components, which come from the kernel last first, each ended by NUL.
fn path(components: &[u8]) -> Bytes {
    let mut path = Vec::with_capacity(components.len() + 1);
    for component in components.split(|byte| *byte == 0).rev().filter(|component| !component.is_empty()) {
        path.push(b'/');
        path.extend_from_slice(component);
    }
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(mechanism: Mechanism, name: &[u8]) -> Vec<u8> {
        let mut fixed = wire::Channel { name_len: name.len() as u32, ..wire::Channel::default() };
        fixed.header.kind = Kind::Channel as u8;
        fixed.header.mechanism = mechanism as u8;
        [fixed.as_bytes(), name].concat()
    }

    #[test]
    fn a_path_is_put_together_from_its_components() {
        let bytes = channel(Mechanism::Fifo, b"jobs\0run\0var\0");
        let Ok(Record::Channel(_, name)) = decode(&bytes) else {
            panic!("not a channel: {:?}", decode(&bytes));
        };
        assert_eq!(&name[..], b"/var/run/jobs");
    }

    #[test]
    fn a_name_that_is_no_path_is_left_as_it_is() {
        let Ok(Record::Channel(_, name)) = decode(&channel(Mechanism::UnixStream, b"\0abstract\xff")) else {
            panic!("not a channel");
        };
        assert_eq!(&name[..], b"\0abstract\xff");
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        let bytes = channel(Mechanism::UnixStream, b"name");
        for len in 0..bytes.len() {
            assert!(matches!(decode(&bytes[..len]), Err(Malformed::Short { .. })), "{len} bytes");
        }
        assert_eq!(decode(&[0xee; 300]), Err(Malformed::Kind(0xee)));
    }

    #[test]
    fn payload_and_address_are_told_apart() {
        let mut fixed = wire::Op { address_len: 3, payload_len: 2, ..wire::Op::default() };
        fixed.header.kind = Kind::Op as u8;
        let Ok(Record::Op(op)) = decode(&[fixed.as_bytes(), b"abcde", b"padding"].concat()) else {
            panic!("not an op");
        };
        assert_eq!((&op.address[..], &op.payload[..]), (&b"abc"[..], &b"de"[..]));
    }
}
