//! Tracepoints as perf events: whether the records that they make are what the programs read, and whether tasks are preempted in
//! programs, for which such events are the remedy.

use std::fs;
use std::os::fd::{FromRawFd, OwnedFd};

use ipctrace_common::Hook;
use ipctrace_common::hook::Field;
use nix::errno::Errno;

/// Where tracefs is mounted, since Linux 4.1 and before.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Where the kernel tells how it is preempted, if that can be chosen: `CONFIG_PREEMPT_DYNAMIC`, kernel/sched/debug.c.
const PREEMPT: &str = "/sys/kernel/debug/sched/preempt";

/// The hooks whose tracepoints make the records that the programs expect.
pub(super) fn found() -> Vec<Hook> {
    Hook::ALL.iter().copied().filter(|hook| is_there(*hook)).collect()
}

fn is_there(hook: Hook) -> bool {
    let Some(event) = hook.event() else { return false };
    let format = TRACEFS.iter().find_map(|root| {
        fs::read_to_string(format!("{root}/events/{}/{}/format", event.category, hook.target())).ok()
    });
    format.is_some_and(|format| event.fields.iter().all(|field| has(&format, field)))
}

/// Whether perf events are kept from us. Distributions do so from everybody but root by a level of `kernel.perf_event_paranoid` that the
/// kernel proper does not have (3 on Debian, 4 on Ubuntu), whatever one may do by CAP_PERFMON.
pub(super) fn are_refused() -> bool {
    /// `PERF_TYPE_SOFTWARE`, `PERF_ATTR_SIZE_VER0` and `PERF_COUNT_SW_DUMMY`, include/uapi/linux/perf_event.h.
    static DUMMY: [u64; 8] = [1 | 64 << 32, 9, 0, 0, 0, 0, 0, 0];
    const ANYBODY: libc::pid_t = -1;
    const FIRST_CPU: libc::c_int = 0;
    const NO_GROUP: libc::c_int = -1;
    /// `PERF_FLAG_FD_CLOEXEC`, as there.
    const CLOSE_ON_EXEC: libc::c_ulong = 8;
    // SAFETY: the attributes are of the size that they tell, and live until the call returns.
    let event = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const DUMMY,
            ANYBODY,
            FIRST_CPU,
            NO_GROUP,
            CLOSE_ON_EXEC,
        )
    };
    match i32::try_from(event) {
        Ok(event @ 0..) => {
            // SAFETY: we have just been given it, and nobody else has it.
            drop(unsafe { OwnedFd::from_raw_fd(event) });
            false
        }
        _ => matches!(Errno::last(), Errno::EACCES | Errno::EPERM),
    }
}

/// Whether a record has that field there: `\tfield:unsigned long args[6];\toffset:16;\tsize:48;\tsigned:0;`, see
/// Documentation/trace/events.rst.
fn has(format: &str, field: &Field) -> bool {
    format.lines().any(|line| {
        let mut parts = line.split(';').map(str::trim);
        let name = parts.next().and_then(|part| part.strip_prefix("field:")?.rsplit([' ', '*']).next());
        let mut number = |key: &str| parts.next()?.strip_prefix(key)?.parse().ok();
        name == Some(field.name)
            && number("offset:") == Some(field.offset)
            && number("size:") == Some(field.size)
    })
}

/// Whether a task that runs in the kernel can be made to wait for another: `None` if that is not known.
pub(super) fn preemptible() -> Option<bool> {
    let version = nix::sys::utsname::uname().ok()?;
    let chosen = fs::read_to_string(PREEMPT).ok();
    decide(&version.version().to_string_lossy(), chosen.as_deref())
}

/// `version` is that of `uname -v`, `chosen` what [`PREEMPT`] has: `none voluntary (full) lazy`.
fn decide(version: &str, chosen: Option<&str>) -> Option<bool> {
    let words: Vec<&str> = version.split(' ').collect();
    if words.contains(&"PREEMPT_DYNAMIC") {
        return chosen.map(|text| !text.contains("(none)") && !text.contains("(voluntary)"));
    }
    Some(words.iter().any(|word| matches!(*word, "PREEMPT" | "PREEMPT_RT" | "PREEMPT_LAZY")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_where_they_are() {
        let format = "name: sys_exit\nID: 380\nformat:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\
            \tfield:long id;\toffset:8;\tsize:8;\tsigned:1;\n\tfield:const void *skbaddr;\toffset:16;\tsize:8;\tsigned:0;\n\n\
            print fmt: \"NR %ld\", REC->id\n";
        let at = |name, offset, size| has(format, &Field { name, offset, size });
        assert!(at("id", 8, 8) && at("skbaddr", 16, 8));
        assert!(!at("id", 16, 8) && !at("id", 8, 4) && !at("ret", 16, 8) && !at("long", 8, 8));
    }

    #[test]
    fn what_the_kernel_says_of_preemption_is_understood() {
        let dynamic = "#1 SMP PREEMPT_DYNAMIC Debian 6.18.15-1 (2026-03-12)";
        assert_eq!(decide(dynamic, Some("none voluntary full (lazy) \n")), Some(true));
        assert_eq!(decide(dynamic, Some("none (voluntary) full \n")), Some(false));
        assert_eq!(decide(dynamic, None), None);
        assert_eq!(decide("#1 SMP Debian 5.10.0-46 (2026-01-01)", None), Some(false));
        assert_eq!(decide("#1 SMP PREEMPT_RT Debian 6.12", None), Some(true));
        assert_eq!(decide("#7 SMP PREEMPT Thu", None), Some(true));
    }
}
