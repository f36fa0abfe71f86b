//! What of this kernel can be traced: tests of the rest are skipped.

use std::sync::OnceLock;

use ipctrace::demo::truth::Truth;
use ipctrace::kernel::{Facts, Plan};
use ipctrace_common::{Mechanism, Shape};

/// The plan for everything; none if nothing can be traced.
fn plan() -> Option<&'static Plan> {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    PLAN.get_or_init(|| Plan::new(&Facts::gather(), Mechanism::ALL, std::process::id(), 0).ok()).as_ref()
}

/// Whether calls may be lost because tasks are preempted in the middle of programs on functions, which are those that are asked for
/// (docs/limitations.md).
pub fn programs_are_preempted() -> bool {
    at_objects() && Facts::gather().preemptible != Some(false)
}

/// Whether hooks on functions are asked for.
fn at_objects() -> bool {
    std::env::var("IPCTRACE_HOOKS").is_ok_and(|kind| kind == "object")
}

/// Why a mechanism cannot be traced on this kernel, if it cannot.
pub fn off(mechanism: Mechanism) -> Option<&'static str> {
    plan().map_or(Some("nothing can be traced"), |plan| {
        plan.mechanisms.iter().find(|(found, _)| *found == mechanism)?.1.as_ref().err().map(String::as_str)
    })
}

/// Why requests through io_uring cannot be, if they cannot.
pub fn rings_off() -> Option<&'static str> {
    plan().map_or(Some("nothing can be traced"), |plan| plan.uring.as_ref().err().map(String::as_str))
}

/// Why a send through a ring of which no completion tells cannot be seen, if it cannot.
pub fn quiet_sends_off() -> Option<&'static str> {
    let by_socket = plan().is_some_and(|plan| plan.config.uring.by_socket != 0);
    (!at_objects() && !by_socket)
        .then_some("sends without completions are seen at sockets, which this kernel does not tell of")
}

/// How many messages of a sendmmsg(2) or recvmmsg(2) can be told of.
pub fn messages_at_once() -> usize {
    // Where programs have plain loops (before Linux 5.17) these are shorter.
    if plan().is_some_and(|plan| plan.plain) { 8 } else { usize::MAX }
}

/// Takes what cannot be traced on this kernel out of what processes say they did; gives why, if that leaves nothing.
pub fn possible(truth: Vec<Truth>) -> Result<Vec<Truth>, &'static str> {
    let mut reason = None;
    let mut is_off = |mechanism: Option<Mechanism>| {
        let off = mechanism.and_then(off);
        reason = reason.or(off);
        off.is_some()
    };
    let named = |name: &str| Mechanism::ALL.iter().copied().find(|mechanism| mechanism.name() == name);
    let left: Vec<Truth> = truth
        .into_iter()
        .map(of_a_file_where_off)
        .filter(|truth| match truth {
            Truth::Member { .. } | Truth::Named { .. } | Truth::Handoff { .. } => true,
            Truth::Sent { mechanism, .. }
            | Truth::Transfer { mechanism, .. }
            | Truth::Wake { mechanism, .. } => !is_off(named(mechanism)),
            Truth::Units { .. } => !is_off(Some(Mechanism::Eventfd)),
            Truth::Signal { .. } => !is_off(Some(Mechanism::Signal)),
            // They are on or off together.
            Truth::Share { .. } | Truth::Evidence { .. } => {
                !is_off(Mechanism::ALL.iter().copied().find(|mechanism| mechanism.shape() == Shape::Shared))
            }
        })
        .collect();
    let nothing = left.iter().all(|truth| matches!(truth, Truth::Member { .. } | Truth::Named { .. }));
    match reason {
        Some(reason) if nothing => Err(reason),
        Some(_) | None => Ok(left),
    }
}

/// Where memory is not traced, what is passed of it is a file like others.
fn of_a_file_where_off(mut truth: Truth) -> Truth {
    if let Truth::Handoff { object, .. } = &mut truth
        && off(Mechanism::Memfd).is_some()
        && let Some(place) = object.strip_prefix("memfd:")
    {
        *object = format!("file:{place}");
    }
    truth
}

/// Whether the kernel is older than `major.minor`: for what it does otherwise since, which nothing else tells.
pub fn is_older_than(major: u32, minor: u32) -> bool {
    let release = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse::<u32>);
    matches!((numbers.next(), numbers.next()), (Some(Ok(one)), Some(Ok(two))) if (one, two) < (major, minor))
}
