//! NDJSON, schema 1: one object a line, `type` first, nothing unknown without a reason.

mod schema;
mod tame;

use std::io::{self, Write};
use std::rc::Rc;

use serde::Serialize;

use super::clock::{Clock, Stamps};
use super::{Charset, Hello, Renderer, Totals};
use crate::cgroup::Cgroups;
use crate::model::{Event, Flow};
use crate::top::Top;
use tame::Tame;

/// The version of the schema, as `hello` says it. Fields are added without notice; when one changes its meaning or goes,
/// this grows.
const SCHEMA: u32 = 1;

/// Writes NDJSON.
pub struct Json {
    stamps: Stamps,
    processes: schema::Processes,
    charset: Charset,
    /// The line being made: kept for its memory.
    line: Vec<u8>,
}

impl Json {
    /// A renderer that names control groups by what `cgroups` says.
    ///
    /// Control and format characters are always written as `\u` escapes, so that lines are harmless on a terminal; with
    /// [`Charset::Ascii`] so are all others beyond ASCII.
    pub fn new(clock: Clock, cgroups: Rc<dyn Cgroups>, charset: Charset) -> Json {
        let processes = schema::Processes::new(cgroups, charset);
        Json { stamps: Stamps::new(clock), processes, charset, line: Vec::new() }
    }
}

/// Appends one object and a newline.
fn push_line(line: &mut Vec<u8>, charset: Charset, object: &impl Serialize) -> io::Result<()> {
    object.serialize(&mut serde_json::Serializer::with_formatter(&mut *line, Tame(charset)))?;
    line.push(b'\n');
    Ok(())
}

impl Renderer for Json {
    fn hello(&mut self, hello: &Hello, out: &mut dyn Write) -> io::Result<()> {
        self.line.clear();
        let object = schema::Hello::new(hello, self.stamps.stamp(hello.time));
        push_line(&mut self.line, self.charset, &object)?;
        out.write_all(&self.line)
    }

    fn event(&mut self, event: &Event, out: &mut dyn Write) -> io::Result<()> {
        let (line, charset, processes) = (&mut self.line, self.charset, &self.processes);
        line.clear();
        match event {
            Event::Transfer(transfer) => {
                let time = self.stamps.stamp(transfer.time);
                push_line(line, charset, &schema::Transfer::new(transfer, time, processes))
            }
            Event::Signal(signal) => {
                let time = self.stamps.stamp(signal.time);
                push_line(line, charset, &schema::Signal::new(signal, time, processes))
            }
            Event::Share(share) => {
                let time = self.stamps.stamp(share.time);
                push_line(line, charset, &schema::Share::new(share, time, processes))
            }
            Event::Wake(wake) => {
                let time = self.stamps.stamp(wake.time);
                push_line(line, charset, &schema::Wake::new(wake, time, processes))
            }
            Event::Handoff(handoff) => {
                let time = self.stamps.stamp(handoff.time);
                push_line(line, charset, &schema::Handoff::new(handoff, time, processes))
            }
            Event::Evidence(evidence) => {
                let time = self.stamps.stamp(evidence.time);
                push_line(line, charset, &schema::Evidence::new(evidence, time, processes))
            }
            Event::Lost(lost) => {
                let time = self.stamps.stamp(lost.time);
                push_line(line, charset, &schema::Lost::new(lost, time))
            }
        }?;
        out.write_all(line)
    }

    fn flows(&mut self, time: u64, flows: &[Flow], out: &mut dyn Write) -> io::Result<()> {
        let time = self.stamps.stamp(time);
        for flow in flows {
            self.line.clear();
            let (first, last) = (self.stamps.stamp(flow.first), self.stamps.stamp(flow.last));
            let object = schema::Flow::new(flow, [time, first, last], &self.processes);
            push_line(&mut self.line, self.charset, &object)?;
            out.write_all(&self.line)?;
        }
        Ok(())
    }

    /// The flows that moved; of the others all has been said. Nothing is filtered or sorted by keys here.
    fn interval(&mut self, top: &Top, out: &mut dyn Write) -> io::Result<()> {
        let time = self.stamps.stamp(top.time());
        for row in top.rows().filter(|row| row.moved) {
            self.line.clear();
            let (first, last) = (self.stamps.stamp(row.flow.first), self.stamps.stamp(row.flow.last));
            let object = schema::LiveFlow::new(row, [time, first, last], &self.processes);
            push_line(&mut self.line, self.charset, &object)?;
            out.write_all(&self.line)?;
        }
        Ok(())
    }

    fn end(&mut self, totals: &Totals, out: &mut dyn Write) -> io::Result<()> {
        self.line.clear();
        let object = schema::End::new(totals, self.stamps.stamp(totals.time));
        push_line(&mut self.line, self.charset, &object)?;
        out.write_all(&self.line)
    }
}

#[cfg(test)]
mod tests;
