//! A histogram in a few hundred bytes: eight steps for each doubling, kept for the doublings that occur.

/// Steps of a doubling, as a power of two.
const BITS: u32 = 3;
const STEPS: usize = 1 << BITS;

/// How often values occurred, to one part in eight.
#[derive(Clone, Debug, Default)]
pub(super) struct Coarse {
    /// Index of the first of `counts`.
    first: usize,
    counts: Vec<u32>,
    total: u64,
    max: u64,
}

impl Coarse {
    pub(super) fn record(&mut self, value: u64) {
        let index = index(value);
        if self.counts.is_empty() {
            self.first = index;
        }
        if index < self.first {
            let missing = self.first - index;
            self.counts.splice(..0, std::iter::repeat_n(0, missing));
            self.first = index;
        }
        let place = index - self.first;
        if place >= self.counts.len() {
            // Not the double, as a vector grows by itself: there are many of these.
            self.counts.reserve_exact(place + 1 - self.counts.len());
            self.counts.resize(place + 1, 0);
        }
        self.counts[place] = self.counts[place].saturating_add(1);
        self.total += 1;
        self.max = self.max.max(value);
    }

    /// How many there were.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The greatest.
    pub(super) fn max(&self) -> u64 {
        self.max
    }

    /// What so many in a hundred do not exceed: the upper end of a step.
    pub(super) fn percentile(&self, percent: u64) -> u64 {
        let rank = u128::from(self.total) * u128::from(percent);
        let mut seen = 0_u128;
        let step = self.counts.iter().position(|count| {
            seen += u128::from(*count) * 100;
            seen >= rank
        });
        step.map_or(self.max, |step| last(self.first + step).min(self.max))
    }

    /// Bytes that it takes on the heap.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.counts.capacity() * size_of::<u32>()
    }
}

/// The step of a value: small ones have one each.
fn index(value: u64) -> usize {
    if value < STEPS as u64 {
        return value as usize;
    }
    let doublings = value.ilog2() - BITS;
    let step = (value >> doublings) as usize & (STEPS - 1);
    (doublings as usize + 1) * STEPS + step
}

/// The greatest value of a step.
fn last(index: usize) -> u64 {
    if index < STEPS {
        return index as u64;
    }
    let doublings = index / STEPS - 1;
    let first = ((STEPS + index % STEPS) as u64) << doublings;
    first + ((1 << doublings) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_follow_each_other_without_a_gap() {
        for step in 0..index(u64::MAX) {
            assert_eq!(index(last(step)), step);
            assert_eq!(index(last(step) + 1), step + 1);
        }
        assert_eq!(last(index(u64::MAX)), u64::MAX);
    }

    #[test]
    fn values_may_come_in_any_order() {
        let mut coarse = Coarse::default();
        for value in [5_000, 1, 1_000_000, 5_000] {
            coarse.record(value);
        }
        assert_eq!((coarse.total(), coarse.max()), (4, 1_000_000));
        assert_eq!(
            (coarse.percentile(25), coarse.percentile(50), coarse.percentile(100)),
            (1, 5119, 1_000_000)
        );
    }
}
