//! The summary of flows as a table.

use comfy_table::{
    Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, TableComponent, Width,
    presets,
};

use super::escape::{Charset, push_name, push_plain};
use super::units;
use crate::model::{End, Flow};
use crate::terminal::Terminal;

const HEADINGS: [&str; 9] =
    ["MECHANISM", "SENDER", "RECEIVER", "CHANNEL", "MESSAGES", "BYTES", "SIZE", "P50", "P99"];
/// Which of them hold numbers.
const NUMBERS: std::ops::Range<usize> = 4..9;
/// The one that may be broken over lines.
const CHANNEL: usize = 3;
/// Those that can be done without where there is not room for all, in this order: the one says nothing new.
const SPARE: [usize; 2] = [6, 8];
/// No narrower is the column of channels, if any id is that long: what is broken more often is not read.
const CHANNEL_LEAST: usize = 24;

/// An empty line, the table, one line a flow in the order given.
pub(super) fn flows(flows: &[Flow], terminal: &Terminal) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let rule = match terminal.charset {
        Charset::Utf8 => '─',
        Charset::Ascii => '-',
    };
    for place in [TableComponent::HeaderLines, TableComponent::MiddleHeaderIntersections] {
        table.set_style(place, rule);
    }
    if terminal.colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.set_header(HEADINGS.map(|heading| Cell::new(heading).add_attribute(Attribute::Bold)));
    for flow in flows {
        table.add_row(cells(flow, terminal.charset));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 1));
        if NUMBERS.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        if index != CHANNEL {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    if let Some(width) = terminal.width.and_then(|width| u16::try_from(width).ok()) {
        fit(&mut table, flows, width);
    }
    let mut text = String::from("\n");
    for line in table.lines() {
        text.push_str(line.trim_end_matches(' '));
        text.push('\n');
    }
    text
}

/// Arranges the table for a terminal of that width.
fn fit(table: &mut Table, flows: &[Flow], width: u16) {
    let longest =
        flows.iter().map(|flow| flow.channel.id.len()).max().unwrap_or(0).max(HEADINGS[CHANNEL].len());
    let least = longest.min(CHANNEL_LEAST);
    let widths = table.column_max_content_widths();
    // What all columns take, with the space between them.
    let mut needed: usize = (0..)
        .zip(&widths)
        .map(|(index, width)| 2 + if index == CHANNEL { least } else { usize::from(*width) })
        .sum();
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    if let Some(column) = table.column_mut(CHANNEL) {
        let least = u16::try_from(least + 1).unwrap_or(u16::MAX);
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(least)));
    }
    for index in SPARE {
        if needed > usize::from(width)
            && let Some(column) = table.column_mut(index)
        {
            column.set_constraint(ColumnConstraint::Hidden);
            needed -= 2 + usize::from(widths[index]);
        }
    }
}

/// One flow.
fn cells(flow: &Flow, charset: Charset) -> [String; 9] {
    let mut channel = String::new();
    push_plain(&mut channel, flow.channel.id.as_bytes(), charset);
    if let Some(name) = flow.channel.own_name() {
        channel.push(' ');
        push_plain(&mut channel, name, charset);
    }
    let latency = |pick: fn(&crate::model::Latency) -> u64| {
        flow.latency
            .as_ref()
            .map_or_else(|| "-".to_owned(), |latency| units::duration(pick(latency), charset))
    };
    [
        flow.mechanism.name().to_owned(),
        end(&flow.sender, charset),
        end(&flow.receiver, charset),
        channel,
        flow.messages.to_string(),
        flow.bytes.to_string(),
        units::size(flow.bytes),
        latency(|latency| latency.p50),
        latency(|latency| latency.p99),
    ]
}

/// `name[pid]`, or in parentheses why there is none.
fn end(end: &End, charset: Charset) -> String {
    let mut text = String::new();
    match end {
        End::Known(process) => {
            push_name(&mut text, &process.comm, charset);
            text.push_str(&format!("[{}]", process.pid));
        }
        End::Unknown(why) => {
            text.push('(');
            push_plain(&mut text, why.to_string().as_bytes(), charset);
            text.push(')');
        }
    }
    text
}

#[cfg(test)]
mod tests;
