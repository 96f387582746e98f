//! Loss and its absence, as a consumer sees them: what the proxy wrote, taken apart and put together again, and what
//! `shadowpair compare` says of it.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::pairs::lines;
use crate::support::process::run;
use crate::support::{Bench, Plan, Stub, get};

/// Two candidates, so that numbers of one stand between those of the other.
fn bench(requests: usize) -> Bench {
    let (p, c, d) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":2}"#));
    let plan = Plan::pair(p.address, c.address).model("d", &[d.address]);
    let bench = plan.shadow("[{model: c, percent: 100, timeout: 1s}, {model: d, percent: 100, timeout: 1s}]").start();
    for _ in 0..requests {
        bench.ask(get("/"));
        bench.settle();
    }
    bench.pairs(2 * requests);
    bench
}

/// The pairs' lines by number.
fn numbered(folder: &Path) -> Vec<(u64, String)> {
    let seq = |line: &String| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap();
    let mut all: Vec<(u64, String)> = lines(folder).into_iter().map(|line| (seq(&line), line)).collect();
    all.sort();
    all
}

fn file(dir: &TempDir, name: &str, lines: impl IntoIterator<Item = String>) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, lines.into_iter().map(|line| line + "\n").collect::<String>()).unwrap();
    path
}

fn compare(args: &[&str]) -> (Value, String) {
    let output = run(&[&["compare"], args, &["--json", "-"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let text = run(&[&["compare"], args].concat()).stdout;
    (serde_json::from_slice(&output.stdout).unwrap(), String::from_utf8(text).unwrap().replace('\n', " "))
}

#[test]
fn what_is_whole_is_proven_whole() {
    let bench = bench(4);
    let folder = bench.folder().display().to_string();
    for filter in [&[][..], &["--candidate", "d"], &["--route", "r"]] {
        let (report, text) = compare(&[&[folder.as_str()], filter].concat());
        let read = &report["read"];
        assert_eq!(
            [&read["missing"], &read["before_first"], &read["duplicates"], &read["seq_reused"], &read["untracked"]],
            [&json!(0); 5]
        );
        let producers = read["producers"].as_array().unwrap();
        assert_eq!(producers.len(), 1);
        assert_eq!(
            [&producers[0]["pairs"], &producers[0]["first_seq"], &producers[0]["last_seq"]],
            [&json!(8), &json!(1), &json!(8)],
            "of all that was recorded, whatever was asked for"
        );
        assert!(text.contains("No pair is missing between the first and the last number of any"), "{text}");
    }
}

#[test]
fn gaps_repeats_and_a_deleted_beginning_are_told_apart_also_across_files() {
    let bench = bench(5);
    let all = numbered(&bench.folder());
    let dir = TempDir::new().unwrap();
    let pick = |seqs: &[u64]| {
        let found = all.iter().filter(|(seq, _)| seqs.contains(seq)).map(|(_, line)| line.clone());
        found.rev().collect::<Vec<_>>()
    };
    // 1 and 2 were deleted, 5 and 6 and 8 were lost, 3 came again, the last one leaves no trace.
    file(&dir, "pairs-1.jsonl", pick(&[4, 3, 9]));
    let other = file(&dir, "other.jsonl", pick(&[7, 3]));
    file(&dir, "pairs-2.jsonl", ["{\"schema\":\"shadowpair.pair.v2\"}".to_owned(), "{\"to".to_owned()]);
    let (folder, other) = (dir.path().display().to_string(), other.display().to_string());
    for filter in [&[][..], &["--candidate", "c"], &["--candidate", "d"]] {
        let (report, text) = compare(&[&[folder.as_str(), other.as_str()], filter].concat());
        let read = &report["read"];
        assert_eq!([&read["missing"], &read["before_first"], &read["duplicates"]], [&json!(3), &json!(2), &json!(1)]);
        assert_eq!([&read["other_schema"], &read["unreadable"]], [&json!(1), &json!(1)]);
        let one = &read["producers"][0];
        assert_eq!(one["missing_ranges"], json!(["5-6", "8"]));
        assert_eq!([&one["first_seq"], &one["last_seq"], &one["duplicates"]], [&json!(3), &json!(9), &json!(1)]);
        let counted: u64 = report["groups"].as_array().unwrap().iter().map(|g| g["pairs"].as_u64().unwrap()).sum();
        assert_eq!(counted, if filter.is_empty() { 4 } else { read["pairs"].as_u64().unwrap() });
        for said in ["3 pairs are missing", "5-6, 8", "begins at 3", "1 record came a second time and counts once"] {
            assert!(text.contains(said), "{said}: {text}");
        }
    }
}

#[test]
fn a_pipeline_stops_where_a_gate_fails_and_only_there() {
    let bench = bench(3);
    let folder = bench.folder().display().to_string();
    let ends = |args: &[&str]| {
        let output = run(&[&["compare", folder.as_str()], args].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned(), output.stdout)
    };
    let (code, errors, _) =
        ends(&["--fail-on", "errors.candidate > 0", "--candidate", "c", "--fail-on", "agreement<1"]);
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    let (code, errors, report) = ends(&["--fail-on", "agreement < 1", "--json", "-"]);
    assert_eq!((code, errors.as_str()), (Some(1), "gate failed: agreement < 1: 0, of d (shadow) on r\n"));
    let gates = serde_json::from_slice::<Value>(&report).unwrap()["gates"].clone();
    assert_eq!((&gates[0]["verdict"], &gates[1]["verdict"]), (&json!("passed"), &json!("failed")));
    assert_eq!((&gates[1]["candidate"], &gates[1]["found"]), (&json!("d"), &json!(0.0)));
    let (code, errors, _) = ends(&["--fail-on", "beyond_noise > 0.5"]);
    assert_eq!(code, Some(1), "what cannot be told has not passed");
    assert_eq!(errors.lines().count(), 2, "{errors}");
    let (code, errors, _) = ends(&["--fail-on", "agreement ~ 1"]);
    assert_eq!(code, Some(2));
    assert!(errors.starts_with("error: --fail-on `agreement ~ 1`: is no METRIC OP NUMBER"), "{errors}");
}
