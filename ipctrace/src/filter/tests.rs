use ipctrace_common::Cause;

use super::*;
use crate::model::{Lost, Why};
use crate::render::fixture::{self, Groups, process};

fn filter(selection: Selection) -> Filter {
    Filter::new(selection, Rc::new(Groups))
}

/// A transfer from `seq`, process 100 of user 1000 in group 7, to `sort`, process 200 of user 0 in group 8.
fn event() -> Event {
    let sender = Proc { uid: Some(1000), cgroup: 7, ..process(100, b"seq") };
    let receiver = Proc { uid: Some(0), cgroup: 8, ..process(200, b"sort") };
    Event::Transfer(crate::model::Transfer {
        sender: End::Known(Rc::new(sender)),
        receiver: End::Known(Rc::new(receiver)),
        ..fixture::transfer()
    })
}

#[test]
fn nothing_asked_shows_all() {
    assert!(filter(Selection::default()).event(&event()));
}

#[test]
fn values_of_one_kind_are_alternatives_at_either_end() {
    let passes = |selection| filter(selection).event(&event());
    for (pids, expected) in [(vec![100], true), (vec![200], true), (vec![3, 200], true), (vec![3], false)] {
        assert_eq!(passes(Selection { pids, ..Selection::default() }), expected);
    }
    for (comms, expected) in [(vec!["seq"], true), (vec!["x", "sort"], true), (vec!["sor"], false)] {
        let comms = comms.into_iter().map(|comm| comm.as_bytes().to_vec()).collect();
        assert_eq!(passes(Selection { comms, ..Selection::default() }), expected);
    }
    for (uids, expected) in [(vec![0], true), (vec![1000], true), (vec![5], false)] {
        assert_eq!(passes(Selection { uids, ..Selection::default() }), expected);
    }
}

#[test]
fn who_gets_a_process_id_later_is_another() {
    let had_at = |time| Selection { pids: vec![100], had_at: time, ..Selection::default() };
    let start = process(100, b"seq").start;
    assert!(filter(had_at(start)).event(&event()));
    assert!(!filter(had_at(start - 1)).event(&event()));
}

#[test]
fn kinds_must_all_hold_though_not_at_the_same_end() {
    let select = |pid, comm: &str, uid| Selection {
        pids: vec![pid],
        comms: vec![comm.as_bytes().to_vec()],
        uids: vec![uid],
        ..Selection::default()
    };
    assert!(filter(select(100, "sort", 0)).event(&event()));
    assert!(!filter(select(100, "cat", 0)).event(&event()));
    assert!(!filter(select(300, "sort", 0)).event(&event()));
    assert!(!filter(select(100, "sort", 7)).event(&event()));
}

#[test]
fn a_long_name_is_compared_as_the_kernel_keeps_it() {
    let selection = Selection { comms: vec![b"systemd-timesyncd".to_vec()], ..Selection::default() };
    let mut transfer = fixture::transfer();
    transfer.sender = End::Known(Rc::new(process(1, b"systemd-timesyn")));
    assert!(filter(selection).event(&Event::Transfer(transfer)));
}

#[test]
fn a_control_group_holds_those_below_it() {
    let select = |id, path: &str| Selection {
        cgroups: vec![Cgroup { id, path: path.as_bytes().to_vec() }],
        ..Selection::default()
    };
    // Group 7 is /system.slice/a.service, as `Groups` has it.
    assert!(filter(select(7, "/system.slice/a.service")).event(&event()));
    assert!(filter(select(99, "/system.slice")).event(&event()));
    assert!(!filter(select(99, "/system")).event(&event()));
    assert!(!filter(select(99, "/user.slice")).event(&event()));
}

#[test]
fn mechanisms_select_events_and_flows() {
    let only = |mechanism: Mechanism| {
        filter(Selection { mechanisms: [mechanism].into_iter().collect(), ..Selection::default() })
    };
    assert!(only(Mechanism::Pipe).event(&event()));
    assert!(!only(Mechanism::Fifo).event(&event()));
    assert!(only(Mechanism::Signal).event(&Event::Signal(fixture::signal())));
    assert!(!only(Mechanism::Pipe).event(&Event::Signal(fixture::signal())));
    assert!(only(Mechanism::Pipe).flow(&fixture::flow()));
    assert!(!only(Mechanism::Tcp).flow(&fixture::flow()));
    let mut handoff = fixture::handoff();
    assert!(only(Mechanism::UnixStream).event(&Event::Handoff(handoff.clone())));
    handoff.via = "pidfd_getfd";
    assert!(!only(Mechanism::UnixStream).event(&Event::Handoff(handoff.clone())));
    assert!(filter(Selection::default()).event(&Event::Handoff(handoff)));
}

#[test]
fn an_unknown_end_meets_no_demand_and_a_loss_meets_all() {
    let strict = filter(Selection { uids: vec![0], pids: vec![1], ..Selection::default() });
    let mut transfer = fixture::transfer();
    transfer.sender = End::Unknown(Why::BeforeStart);
    transfer.receiver = End::Unknown(Why::Unread);
    assert!(!strict.event(&Event::Transfer(transfer)));
    assert!(strict.event(&Event::Lost(Lost { time: 0, cause: Cause::RingFull, count: 1 })));
}

#[test]
fn a_family_grows_by_forks_of_its_members_only() {
    let start = process(100, b"seq").start;
    let mut filter = filter(Selection::default());
    filter.found_family((50, 5));
    assert!(!filter.event(&event()));
    filter.forked((50, 6), (100, start));
    assert!(!filter.event(&event()), "a namesake of a member is no member");
    filter.forked((50, 5), (60, 7));
    filter.forked((60, 7), (100, start));
    assert!(filter.event(&event()));
}
