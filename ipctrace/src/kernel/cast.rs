//! Whether programs may read the kernel's memory by plain loads.

use super::probe;

/// `BPF_PROG_TYPE_RAW_TRACEPOINT`: include/uapi/linux/bpf.h.
const RAW_TRACEPOINT: u32 = 17;

/// One instruction as the number that it is in memory.
const fn instruction(code: u8, destination: u8, source: u8, immediate: u32) -> u64 {
    code as u64 | (destination as u64) << 8 | (source as u64) << 12 | (immediate as u64) << 32
}

/// Whether the verifier takes a load through what `bpf_rdonly_cast(0, 0)` gives, as it does since Linux 6.17: by having it look
/// at a program that does so. Older ones want a type, or do not have the function (before Linux 6.2).
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
    probe::takes(&code, RAW_TRACEPOINT, 0, 0).is_ok()
}
