//! One call on one side of a stream.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use ipctrace_common::Mechanism;
use ipctrace_common::wire::{self, op_flag};

use crate::decode;
use crate::model::{End, Proc, Why};

use super::order::{Advance, Piece};

/// A call that put bytes in or took bytes out, or a gap in the books where one is lost.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// Who called.
    pub(super) who: End,
    /// Beginning of the call; 0 if it was not seen.
    pub(super) enter: u64,
    /// End of the call.
    pub(super) time: u64,
    /// Bytes that it moved.
    pub(super) bytes: u64,
    /// The books of this side before it, if they are known.
    pub(super) before: Option<u64>,
    /// What it saw of the object's position, if it has any: when it could first move, and when it was done.
    pub(super) seen: Option<(u64, u64)>,
    /// The second of these may be too high ([`wire::ROUGH`]).
    pub(super) rough: bool,
    /// A call of another process may have been under way on this side when it began or ended.
    pub(super) overlaps: bool,
    /// How it moves a pipe's position.
    pub(super) advance: Advance,
    /// Calls it stands for.
    pub(super) messages: u64,
    /// Start of what it moved, if captured.
    pub(super) payload: Bytes,
    /// Its number among the calls of the stream in the order of their records.
    pub(super) arrival: u64,
}

impl Call {
    /// The call that a record tells of.
    pub(super) fn new(record: &decode::Op, process: Rc<Proc>) -> Call {
        let decode::Op { fixed: op, payload, .. } = record;
        let has = |flag: u16| op.header.flags & flag != 0;
        let straddles = has(op_flag::STRADDLES_START);
        // What is left of a write that began before tracing did goes into the pipe as a write of that length would.
        let enter = if straddles { 0 } else { op.pos_enter };
        let low = if has(op_flag::LOCKED) { op.pos_locked.max(enter) } else { enter };
        let mechanism = op.header.mechanism;
        let writes = !has(op_flag::RECEIVE)
            && (mechanism == Mechanism::Pipe as u8 || mechanism == Mechanism::Fifo as u8);
        let rough = if writes { op.pos_exit & wire::ROUGH } else { 0 };
        let high = op.pos_exit & !rough;
        // Before the rest, so that that is made where it is wanted and not moved there.
        let payload = payload.clone();
        Call {
            who: End::Known(process),
            enter: if straddles { 0 } else { op.enter.min(op.header.time) },
            time: op.header.time,
            bytes: op.bytes,
            before: has(op_flag::SEQUENCED).then_some(op.before),
            seen: (has(op_flag::POSITIONS) && low <= high).then_some((low, high)),
            rough: rough != 0,
            advance: if has(op_flag::SPLICED) { Advance::Opaque } else { Advance::Pages },
            overlaps: has(op_flag::OVERLAPS),
            messages: u64::from(op.messages.max(1)),
            payload,
            arrival: 0,
        }
    }

    /// A gap of `bytes` in the books.
    pub(super) fn lost(bytes: u64, time: u64) -> Call {
        Call { before: None, ..Call::missing(Why::Lost, bytes, time) }
    }

    /// The first `bytes` of one side, of which it is known why nobody is known for them.
    pub(super) fn missing(why: Why, bytes: u64, time: u64) -> Call {
        Call {
            who: End::Unknown(why),
            enter: 0,
            time,
            bytes,
            before: Some(0),
            seen: None,
            rough: false,
            overlaps: false,
            advance: Advance::Opaque,
            messages: 1,
            payload: Bytes::new(),
            arrival: u64::MAX,
        }
    }

    /// Takes `bytes` off that are accounted for already. What is left no longer moves the position as a write does.
    pub(super) fn trim(&mut self, bytes: u64) {
        if bytes > 0 {
            self.bytes -= bytes;
            self.advance = Advance::Opaque;
            self.payload = Bytes::new();
        }
    }

    /// Identity of the caller; zeros, which no process has, for a lost one.
    pub(super) fn process(&self) -> (u32, u64) {
        self.who.process().map_or((0, 0), |process| process.identity())
    }

    /// What orders it among the calls on a pipe. A call that saw nothing may stand anywhere.
    pub(super) fn piece(&self) -> Piece {
        let (low, high) = self.seen.unwrap_or((0, u64::MAX));
        let advance = if self.seen.is_some() { self.advance } else { Advance::Opaque };
        // A gap stands for calls of which nothing is known, time included.
        let time = if self.who.process().is_some() { self.time } else { u64::MAX };
        let Call { enter, bytes, rough, .. } = *self;
        Piece { process: self.process(), enter, time, low, high, rough, bytes, advance }
    }
}

/// The latest calls of one side, by which those that were under way at a moment are found again.
#[derive(Clone, Debug, Default)]
pub(super) struct Latest {
    /// Beginning and number of each.
    calls: VecDeque<(u64, u64)>,
}

impl Latest {
    /// How many are kept: more than mostly are under way at once.
    const KEPT: usize = 64;

    /// A call has been settled.
    pub(super) fn note(&mut self, call: &Call) {
        if self.calls.len() == Latest::KEPT {
            self.calls.pop_front();
        }
        self.calls.push_back((call.enter, call.arrival));
    }

    /// Whether a call has come since that with the number `arrival` which was under way at `time`.
    pub(super) fn came_late(&self, time: u64, arrival: u64) -> bool {
        self.calls.iter().any(|(enter, other)| *enter <= time && *other > arrival)
    }
}

/// When the processes on one side of a channel were last busy: enough to know whether a call overlapped one of
/// another process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recent {
    /// The two processes whose latest call ended last.
    latest: [Option<((u32, u64), u64)>; 2],
}

impl Recent {
    /// A call of `process` that ended at `time` has been dealt with.
    pub(super) fn note(&mut self, process: (u32, u64), time: u64) {
        for slot in &mut self.latest {
            if let Some((known, end)) = slot
                && *known == process
            {
                *end = (*end).max(time);
                return;
            }
        }
        let ends = |slot: &Option<((u32, u64), u64)>| slot.map_or(0, |(_, end)| end);
        let oldest = usize::from(ends(&self.latest[1]) < ends(&self.latest[0]));
        let free = self.latest.iter().position(Option::is_none).unwrap_or(oldest);
        if self.latest[free].is_none() || ends(&self.latest[free]) <= time {
            self.latest[free] = Some((process, time));
        }
    }

    /// Whether a call of another process was still under way at `enter`.
    pub(super) fn overlaps(&self, process: (u32, u64), enter: u64) -> bool {
        self.latest.iter().flatten().any(|(other, end)| *other != process && *end >= enter)
    }

    /// Whether two processes have been seen.
    pub(super) fn crowd(&self) -> bool {
        self.latest[1].is_some()
    }

    /// Whether a process has been seen that is not `process`.
    pub(super) fn others(&self, process: (u32, u64)) -> bool {
        self.latest.iter().flatten().any(|(other, _)| *other != process)
    }

    /// When the latest call ended.
    pub(super) fn end(&self) -> u64 {
        self.latest.iter().flatten().map(|(_, end)| *end).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_of_another_process_overlap() {
        let mut recent = Recent::default();
        recent.note((1, 1), 10);
        assert!(!recent.overlaps((1, 1), 5));
        assert!(recent.overlaps((2, 1), 5));
        assert!(!recent.overlaps((2, 1), 11));
        recent.note((2, 1), 20);
        recent.note((3, 1), 30);
        assert!(recent.overlaps((3, 1), 15));
        assert_eq!(recent.end(), 30);
    }
}
