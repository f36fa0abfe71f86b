//! What the kernel takes of programs: asked with small ones, which are loaded and dropped.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use ipctrace_common::hook::Point;

/// `BPF_PROG_LOAD`, `BPF_RAW_TRACEPOINT_OPEN`, `BPF_PROG_TYPE_TRACING`, `BPF_TRACE_FENTRY`, `BPF_TRACE_FEXIT`:
/// include/uapi/linux/bpf.h.
const PROG_LOAD: libc::c_long = 5;
const RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const TYPE_TRACING: u32 = 26;
const TRACE_FENTRY: u32 = 24;
const TRACE_FEXIT: u32 = 25;

/// The part of `union bpf_attr` that loading takes.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach: u32,
    program_btf: u32,
    function_size: u32,
    functions: u64,
    function_count: u32,
    line_size: u32,
    lines: u64,
    line_count: u32,
    target: u32,
    target_program: u32,
    padding: u32,
}

const _: () = assert!(std::mem::offset_of!(Load, attach) == 68 && std::mem::offset_of!(Load, target) == 108);

/// What attaching one takes, of the same.
#[repr(C)]
struct Attach {
    name: u64,
    program: u32,
    padding: u32,
}

/// Arguments that are in registers on all architectures that there are programs for. More are given to programs since Linux 6.6.
const IN_REGISTERS: usize = 6;

/// `ENOTSUPP`, include/linux/errno.h.
pub(super) const NOT_SUPPORTED: i32 = 524;

/// Whether the kernel takes a program for the function with that id in its types, which has so many arguments.
///
/// # Errors
/// What the kernel says: EPERM if it lets nobody, ENOENT if the function is nowhere by itself, [`NOT_SUPPORTED`] if those are too many.
pub(super) fn attaches(function: u32, point: Point, arguments: usize) -> io::Result<()> {
    /// `r0 = 0; exit`.
    const NOTHING: [u64; 2] = [0xb7, 0x95];
    let attach = match point {
        Point::Tracepoint => return Ok(()),
        Point::Entry(_) => TRACE_FENTRY,
        Point::Exit(_) => TRACE_FEXIT,
    };
    let program = load(&NOTHING, TYPE_TRACING, attach, function)?;
    if arguments <= IN_REGISTERS {
        return Ok(());
    }
    // That they are too many is found out when the way to the program is made (arch_prepare_bpf_trampoline, arch/x86/net).
    let attributes = Attach { name: 0, program: program.as_raw_fd() as u32, padding: 0 };
    // SAFETY: the structure has the size that is said.
    let link = unsafe {
        libc::syscall(libc::SYS_bpf, RAW_TRACEPOINT_OPEN, &raw const attributes, size_of::<Attach>())
    };
    if link < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call gave this descriptor, which nobody else knows.
    let link = unsafe { OwnedFd::from_raw_fd(link as i32) };
    // To take it away takes the kernel a while.
    std::thread::spawn(move || drop(link));
    Ok(())
}

/// Whether the kernel takes a program of that type, for `target` in its types if it is one that is attached to something there.
/// No program is left.
///
/// # Errors
/// What the kernel says.
pub(super) fn takes(code: &[u64], kind: u32, attach: u32, target: u32) -> io::Result<()> {
    load(code, kind, attach, target).map(drop)
}

/// Loads such a program.
fn load(code: &[u64], kind: u32, attach: u32, target: u32) -> io::Result<OwnedFd> {
    let license = c"GPL";
    let mut attributes = Load {
        kind,
        count: code.len() as u32,
        instructions: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        attach,
        target,
        ..Load::default()
    };
    attributes.name[..5].copy_from_slice(b"probe");
    // SAFETY: the structure has the size that is said, its pointers are to what outlives the call, and unused parts of it are
    // zero.
    let program =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attributes, size_of::<Load>()) };
    if program < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call gave this descriptor, which nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(program as i32) })
}
