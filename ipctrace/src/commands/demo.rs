//! `ipctrace demo`.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use comfy_table::Table;
use ipctrace_common::{Mechanism, Shape};
use tokio::process::Command;

use super::signals::{self, Ending};
use super::{EXIT_DIFFERENT, EXIT_IMPOSSIBLE, View, Wish, begin, run};
use crate::args::{self, Format, Hooks, Report, Show};
use crate::demo::{self, Demo, compare, truth};
use crate::kernel::{Facts, Plan};
use crate::options::{self, Usage};
use crate::render::{Charset, ruled};
use crate::stdout;
use crate::terminal::Terminal;

/// Plays demos under the tracer and compares.
///
/// # Errors
/// If there is no such demo, or tracing is not possible. A demo of something that this kernel does not let us trace is passed
/// over; if that leaves none the exit code says so.
pub async fn demo(arguments: args::Demo) -> Result<ExitCode> {
    if arguments.list {
        stdout::line(demo::list())?;
        return Ok(ExitCode::SUCCESS);
    }
    let demos = chosen(&arguments.names)?;
    let plan = Plan::new(&Facts::gather(), Mechanism::ALL, std::process::id(), 0)?;
    let hooks = arguments.hooks;
    let charset = Terminal::of(&io::stdout()).charset;
    let mut outcomes = Vec::new();
    let mut signals = Ending::new()?;
    let mut interrupted = None;
    for demo in demos {
        stdout::line(format_args!("{}: {}", demo.name, demo.summary))?;
        stdout::line("")?;
        if let Some(reason) = off(demo, &plan) {
            stdout::line(format_args!("Not played: {reason}"))?;
            stdout::line("")?;
            continue;
        }
        let report = match play(demo, hooks, &mut signals).await? {
            Played::ToItsEnd(report) => report,
            Played::Interrupted(code) => {
                interrupted = Some(code);
                break;
            }
        };
        stdout::line("")?;
        stdout::line(report.table(charset))?;
        stdout::line("")?;
        for difference in report.differences() {
            log::error!("{}: {difference}", demo.name);
        }
        outcomes.push((demo, report));
    }
    if outcomes.is_empty() {
        return Ok(interrupted.unwrap_or(ExitCode::from(EXIT_IMPOSSIBLE)));
    }
    stdout::line(table(&outcomes, charset))?;
    if let Some(code) = interrupted {
        return Ok(code);
    }
    let equal = outcomes.iter().all(|(_, report)| report.equal());
    Ok(if equal { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DIFFERENT) })
}

/// Why a demo cannot be played on this kernel, if it cannot.
fn off(demo: &Demo, plan: &Plan) -> Option<String> {
    let rings = plan.uring.as_ref().err().filter(|_| demo.name == demo::THROUGH_RINGS);
    let off = plan.mechanisms.iter().find_map(|(mechanism, state)| {
        let reason = state.as_ref().err().filter(|_| demo.mechanisms.contains(mechanism))?;
        Some(format!("{} is off: {reason}", mechanism.name()))
    });
    off.or_else(|| rings.map(|reason| format!("io_uring is off: {reason}")))
}

/// The demos of these names; all if none is named.
fn chosen(names: &[String]) -> Result<Vec<&'static Demo>, Usage> {
    if names.is_empty() || names.iter().any(|name| name == "all") {
        return Ok(demo::DEMOS.iter().collect());
    }
    names.iter().map(|name| demo::find(name).ok_or_else(|| Usage::Demo { name: name.clone() })).collect()
}

/// A report file that is removed in the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What came of a demo.
enum Played {
    /// What it did and what was traced.
    ToItsEnd(compare::Report),
    /// A signal ended it, or us before it began: our status.
    Interrupted(ExitCode),
}

async fn play(demo: &Demo, hooks: Hooks, signals: &mut Ending) -> Result<Played> {
    let file = std::env::temp_dir().join(format!("ipctrace-demo-{}-{}", std::process::id(), demo.name));
    let scratch = Scratch(file);
    let mut selection = options::selection(Show::default())?;
    // The processes of demos keep order by shared memory: not worth showing unless it is what they show.
    selection.mechanisms = Mechanism::ALL
        .iter()
        .copied()
        .filter(|mechanism| mechanism.shape() != Shape::Shared || demo.mechanisms.contains(mechanism))
        .collect();
    let reporting = options::reporting(Report { format: Format::Text, hooks, ..Report::default() })?;
    let wish = Wish {
        selection,
        reporting,
        children_only: true,
        keep: true,
        // Signals go with many, and have tracepoints of their own.
        at_objects: Some(
            demo.mechanisms.iter().fold(0, |set, one| set | one.bit()) & !Mechanism::Signal.bit(),
        ),
        view: View::Events,
    };
    let (mut session, ()) = begin(wish, || Ok(()))?;
    if let Some(signal) = signals::came() {
        session.end(false, false)?;
        return Ok(Played::Interrupted(run::by_signal(signal)));
    }
    let mut child = start(demo, &scratch.0)?;
    let ended = run::follow(&mut session, &mut child, signals, None).await?;
    let status = run::status(ended, &mut child, signals).await?;
    let (totals, events) = session.end(false, false)?;
    if signals::ENDING.into_iter().any(|signal| status.signal() == Some(signal as i32)) {
        return Ok(Played::Interrupted(run::exit_code(status)));
    }
    if !status.success() {
        bail!("the demo {} ended with {status}", demo.name);
    }
    log::info!("{}: {totals}", demo.name);
    Ok(Played::ToItsEnd(compare::compare(&truth::read(&scratch.0)?, &events)))
}

fn start(demo: &Demo, report: &Path) -> Result<tokio::process::Child> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut command = Command::new(program);
    command.args(["__demo-workload", demo.name]).arg(report).stdin(Stdio::null());
    signals::hand_on(&mut command);
    command.spawn().with_context(|| format!("starting the demo {}", demo.name))
}

fn table(outcomes: &[(&Demo, compare::Report)], charset: Charset) -> Table {
    let mut table = Table::new();
    table.load_preset(ruled(charset));
    table.set_header(["demo", "mechanisms", "done", "traced", "rows equal", "lost", "equal"]);
    for (demo, report) in outcomes {
        let mechanisms: Vec<_> = demo.mechanisms.iter().map(|mechanism| mechanism.name()).collect();
        let (rows, equal) = report.score();
        let (done, traced) = report.totals();
        let text = |(bytes, messages)| format!("{bytes} B, {messages} messages");
        table.add_row([
            demo.name,
            &mechanisms.join(" "),
            &text(done),
            &text(traced),
            &format!("{equal} of {rows}"),
            &report.lost().to_string(),
            if report.equal() { "yes" } else { "NO" },
        ]);
    }
    table
}
