//! Floor 5: the running totals of one of `compare.values`. What is summed counts each pair once, also where a
//! value is an array: the numbers of one answer depend on one another, and an interval that took them as
//! independent would be too narrow.

use crate::analysis::stats::{self, Moments};
use crate::record::Value;
use crate::types::{ValueKind, ValueResult};

use super::report::{Change, Delta, Estimate, Share, Shift, ValueReport};
use super::sketch::{Counts, Reservoir, quantile_of};
use super::words::cut;

/// The most classes, and changes of class, that are counted by name.
const CLASSES: usize = 1_000;
/// The most changes that a report names.
const CHANGES: usize = 10;
/// Running totals of one value.
#[derive(Debug)]
pub(super) struct ValueTotals {
    name: String,
    kind: ValueKind,
    results: [u64; ValueResult::ALL.len()],
    mean: Moments,
    mean_abs: Moments,
    max_abs: Option<f64>,
    without: u64,
    sample: Reservoir<Sample>,
    prod_classes: Counts<String>,
    candidate_classes: Counts<String>,
    changes: Counts<(String, String)>,
    chance: fastrand::Rng,
}

/// What is kept of one pair's numbers.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// The largest |delta|.
    moved: f64,
    /// One number of each side, from the same place.
    prod: f64,
    candidate: f64,
}

impl ValueTotals {
    pub(super) fn new(name: &str, kind: ValueKind) -> Self {
        Self {
            name: name.into(),
            kind,
            results: [0; ValueResult::ALL.len()],
            mean: Moments::default(),
            mean_abs: Moments::default(),
            max_abs: None,
            without: 0,
            sample: Reservoir::new(),
            prod_classes: Counts::new(CLASSES),
            candidate_classes: Counts::new(CLASSES),
            changes: Counts::new(CLASSES),
            chance: fastrand::Rng::with_seed(2),
        }
    }

    pub(super) fn is(&self, name: &str, kind: ValueKind) -> bool {
        self.name == name && self.kind == kind
    }

    /// Whether both are totals of one value.
    pub(super) fn same_as(&self, other: &ValueTotals) -> bool {
        self.is(&other.name, other.kind)
    }

    pub(super) fn add(&mut self, value: &Value, result: ValueResult) {
        if let Some(count) = self.results.get_mut(result as usize) {
            *count += 1;
        }
        match self.kind {
            ValueKind::Number | ValueKind::Vector => self.add_numbers(value),
            ValueKind::Class => self.add_class(value),
            ValueKind::Text | ValueKind::Json => {}
        }
    }

    fn add_numbers(&mut self, value: &Value) {
        // Redacted, or missing on a side: there is nothing to sum.
        let (Some(prod), Some(candidate)) = (&value.prod, &value.candidate) else { return };
        let both = prod.iter().zip(candidate).filter_map(|(p, c)| Some(((*p)?, (*c)?)));
        let both: Vec<(f64, f64)> = both.filter(|(p, c)| (c - p).is_finite()).collect();
        self.without += (prod.len().max(candidate.len()) - both.len()) as u64;
        if both.is_empty() {
            return;
        }
        let n = both.len() as f64;
        let moved = both.iter().map(|(p, c)| (c - p).abs()).fold(0.0, f64::max);
        self.mean.add(both.iter().map(|(p, c)| (c - p) / n).sum());
        self.mean_abs.add(both.iter().map(|(p, c)| (c - p).abs() / n).sum());
        self.max_abs = Some(self.max_abs.unwrap_or(0.0).max(moved));
        let place = if both.len() == 1 { 0 } else { self.chance.usize(..both.len()) };
        if let Some((prod, candidate)) = both.get(place).copied() {
            self.sample.add(Sample { moved, prod, candidate });
        }
    }

    fn add_class(&mut self, value: &Value) {
        let (Some(prod), Some(candidate)) = (&value.prod_text, &value.candidate_text) else { return };
        let (prod, candidate) = (cut(prod), cut(candidate));
        self.prod_classes.add(prod.clone());
        self.candidate_classes.add(candidate.clone());
        if value.result == ValueResult::Differs.as_str() {
            self.changes.add((prod, candidate));
        }
    }

    fn count(&self, result: ValueResult) -> u64 {
        self.results.get(result as usize).copied().unwrap_or(0)
    }

    fn agreement(&self) -> Share {
        let agreed = self.count(ValueResult::Equal) + self.count(ValueResult::WithinTolerance);
        Share::of(agreed, agreed + self.count(ValueResult::Differs))
    }

    /// The report, beside the same value of the route's control.
    pub(super) fn report(&self, control: Option<&ValueTotals>) -> ValueReport {
        let numbers = matches!(self.kind, ValueKind::Number | ValueKind::Vector);
        let (changes, changes_left_out) = self.changes.top(CHANGES);
        let (prod, candidate): (Vec<f64>, Vec<f64>) =
            self.sample.items().iter().map(|sample| (sample.prod, sample.candidate)).unzip();
        let ks = stats::ks_two_sample(&prod, &candidate);
        // The elements of a vector are not draws from one distribution: no shift is told for them.
        let scalar = self.kind == ValueKind::Number;
        ValueReport {
            name: self.name.clone(),
            kind: self.kind.as_str().into(),
            agreement: self.agreement(),
            control_agreement: control.map(ValueTotals::agreement),
            uncompared: self.count(ValueResult::Uncompared),
            delta: numbers.then(|| self.delta()),
            changes: changes.into_iter().map(|((prod, candidate), pairs)| Change { prod, candidate, pairs }).collect(),
            changes_left_out,
            psi: match self.kind {
                ValueKind::Number => stats::psi_of_samples(&prod, &candidate),
                ValueKind::Class => self.class_psi(),
                _ => None,
            },
            ks: ks.filter(|_| scalar).map(|ks| Shift { statistic: ks.statistic, p: ks.p, n: prod.len() as u64 }),
        }
    }

    fn delta(&self) -> Delta {
        let mut moved: Vec<f64> = self.sample.items().iter().map(|sample| sample.moved).collect();
        moved.sort_by(f64::total_cmp);
        Delta {
            mean: mean(&self.mean),
            mean_abs: mean(&self.mean_abs),
            p50_abs: quantile_of(&moved, 0.5),
            p90_abs: quantile_of(&moved, 0.9),
            p99_abs: quantile_of(&moved, 0.99),
            max_abs: self.max_abs,
            without: self.without,
        }
    }

    fn class_psi(&self) -> Option<f64> {
        let names: std::collections::BTreeSet<&String> =
            self.prod_classes.names().chain(self.candidate_classes.names()).collect();
        let bins = |classes: &Counts<String>| {
            let named = names.iter().map(|name| classes.get(name));
            named.chain([classes.rest()]).collect::<Vec<u64>>()
        };
        stats::psi(&bins(&self.prod_classes), &bins(&self.candidate_classes))
    }
}

fn mean(moments: &Moments) -> Estimate {
    let interval = moments.mean_interval();
    Estimate {
        value: moments.mean(),
        low: interval.map(|interval| interval.low),
        high: interval.map(|interval| interval.high),
        n: moments.n(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn numbers(prod: Vec<Option<f64>>, candidate: Vec<Option<f64>>) -> Value {
        Value {
            name: "score".into(),
            kind: "number".into(),
            result: "differs".into(),
            prod: Some(prod),
            candidate: Some(candidate),
            delta: None,
            prod_text: None,
            candidate_text: None,
        }
    }

    fn classes(prod: &str, candidate: &str) -> Value {
        let result = if prod == candidate { "equal" } else { "differs" };
        let (prod_text, candidate_text) = (Some(prod.into()), Some(candidate.into()));
        let value = numbers(vec![], vec![]);
        Value {
            kind: "class".into(),
            result: result.into(),
            prod: None,
            candidate: None,
            prod_text,
            candidate_text,
            ..value
        }
    }

    #[test]
    fn an_array_counts_once_and_its_holes_are_counted() {
        let mut totals = ValueTotals::new("score", ValueKind::Number);
        totals.add(
            &numbers(vec![Some(1.0), Some(2.0), None], vec![Some(2.0), Some(5.0), Some(1.0)]),
            ValueResult::Differs,
        );
        let delta = totals.report(None).delta.expect("numbers");
        assert_eq!((delta.mean.value, delta.mean.n, delta.mean_abs.value), (Some(2.0), 1, Some(2.0)));
        assert_eq!((delta.max_abs, delta.p50_abs.value, delta.without), (Some(3.0), Some(3.0), 1));
    }

    #[test]
    fn numbers_that_overflow_never_reach_a_report() {
        let mut totals = ValueTotals::new("score", ValueKind::Number);
        totals.add(&numbers(vec![Some(f64::MAX)], vec![Some(f64::MIN)]), ValueResult::Differs);
        totals.add(&numbers(vec![Some(f64::MAX / 2.0)], vec![Some(-f64::MAX / 2.1)]), ValueResult::Differs);
        totals.add(&numbers(vec![Some(-f64::MAX / 2.0)], vec![Some(f64::MAX / 2.1)]), ValueResult::Differs);
        let report = totals.report(None);
        let text = serde_json::to_string(&report).expect("json");
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        assert_eq!(report.delta.expect("numbers").without, 1);
    }

    #[test]
    fn a_redacted_value_counts_by_its_result_alone() {
        let mut totals = ValueTotals::new("score", ValueKind::Number);
        let hidden = Value { prod: None, candidate: None, ..numbers(vec![], vec![]) };
        totals.add(&hidden, ValueResult::Differs);
        let report = totals.report(None);
        assert_eq!((report.agreement.count, report.agreement.n), (0, 1));
        assert_eq!((report.ks, report.psi), (None, None));
        assert_eq!(report.delta.expect("numbers").mean.value, None);
    }

    #[test]
    fn changes_of_class_are_counted_and_the_shift_is_told() {
        let mut totals = ValueTotals::new("label", ValueKind::Class);
        for (prod, candidate, times) in [("ok", "ok", 90), ("ok", "fraud", 7), ("fraud", "ok", 3)] {
            let result = if prod == candidate { ValueResult::Equal } else { ValueResult::Differs };
            (0..times).for_each(|_| totals.add(&classes(prod, candidate), result));
        }
        let report = totals.report(None);
        assert_eq!((report.agreement.count, report.agreement.n), (90, 100));
        let first = report.changes.first().expect("changes");
        assert_eq!((first.prod.as_str(), first.candidate.as_str(), first.pairs), ("ok", "fraud", 7));
        assert!(report.psi.expect("classes") > 0.0 && report.delta.is_none());
    }
}
