//! The commands: what each does, from start to exit status.

pub mod demo;
pub mod doctor;
pub mod run;
mod signals;
pub mod top;
pub mod trace;

use std::io;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Context, Result};

use crate::attach::{self, Attached, ObjectHookFailed};
use crate::cgroup::{Cgroups, Hierarchy};
use crate::feedback::{self, Feedback};
use crate::filter::{Filter, Selection};
use crate::kernel::objects::Choice;
use crate::kernel::{Facts, Plan, plan};
use crate::options::Reporting;
use crate::output::Output;
use crate::render::{self, Blocks, Clock, Coverage, Hello, Json, Renderer, Text, Totals};
use crate::session::{Parts, Session};
use crate::terminal::Terminal;
use crate::tracer::Tracer;
use crate::{args, boot, cgroup, screen, time_zone};

/// A comparison failed.
pub const EXIT_DIFFERENT: u8 = 1;
/// Not permitted, or the kernel cannot do it; also where it takes no more of the output.
pub const EXIT_IMPOSSIBLE: u8 = 3;

/// What to do where programs on system calls are preempted, for want of perf events.
fn to_have_perf_events(facts: &Facts) -> &'static str {
    if facts.events_refused {
        "allow perf events (sysctl kernel.perf_event_paranoid=2), or run it as root"
    } else {
        "mount tracefs (mount -t tracefs tracefs /sys/kernel/tracing)"
    }
}

/// What a session differs in between commands.
pub struct Wish {
    /// What is shown.
    pub selection: Selection,
    /// How and where.
    pub reporting: Reporting,
    /// Follow the children of this process only.
    pub children_only: bool,
    /// Keep the events for the caller.
    pub keep: bool,
    /// With [`args::Hooks::Object`], the mechanisms that must be traced at their objects; none are those that were chosen, or, if
    /// all were, those for which such hooks can be had.
    pub at_objects: Option<u32>,
    /// What of the trace is shown.
    pub view: View,
}

/// What of a trace is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Each event.
    Events,
    /// The flows, again and again.
    Flows,
    /// The flows, on a screen of their own.
    Screen,
}

/// Attaches the programs and begins the session. What can fail for reasons of the user's fails before anything is
/// attached. Before that, and once the output is open, for which a FIFO lets us wait, `prepare` is called: from there on no signal
/// finds its default action in place.
///
/// # Errors
/// If tracing is not possible here, or the output cannot be opened; and those of `prepare`.
pub fn begin<T>(wish: Wish, prepare: impl FnOnce() -> Result<T>) -> Result<(Session, T)> {
    let Wish { selection, reporting, children_only, keep, at_objects, view } = wish;
    let own = std::process::id();
    let mut facts = Facts::gather();
    let mechanisms: Vec<_> = ipctrace_common::Mechanism::ALL
        .iter()
        .copied()
        .filter(|mechanism| selection.mechanisms.contains(*mechanism))
        .collect();
    let all = mechanisms.len() == ipctrace_common::Mechanism::ALL.len();
    let choice = choice(reporting.hooks, at_objects.or((!all).then_some(u32::MAX)));
    let decide = |facts: &Facts| {
        let mut plan = Plan::chosen(facts, &mechanisms, own, reporting.payload, choice)?;
        if reporting.every {
            plan.every_call();
        }
        Ok(plan)
    };
    // What is not possible at all is said before anything is opened.
    decide(&facts)?;
    let output = Output::open(reporting.output.as_ref()).with_context(|| match &reporting.output {
        Some(path) => format!("opening {}", path.display()),
        None => "opening standard output".to_owned(),
    })?;
    let prepared = prepare()?;
    let mut feedback = Feedback::new(feedback::ancestors());
    feedback.output(output.descriptor());
    feedback.shown_on(output.descriptor());
    feedback.output(std::io::stdout());
    feedback.output(std::io::stderr());
    let cgroups: Rc<dyn Cgroups> = match Hierarchy::find() {
        Ok(hierarchy) => Rc::new(hierarchy),
        Err(error) => {
            let level =
                if error.kind() == io::ErrorKind::NotFound { log::Level::Info } else { log::Level::Warn };
            log::log!(level, "control groups have no names here: {error}");
            Rc::new(cgroup::NoHierarchy)
        }
    };
    let clock = Clock::measure().context("reading the clock")?;
    let terminal = Terminal::of(output.descriptor());
    let renderer: Box<dyn Renderer> = match (reporting.format, view) {
        (args::Format::Json, _) => Box::new(Json::new(clock, Rc::clone(&cgroups), terminal.charset)),
        (args::Format::Text, View::Events) => Box::new(Text::new(clock, time_zone::of_the_user(), terminal)),
        (args::Format::Text, View::Flows) => Box::new(Blocks::new(clock, time_zone::of_the_user(), terminal)),
        (args::Format::Text, View::Screen) => Box::new(render::Screen::new(terminal, screen::Screen::size)),
    };
    let (plan, attached) = attach(&mut facts, decide, reporting.buffer)?;
    let tracer = Tracer::start(&plan, attached, feedback)?;
    for (hook, error) in tracer.failed_hooks() {
        log::warn!("without {}: {error}", hook.purpose());
    }
    if let Some(lack) = plan::without_ptrace(&facts) {
        log::warn!("{lack}");
    }
    if plan.is_preempted {
        let remedy = to_have_perf_events(&facts);
        log::warn!("where tasks are preempted in a program, this kernel loses calls: {remedy}");
    } else if plan.config.objects != 0 && facts.preemptible == Some(true) {
        log::warn!(
            "where tasks are preempted in a program on a function, this kernel loses calls: --hooks syscall loses none"
        );
    }
    let mut filter = Filter::new(selection, cgroups);
    if children_only {
        filter.follow_family();
    }
    let parts = Parts {
        tracer,
        filter,
        renderer,
        output,
        // The other views count refreshes.
        limit: reporting.count.filter(|_| view == View::Events),
        live: view != View::Events,
        keep,
        parent: children_only.then_some(own),
    };
    Ok((Session::begin(parts, &hello(&facts, &plan))?, prepared))
}

/// The status of a trace that has come to its end: whether all of it could be written.
fn status(totals: &Totals) -> ExitCode {
    if totals.incomplete { ExitCode::from(EXIT_IMPOSSIBLE) } else { ExitCode::SUCCESS }
}

/// What the user's choice of hooks means: with [`args::Hooks::Object`] for these mechanisms, or for all for which they can be had.
pub fn choice(hooks: args::Hooks, at_objects: Option<u32>) -> Choice {
    match hooks {
        args::Hooks::Auto => Choice::Auto,
        args::Hooks::Syscall => Choice::Syscall,
        args::Hooks::Object => at_objects.map_or(Choice::Objects, Choice::Object),
    }
}

/// Attaches the programs of a plan that is made anew whenever a hook on an object turns out not to work.
fn attach(
    facts: &mut Facts,
    decide: impl Fn(&Facts) -> Result<Plan, plan::Refusal>,
    buffer: Option<u32>,
) -> Result<(Plan, Attached)> {
    loop {
        let plan = decide(facts)?;
        let error = match attach::attach(&plan, buffer) {
            Ok(attached) => return Ok((plan, attached)),
            Err(error) => error,
        };
        let ObjectHookFailed { hook, reason } = error.downcast()?;
        log::debug!("{reason}");
        facts.objects.failed(hook, reason);
    }
}

fn hello(facts: &Facts, plan: &Plan) -> Hello {
    let host = nix::unistd::gethostname().unwrap_or_default();
    let mechanisms = plan
        .mechanisms
        .iter()
        .map(|(mechanism, state)| {
            let coverage = match state {
                Ok(()) => Coverage::On,
                Err(reason) => Coverage::Off(reason.clone()),
            };
            (*mechanism, coverage)
        })
        .collect();
    let on = plan.mechanisms.iter().filter(|(_, state)| state.is_ok());
    let hooks = on.map(|(mechanism, _)| (*mechanism, hooks(plan, *mechanism))).collect();
    Hello { time: boot::now(), kernel: facts.release.clone().into(), host, mechanisms, hooks }
}

/// Which hooks a mechanism is traced by, in the words of `--hooks`.
pub fn hooks(plan: &Plan, mechanism: ipctrace_common::Mechanism) -> &'static str {
    if plan.is_at_object(mechanism) { "object" } else { "syscall" }
}
