//! Plays one scenario of the end-to-end tests, in a process of its own: `actor NAME REPORT`.

use std::path::Path;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first().map(|(name, rest)| (name.as_str(), rest)) {
        Some(("__oracle", rest)) => return ipctrace_tests::oracle::act(rest),
        Some(("__couples", rest)) => return ipctrace_tests::oracle::act_couples(rest),
        Some(("__rivals", rest)) => return ipctrace_tests::oracle::act_rivals(rest),
        Some(("__load", rest)) => return ipctrace_tests::load::act(rest),
        Some(_) | None => {}
    }
    let [name, report] = arguments.as_slice() else {
        anyhow::bail!("usage: actor NAME REPORT");
    };
    ipctrace_tests::scenarios::play(name, Path::new(report)).with_context(|| format!("the scenario {name}"))
}
