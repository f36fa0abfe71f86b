//! The benchmark: that it still measures everything. How fast anything is no test can say.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use ipctrace_tests::bench::{Mode, Workload};
use ipctrace_tests::binary;
use serde_json::Value;

#[test]
fn every_row_has_numbers() -> Result<()> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.args(["--short", "--format", "json"]).env("IPCTRACE", binary()?).stderr(Stdio::inherit());
    let output = command.output().context("starting the benchmark")?;
    ensure!(output.status.success(), "the benchmark ended with {}", output.status);
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let positive = |value: &Value| value["median"].as_f64().is_some_and(|number| number > 0.0);
    assert!(positive(&report["start_up_ms"]), "{report}");
    let rows = report["rows"].as_array().context("no rows")?;
    assert_eq!(rows.len(), Workload::ALL.len() * Mode::OURS.len());
    for row in rows {
        assert!(["ns", "to_untraced", "to_floor"].iter().all(|name| positive(&row[name])), "{row}");
        let ours = row["mode"] == Mode::Top.name() || row["mode"] == Mode::Trace.name();
        assert_eq!(ours, row["peak_rss_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{row}");
        assert_eq!(ours, row["cpu_s_per_million"]["median"].is_number() && row["lost"].is_u64(), "{row}");
    }
    Ok(())
}
