//! Whether mechanisms can be traced at the functions of their objects: facts, and the rule.

use std::collections::BTreeMap;
use std::io;

use ipctrace_common::hook::Point;
use ipctrace_common::{Hook, Mechanism};

use super::{btf, probe};

/// Which hooks are used, for mechanisms that can be traced in either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Those on objects where all that a mechanism needs can be attached, else those on system calls.
    #[default]
    Auto,
    /// Those on system calls.
    Syscall,
    /// Those on objects for these mechanisms (a set of [`Mechanism::bit`]), or none at all; for others as `Auto`.
    Object(u32),
    /// Those on objects for all mechanisms for which they can be attached, or none at all; for others those on system calls.
    Objects,
}

/// What is known of a kernel's functions that hooks are on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Why no program can be attached to any function, if so.
    pub refused: Option<String>,
    /// Why a program cannot be attached, or which of its forms the function has, by hook.
    pub hooks: BTreeMap<Hook, Result<usize, String>>,
    /// Numbers of `ITER_UBUF` and `ITER_IOVEC`.
    pub iter: [Option<u32>; 2],
}

impl Facts {
    /// Looks for the functions, and whether programs may be attached to them.
    pub(super) fn read(types: &btf::Types) -> Facts {
        let mut facts = Facts::default();
        for hook in Hook::ALL.iter().copied().filter(|hook| hook.is_on_object()) {
            if hook.may_be_absent() && btf::functions(types, hook.target()).is_empty() {
                continue;
            }
            let state = match possible(types, hook) {
                Ok((form, Ok(()))) => Ok(form),
                // The types are known, so it is the kernel that does not want to.
                Ok((_, Err(error))) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Facts { refused: Some(plain(&error)), ..Facts::default() };
                }
                Ok((_, Err(error))) if error.raw_os_error() == Some(probe::NOT_SUPPORTED) => Err(format!(
                    "{} has more arguments than this kernel gives to programs (Linux 6.6)",
                    hook.target()
                )),
                Ok((_, Err(error))) => Err(format!("{} cannot be hooked: {}", hook.target(), plain(&error))),
                Err(reason) => Err(reason),
            };
            facts.hooks.insert(hook, state);
        }
        facts.iter = ["ITER_UBUF", "ITER_IOVEC"].map(|name| btf::constant(types, "iter_type", name));
        facts
    }

    /// What turned out when it was tried.
    pub fn failed(&mut self, hook: Hook, reason: String) {
        self.hooks.insert(hook, Err(reason));
    }
}

/// Which form a function has, and what the kernel says when asked; or why it need not be.
fn possible(types: &btf::Types, hook: Hook) -> Result<(usize, io::Result<()>), String> {
    let (Point::Entry(forms) | Point::Exit(forms)) = hook.point() else { return Ok((0, Ok(()))) };
    let found = btf::functions(types, hook.target());
    let Some((_, has)) = found.first() else {
        return Err(format!("this kernel has no function {}", hook.target()));
    };
    if found.len() > 1 {
        return Err(format!("this kernel has {} functions {}", found.len(), hook.target()));
    }
    let Some(form) = forms.iter().position(|form| form == has) else {
        return Err(format!("{} of this kernel is `{has}`", hook.target()));
    };
    // Of one that takes nothing, one too many.
    let arguments = has.split(", ").count();
    Ok((form, probe::attaches(found[0].0, hook.point(), arguments)))
}

/// What an error is, without its number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// What programs on functions look into that those on system calls do not, by which mechanism it is for.
const NEEDED: &[(&str, u32)] = &[
    ("kiocb.ki_filp", FILES),
    ("iov_iter.type or iov_iter.iter_type", FILES | SOCKETS),
    ("iov_iter.iov_offset", FILES | SOCKETS),
    ("iov_iter.iov or iov_iter.__iov", FILES | SOCKETS),
    ("iov_iter.nr_segs", Mechanism::PIPES | Mechanism::Pty.bit() | SOCKETS),
    ("iov_iter.count", SOCKETS),
    ("msghdr.msg_name", SOCKETS),
    ("msghdr.msg_namelen", SOCKETS),
    ("msghdr.msg_iter", SOCKETS),
    ("msghdr.msg_control", SOCKETS),
    ("msghdr.msg_controllen", SOCKETS),
];

const FILES: u32 = Mechanism::Eventfd.bit() | Mechanism::PIPES | Mechanism::Pty.bit();
const SOCKETS: u32 = Mechanism::SOCKETS;

/// Whether a mechanism can be traced at its objects, with these offsets.
///
/// # Errors
/// Why not.
pub fn decide(
    facts: &Facts,
    offsets: &BTreeMap<&'static str, u32>,
    mechanism: Mechanism,
) -> Result<(), String> {
    if Hook::objects() & mechanism.bit() == 0 {
        return Err(format!("no object hooks for {} yet", mechanism.name()));
    }
    if let Some(reason) = &facts.refused {
        return Err(format!("this kernel refuses fentry: {reason}"));
    }
    let needed = |hook: &&Hook| hook.is_on_object() && hook.needed_by() & mechanism.bit() != 0;
    for hook in Hook::ALL.iter().filter(needed) {
        match facts.hooks.get(hook) {
            Some(state) => _ = state.clone()?,
            None if hook.may_be_absent()
                && hook.other().is_none_or(|other| facts.hooks.contains_key(&other)) => {}
            None => return Err(format!("nothing is known of the function {}", hook.target())),
        }
    }
    let missing = |(path, set): &&(&str, u32)| set & mechanism.bit() != 0 && !offsets.contains_key(path);
    match NEEDED.iter().find(missing) {
        Some((path, _)) => Err(format!("this kernel has no {path}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hook_of_a_mechanism_is_needed() {
        let mut facts = Facts::default();
        let offsets: BTreeMap<_, _> = NEEDED.iter().map(|(path, _)| (*path, 0)).collect();
        let decide = |facts: &Facts, mechanism| decide(facts, &offsets, mechanism);
        assert!(decide(&facts, Mechanism::Memfd).is_err_and(|why| why == "no object hooks for memfd yet"));
        for hook in Hook::ALL.iter().filter(|hook| hook.is_on_object()) {
            facts.hooks.insert(*hook, Ok(0));
        }
        assert_eq!(decide(&facts, Mechanism::PosixMq), Ok(()));
        facts.failed(Hook::MsgrcvEntry, "inlined".to_owned());
        assert_eq!(decide(&facts, Mechanism::SysvMsg), Err("inlined".to_owned()));
        assert_eq!(decide(&facts, Mechanism::PosixMq), Ok(()));
        facts.refused = Some("Operation not permitted".to_owned());
        assert!(decide(&facts, Mechanism::PosixMq).is_err_and(|why| why.contains("refuses fentry")));
    }

    #[test]
    fn a_call_seen_to_begin_is_seen_to_end() {
        let place = |target: &str, begins: bool| {
            let is_that = |hook: &Hook| {
                let begin = matches!(hook.point(), Point::Entry(_));
                hook.is_on_object() && hook.target() == target && begin == begins
            };
            Hook::ALL.iter().position(is_that)
        };
        for hook in Hook::ALL.iter().filter(|hook| hook.is_on_object()) {
            if let (Some(begin), Some(end)) = (place(hook.target(), true), place(hook.target(), false)) {
                assert!(end < begin, "{}", hook.target());
            }
        }
    }
}
