//! The eBPF programs, inside the binary.

use anyhow::{Context, Result, ensure};
use ipctrace_common::config::CAST;
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection, SectionKind};

/// The object that the build script made.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ipctrace-ebpf"));

/// The same for kernels before Linux 5.17: see the feature `plain` of the crate `ipctrace-ebpf`.
pub static PLAIN: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ipctrace-ebpf-plain"));

/// The same for kernels that let programs read their memory by plain loads: see the feature `loads` there, and [`with_cast`].
pub static LOADS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ipctrace-ebpf-loads"));

/// The object with the call of a function of the kernel's in place of each of [`CAST`].
///
/// # Errors
/// If it is no object, or calls it nowhere.
pub fn with_cast(object: &[u8], function: u32) -> Result<Vec<u8>> {
    let file: ElfFile64<'_> = ElfFile64::parse(object).context("reading the eBPF object")?;
    let code = file.sections().filter(|section| section.kind() == SectionKind::Text);
    let ranges: Vec<_> = code.filter_map(|section| section.file_range()).collect();
    let mut patched = object.to_vec();
    // `call CAST`, and `call` with the source register that says that it is a function of the kernel's: BPF_PSEUDO_KFUNC_CALL.
    let [helper, kernel] = [(0_u8, CAST), (2, function)].map(|(source, number)| {
        let [a, b, c, d] = number.to_le_bytes();
        [0x85, source << 4, 0, 0, a, b, c, d]
    });
    let mut calls = 0;
    for (start, size) in ranges {
        let section =
            patched.get_mut(start as usize..(start + size) as usize).context("a section of the object")?;
        for instruction in section.chunks_exact_mut(8).filter(|instruction| *instruction == helper) {
            instruction.copy_from_slice(&kernel);
            calls += 1;
        }
    }
    ensure!(calls > 0, "the eBPF object reads nothing by loads");
    Ok(patched)
}

#[cfg(test)]
#[path = "object/stack.rs"]
mod stack;
