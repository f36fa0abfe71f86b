//! The eBPF programs, inside the binary.

use std::mem::offset_of;

use anyhow::{Context, Result, ensure};
use aya_obj::maps::bpf_map_def;
use ipctrace_common::config::CAST;
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection, ObjectSymbol, SectionKind};

/// The object that the build script made.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ipctrace-ebpf"));

/// The same for kernels before Linux 5.17: see the feature `plain` of the crate `ipctrace-ebpf`.
pub static PLAIN: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ipctrace-ebpf-plain"));

/// The same for kernels that let programs read their memory by plain loads: see the feature `loads` there, and [`adapted`].
pub static LOADS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ipctrace-ebpf-loads"));

/// The object with the call of a function of the kernel's in place of each of [`CAST`], and rings of that many bytes each.
///
/// # Errors
/// If it is no object, or has none of these.
pub fn adapted(object: &[u8], function: u32, ring: u64) -> Result<Vec<u8>> {
    let file: ElfFile64<'_> = ElfFile64::parse(object).context("reading the eBPF object")?;
    let code = file.sections().filter(|section| section.kind() == SectionKind::Text);
    let ranges: Vec<_> = code.filter_map(|section| section.file_range()).collect();
    let events = file.symbol_by_name("EVENTS").context("the eBPF object has no map EVENTS")?;
    let maps = file.section_by_index(events.section_index().context("EVENTS is in no section")?)?;
    let (start, _) = maps.file_range().context("the section of the maps is empty")?;
    let definition = usize::try_from(start + events.address() - maps.address())?;
    let mut patched = object.to_vec();
    let value_size = definition + offset_of!(bpf_map_def, value_size);
    patched
        .get_mut(value_size..value_size + size_of::<u32>())
        .context("the definition of EVENTS")?
        .copy_from_slice(&u32::try_from(ring)?.to_le_bytes());
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
