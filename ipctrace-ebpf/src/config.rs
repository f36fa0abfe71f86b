//! What user space has written into read-only data before load. The verifier knows these values as constants.

use ipctrace_common::Config;
use ipctrace_common::config::{Offsets, Registers};
use ipctrace_common::syscall::TABLE;
use ipctrace_common::uring::Places;

/// Written by the loader; see [`Config`].
#[unsafe(no_mangle)]
static CONFIG: Config = Config::ZERO;

/// From system call number to [`ipctrace_common::syscall::Class`] or `Special`, where there is something to do at the begin of a call; 0 is
/// no IPC.
#[unsafe(no_mangle)]
static BEGINS: [u8; TABLE] = [0; TABLE];

/// The same for the ends of calls.
#[unsafe(no_mangle)]
static ENDS: [u8; TABLE] = [0; TABLE];

/// One field of [`CONFIG`]. The volatile read keeps the compiler from using the zeros it sees.
macro_rules! setting {
    ($($name:ident: $type:ty = $place:expr;)*) => {$(
        #[inline(always)]
        pub(crate) fn $name() -> $type {
            // SAFETY: a read of an initialised static that nothing writes while the programs run.
            unsafe { core::ptr::read_volatile(&raw const $place) }
        }
    )*};
}

setting! {
    own_tgid: u32 = CONFIG.own_tgid;
    mechanisms: u32 = CONFIG.mechanisms;
    objects: u32 = CONFIG.objects;
    payload: u32 = CONFIG.payload;
    pipe_buffer_size: u32 = CONFIG.pipe_buffer_size;
    page_shift: u32 = CONFIG.page_shift;
    verbose: u32 = CONFIG.verbose;
    udp_by_taking: u32 = CONFIG.udp_by_taking;
    iter_ubuf: u32 = CONFIG.iter_ubuf;
    iter_iovec: u32 = CONFIG.iter_iovec;
    eventfd_signal_counts: u32 = CONFIG.eventfd_signal_counts;
    inet_receive: u32 = CONFIG.inet_receive;
    uring_on: u32 = CONFIG.uring.on;
    uring_complete: u32 = CONFIG.uring.complete;
    uring_by_socket: u32 = CONFIG.uring.by_socket;
    kills: [u32; 2] = CONFIG.kills;
    run: u32 = CONFIG.run;
}

/// Where the arguments of system calls are.
#[inline(always)]
pub(crate) fn registers() -> *const Registers {
    &raw const CONFIG.registers
}

/// The offset that stands at byte `place` of [`Offsets`], as the verifier's constant. Use through [`offset!`].
#[inline(always)]
pub(crate) fn offset_at(place: usize) -> usize {
    assert!(place <= size_of::<Offsets>() - size_of::<u32>());
    // SAFETY: within an initialised static that consists of u32; `place` is an offset_of, so aligned.
    unsafe {
        core::ptr::read_volatile((&raw const CONFIG.offsets).cast::<u8>().add(place).cast::<u32>()) as usize
    }
}

/// The offset of one member in this kernel.
macro_rules! offset {
    ($field:ident) => {
        $crate::config::offset_at(core::mem::offset_of!(ipctrace_common::config::Offsets, $field))
    };
}
pub(crate) use offset;

/// As [`offset_at`], for [`Places`]. Use through [`place!`].
#[inline(always)]
pub(crate) fn place_at(place: usize) -> usize {
    assert!(place <= size_of::<Places>() - size_of::<u32>());
    // SAFETY: as in `offset_at`.
    unsafe {
        core::ptr::read_volatile((&raw const CONFIG.uring.places).cast::<u8>().add(place).cast::<u32>())
            as usize
    }
}

/// The offset of one member that io_uring needs.
macro_rules! place {
    ($field:ident) => {
        $crate::config::place_at(core::mem::offset_of!(ipctrace_common::uring::Places, $field))
    };
}
pub(crate) use place;

/// What the begin of system call `number` is to us; 0 is nothing.
#[inline(always)]
pub(crate) fn class_at_begin(number: u64) -> u8 {
    class(&raw const BEGINS, number)
}

/// What its end is.
#[inline(always)]
pub(crate) fn class_at_end(number: u64) -> u8 {
    class(&raw const ENDS, number)
}

#[inline(always)]
fn class(table: *const [u8; TABLE], number: u64) -> u8 {
    if number >= TABLE as u64 {
        return 0;
    }
    // SAFETY: the index is below the length of the table, a static.
    unsafe { core::ptr::read_volatile(table.cast::<u8>().add(number as usize)) }
}
