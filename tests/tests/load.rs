//! More than can be told: nothing may be lost but what is counted, to the last call.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use ipctrace_tests::binary;
use ipctrace_tests::ends::SIZE;
use ipctrace_tests::load::MECHANISMS;
use ipctrace_tests::trace::Scratch;
use serde_json::Value;

/// One in so many of what was lost may be no call but what tells of processes that begin and end: of all on the host.
const OTHERS: u64 = 1000;

/// What a trace told of a load.
#[derive(Debug, Default)]
struct Told {
    /// Bytes with both ends, with one of them, and those of which more than that is in doubt.
    both: u64,
    one: u64,
    doubtful: u64,
    /// Losses.
    lost: u64,
    /// Lines.
    lines: u64,
}

/// The number behind `name` in a line of NDJSON. Lines come by the million here, and that each is JSON is for other tests to see.
fn number(line: &str, name: &str) -> Option<u64> {
    let (_, rest) = line.split_once(name)?;
    let digits = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
    digits.parse().ok()
}

impl Told {
    fn line(&mut self, line: &str) -> Result<()> {
        self.lines += 1;
        if line.starts_with(r#"{"type":"transfer""#) {
            let bytes = number(line, r#""bytes":"#).with_context(|| format!("no bytes: {line}"))?;
            let unknown = [r#""sender":null"#, r#""receiver":null"#].map(|end| u64::from(line.contains(end)));
            match unknown[0] + unknown[1] {
                0 => self.both += bytes,
                1 => self.one += bytes,
                _ => {}
            }
            self.doubtful += if line.contains(r#""exact":false"#) { bytes } else { 0 };
        } else if line.starts_with(r#"{"type":"end""#) {
            let end: Value = serde_json::from_str(line)?;
            let lost = end["lost"].as_object().context("no losses at the end")?;
            self.lost = lost.values().filter_map(Value::as_u64).sum();
        }
        Ok(())
    }

    /// Calls that were told of.
    fn calls(&self) -> u64 {
        (2 * self.both + self.one) / SIZE as u64
    }
}

/// Traces a load. Gives what was told, and how many transfers were made.
fn trace(mechanism: &str, seconds: f64, options: &[&str]) -> Result<(Told, u64)> {
    let report = Scratch::new(".load");
    let mut child = Command::new(binary()?)
        .args(["run", "-f", "json", "-m", mechanism])
        .args(options)
        .arg("--")
        .args([env!("CARGO_BIN_EXE_actor"), "__load", mechanism, &seconds.to_string()])
        .arg(report.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut told = Told::default();
    for line in BufReader::with_capacity(1 << 20, child.stdout.take().context("a pipe")?).lines() {
        told.line(&line?)?;
    }
    ensure!(child.wait()?.success(), "ipctrace, or the load, failed");
    let transfers: u64 = std::fs::read_to_string(report.path())?.trim().parse()?;
    println!(
        "{mechanism}: {transfers} transfers, {:.2} million a second: {told:?}",
        transfers as f64 / seconds / 1e6
    );
    Ok((told, transfers))
}

/// What was offered is what was told and what was lost.
fn balances(told: &Told, transfers: u64) {
    let (offered, accounted) = (2 * transfers, told.calls() + told.lost);
    let others = told.lost.div_ceil(OTHERS);
    assert!(
        (offered..=offered + others).contains(&accounted),
        "{offered} calls were made; {} told and {} lost are {accounted}",
        told.calls(),
        told.lost
    );
}

/// Ten seconds at the rate that the machine has.
#[test]
fn ten_seconds_of_small_transfers_are_told_or_counted() -> Result<()> {
    let (told, transfers) = trace("pipe", 10.0, &[])?;
    balances(&told, transfers);
    if told.lost == 0 {
        assert_eq!((told.one, told.doubtful), (0, 0), "nothing was lost, and all else is certain");
    }
    Ok(())
}

/// The same with a record for each call, and room for few of them.
#[test]
fn losses_are_counted_to_the_last_one() -> Result<()> {
    for mechanism in MECHANISMS {
        let (told, transfers) = trace(mechanism, 1.0, &["--every", "--buffer", "64"])?;
        assert!(told.lost > 0, "{mechanism}: room for 64 KiB, and nothing was lost");
        balances(&told, transfers);
    }
    Ok(())
}
