//! Whether programs may read the kernel's memory by plain loads.

use std::os::fd::{FromRawFd, OwnedFd};

/// `BPF_PROG_LOAD`, `BPF_PROG_TYPE_RAW_TRACEPOINT`: include/uapi/linux/bpf.h.
const PROG_LOAD: libc::c_int = 5;
const RAW_TRACEPOINT: u32 = 17;

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

/// One instruction as the number that it is in memory.
const fn instruction(code: u8, destination: u8, source: u8, immediate: u32) -> u64 {
    code as u64 | (destination as u64) << 8 | (source as u64) << 12 | (immediate as u64) << 32
}

/// Whether the verifier takes a load through what `bpf_rdonly_cast(0, 0)` gives, as it does since Linux 6.17: by having it look
/// at a program that does so. Older ones want a type, or do not have the function (before Linux 6.2). No program is left.
pub(super) fn works(function: u32) -> bool {
    /// `r1 = 0`, `r2 = 0`, the call, `r0 = *(u64 *)r0`, `r0 = 0`, `exit`.
    const MOVE: u8 = 0xb7;
    let code = [
        instruction(MOVE, 1, 0, 0),
        instruction(MOVE, 2, 0, 0),
        instruction(0x85, 0, 2, function),
        instruction(0x79, 0, 0, 0),
        instruction(MOVE, 0, 0, 0),
        instruction(0x95, 0, 0, 0),
    ];
    let mut attributes = Load {
        kind: RAW_TRACEPOINT,
        instructions: code.len() as u32,
        code: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
    };
    // SAFETY: the attributes are the beginning of those of this command; the code and the license outlive the call.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw mut attributes, size_of::<Load>() as libc::c_uint)
    };
    let Some(fd) = libc::c_int::try_from(fd).ok().filter(|fd| *fd >= 0) else {
        return false;
    };
    // SAFETY: a new descriptor that nobody else has.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    true
}
