//! Quantities as people read them: three significant digits and a unit.

use super::Charset;

/// A duration given in nanoseconds: `812ns`, `12.3µs`, `1.23ms`, `45.0s`.
pub(super) fn duration(ns: u64, charset: Charset) -> String {
    let micro = match charset {
        Charset::Utf8 => "µs",
        Charset::Ascii => "us",
    };
    scaled(ns, &[(1, "ns"), (1_000, micro), (1_000_000, "ms"), (1_000_000_000, "s")], 1000)
}

/// A number of bytes: `512 B`, `1.21 MiB`.
pub(super) fn size(bytes: u64) -> String {
    scaled(
        bytes,
        &[(1, " B"), (1 << 10, " KiB"), (1 << 20, " MiB"), (1 << 30, " GiB"), (1 << 40, " TiB")],
        1024,
    )
}

/// How many: `999`, `12.3k`, `1.23M`.
pub(super) fn count(number: u64) -> String {
    scaled(number, &[(1, ""), (1_000, "k"), (1_000_000, "M"), (1_000_000_000, "G")], 1000)
}

/// How many a second: as [`count`], with a decimal where there are few.
pub(super) fn rate(number: f64) -> String {
    if number > 0.0 && number < 9.95 { format!("{number:.1}") } else { count(number.round() as u64) }
}

/// Shows `value` in the largest unit of which there is at least one; `step` of one unit make the next.
fn scaled(value: u64, units: &[(u64, &str)], step: u128) -> String {
    let value = u128::from(value);
    // Half up to that many parts of a unit.
    let rounded = |unit: u64, parts: u128| (value * parts + u128::from(unit) / 2) / u128::from(unit);
    let mut shown = String::new();
    for (unit, name) in units {
        let (tenths, hundredths) = (rounded(*unit, 10), rounded(*unit, 100));
        shown = match rounded(*unit, 1) {
            whole if *unit == 1 => format!("{whole}{name}"),
            _ if hundredths < 1000 => format!("{}.{:02}{name}", hundredths / 100, hundredths % 100),
            _ if tenths < 1000 => format!("{}.{}{name}", tenths / 10, tenths % 10),
            whole => format!("{whole}{name}"),
        };
        if rounded(*unit, 1) < step {
            break;
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits_whatever_their_size() {
        for (ns, shown) in [
            (0, "0ns"),
            (999, "999ns"),
            (1_000, "1.00µs"),
            (9_994, "9.99µs"),
            (9_995, "10.0µs"),
            (99_950, "100µs"),
            (999_499, "999µs"),
            (999_500, "1.00ms"),
            (1_234_567, "1.23ms"),
            (59_960_000_000, "60.0s"),
            (3_600_000_000_000, "3600s"),
        ] {
            assert_eq!(duration(ns, Charset::Utf8), shown);
        }
        assert_eq!(duration(1_500, Charset::Ascii), "1.50us");
        assert_eq!(duration(u64::MAX, Charset::Ascii), "18446744074s");
    }

    #[test]
    fn counts_are_short_and_small_rates_are_not_nothing() {
        for (number, shown) in
            [(0, "0"), (999, "999"), (1000, "1.00k"), (12_345, "12.3k"), (5_000_000_000, "5.00G")]
        {
            assert_eq!(count(number), shown);
        }
        for (number, shown) in [(0.0, "0"), (0.25, "0.2"), (9.94, "9.9"), (9.96, "10"), (1234.4, "1.23k")] {
            assert_eq!(rate(number), shown);
        }
    }

    #[test]
    fn sizes_are_binary() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1_288_895, "1.23 MiB"),
            (1_048_064, "1.00 MiB"),
            (u64::MAX, "16777216 TiB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }
}
