//! Threads that sit in a system call when tracing begins: the programs have seen no begin of it.

use std::fs;

use ipctrace_common::Mechanism;

use crate::kernel::syscalls;

/// Threads that sit in a system call.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Straddlers {
    /// Those in a call that may be moving data.
    pub moving: Vec<u32>,
    /// Those that wait to be woken, and at what.
    pub waiting: Vec<(u32, Mechanism)>,
}

/// Threads in a call that moves data or waits, by what `/proc/PID/task/TID/syscall` says (proc_pid_syscall(5)).
///
/// To be asked once the hooks are in place: a thread that enters a call later is seen by them. One that is running
/// when it is looked at is not found; its call, if it is in one, is not traced, and its bytes count as `before-start`.
pub fn find() -> Straddlers {
    let own = std::process::id().to_string();
    let mut found = Straddlers::default();
    for process in numeric_entries("/proc").filter(|name| *name != own) {
        for thread in numeric_entries(&format!("/proc/{process}/task")) {
            let call = fs::read_to_string(format!("/proc/{process}/task/{thread}/syscall"));
            let (Ok(line), Ok(thread)) = (call, thread.parse()) else { continue };
            if is_blocked_in_transfer(&line) {
                found.moving.push(thread);
            } else if let Some(mechanism) = waits_at(&line) {
                found.waiting.push((thread, mechanism));
            }
        }
    }
    found
}

/// Names of a directory of /proc that are numbers; none if it is gone.
fn numeric_entries(path: &str) -> impl Iterator<Item = String> {
    fs::read_dir(path)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The line is `running`, or `-1 sp pc` outside of system calls, or the number of the call and its arguments.
fn is_blocked_in_transfer(line: &str) -> bool {
    line.split_whitespace()
        .next()
        .and_then(|number| number.parse::<i64>().ok())
        .is_some_and(|number| number >= 0 && syscalls::moves_data(number))
}

/// What the thread of that line waits at, if it waits to be woken.
fn waits_at(line: &str) -> Option<Mechanism> {
    let mut words = line.split_whitespace();
    let number = words.next()?.parse().ok()?;
    let mut arguments = [0; 6];
    for argument in &mut arguments {
        *argument = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
    }
    syscalls::waits_at(number, arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_that_move_data_count() {
        let read = format!("{} 0x0 0x7f 0x1000 0x0 0x0 0x0 0x7ffd 0x7f\n", libc::SYS_read);
        let sleep = format!("{} 0x0 0x7f 0x0 0x0 0x0 0x0 0x7ffd 0x7f\n", libc::SYS_nanosleep);
        assert!(is_blocked_in_transfer(&read));
        assert!(!is_blocked_in_transfer(&sleep));
        assert!(!is_blocked_in_transfer("running\n"));
        assert!(!is_blocked_in_transfer("-1 0x7ffd 0x7f\n"));
        assert!(!is_blocked_in_transfer(""));
    }

    #[test]
    fn waits_at_what_processes_share_are_told_from_others() {
        let line =
            |number, operation| format!("{number} 0x7f00 {operation:#x} 0x0 0x0 0x0 0x0 0x7ffd 0x7f\n");
        let wait = libc::FUTEX_WAIT_BITSET | libc::FUTEX_CLOCK_REALTIME;
        assert_eq!(waits_at(&line(libc::SYS_futex, wait)), Some(Mechanism::Futex));
        assert_eq!(waits_at(&line(libc::SYS_futex, wait | libc::FUTEX_PRIVATE_FLAG)), None);
        assert_eq!(waits_at(&line(libc::SYS_futex, libc::FUTEX_WAKE)), None);
        assert_eq!(waits_at(&line(libc::SYS_semtimedop, 0)), Some(Mechanism::SysvSem));
        assert_eq!(waits_at(&line(libc::SYS_read, 0)), None);
        assert_eq!(waits_at("-1 0x7ffd 0x7f\n"), None);
        assert_eq!(waits_at("running\n"), None);
    }

    #[test]
    fn a_thread_blocked_in_read_is_found() {
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            tell.send(nix::unistd::gettid().as_raw() as u32).expect("the test waits for it");
            nix::unistd::read(reader, &mut [0]).expect("a byte")
        });
        let thread_id = told.recv().expect("the thread's id");
        let own = std::process::id();
        let path = format!("/proc/{own}/task/{thread_id}/syscall");
        let blocked = (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            fs::read_to_string(&path).is_ok_and(|line| is_blocked_in_transfer(&line))
        });
        nix::unistd::write(&writer, &[1]).expect("room in the pipe");
        assert_eq!(thread.join().expect("no panic"), 1);
        assert!(blocked);
    }
}
