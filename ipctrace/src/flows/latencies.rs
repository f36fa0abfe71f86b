//! The latencies of one flow, in little memory.

use hdrhistogram::Histogram;

use super::coarse::Coarse;
use crate::model::Latency;

/// Latencies kept as they are before a histogram is made of them: most flows have few.
const FEW: usize = 32;
/// Flows whose histograms keep two digits, about 12 KiB each; those after them keep one part in eight, in a few hundred
/// bytes.
const FINE: usize = 256;
/// Significant digits of a fine histogram.
const DIGITS: u8 = 2;

/// The latencies of one flow.
#[derive(Debug)]
pub(super) enum Latencies {
    /// All of them.
    Few {
        /// In the order in which they came.
        values: Vec<u64>,
        /// Whether the histogram to be is a fine one.
        fine: bool,
    },
    /// Many: how often each, to two digits.
    Many {
        /// How often each.
        histogram: Box<Histogram<u32>>,
        /// The longest, as it was: the histogram knows the end of its step.
        max: u64,
    },
    /// Many, of a flow of which there are many.
    Coarse(Box<Coarse>),
}

impl Latencies {
    /// None yet, for a flow of which there are `before` others.
    pub(super) fn new(before: usize) -> Latencies {
        Latencies::Few { values: Vec::new(), fine: before < FINE }
    }

    /// One more, in ns.
    pub(super) fn record(&mut self, latency: u64) {
        match self {
            Latencies::Few { values, .. } if values.len() < FEW => values.push(latency),
            Latencies::Few { values, fine } => {
                // Fails for more than five digits only.
                let histogram = if *fine { Histogram::new(DIGITS).ok() } else { None };
                let mut many = match histogram {
                    Some(histogram) => Latencies::Many { histogram: Box::new(histogram), max: 0 },
                    None => Latencies::Coarse(Box::default()),
                };
                values.iter().chain([&latency]).for_each(|value| many.record(*value));
                *self = many;
            }
            Latencies::Coarse(histogram) => histogram.record(latency),
            Latencies::Many { histogram, max } => {
                count(histogram, latency);
                *max = latency.max(*max);
            }
        }
    }

    /// The distribution; `None` if there are none.
    pub(super) fn summary(&self) -> Option<Latency> {
        match self {
            Latencies::Few { values, .. } => {
                let mut sorted = values.clone();
                sorted.sort_unstable();
                let rank = |percent: usize| (sorted.len() * percent).div_ceil(100).saturating_sub(1);
                Some(Latency {
                    count: sorted.len() as u64,
                    p50: *sorted.get(rank(50))?,
                    p90: *sorted.get(rank(90))?,
                    p99: *sorted.get(rank(99))?,
                    max: *sorted.last()?,
                })
            }
            Latencies::Many { histogram, max } => {
                let quantile = |share| histogram.value_at_quantile(share).min(*max);
                Some(Latency {
                    count: histogram.len(),
                    p50: quantile(0.5),
                    p90: quantile(0.9),
                    p99: quantile(0.99),
                    max: *max,
                })
            }
            Latencies::Coarse(histogram) => Some(Latency {
                count: histogram.total(),
                p50: histogram.percentile(50),
                p90: histogram.percentile(90),
                p99: histogram.percentile(99),
                max: histogram.max(),
            }),
        }
    }

    /// Bytes that it takes on the heap.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        match self {
            Latencies::Few { values, .. } => values.capacity() * size_of::<u64>(),
            Latencies::Many { histogram, .. } => {
                size_of_val(&**histogram) + histogram.distinct_values() * size_of::<u32>()
            }
            Latencies::Coarse(histogram) => size_of_val(&**histogram) + histogram.memory(),
        }
    }
}

/// Counts a value; one beyond what the histogram can grow to stands at its upper end.
fn count(histogram: &mut Histogram<u32>, value: u64) {
    histogram.auto(true);
    if histogram.record(value).is_err() {
        histogram.saturating_record(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_exact() {
        let mut latencies = Latencies::new(0);
        assert_eq!(latencies.summary(), None);
        (1..=10).rev().for_each(|value| latencies.record(value));
        assert_eq!(latencies.summary(), Some(Latency { count: 10, p50: 5, p90: 9, p99: 10, max: 10 }));
    }

    #[test]
    fn many_are_close() {
        for before in [0, FINE] {
            let mut latencies = Latencies::new(before);
            (1..=1000).for_each(|value| latencies.record(value * 1001));
            let summary = latencies.summary().unwrap();
            assert_eq!(summary.count, 1000);
            assert!((450_000..=550_000).contains(&summary.p50), "{summary:?}");
            assert!((950_000..=1_050_000).contains(&summary.p99), "{summary:?}");
            // The longest is a fact, not an estimate, and nothing is longer.
            assert_eq!(summary.max, 1_001_000);
            assert!(summary.p99 <= summary.max, "{summary:?}");
        }
    }

    #[test]
    fn no_latency_is_too_long() {
        let mut latencies = Latencies::new(0);
        (0..100).for_each(|_| latencies.record(u64::MAX));
        assert_eq!(latencies.summary().map(|summary| summary.count), Some(100));
    }
}
