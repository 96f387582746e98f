//! Whole comparisons, from pair files to text and JSON. The pairs are made here, from a fixed seed, by a small
//! world in which the truth is known; `UPDATE_GOLDEN=1` writes the fixture and what is expected of it anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value as Json, json};

use super::{Options, Report, run};
use crate::record::{self, AnsweredBy, Body, Comparison, Leg, Pair, Request, Tally};
use crate::types::{Outcome, PairResult};

/// A world that makes pairs.
struct World {
    chance: fastrand::Rng,
    producer: &'static str,
    seq: u64,
}

/// How often things happen in it.
#[derive(Clone, Copy)]
struct Odds {
    role: &'static str,
    candidate: &'static str,
    disagrees: f64,
    prod_fails: f64,
    candidate_fails: f64,
    slower_us: i64,
}

const SHADOW: Odds = Odds {
    role: "shadow",
    candidate: "fraud-v2",
    disagrees: 0.03,
    prod_fails: 0.002,
    candidate_fails: 0.01,
    slower_us: 3_000,
};

const CONTROL: Odds =
    Odds { role: "control", candidate: "fraud-v1", disagrees: 0.004, candidate_fails: 0.002, slower_us: 0, ..SHADOW };

impl World {
    fn new() -> Self {
        Self { chance: fastrand::Rng::with_seed(42), producer: "edge-1-0192f7a1", seq: 0 }
    }

    fn pair(&mut self, odds: Odds) -> Pair {
        self.seq += 1;
        let seq = self.seq;
        let prod = self.leg("fraud-v1", "prod", odds.prod_fails, 0);
        let candidate = self.leg(odds.candidate, odds.role, odds.candidate_fails, odds.slower_us);
        let ok = (prod.outcome == "ok", candidate.outcome == "ok");
        let (result, comparison) = match ok {
            (true, true) => self.compare(odds),
            (true, false) => (PairResult::CandidateFailed, None),
            (false, true) => (PairResult::ProdFailed, None),
            (false, false) => (PairResult::BothFailed, None),
        };
        let country = *self.chance.choice(&[Some("de"), Some("de"), Some("fr"), Some("it"), None]).expect("some");
        Pair {
            schema: record::SCHEMA.into(),
            id: format!("0192f7a1-{:04x}-7000-8000-{seq:012x}", self.chance.u16(..)),
            producer: self.producer.into(),
            seq,
            labels: BTreeMap::from([("cluster".into(), "eu1".into())]),
            request_id: format!("req-{seq}"),
            traceparent: None,
            time: format!("2024-11-03T10:{:02}:{:02}.{:06}Z", seq / 60 % 60, seq % 60, seq * 7919 % 1_000_000),
            route: "fraud".into(),
            config: "4f1c09ab".into(),
            arm: "prod".into(),
            answered_by: AnsweredBy {
                model: Some("fraud-v1".into()),
                version: Some("2024-11-03".into()),
                role: "prod".into(),
                status: prod.status.unwrap_or(504),
            },
            bucket: None,
            keys: BTreeMap::new(),
            slices: BTreeMap::from([("country".into(), country.map(str::to_owned))]),
            sample_percent: 10.0,
            tally: Tally { seen: seq * 10, sampled: seq, skipped: seq / 100 },
            protocol: "http/1.1".into(),
            request: Request {
                method: "POST".into(),
                path: "/v2/models/fraud/infer".into(),
                query: None,
                headers: BTreeMap::from([("content-type".into(), "application/json".into())]),
                content_type: Some("application/json".into()),
                bytes: 64,
                body: body("{\"inputs\":[{\"name\":\"x\",\"data\":[1.5,2]}]}"),
            },
            prod,
            candidate,
            result: result.as_str().into(),
            comparison_error: comparison.is_none().then(|| "a leg failed".into()),
            comparison,
        }
    }

    fn leg(&mut self, model: &str, role: &str, fails: f64, slower_us: i64) -> Leg {
        let failed = self.chance.f64() < fails;
        let outcome = if failed { Outcome::Timeout } else { Outcome::Ok };
        // Skewed, as latencies are.
        let us = 8_000 + (-(1.0 - self.chance.f64()).ln() * 4_000.0) as i64 + slower_us;
        Leg {
            model: model.into(),
            version: Some(if model == "fraud-v1" { "2024-11-03" } else { "2024-12-01" }.into()),
            role: role.into(),
            endpoint: Some("http://10.0.0.11:8080".into()),
            reused: Some(true),
            outcome: outcome.as_str().into(),
            status: (!failed).then_some(200),
            grpc_status: None,
            start_us: Some(120),
            sent_us: Some(40),
            first_byte_us: (!failed).then_some(us),
            total_us: (!failed).then_some(us + 250),
            lag_us: 3,
            content_type: Some("application/json".into()),
            headers: BTreeMap::new(),
            bytes: 43,
            body: body("{\"outputs\":[{\"data\":[0.5]},{\"data\":[\"ok\"]}]}"),
        }
    }

    fn compare(&mut self, odds: Odds) -> (PairResult, Option<Comparison>) {
        let score = (self.chance.f64() * 1000.0).round() / 1000.0;
        let differs = self.chance.f64() < odds.disagrees;
        let near = self.chance.f64() < 0.05;
        let delta = if differs {
            0.25
        } else if near {
            0.0005
        } else {
            0.0
        };
        let (prod, candidate) = if differs { ("ok", "fraud") } else { ("ok", "ok") };
        let result = match (differs, near) {
            (true, _) => PairResult::Differs,
            (false, true) => PairResult::WithinTolerance,
            (false, false) => PairResult::Equal,
        };
        let number = record::Value {
            name: "score".into(),
            kind: "number".into(),
            result: result.as_str().into(),
            prod: Some(vec![Some(score)]),
            candidate: Some(vec![Some(score + delta)]),
            delta: Some(vec![Some(delta)]),
            prod_text: None,
            candidate_text: None,
        };
        let class = record::Value {
            name: "label".into(),
            kind: "class".into(),
            result: if differs { "differs" } else { "equal" }.into(),
            prod: None,
            candidate: None,
            delta: None,
            prod_text: Some(prod.into()),
            candidate_text: Some(candidate.into()),
        };
        let places = ["/outputs/0/data/0", "/outputs/1/data/0"].map(String::from);
        let comparison = Comparison {
            equal: result == PairResult::Equal,
            within_tolerance: !differs,
            values: vec![number, class],
            differs_at: if differs { places.to_vec() } else { Vec::new() },
            differs_at_truncated: false,
        };
        (result, Some(comparison))
    }

    fn many(&mut self, n: usize, odds: Odds) -> Vec<Pair> {
        (0..n).map(|_| self.pair(odds)).collect()
    }
}

fn body(text: &str) -> Body {
    Body { encoding: "json".into(), data: Some(text.into()), truncated: false, reason: None }
}

fn lines(pairs: &[Pair]) -> String {
    pairs.iter().map(|pair| serde_json::to_string(pair).expect("json") + "\n").collect()
}

/// The two routes, two runs, gaps, a duplicate and damage of the committed fixture.
fn fixture() -> Vec<(&'static str, String)> {
    let mut world = World::new();
    let mut first = world.many(60, Odds { disagrees: 0.1, candidate_fails: 0.05, ..SHADOW });
    first.extend(world.many(20, CONTROL));
    first.drain(10..13);
    let again = lines(&first[4..5]);
    let mut canary = World { producer: "edge-2-0192f7b2", seq: 0, chance: fastrand::Rng::with_seed(7) };
    let mut second = canary.many(12, Odds { role: "canary", candidate: "digits-mlp", disagrees: 0.2, ..SHADOW });
    second.iter_mut().for_each(|pair| {
        pair.route = "digits".into();
        pair.prod.model = "digits-linear".into();
    });
    let other = "{\"schema\":\"shadowpair.pair.v9\",\"id\":7}\n";
    vec![
        ("pairs-20241103T100000-edge-1-0192f7a1-1.jsonl", lines(&first) + &again + "{\"half\n" + other),
        ("pairs-20241103T100500-edge-2-0192f7b2-1.jsonl", lines(&second) + "{\"schema\":\"shadowpair.pa"),
    ]
}

fn compare(options: &Options) -> anyhow::Result<(Report, String)> {
    let mut text = Vec::new();
    let report = run(options, &mut text, &mut |_| {})?;
    Ok((report, String::from_utf8(text).expect("utf8")))
}

fn of(source: &Path) -> Options {
    Options { sources: vec![source.display().to_string()], ..Options::default() }
}

/// A folder with one file of these pairs.
fn folder(pairs: &[Pair]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("pairs-1.jsonl"), lines(pairs)).expect("written");
    folder
}

fn assert_golden(path: &str, actual: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, actual).expect("written");
    }
    let expected = std::fs::read_to_string(path).expect(path);
    assert!(expected == actual, "{path} is not what came:\n{actual}");
}

#[test]
fn the_fixture_reads_as_it_always_did() {
    let folder = "tests/fixtures/pairs";
    for (name, text) in fixture() {
        assert_golden(&format!("{folder}/{name}"), &text);
    }
    let json = tempfile::tempdir().expect("folder");
    let json = json.path().join("report.json");
    let options = Options { json: Some(json.clone()), ..of(Path::new(folder)) };
    let (report, text) = compare(&options).expect("compared");
    assert_golden(&format!("{folder}/expected.txt"), &text);
    let written = std::fs::read_to_string(&json).expect("written");
    assert_golden(&format!("{folder}/expected.json"), &written);
    let parsed: Json = serde_json::from_str(&written).expect("json");
    assert_eq!(parsed, serde_json::to_value(&report).expect("json"));
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
}

#[test]
fn totals_are_those_of_the_pairs() {
    let mut world = World::new();
    let mut pairs = world.many(2_000, SHADOW);
    pairs.extend(world.many(500, CONTROL));
    let folder = folder(&pairs);
    let (report, text) = compare(&of(folder.path())).expect("compared");
    if let Some(path) = std::env::var_os("SHOW_TEXT") {
        std::fs::write(path, &text).expect("written");
    }
    let [control, shadow] = report.groups.as_slice() else { panic!("two groups: {:?}", report.groups) };
    assert_eq!((shadow.role.as_str(), control.role.as_str()), ("shadow", "control"));
    let count = |wanted: &[&str]| {
        let of_shadow = pairs.iter().filter(|pair| pair.candidate.role == "shadow");
        of_shadow.filter(|pair| wanted.contains(&pair.result.as_str())).count() as u64
    };
    assert_eq!(shadow.agreement.count, count(&["equal", "within_tolerance"]));
    assert_eq!(shadow.agreement.n, count(&["equal", "within_tolerance", "differs"]));
    assert_eq!(shadow.errors.candidate_only, count(&["candidate_failed"]));
    let agreement = shadow.agreement;
    assert!(agreement.low < Some(0.97) && agreement.high > Some(0.97), "{agreement:?}");
    let slower = shadow.latency.total_us.median_difference;
    assert!(slower.low <= Some(3_000.0) && slower.high >= Some(3_000.0), "{slower:?}");
    assert_eq!(shadow.control_agreement, Some(control.agreement));
    assert_eq!(
        shadow.values.first().and_then(|value| value.control_agreement).map(|share| share.n),
        Some(control.agreement.n)
    );
    assert_eq!((shadow.coverage.seen, shadow.coverage.sampled), (20_000, 2_000));
    assert!(text.contains("fraud-v2 agreed with fraud-v1 on"), "{text}");
}

#[test]
fn gaps_duplicates_and_the_rest_are_told_apart() {
    let mut world = World::new();
    let mut pairs = world.many(50, SHADOW);
    pairs.drain(4..7);
    pairs.remove(20);
    pairs.push(pairs[0].clone());
    let folder = folder(&pairs);
    let (report, text) = compare(&of(folder.path())).expect("compared");
    assert_eq!((report.read.pairs, report.read.duplicates, report.read.missing), (46, 1, 4));
    assert_eq!(report.read.producers[0].missing_ranges, ["5-7", "24"]);
    assert!(text.contains("edge-1-0192f7a1: 5-7, 24"), "{text}");
    assert!(text.contains("1 record came a second time"), "{text}");
}

#[test]
fn sources_that_overlap_count_each_pair_once() {
    let folder = folder(&World::new().many(10, SHADOW));
    let mut options = of(folder.path());
    options.sources.push(folder.path().join("pairs-1.jsonl").display().to_string());
    let (report, _) = compare(&options).expect("compared");
    assert_eq!((report.read.pairs, report.read.duplicates, report.read.parts), (10, 10, 2));
}

#[test]
fn damage_is_named_and_counted_and_stops_nothing() {
    let pairs = World::new().many(3, SHADOW);
    let folder = folder(&pairs);
    let file = folder.path().join("pairs-2.jsonl");
    let mut wrong = World { seq: 10, ..World::new() }.pair(SHADOW);
    wrong.result = "perhaps".into();
    let other = json!({"schema": "shadowpair.pair.v2", "shape": "another"});
    std::fs::write(&file, format!("not json\n{other}\n{}\u{fffd}", lines(&[wrong]))).expect("written");
    let (report, text) = compare(&of(folder.path())).expect("compared");
    let read = &report.read;
    assert_eq!((read.pairs, read.unreadable, read.other_schema, read.unfinished), (3, 2, 1, 1));
    assert_eq!(read.unreadable_first[0].at, format!("{}:1", file.display()));
    assert_eq!(read.unreadable_first[1].why, "unknown result `perhaps`");
    assert!(text.contains("2 records cannot be read, first"), "{text}");
}

#[test]
fn a_last_record_without_its_line_end_counts() {
    let folder = folder(&[]);
    let text = lines(&World::new().many(2, SHADOW));
    std::fs::write(folder.path().join("pairs-1.jsonl"), text.trim_end()).expect("written");
    let (report, _) = compare(&of(folder.path())).expect("compared");
    assert_eq!((report.read.pairs, report.read.unfinished), (2, 0));
}

#[test]
fn compressed_frames_read_as_the_lines_in_them() {
    let folder = tempfile::tempdir().expect("folder");
    let mut world = World::new();
    let frames = [world.many(5, SHADOW), world.many(6, SHADOW)];
    let bytes: Vec<u8> =
        frames.iter().flat_map(|pairs| zstd::encode_all(lines(pairs).as_bytes(), 1).expect("frame")).collect();
    std::fs::write(folder.path().join("pairs-1.jsonl.zst"), bytes).expect("written");
    assert_eq!(compare(&of(folder.path())).expect("compared").0.read.pairs, 11);
}

#[test]
fn a_filter_keeps_the_control_as_the_yardstick() {
    let mut world = World::new();
    let mut pairs = world.many(30, SHADOW);
    pairs.extend(world.many(20, CONTROL));
    pairs.extend(world.many(10, Odds { candidate: "fraud-v3", ..SHADOW }));
    let folder = folder(&pairs);
    let mut options = Options { candidate: Some("fraud-v2".into()), ..of(folder.path()) };
    let (report, _) = compare(&options).expect("compared");
    assert_eq!((report.groups.len(), report.read.pairs, report.read.filtered), (1, 30, 30));
    assert_eq!(report.groups[0].control_agreement.map(|share| share.n > 0), Some(true));
    options.candidate = Some("fraud-v9".into());
    let error = compare(&options).expect_err("none").to_string();
    assert!(error.contains("no pairs of candidate `fraud-v9`") && error.contains("fraud-v3"), "{error}");
    options.route = Some("froud".into());
    let error = compare(&options).expect_err("none").to_string();
    assert!(error.contains("no pairs of route `froud`; there are pairs of fraud"), "{error}");
}

#[test]
fn nothing_to_compare_says_what_to_do() {
    let error = |options: &Options| format!("{:#}", compare(options).expect_err("nothing"));
    assert!(error(&Options::default()).contains("name a folder of pairs"));
    assert!(error(&of(folder(&[]).path())).contains("no pairs yet"));
    let parquet = Options { sources: vec!["pairs.parquet".into()], ..Options::default() };
    assert!(error(&parquet).contains("not yet supported"));
}

#[test]
fn no_number_of_a_report_is_other_than_finite_or_null() {
    let mut world = World::new();
    let mut pairs = world.many(3, SHADOW);
    // Nothing compared, nothing measured, and numbers at the edge of what a double holds.
    pairs[0].result = "unmeasured".into();
    pairs[0].candidate.outcome = "unmeasured".into();
    for pair in &mut pairs {
        pair.candidate.total_us = Some(i64::MAX);
        pair.prod.total_us = Some(i64::MIN);
        pair.sample_percent = 1e308;
        if let Some(value) = pair.comparison.as_mut().and_then(|comparison| comparison.values.first_mut()) {
            value.prod = Some(vec![Some(f64::MIN), None, Some(1.0)]);
            value.candidate = Some(vec![Some(f64::MAX), Some(1.0)]);
        }
    }
    let folder = folder(&pairs);
    let options = Options { json: Some("-".into()), ..of(folder.path()) };
    let (_, json) = compare(&options).expect("compared");
    serde_json::from_str::<Json>(&json).expect("JSON has no NaN");
}

#[test]
fn progress_is_told_on_the_way_and_at_the_end() {
    let folder = folder(&World::new().many(2_500, SHADOW));
    let mut told = Vec::new();
    run(&of(folder.path()), &mut Vec::new(), &mut |n| told.push(n)).expect("compared");
    assert_eq!(told, [1_000, 2_000, 2_500]);
}
