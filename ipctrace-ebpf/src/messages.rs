//! The messages of queues by number: an address is used again for the next message, a number never is.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, PerCpuArray};
use ipctrace_common::Cause;
use ipctrace_common::wire::Key;

use crate::kernel::add;
use crate::ring;

/// A message that is in a queue or on its way.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Known {
    /// Its number.
    pub(crate) number: u64,
    /// The queue.
    pub(crate) key: Key,
    /// [`ipctrace_common::Mechanism`] of it.
    pub(crate) mechanism: u64,
}

/// Messages by address, from `load_msg` to `free_msg`. The loader gives it its size.
#[map]
static MESSAGES: HashMap<u64, Known> = HashMap::with_max_entries(1, 0);

/// How many numbers each CPU has given.
#[map]
static NUMBERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Flag of bpf_map_update_elem: fail if the key is there.
const BPF_NOEXIST: u64 = 1;

/// A number that no message has had. Not 0.
#[inline(always)]
fn next() -> u64 {
    /// More than a CPU gives numbers in a million years.
    const SHIFT: u32 = 48;
    let count = match NUMBERS.get_ptr_mut(0) {
        // SAFETY: the map gave a valid, aligned pointer to this CPU's counter; the add is atomic because another task may come in
        // between.
        Some(counter) => unsafe { add(counter, 1) },
        None => 0,
    };
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    u64::from(cpu) << SHIFT | (count + 1)
}

/// Gives a new message for that queue its number; 0 if there are too many.
#[inline(always)]
pub(crate) fn made(address: u64, key: Key, mechanism: u8) -> u64 {
    let known = Known { number: next(), key, mechanism: u64::from(mechanism) };
    if MESSAGES.insert(&address, &known, 0).is_ok() {
        known.number
    } else {
        ring::count(Cause::MapFull);
        0
    }
}

/// The number of a message that is in a queue which is seen for the first time: it has one if it was made since.
#[inline(always)]
pub(crate) fn found(address: u64, key: Key, mechanism: u8) -> u64 {
    let known = Known { number: next(), key, mechanism: u64::from(mechanism) };
    if MESSAGES.insert(&address, &known, BPF_NOEXIST).is_ok() { known.number } else { number(address) }
}

/// The number of a message; 0 if it has none.
#[inline(always)]
pub(crate) fn number(address: u64) -> u64 {
    // SAFETY: a valid pointer into the map.
    get(address).map_or(0, |known| unsafe { core::ptr::read_volatile(&raw const (*known).number) })
}

/// What is known of a message.
#[inline(always)]
pub(crate) fn get(address: u64) -> Option<*const Known> {
    MESSAGES.get_ptr(&address)
}

/// The message is gone.
#[inline(always)]
pub(crate) fn gone(address: u64) {
    // Most messages of queues that are not traced have none.
    let _ = MESSAGES.remove(&address);
}
