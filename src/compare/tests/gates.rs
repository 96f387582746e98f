//! Gates on whole comparisons.

use super::*;
use crate::compare::report::Verdict;

/// How each gate came out, and the text.
fn gates(pairs: &[Pair], gates: &[&str]) -> (Vec<(Verdict, String)>, String) {
    let folder = folder(pairs);
    let fail_on = gates.iter().map(|gate| (*gate).into()).collect();
    let (report, text) = compare(&Options { fail_on, ..of(folder.path()) }).expect("compared");
    let judged = report.gates.iter().map(|gate| (gate.verdict, gate.to_string()));
    (judged.collect(), text)
}

#[test]
fn gates_are_judged_on_each_candidate_and_never_on_the_control() {
    let mut world = World::new();
    let mut pairs = world.many(400, Odds { candidate_fails: 0.05, ..SHADOW });
    pairs.extend(world.many(200, Odds { disagrees: 0.5, ..CONTROL }));
    pairs.extend(world.many(400, Odds { candidate: "fraud-v3", disagrees: 0.4, ..SHADOW }));
    let asked = ["agreement < 0.9", "values.label.agreement.low <= 0.5", "errors.candidate_outcomes.reset > 0"];
    let (judged, text) = gates(&pairs, &asked);
    let verdicts: Vec<Verdict> = judged.iter().map(|(verdict, _)| *verdict).collect();
    use Verdict::*;
    assert_eq!(verdicts, [Passed, Passed, Passed, Failed, Passed, Passed], "{judged:?}");
    assert!(judged[3].1.starts_with("agreement < 0.9: 0.") && judged[3].1.ends_with(", of fraud-v3 (shadow) on fraud"));
    assert!(text.contains("Gates: 1 of 6 failed") && text.contains("FAILED"), "{text}");
    let (_, text) = gates(&pairs[..600], &asked[..1]);
    assert!(text.contains("Gates: all passed"), "{text}");
}

#[test]
fn what_cannot_be_told_has_not_passed() {
    let mut world = World::new();
    let pairs = world.many(20, SHADOW);
    let asked = [
        "beyond_noise.low > 0",
        "values.scroe.psi > 0.2",
        "slices.country.XX.agreement < 1",
        "latency.total_us.prod.p99.high > 1",
    ];
    let (judged, text) = gates(&pairs, &asked);
    assert!(judged.iter().all(|(verdict, _)| *verdict == Verdict::Undecided), "{judged:?}");
    assert!(judged[0].1.contains("undecided, these pairs cannot tell, of fraud-v2 (shadow) on fraud"), "{judged:?}");
    assert!(judged[1].1.contains("no `scroe` there; did you mean `score`?"), "{judged:?}");
    assert!(text.contains("UNDECIDED") && text.lines().all(|line| line.chars().count() <= 100), "{text}");
    let (judged, _) = gates(&world.many(20, CONTROL), &["agreement < 0.5"]);
    let expected = "agreement < 0.5: undecided, there is no pair of a candidate";
    assert_eq!(judged, [(Verdict::Undecided, expected.into())]);
}

#[test]
fn a_gate_with_a_slip_is_told_before_anything_is_read() {
    let options = Options { fail_on: vec!["agrement < 1".into()], ..of(Path::new("/nowhere")) };
    let error = compare(&options).expect_err("a slip").to_string();
    assert_eq!(error, "--fail-on `agrement < 1`: no `agrement` there; did you mean `agreement`?");
}
