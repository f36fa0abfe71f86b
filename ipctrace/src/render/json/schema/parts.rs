//! What the objects are made of.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use ipctrace_common::{Cause, Mechanism};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::cgroup::Cgroups;
use crate::model::{self, Why};
use crate::render::Coverage;
use crate::render::clock::Stamp;
use crate::render::escape::Charset;
use crate::render::json::tame::Tame;

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Bytes that are text as a rule: a string, or `{"base64": "…"}` if they are not UTF-8.
pub(super) struct Text<T>(pub(super) T);

impl<T: AsRef<[u8]>> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = self.0.as_ref();
        match str::from_utf8(bytes) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("base64", &Displayed(Base64Display::new(bytes, &STANDARD)))?;
                map.end()
            }
        }
    }
}

/// Serialises what a value displays.
struct Displayed<T>(T);

impl<T: std::fmt::Display> Serialize for Displayed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// PROC of the schema, as it is written.
pub(super) struct Process(Rc<RawValue>);

impl Serialize for Process {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// Writes processes, each once: most lines name some that have been named before, and they are the larger part of a line.
pub(in crate::render::json) struct Processes {
    cgroups: Rc<dyn Cgroups>,
    charset: Charset,
    /// By address, which nothing else has as long as the process stands beside it.
    written: RefCell<HashMap<*const model::Proc, Written>>,
}

/// A process, and how it is written.
type Written = (Rc<model::Proc>, Rc<RawValue>);

/// Processes that are remembered.
const MOST: usize = 2048;

impl Processes {
    pub(in crate::render::json) fn new(cgroups: Rc<dyn Cgroups>, charset: Charset) -> Processes {
        Processes { cgroups, charset, written: RefCell::default() }
    }

    fn write(&self, process: &Rc<model::Proc>) -> Rc<RawValue> {
        let mut written = self.written.borrow_mut();
        if let Some((_, text)) = written.get(&Rc::as_ptr(process)) {
            return Rc::clone(text);
        }
        let fields = Fields::new(process, &*self.cgroups);
        let mut text = Vec::new();
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, Tame(self.charset));
        // Neither writing to memory nor any of the fields can fail; else it would be `null`.
        let text = match fields.serialize(&mut serializer) {
            Ok(()) => String::from_utf8(text).ok().and_then(|text| RawValue::from_string(text).ok()),
            Err(_) => None,
        };
        let text = Rc::from(text.unwrap_or_else(|| RawValue::NULL.to_owned()));
        // A control group may be found later.
        if fields.cgroup_why.is_none() {
            if written.len() >= MOST {
                written.clear();
            }
            written.insert(Rc::as_ptr(process), (Rc::clone(process), Rc::clone(&text)));
        }
        text
    }
}

/// What is written of a process. What could not be read is null and says so.
#[derive(Serialize)]
struct Fields<'a> {
    pid: u32,
    tid: u32,
    comm: Text<&'a [u8]>,
    start: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_why: Option<&'static str>,
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid_why: Option<&'static str>,
    cgroup: Option<Text<Rc<[u8]>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup_why: Option<&'static str>,
}

/// The kernel's structure could not be read.
const UNREADABLE: &str = "read-failed";
/// The control group has been removed since, or is outside what is mounted here.
const UNRESOLVED: &str = "not-found";

impl<'a> Fields<'a> {
    fn new(process: &'a model::Proc, cgroups: &dyn Cgroups) -> Fields<'a> {
        let (cgroup, cgroup_why) = match process.cgroup {
            0 => (None, Some(UNREADABLE)),
            id => match cgroups.path(id) {
                Some(path) => (Some(Text(path)), None),
                None => (None, Some(UNRESOLVED)),
            },
        };
        Fields {
            pid: process.pid,
            tid: process.tid,
            comm: Text(&process.comm),
            start: (process.start != 0).then_some(process.start),
            start_why: (process.start == 0).then_some(UNREADABLE),
            uid: process.uid,
            uid_why: process.uid.is_none().then_some(UNREADABLE),
            cgroup,
            cgroup_why,
        }
    }
}

impl Process {
    pub(super) fn new(process: &Rc<model::Proc>, processes: &Processes) -> Process {
        Process(processes.write(process))
    }

    /// The process at an end, if there is one.
    pub(super) fn of(end: &model::End, processes: &Processes) -> Option<Process> {
        end.process().map(|process| Process::new(process, processes))
    }
}

/// Why a field beside it is null.
pub(super) enum Reason<'a> {
    Why(&'a Why),
    Fixed(&'static str),
}

impl<'a> Reason<'a> {
    /// Why there is no process at an end; `None` if there is one.
    pub(super) fn of(end: &'a model::End) -> Option<Reason<'a>> {
        match end {
            model::End::Known(_) => None,
            model::End::Unknown(why) => Some(Reason::Why(why)),
        }
    }

    /// Why there is no latency: for want of one of the ends, or of the time at one of them.
    pub(super) fn unmeasured<T>(latency: Option<T>, ends: [&'a model::End; 2]) -> Option<Reason<'a>> {
        match latency {
            Some(_) => None,
            None => ends.into_iter().find_map(Reason::of).or(Some(Reason::Fixed("unmeasured"))),
        }
    }
}

impl Serialize for Reason<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Reason::Why(why) => serializer.collect_str(why),
            Reason::Fixed(why) => serializer.serialize_str(why),
        }
    }
}

/// CHANNEL of the schema.
#[derive(Serialize)]
pub(super) struct Channel<'a> {
    id: &'a str,
    name: Option<Text<&'a [u8]>>,
}

impl<'a> Channel<'a> {
    pub(super) fn new(channel: &'a model::Channel) -> Channel<'a> {
        Channel { id: &channel.id, name: channel.name.as_deref().map(Text) }
    }
}

/// Distribution of latencies.
#[derive(Serialize)]
pub(super) struct Latency {
    count: u64,
    p50_ns: u64,
    p90_ns: u64,
    p99_ns: u64,
    max_ns: u64,
}

impl Latency {
    pub(super) fn new(latency: model::Latency) -> Latency {
        Latency {
            count: latency.count,
            p50_ns: latency.p50,
            p90_ns: latency.p90,
            p99_ns: latency.p99,
            max_ns: latency.max,
        }
    }
}

/// `{"pipe": "on", "tcp": "off: why"}`.
pub(super) struct Coverages<'a>(pub(super) &'a [(Mechanism, Coverage)]);

impl Serialize for Coverages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(mechanism, on)| (mechanism.name(), Displayed(on))))
    }
}

/// `{"pipe": "syscall"}`: by which hooks mechanisms are traced.
pub(super) struct Kinds<'a>(pub(super) &'a [(Mechanism, &'static str)]);

impl Serialize for Kinds<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(mechanism, kind)| (mechanism.name(), kind)))
    }
}

/// `{"ring-full": 12}`: the causes that did occur.
pub(super) struct Counts<'a>(pub(super) &'a [(Cause, u64)]);

impl Serialize for Counts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let occurred = self.0.iter().filter(|(_, count)| *count > 0);
        serializer.collect_map(occurred.map(|(cause, count)| (cause.name(), count)))
    }
}
