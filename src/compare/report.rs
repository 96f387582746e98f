//! Floor 5: the comparison as other programs read it (`--json`). Names are stable: gates and dashboards are
//! written against them. Shares are 0 to 1, times microseconds, intervals 95 %; whatever cannot be told from
//! the data at hand is null, never NaN. How each number is found stands with `analysis::stats`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::analysis::stats::wilson;

/// The value of [`Report::schema`].
pub const SCHEMA: &str = "shadowpair.comparison.v1";

/// Everything that a comparison says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Always [`SCHEMA`].
    pub schema: &'static str,
    /// The share of intervals that cover the truth: 0.95.
    pub confidence: f64,
    /// What was read.
    pub read: Read,
    /// One for each route, prod model, role and candidate, in that order; a control comes last.
    pub groups: Vec<Group>,
    /// What was asked by `--fail-on`, of each candidate.
    pub gates: Vec<Gate>,
    /// What a reader should know before trusting the numbers, about all groups.
    pub warnings: Vec<String>,
}

/// One thing that must not be so (`--fail-on`), and whether it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gate {
    /// As it was asked: `agreement < 0.99`.
    pub gate: String,
    /// Of whom; null where there is no candidate at all.
    pub route: Option<String>,
    /// See `route`.
    pub prod: Option<String>,
    /// See `route`.
    pub candidate: Option<String>,
    /// See `route`.
    pub role: Option<String>,
    /// The number; null where it cannot be told.
    pub found: Option<f64>,
    /// How it came out.
    pub verdict: Verdict,
    /// Why it cannot be told.
    pub why: Option<String>,
}

/// How a gate came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is not so.
    Passed,
    /// It is so.
    Failed,
    /// It cannot be told, which counts as failed.
    Undecided,
}

/// What was read, and what of it could not be used.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Read {
    /// The sources as they were named.
    pub sources: Vec<String>,
    /// Files and partitions.
    pub parts: u64,
    /// Records found, whatever became of them.
    pub records: u64,
    /// Pairs that count below.
    pub pairs: u64,
    /// Pairs of other routes and candidates than those asked for.
    pub filtered: u64,
    /// Records that came before under the same `id`.
    pub duplicates: u64,
    /// Records of another schema, skipped.
    pub other_schema: u64,
    /// Records that could not be read.
    pub unreadable: u64,
    /// The first of these.
    pub unreadable_first: Vec<Unreadable>,
    /// Files whose end is still being written; read up to the last whole record.
    pub unfinished: u64,
    /// Pairs that were made and are not here: numbers missing between a producer's first and last, of all routes and
    /// candidates, whatever was asked for. What a producer made after its last number here leaves no trace.
    pub missing: u64,
    /// Numbers before each producer's first: deleted since, in other places, or lost; which of these cannot be told.
    pub before_first: u64,
    /// Pairs under a number that another pair of the same producer has: then no number proves anything.
    pub seq_reused: u64,
    /// Pairs whose number found no room: `missing` may count some of them.
    pub untracked: u64,
    /// Each run of each instance, in order of its name; at most 100, those with losses first.
    pub producers: Vec<Producer>,
    /// Producers not named for want of room.
    pub producers_left_out: u64,
    /// The earliest and the latest `time` of the pairs.
    pub from: Option<String>,
    /// See `from`.
    pub to: Option<String>,
}

/// A record that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// `FILE:LINE`, or `TOPIC[PARTITION]:OFFSET`.
    pub at: String,
    /// Why.
    pub why: String,
}

/// One run of one instance, and what its numbering says about loss.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Producer {
    /// `HOST-STARTID`.
    pub producer: String,
    /// Numbers read of it, of all routes.
    pub pairs: u64,
    /// The smallest `seq`.
    pub first_seq: u64,
    /// The largest `seq`.
    pub last_seq: u64,
    /// How many numbers stand before the first.
    pub before_first: u64,
    /// How many in between are missing.
    pub missing: u64,
    /// The first of these, as `7` or `3-5`.
    pub missing_ranges: Vec<String>,
    /// Whether there are more ranges.
    pub missing_ranges_truncated: bool,
    /// Records that came before under the same `id`.
    pub duplicates: u64,
    /// Pairs under a number that another pair has.
    pub seq_reused: u64,
}

/// A share of a count.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Share {
    /// How many.
    pub count: u64,
    /// Of how many.
    pub n: u64,
    /// `count` / `n`.
    pub value: Option<f64>,
    /// The interval's lower end (Wilson).
    pub low: Option<f64>,
    /// The interval's upper end.
    pub high: Option<f64>,
}

impl Share {
    /// So many of so many.
    pub fn of(count: u64, n: u64) -> Self {
        let interval = wilson(count, n);
        Self {
            count,
            n,
            value: (n > 0).then(|| count as f64 / n as f64),
            low: interval.map(|interval| interval.low),
            high: interval.map(|interval| interval.high),
        }
    }
}

/// A number with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Estimate {
    /// The number.
    pub value: Option<f64>,
    /// The interval's lower end; null where the sample cannot bound it.
    pub low: Option<f64>,
    /// The interval's upper end; null where the sample cannot bound it.
    pub high: Option<f64>,
    /// The sample's size.
    pub n: u64,
}

/// One candidate against one prod model on one route, in one role.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    /// The route's name.
    pub route: String,
    /// The prod model.
    pub prod: String,
    /// The candidate; for a control the prod model itself.
    pub candidate: String,
    /// `shadow`, `canary` or `control`.
    pub role: String,
    /// Versions that prod answered with.
    pub prod_versions: Vec<String>,
    /// Versions that the candidate answered with.
    pub candidate_versions: Vec<String>,
    /// All pairs.
    pub pairs: u64,
    /// Pairs equal or within tolerance, of those compared (neither failed nor uncompared).
    pub agreement: Share,
    /// The same of the route's control: what prod would score against itself. Null without a control, and for
    /// the control itself.
    pub control_agreement: Option<Share>,
    /// `control_agreement` − `agreement`: disagreement that prod's own noise does not explain (Newcombe's interval
    /// for independent shares). Null without a control.
    pub beyond_noise: Option<Estimate>,
    /// Every `result` of the record, of all pairs.
    pub results: BTreeMap<&'static str, Share>,
    /// One for each of `compare.values`.
    pub values: Vec<ValueReport>,
    /// Where answers differ most often.
    pub differs_at: Vec<Place>,
    /// Differing places not named for want of room.
    pub differs_at_left_out: u64,
    /// Failures of both sides.
    pub errors: Errors,
    /// Times of both sides, over legs that went well.
    pub latency: Latency,
    /// Agreement by slice, the largest slices of each name first.
    pub slices: Vec<Slice>,
    /// Whether there are more slices.
    pub slices_truncated: bool,
    /// How much of the traffic these pairs stand for.
    pub coverage: Coverage,
    /// What a reader should know before trusting the numbers.
    pub warnings: Vec<String>,
}

/// One of `compare.values`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ValueReport {
    /// Its name in the routing file.
    pub name: String,
    /// `number`, `class`, `text`, `vector` or `json`.
    pub kind: String,
    /// Equal or within tolerance, of those compared.
    pub agreement: Share,
    /// The same of the route's control.
    pub control_agreement: Option<Share>,
    /// Missing on a side, or not of its kind.
    pub uncompared: u64,
    /// For numbers and vectors.
    pub delta: Option<Delta>,
    /// For classes: the most frequent changes.
    pub changes: Vec<Change>,
    /// Changes not named for want of room.
    pub changes_left_out: u64,
    /// How far the distribution moved: population stability index, of the numbers in ten bins by prod's deciles
    /// or of the classes. Null for other kinds.
    pub psi: Option<f64>,
    /// How far the distribution of numbers moved. Null for other kinds.
    pub ks: Option<Shift>,
}

/// Candidate − prod. A value of several numbers counts once a pair, so that the intervals hold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Delta {
    /// The mean; of several numbers their mean.
    pub mean: Estimate,
    /// The mean of |delta|; of several numbers their mean.
    pub mean_abs: Estimate,
    /// Quantiles of |delta|, of several numbers the largest; from a fair sample of at most 10,000 pairs.
    pub p50_abs: Estimate,
    /// See `p50_abs`.
    pub p90_abs: Estimate,
    /// See `p50_abs`.
    pub p99_abs: Estimate,
    /// The largest |delta| of all pairs.
    pub max_abs: Option<f64>,
    /// Numbers left out because a side is not finite or the lengths differ.
    pub without: u64,
}

/// The two-sample Kolmogorov-Smirnov test, on a fair sample of at most 10,000 pairs; of several numbers one
/// drawn by chance. Both sides saw the same requests, so `p` is cautious: it calls fewer shifts real.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Shift {
    /// The largest distance between the two cumulative distributions, 0 to 1.
    pub statistic: f64,
    /// The chance of such a distance where nothing moved.
    pub p: f64,
    /// The sample's size on each side.
    pub n: u64,
}

/// A class that prod and the candidate see differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Prod's class.
    pub prod: String,
    /// The candidate's.
    pub candidate: String,
    /// In how many pairs.
    pub pairs: u64,
}

/// A differing place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Place {
    /// Its JSON Pointer.
    pub pointer: String,
    /// In how many of the compared pairs.
    pub share: Share,
}

/// Failures: legs whose outcome is neither `ok` nor ours to answer for (`cancelled`, `unmeasured`). Counted over
/// pairs in which both legs were measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Errors {
    /// Prod's.
    pub prod: Share,
    /// The candidate's.
    pub candidate: Share,
    /// Candidate − prod (Newcombe's interval for paired shares).
    pub difference: Estimate,
    /// Pairs in which only prod failed.
    pub prod_only: u64,
    /// Pairs in which only the candidate failed.
    pub candidate_only: u64,
    /// McNemar's test: the chance of so uneven a split if both fail equally often.
    pub mcnemar_p: f64,
    /// Prod's legs by outcome, of all pairs.
    pub prod_outcomes: BTreeMap<&'static str, u64>,
    /// The candidate's.
    pub candidate_outcomes: BTreeMap<&'static str, u64>,
}

/// Times, counted from the leg's last request byte.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// To the first byte of the answer.
    pub first_byte_us: Timing,
    /// To the last.
    pub total_us: Timing,
}

/// One of the two times.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Timing {
    /// Prod's, over its legs that went well.
    pub prod: Quantiles,
    /// The candidate's, over its legs that went well.
    pub candidate: Quantiles,
    /// The median of candidate − prod, over pairs in which both went well.
    pub median_difference: Estimate,
}

/// Quantiles with distribution-free intervals (order statistics), to three significant digits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quantiles {
    /// The median.
    pub p50: Estimate,
    /// Nine of ten are faster.
    pub p90: Estimate,
    /// Ninety-nine of a hundred are faster.
    pub p99: Estimate,
}

/// Agreement within a segment of the traffic.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Slice {
    /// The slice's name in the routing file.
    pub slice: String,
    /// Its value; null where the request had none.
    pub value: Option<String>,
    /// As for the group.
    pub agreement: Share,
    /// Fewer than 30 compared pairs: read it as an anecdote.
    pub small: bool,
    /// Whether the whole interval lies below the group's agreement.
    pub below: bool,
}

/// What the producers counted, summed over each producer's last known tally.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Coverage {
    /// Requests that matched the route.
    pub seen: u64,
    /// Of these, drawn for the candidate.
    pub sampled: u64,
    /// Of these, not copied, whatever the reason.
    pub skipped: u64,
    /// Runs of instances that these pairs come from.
    pub producers: u64,
    /// The smallest share under which a pair was sampled, in per cent.
    pub sample_percent_min: Option<f64>,
    /// The largest.
    pub sample_percent_max: Option<f64>,
}
