//! Floor 5: the running totals of one group, that is one candidate against one prod model on one route in one
//! role. A pair is added and forgotten; everything kept is bounded.

use std::collections::{BTreeMap, BTreeSet};

use crate::analysis::stats::Paired;
use crate::record::{LegView, PairView, Tally};
use crate::types::{Outcome, PairResult, Role, ValueKind, ValueResult};

use super::sketch::{Counts, Times};
use super::values::ValueTotals;
use super::words::cut;

/// The most values of one group; a routing file has a handful.
const VALUES: usize = 200;
/// The most differing places that are counted by name.
const PLACES: usize = 10_000;
/// The most slices that are counted by name.
const SLICES: usize = 1_000;
/// The most producers whose tallies are kept for a group.
const PRODUCERS: usize = 10_000;
/// The most versions that are named.
const VERSIONS: usize = 20;

/// What a group is told by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) route: String,
    pub(super) prod: String,
    /// Before the candidate, so that a control sorts behind what it is the yardstick of.
    pub(super) role: Role,
    pub(super) candidate: String,
}

/// The words of one pair, checked: a record that spells one otherwise is not read at all.
#[derive(Debug)]
pub(super) struct Words {
    role: Role,
    result: PairResult,
    prod: Outcome,
    candidate: Outcome,
    values: Vec<(ValueKind, ValueResult)>,
}

impl Words {
    pub(super) fn of(pair: &PairView) -> Result<Self, String> {
        let known = |what: &str, word: &str| format!("unknown {what} `{}`", cut(word));
        let outcome = |leg: &LegView| Outcome::from_word(&leg.outcome).ok_or_else(|| known("outcome", &leg.outcome));
        let values = pair.comparison.iter().flat_map(|comparison| &comparison.values).map(|value| {
            let kind = ValueKind::from_word(&value.kind).ok_or_else(|| known("kind", &value.kind))?;
            let result = ValueResult::from_word(&value.result).ok_or_else(|| known("result", &value.result))?;
            Ok((kind, result))
        });
        let role = &pair.candidate.role;
        Ok(Self {
            role: Role::from_word(role).ok_or_else(|| known("role", role))?,
            result: PairResult::from_word(&pair.result).ok_or_else(|| known("result", &pair.result))?,
            prod: outcome(&pair.prod)?,
            candidate: outcome(&pair.candidate)?,
            values: values.collect::<Result<_, String>>()?,
        })
    }

    /// The group that the pair belongs to.
    pub(super) fn key(&self, pair: &PairView) -> Key {
        Key {
            route: pair.route.clone(),
            prod: pair.prod.model.clone(),
            candidate: pair.candidate.model.clone(),
            role: self.role,
        }
    }
}

/// One side's legs.
#[derive(Debug, Default)]
pub(super) struct Side {
    pub(super) outcomes: [u64; Outcome::ALL.len()],
    pub(super) versions: BTreeSet<String>,
}

/// One of the two times, on both sides.
#[derive(Debug)]
pub(super) struct Clock {
    pub(super) prod: Times,
    pub(super) candidate: Times,
    pub(super) difference: Times,
}

/// Running totals of one group.
#[derive(Debug)]
pub(super) struct Totals {
    pub(super) pairs: u64,
    pub(super) results: [u64; PairResult::ALL.len()],
    pub(super) prod: Side,
    pub(super) candidate: Side,
    pub(super) failures: Paired,
    pub(super) values: Vec<ValueTotals>,
    pub(super) values_left_out: bool,
    /// Pairs with a comparison, of which `differs_at` is told.
    pub(super) comparisons: u64,
    pub(super) differs_at: Counts<String>,
    pub(super) first_byte: Clock,
    pub(super) total: Clock,
    /// Slice name and value: compared pairs that agreed, and all compared.
    pub(super) slices: BTreeMap<(String, Option<String>), (u64, u64)>,
    pub(super) slices_left_out: bool,
    pub(super) tallies: BTreeMap<String, Tally>,
    /// The smallest and the largest.
    pub(super) sample_percent: Option<(f64, f64)>,
}

impl Totals {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            pairs: 0,
            results: [0; PairResult::ALL.len()],
            prod: Side::default(),
            candidate: Side::default(),
            failures: Paired::default(),
            values: Vec::new(),
            values_left_out: false,
            comparisons: 0,
            differs_at: Counts::new(PLACES),
            first_byte: Clock::new()?,
            total: Clock::new()?,
            slices: BTreeMap::new(),
            slices_left_out: false,
            tallies: BTreeMap::new(),
            sample_percent: None,
        })
    }

    /// Adds one pair.
    pub(super) fn add(&mut self, pair: &PairView, words: &Words) -> anyhow::Result<()> {
        self.pairs += 1;
        if let Some(count) = self.results.get_mut(words.result as usize) {
            *count += 1;
        }
        self.prod.add(&pair.prod, words.prod);
        self.candidate.add(&pair.candidate, words.candidate);
        self.add_failures(words);
        self.add_comparison(pair, words);
        self.add_slices(pair, words.result);
        self.add_coverage(pair);
        let ok = (words.prod == Outcome::Ok, words.candidate == Outcome::Ok);
        self.first_byte.add(pair.prod.first_byte_us, pair.candidate.first_byte_us, ok)?;
        self.total.add(pair.prod.total_us, pair.candidate.total_us, ok)
    }

    fn add_failures(&mut self, words: &Words) {
        let (Some(prod), Some(candidate)) = (failed(words.prod), failed(words.candidate)) else { return };
        self.failures.n += 1;
        match (prod, candidate) {
            (true, true) => self.failures.both += 1,
            (true, false) => self.failures.only_a += 1,
            (false, true) => self.failures.only_b += 1,
            (false, false) => {}
        }
    }

    fn add_comparison(&mut self, pair: &PairView, words: &Words) {
        let Some(comparison) = &pair.comparison else { return };
        self.comparisons += 1;
        for (value, (kind, result)) in comparison.values.iter().zip(&words.values) {
            let place = self.values.iter().position(|totals| totals.is(&value.name, *kind));
            if place.is_none() && self.values.len() >= VALUES {
                self.values_left_out = true;
                continue;
            }
            let place = place.unwrap_or_else(|| {
                self.values.push(ValueTotals::new(&value.name, *kind));
                self.values.len() - 1
            });
            if let Some(totals) = self.values.get_mut(place) {
                totals.add(value, *result);
            }
        }
        comparison.differs_at.iter().for_each(|pointer| self.differs_at.add(cut(pointer)));
    }

    fn add_slices(&mut self, pair: &PairView, result: PairResult) {
        let Some(agreed) = agreed(result) else { return };
        for (name, value) in &pair.slices {
            let key = (cut(name), value.as_deref().map(cut));
            if self.slices.len() >= SLICES && !self.slices.contains_key(&key) {
                self.slices_left_out = true;
                continue;
            }
            let counts = self.slices.entry(key).or_default();
            counts.0 += u64::from(agreed);
            counts.1 += 1;
        }
    }

    fn add_coverage(&mut self, pair: &PairView) {
        let percent = pair.sample_percent;
        let (low, high) = self.sample_percent.unwrap_or((percent, percent));
        self.sample_percent = Some((low.min(percent), high.max(percent)));
        if let Some(tally) = self.tallies.get_mut(&pair.producer) {
            // Running counts, in any order: the largest is the last.
            tally.seen = tally.seen.max(pair.tally.seen);
            tally.sampled = tally.sampled.max(pair.tally.sampled);
            tally.skipped = tally.skipped.max(pair.tally.skipped);
        } else if self.tallies.len() < PRODUCERS {
            self.tallies.insert(pair.producer.clone(), pair.tally);
        }
    }

    /// How many pairs ended so.
    pub(super) fn count(&self, result: PairResult) -> u64 {
        self.results.get(result as usize).copied().unwrap_or(0)
    }

    /// Pairs that agreed, and all that were compared.
    pub(super) fn agreement(&self) -> (u64, u64) {
        let agreed = self.count(PairResult::Equal) + self.count(PairResult::WithinTolerance);
        (agreed, agreed + self.count(PairResult::Differs))
    }
}

impl Side {
    fn add(&mut self, leg: &LegView, outcome: Outcome) {
        if let Some(count) = self.outcomes.get_mut(outcome as usize) {
            *count += 1;
        }
        let version = leg.version.as_deref().filter(|version| !self.versions.contains(*version));
        if let Some(version) = version.filter(|_| self.versions.len() < VERSIONS) {
            self.versions.insert(cut(version));
        }
    }
}

impl Clock {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { prod: Times::new()?, candidate: Times::new()?, difference: Times::new()? })
    }

    /// Adds the times of the legs that went well.
    fn add(&mut self, prod: Option<i64>, candidate: Option<i64>, ok: (bool, bool)) -> anyhow::Result<()> {
        let (prod, candidate) = (prod.filter(|_| ok.0), candidate.filter(|_| ok.1));
        prod.map_or(Ok(()), |us| self.prod.add(us))?;
        candidate.map_or(Ok(()), |us| self.candidate.add(us))?;
        match (prod, candidate) {
            (Some(prod), Some(candidate)) => self.difference.add(candidate.saturating_sub(prod)),
            _ => Ok(()),
        }
    }
}

/// Whether a leg failed; `None` where nobody can tell, or it was not the model's doing.
fn failed(outcome: Outcome) -> Option<bool> {
    match outcome {
        Outcome::Ok => Some(false),
        Outcome::Cancelled | Outcome::Unmeasured => None,
        _ => Some(true),
    }
}

/// Whether a compared pair agreed; `None` where it was not compared.
fn agreed(result: PairResult) -> Option<bool> {
    match result {
        PairResult::Equal | PairResult::WithinTolerance => Some(true),
        PairResult::Differs => Some(false),
        _ => None,
    }
}
