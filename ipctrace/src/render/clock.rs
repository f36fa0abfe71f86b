//! From nanoseconds since boot to the time of day.

use std::io;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use nix::time::{ClockId, clock_gettime};

use crate::boot;

const NS_PER_S: i64 = 1_000_000_000;

/// Translates the kernel's boot clock to real time.
///
/// The offset is taken once: a trace has one time line, even if the real-time clock is set while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Real time (ns since 1970 UTC) minus time since boot.
    boot_to_real: i64,
}

impl Clock {
    /// A clock with that offset: real time, ns since 1970 UTC, minus time since boot, ns.
    pub fn new(boot_to_real: i64) -> Clock {
        Clock { boot_to_real }
    }

    /// This machine's clock: both times are read, one right after the other.
    ///
    /// # Errors
    /// If a clock cannot be read.
    pub fn measure() -> io::Result<Clock> {
        let real = clock_gettime(ClockId::CLOCK_REALTIME)?;
        let boot = i64::try_from(boot::now()).unwrap_or(i64::MAX);
        let real = real.tv_sec().saturating_mul(NS_PER_S).saturating_add(real.tv_nsec());
        Ok(Clock { boot_to_real: real.saturating_sub(boot) })
    }

    /// Real time of a boot time: whole seconds since 1970 UTC, and ns.
    fn real(self, boot: u64) -> (i64, u32) {
        let ns = i64::try_from(boot).unwrap_or(i64::MAX).saturating_add(self.boot_to_real);
        let part = u32::try_from(ns.rem_euclid(NS_PER_S)).unwrap_or(0);
        (ns.div_euclid(NS_PER_S), part)
    }
}

/// `2026-03-01T12:30:00.123456789Z`.
pub(super) const STAMP_LEN: usize = 30;

/// Writes RFC 3339 stamps in UTC. Events come in bursts: the date is worked out once a second.
#[derive(Debug)]
pub(super) struct Stamps {
    clock: Clock,
    second: Option<i64>,
    text: [u8; STAMP_LEN],
}

impl Stamps {
    pub(super) fn new(clock: Clock) -> Stamps {
        Stamps { clock, second: None, text: *b"0000-00-00T00:00:00.000000000Z" }
    }

    /// The stamp of a boot time.
    pub(super) fn stamp(&mut self, boot: u64) -> Stamp {
        let (second, ns) = self.clock.real(boot);
        if self.second != Some(second) {
            // i64 ns end in the year 2262: every second is a valid one.
            let date = Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH).to_string();
            let prefix = "0000-00-00T00:00:00".len();
            if let Some(date) = date.as_bytes().get(..prefix) {
                self.text[..prefix].copy_from_slice(date);
            }
            self.second = Some(second);
        }
        put_digits(&mut self.text[20..29], ns);
        Stamp(self.text)
    }
}

/// One stamp.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp([u8; STAMP_LEN]);

impl Stamp {
    pub(super) fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Writes times of day, in the time zone of the user.
#[derive(Debug)]
pub(super) struct TimesOfDay {
    clock: Clock,
    zone: TimeZone,
    /// Digits after the second: 3 or 6.
    decimals: usize,
    second: Option<i64>,
    prefix: String,
}

impl TimesOfDay {
    pub(super) fn new(clock: Clock, zone: TimeZone, decimals: usize) -> TimesOfDay {
        TimesOfDay { clock, zone, decimals, second: None, prefix: String::new() }
    }

    /// Columns of every time.
    pub(super) fn width(&self) -> usize {
        "00:00:00.".len() + self.decimals
    }

    /// Appends the time of day of a boot time: `12:30:00.123456`.
    pub(super) fn push(&mut self, out: &mut String, boot: u64) {
        let (second, ns) = self.clock.real(boot);
        if self.second != Some(second) {
            let time = Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH);
            self.prefix = time.to_zoned(self.zone.clone()).strftime("%H:%M:%S.").to_string();
            self.second = Some(second);
        }
        let mut digits = *b"000000000";
        put_digits(&mut digits, ns);
        out.push_str(&self.prefix);
        out.extend(digits.iter().take(self.decimals).map(|digit| char::from(*digit)));
    }
}

/// Fills `place` with the decimal digits of `value`, leading zeros included.
fn put_digits(place: &mut [u8], mut value: u32) {
    for digit in place.iter_mut().rev() {
        *digit = b"0123456789"[(value % 10) as usize];
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_rfc_3339_with_nanoseconds() {
        let mut stamps = Stamps::new(Clock::new(1_767_225_599_000_000_000));
        assert_eq!(stamps.stamp(5).as_str(), "2025-12-31T23:59:59.000000005Z");
        assert_eq!(stamps.stamp(999_999_999).as_str(), "2025-12-31T23:59:59.999999999Z");
        assert_eq!(stamps.stamp(1_000_000_000).as_str(), "2026-01-01T00:00:00.000000000Z");
        assert_eq!(stamps.stamp(6).as_str(), "2025-12-31T23:59:59.000000006Z");
    }

    #[test]
    fn no_time_is_out_of_range() {
        let mut stamps = Stamps::new(Clock::new(i64::MAX));
        assert_eq!(stamps.stamp(u64::MAX).as_str(), "2262-04-11T23:47:16.854775807Z");
        let mut stamps = Stamps::new(Clock::new(i64::MIN));
        assert_eq!(stamps.stamp(0).as_str(), "1677-09-21T00:12:43.145224192Z");
    }

    #[test]
    fn times_of_day_follow_the_zone() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let mut times = TimesOfDay::new(Clock::new(1_767_225_599_000_000_000), zone, 6);
        let mut out = String::new();
        times.push(&mut out, 123_456_789);
        assert_eq!(out, "01:59:59.123456");
        assert_eq!(out.len(), times.width());
    }

    #[test]
    fn the_measured_clock_tells_the_time() {
        let (second, _) = Clock::measure().unwrap().real(boot::now());
        let now = Timestamp::now().as_second();
        assert!((now - second).abs() <= 1, "{now} against {second}");
    }
}
