//! Comparing lines, and looking into them.

use std::cmp::Ordering;

use super::{Order, Row};
use crate::model::End;

/// Which of two lines comes first for how busy they are.
pub(super) fn busier(order: Order, one: &Row, two: &Row) -> Ordering {
    let rate = || {
        let bytes = two.rate_bytes.total_cmp(&one.rate_bytes);
        bytes.then_with(|| two.rate_messages.total_cmp(&one.rate_messages))
    };
    let bytes = || two.flow.bytes.cmp(&one.flow.bytes);
    let messages = || two.flow.messages.cmp(&one.flow.messages);
    let latency = |row: &Row| row.flow.latency.map(|latency| (latency.p99, latency.p50, latency.max));
    match order {
        Order::Rate => rate(),
        Order::Bytes => bytes(),
        Order::Messages => messages(),
        // None is less than any.
        Order::Latency => latency(two).cmp(&latency(one)),
    }
}

/// Which of two equally busy lines comes first: those that move, those with more, the older; the rest only has to be
/// the same every time.
pub(super) fn settled(one: &Row, two: &Row) -> Ordering {
    let key = |row: &Row| (row.flow.bytes, row.flow.messages);
    key(two)
        .cmp(&key(one))
        .then_with(|| (one.flow.first, &one.flow.channel.id).cmp(&(two.flow.first, &two.flow.channel.id)))
}

/// Whether the text is a part of the mechanism, the channel, or either end, in upper or lower case.
pub(super) fn matches(row: &Row, text: &str) -> bool {
    let text = text.as_bytes();
    let flow = &row.flow;
    contains(flow.mechanism.name().as_bytes(), text)
        || contains(flow.channel.id.as_bytes(), text)
        || flow.channel.name.as_deref().is_some_and(|name| contains(name, text))
        || [&flow.sender, &flow.receiver].into_iter().any(|end| contains(&shown(end), text))
}

/// An end as the table shows it, for it is what one types: `name[pid]`, or `(why)`.
fn shown(end: &End) -> Vec<u8> {
    match end {
        End::Known(process) => [&process.comm[..], format!("[{}]", process.pid).as_bytes()].concat(),
        End::Unknown(why) => format!("({why})").into_bytes(),
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part))
}
