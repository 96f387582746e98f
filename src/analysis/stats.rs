//! Floor 2: the statistics that a comparison is judged by. Pure sums over counts and samples: no I/O, no clock,
//! no chance. Every function answers with finite numbers or `None`, also for empty, constant and tied data, so
//! that no report ever shows a NaN. All intervals are two-sided, at 95 %; each method is named where it stands,
//! so that a reader can check it against a textbook.

use statrs::distribution::{ContinuousCDF, StudentsT};
use statrs::function::beta::checked_beta_reg;
use statrs::function::erf::erfc;

/// The share of intervals that cover the truth.
pub const CONFIDENCE: f64 = 0.95;

/// The normal distribution's quantile for two sides of [`CONFIDENCE`].
const Z: f64 = 1.959_963_984_540_054;

/// Above this many trials the binomial distribution is taken as normal: there the two agree to far more digits
/// than are shown, and the continued fraction of the exact sum gets slow.
const EXACT_TRIALS: u64 = 10_000;

/// Above this many degrees of freedom Student's t is taken as normal (the quantiles differ by 0.1 %).
const T_DEGREES: u64 = 1_000;

/// A range that covers the true value in 95 of 100 samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// The interval of a share: Wilson's score interval, which holds its coverage also near 0 and 1 and for small
/// samples, where the textbook p ± z·s collapses to a point. `None` without trials.
pub fn wilson(successes: u64, trials: u64) -> Option<Interval> {
    if trials == 0 {
        return None;
    }
    let n = trials as f64;
    let share = successes.min(trials) as f64 / n;
    let z2 = Z * Z;
    let center = (share + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z / (1.0 + z2 / n) * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    // At the edges the ends are 0 and 1 exactly; rounding must not move them.
    let low = if successes == 0 { 0.0 } else { (center - half).max(0.0) };
    let high = if successes >= trials { 1.0 } else { (center + half).min(1.0) };
    Some(Interval { low, high })
}

/// McNemar's test: the chance that two sides which fail equally often would split their discordant pairs as
/// unevenly as this. `only_a` and `only_b` count the pairs in which only that side failed. Exact (two-sided
/// binomial) up to 10,000 discordant pairs, beyond that chi-square with continuity correction. 1 where none is
/// discordant.
pub fn mcnemar(only_a: u64, only_b: u64) -> f64 {
    let discordant = only_a.saturating_add(only_b);
    if only_a == only_b {
        return 1.0;
    }
    if discordant <= EXACT_TRIALS {
        return (2.0 * binomial_cdf(only_a.min(only_b), discordant, 0.5)).min(1.0);
    }
    let distance = (only_a.abs_diff(only_b) as f64 - 1.0).max(0.0);
    let chi = distance / (discordant as f64).sqrt();
    erfc(chi / std::f64::consts::SQRT_2).clamp(0.0, 1.0)
}

/// The difference of two shares of independent samples, a − b, with Newcombe's (1998) square-and-add interval.
/// Each share is given as successes and trials.
pub fn difference(a: (u64, u64), b: (u64, u64)) -> Option<(f64, Interval)> {
    let (wide_a, wide_b) = (wilson(a.0, a.1)?, wilson(b.0, b.1)?);
    let (share_a, share_b) = (a.0 as f64 / a.1 as f64, b.0 as f64 / b.1 as f64);
    let low = share_a - share_b - (share_a - wide_a.low).hypot(wide_b.high - share_b);
    let high = share_a - share_b + (wide_a.high - share_a).hypot(share_b - wide_b.low);
    Some((share_a - share_b, Interval { low: low.max(-1.0), high: high.min(1.0) }))
}

/// How `n` pairs split by which of their sides failed; the rest failed on neither.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Paired {
    /// All pairs.
    pub n: u64,
    /// Both sides failed.
    pub both: u64,
    /// Only the first side failed.
    pub only_a: u64,
    /// Only the second side failed.
    pub only_b: u64,
}

/// The difference of two paired shares, b − a, with Newcombe's (1998) square-and-add interval for paired data:
/// the Wilson intervals of both shares put together by their correlation. Wald's interval, which most tables
/// print, covers 93 % where only one side ever fails, and that is the case that matters here.
pub fn paired_difference(counts: Paired) -> Option<(f64, Interval)> {
    let Paired { n, both, only_a, only_b } = counts;
    let (fails_a, fails_b) = (both.saturating_add(only_a), both.saturating_add(only_b));
    let (a, b) = (wilson(fails_a, n)?, wilson(fails_b, n)?);
    let (share_a, share_b) = (fails_a as f64 / n as f64, fails_b as f64 / n as f64);
    let difference = share_b - share_a;
    let spread = |da: f64, db: f64| (da * da + db * db - 2.0 * phi(counts) * da * db).max(0.0).sqrt();
    let low = difference - spread(a.high - share_a, share_b - b.low);
    let high = difference + spread(share_a - a.low, b.high - share_b);
    Some((difference, Interval { low: low.max(-1.0), high: high.min(1.0) }))
}

/// The correlation of the two sides, with Newcombe's continuity correction; 0 where a side never varies.
fn phi(counts: Paired) -> f64 {
    let [n, both, only_a, only_b] = [counts.n, counts.both, counts.only_a, counts.only_b].map(|c| c as f64);
    let neither = (n - both - only_a - only_b).max(0.0);
    let margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither);
    let excess = both * neither - only_a * only_b;
    let corrected = if excess > 0.0 { (excess - n / 2.0).max(0.0) } else { excess };
    if margins > 0.0 { corrected / margins.sqrt() } else { 0.0 }
}

/// Count, mean and variance of a stream of numbers (Welford's sums, which do not cancel).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Moments {
    n: u64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Adds one number; one that is not finite is the caller's to count.
    pub fn add(&mut self, x: f64) {
        self.n += 1;
        let before = x - self.mean;
        self.mean += before / self.n as f64;
        self.squares += before * (x - self.mean);
    }

    /// How many.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// Their mean.
    pub fn mean(&self) -> Option<f64> {
        (self.n > 0).then_some(self.mean).filter(|mean| mean.is_finite())
    }

    /// The interval of the mean: Student's t. `None` for fewer than two numbers.
    pub fn mean_interval(&self) -> Option<Interval> {
        let mean = self.mean().filter(|_| self.n > 1)?;
        let n = self.n as f64;
        let half = t_quantile(self.n - 1) * (self.squares.max(0.0) / (n - 1.0) / n).sqrt();
        half.is_finite().then_some(Interval { low: mean - half, high: mean + half })
    }
}

fn t_quantile(degrees: u64) -> f64 {
    if degrees > T_DEGREES {
        return Z;
    }
    StudentsT::new(0.0, 1.0, degrees as f64).map_or(Z, |t| t.inverse_cdf(0.5 + CONFIDENCE / 2.0))
}

/// The rank (from 1) of the `q` quantile among `n` sorted numbers: the smallest number that at least a share of
/// `q` does not exceed. `None` without numbers.
pub fn quantile_rank(n: u64, q: f64) -> Option<u64> {
    let rank = (n as f64 * q.clamp(0.0, 1.0)).ceil() as u64;
    (n > 0).then(|| rank.clamp(1, n))
}

/// The ranks (from 1) of the two order statistics between which the true `q` quantile lies, whatever the
/// distribution: how many of `n` numbers fall below it is binomial. An end that so few numbers cannot bound is
/// `None`: 50 numbers say nothing about how high a p99 may be.
pub fn quantile_interval_ranks(n: u64, q: f64) -> (Option<u64>, Option<u64>) {
    if n == 0 || !(q > 0.0 && q < 1.0) {
        return (None, None);
    }
    let tail = (1.0 - CONFIDENCE) / 2.0;
    let (low, high) = if n <= EXACT_TRIALS {
        // x_(l) lies above the quantile when fewer than l numbers fall below it.
        let low = partition_point(n, |k| binomial_cdf(k, n, q) <= tail);
        let high = partition_point(n, |k| binomial_cdf(k, n, q) < 1.0 - tail) + 1;
        (low, high)
    } else {
        let mean = n as f64 * q;
        let half = Z * (mean * (1.0 - q)).sqrt();
        ((mean - half).floor().max(0.0) as u64, (mean + half).ceil() as u64 + 1)
    };
    (Some(low).filter(|rank| *rank >= 1), Some(high).filter(|rank| *rank <= n))
}

/// The first of 0..=n for which `before` no longer holds; it holds for a beginning of that range.
fn partition_point(n: u64, before: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, n + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// The chance of at most `k` successes in `n` trials: the regularised incomplete beta function.
fn binomial_cdf(k: u64, n: u64, p: f64) -> f64 {
    if k >= n {
        return 1.0;
    }
    checked_beta_reg((n - k) as f64, k as f64 + 1.0, 1.0 - p).map_or(1.0, |share| share.clamp(0.0, 1.0))
}

/// Population stability index of two histograms over the same bins: 0 for equal shares, by custom small below
/// 0.1 and large above 0.25. An empty bin counts as half an observation, so that the index stays finite. `None`
/// where a side is empty.
pub fn psi(prod: &[u64], candidate: &[u64]) -> Option<f64> {
    let (prod_n, candidate_n) = (prod.iter().sum::<u64>(), candidate.iter().sum::<u64>());
    if prod_n == 0 || candidate_n == 0 {
        return None;
    }
    let share = |count: u64, n: u64| (count as f64).max(0.5) / n as f64;
    let bins = prod.iter().zip(candidate).filter(|(p, c)| **p + **c > 0);
    let index = bins.map(|(p, c)| {
        let (p, c) = (share(*p, prod_n), share(*c, candidate_n));
        (c - p) * (c / p).ln()
    });
    Some(index.sum::<f64>().max(0.0)).filter(|index| index.is_finite())
}

/// [`psi`] of two samples, in ten bins that prod's own deciles bound (fewer where its values tie). Numbers that
/// are not finite are left out.
pub fn psi_of_samples(prod: &[f64], candidate: &[f64]) -> Option<f64> {
    const BINS: u64 = 10;
    let (prod, candidate) = (sorted(prod), sorted(candidate));
    let rank = |decile: u64| quantile_rank(prod.len() as u64, decile as f64 / BINS as f64);
    let mut edges: Vec<f64> =
        (1..BINS).filter_map(rank).filter_map(|rank| prod.get(rank as usize - 1).copied()).collect();
    edges.dedup();
    psi(&histogram(&prod, &edges), &histogram(&candidate, &edges))
}

/// How many numbers lie in each of the bins that these upper bounds make; the last bin has none.
fn histogram(values: &[f64], edges: &[f64]) -> Vec<u64> {
    let mut counts = vec![0; edges.len() + 1];
    for value in values {
        let bin = edges.partition_point(|edge| edge < value);
        if let Some(count) = counts.get_mut(bin) {
            *count += 1;
        }
    }
    counts
}

/// What the Kolmogorov-Smirnov test says about two samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ks {
    /// The largest distance between the two cumulative distributions, 0 to 1.
    pub statistic: f64,
    /// The chance of such a distance between independent samples of one distribution.
    pub p: f64,
}

/// The two-sample Kolmogorov-Smirnov test. Ties are stepped over together, as scipy's `ks_2samp` does. `p` is
/// Kolmogorov's limit with Stephens' correction for small samples; for tied values it is too large rather than
/// too small. Numbers that are not finite are left out; `None` where a side is empty.
pub fn ks_two_sample(a: &[f64], b: &[f64]) -> Option<Ks> {
    let (a, b) = (sorted(a), sorted(b));
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let (n_a, n_b) = (a.len() as f64, b.len() as f64);
    let (mut i, mut j, mut statistic) = (0, 0, 0.0_f64);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        let step = x.min(*y);
        i += a.iter().skip(i).take_while(|v| **v <= step).count();
        j += b.iter().skip(j).take_while(|v| **v <= step).count();
        statistic = statistic.max((i as f64 / n_a - j as f64 / n_b).abs());
    }
    let root = (n_a * n_b / (n_a + n_b)).sqrt();
    Some(Ks { statistic, p: kolmogorov_tail((root + 0.12 + 0.11 / root) * statistic) })
}

/// The chance that Kolmogorov's statistic exceeds this: two series of one function, each where it converges.
fn kolmogorov_tail(lambda: f64) -> f64 {
    use std::f64::consts::PI;
    if lambda <= 0.0 {
        return 1.0;
    }
    if lambda < 1.18 {
        let term = |k: i32| (-(f64::from(2 * k - 1) * PI / lambda).powi(2) / 8.0).exp();
        return (1.0 - (2.0 * PI).sqrt() / lambda * (1..=4).map(term).sum::<f64>()).clamp(0.0, 1.0);
    }
    let term = |k: i32| {
        let sign = if k % 2 == 1 { 2.0 } else { -2.0 };
        sign * (-2.0 * (f64::from(k) * lambda).powi(2)).exp()
    };
    (1..=6).map(term).sum::<f64>().clamp(0.0, 1.0)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    /// Two normal numbers from two uniform ones (Box and Muller).
    fn normal(chance: &mut fastrand::Rng, mean: f64, deviation: f64) -> f64 {
        let radius = (-2.0 * (1.0 - chance.f64()).ln()).sqrt();
        mean + deviation * radius * (2.0 * std::f64::consts::PI * chance.f64()).cos()
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-9 * b.abs().max(1.0), "{a} is not {b}");
    }

    /// The share of seeded draws whose interval covers the truth.
    fn coverage(draws: u32, mut covers: impl FnMut(&mut fastrand::Rng) -> bool) -> f64 {
        let mut chance = fastrand::Rng::with_seed(20_241_103);
        f64::from((0..draws).filter(|_| covers(&mut chance)).count() as u32) / f64::from(draws)
    }

    #[test]
    fn wilson_equals_the_reference() {
        // statsmodels 0.14, proportion_confint(method="wilson")
        for (successes, trials, low, high) in [
            (0, 10, 0.0, 0.277_532_799_862_889_2),
            (97, 100, 0.915_480_635_709_472_4, 0.989_745_475_975_961_1),
            (1946, 2000, 0.964_938_869_513_422_6, 0.979_247_603_758_511_9),
            (10, 10, 0.722_467_200_137_110_6, 1.0),
        ] {
            let interval = wilson(successes, trials).expect("trials");
            close(interval.low, low);
            close(interval.high, high);
        }
        assert_eq!(wilson(0, 0), None);
        let huge = wilson(u64::MAX, u64::MAX).expect("trials");
        assert!(huge.low > 0.999 && huge.high == 1.0);
    }

    #[test]
    fn wilson_covers_the_true_share() {
        for (trials, share) in [(50, 0.5), (200, 0.97), (2000, 0.01)] {
            let seen = coverage(4000, |chance| {
                let hits = (0..trials).filter(|_| chance.f64() < share).count() as u64;
                let interval = wilson(hits, trials).expect("trials");
                interval.low <= share && share <= interval.high
            });
            assert!((0.93..=0.975).contains(&seen), "{seen} of intervals cover {share} at n={trials}");
        }
    }

    #[test]
    fn mcnemar_equals_the_reference() {
        // statsmodels 0.14, mcnemar(exact=True), the last one exact=False with correction
        close(mcnemar(1, 9), 0.021_484_375);
        close(mcnemar(0, 5), 0.0625);
        close(mcnemar(3, 4), 1.0);
        close(mcnemar(120, 80), 0.005_685_155_996_750_306);
        close(mcnemar(5000, 5400), 9.133_914_535_942_396e-5);
    }

    #[test]
    fn mcnemar_without_discordant_pairs_is_certain_of_nothing() {
        assert_eq!(mcnemar(0, 0), 1.0);
        assert_eq!(mcnemar(7, 7), 1.0);
        assert!(mcnemar(0, u64::MAX).is_finite());
    }

    #[test]
    fn mcnemar_rejects_equal_sides_at_most_as_often_as_promised() {
        let kept = coverage(4000, |chance| {
            let only_a = (0..30).filter(|_| chance.bool()).count() as u64;
            mcnemar(only_a, 30 - only_a) > 0.05
        });
        assert!(kept >= 0.945, "{kept}");
    }

    #[test]
    fn paired_difference_covers_the_true_difference() {
        for (a_fails, b_fails) in [(0.02, 0.05), (0.001, 0.001), (0.0, 0.01), (0.3, 0.3)] {
            let seen = coverage(4000, |chance| {
                let mut counts = Paired { n: 1000, ..Paired::default() };
                for _ in 0..1000 {
                    match (chance.f64() < a_fails, chance.f64() < b_fails) {
                        (true, true) => counts.both += 1,
                        (true, false) => counts.only_a += 1,
                        (false, true) => counts.only_b += 1,
                        (false, false) => {}
                    }
                }
                let (_, interval) = paired_difference(counts).expect("pairs");
                let truth = b_fails - a_fails;
                interval.low <= truth && truth <= interval.high
            });
            assert!(seen >= 0.94, "{seen} of intervals cover {a_fails} against {b_fails}");
        }
    }

    #[test]
    fn paired_difference_equals_the_textbook() {
        // Newcombe (1998), table II, example with cells 36, 12, 2, 0 of 50: 0.2 (0.0569 to 0.3404).
        let counts = Paired { n: 50, both: 36, only_a: 2, only_b: 12 };
        let (difference, interval) = paired_difference(counts).expect("pairs");
        close(difference, 0.2);
        assert!((interval.low - 0.0569).abs() < 5e-5 && (interval.high - 0.3404).abs() < 5e-5, "{interval:?}");
        assert_eq!(paired_difference(Paired::default()), None);
        let all = paired_difference(Paired { n: 3, both: 0, only_a: 0, only_b: 3 }).expect("pairs");
        assert_eq!((all.0, all.1.high), (1.0, 1.0));
    }

    #[test]
    fn difference_equals_the_textbook() {
        // Newcombe (1998), table II, 56/70 against 48/80: 0.2 (0.0524 to 0.3339).
        let (value, interval) = difference((56, 70), (48, 80)).expect("trials");
        close(value, 0.2);
        assert!((interval.low - 0.0524).abs() < 5e-5 && (interval.high - 0.3339).abs() < 5e-5, "{interval:?}");
        assert_eq!(difference((0, 0), (1, 2)), None);
    }

    #[test]
    fn mean_interval_covers_the_true_mean() {
        for n in [3, 10, 200, 3000] {
            let seen = coverage(2000, |chance| {
                let mut moments = Moments::default();
                (0..n).for_each(|_| moments.add(normal(chance, 5.0, 2.0)));
                let interval = moments.mean_interval().expect("numbers");
                interval.low <= 5.0 && 5.0 <= interval.high
            });
            assert!((0.935..=0.965).contains(&seen), "{seen} at n={n}");
        }
    }

    #[test]
    fn moments_of_little_or_wild_data_are_none() {
        let mut moments = Moments::default();
        assert_eq!((moments.mean(), moments.mean_interval()), (None, None));
        moments.add(1.0);
        assert_eq!((moments.mean(), moments.mean_interval()), (Some(1.0), None));
        moments.add(f64::MAX);
        moments.add(f64::MIN);
        assert_eq!(moments.mean_interval(), None);
    }

    #[test]
    fn quantile_interval_covers_the_true_quantile_of_any_distribution() {
        for (n, q) in [(20, 0.5), (500, 0.9), (2000, 0.99), (20_000, 0.99)] {
            // Skewed, as latencies are; its quantile is -ln(1-q).
            let truth = -(1.0_f64 - q).ln();
            let (low, high) = quantile_interval_ranks(n, q);
            let (low, high) = (low.expect("bounded"), high.expect("bounded"));
            let seen = coverage(1000, |chance| {
                let draws = (0..n).map(|_| -(1.0 - chance.f64()).ln());
                let below = draws.filter(|x| *x < truth).count() as u64;
                // The quantile lies at or above x_(low) and below x_(high).
                below >= low && below < high
            });
            assert!((0.935..=0.99).contains(&seen), "{seen} at n={n}, q={q}");
        }
    }

    #[test]
    fn too_few_numbers_bound_no_tail() {
        assert_eq!(quantile_interval_ranks(0, 0.5), (None, None));
        assert_eq!(quantile_interval_ranks(3, 0.5), (None, None));
        let (low, high) = quantile_interval_ranks(50, 0.99);
        assert!(low.is_some() && high.is_none());
        // The textbook's example: n = 100, the median lies between the 40th and the 61st.
        assert_eq!(quantile_interval_ranks(100, 0.5), (Some(40), Some(61)));
    }

    #[test]
    fn quantile_ranks_are_the_nearest_above() {
        assert_eq!(quantile_rank(0, 0.5), None);
        assert_eq!(quantile_rank(1, 0.99), Some(1));
        assert_eq!(quantile_rank(100, 0.99), Some(99));
        assert_eq!(quantile_rank(101, 0.99), Some(100));
    }

    #[test]
    fn psi_is_finite_whatever_is_empty() {
        assert_eq!(psi_of_samples(&[1.0; 50], &[1.0; 50]), Some(0.0));
        assert!(psi_of_samples(&[1.0; 50], &[2.0; 50]).expect("finite") > 1.0);
        let (wide, half): (Vec<f64>, Vec<f64>) = ((0..100).map(f64::from).collect(), (0..50).map(f64::from).collect());
        assert!(psi_of_samples(&wide, &half).expect("finite") > 0.25);
        assert_eq!(psi_of_samples(&[], &[1.0]), None);
        assert_eq!(psi_of_samples(&[f64::NAN], &[1.0]), None);
        assert!(psi_of_samples(&[1.0, 2.0, 3.0], &[1.0, 2.0, 4.0]).expect("finite").is_finite());
        // Five classes, one of them unseen by the candidate.
        let unseen = psi(&[20, 20, 20, 20, 20], &[25, 25, 25, 25, 0]).expect("finite");
        assert!((0.5..5.0).contains(&unseen), "{unseen}");
        assert_eq!(psi(&[3, 0], &[30, 0]), Some(0.0));
    }

    #[test]
    fn ks_equals_the_reference_with_ties() {
        // scipy 1.16, ks_2samp(method="asymp")
        let a = [2, 3, 3, 4, 4, 4, 5, 5, 6, 7, 7, 7].map(f64::from);
        let b = [2, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5, 6, 6, 7, 3, 2, 2].map(f64::from);
        close(ks_two_sample(&a, &b).expect("numbers").statistic, 0.220_588_235_294_117_64);
        let p: Vec<f64> = (0..400).map(|i| f64::from(i * 7919 % 1009) / 1009.0).collect();
        let q: Vec<f64> = (0..300).map(|i| (f64::from(i * 6421 % 1013) / 1013.0).powf(1.2)).collect();
        let ks = ks_two_sample(&p, &q).expect("numbers");
        close(ks.statistic, 0.086_666_666_666_666_61);
        // scipy's p comes from the exact distribution of rounded size: 0.14445.
        assert!((ks.p - 0.144_680_497_376_564_02).abs() < 1e-9, "{}", ks.p);
    }

    #[test]
    fn ks_tells_clear_differences_and_sees_none_in_equal_data() {
        let mut chance = fastrand::Rng::with_seed(7);
        let a: Vec<f64> = (0..3000).map(|_| normal(&mut chance, 10.0, 1.0)).collect();
        let mut b: Vec<f64> = (0..2000).map(|_| normal(&mut chance, 12.0, 1.0)).collect();
        assert!(ks_two_sample(&a, &b).expect("numbers").p < 1e-100);
        b.push(f64::NAN);
        assert!(ks_two_sample(&a, &b).expect("numbers").statistic > 0.6);
        assert_eq!(ks_two_sample(&[1.0; 9], &[1.0; 5]), Some(Ks { statistic: 0.0, p: 1.0 }));
        assert_eq!(ks_two_sample(&[1.0; 9], &[2.0; 9]).map(|ks| ks.statistic), Some(1.0));
        assert_eq!(ks_two_sample(&[], &[1.0]), None);
        assert!(ks_two_sample(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.5]).expect("numbers").p > 0.5);
    }

    #[test]
    fn ks_rejects_equal_distributions_as_often_as_promised() {
        let kept = coverage(1000, |chance| {
            let a: Vec<f64> = (0..80).map(|_| chance.f64()).collect();
            let b: Vec<f64> = (0..60).map(|_| chance.f64()).collect();
            ks_two_sample(&a, &b).expect("numbers").p > 0.05
        });
        assert!((0.93..=0.98).contains(&kept), "{kept}");
    }
}
