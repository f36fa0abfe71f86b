//! Transfers of which one record says all: a call that copies memory between two processes.

use std::rc::Rc;

use ipctrace_common::Mechanism;
use ipctrace_common::wire::{self, op_flag};

use crate::model::{Channel, End, Event, Proc, Transfer};

/// What one call did. Nobody waits for it, so there is no latency.
pub(super) fn event(
    record: &wire::Direct,
    mechanism: Mechanism,
    caller: Rc<Proc>,
    target: Rc<Proc>,
) -> Event {
    let id = format!("{}:{}", mechanism.name(), target.pid);
    let read = record.header.flags & op_flag::RECEIVE != 0;
    let (sender, receiver) = if read { (target, caller) } else { (caller, target) };
    let (sender, receiver) = (End::Known(sender), End::Known(receiver));
    let channel = Rc::new(Channel { id, name: None });
    Event::Transfer(Transfer::new(mechanism, channel, sender, receiver, record.bytes, record.header.time))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::correlate::testing::{correlate, header, shorts, task, transfers};
    use crate::decode::Record;
    use ipctrace_common::wire::Kind;

    fn copied(flags: u16, bytes: u64) -> Record {
        Record::Direct(Box::new(wire::Direct {
            header: header(Kind::Direct, Mechanism::ProcessVm, flags, 5),
            task: task(10),
            target: task(20),
            bytes,
        }))
    }

    #[test]
    fn a_reader_takes_from_its_target_and_a_writer_gives_it() {
        let events = correlate([copied(op_flag::RECEIVE, 100), copied(0, 7), copied(0, u64::MAX)]);
        assert_eq!(shorts(&events), [(Ok(20), Ok(10), 100), (Ok(10), Ok(20), 7)]);
        assert!(transfers(&events).iter().all(|transfer| transfer.channel.id == "process_vm:20"));
    }
}
