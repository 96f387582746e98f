//! Floor 5: what is kept of a stream of pairs that may be gigabytes long. Each of these is bounded, whatever the
//! records hold, and says when its bound was met: [`Counts`] keeps the first names it meets, [`Reservoir`] a fair
//! sample, [`Times`] a histogram with three significant digits.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::analysis::stats::{quantile_interval_ranks, quantile_rank};

use super::report::Estimate;

/// Counts by name, for at most so many names; what comes under further names is counted together.
#[derive(Debug)]
pub(super) struct Counts<K> {
    counts: BTreeMap<K, u64>,
    names: usize,
    rest: u64,
}

impl<K: Ord + Clone> Counts<K> {
    pub(super) fn new(names: usize) -> Self {
        Self { counts: BTreeMap::new(), names, rest: 0 }
    }

    pub(super) fn add(&mut self, key: K) {
        if let Some(count) = self.counts.get_mut(&key) {
            *count += 1;
        } else if self.counts.len() < self.names {
            self.counts.insert(key, 1);
        } else {
            self.rest += 1;
        }
    }

    pub(super) fn get(&self, key: &K) -> u64 {
        self.counts.get(key).copied().unwrap_or(0)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &K> {
        self.counts.keys()
    }

    /// Counted under names that are not kept.
    pub(super) fn rest(&self) -> u64 {
        self.rest
    }

    /// The most frequent names, ties in their own order, and how many counts they leave out.
    pub(super) fn top(&self, most: usize) -> (Vec<(K, u64)>, u64) {
        let mut all: Vec<(K, u64)> = self.counts.iter().map(|(key, count)| (key.clone(), *count)).collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let left_out = all.iter().skip(most).map(|(_, count)| count).sum::<u64>() + self.rest;
        all.truncate(most);
        (all, left_out)
    }
}

/// How many items a [`Reservoir`] keeps: enough for a p99 with a useful interval, at 240 KB a value.
pub(super) const RESERVOIR: usize = 10_000;

/// A fair sample of a stream (algorithm R). Its seed is fixed, so that the same pairs give the same report.
#[derive(Debug)]
pub(super) struct Reservoir<T> {
    kept: Vec<T>,
    seen: u64,
    chance: fastrand::Rng,
}

impl<T> Reservoir<T> {
    pub(super) fn new() -> Self {
        Self { kept: Vec::new(), seen: 0, chance: fastrand::Rng::with_seed(1) }
    }

    pub(super) fn add(&mut self, item: T) {
        self.seen += 1;
        if self.kept.len() < RESERVOIR {
            self.kept.push(item);
        } else if let Some(place) = self.kept.get_mut(self.chance.u64(..self.seen) as usize) {
            *place = item;
        }
    }

    pub(super) fn items(&self) -> &[T] {
        &self.kept
    }
}

/// The longest time that is told apart: one hour, in microseconds.
const LONGEST_US: u64 = 3_600_000_000;

/// Times in microseconds, also negative ones (a difference of two times).
#[derive(Debug)]
pub(super) struct Times {
    below: Option<Histogram<u32>>,
    above: Histogram<u32>,
}

fn histogram() -> anyhow::Result<Histogram<u32>> {
    Ok(Histogram::new_with_bounds(1, LONGEST_US, 3)?)
}

impl Times {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self { below: None, above: histogram()? })
    }

    pub(super) fn add(&mut self, us: i64) -> anyhow::Result<()> {
        if us >= 0 {
            self.above.saturating_record(us.unsigned_abs());
            return Ok(());
        }
        let below = match &mut self.below {
            Some(below) => below,
            none => none.insert(histogram()?),
        };
        below.saturating_record(us.unsigned_abs());
        Ok(())
    }

    pub(super) fn n(&self) -> u64 {
        self.negative() + self.above.len()
    }

    fn negative(&self) -> u64 {
        self.below.as_ref().map_or(0, Histogram::len)
    }

    /// A quantile with its distribution-free interval.
    pub(super) fn quantile(&self, q: f64) -> Estimate {
        let n = self.n();
        let (low, high) = quantile_interval_ranks(n, q);
        let at = |rank: Option<u64>| rank.and_then(|rank| self.at(rank));
        Estimate { value: at(quantile_rank(n, q)), low: at(low), high: at(high), n }
    }

    /// The time at this rank, counted from 1.
    fn at(&self, rank: u64) -> Option<f64> {
        let negative = self.negative();
        match &self.below {
            Some(below) if rank <= negative => at_rank(below, negative - rank + 1).map(|us| -us),
            _ => at_rank(&self.above, rank - negative),
        }
    }
}

fn at_rank(times: &Histogram<u32>, rank: u64) -> Option<f64> {
    let mut passed = 0;
    times.iter_recorded().find_map(|step| {
        passed += step.count_since_last_iteration();
        (passed >= rank).then(|| times.median_equivalent(step.value_iterated_to()) as f64)
    })
}

/// A quantile of numbers that are all at hand and sorted, with its distribution-free interval.
pub(super) fn quantile_of(sorted: &[f64], q: f64) -> Estimate {
    let n = sorted.len() as u64;
    let (low, high) = quantile_interval_ranks(n, q);
    let at = |rank: Option<u64>| rank.and_then(|rank| sorted.get(rank as usize - 1)).copied();
    Estimate { value: at(quantile_rank(n, q)), low: at(low), high: at(high), n }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn counts_keep_a_bounded_number_of_names_and_say_what_they_left_out() {
        let mut counts = Counts::new(2);
        ["a", "b", "b", "c", "c", "c"].into_iter().for_each(|name| counts.add(name));
        assert_eq!(counts.top(1), (vec![("b", 2)], 4));
        assert_eq!((counts.rest(), counts.get(&"c")), (3, 0));
    }

    #[test]
    fn a_reservoir_is_bounded_and_fair() {
        let mut sample = Reservoir::new();
        (0..100_000_u32).for_each(|i| sample.add(i));
        assert_eq!(sample.items().len(), RESERVOIR);
        let mean = sample.items().iter().map(|i| f64::from(*i)).sum::<f64>() / RESERVOIR as f64;
        assert!((mean - 50_000.0).abs() < 1500.0, "{mean}");
    }

    #[test]
    fn times_find_quantiles_on_both_sides_of_zero() {
        let mut times = Times::new().expect("bounds");
        (-50..=49).for_each(|us| times.add(us).expect("recorded"));
        let median = times.quantile(0.5);
        // Sorted from -50: the 40th, 50th and 61st of them.
        assert_eq!((median.low, median.value, median.high, median.n), (Some(-11.0), Some(-1.0), Some(10.0), 100));
        assert_eq!(Times::new().expect("bounds").quantile(0.5).value, None);
    }

    #[test]
    fn times_keep_three_digits_and_bear_any_number() {
        let mut times = Times::new().expect("bounds");
        times.add(1_234_567).expect("recorded");
        let value = times.quantile(0.5).value.expect("one time");
        assert!((value / 1_234_567.0 - 1.0).abs() < 0.001, "{value}");
        times.add(i64::MAX).expect("recorded");
        times.add(i64::MIN).expect("recorded");
        assert!(times.quantile(0.99).value.expect("three") >= 3_590_000_000.0);
    }
}
