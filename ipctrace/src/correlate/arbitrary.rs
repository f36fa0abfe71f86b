//! Records that make no sense: nothing may panic, and memory stays bounded.

use ipctrace_common::wire;
use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

use crate::correlate::testing::transfers;
use crate::correlate::{Cause, Correlator, Limits};
use crate::decode::decode;

const LIMITS: Limits = Limits { streams: 8, ranges: 16, messages: 16, signals: 16, processes: 8 };

/// A record of a kind that exists, everything else arbitrary but for what makes records meet each other.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![4 => 0_u64..40, 1 => any::<u64>()];
    (1_u8..13, 0_u8..22, any::<u16>(), proptest::collection::vec(word, 40), 0_u64..12).prop_map(
        |(kind, mechanism, flags, words, key)| {
            let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            bytes[0] = kind;
            bytes[1] = mechanism;
            bytes[2..4].copy_from_slice(&(flags & 0x3ff).to_ne_bytes());
            let key = wire::Key { id: key, space: 0 };
            if kind == wire::Kind::Channel as u8 {
                if let Ok((mut channel, _)) = wire::Channel::read_from_prefix(&bytes) {
                    channel.key = key;
                    bytes[..size_of::<wire::Channel>()].copy_from_slice(channel.as_bytes());
                }
            } else if let Ok((mut op, _)) = wire::Op::read_from_prefix(&bytes) {
                op.key = key;
                (op.address_len, op.payload_len) = (op.address_len % 20, op.payload_len % 20);
                bytes[..size_of::<wire::Op>()].copy_from_slice(op.as_bytes());
            }
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn nothing_panics_and_memory_is_bounded(records in proptest::collection::vec(bytes(), 0..400)) {
        let (mut correlator, mut out) = (Correlator::new(LIMITS), Vec::new());
        for (n, bytes) in records.into_iter().enumerate() {
            if let Ok(record) = decode(&bytes) {
                correlator.push(record, &mut out);
            }
            if n % 50 == 0 {
                correlator.lost(n as u64, Cause::RingFull, 1, &mut out);
                correlator.tick(n as u64 * 100_000_000, &mut out);
            }
            prop_assert!(correlator.streams.len() + correlator.messages.len() <= LIMITS.streams);
            // A stream holds no more than its limit on each side, beyond a gap on each, and between them.
            let held: u64 = correlator.streams.values().map(|stream| stream.holds()).sum();
            prop_assert!(held <= (LIMITS.streams * (5 * LIMITS.ranges + 5)) as u64, "{held}");
        }
        correlator.finish(u64::MAX, &mut out);
        prop_assert!(transfers(&out).iter().all(|transfer| transfer.messages > 0));
    }
}
