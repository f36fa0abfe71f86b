//! What was found in the guests, as tables. Pure.

use std::collections::BTreeMap;

/// Exit status of `ipctrace` where something cannot be done on this kernel.
const IMPOSSIBLE: i32 = 3;

/// The kinds of hooks, as `--hooks` calls them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Set {
    /// On system calls.
    Syscall,
    /// On the functions of objects.
    Object,
}

impl Set {
    const ALL: [Set; 2] = [Set::Syscall, Set::Object];

    fn name(self) -> &'static str {
        match self {
            Set::Syscall => "syscall",
            Set::Object => "object",
        }
    }

    fn named(name: &str) -> Option<Set> {
        Set::ALL.into_iter().find(|set| set.name() == name)
    }

    /// Whether a step plays with these hooks.
    fn of(self, step: &Step) -> bool {
        step.name
            .split_once(' ')
            .is_some_and(|(kind, set)| matches!(kind, "batch" | "calls") && set == self.name())
    }
}

/// What `doctor` says of a mechanism.
struct Mechanism {
    name: String,
    /// By which hooks it is traced unless others are asked for.
    hooks: Set,
    /// Why it is off, if it is.
    off: Option<String>,
}

/// A line that `tests/src/batch.rs` prints: what came of one workload of many.
struct Played<'a> {
    name: &'a str,
    mechanisms: Vec<&'a str>,
    /// `passed`, `skipped: …` or `FAILED: …`.
    outcome: &'a str,
}

impl Played<'_> {
    fn read(line: &str) -> Option<Played<'_>> {
        let (name, rest) = line.strip_prefix("played ")?.split_once(": [")?;
        let (mechanisms, outcome) = rest.split_once("] ")?;
        Some(Played { name, mechanisms: mechanisms.split(' ').collect(), outcome })
    }

    fn passed(&self) -> bool {
        self.outcome == "passed"
    }

    fn failed(&self) -> bool {
        self.outcome.starts_with("FAILED")
    }
}

/// One thing that was run in a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// What it is.
    pub(super) name: String,
    /// Its exit status; `None` if it did not end.
    pub(super) status: Option<i32>,
    /// What it printed.
    pub(super) output: String,
}

impl Step {
    fn passed(&self) -> bool {
        self.status == Some(0)
    }
}

/// Takes what a guest printed apart.
pub(super) fn steps(output: &str) -> Vec<Step> {
    let mut found: Vec<Step> = Vec::new();
    for line in output.lines() {
        // A program that is killed may leave a line unended.
        if let Some(at) = line.find("@@ end ")
            && let Some(step) = found.last_mut()
        {
            step.status = line[at + 7..].trim().parse().ok();
        } else if let Some(name) = line.strip_prefix("@@ begin ") {
            found.push(Step { name: name.to_owned(), status: None, output: String::new() });
        } else if let Some(step) = found.last_mut() {
            step.output.push_str(line);
            step.output.push('\n');
        }
    }
    found
}

/// What is known of a kernel once its guest has ended.
pub(super) struct Report {
    /// Its series.
    pub(super) series: &'static str,
    /// Its version, or why it was not run.
    pub(super) version: Result<String, String>,
    /// What was run.
    pub(super) steps: Vec<Step>,
    /// Why the guest ended before its time, if it did.
    pub(super) broken: Option<String>,
}

/// A demo, as `ipctrace demo --list` names it, with the mechanisms that it uses.
pub(super) type Demo = (String, Vec<String>);

/// What `ipctrace demo --list` says.
pub(super) fn demos(list: &str) -> Vec<Demo> {
    let mut found: Vec<Demo> = Vec::new();
    for line in list.lines() {
        if let Some(uses) = line.trim().strip_prefix("uses ")
            && let Some((_, mechanisms)) = found.last_mut()
        {
            *mechanisms = uses.split(", ").map(str::to_owned).collect();
        } else if !line.starts_with(' ')
            && let Some(name) = line.split_whitespace().next()
        {
            found.push((name.to_owned(), Vec::new()));
        }
    }
    found
}

impl Report {
    /// A kernel that was not run.
    pub(super) fn not_run(series: &'static str, reason: String) -> Report {
        Report { series, version: Err(reason), steps: Vec::new(), broken: None }
    }

    fn step(&self, name: &str) -> Option<&Step> {
        self.steps.iter().find(|step| step.name == name)
    }

    /// What `doctor` says of mechanisms.
    fn mechanisms(&self) -> Vec<Mechanism> {
        let text = self.step("doctor").map_or("", |step| &step.output);
        let table = text.lines().skip_while(|line| !line.trim().starts_with("mechanism")).skip(1);
        table
            .take_while(|line| !line.trim().is_empty())
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                let (name, state) = (words.next()?.to_owned(), words.next()?);
                let (hooks, off) = if state == "on" {
                    (words.next().and_then(Set::named).unwrap_or(Set::Syscall), None)
                } else {
                    (Set::Syscall, Some(words.collect::<Vec<_>>().join(" ")))
                };
                Some(Mechanism { name, hooks, off })
            })
            .collect()
    }

    /// What was played under one trace with hooks of a set.
    fn played(&self, set: Set) -> impl Iterator<Item = (&Step, Played<'_>)> {
        let steps = self.steps.iter().filter(move |step| set.of(step));
        steps.flat_map(|step| step.output.lines().filter_map(Played::read).map(move |played| (step, played)))
    }

    /// Why a set of hooks cannot be had on this kernel, if it cannot.
    fn refused(&self, set: Set) -> Option<&str> {
        let mut lines =
            self.steps.iter().filter(move |step| set.of(step)).flat_map(|step| step.output.lines());
        lines.find_map(|line| line.strip_prefix("refused "))
    }

    /// How many things failed.
    pub(super) fn failures(&self, demos: &[Demo]) -> usize {
        self.failed(demos).len() + usize::from(self.broken.is_some())
    }

    /// What failed: steps, and in place of those that play much what failed of that.
    fn failed(&self, demos: &[Demo]) -> Vec<String> {
        let mut failed = Vec::new();
        for step in self.steps.iter().filter(|step| self.has_failed(step, demos)) {
            let played = step.output.lines().filter_map(Played::read);
            let of_it: Vec<String> = played
                .filter(|played| played.failed())
                .map(|played| match played.name {
                    // What was lost there says much about the others.
                    "losses" => format!("{} {}", played.name, played.outcome),
                    name => format!("{name} FAILED"),
                })
                .collect();
            let ended = step.output.lines().any(|line| line.starts_with("test result:"));
            if of_it.is_empty() || !ended {
                failed.push(format!("{} FAILED", step.name));
            }
            failed.extend(of_it.iter().map(|what| format!("{}: {what}", step.name)));
        }
        failed
    }

    /// Whether a step failed, and what it shows is not off here, nor was it better when it was repeated.
    fn has_failed(&self, step: &Step, demos: &[Demo]) -> bool {
        !step.passed() && !self.is_off(step, demos) && !self.passed_again(step)
    }

    /// What was said of what failed, for whoever has this output alone.
    fn causes(&self, demos: &[Demo]) -> String {
        /// So many lines of each are enough to know what kind of failure it is, and so much of each line.
        const LINES: usize = 12;
        const WIDTH: usize = 400;
        let mut text = String::new();
        for step in self.steps.iter().filter(|step| self.has_failed(step, demos)) {
            let lines: Vec<&str> = step.output.lines().collect();
            let begins: Vec<usize> = (0..lines.len())
                .filter(|index| Played::read(lines[*index]).is_some_and(|played| played.failed()))
                .collect();
            let is_next = |line: &&str| line.is_empty() || Played::read(line).is_some();
            let said: Vec<&str> = if begins.is_empty() {
                lines[lines.len().saturating_sub(LINES)..].to_vec()
            } else {
                let one = |begin: usize| {
                    let rest = lines[begin + 1..].iter().copied().take_while(|line| !is_next(line));
                    std::iter::once(lines[begin]).chain(rest).take(LINES)
                };
                begins.into_iter().flat_map(one).collect()
            };
            text.push_str(&format!("\n{}: {} said:\n", self.series, step.name));
            for line in said {
                let cut: String = line.chars().take(WIDTH).collect();
                text.push_str(&format!("  {cut}\n"));
            }
        }
        text
    }

    /// Whether it failed, but not when it was repeated.
    fn passed_again(&self, step: &Step) -> bool {
        self.step(&format!("{} again", step.name)).is_some_and(Step::passed)
    }

    /// Whether it is a demo that was passed over, because what it shows is off on this kernel.
    fn is_off(&self, step: &Step, demos: &[Demo]) -> bool {
        let Some(name) = step.name.strip_prefix("demo ").filter(|_| step.status == Some(IMPOSSIBLE)) else {
            return false;
        };
        let uses = |mechanism: &str| uses(demos, name).any(|used| used == mechanism);
        self.mechanisms().iter().any(|mechanism| mechanism.off.is_some() && uses(&mechanism.name))
    }

    /// One mechanism's cell in the column of a set.
    fn cell(&self, name: &str, set: Set, demos: &[Demo]) -> &'static str {
        if self.version.is_err() {
            return "not run";
        }
        let mechanisms = self.mechanisms();
        let Some(mechanism) = mechanisms.iter().find(|mechanism| mechanism.name == name) else {
            return "FAILED";
        };
        if mechanism.off.is_some() {
            return "off";
        }
        let (mut passed, mut again) = (false, false);
        // Demos are played with the hooks that are chosen unless others are asked for.
        if mechanism.hooks == set {
            let of_it = demos.iter().filter(|(demo, _)| uses(demos, demo).any(|used| used == name));
            for step in of_it.filter_map(|(demo, _)| self.step(&format!("demo {demo}"))) {
                match (step.passed(), self.passed_again(step)) {
                    (true, _) => passed = true,
                    (false, true) => again = true,
                    (false, false) if self.is_off(step, demos) => {}
                    (false, false) => return "FAILED",
                }
            }
        }
        // What was traced by the other hooks, for want of these, is none of this set's.
        let by_other = self.traced(set, name).is_some_and(|hooks| hooks != set);
        for (_, played) in self.played(set).filter(|(_, played)| played.mechanisms.contains(&name)) {
            if played.failed() {
                return "FAILED";
            }
            passed |= played.passed() && !by_other;
        }
        if self.steps.iter().any(|step| set.of(step) && step.status.is_none()) {
            return "FAILED";
        }
        match (passed, again) {
            (_, true) => "2nd try",
            (true, false) => "passed",
            (false, false) if self.refused(set).is_some() => "off",
            (false, false) if mechanism.hooks == set => "on",
            (false, false) => "-",
        }
    }

    /// The hooks by which a mechanism was traced when those of a set were asked for.
    fn traced(&self, set: Set, mechanism: &str) -> Option<Set> {
        let mut lines =
            self.steps.iter().filter(move |step| set.of(step)).flat_map(|step| step.output.lines());
        lines.find_map(|line| {
            let mut words = line.strip_prefix("traced ")?.split_whitespace();
            (words.next()? == mechanism).then(|| words.next().and_then(Set::named)).flatten()
        })
    }

    /// How many of what was played in a set passed: seeds, or all else.
    fn counts(&self, set: Set, seeds: bool) -> String {
        let (mut passed, mut skipped, mut failed) = (0, 0, 0);
        for (_, played) in self.played(set).filter(|(_, played)| played.name.starts_with("seed ") == seeds) {
            match () {
                () if played.passed() => passed += 1,
                () if played.failed() => failed += 1,
                () => skipped += 1,
            }
        }
        match (passed, skipped, failed) {
            (0, 0, 0) => "-".to_owned(),
            (_, 0, 0) => passed.to_string(),
            (_, _, 0) => format!("{passed}, {skipped} off"),
            (_, _, _) => format!("{passed}, {failed} FAILED"),
        }
    }

    /// Why some of what there was to play in a set says nothing, and of how many that is so.
    fn reasons(&self, set: Set) -> BTreeMap<&str, usize> {
        let mut reasons = BTreeMap::new();
        for (_, played) in self.played(set) {
            if let Some(reason) = played.outcome.strip_prefix("skipped: ") {
                *reasons.entry(reason).or_default() += 1;
            }
        }
        reasons
    }

    /// What a test executable says in the end.
    fn tests(&self, name: &str) -> String {
        let Some(step) = self.step(name) else { return "-".to_owned() };
        let result = step.output.lines().rev().find_map(|line| line.strip_prefix("test result:"));
        let Some(result) = result else { return "FAILED".to_owned() };
        let count = |what: &str| {
            result
                .split([';', '.'])
                .find(|part| part.trim_end().ends_with(what))
                .and_then(|part| part.trim().split(' ').next()?.parse::<usize>().ok())
                .unwrap_or(0)
        };
        let skipped = step.output.lines().filter(|line| line.contains("SKIP ")).count();
        let mut text = format!("{} passed", count(" passed").saturating_sub(skipped));
        if skipped != 0 {
            text.push_str(&format!(", {skipped} skipped"));
        }
        if count(" failed") != 0 {
            text.push_str(&format!(", {} FAILED", count(" failed")));
        }
        text
    }

    /// Instructions that the verifier looked at, by program.
    fn verified(&self) -> BTreeMap<String, String> {
        let text = self.step("programs").map_or("", |step| &step.output);
        text.lines()
            .filter_map(|line| {
                // The first stands behind the name of the test.
                let mut words = line.split_once(" verified instructions")?.0.split_whitespace().rev();
                let last = words.next()?;
                let (name, count) =
                    if last.parse::<u64>().is_ok() { (words.next()?, last) } else { (last, "not told") };
                Some((name.to_owned(), count.to_owned()))
            })
            .collect()
    }
}

/// What a demo uses: its mechanisms, and rings if it is the one that shows them.
fn uses<'a>(demos: &'a [Demo], name: &'a str) -> impl Iterator<Item = &'a str> {
    let mechanisms =
        demos.iter().filter(move |(found, _)| found == name).flat_map(|(_, mechanisms)| mechanisms);
    mechanisms.map(String::as_str).chain((name == "io_uring").then_some("io_uring"))
}

/// Rows of cells as columns that stand under each other.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// The table of kernels and mechanisms, why mechanisms are off, and what the verifier looked at.
pub(super) fn table(reports: &[Report], demos: &[Demo]) -> String {
    let row = |name: &str, cell: &dyn Fn(&Report, Set) -> String| {
        let cells = reports.iter().flat_map(|report| Set::ALL.map(|set| cell(report, set)));
        std::iter::once(name.to_owned()).chain(cells).collect::<Vec<_>>()
    };
    // What there is once for a kernel.
    let once = |name: &str, cell: &dyn Fn(&Report) -> String| {
        row(name, &|report, set| if set == Set::ALL[0] { cell(report) } else { String::new() })
    };
    let mut rows =
        vec![once("", &|report| report.series.to_owned()), row("hooks", &|_, set| set.name().to_owned())];
    let names = reports.iter().map(Report::mechanisms).max_by_key(Vec::len).unwrap_or_default();
    for Mechanism { name, .. } in &names {
        rows.push(row(name, &|report, set| report.cell(name, set, demos).to_owned()));
    }
    if reports.iter().any(|report| Set::ALL.iter().any(|set| report.played(*set).next().is_some())) {
        rows.push(row("scenarios, demos", &|report, set| report.counts(set, false)));
        rows.push(row("seeds", &|report, set| report.counts(set, true)));
    }
    if reports.iter().any(|report| report.step("programs").is_some()) {
        rows.push(once("programs", &|report| report.tests("programs")));
    }
    let mut text = columns(&rows);
    text.push_str("-: not traced by these hooks, or not played with them\n");
    for report in reports {
        match &report.version {
            Ok(version) => {
                text.push_str(&format!("{}: {version}\n", report.series));
                for Mechanism { name, off, .. } in report.mechanisms() {
                    if let Some(why) = off {
                        text.push_str(&format!("{}: {name} is off: {why}\n", report.series));
                    }
                }
            }
            Err(reason) => text.push_str(&format!("{} was not run: {reason}\n", report.series)),
        }
        for set in Set::ALL {
            if let Some(reason) = report.refused(set) {
                text.push_str(&format!("{}: no {} hooks: {reason}\n", report.series, set.name()));
            }
            for (reason, count) in report.reasons(set) {
                text.push_str(&format!(
                    "{}: {count} off with {} hooks: {reason}\n",
                    report.series,
                    set.name()
                ));
            }
        }
        if let Some(broken) = &report.broken {
            text.push_str(&format!("{}: {broken}\n", report.series));
        }
        for what in report.failed(demos) {
            text.push_str(&format!("{}: {what}\n", report.series));
        }
        text.push_str(&report.causes(demos));
    }
    let programs: Vec<_> = reports.iter().map(Report::verified).collect();
    let all: BTreeMap<&String, ()> =
        programs.iter().flat_map(BTreeMap::keys).map(|name| (name, ())).collect();
    if !all.is_empty() {
        let series = reports.iter().map(|report| report.series.to_owned());
        let mut rows = vec![std::iter::once("verified instructions".to_owned()).chain(series).collect()];
        for name in all.keys() {
            let counts =
                programs.iter().map(|counts| counts.get(*name).cloned().unwrap_or_else(|| "-".to_owned()));
            rows.push(std::iter::once((*name).clone()).chain(counts).collect());
        }
        text.push('\n');
        text.push_str(&columns(&rows));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "@@ begin doctor\nkernel 5.10\n\n mechanism state hooks why\n pipe on syscall\n udp off no hook\n \
                          queue on object\n\n hook\n@@ end 0\n@@ begin demo pipe\nfine\n@@ end 0\n@@ begin demo udp\n@@ end 3\n\
                          @@ begin batch syscall\ntraced pipe syscall on\ntraced queue syscall on\n\
                          played one: [pipe signal] passed\nplayed two: [udp] skipped: no hook\n\
                          played seed 7: [pipe] passed\ntest result: ok. 1 passed; 0 failed; 2 ignored\n@@ end 0\n\
                          @@ begin batch object\ntraced pipe syscall on\ntraced queue object on\n\
                          played one: [pipe] passed\nplayed other: [queue] FAILED: bytes: [x] y\nmore of it\n\
                          played seed 7: [] passed\ntest result: FAILED. 0 passed; 1 failed; 2 ignored\n@@ end 101\n\
                          @@ begin programs\nSKIP a: b\nsys_enter 12 verified instructions of 99\n\
                          test result: FAILED. 3 passed; 1 failed; 0 ignored\n";

    const DEMOS: &str = "pipe    two\n        uses pipe\n\nudp     d\n        uses udp, pipe\n\nqueue    q\n        uses queue\n";

    fn report_of(output: &str) -> Report {
        Report { series: "5.10", version: Ok("5.10.1".to_owned()), steps: steps(output), broken: None }
    }

    fn report() -> Report {
        report_of(OUTPUT)
    }

    #[test]
    fn output_is_taken_apart() {
        let steps = steps(OUTPUT);
        assert_eq!(
            steps.iter().map(|step| step.status).collect::<Vec<_>>(),
            [Some(0), Some(0), Some(3), Some(0), Some(101), None]
        );
        assert_eq!(demos(DEMOS)[1].1, ["udp", "pipe"]);
        assert_eq!(
            report().failed(&demos(DEMOS)),
            ["batch object: other FAILED", "programs FAILED"],
            "a workload that failed, and a step that did not end"
        );
    }

    #[test]
    fn what_passes_when_it_is_repeated_is_said_to() {
        let demos = demos(DEMOS);
        let output = OUTPUT.replace("fine\n@@ end 0", "no\n@@ end 1\n@@ begin demo pipe again\n@@ end 0");
        let again = report_of(&output);
        assert_eq!((again.cell("pipe", Set::Syscall, &demos), again.failures(&demos)), ("2nd try", 2));
        let twice = report_of(&output.replace("again\n@@ end 0", "again\n@@ end 1"));
        assert_eq!((twice.cell("pipe", Set::Syscall, &demos), twice.failures(&demos)), ("FAILED", 4));
    }

    #[test]
    fn cells_say_what_passed_by_which_hooks_and_what_is_off() {
        let demos = demos(DEMOS);
        let cells = |report: &Report, name| Set::ALL.map(|set| report.cell(name, set, &demos));
        assert_eq!(cells(&report(), "pipe"), ["passed", "-"], "at its objects it was not");
        assert_eq!(cells(&report(), "udp"), ["off", "off"]);
        assert_eq!(cells(&report(), "queue"), ["-", "FAILED"]);
        assert_eq!(Set::ALL.map(|set| report().counts(set, false)), ["1, 1 off", "1, 1 FAILED"]);
        assert_eq!(Set::ALL.map(|set| report().counts(set, true)), ["1", "1"]);
        assert_eq!(report().tests("programs"), "2 passed, 1 skipped, 1 FAILED");
        let text = table(&[report(), Report::not_run("7", "no network".to_owned())], &demos);
        assert!(
            text.contains("5.10: udp is off: no hook")
                && text.contains("5.10: 1 off with syscall hooks: no hook\n")
                && text.contains("7 was not run: no network"),
            "{text}"
        );
        assert!(text.contains("sys_enter"), "{text}");
        assert!(
            text.contains(
                "5.10: batch object said:\n  played other: [queue] FAILED: bytes: [x] y\n  more of it\n\n"
            ),
            "{text}"
        );
        assert!(text.contains("5.10: programs said:\n  SKIP a: b\n"), "{text}");
    }

    #[test]
    fn a_set_that_does_not_end_has_failed_and_one_that_is_refused_is_off() {
        let demos = demos(DEMOS);
        let begin = OUTPUT.split("@@ begin batch object").next().unwrap_or_default();
        let cut = report_of(&format!("{begin}@@ begin batch object\nplayed one: [pipe] passed\n"));
        assert_eq!(cut.cell("pipe", Set::Object, &demos), "FAILED");
        assert_eq!(cut.failed(&demos), ["batch object FAILED"]);
        let refused = report_of(&format!("{begin}@@ begin batch object\nrefused none of it\n@@ end 0\n"));
        assert_eq!(Set::ALL.map(|set| refused.cell("pipe", set, &demos)), ["passed", "off"]);
        assert_eq!(refused.failures(&demos), 0);
        assert!(table(&[refused], &demos).contains("5.10: no object hooks: none of it"));
    }
}
