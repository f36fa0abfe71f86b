//! One receive cut at the borders of the sends under it.

use std::rc::Rc;

use ipctrace_common::Mechanism;

use crate::model::{Channel, End, Event, Transfer, Why};

use super::range::Range;

/// The receiving end of a run of bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receiver<'a> {
    /// Who took them.
    pub(super) who: &'a End,
    /// When; `None`: nobody did, and the send's own time stands.
    pub(super) time: Option<u64>,
    /// Whether it is certain that it was these.
    pub(super) exact: bool,
}

/// Makes one transfer of each run of bytes from the same sender.
#[derive(Debug)]
pub(super) struct Runs<'a> {
    mechanism: Mechanism,
    channel: &'a Rc<Channel>,
    receiver: Receiver<'a>,
    /// The last event is the transfer of the run so far.
    going: bool,
}

/// How many of the calls that a range stands for have bytes among the next `count`, taking them to be of equal size.
fn touched(range: &Range, count: u64) -> u64 {
    if range.messages <= 1 || range.bytes == 0 {
        return 1;
    }
    let (calls, bytes) = (u128::from(range.messages), u128::from(range.bytes));
    let (begin, end) = (u128::from(range.taken), u128::from(range.taken + count));
    let (first, last) = (begin * calls / bytes, (end * calls).div_ceil(bytes));
    u64::try_from(last - first).unwrap_or(u64::from(range.messages)).max(1)
}

impl<'a> Runs<'a> {
    /// No run yet.
    pub(super) fn new(mechanism: Mechanism, channel: &'a Rc<Channel>, receiver: Receiver<'a>) -> Runs<'a> {
        Runs { mechanism, channel, receiver, going: false }
    }

    /// `count` bytes of `range` (as it was before they were taken) are next.
    pub(super) fn add(&mut self, range: &Range, count: u64, out: &mut Vec<Event>) {
        let exact = self.receiver.exact && range.exact;
        let messages = touched(range, count);
        let known = range.process().is_some() && self.receiver.who.process().is_some();
        let latency = self.receiver.time.filter(|_| known).map(|time| time.saturating_sub(range.time));
        if self.going
            && let Some(Event::Transfer(current)) = out.last_mut()
            && current.exact == exact
            && range.is_from(&current.sender)
        {
            current.bytes += count;
            current.messages += messages;
            current.latency = latency;
            current.time = current.time.max(self.receiver.time.unwrap_or(range.time));
            return;
        }
        self.going = true;
        let time = self.receiver.time.unwrap_or(range.time);
        let (sender, receiver) = (range.sender(), self.receiver.who.clone());
        out.push(Event::Transfer(Transfer {
            messages,
            latency,
            exact,
            payload: range.captured(count),
            ..Transfer::new(self.mechanism, Rc::clone(self.channel), sender, receiver, count, time)
        }));
    }
}

/// The end of what nobody took.
pub(super) const UNREAD: End = End::Unknown(Why::Unread);
