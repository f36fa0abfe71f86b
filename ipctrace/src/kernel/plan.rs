//! What can be traced, decided from facts alone.

use ipctrace_common::config::{Config, Offsets};
use ipctrace_common::hook::Event;
use ipctrace_common::uring::Uring;
use ipctrace_common::{Hook, Mechanism, Shape};

use super::objects::{self, Choice};
use super::{Facts, syscalls, uring};

/// Capabilities, include/uapi/linux/capability.h.
const CAP_BPF: u64 = 1 << 39;
const CAP_PERFMON: u64 = 1 << 38;
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_SYS_PTRACE: u64 = 1 << 19;
const CAP_DAC_READ_SEARCH: u64 = 1 << 2;

/// What a trace does without for want of a capability that it can be made without. The control groups say so themselves when they are
/// looked for.
pub fn without_ptrace(facts: &Facts) -> Option<&'static str> {
    (facts.capabilities & CAP_SYS_PTRACE == 0).then_some(
        "without CAP_SYS_PTRACE it is not known which calls of other users' processes are under way as tracing begins, nor which network namespaces they have",
    )
}

/// The same of control groups.
pub fn without_search(facts: &Facts) -> Option<&'static str> {
    (facts.capabilities & CAP_DAC_READ_SEARCH == 0)
        .then_some("without CAP_DAC_READ_SEARCH control groups have no names")
}

/// How long small calls on a pipe are told of together, ns. It bounds what is not known of their times: half of what a
/// latency may be wrong by.
const RUN: u32 = 50_000;

/// Arguments of [`Hook::TcpReceiveEntry`] and its like in the first of their forms.
const LEAST_RECEIVE: u32 = 4;

/// Why nothing can be traced, with the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not enough privileges.
    #[error("tracing needs root, or the capabilities CAP_BPF and CAP_PERFMON: run it with sudo")]
    NotPermitted,
    /// Nothing is known of processes.
    #[error(
        "there is no procfs at /proc, which tells of processes: mount it, with `mount -t proc proc /proc`"
    )]
    NoProc,
    /// Root without them.
    #[error(
        "tracing needs the capabilities CAP_BPF and CAP_PERFMON, which root does not have here, as in a container: run it on the host, or give them to the container, and CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
    )]
    NotPermittedHere,
    /// Root of a user namespace.
    #[error(
        "tracing needs root of the host: this is a user namespace of its own, as in a rootless container, and what it permits does not count: run it on the host"
    )]
    UserNamespace,
    /// Numbers of processes are not the kernel's.
    #[error(
        "this is a PID namespace of its own, as in a container, where processes have other numbers than the kernel tells: run it in that of the host, as with `docker run --pid=host`"
    )]
    PidNamespace,
    /// The kernel tells nothing of its types.
    #[error(
        "the kernel offers no type information ({0}): it must be built with CONFIG_DEBUG_INFO_BTF=y, as the kernels of all large distributions are"
    )]
    NoBtf(String),
    /// Kernel memory may not be read.
    #[error(
        "kernel lockdown is in mode confidentiality, which forbids programs to read kernel memory: boot with lockdown=integrity or without lockdown"
    )]
    Lockdown,
    /// Mechanisms that were to be traced at their objects cannot be.
    #[error("{0}: name others with -m, or let --hooks auto choose")]
    NoObjectHooks(String),
    /// Nothing that was asked for is possible.
    #[error("none of the chosen mechanisms can be traced on this kernel: `ipctrace doctor` tells why")]
    NothingLeft,
}

/// Structures that only some mechanisms look into (a set of [`Mechanism::bit`]), by how their paths begin: a kernel without
/// them does without these mechanisms. The others all need.
const OWN: &[(&str, u32)] = &[
    ("task_struct.nsproxy", SYSV_MSG | SYSV_SEM | SHARED),
    ("nsproxy.mnt_ns", SHARED),
    ("nsproxy.", SYSV_MSG | SYSV_SEM | SYSV_SHM),
    ("ipc_", SYSV_MSG | SYSV_SEM | SYSV_SHM),
    ("sizeof ipc_ids", SYSV_MSG | SYSV_SEM | SYSV_SHM),
    ("xa_node.", SYSV_MSG | SYSV_SEM | SYSV_SHM | PROCESS_VM),
    ("kern_ipc_perm.", SYSV_MSG | SYSV_SEM | SYSV_SHM),
    ("shmid_kernel.", SYSV_SHM),
    ("shm_file_data.", SYSV_SHM),
    ("mnt_namespace.", SHARED),
    ("vm_area_struct.", FUTEX | SHARED),
    ("task_struct.mm", SHARED),
    ("inode.i_size", SHARED),
    ("msg_queue.", SYSV_MSG),
    ("msg_msg.", SYSV_MSG | POSIX_MQ),
    ("sizeof msg_msg", SYSV_MSG | POSIX_MQ),
    ("mqueue_inode_info.", POSIX_MQ),
    ("posix_msg_tree_node.", POSIX_MQ),
    ("rb_node.", POSIX_MQ),
    // For programs on functions.
    ("kiocb.", 0),
    ("iov_iter.", 0),
    ("msghdr.", 0),
    ("file.f_op", EVENTFD),
    ("eventfd_ctx.", EVENTFD),
    ("inode.i_rdev", PTY),
    ("tty_file_private.", PTY),
    ("tty_driver.", PTY),
    ("tty_struct.driver", PTY),
    ("tty_struct.link", PTY),
    ("tty_struct.index", PTY),
    ("tty_struct.termios", PTY),
    ("tty_struct.disc_data", PTY),
    ("tty_struct.port", PTY),
    ("tty_port.", PTY),
    ("tty_buffer.", PTY),
    ("n_tty_data.", PTY),
    ("task_struct.thread_pid", PROCESS_VM),
    ("task_struct.pid_links", PROCESS_VM),
    // Without them, the current task is asked for.
    ("task_struct.se.", 0),
    ("cfs_rq.", 0),
    ("rq.", 0),
    // Without it, datagrams are known by less.
    ("sk_buff.tail", 0),
    // Since Linux 6.18; without it, it is found by way of the inode.
    ("sock.sk_ino", 0),
    ("task_struct.self_exec_id", 0),
    ("mm_struct.mm_lock_seq", 0),
    // Since Linux 6.9; without it, pidfds are as they were before.
    ("pid.stashed", 0),
    ("inode.i_private", 0),
    ("pid.", PROCESS_VM),
    ("upid.", PROCESS_VM),
    ("pid_namespace.", PROCESS_VM),
    ("task_struct.flags", SYSV_SEM | FUTEX),
    ("task_struct.pending", SYSV_SEM | FUTEX),
    ("signal_struct.shared_pending", SYSV_SEM | FUTEX),
    ("mutex.", PIPE | FIFO),
    ("inode.i_generation", FUTEX | FIFO),
    ("inode.i_dentry", FUTEX),
    ("dentry.d_u.", FUTEX),
    ("dentry.d_name.hash_len", FUTEX),
    ("dentry.d_hash.", FUTEX),
];
const PIPE: u32 = Mechanism::Pipe.bit();
const FIFO: u32 = Mechanism::Fifo.bit();
const SYSV_SEM: u32 = Mechanism::SysvSem.bit();
const FUTEX: u32 = Mechanism::Futex.bit();
const SYSV_MSG: u32 = Mechanism::SysvMsg.bit();
const SYSV_SHM: u32 = Mechanism::SysvShm.bit();
const SHARED: u32 = Mechanism::of_shape(Shape::Shared);
const POSIX_MQ: u32 = Mechanism::PosixMq.bit();
const EVENTFD: u32 = Mechanism::Eventfd.bit();
const PTY: u32 = Mechanism::Pty.bit();
const PROCESS_VM: u32 = Mechanism::ProcessVm.bit();

/// The mechanisms that need the offset at `path`.
fn used_by(path: &str) -> u32 {
    OWN.iter().find(|(begin, _)| path.starts_with(begin)).map_or(u32::MAX, |(_, mechanisms)| *mechanisms)
}

/// What is done on this kernel.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the programs are told.
    pub config: Config,
    /// The programs that are loaded and attached, in this order.
    pub hooks: Vec<Hook>,
    /// Those of them that are on perf events: [`Hook::event`].
    pub events: Vec<Hook>,
    /// Whether programs on system calls can be preempted all the same, and calls lost.
    pub is_preempted: bool,
    /// Whether they are the plain ones, for kernels that do not know the helpers (Linux 5.17) and instructions (Linux 5.12) that the
    /// others use.
    pub plain: bool,
    /// The function that is written over the calls of [`ipctrace_common::config::CAST`].
    pub cast: Option<u32>,
    /// Every mechanism, with the reason if it is off.
    pub mechanisms: Vec<(Mechanism, Result<(), String>)>,
    /// Whether requests through io_uring are traced, with the reason if not.
    pub uring: Result<(), String>,
}

impl Plan {
    /// Decides for the mechanisms in `wanted`.
    ///
    /// # Errors
    /// [`Refusal`] if nothing can be traced at all.
    pub fn new(facts: &Facts, wanted: &[Mechanism], own_tgid: u32, payload: u32) -> Result<Plan, Refusal> {
        Plan::chosen(facts, wanted, own_tgid, payload, Choice::Auto)
    }

    /// As [`Plan::new`], with hooks of the user's choice.
    ///
    /// # Errors
    /// As [`Plan::new`], and if a mechanism that is to be traced at its objects cannot be.
    pub fn chosen(
        facts: &Facts,
        wanted: &[Mechanism],
        own_tgid: u32,
        payload: u32,
        choice: Choice,
    ) -> Result<Plan, Refusal> {
        if facts.no_proc {
            return Err(Refusal::NoProc);
        }
        if facts.own_users {
            return Err(Refusal::UserNamespace);
        }
        if facts.capabilities & CAP_SYS_ADMIN == 0
            && facts.capabilities & (CAP_BPF | CAP_PERFMON) != CAP_BPF | CAP_PERFMON
        {
            return Err(if facts.root { Refusal::NotPermittedHere } else { Refusal::NotPermitted });
        }
        if facts.own_pids {
            return Err(Refusal::PidNamespace);
        }
        if facts.lockdown.as_deref() == Some("confidentiality") {
            return Err(Refusal::Lockdown);
        }
        if let Some(reason) = &facts.no_btf {
            return Err(Refusal::NoBtf(reason.clone()));
        }
        let mut offsets = Offsets::ZERO;
        for (path, place) in Offsets::PATHS {
            if let Some(offset) = facts.offsets.get(path) {
                *place(&mut offsets) = *offset;
            }
        }
        let mechanisms: Vec<_> = Mechanism::ALL
            .iter()
            .map(|mechanism| (*mechanism, Self::decide(facts, *mechanism, wanted)))
            .collect();
        let on: u32 =
            mechanisms.iter().filter(|(_, state)| state.is_ok()).map(|(mechanism, _)| mechanism.bit()).sum();
        if on == 0 {
            return Err(Refusal::NothingLeft);
        }
        let at_objects = at_objects(facts, on, choice)?;
        let by_calls = on & !at_objects;
        let uring = uring::decide(&facts.uring, &facts.tracepoints);
        let hooks: Vec<Hook> = Hook::ALL
            .iter()
            .copied()
            .filter(|hook| {
                if hook.is_on_object() {
                    let there = !hook.may_be_absent() || facts.objects.hooks.contains_key(hook);
                    return there && hook.needed_by() & at_objects != 0;
                }
                let for_takes = *hook == Hook::ConsumeSkb && takes_tell(facts);
                let at_objects_too = hook.at_objects_too() | if for_takes { Mechanism::Udp.bit() } else { 0 };
                if at_objects_too & at_objects != 0 && facts.tracepoints.contains(hook) {
                    return true;
                }
                // What all have a use for is about processes, or about calls and requests on the way to an object.
                let of_processes = matches!(hook, Hook::ProcessFork | Hook::ProcessExec | Hook::ProcessExit);
                let served = hook.serves() | if for_takes { Mechanism::Udp.bit() } else { 0 };
                facts.tracepoints.contains(hook) && (of_processes || served & by_calls != 0)
            })
            .filter(|hook| uring.is_ok() || !uring::is_for_rings(*hook))
            .collect();
        // Programs on BTF tracepoints can be preempted since then.
        let since = facts.is_since(7, 0);
        let by_event = |hook: &Hook| since && !facts.events_refused && facts.events.contains(hook);
        let events: Vec<Hook> = hooks.iter().copied().filter(by_event).collect();
        let missed = |hook: &Hook| hook.is_on_calls() && !events.contains(hook);
        let is_preempted = since && facts.preemptible != Some(false) && hooks.iter().any(missed);
        let plain = !facts.has_loop || !facts.has_find_vma;
        let cast = facts.cast.filter(|_| !plain);
        let config = Config {
            offsets,
            registers: facts.registers.unwrap_or_default(),
            own_tgid,
            mechanisms: on,
            objects: at_objects,
            payload,
            pipe_buffer_size: facts.pipe_buffer_size.unwrap_or(0),
            page_shift: page_size().trailing_zeros(),
            verbose: u32::from(log::log_enabled!(log::Level::Debug)),
            udp_by_taking: u32::from(takes_tell(facts)),
            iter_ubuf: facts.objects.iter[0].unwrap_or(Config::NO_KIND),
            iter_iovec: facts.objects.iter[1].unwrap_or(Config::NO_KIND),
            eventfd_signal_counts: u32::from(
                matches!(facts.objects.hooks.get(&Hook::EventfdSignal), Some(Ok(form)) if *form != 0),
            ),
            // The functions of all protocols have one type.
            inet_receive: [Hook::TcpReceiveEntry, Hook::UdpReceiveEntry, Hook::Udp6ReceiveEntry]
                .iter()
                .find_map(|hook| facts.objects.hooks.get(hook)?.as_ref().ok())
                .map_or(0, |form| LEAST_RECEIVE + *form as u32),
            uring: *uring.as_ref().unwrap_or(&Uring::OFF),
            kills: syscalls::KILLS,
            // Keeping a run needs an exchange that is one operation.
            run: if plain { 0 } else { RUN },
        };
        Ok(Plan { config, hooks, events, is_preempted, plain, cast, mechanisms, uring: uring.map(|_| ()) })
    }

    /// The perf event that stands in for a hook's tracepoint, if one does.
    pub fn event(&self, hook: Hook) -> Option<Event> {
        hook.event().filter(|_| self.events.contains(&hook))
    }

    /// The program for a hook.
    pub fn program(&self, hook: Hook) -> &'static str {
        self.event(hook).map_or(hook.program(), |event| event.program)
    }

    /// Whether something is lost if the kernel skips the program of a hook.
    pub fn is_lost_with(&self, hook: Hook) -> bool {
        if self.events.is_empty() {
            return !hook.only_narrows();
        }
        // On a perf event only what comes in an interrupt in the middle of another program is skipped, and but for the ends of
        // processes and calls, which do not, what comes in interrupts is of no use. Of arrivals those that are of use come in
        // interrupts, and those that are skipped in tasks.
        let of_tasks = self.events.contains(&hook)
            && !hook.is_on_calls()
            && !matches!(hook, Hook::ProcessExec | Hook::ProcessExit);
        !hook.only_narrows() && !of_tasks && hook != Hook::SkDataReady
    }

    /// Has every call told of by itself.
    pub fn every_call(&mut self) {
        self.config.run = 0;
    }

    /// The set of mechanisms that cannot be traced without this hook on this kernel.
    pub fn needed_by(&self, hook: Hook) -> u32 {
        let takes = hook == Hook::ConsumeSkb && self.config.udp_by_taking != 0;
        let takes = if takes { Mechanism::Udp.bit() } else { 0 };
        let needed = hook.needed_by() | takes;
        if hook.is_on_object() {
            needed & self.config.objects
        } else {
            needed & !(self.config.objects & !(hook.at_objects_too() | takes))
        }
    }

    /// Whether a mechanism is traced at its objects.
    pub fn is_at_object(&self, mechanism: Mechanism) -> bool {
        self.config.objects & mechanism.bit() != 0
    }

    /// Why a mechanism whose objects can have hooks is traced at system calls, unless that is said of the kernel as a whole.
    pub fn why_calls(&self, facts: &Facts, mechanism: Mechanism) -> Option<String> {
        let has_none = Hook::objects() & mechanism.bit() == 0 || facts.objects.refused.is_some();
        if self.is_at_object(mechanism) || has_none {
            return None;
        }
        if let Err(reason) = objects::decide(&facts.objects, &facts.offsets, mechanism) {
            return Some(reason);
        }
        if skips_functions(facts) {
            return Some("programs on functions can be preempted here".to_owned());
        }
        Hook::calls_alone(mechanism).map(|calls| format!("{calls}: at system calls alone"))
    }

    /// Whether one mechanism can be traced.
    fn decide(facts: &Facts, mechanism: Mechanism, wanted: &[Mechanism]) -> Result<(), String> {
        let of_calls = |hook: &&Hook| !hook.is_on_object() && hook.needed_by() & mechanism.bit() != 0;
        let mut needed = Hook::ALL.iter().filter(of_calls).peekable();
        if needed.peek().is_none() {
            return Err("not traced by this version".to_owned());
        }
        for hook in needed {
            if *hook == Hook::SkDataReady && takes_tell(facts) {
                continue;
            }
            if !facts.tracepoints.contains(hook) {
                return Err(format!("this kernel has no tracepoint {}", hook.target()));
            }
        }
        let missing = |path: &str| !facts.offsets.contains_key(path) && used_by(path) & mechanism.bit() != 0;
        if let Some((path, _)) = Offsets::PATHS.iter().find(|(path, _)| missing(path)) {
            return Err(format!("this kernel has no {path}"));
        }
        if (mechanism.shape() == Shape::Shared || mechanism == Mechanism::Futex) && !facts.has_find_vma {
            return Err("this kernel has no helper bpf_find_vma (Linux 5.17)".to_owned());
        }
        if facts.registers.is_none() || facts.pipe_buffer_size.is_none() {
            return Err("the kernel's type information is incomplete".to_owned());
        }
        if !wanted.contains(&mechanism) {
            return Err("not chosen".to_owned());
        }
        Ok(())
    }
}

/// Those of the mechanisms in `on` that are traced at their objects.
fn at_objects(facts: &Facts, on: u32, choice: Choice) -> Result<u32, Refusal> {
    let asked_for = match choice {
        Choice::Syscall => return Ok(0),
        Choice::Auto => 0,
        Choice::Object(must) => must,
        Choice::Objects => Hook::objects(),
    };
    let mut set = 0;
    let mut reasons: Vec<String> = Vec::new();
    let mut without: Vec<&str> = Vec::new();
    for mechanism in Mechanism::ALL.iter().filter(|mechanism| on & mechanism.bit() != 0) {
        let as_safe = !skips_functions(facts) && Hook::objects_alone() & mechanism.bit() != 0;
        if !as_safe && asked_for & mechanism.bit() == 0 {
            continue;
        }
        match objects::decide(&facts.objects, &facts.offsets, *mechanism) {
            Ok(()) => set |= mechanism.bit(),
            Err(_) if asked_for & mechanism.bit() == 0 => {}
            Err(_) if Hook::objects() & mechanism.bit() == 0 => without.push(mechanism.name()),
            Err(reason) => reasons.push(reason),
        }
    }
    if !without.is_empty() {
        reasons.insert(0, format!("no object hooks for {} yet", without.join(", ")));
    }
    reasons.dedup();
    let some_will_do = choice == Choice::Objects && set != 0;
    if reasons.is_empty() || some_will_do { Ok(set) } else { Err(Refusal::NoObjectHooks(reasons.join("; "))) }
}

/// Whether programs on functions can be preempted: the kernel skips them meanwhile for all others on that processor, and calls are lost.
fn skips_functions(facts: &Facts) -> bool {
    facts.preemptible != Some(false)
}

/// Whether it is known of datagrams only what is taken: the kernel does not tell of arrivals, but frees their buffers in the call
/// that receives (before Linux 6.3).
fn takes_tell(facts: &Facts) -> bool {
    !facts.tracepoints.contains(&Hook::SkDataReady) && facts.tracepoints.contains(&Hook::ConsumeSkb)
}

/// Size of a page of memory on this machine.
fn page_size() -> u64 {
    // SAFETY: a call that takes a number and looks at nothing of ours.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as u64 }
}

#[cfg(test)]
mod tests {
    use ipctrace_common::config::Registers;

    use super::*;

    /// A kernel that has everything.
    fn facts() -> Facts {
        Facts {
            release: "6.18.0".to_owned(),
            offsets: Offsets::PATHS
                .iter()
                .enumerate()
                .map(|(index, (path, _))| (*path, index as u32))
                .collect(),
            pipe_buffer_size: Some(40),
            has_loop: true,
            has_find_vma: true,
            cast: Some(1),
            registers: Some(Registers::default()),
            uring: uring::Facts::default(),
            tracepoints: Hook::ALL.iter().copied().filter(|hook| !hook.is_on_object()).collect(),
            events: Hook::ALL.iter().copied().filter(|hook| hook.event().is_some()).collect(),
            events_refused: false,
            preemptible: Some(false),
            objects: objects::Facts { refused: Some("not here".to_owned()), ..objects::Facts::default() },
            no_btf: None,
            lockdown: None,
            capabilities: CAP_BPF | CAP_PERFMON,
            no_proc: false,
            root: false,
            own_users: false,
            own_pids: false,
        }
    }

    fn plan(facts: &Facts) -> Result<Plan, Refusal> {
        Plan::new(facts, Mechanism::ALL, 1, 0)
    }

    fn state(plan: &Plan, mechanism: Mechanism) -> Result<(), String> {
        plan.mechanisms.iter().find(|(found, _)| *found == mechanism).expect("all are listed").1.clone()
    }

    #[test]
    fn what_is_missing_altogether_is_refused_with_the_remedy() {
        let refused = |change: fn(&mut Facts)| {
            let mut facts = facts();
            change(&mut facts);
            plan(&facts).expect_err("refused").to_string()
        };
        assert!(refused(|facts| facts.capabilities = CAP_BPF).contains("sudo"));
        let root = |facts: &mut Facts| (facts.root, facts.capabilities) = (true, 0);
        assert!(refused(root).contains("on the host, or give them to the container"));
        assert!(refused(|facts| facts.no_proc = true).contains("mount -t proc"));
        assert!(refused(|facts| facts.own_users = true).contains("on the host"));
        assert!(refused(|facts| facts.own_pids = true).contains("--pid=host"));
        assert!(refused(|facts| facts.no_btf = Some("gone".to_owned())).contains("CONFIG_DEBUG_INFO_BTF"));
        assert!(
            refused(|facts| facts.lockdown = Some("confidentiality".to_owned()))
                .contains("lockdown=integrity")
        );
        assert!(refused(|facts| facts.tracepoints.clear()).contains("doctor"));
    }

    #[test]
    fn root_needs_no_single_capabilities_and_integrity_lockdown_does_not_matter() {
        let facts = Facts { capabilities: CAP_SYS_ADMIN, lockdown: Some("integrity".to_owned()), ..facts() };
        assert!(plan(&facts).is_ok());
    }

    #[test]
    fn a_missing_hook_costs_its_mechanisms_alone() {
        let mut facts = facts();
        facts.tracepoints.retain(|hook| *hook != Hook::ConsumeSkb);
        let plan = plan(&facts).expect("the rest can be traced");
        assert!(state(&plan, Mechanism::UnixDgram).is_err_and(|why| why.contains("consume_skb")));
        assert_eq!(state(&plan, Mechanism::Pipe), Ok(()));
        assert!(!plan.hooks.contains(&Hook::ConsumeSkb));
        facts.tracepoints.retain(|hook| *hook != Hook::ContentionEnd);
        assert_eq!(state(&self::plan(&facts).expect("it only orders"), Mechanism::Pipe), Ok(()));
    }

    #[test]
    fn datagrams_are_told_of_by_what_is_taken_where_arrivals_are_not() {
        let mut facts = facts();
        facts.tracepoints.retain(|hook| *hook != Hook::SkDataReady);
        let only = Plan::new(&facts, &[Mechanism::Udp], 1, 0).expect("UDP alone");
        assert_eq!((state(&only, Mechanism::Udp), only.config.udp_by_taking), (Ok(()), 1));
        assert!(only.hooks.contains(&Hook::ConsumeSkb));
        facts.tracepoints.retain(|hook| *hook != Hook::ConsumeSkb);
        assert!(
            state(&plan(&facts).expect("the rest"), Mechanism::Udp)
                .is_err_and(|why| why.contains("sk_data_ready"))
        );
    }

    #[test]
    fn a_missing_offset_costs_the_mechanisms_that_read_it() {
        let mut facts = facts();
        facts.offsets.remove("eventfd_ctx.id");
        let plan = plan(&facts).expect("the rest can be traced");
        assert!(state(&plan, Mechanism::Eventfd).is_err_and(|why| why.contains("eventfd_ctx.id")));
        assert_eq!(state(&plan, Mechanism::Pipe), Ok(()));
    }

    #[test]
    fn what_one_mechanism_alone_needs_costs_it_alone() {
        let mut facts = facts();
        facts.has_find_vma = false;
        facts.offsets.remove("kern_ipc_perm.key");
        let plan = plan(&facts).expect("the rest can be traced");
        assert!(state(&plan, Mechanism::Futex).is_err_and(|why| why.contains("bpf_find_vma")));
        assert!(state(&plan, Mechanism::SysvSem).is_err_and(|why| why.contains("kern_ipc_perm.key")));
        assert_eq!(state(&plan, Mechanism::Pipe), Ok(()));
        facts.offsets.remove("file.f_inode");
        assert!(self::plan(&facts).is_err(), "nothing goes without it");
    }

    #[test]
    fn what_is_not_chosen_is_off_and_so_are_its_hooks() {
        let plan = Plan::new(&facts(), &[Mechanism::Signal], 1, 0).expect("signals alone");
        assert_eq!(state(&plan, Mechanism::Pipe), Err("not chosen".to_owned()));
        assert!(!plan.hooks.contains(&Hook::ConsumeSkb) && plan.hooks.contains(&Hook::SignalGenerate));
        assert_eq!(plan.config.mechanisms, Mechanism::Signal.bit());
    }

    /// A kernel that lets programs be attached to all functions.
    fn open() -> Facts {
        let hooks = Hook::ALL.iter().filter(|hook| hook.is_on_object()).map(|hook| (*hook, Ok(0)));
        Facts { objects: objects::Facts { hooks: hooks.collect(), ..objects::Facts::default() }, ..facts() }
    }

    #[test]
    fn auto_takes_the_hooks_on_objects_where_all_can_be_attached() {
        let plan = plan(&open()).expect("everything is there");
        assert_eq!(plan.config.objects, Hook::objects_alone());
        assert!(plan.is_at_object(Mechanism::PosixMq) && !plan.is_at_object(Mechanism::Tcp));
        assert!(plan.hooks.contains(&Hook::LoadMsg) && plan.hooks.contains(&Hook::SysEnter));
        assert_eq!(plan.needed_by(Hook::SysEnter) & Mechanism::PosixMq.bit(), 0);
        let refused = self::plan(&facts()).expect("everything else is there");
        assert_eq!(refused.config.objects, 0);
        assert!(!refused.hooks.iter().any(|hook| hook.is_on_object()));
        let mut partly = open();
        partly.objects.failed(Hook::Freeque, "inlined".to_owned());
        let partly = self::plan(&partly).expect("everything else is there");
        assert!(partly.is_at_object(Mechanism::PosixMq) && !partly.is_at_object(Mechanism::SysvMsg));
        assert!(partly.hooks.contains(&Hook::LoadMsg) && !partly.hooks.contains(&Hook::MsgsndExit));
    }

    #[test]
    fn calls_are_not_hooked_for_what_is_traced_at_its_objects() {
        let only =
            |choice| Plan::chosen(&open(), &[Mechanism::PosixMq], 1, 0, choice).expect("possible").hooks;
        let hooks = only(Choice::Object(u32::MAX));
        assert!(hooks.contains(&Hook::MqSendEntry) && !hooks.contains(&Hook::MsgsndEntry));
        // Not at their begin; at their end for those whose program the kernel skipped.
        assert!(hooks.contains(&Hook::SysExit), "{hooks:?}");
        assert!(!hooks.iter().any(|hook| *hook == Hook::SysEnter || uring::is_for_rings(*hook)), "{hooks:?}");
        let hooks = only(Choice::Syscall);
        assert!(hooks.contains(&Hook::SysEnter) && !hooks.iter().any(|hook| hook.is_on_object()));
    }

    #[test]
    fn what_moves_without_the_functions_of_a_pipe_stays_with_system_calls() {
        let only =
            Plan::chosen(&open(), &[Mechanism::Pipe], 1, 0, Choice::Object(u32::MAX)).expect("possible");
        for hook in [Hook::PipeReadEntry, Hook::SysEnter, Hook::SysExit, Hook::ContentionEnd] {
            assert!(only.hooks.contains(&hook), "{hook:?}");
        }
        assert_ne!(only.needed_by(Hook::SysEnter) & Mechanism::Pipe.bit(), 0);
        assert!(!only.hooks.contains(&Hook::SignalGenerate));
    }

    #[test]
    fn sockets_are_at_their_objects_if_asked_for() {
        let socket = Mechanism::UnixDgram;
        assert!(!plan(&open()).expect("everything is there").is_at_object(socket));
        let only = Plan::chosen(&open(), &[socket], 1, 0, Choice::Object(socket.bit())).expect("possible");
        // Which message was taken, and calls from before.
        for hook in [Hook::UnixDgramReceiveExit, Hook::ConsumeSkb, Hook::SysExit] {
            assert!(only.hooks.contains(&hook), "{hook:?}");
            assert_ne!(only.needed_by(hook) & socket.bit(), 0, "{hook:?}");
        }
        for hook in [Hook::UnixStreamSendEntry, Hook::SockReceive, Hook::ContentionEnd] {
            assert!(!only.hooks.contains(&hook), "{hook:?}");
        }
        let mut none = open();
        none.offsets.remove("msghdr.msg_control");
        let refused = Plan::chosen(&none, &[socket], 1, 0, Choice::Object(socket.bit()));
        assert!(refused.is_err_and(|why| why.to_string().contains("no msghdr.msg_control")));
    }

    #[test]
    fn where_all_that_can_be_read_is_told_of_at_its_functions_calls_end_at_once() {
        use ipctrace_common::syscall::{Class, Special};

        let entry = |wanted: &[Mechanism], choice, number: libc::c_long| {
            let plan = Plan::chosen(&open(), wanted, 1, 0, choice).expect("possible");
            let tables = syscalls::tables(plan.config.mechanisms, plan.config.objects);
            (tables.begins[number as usize], tables.ends[number as usize])
        };
        let both = |class: u8| (class, class);
        let (every, objects) = (Mechanism::ALL, Choice::Objects);
        assert_eq!(entry(every, objects, libc::SYS_read), (0, Class::Read as u8));
        assert_eq!(entry(every, objects, libc::SYS_sendmmsg), (0, Class::Sendmmsg as u8));
        // What goes from file to file, what was not chosen, and what one of many is traced at calls for.
        assert_eq!(entry(every, objects, libc::SYS_sendfile), both(Class::Sendfile as u8));
        assert_eq!(entry(every, objects, libc::SYS_munmap), both(Special::Munmap as u8));
        assert_eq!(entry(&[Mechanism::Pipe], objects, libc::SYS_sendto), (0, 0));
        assert_eq!(entry(every, Choice::Auto, libc::SYS_read), both(Class::Read as u8));
        assert_eq!(entry(every, Choice::Auto, libc::SYS_msgsnd), (0, Special::Msgsnd as u8));
        assert_eq!(entry(every, Choice::Syscall, libc::SYS_msgsnd), both(Special::Msgsnd as u8));
    }

    #[test]
    fn why_a_mechanism_is_not_at_its_objects_is_told_one_by_one() {
        let why =
            |facts: &Facts, mechanism| plan(facts).expect("everything is there").why_calls(facts, mechanism);
        let said = |facts: &Facts, mechanism| why(facts, mechanism).unwrap_or_default();
        assert!(said(&open(), Mechanism::Pipe).starts_with("splice(2)"));
        assert_eq!(why(&open(), Mechanism::PosixMq), None, "it is");
        assert_eq!(why(&open(), Mechanism::Signal), None, "there is nothing to attach to");
        assert_eq!(why(&facts(), Mechanism::Pipe), None, "all are refused");
        let mut partly = open();
        partly.objects.failed(Hook::Freeque, "inlined".to_owned());
        assert_eq!(said(&partly, Mechanism::SysvMsg), "inlined");
        let mut preempted = open();
        preempted.preemptible = Some(true);
        assert!(said(&preempted, Mechanism::PosixMq).contains("preempted"));
    }

    #[test]
    fn what_is_done_on_futexes_without_their_function_stays_with_system_calls() {
        let futex = Mechanism::Futex;
        assert!(!plan(&open()).expect("everything is there").is_at_object(futex));
        let only = Plan::chosen(&open(), &[futex], 1, 0, Choice::Object(futex.bit())).expect("possible");
        for hook in [Hook::FutexEntry, Hook::FutexExit, Hook::SchedWaking, Hook::SysEnter, Hook::SysExit] {
            assert!(only.hooks.contains(&hook), "{hook:?}");
            assert_ne!(only.needed_by(hook) & futex.bit(), 0, "{hook:?}");
        }
    }

    #[test]
    fn what_else_is_done_with_segments_stays_with_system_calls() {
        let shm = Mechanism::SysvShm;
        let only = Plan::chosen(&open(), &[shm], 1, 0, Choice::Object(shm.bit())).expect("possible");
        for hook in [Hook::ShmMade, Hook::ShmatExit, Hook::ShmdtEntry, Hook::ShmctlEntry, Hook::ShmctlExit] {
            assert!(only.hooks.contains(&hook), "{hook:?}");
        }
        // Unmapping and first touches.
        for hook in [Hook::SysEnter, Hook::SysExit, Hook::PageFaultUser, Hook::PageFaultKernel] {
            assert!(only.hooks.contains(&hook), "{hook:?}");
        }
    }

    #[test]
    fn terminals_are_at_their_objects_if_asked_for() {
        let pty = Mechanism::Pty;
        assert!(!plan(&open()).expect("everything is there").is_at_object(pty));
        let only = Plan::chosen(&open(), &[pty], 1, 0, Choice::Object(pty.bit())).expect("possible");
        // Shells that have been waiting for what is typed.
        for hook in [Hook::PtyMade, Hook::PtyReadEntry, Hook::PtyWriteExit, Hook::SysEnter, Hook::SysExit] {
            assert!(only.hooks.contains(&hook), "{hook:?}");
        }
        let mut none = open();
        none.offsets.remove("kiocb.ki_filp");
        let refused = Plan::chosen(&none, &[pty], 1, 0, Choice::Object(pty.bit()));
        assert!(refused.is_err_and(|why| why.to_string().contains("no kiocb.ki_filp")));
    }

    #[test]
    fn one_of_two_functions_is_enough() {
        let mut facts = open();
        let gone = |facts: &mut Facts, name: &str| {
            facts.objects.hooks.retain(|hook, _| hook.target() != name);
        };
        let plan = |facts: &Facts| {
            Plan::chosen(facts, &[Mechanism::Fifo], 1, 0, Choice::Object(Mechanism::Fifo.bit()))
        };
        gone(&mut facts, "pipe_read");
        let one = plan(&facts).expect("everything is there");
        assert!(one.is_at_object(Mechanism::Fifo) && !one.hooks.contains(&Hook::PipeReadExit));
        assert!(one.hooks.contains(&Hook::AnonPipeReadExit));
        gone(&mut facts, "anon_pipe_read");
        assert!(plan(&facts).is_err());
    }

    #[test]
    fn what_must_be_traced_at_its_objects_and_cannot_is_refused() {
        let refused = |facts: &Facts, wanted: &[Mechanism]| {
            Plan::chosen(facts, wanted, 1, 0, Choice::Object(u32::MAX)).expect_err("refused").to_string()
        };
        let why = refused(&open(), &[Mechanism::PosixMq, Mechanism::SysvSem, Mechanism::Memfd]);
        assert!(why.starts_with("no object hooks for memfd, sysv_sem yet: "), "{why}");
        let why = refused(&facts(), &[Mechanism::PosixMq, Mechanism::SysvMsg]);
        assert!(why.starts_with("this kernel refuses fentry: not here: "), "{why}");
        let some = Choice::Object(Mechanism::PosixMq.bit());
        assert!(Plan::chosen(&open(), Mechanism::ALL, 1, 0, some).is_ok());
        // Where none is named, those that can be are enough.
        let mut partly = open();
        partly.objects.failed(Hook::FutexExit, "too many arguments".to_owned());
        let all = |facts: &Facts| Plan::chosen(facts, Mechanism::ALL, 1, 0, Choice::Objects);
        let set = all(&partly).expect("the others can be").config.objects;
        assert_eq!(set, Hook::objects() & !Mechanism::Futex.bit());
        assert!(all(&facts()).is_err_and(|why| why.to_string().contains("refuses fentry")));
    }

    #[test]
    fn offsets_are_written_where_the_programs_read_them() {
        let plan = plan(&facts()).expect("everything is there");
        for (index, (path, place)) in Offsets::PATHS.iter().enumerate() {
            let mut offsets = plan.config.offsets;
            assert_eq!(*place(&mut offsets), index as u32, "{path}");
        }
    }
}
