//! What was found in the guests, as tables. Pure.

use std::collections::BTreeMap;

/// Exit status of `ipctrace` where something cannot be done on this kernel.
const IMPOSSIBLE: i32 = 3;

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

    /// Mechanisms with why they are off, if they are.
    fn mechanisms(&self) -> Vec<(String, Option<String>)> {
        let text = self.step("doctor").map_or("", |step| &step.output);
        let table = text.lines().skip_while(|line| !line.trim().starts_with("mechanism")).skip(1);
        table
            .take_while(|line| !line.trim().is_empty())
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                let (name, state) = (words.next()?.to_owned(), words.next()?);
                Some((name, (state != "on").then(|| words.collect::<Vec<_>>().join(" "))))
            })
            .collect()
    }

    /// How many things failed.
    pub(super) fn failures(&self, demos: &[Demo]) -> usize {
        self.failed(demos).len() + usize::from(self.broken.is_some())
    }

    /// What failed.
    fn failed(&self, demos: &[Demo]) -> Vec<&Step> {
        self.steps
            .iter()
            .filter(|step| !step.passed() && !self.is_off(step, demos) && !self.passed_again(step))
            .collect()
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
        self.mechanisms().iter().any(|(mechanism, why)| why.is_some() && uses(mechanism))
    }

    /// One mechanism's cell.
    fn cell(&self, mechanism: &str, demos: &[Demo]) -> String {
        if self.version.is_err() {
            return "not run".to_owned();
        }
        match self.mechanisms().iter().find(|(name, _)| name == mechanism) {
            None => return "FAILED".to_owned(),
            Some((_, Some(_))) => return "off".to_owned(),
            Some((_, None)) => {}
        }
        let played: Vec<&Step> = demos
            .iter()
            .filter(|(name, _)| uses(demos, name).any(|used| used == mechanism))
            .filter_map(|(name, _)| self.step(&format!("demo {name}")))
            .filter(|step| !self.is_off(step, demos))
            .collect();
        if played.iter().any(|step| !step.passed() && !self.passed_again(step)) {
            return "FAILED".to_owned();
        }
        if played.iter().any(|step| !step.passed()) {
            return "passed at 2nd try".to_owned();
        }
        if played.is_empty() { "on" } else { "passed" }.to_owned()
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
    let row = |name: &str, cell: &dyn Fn(&Report) -> String| {
        std::iter::once(name.to_owned()).chain(reports.iter().map(cell)).collect::<Vec<_>>()
    };
    let mut rows = vec![
        row("", &|report| report.series.to_owned()),
        row("kernel", &|report| match &report.version {
            Ok(version) => version.trim_end_matches("-cloud-amd64").to_owned(),
            Err(_) => "not run".to_owned(),
        }),
    ];
    let names = reports.iter().map(Report::mechanisms).max_by_key(Vec::len).unwrap_or_default();
    for (name, _) in &names {
        rows.push(row(name, &|report| report.cell(name, demos)));
    }
    for (name, step) in [("attribution tests", "attribution"), ("seeds", "seeds"), ("programs", "programs")] {
        if reports.iter().any(|report| report.step(step).is_some()) {
            rows.push(row(name, &|report| report.tests(step)));
        }
    }
    let mut text = columns(&rows);
    for report in reports {
        match &report.version {
            Ok(version) => {
                for (name, why) in report.mechanisms() {
                    if let Some(why) = why {
                        text.push_str(&format!("{version}: {name} is off: {why}\n"));
                    }
                }
            }
            Err(reason) => text.push_str(&format!("{} was not run: {reason}\n", report.series)),
        }
        if let Some(broken) = &report.broken {
            text.push_str(&format!("{}: {broken}\n", report.series));
        }
        for step in report.failed(demos) {
            text.push_str(&format!("{}: {} FAILED\n", report.series, step.name));
        }
    }
    let programs: Vec<_> = reports.iter().map(Report::verified).collect();
    let all: BTreeMap<&String, ()> =
        programs.iter().flat_map(BTreeMap::keys).map(|name| (name, ())).collect();
    if !all.is_empty() {
        let mut rows = vec![row("verified instructions", &|report| report.series.to_owned())];
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

    const OUTPUT: &str = "@@ begin doctor\nkernel 5.10\n\n mechanism state why\n pipe on\n udp off no hook\n\n hook\n@@ end 0\n\
                          @@ begin demo pipe\nfine\n@@ end 0\n@@ begin demo udp\n@@ end 3\n@@ begin attribution\nSKIP a: b\n\
                          test result: FAILED. 3 passed; 1 failed; 0 ignored\n@@ end 101\n@@ begin programs\n\
                          sys_enter 12 verified instructions of 99\n";

    fn report() -> Report {
        Report { series: "5.10", version: Ok("5.10.1".to_owned()), steps: steps(OUTPUT), broken: None }
    }

    #[test]
    fn output_is_taken_apart() {
        let steps = steps(OUTPUT);
        assert_eq!(
            steps.iter().map(|step| step.status).collect::<Vec<_>>(),
            [Some(0), Some(0), Some(3), Some(101), None]
        );
        assert_eq!(
            report().failures(&demos("udp     d\n        uses udp, pipe\n")),
            2,
            "tests that failed, and a step that did not end"
        );
    }

    #[test]
    fn what_passes_when_it_is_repeated_is_said_to() {
        let demos = demos("pipe    two\n        uses pipe\n");
        let output = OUTPUT.replace("fine\n@@ end 0", "no\n@@ end 1\n@@ begin demo pipe again\n@@ end 0");
        let again = Report { steps: steps(&output), ..report() };
        assert_eq!((again.cell("pipe", &demos).as_str(), again.failures(&demos)), ("passed at 2nd try", 3));
        let twice = output.replace("again\n@@ end 0", "again\n@@ end 1");
        let twice = Report { steps: steps(&twice), ..report() };
        assert_eq!((twice.cell("pipe", &demos).as_str(), twice.failures(&demos)), ("FAILED", 5));
    }

    #[test]
    fn cells_say_what_passed_and_what_is_off() {
        let demos = demos("pipe    two\n        uses pipe\n\nudp     d\n        uses udp, pipe\n");
        assert_eq!(demos[1].1, ["udp", "pipe"]);
        assert_eq!(report().cell("pipe", &demos), "passed");
        assert_eq!(report().cell("udp", &demos), "off");
        assert_eq!(report().tests("attribution"), "2 passed, 1 skipped, 1 FAILED");
        let text = table(&[report(), Report::not_run("7", "no network".to_owned())], &demos);
        assert!(
            text.contains("5.10.1: udp is off: no hook") && text.contains("7 was not run: no network"),
            "{text}"
        );
        assert!(text.contains("sys_enter"), "{text}");
    }
}
