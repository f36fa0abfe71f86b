//! What a benchmark ran on.

use std::fs;

use serde_json::{Value, json};

/// A machine, as far as it matters.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Model of its processors.
    pub cpu: String,
    /// How many.
    pub cores: usize,
    /// `uname -s -r -m`.
    pub kernel: String,
    /// Memory, GiB.
    pub memory: u64,
}

impl Machine {
    /// This one.
    pub fn this() -> Machine {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let virtual_one =
            field(&cpus, "flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
        let model = field(&cpus, "model name").unwrap_or_else(|| "unknown processor".to_owned());
        let kilobytes = field(&memory, "MemTotal")
            .and_then(|size| size.split(' ').next()?.parse::<u64>().ok())
            .unwrap_or(0);
        let name = nix::sys::utsname::uname().ok();
        let kernel = name.map_or_else(String::new, |name| {
            // What stands behind the version is whoever built it.
            let release = name.release().to_string_lossy().into_owned();
            let release = release.split('-').next().unwrap_or_default().to_owned();
            format!("Linux {release} {}", name.machine().to_string_lossy())
        });
        Machine {
            cpu: if virtual_one { format!("{model}, virtual") } else { model },
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel,
            memory: kilobytes.div_ceil(1 << 20),
        }
    }

    /// In one line.
    pub fn line(&self) -> String {
        let Machine { cpu, cores, kernel, memory } = self;
        format!("{kernel}, {cores} cores ({cpu}), {memory} GiB")
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({"cpu": self.cpu, "cores": self.cores, "kernel": self.kernel, "memory_gib": self.memory})
    }
}
