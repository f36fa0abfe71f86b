//! The eBPF programs: that they rest on what they say they rest on, and what they cost the verifier.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use btf_rs::{Btf, BtfType, Type};
use ipctrace::attach;
use ipctrace::kernel::facts::BTF;
use ipctrace::kernel::{Facts, Plan, btf, uring};
use ipctrace_common::hook::Point;
use ipctrace_common::{Hook, Mechanism};

/// What a hook's comment says.
struct Comment {
    /// Whether it is on a tracepoint, and not on a function.
    tracepoint: bool,
    /// Which.
    name: String,
    /// The type of what a function returns.
    result: String,
    /// The types of its arguments.
    arguments: Vec<String>,
}

/// What the hooks' comments say.
fn comments() -> Result<Vec<Comment>> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ipctrace-ebpf/src");
    let mut found = Vec::new();
    let files: Vec<_> = fs::read_dir(sources)?.collect::<Result<_, _>>()?;
    // Hooks stand in modules of the crate itself.
    for file in files.iter().filter(|entry| entry.path().is_file()) {
        for line in fs::read_to_string(file.path())?.lines() {
            let Some(rest) = line.strip_prefix("/// hook: ") else { continue };
            let (kind, rest) = rest.split_once('/').with_context(|| format!("the form of: {line}"))?;
            if kind == "tracepoint" {
                // The record that it makes is looked at before it is used.
                continue;
            }
            ensure!(["tp_btf", "fentry", "fexit"].contains(&kind), "what it is: {line}");
            let (name, rest) = rest.split_once(" `").with_context(|| format!("the form of: {line}"))?;
            let (result, rest) = rest.split_once('(').with_context(|| format!("the form of: {line}"))?;
            let (arguments, place) =
                rest.split_once(")` — ").with_context(|| format!("the form of: {line}"))?;
            let tracepoint = kind == "tp_btf";
            ensure!(
                place.starts_with("include/trace/events/") == tracepoint,
                "where it stands in the kernel: {line}"
            );
            // The name of an argument is its last word; a star before it belongs to the type.
            let kind = |argument: &str| {
                let name = argument.rfind([' ', '*']).map_or(0, |end| end + 1);
                argument[..name].trim().to_owned()
            };
            found.push(Comment {
                tracepoint,
                name: name.to_owned(),
                result: result.trim().to_owned(),
                arguments: arguments.split(", ").map(kind).collect(),
            });
        }
    }
    Ok(found)
}

/// A type as C writes it.
fn spell(types: &Btf, id: u32) -> Result<String> {
    btf::spell(types, id).context("a type without a name")
}

/// The arguments of a BTF tracepoint on this kernel, without the data that comes first.
fn arguments(types: &Btf, tracepoint: &str) -> Result<Vec<String>> {
    let typedef = types.resolve_types_by_name(&format!("btf_trace_{tracepoint}"))?;
    let typedef = typedef.first().context("no such tracepoint")?;
    let pointer = types.resolve_chained_type(typedef.as_btf_type().context("a typedef")?)?;
    let prototype = types.resolve_chained_type(pointer.as_btf_type().context("a pointer")?)?;
    let Type::FuncProto(prototype) = prototype else { anyhow::bail!("{prototype:?} is no prototype") };
    prototype.parameters.iter().skip(1).map(|one| spell(types, one.get_type_id().unwrap_or(0))).collect()
}

/// The types of what a function of this kernel returns and of its arguments; none if there is no such function.
fn function(types: &Btf, name: &str) -> Result<Option<(String, Vec<String>)>> {
    for found in types.resolve_types_by_name(name).unwrap_or_default() {
        let Type::Func(function) = found else { continue };
        let Type::FuncProto(prototype) = types.resolve_chained_type(&function)? else { continue };
        let arguments = prototype.parameters.iter().map(|one| spell(types, one.get_type_id().unwrap_or(0)));
        return Ok(Some((spell(types, prototype.return_type_id())?, arguments.collect::<Result<_>>()?)));
    }
    Ok(None)
}

#[test]
fn every_hook_has_the_arguments_that_its_comment_says() -> Result<()> {
    let types = Btf::from_file(BTF)?;
    let comments = comments()?;
    let named: BTreeSet<&str> = comments.iter().map(|comment| comment.name.as_str()).collect();
    for hook in Hook::ALL {
        assert!(named.contains(hook.target()), "no comment for {}", hook.target());
    }
    let facts = Facts::gather();
    let plan = Plan::new(&facts, Mechanism::ALL, std::process::id(), 0)?;
    for Comment { name: tracepoint, arguments: said, .. } in comments.iter().filter(|one| one.tracepoint) {
        // Of some tracepoints older kernels have one, newer ones another.
        if !facts.tracepoints.iter().any(|hook| hook.target() == tracepoint) {
            let missed = Hook::ALL.iter().filter(|hook| hook.target() == tracepoint);
            let missed = missed.map(|hook| hook.needed_by()).fold(0, |all, one| all | one);
            let replaced = if plan.config.udp_by_taking == 0 { 0 } else { Mechanism::Udp.bit() };
            assert_eq!(missed & plan.config.mechanisms & !replaced, 0, "this kernel has no {tracepoint}");
            println!("{tracepoint}: this kernel has none");
            continue;
        }
        let has = arguments(&types, tracepoint)?;
        // What differs in these is found out before they are used.
        if Hook::ALL.iter().any(|hook| hook.target() == tracepoint && uring::is_for_rings(*hook)) {
            continue;
        }
        // Newer kernels append arguments. The verifier does not let a program read one that is not there.
        let both = has.len().min(said.len());
        assert_eq!(has[..both], said[..both], "{tracepoint}: this kernel has {has:?}");
    }
    Ok(())
}

/// Most instructions that the verifier may have to look at for one program: loading takes about 2 µs each.
const BUDGET: u32 = 100_000;

#[test]
fn every_hook_on_a_function_has_what_its_comment_says() -> Result<()> {
    let types = Btf::from_file(BTF)?;
    let mut checked = 0;
    for Comment { name, result, arguments, .. } in comments()?.iter().filter(|one| !one.tracepoint) {
        let space = if result.ends_with('*') { "" } else { " " };
        let said = format!("{result}{space}({})", arguments.join(", "));
        for hook in Hook::ALL.iter().filter(|hook| hook.target() == name) {
            assert!(
                matches!(hook.point(), Point::Entry(forms) | Point::Exit(forms) if forms.contains(&said.as_str())),
                "{name}: {said}, but the table has {:?}",
                hook.point()
            );
        }
        // What is not there, or otherwise, costs its mechanisms these hooks: see the unit tests of the rule.
        match function(&types, name)? {
            Some((result_here, here)) => {
                let several = Hook::ALL.iter().filter(|hook| hook.target() == name).any(|hook| {
                    matches!(hook.point(), Point::Entry(forms) | Point::Exit(forms) if forms.len() > 1)
                });
                if !several {
                    assert_eq!((result_here.as_str(), &here), (result.as_str(), arguments), "{name}");
                }
                checked += 1;
            }
            None => println!("{name}: this kernel has none"),
        }
    }
    assert!(checked > 0, "this kernel has none of the functions");
    Ok(())
}

#[test]
fn the_verifier_is_done_with_each_program_soon() -> Result<()> {
    let plan = Plan::new(&Facts::gather(), Mechanism::ALL, std::process::id(), 64)?;
    let counts = attach::verified(&plan)?;
    assert_eq!(counts.len(), plan.hooks.len());
    for (hook, count) in counts {
        let Some(count) = count else {
            println!(
                "{:<16} verified instructions unknown: the kernel is older than 5.16",
                plan.program(hook)
            );
            continue;
        };
        println!("{:<16} {count:>6} verified instructions of {BUDGET}", plan.program(hook));
        assert!(count > 0 && count <= BUDGET, "{}: {count}", plan.program(hook));
    }
    Ok(())
}
