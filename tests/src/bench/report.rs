//! Medians and spread of ratios, as tables and as JSON.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use super::machine::Machine;
use super::{Measured, Mode, Own, Sample, Wish, Workload};

/// Least, median and greatest.
pub type Spread = (f64, f64, f64);

fn spread(mut values: Vec<f64>) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    Some((*values.first()?, values[values.len() / 2], *values.last()?))
}

/// The spread over the rounds of what an operation took, divided by what it took in another mode in the same round.
pub fn ratio(of: &[Option<Sample>], to: &[Option<Sample>]) -> Option<Spread> {
    spread(of.iter().zip(to).filter_map(|(of, to)| Some((*of)?.seconds / (*to)?.seconds)).collect())
}

/// The spread over the rounds of something that the tracer took.
fn own(samples: &[Option<Sample>], what: impl Fn(Own) -> f64) -> Option<Spread> {
    spread(samples.iter().filter_map(|sample| (*sample)?.own).map(what).collect())
}

/// The most over the rounds.
fn most(samples: &[Option<Sample>], what: impl Fn(Own) -> u64) -> Option<u64> {
    samples.iter().filter_map(|sample| (*sample)?.own).map(what).max()
}

/// What is printed of a run.
pub struct Report<'a> {
    /// What was asked for.
    pub wish: &'a Wish,
    /// What came of it.
    pub measured: &'a Measured,
}

impl Report<'_> {
    /// The modes other than `but` that could be had.
    fn modes<'a>(&'a self, but: &'a [Mode]) -> impl Iterator<Item = Mode> + 'a {
        let there = |mode: &Mode| {
            let mut samples = self.measured.samples.iter().filter(move |(_, found, _)| found == mode);
            samples.any(|(.., samples)| samples.iter().any(Option::is_some))
        };
        self.wish.modes.iter().copied().filter(|mode| !but.contains(mode)).filter(there)
    }

    /// The modes that are this tracer.
    fn ours(&self) -> impl Iterator<Item = Mode> {
        self.modes(&[]).filter(|mode| matches!(mode, Mode::Top | Mode::Trace))
    }

    /// Ratios to no tracing.
    fn to_untraced(&self) -> Table {
        let modes: Vec<_> = self.modes(&[Mode::Untraced]).collect();
        let mut table = table(["untraced, ns".to_owned()].into_iter().chain(names(&modes)));
        for workload in self.timed() {
            let untraced = self.measured.of(workload, Mode::Untraced);
            let time = spread(untraced.iter().flatten().map(|sample| sample.seconds * 1e9).collect());
            let ratios = modes.iter().map(|mode| ratio(self.measured.of(workload, *mode), untraced));
            let time = time.map_or_else(String::new, |(_, median, _)| format!("{median:.0}"));
            table.add_row([workload.name().to_owned(), time].into_iter().chain(ratios.map(cell)));
        }
        aligned(table)
    }

    /// Ratios to the floor.
    fn to_floor(&self) -> Table {
        let modes: Vec<_> = self.modes(&[Mode::Untraced, Mode::Floor, Mode::FloorEachCall]).collect();
        let mut table = table(names(&modes));
        for workload in self.timed() {
            let floor = self.measured.of(workload, Mode::Floor);
            let ratios = modes.iter().map(|mode| ratio(self.measured.of(workload, *mode), floor));
            table.add_row(std::iter::once(workload.name().to_owned()).chain(ratios.map(cell)));
        }
        aligned(table)
    }

    /// What the tracer itself takes.
    fn of_the_tracer(&self) -> Table {
        let titles = self.ours().flat_map(|mode| {
            ["CPU s per million", "lost", "peak RSS, MiB"].map(|what| format!("{}: {what}", mode.name()))
        });
        let mut table = table(titles);
        for workload in &self.wish.workloads {
            let cells = self.ours().flat_map(|mode| {
                let samples = self.measured.of(*workload, mode);
                let number =
                    |number: Option<u64>| number.map_or_else(String::new, |number| number.to_string());
                [
                    cell(own(samples, |own| own.cpu * 1e6 / workload.transfers())),
                    number(most(samples, |own| own.lost)),
                    number(most(samples, |own| own.peak.div_ceil(1 << 20))),
                ]
            });
            table.add_row(std::iter::once(workload.name().to_owned()).chain(cells));
        }
        aligned(table)
    }

    fn start_up(&self) -> Option<Spread> {
        spread(self.measured.start_up.iter().map(|time| time.as_secs_f64() * 1e3).collect())
    }

    /// The workloads whose time says something.
    fn timed(&self) -> impl Iterator<Item = Workload> {
        self.wish.workloads.iter().copied().filter(|workload| *workload != Workload::Idle)
    }

    /// For people: tables, which are Markdown as well; with headings if it is to stand in a document.
    pub fn text(&self, headings: bool) -> String {
        let Wish { rounds, scale, cpu_time, .. } = self.wish;
        let mark = if headings { "### " } else { "" };
        let (least, median, most) = self.start_up().unwrap_or_default();
        let mut text = format!("{}\n\n{rounds} rounds, scale {scale}", Machine::this().line());
        text.push_str(": the median over the rounds, and in brackets the least and the greatest.\n");
        let parts = [
            (if *cpu_time { CPU } else { TIME }, self.to_untraced()),
            ("The same, as a ratio to empty programs on the same hooks", self.to_floor()),
            ("What the tracer itself takes (per million transfers, or calls)", self.of_the_tracer()),
        ];
        for (title, table) in parts {
            text.push_str(&format!("\n{mark}{title}\n\n{table}\n"));
        }
        text.push_str(&format!(
            "\nFrom the start to the first possible event: {median:.0} ms ({least:.0}-{most:.0}).\n"
        ));
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let three = |spread: Option<Spread>| {
            spread.map(|(min, median, max)| json!({"min": min, "median": median, "max": max}))
        };
        let rows = self.measured.samples.iter().map(|(workload, mode, samples)| {
            let ns = spread(samples.iter().flatten().map(|sample| sample.seconds * 1e9).collect());
            json!({
                "workload": workload.name(),
                "mode": mode.name(),
                "operations": workload.operations(self.wish.scale / mode.slowness()),
                "ns": three(ns),
                "to_untraced": three(ratio(samples, self.measured.of(*workload, Mode::Untraced))),
                "to_floor": three(ratio(samples, self.measured.of(*workload, Mode::Floor))),
                "cpu_s_per_million": three(own(samples, |own| own.cpu * 1e6 / workload.transfers())),
                "lost": most(samples, |own| own.lost),
                "peak_rss_bytes": most(samples, |own| own.peak),
            })
        });
        json!({
            "machine": Machine::this().json(),
            "rounds": self.wish.rounds,
            "scale": self.wish.scale,
            "start_up_ms": three(self.start_up()),
            "rows": rows.collect::<Vec<_>>(),
        })
    }
}

const TIME: &str = "Time of an operation, as a ratio to no tracing";
const CPU: &str = "CPU time of an operation, as a ratio to no tracing";

fn names(modes: &[Mode]) -> impl Iterator<Item = String> {
    modes.iter().map(|mode| mode.name().to_owned())
}

fn table(titles: impl Iterator<Item = String>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(std::iter::once("workload".to_owned()).chain(titles));
    table
}

fn aligned(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn cell(spread: Option<Spread>) -> String {
    spread.map_or_else(String::new, |(least, median, most)| {
        let digits = if median >= 10.0 { 0 } else { 2 };
        format!("{median:.digits$} ({least:.digits$}-{most:.digits$})")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_a_round() {
        let samples = |seconds: &[f64]| -> Vec<Option<Sample>> {
            seconds.iter().map(|seconds| Some(Sample { seconds: *seconds, own: None })).collect()
        };
        let (untraced, floor) = (samples(&[1.0, 10.0, 2.0]), samples(&[3.0, 20.0, 3.0]));
        assert_eq!(ratio(&floor, &untraced), Some((1.5, 2.0, 3.0)));
        assert_eq!(ratio(&[None, None, None], &untraced), None);
    }
}
