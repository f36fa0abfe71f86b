//! Time since boot, as the kernel's records have it.

use std::fs;
use std::sync::OnceLock;

use nix::time::{ClockId, clock_gettime};

const NS_PER_S: i64 = 1_000_000_000;

/// Nanoseconds since boot, suspend included: `bpf_ktime_get_boot_ns`. In a time namespace the clocks that we are given are shifted, those
/// of programs in the kernel are not (time_namespaces(7)).
pub fn now() -> u64 {
    static SHIFT: OnceLock<i64> = OnceLock::new();
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had this clock since 2.6.39");
    let now = now.tv_sec() * NS_PER_S + now.tv_nsec();
    u64::try_from(now.saturating_sub(*SHIFT.get_or_init(shift))).unwrap_or(0)
}

/// By how much our time since boot is ahead of the kernel's, ns.
fn shift() -> i64 {
    let namespace = |name| fs::read_link(format!("/proc/self/ns/{name}")).ok();
    // What is shown is that of the children: another one if we have left ours for them, but not entered it.
    if namespace("time") != namespace("time_for_children") {
        return 0;
    }
    // Before Linux 5.6 there is no such file, and no such namespace.
    fs::read_to_string("/proc/self/timens_offsets").ok().and_then(|text| shift_of(&text)).unwrap_or(0)
}

/// The same, from that file: a line for each clock, seconds and nanoseconds.
fn shift_of(offsets: &str) -> Option<i64> {
    let mut words = offsets.lines().find_map(|line| line.strip_prefix("boottime"))?.split_whitespace();
    let (seconds, rest): (i64, i64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    seconds.checked_mul(NS_PER_S)?.checked_add(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shift_of_a_time_namespace_is_that_of_its_boot_clock() {
        let text = "monotonic           7         0\nboottime        -1000         500\n";
        assert_eq!(shift_of(text), Some(-999_999_999_500));
        assert_eq!(shift_of("monotonic           0         0\n"), None);
        assert_eq!(shift_of("boottime  0\n"), None);
    }
}
