//! Floor 5: from running totals to a report: shares, intervals, tests, and the warnings that an honest reader
//! would want to have been given.

use std::collections::BTreeMap;

use crate::analysis::stats;
use crate::record::SCHEMA;
use crate::types::{Outcome, PairResult, Role};

use super::intake::Taken;
use super::report::{Coverage, Errors, Estimate, Group, Latency, Place, Quantiles, Read, Share, Slice, Timing};
use super::sketch::Times;
use super::totals::{Clock, Key, Side, Totals};
use super::words::{self, percent};

/// The most differing places that a report names.
const PLACES: usize = 20;
/// The most values of one slice that a report names.
const SLICE_VALUES: usize = 20;
/// Below this many compared pairs a slice is an anecdote.
const SMALL_SLICE: u64 = 30;
/// Below this many compared pairs a group is one.
pub(super) const SMALL_GROUP: u64 = 100;
/// How many producers with gaps, and gaps of each, a warning names.
const MISSING_PRODUCERS: usize = 3;
const MISSING_RANGES: usize = 5;
/// Above this share, pairs that say nothing are worth a warning.
const NOTABLE: f64 = 0.01;

/// What the totals of one group say, beside those of the route's control.
pub(super) fn group(key: &Key, totals: &Totals, control: Option<&Totals>) -> Group {
    let (agreed, compared) = totals.agreement();
    let agreement = Share::of(agreed, compared);
    let control_agreement = control.map(|control| {
        let (agreed, compared) = control.agreement();
        Share::of(agreed, compared)
    });
    let results = PairResult::ALL.iter().map(|r| (r.as_str(), Share::of(totals.count(*r), totals.pairs)));
    let values = totals.values.iter().enumerate().map(|(at, value)| {
        // The same routing file gives both roles the same values in the same order.
        value.report(control.and_then(|control| control.values.get(at)).filter(|other| other.same_as(value)))
    });
    let (places, differs_at_left_out) = totals.differs_at.top(PLACES);
    let (slices, slices_truncated) = slices(totals, agreement);
    Group {
        route: key.route.clone(),
        prod: key.prod.clone(),
        candidate: key.candidate.clone(),
        role: key.role.as_str().into(),
        prod_versions: totals.prod.versions.iter().cloned().collect(),
        candidate_versions: totals.candidate.versions.iter().cloned().collect(),
        pairs: totals.pairs,
        agreement,
        control_agreement,
        beyond_noise: control_agreement.and_then(|control| beyond(control, agreement)),
        results: results.collect(),
        values: values.collect(),
        differs_at: places
            .into_iter()
            .map(|(pointer, pairs)| Place {
                pointer,
                share: Share::of(pairs.min(totals.comparisons), totals.comparisons),
            })
            .collect(),
        differs_at_left_out,
        errors: errors(totals),
        latency: Latency { first_byte_us: timing(&totals.first_byte), total_us: timing(&totals.total) },
        slices,
        slices_truncated,
        coverage: coverage(totals),
        warnings: warnings(key, totals, control),
    }
}

/// How far the control's agreement lies above the candidate's.
fn beyond(control: Share, agreement: Share) -> Option<Estimate> {
    let difference = stats::difference((control.count, control.n), (agreement.count, agreement.n))?;
    Some(spread(Some(difference), agreement.n))
}

fn spread(difference: Option<(f64, stats::Interval)>, n: u64) -> Estimate {
    Estimate {
        value: difference.map(|(value, _)| value),
        low: difference.map(|(_, interval)| interval.low),
        high: difference.map(|(_, interval)| interval.high),
        n,
    }
}

fn errors(totals: &Totals) -> Errors {
    let counts = totals.failures;
    let difference = stats::paired_difference(counts);
    let outcomes = |side: &Side| -> BTreeMap<&'static str, u64> {
        let all = Outcome::ALL.iter().zip(side.outcomes);
        all.filter(|(_, count)| *count > 0).map(|(outcome, count)| (outcome.as_str(), count)).collect()
    };
    Errors {
        prod: Share::of(counts.both + counts.only_a, counts.n),
        candidate: Share::of(counts.both + counts.only_b, counts.n),
        difference: spread(difference, counts.n),
        prod_only: counts.only_a,
        candidate_only: counts.only_b,
        mcnemar_p: stats::mcnemar(counts.only_a, counts.only_b),
        prod_outcomes: outcomes(&totals.prod),
        candidate_outcomes: outcomes(&totals.candidate),
    }
}

fn timing(clock: &Clock) -> Timing {
    let quantiles =
        |times: &Times| Quantiles { p50: times.quantile(0.5), p90: times.quantile(0.9), p99: times.quantile(0.99) };
    Timing {
        prod: quantiles(&clock.prod),
        candidate: quantiles(&clock.candidate),
        median_difference: clock.difference.quantile(0.5),
    }
}

/// The largest slices of each name, and whether any were left out.
fn slices(totals: &Totals, overall: Share) -> (Vec<Slice>, bool) {
    let mut all: Vec<Slice> = totals
        .slices
        .iter()
        .map(|((name, value), (agreed, n))| {
            let agreement = Share::of(*agreed, *n);
            let below = agreement.high.zip(overall.value).is_some_and(|(high, overall)| high < overall);
            Slice { slice: name.clone(), value: value.clone(), agreement, small: *n < SMALL_SLICE, below }
        })
        .collect();
    all.sort_by(|a, b| a.slice.cmp(&b.slice).then(b.agreement.n.cmp(&a.agreement.n)));
    let mut named = BTreeMap::<String, usize>::new();
    let before = all.len();
    all.retain(|slice| {
        let count = named.entry(slice.slice.clone()).or_default();
        *count += 1;
        *count <= SLICE_VALUES
    });
    let truncated = totals.slices_left_out || all.len() < before;
    (all, truncated)
}

fn coverage(totals: &Totals) -> Coverage {
    let sum = |of: fn(&crate::record::Tally) -> u64| {
        totals.tallies.values().fold(0_u64, |sum, tally| sum.saturating_add(of(tally)))
    };
    Coverage {
        seen: sum(|tally| tally.seen),
        sampled: sum(|tally| tally.sampled),
        skipped: sum(|tally| tally.skipped),
        producers: totals.tallies.len() as u64,
        sample_percent_min: totals.sample_percent.map(|(low, _)| low),
        sample_percent_max: totals.sample_percent.map(|(_, high)| high),
    }
}

fn warnings(key: &Key, totals: &Totals, control: Option<&Totals>) -> Vec<String> {
    let mut warnings = Vec::new();
    let compared = totals.agreement().1;
    if compared < SMALL_GROUP {
        let count = words::counted(compared, "pair was", "pairs were");
        warnings.push(format!("only {count} compared: read the intervals, not the numbers"));
    }
    let mut notable = |result: PairResult, why: &str| {
        let share = totals.count(result) as f64 / totals.pairs.max(1) as f64;
        if share > NOTABLE {
            warnings.push(format!("{} of the pairs are {result}: {why}", percent(share)));
        }
    };
    notable(PairResult::Uncompared, "a body could not be read as the rules want; they count on neither side");
    notable(PairResult::Unmeasured, "shadowpair itself ran too late to tell; they blame no model");
    notable(PairResult::Cancelled, "the client left, or the proxy was drained; they blame no model");
    if key.role != Role::Control && control.is_none() {
        let route = &key.route;
        warnings.push(format!(
            "no control pair of route {route}: how far {} differs from itself is unknown; `control: {{percent: 1}}` on \
             the route makes one for about every 100 requests",
            key.prod
        ));
    }
    for (model, side) in [(&key.prod, &totals.prod), (&key.candidate, &totals.candidate)] {
        if side.versions.len() > 1 {
            let versions: Vec<&str> = side.versions.iter().map(String::as_str).collect();
            warnings.push(format!("{model} answered as several versions ({}), mixed here", versions.join(", ")));
        }
    }
    // Prod and control are one model, with one warning.
    warnings.dedup();
    if let Some((low, high)) = totals.sample_percent.filter(|(low, high)| low < high) {
        warnings.push(format!("sampled under different shares ({low} to {high} %): each pair weighs the same here"));
    }
    if totals.values_left_out {
        warnings.push("more values than can be told apart; the later ones are left out".into());
    }
    warnings
}

/// Warnings about what was read, for all groups.
pub(super) fn reading_warnings(taken: &Taken) -> Vec<String> {
    let read = &taken.read;
    let mut warnings = Vec::new();
    let mut when = |n: u64, warning: &dyn Fn() -> String| {
        if n > 0 {
            warnings.push(warning());
        }
    };
    when(read.missing, &|| {
        let lost = words::counted(read.missing, "pair was made that is", "pairs were made that are");
        format!("{lost} not in these sources (numbers missing: {})", missing(read))
    });
    when(read.before_first, &|| {
        let before = words::counted(read.before_first, "pair was", "pairs were");
        format!(
            "{before} made before the first one here ({}): deleted since, as `keep` does, in other places, or lost",
            beginnings(read)
        )
    });
    when(read.seq_reused, &|| {
        let pairs = words::counted(read.seq_reused, "pair has", "pairs have");
        format!("{pairs} a number that another pair of its producer has: two runs under one name prove no loss")
    });
    when(read.unreadable, &|| {
        let records = words::counted(read.unreadable, "record cannot be read", "records cannot be read");
        let first = read.unreadable_first.first().map(|first| format!("{}: {}", first.at, first.why));
        format!("{records}, first {}", first.unwrap_or_default())
    });
    when(read.other_schema, &|| {
        let records = words::counted(read.other_schema, "record is", "records are");
        format!("{records} of another schema than {SCHEMA} and not counted")
    });
    when(read.duplicates, &|| {
        let records = words::counted(read.duplicates, "record came", "records came");
        let once = if read.duplicates == 1 { "counts" } else { "count" };
        format!("{records} a second time and {once} once")
    });
    when(read.unfinished, &|| {
        let files = words::counted(read.unfinished, "file is", "files are");
        format!("{files} still being written, read up to the last whole record")
    });
    when(taken.ungrouped, &|| {
        let pairs = words::counted(taken.ungrouped, "pair belongs", "pairs belong");
        format!("{pairs} to more routes and models than can be told apart, and are left out")
    });
    when(read.untracked, &|| {
        let pairs = words::counted(read.untracked, "pair comes", "pairs come");
        format!("{pairs} from more producers than can be checked for gaps; the numbers missing may be fewer")
    });
    warnings
}

/// The first gaps, as `host-1: 3-5, 9; host-2: 7`.
fn missing(read: &Read) -> String {
    let short = read.producers.iter().filter(|producer| producer.missing > 0);
    let named = short.take(MISSING_PRODUCERS).map(|producer| {
        let ranges: Vec<&str> = producer.missing_ranges.iter().take(MISSING_RANGES).map(String::as_str).collect();
        let more = if producer.missing_ranges.len() > MISSING_RANGES { ", …" } else { "" };
        format!("{}: {}{more}", producer.producer, ranges.join(", "))
    });
    named.collect::<Vec<_>>().join("; ")
}

/// Where those begin that do not begin at 1, as `host-1 begins at 501`.
fn beginnings(read: &Read) -> String {
    let late = read.producers.iter().filter(|producer| producer.before_first > 0);
    let named: Vec<String> = late
        .take(MISSING_PRODUCERS)
        .map(|producer| format!("{} begins at {}", producer.producer, producer.first_seq))
        .collect();
    named.join(", ")
}
