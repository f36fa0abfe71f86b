//! The eBPF programs, inside the binary.

/// The object that the build script made.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ipctrace-ebpf"));
