//! System call numbers, registers and memory: all that differs between architectures.

use ipctrace_common::syscall::{Class, Form, Special, TABLE};
use ipctrace_common::{Mechanism, Shape};
use libc::c_long;

/// Where the six arguments are: a member of the kernel's register structure, and bytes beyond its begin.
#[cfg(target_arch = "x86_64")]
pub(super) const ARGUMENTS: [(&str, u32); 6] = [
    ("pt_regs.di", 0),
    ("pt_regs.si", 0),
    ("pt_regs.dx", 0),
    ("pt_regs.r10", 0),
    ("pt_regs.r8", 0),
    ("pt_regs.r9", 0),
];
/// Where the number of the call is, at its begin and at its end.
#[cfg(target_arch = "x86_64")]
pub(super) const NUMBER: &str = "pt_regs.orig_ax";
/// `TS_COMPAT`, arch/x86/include/asm/thread_info.h.
#[cfg(target_arch = "x86_64")]
pub(super) const COMPAT: u32 = 2;
/// A store is not seen before one that was made earlier.
#[cfg(target_arch = "x86_64")]
pub(crate) const STORES_IN_ORDER: u32 = 1;

/// Where the six arguments are: a member of the kernel's register structure, and bytes beyond its begin.
#[cfg(target_arch = "aarch64")]
pub(super) const ARGUMENTS: [(&str, u32); 6] = [
    ("pt_regs.orig_x0", 0),
    ("pt_regs.regs", 8),
    ("pt_regs.regs", 16),
    ("pt_regs.regs", 24),
    ("pt_regs.regs", 32),
    ("pt_regs.regs", 40),
];
/// Where the number of the call is, at its begin and at its end.
#[cfg(target_arch = "aarch64")]
pub(super) const NUMBER: &str = "pt_regs.syscallno";
/// 32-bit tasks are told apart by their personality there; their calls are not seen.
#[cfg(target_arch = "aarch64")]
pub(super) const COMPAT: u32 = 0;
/// A store may be seen before one that was made earlier.
#[cfg(target_arch = "aarch64")]
pub(crate) const STORES_IN_ORDER: u32 = 0;

/// The calls by which signals are sent that may be told to the kernel by nothing but their number.
pub(super) const KILLS: [u32; 2] = [libc::SYS_kill as u32, libc::SYS_pidfd_send_signal as u32];

/// The calls that move data, what they do, and which mechanisms have a use for them.
const CALLS: &[(c_long, Class, u32)] = &[
    (libc::SYS_read, Class::Read, FILES),
    (libc::SYS_write, Class::Write, FILES),
    (libc::SYS_readv, Class::Readv, FILES),
    (libc::SYS_writev, Class::Writev, FILES),
    (libc::SYS_preadv2, Class::Readv, FILES),
    (libc::SYS_pwritev2, Class::Writev, FILES),
    (libc::SYS_sendto, Class::Sendto, SOCKETS),
    (libc::SYS_sendmsg, Class::Sendmsg, SOCKETS),
    (libc::SYS_sendmmsg, Class::Sendmmsg, SOCKETS),
    (libc::SYS_recvfrom, Class::Recvfrom, SOCKETS),
    (libc::SYS_recvmsg, Class::Recvmsg, SOCKETS),
    (libc::SYS_recvmmsg, Class::Recvmmsg, SOCKETS),
    (libc::SYS_splice, Class::Splice, BYTES),
    (libc::SYS_tee, Class::Tee, PIPES),
    (libc::SYS_vmsplice, Class::Vmsplice, PIPES),
    (libc::SYS_sendfile, Class::Sendfile, BYTES),
    (libc::SYS_rt_sigtimedwait, Class::Sigwait, Mechanism::Signal.bit()),
];

/// The calls that are dealt with by one mechanism's own module, and which mechanisms have a use for them.
const SPECIALS: &[(c_long, Special, u32)] = &[
    (libc::SYS_shmget, Special::Shmget, Mechanism::SysvShm.bit()),
    (libc::SYS_shmat, Special::Shmat, Mechanism::SysvShm.bit()),
    (libc::SYS_shmdt, Special::Shmdt, Mechanism::SysvShm.bit()),
    (libc::SYS_shmctl, Special::Shmctl, Mechanism::SysvShm.bit()),
    (libc::SYS_mmap, Special::Mmap, SHARED),
    (libc::SYS_munmap, Special::Munmap, SHARED),
    (libc::SYS_mremap, Special::Mremap, SHARED),
    (libc::SYS_mprotect, Special::Mprotect, SHARED),
    (libc::SYS_pkey_mprotect, Special::Mprotect, SHARED),
    (libc::SYS_memfd_create, Special::MemfdCreate, Mechanism::Memfd.bit()),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, Special::Unlink, Mechanism::PosixShm.bit()),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, Special::Open, Mechanism::PosixShm.bit() | PTY),
    (libc::SYS_openat, Special::Openat, Mechanism::PosixShm.bit() | PTY),
    (libc::SYS_unlinkat, Special::Unlinkat, Mechanism::PosixShm.bit()),
    (libc::SYS_eventfd2, Special::Eventfd, EVENTFD),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_eventfd, Special::Eventfd, EVENTFD),
    // The opening of /dev/ptmx makes a terminal.
    (libc::SYS_openat2, Special::Openat2, PTY),
    (libc::SYS_process_vm_readv, Special::ProcessVmReadv, PROCESS_VM),
    (libc::SYS_process_vm_writev, Special::ProcessVmWritev, PROCESS_VM),
    // A hand-over is shown whatever the object.
    (libc::SYS_pidfd_getfd, Special::PidfdGetfd, u32::MAX),
    (libc::SYS_mq_timedsend, Special::MqSend, Mechanism::PosixMq.bit()),
    (libc::SYS_mq_timedreceive, Special::MqReceive, Mechanism::PosixMq.bit()),
    (libc::SYS_msgsnd, Special::Msgsnd, Mechanism::SysvMsg.bit()),
    (libc::SYS_msgrcv, Special::Msgrcv, Mechanism::SysvMsg.bit()),
    (libc::SYS_msgctl, Special::Msgctl, Mechanism::SysvMsg.bit()),
    (libc::SYS_semop, Special::Semop, Mechanism::SysvSem.bit()),
    (libc::SYS_semtimedop, Special::Semop, Mechanism::SysvSem.bit()),
    (libc::SYS_semctl, Special::Semctl, Mechanism::SysvSem.bit()),
    (libc::SYS_futex, Special::Futex, Mechanism::Futex.bit()),
    (libc::SYS_futex_waitv, Special::FutexWaitv, Mechanism::Futex.bit()),
    (SYS_FUTEX_WAKE, Special::FutexWake, Mechanism::Futex.bit()),
    (SYS_FUTEX_WAIT, Special::FutexWait, Mechanism::Futex.bit()),
    (SYS_FUTEX_REQUEUE, Special::FutexRequeue, Mechanism::Futex.bit()),
];

const SHARED: u32 = Mechanism::of_shape(Shape::Shared);
const EVENTFD: u32 = Mechanism::Eventfd.bit();
const PROCESS_VM: u32 = Mechanism::ProcessVm.bit();
const PTY: u32 = Mechanism::Pty.bit();

/// Calls of Linux 6.7, of the same number everywhere, that the C library's headers do not all have yet.
const SYS_FUTEX_WAKE: c_long = 454;
const SYS_FUTEX_WAIT: c_long = 455;
const SYS_FUTEX_REQUEUE: c_long = 456;

const PIPES: u32 = Mechanism::PIPES;
const SOCKETS: u32 = Mechanism::SOCKETS;
const BYTES: u32 = PIPES | SOCKETS;
const FILES: u32 = BYTES | EVENTFD | PTY;

/// The programs' tables for these mechanisms, of which those in `objects` are traced at their objects (sets of [`Mechanism::bit`]): what none
/// of them has a use for is no IPC.
pub fn tables(mechanisms: u32, objects: u32) -> Tables {
    let mut tables = Tables { begins: [0; TABLE], ends: [0; TABLE] };
    let classes = CALLS.iter().map(|(number, class, used_by)| {
        // What moves from file to file does not come to the functions.
        (*number, *class as u8, *used_by, Form::of(*class as u8).moves())
    });
    let specials = SPECIALS.iter().map(|(number, special, used_by)| {
        // Nor does what else is done with memory and the like.
        let begins = used_by & !Mechanism::of_shape(Shape::Queue) != 0;
        (*number, *special as u8, *used_by, begins)
    });
    for (number, class, used_by, begins) in classes.chain(specials) {
        let Ok(number) = usize::try_from(number) else { continue };
        if number >= TABLE || used_by & mechanisms == 0 {
            continue;
        }
        tables.ends[number] = class;
        // Where all that it may be on is told of at its functions there is nothing to do.
        if begins || used_by & mechanisms & !objects != 0 {
            tables.begins[number] = class;
        }
    }
    tables
}

/// What system calls are, by number.
#[derive(Clone, Debug)]
pub struct Tables {
    /// At their begin.
    pub begins: [u8; TABLE],
    /// At their end, where it is seen whether somebody has told of them.
    pub ends: [u8; TABLE],
}

/// What a thread in system call `number` with these arguments waits at, if it waits for another task to wake it.
pub fn waits_at(number: i64, arguments: [u64; 6]) -> Option<Mechanism> {
    /// All of a futex operation that is not the operation.
    const FLAGS: i32 = libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME;
    let operation = arguments[1] as i32;
    match number {
        libc::SYS_semop | libc::SYS_semtimedop => Some(Mechanism::SysvSem),
        libc::SYS_futex if operation & libc::FUTEX_PRIVATE_FLAG == 0 => {
            let waits = matches!(
                operation & !FLAGS,
                libc::FUTEX_WAIT
                    | libc::FUTEX_WAIT_BITSET
                    | libc::FUTEX_LOCK_PI
                    | libc::FUTEX_WAIT_REQUEUE_PI
                    | libc::FUTEX_LOCK_PI2
            );
            waits.then_some(Mechanism::Futex)
        }
        libc::SYS_futex_waitv | SYS_FUTEX_WAIT => Some(Mechanism::Futex),
        _ => None,
    }
}

/// Whether a thread in system call `number` may be moving data.
pub fn moves_data(number: i64) -> bool {
    CALLS.iter().any(|(known, ..)| *known == number)
}
