//! Medians and spread of ratios.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use super::{Mode, Times};

/// Least, median and greatest.
pub type Spread = (f64, f64, f64);

/// The spread over the rounds of `of`'s time divided by `to`'s in the same round.
pub fn ratio(times: &[(Mode, Vec<f64>)], of: Mode, to: Mode) -> Option<Spread> {
    let find = |mode| times.iter().find(|(found, _)| *found == mode).map(|(_, times)| times);
    let mut ratios: Vec<f64> = find(of)?.iter().zip(find(to)?).map(|(of, to)| of / to).collect();
    ratios.sort_by(f64::total_cmp);
    Some((*ratios.first()?, ratios[ratios.len() / 2], *ratios.last()?))
}

/// The ratios that are shown: of each mode to no tracing, and of tracing to the floor.
const COLUMNS: &[(Mode, Mode)] = &[
    (Mode::Floor, Mode::Untraced),
    (Mode::FloorEachCall, Mode::Untraced),
    (Mode::Trace, Mode::Untraced),
    (Mode::Trace, Mode::Floor),
];

/// As a table for people.
pub fn table(times: &Times) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    let titles = COLUMNS.iter().map(|(of, to)| format!("{} / {}", of.name(), to.name()));
    table.set_header(std::iter::once("workload".to_owned()).chain(titles));
    for (workload, times) in times {
        let cells = COLUMNS.iter().map(|(of, to)| {
            ratio(times, *of, *to).map_or_else(String::new, |(least, median, most)| {
                format!("{median:.2} ({least:.2}-{most:.2})")
            })
        });
        table.add_row(std::iter::once(workload.name().to_owned()).chain(cells));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// For programs.
pub fn json(times: &Times) -> Value {
    times
        .iter()
        .flat_map(|(workload, times)| {
            COLUMNS.iter().filter_map(move |(of, to)| {
                let (least, median, most) = ratio(times, *of, *to)?;
                Some(json!({
                    "workload": workload.name(), "mode": of.name(), "to": to.name(),
                    "min": least, "median": median, "max": most,
                }))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_a_round() {
        let times = [(Mode::Untraced, vec![1.0, 10.0, 2.0]), (Mode::Floor, vec![3.0, 20.0, 3.0])];
        assert_eq!(ratio(&times, Mode::Floor, Mode::Untraced), Some((1.5, 2.0, 3.0)));
        assert_eq!(ratio(&times, Mode::Trace, Mode::Untraced), None);
    }
}
