//! Floor 7: what the pairs say to a newcomer, in a few sentences. Read back from the files, not kept from the
//! run, because the point of a pair is that everything about it stands in it, true label and all.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result};

use super::words::{percent, thousands};
use crate::record::{self, Pair};
use crate::types::{PairResult, Role};

/// What the demo's pairs add up to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    /// Prod and the candidate.
    pub(super) shadow: Agreement,
    /// Prod and prod a second time.
    pub(super) control: Agreement,
    /// Who was right, each row counted once however often it was sent.
    pub(super) truth: Truth,
    rows: BTreeSet<String>,
}

/// How often two answers named the same digit.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Agreement {
    /// Pairs with two answers.
    pub(super) pairs: u64,
    /// Of these, with the same digit.
    pub(super) same: u64,
    /// Of these, equal or within tolerance in everything that the routing file compares.
    pub(super) agreed: u64,
}

/// Of the rows on which prod and the candidate disagree.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Truth {
    /// All rows, those with agreement included.
    pub(super) rows: u64,
    /// Prod named the true digit.
    pub(super) prod: u64,
    /// The candidate did.
    pub(super) candidate: u64,
    /// Neither did.
    pub(super) neither: u64,
}

impl Truth {
    /// Rows with two different digits.
    pub(super) fn disagreed(&self) -> u64 {
        self.prod + self.candidate + self.neither
    }

    /// Whether one side was right so much more often that chance would rarely do it: McNemar's chi-square with
    /// one degree of freedom, at 5 %.
    pub(super) fn decided(&self) -> bool {
        let gap = self.prod.abs_diff(self.candidate);
        (gap * gap) as f64 > 3.841 * (self.prod + self.candidate) as f64
    }
}

impl Summary {
    /// Reads every pair in the folder.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let cannot = || format!("cannot read the pairs in {}", dir.display());
        let mut summary = Self::default();
        for entry in fs::read_dir(dir).with_context(cannot)? {
            let path = entry.with_context(cannot)?.path();
            if path.extension().is_some_and(|extension| extension == "jsonl") {
                for line in BufReader::new(File::open(&path).with_context(cannot)?).lines() {
                    let pair = serde_json::from_str(&line.with_context(cannot)?);
                    summary.add(&pair.with_context(|| format!("{} holds what is no pair", path.display()))?);
                }
            }
        }
        Ok(summary)
    }

    fn add(&mut self, pair: &Pair) {
        let Some((prod, candidate)) = digits(pair) else { return };
        let agreement =
            if pair.candidate.role == Role::Control.as_str() { &mut self.control } else { &mut self.shadow };
        agreement.pairs += 1;
        agreement.same += u64::from(prod == candidate);
        agreement.agreed += u64::from(matches!(
            PairResult::from_word(&pair.result),
            Some(PairResult::Equal | PairResult::WithinTolerance)
        ));
        if pair.candidate.role == Role::Shadow.as_str() {
            self.judge(pair, prod, candidate);
        }
    }

    fn judge(&mut self, pair: &Pair, prod: &str, candidate: &str) {
        let (Some(Some(row)), Some(Some(truth))) = (pair.keys.get("row"), pair.slices.get("digit")) else {
            return;
        };
        if !self.rows.insert(row.clone()) {
            return;
        }
        self.truth.rows += 1;
        match (prod == truth, candidate == truth) {
            _ if prod == candidate => {}
            (true, _) => self.truth.prod += 1,
            (_, true) => self.truth.candidate += 1,
            (false, false) => self.truth.neither += 1,
        }
    }

    /// Three to five sentences, one a paragraph.
    pub(super) fn sentences(&self, prod: &str, candidate: &str) -> Vec<String> {
        if self.shadow.pairs == 0 {
            return vec!["No pair holds two answers, so there is nothing to say about the candidate yet.".into()];
        }
        let Agreement { pairs, same, agreed } = self.shadow;
        let mut said = vec![format!(
            "{prod} and {candidate} read the same digit in {} of {} pairs ({}). They count as agreeing in {}: the \
             routing file also asks that no probability differs by more than it allows.",
            thousands(same),
            thousands(pairs),
            percent(same, pairs),
            percent(agreed, pairs)
        )];
        if self.control.pairs > 0 {
            said.push(self.noise(prod));
        }
        if self.truth.disagreed() > 0 {
            said.extend(self.verdict(prod, candidate));
        }
        said
    }

    fn noise(&self, prod: &str) -> String {
        let Agreement { pairs, same, .. } = self.control;
        let meaning =
            if same == pairs { "so the rest is the candidate's doing, not noise" } else { "so some is noise" };
        format!(
            "Asked twice (the A/A control), {prod} repeated its digit in {} of {}: {meaning}.",
            thousands(same),
            thousands(pairs)
        )
    }

    /// Who was right where they disagreed, and what that is worth.
    fn verdict(&self, prod: &str, candidate: &str) -> [String; 2] {
        let truth = &self.truth;
        let counts = format!(
            "Agreement does not say who is right; labels do. Of {} different images they disagreed on {}: there \
             {prod} was right on {}, {candidate} on {}, and neither on {}.",
            thousands(truth.rows),
            thousands(truth.disagreed()),
            thousands(truth.prod),
            thousands(truth.candidate),
            thousands(truth.neither)
        );
        let better = if truth.candidate > truth.prod { candidate } else { prod };
        let verdict = if truth.decided() {
            format!("That is more than chance would often do: on such images {better} is the better model.")
        } else {
            format!(
                "{} against {} is too close to call: chance alone often does as much, and more labelled traffic would tell.",
                truth.candidate, truth.prod
            )
        };
        [counts, verdict]
    }
}

/// The digit that each side named, where both named one.
fn digits(pair: &Pair) -> Option<(&str, &str)> {
    if pair.schema != record::SCHEMA {
        return None;
    }
    let label = pair.comparison.as_ref()?.values.iter().find(|value| value.name == "label")?;
    Some((label.prod_text.as_deref()?, label.candidate_text.as_deref()?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write;

    use super::*;
    use crate::record::{AnsweredBy, Body, Comparison, Leg, Request, Tally, Value};

    fn leg(model: &str, role: &str) -> Leg {
        Leg {
            model: model.into(),
            version: Some("1".into()),
            role: role.into(),
            endpoint: Some("http://127.0.0.1:4001".into()),
            reused: Some(true),
            outcome: "ok".into(),
            status: Some(200),
            grpc_status: None,
            start_us: Some(40),
            sent_us: Some(10),
            first_byte_us: Some(300),
            total_us: Some(310),
            lag_us: 0,
            content_type: Some("application/json".into()),
            headers: BTreeMap::new(),
            bytes: 2,
            body: Body::none("not_captured"),
        }
    }

    fn request() -> Request {
        Request {
            method: "POST".into(),
            path: "/v2/models/digits/infer".into(),
            query: None,
            headers: BTreeMap::new(),
            content_type: None,
            bytes: 2,
            body: Body::none("not_captured"),
        }
    }

    fn comparison(prod: &str, candidate: &str) -> Comparison {
        let result = if prod == candidate { "equal" } else { "differs" };
        Comparison {
            equal: prod == candidate,
            within_tolerance: prod == candidate,
            values: vec![Value {
                name: "label".into(),
                kind: "class".into(),
                result: result.into(),
                prod: None,
                candidate: None,
                delta: None,
                prod_text: Some(prod.into()),
                candidate_text: Some(candidate.into()),
            }],
            differs_at: Vec::new(),
            differs_at_truncated: false,
        }
    }

    /// A pair of the row whose true digit is `truth`.
    fn pair(row: &str, truth: &str, role: &str, said: Option<(&str, &str)>) -> Pair {
        let some = |name: &str, text: &str| BTreeMap::from([(name.to_owned(), Some(text.to_owned()))]);
        Pair {
            schema: record::SCHEMA.into(),
            id: crate::types::uuid_v7(0),
            producer: "host-1".into(),
            seq: 1,
            labels: BTreeMap::new(),
            request_id: "r".into(),
            traceparent: None,
            time: "2024-06-01T00:00:00.000000Z".into(),
            route: "digits".into(),
            config: "0123456789ab".into(),
            arm: "prod".into(),
            answered_by: AnsweredBy { model: Some("p".into()), version: None, role: "prod".into(), status: 200 },
            bucket: None,
            keys: some("row", row),
            slices: some("digit", truth),
            sample_percent: 100.0,
            tally: Tally::default(),
            protocol: "http/1.1".into(),
            request: request(),
            prod: leg("p", "prod"),
            candidate: leg("c", role),
            result: said
                .map_or("both_failed", |(prod, candidate)| if prod == candidate { "equal" } else { "differs" })
                .into(),
            comparison: said.map(|(prod, candidate)| comparison(prod, candidate)),
            comparison_error: None,
        }
    }

    fn read(pairs: &[Pair]) -> Summary {
        let dir = tempfile::tempdir().expect("a folder");
        let mut file = File::create(dir.path().join("pairs-1.jsonl")).expect("a file");
        for pair in pairs {
            writeln!(file, "{}", serde_json::to_string(pair).expect("JSON")).expect("written");
        }
        Summary::read(dir.path()).expect("read")
    }

    #[test]
    fn pairs_rows_and_who_was_right_are_counted() {
        let summary = read(&[
            pair("0", "3", "shadow", Some(("3", "3"))),
            pair("1", "3", "shadow", Some(("3", "5"))),
            pair("2", "3", "shadow", Some(("5", "3"))),
            pair("3", "3", "shadow", Some(("5", "6"))),
            pair("3", "3", "shadow", Some(("5", "6"))),
            pair("4", "3", "shadow", None),
            pair("0", "3", "control", Some(("3", "3"))),
        ]);
        assert_eq!(summary.shadow, Agreement { pairs: 5, same: 1, agreed: 1 });
        assert_eq!(summary.control, Agreement { pairs: 1, same: 1, agreed: 1 });
        assert_eq!(summary.truth, Truth { rows: 4, prod: 1, candidate: 1, neither: 1 });
    }

    #[test]
    fn the_sentences_name_the_numbers() {
        let summary = read(&[
            pair("0", "3", "shadow", Some(("3", "3"))),
            pair("1", "3", "shadow", Some(("3", "5"))),
            pair("0", "3", "control", Some(("3", "3"))),
        ]);
        let said = summary.sentences("a", "b").join("\n");
        for part in [
            "a and b read the same digit in 1 of 2 pairs (50.0 %)",
            "a repeated its digit in 1 of 1: so the rest is the candidate's doing",
            "Of 2 different images they disagreed on 1: there a was right on 1, b on 0, and neither on 0",
            "too close to call",
        ] {
            assert!(said.contains(part), "{part:?} is not in {said:?}");
        }
    }

    #[test]
    fn chance_is_told_from_a_better_model() {
        let truth = |prod, candidate| Truth { rows: 100, prod, candidate, neither: 0 };
        assert!(!truth(19, 24).decided());
        assert!(truth(10, 30).decided());
        assert!(!truth(0, 0).decided());
    }

    #[test]
    fn no_pairs_and_no_disagreement_are_said_as_such() {
        assert!(read(&[]).sentences("a", "b")[0].contains("nothing to say"));
        let said = read(&[pair("0", "3", "shadow", Some(("3", "3")))]).sentences("a", "b");
        assert_eq!(said.len(), 1);
        assert!(said[0].starts_with("a and b read the same digit in 1 of 1 pairs (100.0 %). "), "{said:?}");
    }

    #[test]
    fn a_line_that_is_no_pair_names_its_file() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("pairs-1.jsonl"), "{\n").expect("written");
        let error = Summary::read(dir.path()).expect_err("torn");
        assert!(error.to_string().contains("pairs-1.jsonl"), "{error}");
    }
}
