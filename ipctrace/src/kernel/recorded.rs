//! Facts of a kernel as text: `ipctrace doctor --facts` writes them, for a report or for the tests of the rules, which read
//! those of many kernels.

use std::fmt::Write;

use super::Facts;

/// One fact a line. What belongs to the process or the boot, and not to the kernel, is left out.
pub fn write(facts: &Facts) -> String {
    let mut text = String::new();
    let mut line = |line: std::fmt::Arguments<'_>| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{line}");
    };
    line(format_args!("release {}", facts.release));
    for (name, has) in [
        ("loop", facts.has_loop),
        ("find_vma", facts.has_find_vma),
        ("cast", facts.cast.is_some()),
        ("registers", facts.registers.is_some()),
        ("io_uring submit names the request", facts.uring.submit_names_request),
    ] {
        if has {
            line(format_args!("has {name}"));
        }
    }
    if let Some(form) = facts.uring.complete {
        line(format_args!("io_uring complete {form}"));
    }
    if let Some(size) = facts.pipe_buffer_size {
        line(format_args!("size pipe_buffer {size}"));
    }
    for hook in &facts.tracepoints {
        line(format_args!("tracepoint {}", hook.target()));
    }
    for hook in &facts.events {
        line(format_args!("event {}", hook.target()));
    }
    match facts.preemptible {
        Some(true) => line(format_args!("preemptible yes")),
        Some(false) => line(format_args!("preemptible no")),
        None => {}
    }
    if let Some(reason) = &facts.objects.refused {
        line(format_args!("functions refused: {reason}"));
    }
    for (hook, state) in &facts.objects.hooks {
        match state {
            Ok(0) => line(format_args!("function {}", hook.program())),
            Ok(form) => line(format_args!("function {} form {form}", hook.program())),
            Err(reason) => line(format_args!("function {} {reason}", hook.program())),
        }
    }
    for (name, number) in ["ubuf", "iovec"].iter().zip(facts.objects.iter) {
        if let Some(number) = number {
            line(format_args!("iter {name} {number}"));
        }
    }
    for (path, offset) in &facts.uring.places {
        line(format_args!("io_uring offset {offset} {path}"));
    }
    for (path, offset) in &facts.offsets {
        line(format_args!("offset {offset} {path}"));
    }
    text
}

/// Reads what [`write`] wrote, of a process that may do everything; `None` if a line is not understood.
#[cfg(test)]
pub fn read(text: &str) -> Option<Facts> {
    use ipctrace_common::Hook;
    use ipctrace_common::config::{Offsets, Registers};
    use ipctrace_common::uring::Places;

    let mut facts = Facts { capabilities: u64::MAX, ..Facts::default() };
    for line in text.lines() {
        let (kind, rest) = line.split_once(' ')?;
        match (kind, rest) {
            ("release", release) => facts.release = release.to_owned(),
            ("has", "loop") => facts.has_loop = true,
            ("has", "find_vma") => facts.has_find_vma = true,
            // Its number belongs to one build of a kernel.
            ("has", "cast") => facts.cast = Some(0),
            ("has", "registers") => facts.registers = Some(Registers::default()),
            ("has", "io_uring submit names the request") => facts.uring.submit_names_request = true,
            ("size", rest) => facts.pipe_buffer_size = rest.strip_prefix("pipe_buffer ")?.parse().ok(),
            ("tracepoint", name) => {
                // One that the programs have no use for any more.
                facts.tracepoints.extend(Hook::ALL.iter().filter(|hook| hook.target() == name));
            }
            ("event", name) => facts.events.extend(Hook::ALL.iter().filter(|hook| hook.target() == name)),
            ("preemptible", answer) => facts.preemptible = Some(answer == "yes"),
            ("iter", rest) => {
                let (name, number) = rest.split_once(' ')?;
                facts.objects.iter[usize::from(name == "iovec")] = Some(number.parse().ok()?);
            }
            ("functions", rest) => {
                facts.objects.refused = Some(rest.strip_prefix("refused: ")?.to_owned());
            }
            ("function", rest) => {
                let (program, reason) = rest.split_once(' ').unwrap_or((rest, ""));
                if let Some(hook) = Hook::ALL.iter().find(|hook| hook.program() == program) {
                    let state = match reason.strip_prefix("form ") {
                        Some(form) => Ok(form.parse().ok()?),
                        None if reason.is_empty() => Ok(0),
                        None => Err(reason.to_owned()),
                    };
                    facts.objects.hooks.insert(*hook, state);
                }
            }
            ("offset", rest) => {
                let (offset, path) = rest.split_once(' ')?;
                if let Some((path, _)) = Offsets::PATHS.iter().find(|(known, _)| *known == path) {
                    facts.offsets.insert(path, offset.parse().ok()?);
                }
            }
            ("io_uring", rest) => {
                if let Some(form) = rest.strip_prefix("complete ") {
                    facts.uring.complete = form.parse().ok();
                    continue;
                }
                let (offset, path) = rest.strip_prefix("offset ")?.split_once(' ')?;
                if let Some((path, ..)) = Places::PATHS.iter().find(|(known, ..)| *known == path) {
                    facts.uring.places.insert(path, offset.parse().ok()?);
                }
            }
            _ => return None,
        }
    }
    Some(facts)
}

#[cfg(test)]
mod tests {
    use ipctrace_common::{Hook, Mechanism, Shape};

    use super::*;
    use crate::kernel::Plan;
    use crate::kernel::objects::Choice;

    /// The kernels of the matrix, as `ipctrace doctor --facts` told in each.
    const KERNELS: [(&str, &str); 5] = [
        ("5.10", include_str!("recorded/5.10.txt")),
        ("6.1", include_str!("recorded/6.1.txt")),
        ("6.12", include_str!("recorded/6.12.txt")),
        ("6.18", include_str!("recorded/6.18.txt")),
        ("7.3", include_str!("recorded/7.3.txt")),
    ];

    fn plan(series: &str) -> Plan {
        chosen(series, Choice::Auto)
    }

    fn facts(series: &str) -> Facts {
        let (_, text) = KERNELS.iter().find(|(found, _)| *found == series).expect("a kernel of the matrix");
        read(text).expect("facts")
    }

    fn chosen(series: &str, choice: Choice) -> Plan {
        let facts = facts(series);
        assert!(facts.release.starts_with(series), "{} is no {series}", facts.release);
        Plan::chosen(&facts, Mechanism::ALL, 1, 0, choice).expect("something can be traced")
    }

    fn off(plan: &Plan) -> Vec<(Mechanism, String)> {
        plan.mechanisms
            .iter()
            .filter_map(|(mechanism, state)| Some((*mechanism, state.clone().err()?)))
            .collect()
    }

    #[test]
    fn what_is_written_is_read() {
        for (_, text) in KERNELS {
            let facts = read(text).expect("facts");
            assert_eq!(read(&write(&facts)), Some(facts));
        }
    }

    #[test]
    fn all_of_them_let_objects_be_hooked() {
        for (series, _) in KERNELS {
            let (plan, all) = (plan(series), chosen(series, Choice::Objects));
            let old = matches!(series, "5.10" | "6.1");
            // What has too many arguments for them is not hooked.
            let without = if old { Mechanism::Futex.bit() } else { 0 };
            assert_eq!(all.config.objects, Hook::objects() & plan.config.mechanisms & !without, "{series}");
            // Those of the newest are preempted, and calls would be lost.
            let new = matches!(series, "6.18" | "7.3");
            let chosen = if new { 0 } else { all.config.objects & Hook::objects_alone() };
            assert_eq!(plan.config.objects, chosen, "{series}");
            assert_eq!(plan.config.eventfd_signal_counts, u32::from(old), "{series}");
            let arguments = match series {
                "5.10" => 6,
                "6.1" | "6.12" | "6.18" => 5,
                _ => 4,
            };
            assert_eq!(plan.config.inet_receive, arguments, "{series}");
        }
    }

    #[test]
    fn the_newest_is_traced_by_perf_events() {
        for (series, _) in KERNELS {
            let plan = plan(series);
            let events = plan.events.contains(&Hook::SysEnter) && plan.events.contains(&Hook::ConsumeSkb);
            assert_eq!((events, plan.events.is_empty()), (series == "7.3", series != "7.3"), "{series}");
            assert!(!plan.is_preempted, "{series}");
        }
    }

    #[test]
    fn without_perf_events_the_newest_says_that_it_loses_calls() {
        for (series, _) in KERNELS {
            let facts = Facts { events_refused: true, ..facts(series) };
            let plan = Plan::new(&facts, Mechanism::ALL, 1, 0).expect("a plan");
            assert!(plan.events.is_empty(), "{series}");
            assert_eq!(plan.is_preempted, series == "7.3", "{series}");
        }
    }

    #[test]
    fn the_newest_are_read_by_loads() {
        for (series, _) in KERNELS {
            let plan = plan(series);
            let new = matches!(series, "6.18" | "7.3");
            assert_eq!(plan.cast.is_some(), new, "{series}");
        }
    }

    #[test]
    fn newer_kernels_have_everything() {
        for series in ["6.12", "6.18", "7.3"] {
            let plan = plan(series);
            assert_eq!((off(&plan), plan.uring.clone(), plan.plain), (vec![], Ok(()), false), "{series}");
        }
    }

    #[test]
    fn before_linux_6_3_datagrams_are_told_of_by_what_is_taken() {
        let plan = plan("6.1");
        assert_eq!((off(&plan), plan.config.udp_by_taking), (vec![], 1));
        assert_eq!((plan.uring.clone(), plan.plain, plan.config.uring.by_socket), (Ok(()), false, 0));
    }

    #[test]
    fn the_plain_programs_do_without_mappings() {
        let plan = plan("5.10");
        assert!(plan.plain && plan.config.run == 0);
        assert!(plan.uring.as_ref().is_err_and(|why| why.contains("6.0")));
        for (mechanism, why) in off(&plan) {
            let expected = if mechanism.shape() == Shape::Shared || mechanism == Mechanism::Futex {
                "bpf_find_vma"
            } else {
                "nothing"
            };
            assert!(why.contains(expected), "{mechanism:?}: {why}");
        }
    }
}
