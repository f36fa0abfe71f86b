//! What a line says of each kind of event.

use crate::model::{
    Channel, End, Event, Evidence, Handoff, Lost, Outcome, Proc, Share, ShareAction, Signal, Transfer, Wake,
    Why,
};
use crate::render::escape::{Charset, push_name, push_plain, push_quoted};
use crate::render::{code_name, signal_name, units};

use super::line::{Piece, Tint};

/// The cells of a line.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) time: u64,
    pub(super) mechanism: Piece,
    pub(super) sender: Vec<Piece>,
    pub(super) arrow: Piece,
    pub(super) receiver: Vec<Piece>,
    pub(super) channel: Vec<Piece>,
    /// Right-aligned: bytes.
    pub(super) amount: Piece,
    /// Right-aligned.
    pub(super) latency: Piece,
    /// What has no column: names, circumstances, payload.
    pub(super) rest: Vec<Piece>,
}

/// Turns an event into cells. Everything that is not our own is escaped here.
pub(super) fn describe(event: &Event, charset: Charset) -> Row {
    let words = Words(charset);
    match event {
        Event::Transfer(transfer) => words.transfer(transfer),
        Event::Signal(signal) => words.signal(signal),
        Event::Share(share) => words.share(share),
        Event::Wake(wake) => words.wake(wake),
        Event::Handoff(handoff) => words.handoff(handoff),
        Event::Evidence(evidence) => words.evidence(evidence),
        Event::Lost(lost) => words.lost(lost),
    }
}

/// Makes pieces in a character set.
struct Words(Charset);

impl Words {
    fn transfer(&self, transfer: &Transfer) -> Row {
        let mut rest = self.name(&transfer.channel);
        if transfer.messages > 1 {
            rest.push(Piece::own(Tint::Dim, format!("{} messages", transfer.messages)));
        }
        if transfer.truncated {
            rest.push(Piece::own(Tint::Doubt, "truncated"));
        }
        if let Some(priority) = transfer.priority {
            rest.push(Piece::own(Tint::Dim, format!("priority {priority}")));
        }
        if let Some(msg_type) = transfer.msg_type {
            rest.push(Piece::own(Tint::Dim, format!("type {msg_type}")));
        }
        if let Some(value) = transfer.value {
            rest.push(Piece::own(Tint::Plain, format!("value {value}")));
        }
        if let Some(payload) = &transfer.payload {
            rest.push(self.payload(payload, transfer.bytes));
        }
        Row {
            time: transfer.time,
            mechanism: Piece::own(Tint::Mechanism, transfer.mechanism.name()),
            sender: self.end(&transfer.sender),
            arrow: self.arrow(transfer.exact),
            receiver: self.end(&transfer.receiver),
            channel: self.channel(&transfer.channel),
            amount: amount(transfer.bytes),
            latency: self.latency(transfer.latency),
            rest,
        }
    }

    fn signal(&self, signal: &Signal) -> Row {
        let tint = match signal.outcome {
            Outcome::Delivered => Tint::Dim,
            Outcome::Ignored | Outcome::AlreadyPending | Outcome::Blocked | Outcome::Undelivered => {
                Tint::Doubt
            }
        };
        let mut rest = vec![Piece::own(tint, signal.outcome.name())];
        if let Some(value) = signal.value {
            rest.push(Piece::own(Tint::Plain, format!("value {value}")));
        }
        if let Some(tty) = &signal.tty {
            rest.push(Piece::new(Tint::Plain, |out| {
                out.push_str("from ");
                "from ".len() + push_plain(out, tty, self.0)
            }));
        }
        Row {
            time: signal.time,
            mechanism: Piece::own(Tint::Mechanism, "signal"),
            sender: self.end(&signal.sender),
            arrow: self.arrow(true),
            receiver: self.process(&signal.receiver),
            channel: vec![
                Piece::own(Tint::Plain, signal_name(signal.number)),
                Piece::own(Tint::Dim, format!(" {}", code_name(signal.number, signal.code))),
            ],
            amount: blank(),
            latency: self.latency(signal.latency),
            rest,
        }
    }

    fn share(&self, share: &Share) -> Row {
        let access = if share.writable { "rw" } else { "r" };
        let what = match share.action {
            ShareAction::Create | ShareAction::Attach => format!("{} {access}", share.action.name()),
            ShareAction::Detach | ShareAction::Remove => share.action.name().to_owned(),
        };
        Row {
            time: share.time,
            mechanism: Piece::own(Tint::Mechanism, share.mechanism.name()),
            sender: self.process(&share.process),
            arrow: blank(),
            receiver: vec![Piece::own(Tint::Plain, what)],
            channel: self.channel(&share.channel),
            amount: amount(share.bytes),
            latency: blank(),
            rest: self.name(&share.channel),
        }
    }

    fn wake(&self, wake: &Wake) -> Row {
        Row {
            time: wake.time,
            mechanism: Piece::own(Tint::Mechanism, wake.mechanism.name()),
            sender: self.end(&wake.sender),
            arrow: self.arrow(true),
            receiver: self.end(&wake.receiver),
            channel: self.channel(&wake.channel),
            amount: Piece::own(Tint::Dim, "wake"),
            latency: self.latency(wake.latency),
            rest: self.name(&wake.channel),
        }
    }

    fn handoff(&self, handoff: &Handoff) -> Row {
        let mut rest = self.name(&handoff.channel);
        rest.push(Piece::new(Tint::Plain, |out| {
            out.push_str("passed ");
            "passed ".len() + push_plain(out, handoff.object.id.as_bytes(), self.0)
        }));
        rest.extend(self.name(&handoff.object));
        Row {
            time: handoff.time,
            mechanism: Piece::own(Tint::Mechanism, handoff.via),
            sender: self.end(&handoff.sender),
            arrow: self.arrow(true),
            receiver: self.end(&handoff.receiver),
            channel: self.channel(&handoff.channel),
            amount: Piece::own(Tint::Dim, "fd"),
            latency: blank(),
            rest,
        }
    }

    fn evidence(&self, evidence: &Evidence) -> Row {
        let mut rest = vec![Piece::own(Tint::Dim, format!("page at {:#x}", evidence.page))];
        rest.extend(self.name(&evidence.channel));
        Row {
            time: evidence.time,
            mechanism: Piece::own(Tint::Mechanism, evidence.mechanism.name()),
            sender: self.process(&evidence.sender),
            arrow: self.arrow(evidence.exact),
            receiver: self.process(&evidence.receiver),
            channel: self.channel(&evidence.channel),
            amount: Piece::own(Tint::Dim, "evidence"),
            latency: self.latency(Some(evidence.latency)),
            rest,
        }
    }

    fn lost(&self, lost: &Lost) -> Row {
        Row {
            time: lost.time,
            mechanism: Piece::own(Tint::Loss, "lost"),
            sender: vec![Piece::own(Tint::Loss, format!("{} {}", lost.count, lost.cause.name()))],
            arrow: blank(),
            receiver: Vec::new(),
            channel: Vec::new(),
            amount: blank(),
            latency: blank(),
            rest: Vec::new(),
        }
    }

    /// `~` where the two names may belong to the neighbouring transfer.
    fn arrow(&self, exact: bool) -> Piece {
        match (exact, self.0) {
            (true, Charset::Utf8) => Piece::own(Tint::Dim, " →"),
            (true, Charset::Ascii) => Piece::own(Tint::Dim, "->"),
            (false, Charset::Utf8) => Piece::own(Tint::Doubt, "~→"),
            (false, Charset::Ascii) => Piece::own(Tint::Doubt, "~>"),
        }
    }

    fn end(&self, end: &End) -> Vec<Piece> {
        match end {
            End::Known(process) => self.process(process),
            End::Unknown(why) => vec![Piece::new(why_tint(why), |out| {
                out.push('(');
                let width = push_plain(out, why.to_string().as_bytes(), self.0);
                out.push(')');
                width + 2
            })],
        }
    }

    /// `name[pid]`, and `name[pid/tid]` where it was not the first thread.
    fn process(&self, process: &Proc) -> Vec<Piece> {
        let ids = if process.tid == process.pid {
            format!("[{}]", process.pid)
        } else {
            format!("[{}/{}]", process.pid, process.tid)
        };
        vec![
            Piece::new(Tint::Name, |out| push_name(out, &process.comm, self.0)),
            Piece::own(Tint::Plain, ids),
        ]
    }

    fn channel(&self, channel: &Channel) -> Vec<Piece> {
        vec![Piece::new(Tint::Plain, |out| push_plain(out, channel.id.as_bytes(), self.0))]
    }

    /// The name of a channel, unless its id says it already.
    fn name(&self, channel: &Channel) -> Vec<Piece> {
        channel
            .own_name()
            .map(|name| Piece::new(Tint::Plain, |out| push_plain(out, name, self.0)))
            .into_iter()
            .collect()
    }

    fn latency(&self, latency: Option<u64>) -> Piece {
        let text = latency.map_or_else(|| "-".to_owned(), |ns| units::duration(ns, self.0));
        Piece::own(Tint::Dim, text)
    }

    /// As strace shows it: dots where there is more of it.
    fn payload(&self, payload: &[u8], total: u64) -> Piece {
        Piece::new(Tint::Plain, |out| {
            let width = push_quoted(out, payload, self.0);
            let dots = if (payload.len() as u64) < total { "..." } else { "" };
            out.push_str(dots);
            width + dots.len()
        })
    }
}

fn why_tint(why: &Why) -> Tint {
    match why {
        Why::BeforeStart | Why::Kernel | Why::Remote(_) => Tint::Dim,
        Why::Unread => Tint::Doubt,
        Why::Lost => Tint::Loss,
    }
}

fn amount(bytes: u64) -> Piece {
    Piece::own(Tint::Plain, format!("{bytes} B"))
}

fn blank() -> Piece {
    Piece::own(Tint::Plain, "")
}
