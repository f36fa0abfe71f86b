//! Whether and how requests through io_uring can be traced: facts from the kernel's type information, and the rule.

use std::collections::BTreeMap;

use btf_rs::{Btf, BtfType, Type};
use ipctrace_common::Hook;
use ipctrace_common::uring::{Need, Places, Uring, complete_form};

use super::btf;

/// What is known of a kernel's io_uring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Offsets by `struct.member` path; those that this kernel does not have are absent.
    pub places: BTreeMap<&'static str, u32>,
    /// Whether the tracepoint at the begin of a request, if there is one, names the request.
    pub submit_names_request: bool,
    /// How the tracepoint at the end of a request tells of it: a [`complete_form`]; `None` if in none that we know.
    pub complete: Option<u32>,
}

impl Facts {
    /// Reads the kernel's type information.
    pub(super) fn read(types: &btf::Types) -> Facts {
        let places = Places::PATHS.iter().filter_map(|(path, ..)| Some((*path, btf::offset(types, path)?)));
        let submit = [Hook::UringSubmit, Hook::UringSubmitSqe]
            .into_iter()
            .find_map(|hook| arguments(types.btf(), hook.target()));
        let complete = arguments(types.btf(), Hook::UringComplete.target());
        Facts {
            places: places.collect(),
            submit_names_request: submit
                .is_some_and(|kinds| kinds.first().is_some_and(|kind| kind == "io_kiocb")),
            complete: complete.and_then(|kinds| form(&kinds)),
        }
    }
}

/// What the arguments of a BTF tracepoint point to, by name; empty for what is no pointer or points to nothing that has a
/// name. `None` if there is no such tracepoint.
fn arguments(types: &Btf, tracepoint: &str) -> Option<Vec<String>> {
    let found = types.resolve_types_by_name(&format!("btf_trace_{tracepoint}")).ok()?;
    let pointer = types.resolve_chained_type(found.first()?.as_btf_type()?).ok()?;
    let Type::FuncProto(prototype) = types.resolve_chained_type(pointer.as_btf_type()?).ok()? else {
        return None;
    };
    let target = |id: u32| {
        let Type::Ptr(pointer) = types.resolve_type_by_id(id).ok()? else { return None };
        let target = types.resolve_type_by_id(pointer.get_type_id()?).ok()?;
        types.resolve_name(target.as_btf_type()?).ok()
    };
    // The first is the program's own.
    let rest = prototype.parameters.iter().skip(1);
    Some(rest.map(|one| one.get_type_id().and_then(target).unwrap_or_default()).collect())
}

/// The form of a tracepoint with these arguments: before Linux 6.0 it does not name the request.
fn form(kinds: &[String]) -> Option<u32> {
    match kinds {
        [_, _, entry] if entry == "io_uring_cqe" => Some(complete_form::ENTRY),
        [_, _, _, _, _, _, _] => Some(complete_form::FIELDS),
        _ => None,
    }
}

/// How rings are traced on a kernel with these facts and tracepoints.
///
/// # Errors
/// Why they cannot be, in words.
pub fn decide(facts: &Facts, tracepoints: &[Hook]) -> Result<Uring, String> {
    if ![Hook::UringSubmit, Hook::UringSubmitSqe].iter().any(|hook| tracepoints.contains(hook)) {
        return Err("this kernel has no tracepoint io_uring_submit_req".to_owned());
    }
    if !tracepoints.contains(&Hook::UringComplete) {
        return Err("this kernel has no tracepoint io_uring_complete".to_owned());
    }
    let Some(complete) = facts.complete.filter(|_| facts.submit_names_request) else {
        return Err("the tracepoints of this kernel's io_uring do not name the request: Linux 6.0 is needed"
            .to_owned());
    };
    let mut places = Places::NONE;
    for (path, need, place) in Places::PATHS {
        match (facts.places.get(path), need) {
            (Some(offset), _) => *place(&mut places) = *offset,
            (None, Need::Perhaps) => {}
            (None, Need::Always) => return Err(format!("this kernel has no {path}")),
        }
    }
    let by_socket = [Hook::SockSend, Hook::SockReceive].iter().all(|hook| tracepoints.contains(hook));
    Ok(Uring { on: 1, complete, by_socket: u32::from(by_socket), places })
}

/// The hooks that are for rings alone; by receives at the socket, messages of recvmmsg(2) are counted too.
pub fn is_for_rings(hook: Hook) -> bool {
    [Hook::SockSend, Hook::UringComplete, Hook::UringOverflow, Hook::UringSubmit, Hook::UringSubmitSqe]
        .contains(&hook)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            places: Places::PATHS
                .iter()
                .enumerate()
                .map(|(index, (path, ..))| (*path, index as u32))
                .collect(),
            submit_names_request: true,
            complete: Some(complete_form::ENTRY),
        }
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn forms_are_told_apart_by_their_arguments() {
        assert_eq!(form(&words(&["io_ring_ctx", "", "io_uring_cqe"])), Some(complete_form::ENTRY));
        assert_eq!(form(&words(&["", "", "", "", "", "", ""])), Some(complete_form::FIELDS));
        // Linux 5.10: ring, name, result.
        assert_eq!(form(&words(&["", "", ""])), None);
    }

    #[test]
    fn a_kernel_without_the_hooks_is_told_so() {
        let why = |facts: &Facts, hooks: &[Hook]| decide(facts, hooks).expect_err("it cannot be");
        assert!(why(&facts(), &[]).contains("io_uring_submit_req"));
        assert!(why(&facts(), &[Hook::UringSubmit]).contains("io_uring_complete"));
        let old = Facts { submit_names_request: false, ..facts() };
        assert!(why(&old, Hook::ALL).contains("6.0"));
        let mut odd = facts();
        odd.places.remove("io_kiocb.opcode");
        assert!(why(&odd, Hook::ALL).contains("io_kiocb.opcode"));
    }

    #[test]
    fn what_may_be_missing_is_absent() {
        let mut facts = facts();
        facts.places.remove("io_splice.flags");
        let uring = decide(&facts, &[Hook::UringSubmitSqe, Hook::UringComplete]).expect("enough is there");
        assert_eq!((uring.on, uring.by_socket, uring.places.splice_flags), (1, 0, Places::ABSENT));
        assert_eq!(decide(&facts, Hook::ALL).map(|uring| uring.by_socket), Ok(1));
    }
}
