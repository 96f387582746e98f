//! Floor 5: gates (`--fail-on`): what must not be so of any candidate, for a pipeline that stops where it is. A gate names
//! a number as the JSON report does; one that cannot be told from the pairs at hand has failed, because a comparison
//! without traffic must never pass for a good one.

use anyhow::anyhow;
use serde_json::{Map, Value as Json};

use super::report::{Delta, Estimate, Gate, Group, Report, Share, Shift, Slice, ValueReport, Verdict};
use super::summary;
use super::totals::{Key, Totals};
use crate::config::fault::did_you_mean;
use crate::types::{Outcome, Role};

/// Stands for any name in the pattern that metrics are checked by.
const ANY: &str = "*";
/// What a slice is called whose request had no value.
const NO_VALUE: &str = "(none)";

/// A comparison with a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Below,
    AtMost,
    Above,
    AtLeast,
    Equal,
    NotEqual,
}

impl Op {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "<" => Self::Below,
            "<=" => Self::AtMost,
            ">" => Self::Above,
            ">=" => Self::AtLeast,
            "==" => Self::Equal,
            "!=" => Self::NotEqual,
            _ => return None,
        })
    }

    fn holds(self, found: f64, bound: f64) -> bool {
        match self {
            Self::Below => found < bound,
            Self::AtMost => found <= bound,
            Self::Above => found > bound,
            Self::AtLeast => found >= bound,
            Self::Equal => found == bound,
            Self::NotEqual => found != bound,
        }
    }
}

/// What must not be so.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bound {
    text: String,
    metric: Vec<String>,
    op: Op,
    bound: f64,
}

impl Bound {
    /// Reads `METRIC OP NUMBER`; an error says what would be right.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let fault = |why: String| anyhow!("--fail-on `{text}`: {why}");
        let (metric, op, number) = split(text).ok_or_else(|| {
            let closed = text.matches('"').count().is_multiple_of(2);
            let usual = "is no METRIC OP NUMBER, as in `agreement < 0.99`; OP is one of <, <=, >, >=, ==, !=";
            fault(if closed { usual } else { "a double quote is not closed" }.into())
        })?;
        let op = Op::of(op).ok_or_else(|| fault(format!("`{op}` is none of <, <=, >, >=, ==, !=")))?;
        let bound = number.parse().ok().filter(|bound: &f64| bound.is_finite());
        let bound = bound.ok_or_else(|| {
            fault(format!("`{number}` is no number; shares are from 0 to 1, times are in microseconds, without a unit"))
        })?;
        let metric = steps(metric).ok_or_else(|| fault(format!("`{metric}` is no metric's name")))?;
        find(&pattern()?, &metric, Some(ANY)).map_err(|unknown| fault(unknown.help()))?;
        Ok(Self { text: format!("{} {} {number}", text_of(&metric), op_text(op)), metric, op, bound })
    }

    /// What is found where this looks.
    fn judge(&self, group: Option<&Group>) -> Gate {
        let found = group.map_or(Ok(None), |group| find(&named(group), &self.metric, None));
        let (found, why) = match found {
            Ok(Some(found)) => (Some(found), None),
            Ok(None) if group.is_none() => (None, Some("there is no pair of a candidate".into())),
            Ok(None) => (None, Some("these pairs cannot tell".into())),
            Err(unknown) => (None, Some(unknown.help())),
        };
        let verdict = match found {
            Some(found) if self.op.holds(found, self.bound) => Verdict::Failed,
            Some(_) => Verdict::Passed,
            None => Verdict::Undecided,
        };
        let of = |part: fn(&Group) -> &String| group.map(part).cloned();
        Gate {
            gate: self.text.clone(),
            route: of(|group| &group.route),
            prod: of(|group| &group.prod),
            candidate: of(|group| &group.candidate),
            role: of(|group| &group.role),
            found,
            verdict,
            why,
        }
    }
}

impl Report {
    /// The gates that did not pass.
    pub fn failed_gates(&self) -> impl Iterator<Item = &Gate> {
        self.gates.iter().filter(|gate| gate.verdict != Verdict::Passed)
    }
}

/// A number with as many digits as a reader can use.
pub(super) fn found_text(found: f64) -> String {
    format!("{found:.8e}").parse().unwrap_or(found).to_string()
}

impl std::fmt::Display for Gate {
    /// `agreement < 0.99: 0.97, fraud-v2 (shadow) on fraud`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ", self.gate)?;
        match (self.found, &self.why) {
            (Some(found), _) => f.write_str(&found_text(found))?,
            (None, why) => write!(f, "undecided, {}", why.as_deref().unwrap_or("it cannot be told"))?,
        }
        match (&self.candidate, &self.role, &self.route) {
            (Some(candidate), Some(role), Some(route)) => write!(f, ", of {candidate} ({role}) on {route}"),
            _ => Ok(()),
        }
    }
}

/// Judges every candidate by every bound. A control is no candidate: it is what prod does to itself.
pub(super) fn judge(bounds: &[Bound], report: &Report) -> Vec<Gate> {
    let control = Role::Control.as_str();
    let groups: Vec<&Group> = report.groups.iter().filter(|group| group.role != control).collect();
    if groups.is_empty() {
        return bounds.iter().map(|bound| bound.judge(None)).collect();
    }
    groups.iter().flat_map(|group| bounds.iter().map(|bound| bound.judge(Some(*group)))).collect()
}

/// Metric, operator and number, at the first sign that stands in no quotes.
fn split(text: &str) -> Option<(&str, &str, &str)> {
    let mut quoted = false;
    let start = text.find(|c| {
        quoted ^= c == '"';
        !quoted && matches!(c, '<' | '>' | '=' | '!')
    })?;
    let rest = &text[start..];
    let end = start + rest.find(|c| !matches!(c, '<' | '>' | '=' | '!')).unwrap_or(rest.len());
    Some((text[..start].trim(), &text[start..end], text[end..].trim()))
}

/// The names between dots; one that holds a dot stands in quotes.
fn steps(metric: &str) -> Option<Vec<String>> {
    let mut steps = Vec::new();
    let mut rest = metric;
    loop {
        let (step, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => rest.split_at(rest.find('.').unwrap_or(rest.len())),
        };
        if step.trim().is_empty() {
            return None;
        }
        steps.push(step.to_owned());
        match after.strip_prefix('.') {
            Some(more) => rest = more,
            None => return after.is_empty().then_some(steps),
        }
    }
}

fn text_of(metric: &[String]) -> String {
    let odd = ['.', ' ', '<', '>', '=', '!'];
    let quoted = |step: &String| if step.contains(odd) { format!("\"{step}\"") } else { step.clone() };
    metric.iter().map(quoted).collect::<Vec<_>>().join(".")
}

fn op_text(op: Op) -> &'static str {
    match op {
        Op::Below => "<",
        Op::AtMost => "<=",
        Op::Above => ">",
        Op::AtLeast => ">=",
        Op::Equal => "==",
        Op::NotEqual => "!=",
    }
}

/// Why a name leads to no number.
enum Unknown {
    /// There is no such name among these.
    Name(String, Vec<String>),
    /// What bears the name is no number, and holds none.
    NoNumber(String),
    /// It holds several.
    Several(Vec<String>),
}

impl Unknown {
    fn help(&self) -> String {
        match self {
            Self::Name(name, known) if known.is_empty() => format!("no `{name}` there, nor anything else"),
            Self::Name(name, known) => {
                format!("no `{name}` there; {}", did_you_mean(name, "names", known.iter().map(String::as_str)))
            }
            Self::NoNumber(name) => format!("`{name}` holds no number of its own"),
            Self::Several(names) if names.iter().any(|name| name == ANY) => {
                "names more than one number; add the name of one".into()
            }
            Self::Several(names) => format!("names more than one number; add one of {}", names.join(", ")),
        }
    }
}

/// The number that a metric names; none where it cannot be told. `any` is the member that stands for all names.
fn find(group: &Json, metric: &[String], any: Option<&str>) -> Result<Option<f64>, Unknown> {
    let names = |members: &Map<String, Json>| members.keys().cloned().collect();
    let mut at = group;
    for step in metric {
        at = match at {
            Json::Null => return Ok(None),
            Json::Object(members) => members
                .get(step)
                .or_else(|| members.get(any?))
                .ok_or_else(|| Unknown::Name(step.clone(), names(members)))?,
            _ => return Err(Unknown::NoNumber(step.clone())),
        };
    }
    match at {
        Json::Null => Ok(None),
        Json::Number(number) => Ok(number.as_f64()),
        Json::Object(members) => match members.get("value") {
            Some(Json::Null) => Ok(None),
            Some(Json::Number(value)) => Ok(value.as_f64()),
            _ => Err(Unknown::Several(names(members))),
        },
        _ => Err(Unknown::NoNumber(metric.last().cloned().unwrap_or_default())),
    }
}

/// A group as the JSON report has it, with what stands there in lists under its names.
fn named(group: &Group) -> Json {
    let mut json = serde_json::to_value(group).unwrap_or_default();
    let Json::Object(members) = &mut json else { return json };
    let values = group.values.iter().map(|value| (value.name.clone(), serde_json::to_value(value).unwrap_or_default()));
    members.insert("values".into(), Json::Object(values.collect()));
    let mut slices = Map::new();
    for slice in &group.slices {
        let value = slice.value.clone().unwrap_or(NO_VALUE.into());
        if let Json::Object(values) = slices.entry(slice.slice.clone()).or_insert_with(|| Map::new().into()) {
            let mut slice = serde_json::to_value(slice).unwrap_or_default();
            // Its name, and no number.
            slice.as_object_mut().and_then(|slice| slice.remove("value"));
            values.insert(value, slice);
        }
    }
    members.insert("slices".into(), Json::Object(slices));
    if let Some(Json::Object(errors)) = members.get_mut("errors") {
        // What did not happen is not listed there, and known to be 0.
        for side in ["prod_outcomes", "candidate_outcomes"] {
            let Some(Json::Object(outcomes)) = errors.get_mut(side) else { continue };
            for outcome in Outcome::ALL {
                outcomes.entry(outcome.as_str()).or_insert(0.into());
            }
        }
    }
    json
}

/// A group in which everything is there, so that a slip in a metric's name is told before anything is read.
fn pattern() -> anyhow::Result<Json> {
    let key = Key { route: String::new(), prod: String::new(), role: Role::Shadow, candidate: String::new() };
    let estimate = Estimate::default();
    let delta = Delta {
        mean: estimate,
        mean_abs: estimate,
        p50_abs: estimate,
        p90_abs: estimate,
        p99_abs: estimate,
        max_abs: None,
        without: 0,
    };
    let value = ValueReport {
        name: ANY.into(),
        kind: String::new(),
        agreement: Share::default(),
        control_agreement: Some(Share::default()),
        uncompared: 0,
        delta: Some(delta),
        changes: Vec::new(),
        changes_left_out: 0,
        psi: None,
        ks: Some(Shift { statistic: 0.0, p: 0.0, n: 0 }),
    };
    let slice =
        Slice { slice: ANY.into(), value: Some(ANY.into()), agreement: Share::default(), small: false, below: false };
    let group = Group {
        control_agreement: Some(Share::default()),
        beyond_noise: Some(estimate),
        values: vec![value],
        slices: vec![slice],
        ..summary::group(&key, &Totals::new()?, None)
    };
    let mut pattern = named(&group);
    fill(&mut pattern);
    Ok(pattern)
}

/// What cannot be told of nothing is a number all the same.
fn fill(json: &mut Json) {
    match json {
        Json::Null => *json = 0.into(),
        Json::Object(members) => members.values_mut().for_each(fill),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        Bound::parse(text).expect_err(text).to_string()
    }

    #[test]
    fn every_number_of_a_group_can_be_named() {
        let metrics = [
            "agreement",
            "agreement.low",
            "pairs",
            "control_agreement.n",
            "beyond_noise.high",
            "results.differs",
            "results.candidate_failed.count",
            "values.score.agreement",
            "values.\"a.b\".delta.p99_abs.high",
            "values.label.psi",
            "values.score.ks.p",
            "errors.candidate",
            "errors.difference.low",
            "errors.mcnemar_p",
            "errors.candidate_outcomes.stream_error",
            "latency.total_us.median_difference.high",
            "latency.first_byte_us.candidate.p99",
            "slices.country.DE.agreement.low",
            "slices.amount.\"<10\".agreement",
            "coverage.skipped",
        ];
        for metric in metrics {
            for op in ["<", " <= ", ">", " >=", "== ", "!="] {
                let bound = Bound::parse(&format!("{metric}{op}-1.5e3")).expect(metric);
                assert_eq!((bound.bound, bound.text), (-1500.0, format!("{metric} {} -1.5e3", op.trim())));
            }
        }
    }

    #[test]
    fn a_slip_is_told_before_anything_is_read() {
        assert!(fault("agreement").contains("is no METRIC OP NUMBER"));
        assert!(fault("agreement = 1").contains("`=` is none of"));
        assert!(fault("agreement =< 1").contains("`=<` is none of"));
        assert!(fault("agreement < 99%").contains("shares are from 0 to 1"));
        assert!(fault("agreement < ").contains("`` is no number"));
        assert!(fault("agreement < NaN").contains("is no number"));
        assert!(fault("< 1").contains("is no metric's name"));
        assert!(fault("values..agreement < 1").contains("is no metric's name"));
        assert!(fault("agrement < 1").contains("did you mean `agreement`?"));
        assert!(fault("errors.diference.low > 0").contains("did you mean `difference`?"));
        assert!(fault("beyond_noise.max > 0").contains("known names: `high`, `low`, `n`, `value`"));
        assert!(fault("slices.country.DE < 1").contains("names more than one number; add one of agreement"));
        assert!(fault("errors > 0").contains("names more than one number; add one of candidate"));
        assert!(fault("route == 1").contains("`route` holds no number of its own"));
        assert!(fault("agreement.low.low > 1").contains("`low` holds no number of its own"));
        assert!(fault("values < 1").contains("names more than one number; add the name of one"));
        assert!(fault("values.\"a.b < 1").contains("a double quote is not closed"));
        assert!(fault("pairs.n > 1").contains("`n` holds no number of its own"));
        assert!(fault("differs_at > 1").contains("`differs_at` holds no number"));
    }

    #[test]
    fn a_bound_holds_as_it_is_written() {
        let holds = |op: &str, found: f64| Op::of(op).expect(op).holds(found, 1.0);
        assert!(holds("<", 0.9) && !holds("<", 1.0) && holds("<=", 1.0) && !holds("<=", 1.1));
        assert!(holds(">", 1.1) && !holds(">", 1.0) && holds(">=", 1.0) && !holds(">=", 0.9));
        assert!(holds("==", 1.0) && !holds("==", 1.1) && holds("!=", 1.1) && !holds("!=", 1.0));
    }
}
