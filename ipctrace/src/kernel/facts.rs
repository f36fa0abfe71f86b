//! What is known of the running kernel. Gathering decides nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use btf_rs::{Backend, Btf};
use ipctrace_common::Hook;
use ipctrace_common::config::{Offsets, Registers};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{btf, cast, events, objects, syscalls, uring};

/// Where kernels show their type information.
pub const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Facts about a kernel and what this process may do with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `uname -r`.
    pub release: String,
    /// Offsets by `struct.member` path, and sizes; those that this kernel does not have are absent.
    pub offsets: BTreeMap<&'static str, u32>,
    /// Size of `struct pipe_buffer`.
    pub pipe_buffer_size: Option<u32>,
    /// Whether programs may call bpf_loop.
    pub has_loop: bool,
    /// Whether programs may call bpf_find_vma.
    pub has_find_vma: bool,
    /// The number of the function `bpf_rdonly_cast`, if it gives programs the kernel's memory to read.
    pub cast: Option<u32>,
    /// Where system call arguments are; `None` if the type information does not say.
    pub registers: Option<Registers>,
    /// How requests through io_uring look.
    pub uring: uring::Facts,
    /// BTF tracepoints that we have a use for and that this kernel has.
    pub tracepoints: Vec<Hook>,
    /// Those of them that make the records for perf events that programs expect.
    pub events: Vec<Hook>,
    /// Whether perf events are kept from us.
    pub events_refused: bool,
    /// Whether tasks are preempted in the kernel, if that is known.
    pub preemptible: Option<bool>,
    /// Functions of objects that programs can be attached to.
    pub objects: objects::Facts,
    /// Why there is no type information, if there is none.
    pub no_btf: Option<String>,
    /// Kernel lockdown mode, if the kernel tells one: `none`, `integrity`, `confidentiality`.
    pub lockdown: Option<String>,
    /// Effective capabilities of this process.
    pub capabilities: u64,
    /// Whether there is no procfs where it belongs.
    pub no_proc: bool,
    /// Whether it is root, at least by its number.
    pub root: bool,
    /// Whether it is in a user namespace of its own, whose capabilities count for nothing outside.
    pub own_users: bool,
    /// Whether it is in a PID namespace of its own, where processes have other numbers.
    pub own_pids: bool,
}

impl Facts {
    /// Looks at the running kernel.
    pub fn gather() -> Facts {
        let mut facts = Facts {
            release: nix::sys::utsname::uname()
                .map(|name| name.release().to_string_lossy().into_owned())
                .unwrap_or_default(),
            lockdown: lockdown(),
            capabilities: capabilities(),
            no_proc: !Path::new("/proc/self/status").exists(),
            root: nix::unistd::geteuid().is_root(),
            own_users: is_own("user", INITIAL_USERS),
            own_pids: is_own("pid", INITIAL_PIDS),
            events: events::found(),
            events_refused: events::are_refused(),
            preemptible: events::preemptible(),
            ..Facts::default()
        };
        if !Path::new(BTF).exists() {
            facts.no_btf = Some(format!("{BTF} does not exist"));
            return facts;
        }
        match types() {
            Ok(types) => facts.read(&btf::Types::new(types)),
            Err(error) => facts.no_btf = Some(format!("{BTF}: {error}")),
        }
        facts
    }

    /// Whether the kernel is of at least that version.
    pub(super) fn is_since(&self, major: u32, minor: u32) -> bool {
        let mut numbers = self.release.split(|other: char| !other.is_ascii_digit());
        let mut number = || numbers.next().and_then(|number| number.parse::<u32>().ok()).unwrap_or(0);
        (number(), number()) >= (major, minor)
    }

    fn read(&mut self, types: &btf::Types) {
        for (path, _) in Offsets::PATHS {
            let found = path.split(" or ").find_map(|path| match path.strip_prefix("sizeof ") {
                Some(name) => btf::size(types, name),
                None => btf::offset(types, path),
            });
            if let Some(offset) = found {
                self.offsets.insert(path, offset);
            }
        }
        self.pipe_buffer_size = btf::size(types, "pipe_buffer");
        self.has_loop = btf::has_helper(types, "BPF_FUNC_loop");
        self.uring = uring::Facts::read(types);
        self.has_find_vma = btf::has_helper(types, "BPF_FUNC_find_vma");
        self.cast = btf::functions(types, "bpf_rdonly_cast")
            .first()
            .map(|(function, _)| *function)
            .filter(|function| cast::works(*function));
        self.registers = registers(types);
        self.tracepoints = Hook::ALL
            .iter()
            .copied()
            .filter(|hook| !hook.is_on_object() && btf::has_tracepoint(types, hook.target()))
            .collect();
        self.objects = objects::Facts::read(types);
    }
}

/// The kernel's type information. Kernels before Linux 6.16 do not let it be mapped: of theirs a copy is, because looking
/// up a few names in place takes a small part of the time that reading all of them does.
fn types() -> Result<Btf, String> {
    if let Ok(types) = Btf::from_file_with_backend(BTF, Backend::Mmap) {
        return Ok(types);
    }
    let copy = memfd_create("btf", MFdFlags::MFD_CLOEXEC).map_err(|error| error.to_string())?;
    let mut copy = File::from(copy);
    File::open(BTF).and_then(|mut file| io::copy(&mut file, &mut copy)).map_err(|error| error.to_string())?;
    Btf::from_file_with_backend(format!("/proc/self/fd/{}", copy.as_raw_fd()), Backend::Mmap)
        .map_err(|error| error.to_string())
}

/// The registers of system calls, as this architecture passes them.
fn registers(types: &btf::Types) -> Option<Registers> {
    let mut argument = [0; 6];
    for (place, path) in argument.iter_mut().zip(syscalls::ARGUMENTS) {
        *place = btf::offset(types, path.0)? + path.1;
    }
    Some(Registers { number: btf::offset(types, syscalls::NUMBER)?, argument, compat: syscalls::COMPAT })
}

/// The mode in brackets: `none [integrity] confidentiality`.
fn lockdown() -> Option<String> {
    let text = std::fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// `PROC_USER_INIT_INO` and `PROC_PID_INIT_INO`, include/linux/proc_ns.h: inodes of the namespaces that the kernel begins with.
const INITIAL_USERS: u64 = 0xEFFF_FFFD;
const INITIAL_PIDS: u64 = 0xEFFF_FFFC;

/// Whether this process is in another namespace of that kind than the one with that inode.
fn is_own(kind: &str, initial: u64) -> bool {
    std::fs::metadata(format!("/proc/self/ns/{kind}")).is_ok_and(|namespace| namespace.ino() != initial)
}

/// `CapEff` of /proc/self/status.
fn capabilities() -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .unwrap_or(0)
}
