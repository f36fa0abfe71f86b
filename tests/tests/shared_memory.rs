//! Shared memory where the processes are not ours, or were there before us; and what the summary says of it.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use ipctrace::demo::truth::Truth;
use ipctrace_tests::scenarios::trace_in_the_middle;
use ipctrace_tests::skip;
use ipctrace_tests::trace::{Scratch, lines, run, said};
use serde_json::Value;

/// Sender, receiver and bytes of the flows over a channel.
fn flows(lines: &[Value], channel: &str) -> Vec<(u64, u64, u64)> {
    let mut flows: Vec<_> = lines
        .iter()
        .filter(|line| line["type"] == "flow" && line["channel"]["id"] == channel)
        .map(|line| {
            assert_eq!(line["messages"], 0, "{line}");
            let number = |value: &Value| value.as_u64().unwrap_or(0);
            (number(&line["sender"]["pid"]), number(&line["receiver"]["pid"]), number(&line["bytes"]))
        })
        .collect();
    flows.sort_unstable();
    flows
}

#[test]
fn started_in_the_middle() -> Result<()> {
    let (truth, lines) = trace_in_the_middle("mapped_before_the_start", &["-s"])?;
    let pid = |wanted: &str| {
        let is = |line: &Truth| {
            if let Truth::Member { pid, name, .. } = line
                && name == wanted
            {
                Some(u64::from(*pid))
            } else {
                None
            }
        };
        truth.iter().find_map(is).with_context(|| format!("no {wanted}"))
    };
    let channel = |wanted: &str| {
        let is = |line: &Truth| {
            if let Truth::Share { channel, .. } = line
                && channel.starts_with(wanted)
            {
                Some(channel.clone())
            } else {
                None
            }
        };
        truth.iter().find_map(is).with_context(|| format!("no {wanted}"))
    };
    let (stage, writer, reader) = (pid("stage")?, pid("writer")?, pid("reader")?);
    assert_eq!(flows(&lines, &channel("memfd:")?), [(writer, reader, 8192)], "the reader cannot write");
    let mut all: Vec<_> = [stage, writer, reader]
        .iter()
        .flat_map(|from| [stage, writer, reader].map(|to| (*from, to, 4096)))
        .filter(|(from, to, _)| from != to)
        .collect();
    all.sort_unstable();
    assert_eq!(flows(&lines, &channel("sysv_shm:")?), all);
    for line in lines.iter().filter(|line| line["type"] == "flow") {
        for (side, name) in [(writer, "writer"), (reader, "reader"), (stage, "stage")] {
            for end in ["sender", "receiver"] {
                ensure!(line[end]["pid"] != side || line[end]["comm"] == name, "not {name}: {line}");
            }
        }
    }
    Ok(())
}

#[test]
fn shared_memory_of_python() -> Result<()> {
    let program = r#"
import os, subprocess, sys
from multiprocessing import shared_memory
memory = shared_memory.SharedMemory(create=True, size=5000)
memory.buf[4999] = 7
reader = '''
import os, sys
from multiprocessing import resource_tracker, shared_memory
memory = shared_memory.SharedMemory(name=sys.argv[1])
resource_tracker.unregister(memory._name, "shared_memory")
assert memory.buf[4999] == 7
memory.close()
print(os.getpid())
'''
pid = subprocess.run([sys.executable, "-c", reader, memory.name], stdout=subprocess.PIPE, check=True).stdout
memory.close()
memory.unlink()
print(memory.name, os.getpid(), int(pid), file=open(sys.argv[1], "w"))
"#;
    if !Command::new("python3")
        .args(["-c", "import multiprocessing.shared_memory"])
        .output()
        .is_ok_and(|output| output.status.success())
    {
        return skip("shared_memory_of_python", "there is no python3 with multiprocessing.shared_memory");
    }
    let told = Scratch::new(".told");
    let path = told.path().to_str().context("a path")?;
    let output = run(&["run", "-f", "json", "-m", "shm", "--", "python3", "-c", program, path])?;
    ensure!(output.status.success(), "{}", said(&output));
    let lines = lines(&String::from_utf8(output.stdout)?)?;
    let told = std::fs::read_to_string(told.path())?;
    let [name, maker, reader] = told.split_whitespace().collect::<Vec<_>>()[..] else {
        anyhow::bail!("what python told: {told}");
    };
    let (maker, reader): (u64, u64) = (maker.parse()?, reader.parse()?);
    let channel = format!("posix_shm:/{name}");
    let shares: Vec<(u64, &str)> = lines
        .iter()
        .filter(|line| line["type"] == "share" && line["channel"]["id"] == channel.as_str())
        .map(|line| {
            assert_eq!(line["process"]["comm"], "python3", "{line}");
            assert_eq!(line["mechanism"], "posix_shm", "{line}");
            assert_eq!(line["channel"]["name"], format!("/dev/shm/{name}"), "{line}");
            (line["process"]["pid"].as_u64().unwrap_or(0), line["action"].as_str().unwrap_or(""))
        })
        .collect();
    assert_eq!(
        shares,
        [
            (maker, "create"),
            (maker, "attach"),
            (reader, "attach"),
            (reader, "detach"),
            (maker, "detach"),
            (maker, "remove")
        ]
    );
    let evidence: Vec<_> = lines
        .iter()
        .filter(|line| line["type"] == "evidence" && line["channel"]["id"] == channel.as_str())
        .map(|line| (line["sender"]["pid"].as_u64(), line["receiver"]["pid"].as_u64(), line["page"].as_u64()))
        .collect();
    assert_eq!(evidence, [(Some(maker), Some(reader), Some(4096))]);
    // Both may write, so bytes may go either way.
    let mut both = [(maker, reader, 5000), (reader, maker, 5000)];
    both.sort_unstable();
    assert_eq!(flows(&lines, &channel), both);
    Ok(())
}
