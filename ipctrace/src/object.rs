//! The eBPF programs, inside the binary.

/// The object that the build script made.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ipctrace-ebpf"));

/// The same for kernels before Linux 5.17: see the feature `plain` of the crate `ipctrace-ebpf`.
pub static PLAIN: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ipctrace-ebpf-plain"));

#[cfg(test)]
#[path = "object/stack.rs"]
mod stack;
