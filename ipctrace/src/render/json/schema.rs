//! The objects of schema 1, borrowed from the model, in the order in which their fields are written.

mod parts;

use std::borrow::Cow;

use serde::Serialize;

use super::SCHEMA;
use crate::model;
use crate::render::clock::Stamp;
use crate::render::{self, code_name, signal_name};
use crate::top::Row;
pub(super) use parts::Processes;
use parts::{Channel, Counts, Coverages, Kinds, Latency, Process, Reason, Text};

/// What is traced, where.
#[derive(Serialize)]
pub(super) struct Hello<'a> {
    r#type: &'static str,
    time: Stamp,
    schema: u32,
    version: &'static str,
    kernel: Text<&'a [u8]>,
    host: Text<&'a [u8]>,
    mechanisms: Coverages<'a>,
    hooks: Kinds<'a>,
}

impl<'a> Hello<'a> {
    pub(super) fn new(hello: &'a render::Hello, time: Stamp) -> Hello<'a> {
        Hello {
            r#type: "hello",
            time,
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            kernel: Text(hello.kernel.as_encoded_bytes()),
            host: Text(hello.host.as_encoded_bytes()),
            mechanisms: Coverages(&hello.mechanisms),
            hooks: Kinds(&hello.hooks),
        }
    }
}

/// Bytes or messages received, or left unread.
#[derive(Serialize)]
pub(super) struct Transfer<'a> {
    r#type: &'static str,
    time: Stamp,
    mechanism: &'static str,
    channel: Channel<'a>,
    sender: Option<Process>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender_why: Option<Reason<'a>>,
    receiver: Option<Process>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receiver_why: Option<Reason<'a>>,
    bytes: u64,
    messages: u64,
    latency_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_why: Option<Reason<'a>>,
    exact: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    msg_type: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Text<&'a [u8]>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_total: Option<u64>,
}

impl<'a> Transfer<'a> {
    pub(super) fn new(transfer: &'a model::Transfer, time: Stamp, processes: &Processes) -> Transfer<'a> {
        let ends = [&transfer.sender, &transfer.receiver];
        let payload = transfer.payload.as_deref();
        Transfer {
            r#type: "transfer",
            time,
            mechanism: transfer.mechanism.name(),
            channel: Channel::new(&transfer.channel),
            sender: Process::of(&transfer.sender, processes),
            sender_why: Reason::of(&transfer.sender),
            receiver: Process::of(&transfer.receiver, processes),
            receiver_why: Reason::of(&transfer.receiver),
            bytes: transfer.bytes,
            messages: transfer.messages,
            latency_ns: transfer.latency,
            latency_why: Reason::unmeasured(transfer.latency, ends),
            exact: transfer.exact,
            truncated: transfer.truncated,
            priority: transfer.priority,
            msg_type: transfer.msg_type,
            value: transfer.value,
            payload: payload.map(Text),
            payload_total: payload.map(|_| transfer.bytes),
        }
    }
}

/// A signal.
#[derive(Serialize)]
pub(super) struct Signal<'a> {
    r#type: &'static str,
    time: Stamp,
    signal: Cow<'static, str>,
    number: u32,
    code: Cow<'static, str>,
    value: Option<u64>,
    sender: Option<Process>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender_why: Option<Reason<'a>>,
    receiver: Process,
    outcome: &'static str,
    latency_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_why: Option<Reason<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tty: Option<Text<&'a [u8]>>,
}

impl<'a> Signal<'a> {
    pub(super) fn new(signal: &'a model::Signal, time: Stamp, processes: &Processes) -> Signal<'a> {
        let latency_why = match (signal.latency, signal.outcome) {
            (Some(_), _) => None,
            (None, model::Outcome::Delivered) => Some(match &signal.sender {
                model::End::Unknown(why @ model::Why::BeforeStart) => Reason::Why(why),
                model::End::Unknown(_) | model::End::Known(_) => Reason::Fixed("lost"),
            }),
            (None, outcome) => Some(Reason::Fixed(outcome.name())),
        };
        Signal {
            r#type: "signal",
            time,
            signal: signal_name(signal.number),
            number: signal.number,
            code: code_name(signal.number, signal.code),
            value: signal.value,
            sender: Process::of(&signal.sender, processes),
            sender_why: Reason::of(&signal.sender),
            receiver: Process::new(&signal.receiver, processes),
            outcome: signal.outcome.name(),
            latency_ns: signal.latency,
            latency_why,
            tty: signal.tty.as_deref().map(Text),
        }
    }
}

/// A change in who shares memory.
#[derive(Serialize)]
pub(super) struct Share<'a> {
    r#type: &'static str,
    time: Stamp,
    mechanism: &'static str,
    channel: Channel<'a>,
    process: Process,
    action: &'static str,
    access: &'static str,
    bytes: u64,
}

impl<'a> Share<'a> {
    pub(super) fn new(share: &'a model::Share, time: Stamp, processes: &Processes) -> Share<'a> {
        Share {
            r#type: "share",
            time,
            mechanism: share.mechanism.name(),
            channel: Channel::new(&share.channel),
            process: Process::new(&share.process, processes),
            action: share.action.name(),
            access: if share.writable { "rw" } else { "r" },
            bytes: share.bytes,
        }
    }
}

/// One process made another run again.
#[derive(Serialize)]
pub(super) struct Wake<'a> {
    r#type: &'static str,
    time: Stamp,
    mechanism: &'static str,
    channel: Channel<'a>,
    sender: Option<Process>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender_why: Option<Reason<'a>>,
    receiver: Option<Process>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receiver_why: Option<Reason<'a>>,
    latency_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_why: Option<Reason<'a>>,
}

impl<'a> Wake<'a> {
    pub(super) fn new(wake: &'a model::Wake, time: Stamp, processes: &Processes) -> Wake<'a> {
        Wake {
            r#type: "wake",
            time,
            mechanism: wake.mechanism.name(),
            channel: Channel::new(&wake.channel),
            sender: Process::of(&wake.sender, processes),
            sender_why: Reason::of(&wake.sender),
            receiver: Process::of(&wake.receiver, processes),
            receiver_why: Reason::of(&wake.receiver),
            latency_ns: wake.latency,
            latency_why: Reason::unmeasured(wake.latency, [&wake.sender, &wake.receiver]),
        }
    }
}

/// A descriptor passed.
#[derive(Serialize)]
pub(super) struct Handoff<'a> {
    r#type: &'static str,
    time: Stamp,
    via: &'static str,
    channel: Channel<'a>,
    sender: Option<Process>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender_why: Option<Reason<'a>>,
    receiver: Option<Process>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receiver_why: Option<Reason<'a>>,
    object: Channel<'a>,
}

impl<'a> Handoff<'a> {
    pub(super) fn new(handoff: &'a model::Handoff, time: Stamp, processes: &Processes) -> Handoff<'a> {
        Handoff {
            r#type: "handoff",
            time,
            via: handoff.via,
            channel: Channel::new(&handoff.channel),
            sender: Process::of(&handoff.sender, processes),
            sender_why: Reason::of(&handoff.sender),
            receiver: Process::of(&handoff.receiver, processes),
            receiver_why: Reason::of(&handoff.receiver),
            object: Channel::new(&handoff.object),
        }
    }
}

/// A page of shared memory written by one process and read by another.
#[derive(Serialize)]
pub(super) struct Evidence<'a> {
    r#type: &'static str,
    time: Stamp,
    mechanism: &'static str,
    channel: Channel<'a>,
    sender: Process,
    receiver: Process,
    page: u64,
    latency_ns: u64,
    exact: bool,
}

impl<'a> Evidence<'a> {
    pub(super) fn new(evidence: &'a model::Evidence, time: Stamp, processes: &Processes) -> Evidence<'a> {
        Evidence {
            r#type: "evidence",
            time,
            mechanism: evidence.mechanism.name(),
            channel: Channel::new(&evidence.channel),
            sender: Process::new(&evidence.sender, processes),
            receiver: Process::new(&evidence.receiver, processes),
            page: evidence.page,
            latency_ns: evidence.latency,
            exact: evidence.exact,
        }
    }
}

/// All that went from one process to another over one channel.
#[derive(Serialize)]
pub(super) struct Flow<'a> {
    r#type: &'static str,
    time: Stamp,
    mechanism: &'static str,
    channel: Channel<'a>,
    sender: Option<Process>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender_why: Option<Reason<'a>>,
    receiver: Option<Process>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receiver_why: Option<Reason<'a>>,
    messages: u64,
    bytes: u64,
    first: Stamp,
    last: Stamp,
    latency: Option<Latency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_why: Option<Reason<'a>>,
}

impl<'a> Flow<'a> {
    /// `times`: of the summary, of the first and of the last event.
    pub(super) fn new(flow: &'a model::Flow, times: [Stamp; 3], processes: &Processes) -> Flow<'a> {
        let [time, first, last] = times;
        Flow {
            r#type: "flow",
            time,
            mechanism: flow.mechanism.name(),
            channel: Channel::new(&flow.channel),
            sender: Process::of(&flow.sender, processes),
            sender_why: Reason::of(&flow.sender),
            receiver: Process::of(&flow.receiver, processes),
            receiver_why: Reason::of(&flow.receiver),
            messages: flow.messages,
            bytes: flow.bytes,
            first,
            last,
            latency: flow.latency.map(Latency::new),
            latency_why: Reason::unmeasured(flow.latency, [&flow.sender, &flow.receiver]),
        }
    }
}

/// A flow as it goes on: all of it, and how fast it was in the last interval.
#[derive(Serialize)]
pub(super) struct LiveFlow<'a> {
    #[serde(flatten)]
    flow: Flow<'a>,
    rate_bytes: f64,
    rate_messages: f64,
}

impl<'a> LiveFlow<'a> {
    /// `times`: of the refresh, of the first and of the last event.
    pub(super) fn new(row: &'a Row, times: [Stamp; 3], processes: &Processes) -> LiveFlow<'a> {
        LiveFlow {
            flow: Flow::new(&row.flow, times, processes),
            rate_bytes: row.rate_bytes,
            rate_messages: row.rate_messages,
        }
    }
}

/// Something was not seen.
#[derive(Serialize)]
pub(super) struct Lost {
    r#type: &'static str,
    time: Stamp,
    cause: &'static str,
    count: u64,
}

impl Lost {
    pub(super) fn new(lost: &model::Lost, time: Stamp) -> Lost {
        Lost { r#type: "lost", time, cause: lost.cause.name(), count: lost.count }
    }
}

/// That is all.
#[derive(Serialize)]
pub(super) struct End<'a> {
    r#type: &'static str,
    time: Stamp,
    events: u64,
    lost: Counts<'a>,
    /// Events in no flow of the summary, if there were too many flows.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<u64>,
    duration_s: f64,
}

impl<'a> End<'a> {
    pub(super) fn new(totals: &'a render::Totals, time: Stamp) -> End<'a> {
        End {
            r#type: "end",
            time,
            events: totals.events,
            lost: Counts(&totals.lost),
            left_out: Some(totals.left_out).filter(|count| *count > 0),
            duration_s: totals.duration.as_secs_f64(),
        }
    }
}
