//! `ipctrace doctor`: what this kernel and these privileges allow.

use std::process::ExitCode;

use anyhow::Result;
use comfy_table::{Table, presets};
use ipctrace_common::{Hook, Mechanism, hook::Point};

use super::{EXIT_IMPOSSIBLE, choice, hooks as hooks_of};
use crate::kernel::objects::Choice;
use crate::kernel::{Facts, Plan, plan, recorded, uring};
use crate::{args, attach, occupancy, stdout};

/// What is said where no mode can be read: securityfs may not be mounted, and the kernel locked down nevertheless.
const NO_LOCKDOWN: &str = "unknown (/sys/kernel/security/lockdown cannot be read)";

/// Looks, tries each hook, and tells.
///
/// # Errors
/// If standard output cannot be written to.
pub fn doctor(arguments: &args::Doctor) -> Result<ExitCode> {
    if arguments.leftovers {
        return leftovers();
    }
    if arguments.maps {
        return maps();
    }
    let mut facts = Facts::gather();
    if arguments.facts {
        stdout::line(recorded::write(&facts).trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    stdout::line(format_args!("kernel        {}", facts.release))?;
    stdout::line(format_args!("lockdown      {}", facts.lockdown.as_deref().unwrap_or(NO_LOCKDOWN)))?;
    stdout::line(format_args!(
        "types (BTF)   {}",
        facts.no_btf.as_deref().unwrap_or("complete enough to find what is needed")
    ))?;
    let choice = choice(arguments.hooks, None);
    let (plan, attached) = loop {
        let plan = match Plan::chosen(&facts, Mechanism::ALL, std::process::id(), 0, choice) {
            Ok(plan) => plan,
            Err(refusal) => {
                stdout::line(format_args!("tracing       off: {refusal}"))?;
                return Ok(ExitCode::from(EXIT_IMPOSSIBLE));
            }
        };
        let attached = attach::try_hooks(&plan);
        let refused = attached.iter().filter_map(|(hook, state)| Some((*hook, state.clone().err()?)));
        let refused: Vec<_> = refused.filter(|(hook, _)| hook.is_on_object()).collect();
        if refused.is_empty() {
            break (plan, attached);
        }
        // As a trace does: others take the place of those that do not work.
        for (hook, reason) in refused {
            facts.objects.failed(hook, reason);
        }
    };
    if let Some(reason) = &facts.objects.refused {
        stdout::line(format_args!("object hooks  this kernel refuses fentry: {reason}"))?;
    }
    stdout::line(format_args!("preemption    {}", preemption(&facts, &plan)))?;
    for lack in [plan::without_ptrace(&facts), plan::without_search(&facts)].into_iter().flatten() {
        stdout::line(format_args!("capabilities  {lack}"))?;
    }
    let failed = |hook: &Hook| {
        attached.iter().find(|(found, _)| found == hook).and_then(|(_, state)| state.clone().err())
    };
    stdout::line("")?;
    stdout::line(mechanisms(&facts, &plan, choice, &failed))?;
    stdout::line("")?;
    stdout::line(hooks(&facts, &plan, &failed))?;
    let works = plan
        .mechanisms
        .iter()
        .any(|(mechanism, state)| state.is_ok() && missing(&plan, *mechanism, &failed).is_none());
    Ok(if works { ExitCode::SUCCESS } else { ExitCode::from(EXIT_IMPOSSIBLE) })
}

/// What it means for programs that tasks are preempted.
fn preemption(facts: &Facts, plan: &Plan) -> String {
    let known = match facts.preemptible {
        Some(false) => return "none in the kernel".to_owned(),
        Some(true) => "tasks are preempted in the kernel",
        None => "unknown (/sys/kernel/debug/sched/preempt cannot be read)",
    };
    if plan.is_preempted {
        return format!("{known}: calls can be lost: {}", super::to_have_perf_events(facts));
    }
    format!("{known}: calls could be lost at objects (--hooks object), none are at system calls")
}

/// The first hook that a mechanism needs and that does not work.
fn missing(plan: &Plan, mechanism: Mechanism, failed: &impl Fn(&Hook) -> Option<String>) -> Option<String> {
    Hook::ALL
        .iter()
        .filter(|hook| plan.needed_by(**hook) & mechanism.bit() != 0)
        .find_map(|hook| failed(hook).map(|error| format!("{}: {error}", hook.target())))
}

fn table<const COLUMNS: usize>(titles: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(titles);
    table
}

fn mechanisms(
    facts: &Facts,
    plan: &Plan,
    choice: Choice,
    failed: &impl Fn(&Hook) -> Option<String>,
) -> Table {
    let mut table = table(["mechanism", "state", "hooks", "why"]);
    for (mechanism, state) in &plan.mechanisms {
        let off = state.clone().err().or_else(|| missing(plan, *mechanism, failed));
        let why_calls = || if choice == Choice::Syscall { None } else { plan.why_calls(facts, *mechanism) };
        table.add_row([
            mechanism.name(),
            if off.is_none() { "on" } else { "off" },
            if off.is_none() { hooks_of(plan, *mechanism) } else { "" },
            &off.or_else(why_calls).unwrap_or_default(),
        ]);
    }
    let reason = plan.uring.clone().err().or_else(|| rings(failed));
    let state = if reason.is_none() { "on" } else { "off" };
    table.add_row(["io_uring", state, "", &reason.or_else(no_rings).unwrap_or_default()]);
    table
}

/// The first hook for requests through io_uring that does not work.
fn rings(failed: &impl Fn(&Hook) -> Option<String>) -> Option<String> {
    Hook::ALL
        .iter()
        .filter(|hook| uring::is_for_rings(**hook))
        .find_map(|hook| failed(hook).map(|error| format!("{}: {error}", hook.target())))
}

/// What there is to say where rings can be traced but not made.
fn no_rings() -> Option<String> {
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?;
    (setting.trim() == "2").then(|| "no process can use it: kernel.io_uring_disabled is 2".to_owned())
}

fn hooks(facts: &Facts, plan: &Plan, failed: &impl Fn(&Hook) -> Option<String>) -> Table {
    let mut table = table(["hook", "state", "for"]);
    for hook in Hook::ALL {
        let name = match hook.point() {
            Point::Tracepoint if plan.events.contains(hook) => format!("{} (perf event)", hook.target()),
            Point::Tracepoint => hook.target().to_owned(),
            Point::Entry(_) => format!("{} (begin)", hook.target()),
            Point::Exit(_) => format!("{} (end)", hook.target()),
        };
        let state = if hook.is_on_object() {
            match facts.objects.hooks.get(hook) {
                // That is said once, above.
                None => continue,
                Some(Err(reason)) => format!("fails: {reason}"),
                Some(Ok(_)) if plan.hooks.contains(hook) => "works".to_owned(),
                Some(Ok(_)) => "not used".to_owned(),
            }
        } else if !facts.tracepoints.contains(hook) {
            "this kernel has none".to_owned()
        } else {
            failed(hook).map_or_else(|| "works".to_owned(), |error| format!("fails: {error}"))
        };
        table.add_row([name.as_str(), &state, hook.purpose()]);
    }
    table
}

/// Lists the maps of our programs that can fill up: name, keys in them, room.
fn maps() -> Result<ExitCode> {
    for map in occupancy::occupancy()? {
        stdout::line(format_args!("{} {} {}", map.name, map.entries, map.room))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Lists programs of ours that are loaded, one a line: none should be while no tracer runs.
fn leftovers() -> Result<ExitCode> {
    for program in attach::loaded_programs()? {
        stdout::line(format_args!("{} {}", program.id(), program.name_as_str().unwrap_or_default()))?;
    }
    Ok(ExitCode::SUCCESS)
}
