//! Whole comparisons, from pair files to text and JSON. The pairs are made here, from a fixed seed, by a small
//! world in which the truth is known; `UPDATE_GOLDEN=1` writes the fixture and what is expected of it anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod gates;
mod world;

use std::path::Path;

use serde_json::{Value as Json, json};

use super::{Options, Report, run};
use crate::record::Pair;
use world::{CONTROL, Odds, SHADOW, World, lines};

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

fn updating() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some()
}

/// Equal but for the last digits, in which machines differ.
fn assert_alike(at: &str, expected: &Json, actual: &Json) {
    match (expected, actual) {
        (Json::Number(a), Json::Number(b)) => {
            let (a, b) = (a.as_f64().expect("number"), b.as_f64().expect("number"));
            assert!((a - b).abs() <= 1e-9 * a.abs().max(1.0), "{at}: {a} is not {b}");
        }
        (Json::Array(a), Json::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().for_each(|(i, (a, b))| assert_alike(&format!("{at}/{i}"), a, b));
        }
        (Json::Object(a), Json::Object(b)) if a.keys().eq(b.keys()) => {
            a.iter().for_each(|(key, a)| assert_alike(&format!("{at}/{key}"), a, &b[key]));
        }
        (a, b) => assert_eq!(a, b, "{at}"),
    }
}

fn assert_golden(path: &str, actual: &str) {
    if updating() {
        std::fs::write(path, actual).expect("written");
    }
    let expected = std::fs::read_to_string(path).expect(path);
    assert!(expected == actual, "{path} is not what came:\n{actual}");
}

#[test]
fn the_fixture_reads_as_it_always_did() {
    let folder = "tests/fixtures/pairs";
    if updating() {
        for (name, text) in fixture() {
            std::fs::write(format!("{folder}/{name}"), text).expect("written");
        }
    }
    let json = tempfile::tempdir().expect("folder");
    let json = json.path().join("report.json");
    let options = Options { json: Some(json.clone()), ..of(Path::new(folder)) };
    let (report, text) = compare(&options).expect("compared");
    assert_golden(&format!("{folder}/expected.txt"), &text);
    let written = std::fs::read_to_string(&json).expect("written");
    let parsed: Json = serde_json::from_str(&written).expect("json");
    assert_eq!(parsed, serde_json::to_value(&report).expect("json"));
    let expected = format!("{folder}/expected.json");
    if updating() {
        std::fs::write(&expected, &written).expect("written");
    }
    let expected = serde_json::from_str(&std::fs::read_to_string(&expected).expect("read")).expect("json");
    assert_alike("", &expected, &parsed);
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
    let [shadow, control] = report.groups.as_slice() else { panic!("two groups: {:?}", report.groups) };
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
fn gaps_are_judged_on_all_records_whatever_was_asked_for() {
    let mut world = World::new();
    let mut pairs = world.many(20, SHADOW);
    pairs.extend(world.many(20, Odds { candidate: "fraud-v3", ..SHADOW }));
    // Of a record that cannot be used the number counts: it has arrived.
    pairs[30].result = "perhaps".into();
    pairs.remove(10);
    let folder = folder(&pairs);
    for candidate in [None, Some("fraud-v2"), Some("fraud-v3")] {
        let options = Options { candidate: candidate.map(str::to_owned), ..of(folder.path()) };
        let read = compare(&options).expect("compared").0.read;
        assert_eq!((read.missing, read.before_first, read.unreadable), (1, 0, 1), "{candidate:?}");
        assert_eq!(read.producers[0].missing_ranges, ["11"]);
        assert_eq!((read.producers[0].pairs, read.producers[0].last_seq), (39, 40));
    }
}

#[test]
fn a_beginning_that_was_deleted_is_told_apart_from_a_gap() {
    let mut pairs = World::new().many(30, SHADOW);
    pairs.drain(..12);
    pairs.reverse();
    let (report, text) = compare(&of(folder(&pairs).path())).expect("compared");
    let text = text.replace('\n', " ");
    assert_eq!((report.read.missing, report.read.before_first), (0, 12));
    assert!(text.contains("No pair is missing between the first and the last number of any"), "{text}");
    assert!(text.contains("12 pairs were made before the first one here (edge-1-0192f7a1 begins at 13)"), "{text}");
    assert!(text.contains("What one made after its last number here, these sources cannot tell."), "{text}");
}

#[test]
fn a_pair_again_counts_once_in_every_figure_also_across_files() {
    let mut world = World::new();
    let pairs = world.many(300, SHADOW);
    let whole = folder(&pairs);
    let torn = folder(&pairs[..200]);
    std::fs::write(torn.path().join("pairs-2.jsonl"), lines(&pairs[150..])).expect("written");
    std::fs::write(torn.path().join("pairs-3.jsonl"), lines(&pairs[40..60])).expect("written");
    let (once, _) = compare(&of(whole.path())).expect("compared");
    let (again, text) = compare(&of(torn.path())).expect("compared");
    assert_eq!(once.groups, again.groups);
    assert_eq!((again.read.pairs, again.read.duplicates, again.read.missing), (300, 70, 0));
    assert_eq!(again.read.producers[0].duplicates, 70);
    assert!(text.contains("70 records came a second time and count once"), "{text}");
}

#[test]
fn two_pairs_under_one_number_prove_nothing_and_say_so() {
    let mut pairs = World::new().many(10, SHADOW);
    pairs[7].seq = 3;
    let (report, text) = compare(&of(folder(&pairs).path())).expect("compared");
    assert_eq!((report.read.pairs, report.read.seq_reused, report.read.duplicates), (10, 1, 0));
    assert!(text.contains("Whether a pair is missing cannot be told for all of them"), "{text}");
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
fn control_characters_of_traffic_do_not_reach_the_terminal() {
    let mut pairs = World::new().many(3, SHADOW);
    pairs[0].slices.insert("agent".into(), Some("\u{1b}[2J\u{7}bell".into()));
    let (report, text) = compare(&of(folder(&pairs).path())).expect("compared");
    assert!(text.contains("bell") && !text.contains('\u{1b}') && !text.contains('\u{7}'), "{text}");
    assert!(report.groups[0].slices.iter().any(|slice| slice.value.as_deref() == Some("\u{1b}[2J\u{7}bell")));
}

#[test]
fn noise_of_prod_itself_is_told_from_change() {
    let told = |disagrees: f64, noise: f64| {
        let mut world = World::new();
        let mut pairs = world.many(1_000, Odds { disagrees, ..SHADOW });
        pairs.extend(world.many(1_000, Odds { disagrees: noise, ..CONTROL }));
        let (report, text) = compare(&of(folder(&pairs).path())).expect("compared");
        (report.groups[0].beyond_noise.expect("a control").low > Some(0.0), text.replace('\n', " "))
    };
    let (beyond, text) = told(0.1, 0.02);
    assert!(beyond && text.contains("of the pairs differ beyond that noise"), "{text}");
    let (beyond, text) = told(0.05, 0.05);
    assert!(!beyond && text.contains("differs no more than that noise"), "{text}");
}

#[test]
fn a_topic_compares_as_the_files_do() {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    let pairs = World::new().many(40, SHADOW);
    let cluster = rdkafka::mocking::MockCluster::new(1).expect("cluster");
    cluster.create_topic("shadowpair.pairs", 3, 1).expect("topic");
    let brokers = cluster.bootstrap_servers();
    let mut config = rdkafka::ClientConfig::new();
    let producer: BaseProducer = config.set("bootstrap.servers", &brokers).create().expect("producer");
    for pair in &pairs {
        let payload = serde_json::to_string(pair).expect("json");
        producer.send(BaseRecord::to("shadowpair.pairs").key(&pair.request_id).payload(&payload)).expect("queued");
    }
    producer.flush(std::time::Duration::from_secs(30)).expect("delivered");
    let of_topic = Options { sources: vec![format!("kafka://{brokers}/shadowpair.pairs")], ..Options::default() };
    let (topic, _) = compare(&of_topic).expect("compared");
    let (files, _) = compare(&of(folder(&pairs).path())).expect("compared");
    assert_eq!((topic.read.pairs, topic.read.missing, topic.read.parts), (40, 0, 3));
    assert_eq!(topic.groups[0].results, files.groups[0].results);
    assert_eq!(topic.groups[0].latency, files.groups[0].latency);
}

#[test]
fn progress_is_told_on_the_way_and_at_the_end() {
    let folder = folder(&World::new().many(2_500, SHADOW));
    let mut told = Vec::new();
    run(&of(folder.path()), &mut Vec::new(), &mut |n| told.push(n)).expect("compared");
    assert_eq!(told, [1_000, 2_000, 2_500]);
}
