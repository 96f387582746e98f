//! Floor 5: which numbers of a producer were seen, at one bit each. Order is not promised (a topic's partitions
//! come one by one), so the set must bear holes as large as the data; full stretches take no room at all.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

const WORDS: usize = 64;
/// Numbers in one stretch.
const STRETCH: u64 = 64 * WORDS as u64;

/// What became of a number that was to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inserted {
    /// It was not there.
    New,
    /// It was.
    Known,
    /// Whether it was cannot be told.
    NoRoom,
}

/// A set of sequence numbers.
#[derive(Debug, Default)]
pub(super) struct Seqs {
    /// By `seq / STRETCH`; `None` is a full stretch.
    stretches: BTreeMap<u64, Option<Box<[u64; WORDS]>>>,
    seen: u64,
    first: u64,
    last: u64,
}

impl Seqs {
    /// Adds a number. With `grow` false, one outside the known stretches finds no room and is forgotten.
    pub(super) fn insert(&mut self, seq: u64, grow: bool) -> Inserted {
        let stretch = match self.stretches.entry(seq / STRETCH) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if !grow => return Inserted::NoRoom,
            Entry::Vacant(unknown) => unknown.insert(Some(Box::new([0; WORDS]))),
        };
        let Some(bits) = stretch else { return Inserted::Known };
        let (word, bit) = ((seq % STRETCH / 64) as usize, 1_u64 << (seq % 64));
        let Some(word) = bits.get_mut(word) else { return Inserted::NoRoom };
        if *word & bit != 0 {
            return Inserted::Known;
        }
        *word |= bit;
        if bits.iter().all(|word| *word == u64::MAX) {
            *stretch = None;
        }
        self.first = if self.seen == 0 { seq } else { self.first.min(seq) };
        self.last = self.last.max(seq);
        self.seen += 1;
        Inserted::New
    }

    /// How many stretches it holds, which is what it costs (half a KiB each).
    pub(super) fn stretches(&self) -> usize {
        self.stretches.len()
    }

    /// How many numbers were seen.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    pub(super) fn first(&self) -> u64 {
        self.first
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Numbers between the first and the last that were not seen.
    pub(super) fn missing(&self) -> u64 {
        (self.last - self.first).saturating_sub(self.seen.saturating_sub(1))
    }

    /// The first `most` ranges of missing numbers, and whether there are more.
    pub(super) fn missing_ranges(&self, most: usize) -> (Vec<(u64, u64)>, bool) {
        let mut ranges = Vec::new();
        // The next number that would continue without a gap.
        let mut expected = self.first;
        for (start, end) in self.runs() {
            if start > expected {
                if ranges.len() == most {
                    return (ranges, true);
                }
                ranges.push((expected, start - 1));
            }
            expected = end.saturating_add(1);
        }
        (ranges, false)
    }

    /// The runs of seen numbers in order; a run may end at a stretch's edge and go on in the next.
    fn runs(&self) -> impl Iterator<Item = (u64, u64)> {
        self.stretches.iter().flat_map(|(index, bits)| {
            let base = index * STRETCH;
            let runs = match bits {
                None => vec![(0, STRETCH - 1)],
                Some(bits) => runs_of(bits),
            };
            runs.into_iter().map(move |(start, end)| (base + start, base + end))
        })
    }
}

fn runs_of(bits: &[u64; WORDS]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let all = (0_u64..).zip(bits).flat_map(|(i, word)| (0..64).map(move |bit| (i * 64 + bit, word >> bit & 1)));
    for (at, _) in all.filter(|(_, bit)| *bit == 1) {
        match runs.last_mut() {
            Some(run) if run.1 + 1 == at => run.1 = at,
            _ => runs.push((at, at)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn of(numbers: impl IntoIterator<Item = u64>) -> Seqs {
        let mut seqs = Seqs::default();
        for number in numbers {
            seqs.insert(number, true);
        }
        seqs
    }

    #[test]
    fn gaps_are_found_whatever_the_order() {
        let seqs = of([9, 1, 2, 6, 8]);
        assert_eq!((seqs.first(), seqs.last(), seqs.missing()), (1, 9, 4));
        assert_eq!(seqs.missing_ranges(9), (vec![(3, 5), (7, 7)], false));
        assert_eq!(seqs.missing_ranges(1), (vec![(3, 5)], true));
    }

    #[test]
    fn a_gapless_run_over_many_stretches_misses_nothing_and_costs_little() {
        let mut seqs = of((1..=20_000).rev());
        assert_eq!((seqs.missing(), seqs.missing_ranges(9)), (0, (vec![], false)));
        assert_eq!(seqs.stretches(), 5);
        assert!(seqs.stretches.values().filter(|bits| bits.is_none()).count() >= 3);
        assert_eq!(seqs.insert(STRETCH + 1, true), Inserted::Known, "in a full stretch");
    }

    #[test]
    fn a_gap_may_span_stretches_and_reach_the_largest_number() {
        let seqs = of([1, 3 * STRETCH, u64::MAX]);
        assert_eq!(seqs.missing_ranges(9).0, [(2, 3 * STRETCH - 1), (3 * STRETCH + 1, u64::MAX - 1)]);
        assert_eq!(seqs.missing(), u64::MAX - 3);
        assert_eq!(of([]).missing(), 0);
        assert_eq!(of([0, u64::MAX]).missing(), u64::MAX - 1);
    }

    #[test]
    fn at_its_bound_it_says_that_it_cannot_tell() {
        let mut seqs = of([1]);
        assert_eq!([1, 2].map(|_| seqs.insert(STRETCH * 7, false)), [Inserted::NoRoom; 2]);
        assert_eq!([1, 2].map(|_| seqs.insert(2, false)), [Inserted::New, Inserted::Known]);
        assert_eq!((seqs.seen(), seqs.last(), seqs.missing()), (2, 2, 0));
    }

    /// The same sums from a set that knows no stretches.
    fn naive(set: &BTreeSet<u64>) -> (u64, Vec<(u64, u64)>) {
        let gaps = set.iter().zip(set.iter().skip(1)).filter(|(a, b)| *b - *a > 1);
        let ranges: Vec<(u64, u64)> = gaps.map(|(a, b)| (a + 1, b - 1)).collect();
        (ranges.iter().map(|(from, to)| to - from + 1).sum(), ranges)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        /// Runs near one another, near the edges of stretches and far out, with repeats, in any order.
        #[test]
        fn any_order_with_holes_and_repeats_gives_what_a_plain_set_gives(
            runs in proptest::collection::vec((0_u64..5, 0_u64..300, 1_u64..200), 1..20),
            far in proptest::collection::vec(any::<u64>(), 0..3),
            seed in any::<u64>(),
        ) {
            let spread = runs.iter().flat_map(|(stretch, at, n)| {
                let from = (stretch * STRETCH + at).saturating_sub(150);
                from..from + n
            });
            let mut numbers: Vec<u64> = spread.chain(far).collect();
            fastrand::Rng::with_seed(seed).shuffle(&mut numbers);
            let (mut seqs, mut set) = (Seqs::default(), BTreeSet::new());
            for number in numbers {
                let expected = if set.insert(number) { Inserted::New } else { Inserted::Known };
                prop_assert_eq!(seqs.insert(number, true), expected);
            }
            let (missing, ranges) = naive(&set);
            prop_assert_eq!((seqs.first(), seqs.last()), (*set.first().unwrap_or(&0), *set.last().unwrap_or(&0)));
            prop_assert_eq!((seqs.seen(), seqs.missing()), (set.len() as u64, missing));
            prop_assert_eq!(seqs.missing_ranges(usize::MAX), (ranges, false));
        }

        #[test]
        fn a_long_run_with_few_holes_gives_what_a_plain_set_gives(
            from in 0_u64..10_000,
            n in 1_u64..20_000,
            holes in proptest::collection::vec(any::<u64>(), 0..6),
        ) {
            let mut set: BTreeSet<u64> = (from..from + n).collect();
            for hole in holes {
                set.remove(&(from + hole % n));
            }
            let seqs = of(set.iter().rev().chain(set.iter().step_by(7)).copied());
            let (missing, ranges) = naive(&set);
            prop_assert_eq!((seqs.seen(), seqs.missing()), (set.len() as u64, missing));
            prop_assert_eq!(seqs.missing_ranges(usize::MAX), (ranges, false));
        }
    }
}
