//! Sums of events: one flow for each pair of ends on each channel.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use foldhash::fast::RandomState;
use indexmap::IndexMap;
use ipctrace_common::Mechanism;

use crate::model::{Channel, End, Event, Flow, Latency};

mod coarse;
mod latencies;
mod recent;

use latencies::Latencies;
use recent::Mark;
pub use recent::Recent;

/// How many flows are found without a look at their names.
const PLACES: usize = 1024;

/// Most flows that are told apart.
pub const MOST: usize = 100_000;

/// What makes a flow the same one.
#[derive(Clone, Debug)]
struct Key {
    mechanism: Mechanism,
    channel: Rc<Channel>,
    sender: End,
    receiver: End,
}

/// What makes a flow the same one, wherever it stands: an event is looked up as it is.
trait Identity {
    fn mechanism(&self) -> Mechanism;
    fn channel(&self) -> &Rc<Channel>;
    /// Sender and receiver.
    fn ends(&self) -> [&End; 2];
}

impl Identity for Key {
    fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    fn channel(&self) -> &Rc<Channel> {
        &self.channel
    }

    fn ends(&self) -> [&End; 2] {
        [&self.sender, &self.receiver]
    }
}

impl Identity for Part<'_> {
    fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    fn channel(&self) -> &Rc<Channel> {
        self.channel
    }

    fn ends(&self) -> [&End; 2] {
        [self.sender, self.receiver]
    }
}

/// Whether two ends are the same one: the process, whichever of its threads, and its name, for one process with another
/// program is another end; or the reason why it is unknown.
fn same(one: &End, other: &End) -> bool {
    match (one, other) {
        (End::Known(one), End::Known(other)) => {
            Rc::ptr_eq(one, other) || (one.identity() == other.identity() && one.comm == other.comm)
        }
        (End::Unknown(one), End::Unknown(other)) => one == other,
        (End::Known(_), End::Unknown(_)) | (End::Unknown(_), End::Known(_)) => false,
    }
}

impl PartialEq for dyn Identity + '_ {
    fn eq(&self, other: &Self) -> bool {
        let (one, two) = (self.channel(), other.channel());
        let ends = self.ends().into_iter().zip(other.ends()).all(|(one, other)| same(one, other));
        ends && self.mechanism() == other.mechanism() && (Rc::ptr_eq(one, two) || one.id == two.id)
    }
}

impl Eq for dyn Identity + '_ {}

impl Hash for dyn Identity + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.channel().id.hash(state);
        for end in self.ends() {
            match end {
                End::Known(process) => process.identity().hash(state),
                End::Unknown(why) => why.hash(state),
            }
        }
    }
}

impl<'a> Borrow<dyn Identity + 'a> for Key {
    fn borrow(&self) -> &(dyn Identity + 'a) {
        self
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self as &dyn Identity == other as &dyn Identity
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self as &dyn Identity).hash(state);
    }
}

/// What a flow has come to.
#[derive(Debug)]
struct Sum {
    /// As it was known last: a name can become known.
    channel: Rc<Channel>,
    messages: u64,
    bytes: u64,
    first: u64,
    last: u64,
    latencies: Latencies,
    /// As it was when [`Flows::recent`] was last asked.
    mark: Mark,
}

impl Sum {
    fn add(&mut self, part: &Part<'_>) {
        self.messages = self.messages.saturating_add(part.messages);
        self.bytes = self.bytes.saturating_add(part.bytes);
        self.first = self.first.min(part.time);
        if part.time >= self.last {
            self.last = part.time;
            if !Rc::ptr_eq(&self.channel, part.channel) {
                self.channel = Rc::clone(part.channel);
            }
        }
        if let Some(latency) = part.latency {
            self.latencies.record(latency);
        }
    }
}

/// One event's part in a flow.
struct Part<'a> {
    time: u64,
    mechanism: Mechanism,
    channel: &'a Rc<Channel>,
    sender: &'a End,
    receiver: &'a End,
    messages: u64,
    bytes: u64,
    latency: Option<u64>,
}

impl Part<'_> {
    /// A number below [`PLACES`] that follows from where what it is about stands in memory.
    fn place(&self) -> usize {
        let address = |end: &End| match end {
            End::Known(process) => Rc::as_ptr(process) as u64,
            End::Unknown(_) => 0,
        };
        let ends = address(self.sender).rotate_left(17) ^ address(self.receiver).rotate_left(31);
        let mixed = (Rc::as_ptr(self.channel) as u64 ^ ends).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as usize % PLACES
    }
}

/// The flows of a trace so far.
#[derive(Debug)]
pub struct Flows {
    limit: usize,
    /// Whether old flows make room for new ones, which else are left out.
    ageing: bool,
    sums: IndexMap<Key, Sum, RandomState>,
    /// Where in [`Flows::sums`] a flow may be: by [`Part::place`].
    places: Vec<u32>,
    left_out: u64,
    evicted: u64,
    /// What signals are told under: they have no channel.
    signals: Rc<Channel>,
}

impl Default for Flows {
    fn default() -> Flows {
        Flows::new(MOST)
    }
}

impl Flows {
    /// No flows yet; at most `limit` will be told apart.
    pub fn new(limit: usize) -> Flows {
        let signals = Rc::new(Channel { id: "signal".to_owned(), name: None });
        Flows {
            limit,
            ageing: false,
            sums: IndexMap::default(),
            places: vec![0; PLACES],
            left_out: 0,
            evicted: 0,
            signals,
        }
    }

    /// Adds an event to its flow.
    ///
    /// Hand-overs are counted as the message that carried them. Of shared memory the events do not tell how much it carries:
    /// see [`Correlator::pairs`](crate::correlate::Correlator::pairs).
    pub fn add(&mut self, event: &Event) {
        match event {
            Event::Transfer(transfer) => self.count(&Part {
                time: transfer.time,
                mechanism: transfer.mechanism,
                channel: &transfer.channel,
                sender: &transfer.sender,
                receiver: &transfer.receiver,
                messages: transfer.messages,
                bytes: transfer.bytes,
                latency: transfer.latency,
            }),
            Event::Signal(signal) => {
                let channel = Rc::clone(&self.signals);
                self.count(&Part {
                    time: signal.time,
                    mechanism: Mechanism::Signal,
                    channel: &channel,
                    sender: &signal.sender,
                    receiver: &End::Known(Rc::clone(&signal.receiver)),
                    messages: 1,
                    bytes: 0,
                    latency: signal.latency,
                });
            }
            Event::Wake(wake) => self.count(&Part {
                time: wake.time,
                mechanism: wake.mechanism,
                channel: &wake.channel,
                sender: &wake.sender,
                receiver: &wake.receiver,
                messages: 1,
                bytes: 0,
                latency: wake.latency,
            }),
            Event::Share(_) | Event::Evidence(_) | Event::Handoff(_) | Event::Lost(_) => {}
        }
    }

    fn count(&mut self, part: &Part<'_>) {
        let place = part.place();
        if let Some((key, sum)) = self.sums.get_index_mut(self.places[place] as usize)
            && key.mechanism == part.mechanism
            && (Rc::ptr_eq(&key.channel, part.channel) || Rc::ptr_eq(&sum.channel, part.channel))
            && same(&key.sender, part.sender)
            && same(&key.receiver, part.receiver)
        {
            sum.add(part);
            return;
        }
        if let Some((index, _, sum)) = self.sums.get_full_mut(part as &dyn Identity) {
            sum.add(part);
            self.places[place] = u32::try_from(index).unwrap_or(0);
            return;
        }
        if self.ageing && self.sums.len() >= self.limit {
            self.make_room();
        }
        let known = self.sums.len();
        if known >= self.limit {
            self.left_out += 1;
            return;
        }
        let key = Key {
            mechanism: part.mechanism,
            channel: Rc::clone(part.channel),
            sender: part.sender.clone(),
            receiver: part.receiver.clone(),
        };
        let sum = Sum {
            channel: Rc::clone(part.channel),
            messages: 0,
            bytes: 0,
            first: part.time,
            last: part.time,
            latencies: Latencies::new(known),
            mark: Mark::default(),
        };
        self.sums.entry(key).or_insert(sum).add(part);
    }

    /// Events that are in no flow because there were too many flows.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The flows as they are now, those with the most bytes first, then those with the most messages.
    pub fn sorted(&self) -> Vec<Flow> {
        let mut flows: Vec<Flow> =
            self.sums.iter().map(|(key, sum)| flow(key, sum, sum.latencies.summary())).collect();
        // The rest of the order only has to be the same every time.
        flows.sort_by(|one, two| {
            let busy = (two.bytes, two.messages).cmp(&(one.bytes, one.messages));
            busy.then_with(|| (one.first, &one.channel.id).cmp(&(two.first, &two.channel.id)))
        });
        flows
    }
}

/// A flow as it is told.
fn flow(key: &Key, sum: &Sum, latency: Option<Latency>) -> Flow {
    Flow {
        mechanism: key.mechanism,
        channel: Rc::clone(&sum.channel),
        sender: key.sender.clone(),
        receiver: key.receiver.clone(),
        messages: sum.messages,
        bytes: sum.bytes,
        first: sum.first,
        last: sum.last,
        latency,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Proc, Transfer, Why};

    fn process(pid: u32, tid: u32, comm: &str) -> End {
        End::Known(Rc::new(Proc {
            pid,
            tid,
            start: u64::from(pid),
            comm: comm.as_bytes().to_vec(),
            uid: None,
            cgroup: 0,
        }))
    }

    fn transfer(channel: &str, sender: End, bytes: u64, time: u64) -> Event {
        let channel = Rc::new(Channel { id: channel.to_owned(), name: None });
        let receiver = process(20, 20, "cat");
        Event::Transfer(Transfer {
            latency: Some(time),
            ..Transfer::new(Mechanism::Pipe, channel, sender, receiver, bytes, time)
        })
    }

    #[test]
    fn threads_of_a_process_are_one_flow_and_channels_are_not() {
        let mut flows = Flows::new(10);
        flows.add(&transfer("pipe:[1]", process(10, 10, "sh"), 5, 1));
        flows.add(&transfer("pipe:[1]", process(10, 11, "sh"), 6, 2));
        flows.add(&transfer("pipe:[2]", process(10, 10, "sh"), 20, 3));
        flows.add(&transfer("pipe:[1]", process(10, 10, "seq"), 3, 4));
        flows.add(&transfer("pipe:[1]", End::Unknown(Why::BeforeStart), 1, 0));
        let sorted = flows.sorted();
        assert_eq!(sorted.iter().map(|flow| flow.bytes).collect::<Vec<_>>(), [20, 11, 3, 1]);
        assert_eq!((sorted[1].messages, sorted[1].first, sorted[1].last), (2, 1, 2));
        assert_eq!(sorted[1].latency.map(|latency| (latency.count, latency.max)), Some((2, 2)));
    }

    #[test]
    fn messages_are_those_of_the_transfers_the_rest_of_one_cut_short_included() {
        let mut flows = Flows::new(10);
        let Event::Transfer(received) = transfer("udp", process(10, 10, "sh"), 5, 1) else { unreachable!() };
        let rest =
            Transfer { truncated: true, receiver: End::Unknown(Why::Unread), bytes: 95, ..received.clone() };
        flows.add(&Event::Transfer(received));
        flows.add(&Event::Transfer(rest));
        let told: Vec<_> = flows.sorted().iter().map(|flow| (flow.bytes, flow.messages)).collect();
        assert_eq!(told, [(95, 1), (5, 1)]);
    }

    #[test]
    fn flows_beyond_the_limit_are_counted() {
        let mut flows = Flows::new(2);
        for pid in 0..5 {
            flows.add(&transfer("pipe:[1]", process(pid, pid, "sh"), 1, 1));
        }
        assert_eq!((flows.sums.len(), flows.left_out()), (2, 3));
    }

    #[test]
    fn old_flows_make_room_for_new_ones_and_are_counted() {
        let mut flows = Flows::live(16);
        for pid in 0..20 {
            flows.add(&transfer("pipe:[1]", process(pid, pid, "sh"), 1, 100 + u64::from(pid)));
            // The first is never idle for long.
            flows.add(&transfer("pipe:[1]", process(0, 0, "sh"), 1, 101 + u64::from(pid)));
        }
        assert_eq!((flows.left_out(), flows.sums.len()), (0, 16));
        let pids: Vec<u32> = flows.sums.keys().filter_map(|key| Some(key.sender.process()?.pid)).collect();
        assert!(pids.contains(&0) && pids.contains(&19) && !pids.contains(&1), "{pids:?}");
        assert_eq!((flows.take_evicted(), flows.take_evicted()), (4, 0));
    }

    #[test]
    fn recent_is_what_was_added_since() {
        let mut flows = Flows::live(10);
        flows.add(&transfer("pipe:[1]", process(1, 1, "sh"), 5, 1));
        let recent = flows.recent();
        assert_eq!((recent[0].bytes, recent[0].messages, recent[0].flow.bytes), (5, 1, 5));
        flows.add(&transfer("pipe:[1]", process(1, 1, "sh"), 7, 2));
        flows.add(&transfer("pipe:[1]", process(1, 1, "sh"), 7, 3));
        let recent = flows.recent();
        assert_eq!((recent[0].bytes, recent[0].messages, recent[0].flow.bytes), (14, 2, 19));
        assert_eq!(recent[0].flow.latency.map(|latency| latency.count), Some(3));
        let recent = flows.recent();
        assert_eq!((recent[0].bytes, recent[0].messages, recent[0].moved), (0, 0, false));
        assert_eq!(recent[0].flow.latency.map(|latency| latency.max), Some(3));
    }

    #[test]
    fn ten_thousand_flows_stay_small() {
        let mut flows = Flows::new(20_000);
        for pid in 0..10_000 {
            for n in 0..100 {
                flows.add(&transfer("pipe:[1]", process(pid, pid, "sh"), 1, (1 << 34) >> (n % 34)));
            }
        }
        let bytes: usize =
            flows.sums.values().map(|sum| sum.latencies.memory() + size_of::<(Key, Sum)>()).sum();
        assert!(bytes < 48 << 20, "{bytes} bytes");
    }
}
