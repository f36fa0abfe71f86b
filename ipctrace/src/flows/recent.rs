//! Flows as they go on: what came to each since one last looked, and room for new ones in place of the oldest.

use super::{Flows, flow};
use crate::model::{Flow, Latency};

/// A flow, and what came to it since [`Flows::recent`] was last asked.
#[derive(Clone, Debug)]
pub struct Recent {
    /// All of it.
    pub flow: Flow,
    /// Bytes that are new.
    pub bytes: u64,
    /// Messages that are new.
    pub messages: u64,
    /// Whether anything came: the rest of a message that was cut short is no message, and an empty one has no bytes.
    pub moved: bool,
}

/// What a flow was when it was last looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mark {
    bytes: u64,
    messages: u64,
    /// Of its last event.
    last: u64,
    /// Worked out then: a flow that stood still is not worked out again.
    latency: Option<Latency>,
}

/// Of so many flows one is given up when there is no room.
const SHARE: usize = 8;

impl Flows {
    /// No flows yet. When there are `limit`, those that have been idle for longest make room and are counted.
    pub fn live(limit: usize) -> Flows {
        Flows { ageing: true, ..Flows::new(limit) }
    }

    /// How many flows are known now.
    pub fn len(&self) -> usize {
        self.sums.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    /// The flows, in no order, and what came to each since the last call.
    pub fn recent(&mut self) -> Vec<Recent> {
        let recent = |(key, sum): (&super::Key, &mut super::Sum)| {
            let before = sum.mark;
            let (bytes, messages) = (sum.bytes - before.bytes, sum.messages - before.messages);
            let moved = bytes > 0 || messages > 0 || sum.last != before.last;
            let latency = if moved { sum.latencies.summary() } else { before.latency };
            sum.mark = Mark { bytes: sum.bytes, messages: sum.messages, last: sum.last, latency };
            Recent { flow: flow(key, sum, latency), bytes, messages, moved }
        };
        self.sums.iter_mut().map(recent).collect()
    }

    /// How many flows were given up since the last call. Should one of them go on, it begins at nought.
    pub fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }

    /// Gives up those that have been idle for longest.
    pub(super) fn make_room(&mut self) {
        let mut times: Vec<u64> = self.sums.values().map(|sum| sum.last).collect();
        let surplus = (times.len() / SHARE).clamp(1, times.len().max(1));
        if times.is_empty() {
            return;
        }
        let (_, newest, _) = times.select_nth_unstable(surplus - 1);
        let newest = *newest;
        let mut left = surplus;
        self.sums.retain(|_, sum| {
            let goes = sum.last <= newest && left > 0;
            left -= usize::from(goes);
            !goes
        });
        self.evicted += (surplus - left) as u64;
    }
}
