//! Sums up events by flow: who sent to whom, over which channel.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use hdrhistogram::Histogram;
use ipctrace_common::Mechanism;

use crate::model::{Channel, End, Event, Flow, Latency, Why};

/// Most flows that are kept apart.
const MOST: usize = 100_000;

/// Significant decimal digits of latencies: one in a hundred.
const DIGITS: u8 = 2;

/// One end, as far as it tells flows apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    /// `(pid, start)`, and the name: one process with another program is another end.
    Process(u32, u64, Vec<u8>),
    Nobody(Why),
}

impl From<&End> for Who {
    fn from(end: &End) -> Who {
        match end {
            End::Known(process) => Who::Process(process.pid, process.start, process.comm.clone()),
            End::Unknown(why) => Who::Nobody(why.clone()),
        }
    }
}

/// What tells flows apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    mechanism: Mechanism,
    channel: String,
    sender: Who,
    receiver: Who,
}

/// A flow being summed up.
struct Sum {
    flow: Flow,
    latency: Option<Histogram<u64>>,
}

/// What one event adds.
struct Share<'a> {
    mechanism: Mechanism,
    channel: &'a Arc<Channel>,
    sender: &'a End,
    receiver: &'a End,
    messages: u64,
    bytes: u64,
    time: u64,
    latency: Option<u64>,
}

/// All flows so far.
#[derive(Default)]
pub struct Flows {
    sums: HashMap<Key, Sum>,
    /// What signals are told under: they have no channel.
    signal: Option<Arc<Channel>>,
    left_out: u64,
}

impl Flows {
    /// Adds what an event tells of a flow. Losses, hand-overs and changes of who shares memory tell of none.
    pub fn add(&mut self, event: &Event) {
        match event {
            Event::Transfer(transfer) => self.sum(&Share {
                mechanism: transfer.mechanism,
                channel: &transfer.channel,
                sender: &transfer.sender,
                receiver: &transfer.receiver,
                messages: transfer.messages,
                bytes: transfer.bytes,
                time: transfer.time,
                latency: transfer.latency,
            }),
            Event::Signal(signal) => {
                let channel = Arc::clone(
                    self.signal
                        .get_or_insert_with(|| Arc::new(Channel { id: "signal".to_owned(), name: None })),
                );
                self.sum(&Share {
                    mechanism: Mechanism::Signal,
                    channel: &channel,
                    sender: &signal.sender,
                    receiver: &End::Known(Arc::clone(&signal.receiver)),
                    messages: 1,
                    bytes: 0,
                    time: signal.time,
                    latency: signal.latency,
                });
            }
            Event::Wake(wake) => self.sum(&Share {
                mechanism: wake.mechanism,
                channel: &wake.channel,
                sender: &wake.sender,
                receiver: &wake.receiver,
                messages: 1,
                bytes: 0,
                time: wake.time,
                latency: wake.latency,
            }),
            Event::Share(_) | Event::Handoff(_) | Event::Lost(_) => {}
        }
    }

    fn sum(&mut self, share: &Share<'_>) {
        let key = Key {
            mechanism: share.mechanism,
            channel: share.channel.id.clone(),
            sender: share.sender.into(),
            receiver: share.receiver.into(),
        };
        let full = self.sums.len() >= MOST;
        let sum = match self.sums.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if full => {
                self.left_out += 1;
                return;
            }
            Entry::Vacant(entry) => entry.insert(Sum {
                flow: Flow {
                    mechanism: share.mechanism,
                    channel: Arc::clone(share.channel),
                    sender: share.sender.clone(),
                    receiver: share.receiver.clone(),
                    messages: 0,
                    bytes: 0,
                    first: share.time,
                    last: share.time,
                    latency: None,
                },
                latency: None,
            }),
        };
        sum.flow.messages += share.messages;
        sum.flow.bytes += share.bytes;
        sum.flow.first = sum.flow.first.min(share.time);
        sum.flow.last = sum.flow.last.max(share.time);
        if let Some(latency) = share.latency {
            // It grows with what is recorded: most flows need little.
            let histogram = sum.latency.get_or_insert_with(|| {
                let mut histogram = Histogram::new(DIGITS).expect("two digits are in the range of 0 to 5");
                histogram.auto(true);
                histogram
            });
            // It fails for what does not fit 64 bits of range only, and grows otherwise.
            let _ = histogram.record(latency);
        }
    }

    /// Events that are in no flow because there were too many flows.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// All flows, those with the most bytes first, then those with the most messages.
    pub fn sorted(&self) -> Vec<Flow> {
        let mut flows: Vec<Flow> = self
            .sums
            .values()
            .map(|sum| Flow { latency: sum.latency.as_ref().map(distribution), ..sum.flow.clone() })
            .collect();
        flows.sort_by(|a, b| (b.bytes, b.messages, a.first).cmp(&(a.bytes, a.messages, b.first)));
        flows
    }
}

fn distribution(histogram: &Histogram<u64>) -> Latency {
    Latency {
        count: histogram.len(),
        p50: histogram.value_at_quantile(0.5),
        p90: histogram.value_at_quantile(0.9),
        p99: histogram.value_at_quantile(0.99),
        max: histogram.max(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Proc, Transfer};

    fn transfer(sender: u32, bytes: u64, latency: u64) -> Event {
        let process = |pid| {
            End::Known(Arc::new(Proc { pid, tid: pid, start: 1, comm: b"p".to_vec(), uid: None, cgroup: 0 }))
        };
        Event::Transfer(Transfer {
            time: 10 + latency,
            mechanism: Mechanism::Pipe,
            channel: Arc::new(Channel { id: "pipe:[1]".to_owned(), name: None }),
            sender: process(sender),
            receiver: process(9),
            bytes,
            messages: 1,
            latency: Some(latency),
            exact: true,
            truncated: false,
            payload: None,
            priority: None,
            msg_type: None,
        })
    }

    #[test]
    fn one_flow_for_each_pair_and_channel_busiest_first() {
        let mut flows = Flows::default();
        for (sender, bytes) in [(1, 10), (2, 100), (1, 20)] {
            flows.add(&transfer(sender, bytes, 1000));
        }
        let sums: Vec<_> = flows.sorted().iter().map(|flow| (flow.bytes, flow.messages)).collect();
        assert_eq!(sums, [(100, 1), (30, 2)]);
    }

    #[test]
    fn percentiles_are_those_of_the_latencies() {
        let mut flows = Flows::default();
        (1..=100).for_each(|latency| flows.add(&transfer(1, 1, latency * 1000)));
        let latency = flows.sorted()[0].latency.expect("latencies were given");
        let near = |value: u64, wanted: u64| value.abs_diff(wanted) <= wanted / 50;
        assert!(
            near(latency.p50, 50_000) && near(latency.p90, 90_000) && near(latency.p99, 99_000),
            "{latency:?}"
        );
        assert_eq!(latency.count, 100);
        assert!(near(latency.max, 100_000));
    }
}
