//! Which requests are copied: one draw for all candidates of a route, another for the control.

use std::collections::BTreeSet;

use crate::support::{Bench, Plan, Stub, post_as};

/// Sends so many requests that name themselves.
fn send(bench: &Bench, count: usize) {
    let mut client = bench.client();
    for nth in 0..count {
        assert_eq!(client.ask(post_as(&format!("id-{nth}"), r#"{"x":1}"#)).status, 200);
    }
}

/// Waits until everything sampled has come to an end, and gives the request ids by candidate.
fn sampled(bench: &Bench, models: &[&str]) -> Vec<BTreeSet<String>> {
    bench.settle();
    let made = bench.metrics().count("shadowpair_pairs_total", &[]) as usize;
    let pairs = bench.pairs(made);
    let of = |model: &str| {
        let theirs = pairs.iter().filter(|pair| pair["candidate"]["model"] == model);
        theirs.map(|pair| pair["request_id"].as_str().unwrap().to_owned()).collect()
    };
    models.iter().map(|model| of(model)).collect()
}

#[test]
fn at_0_percent_nothing_is_copied_and_at_100_everything() {
    let p = Stub::json(r#"{"y":1}"#);
    let (none, all) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::prod(p.address)
        .model("none", &[none.address])
        .model("all", &[all.address])
        .shadow("[{model: none, percent: 0}, {model: all, percent: 100}]")
        .start();
    send(&bench, 50);
    let sets = sampled(&bench, &["none", "all"]);
    assert_eq!((sets[0].len(), sets[1].len()), (0, 50));
    assert_eq!(none.accepted(), 0);
    let metrics = bench.metrics();
    assert_eq!(metrics.sum("shadowpair_share_ratio", &[("model", "none"), ("role", "shadow")]), 0.0);
    assert_eq!(metrics.sum("shadowpair_share_ratio", &[("model", "all"), ("role", "shadow")]), 1.0);
}

#[test]
fn a_request_sampled_at_10_percent_is_among_those_at_20() {
    let p = Stub::json(r#"{"y":1}"#);
    let stubs: Vec<Stub> = (0..3).map(|_| Stub::json(r#"{"y":1}"#)).collect();
    let bench = Plan::prod(p.address)
        .model("c10", &[stubs[0].address])
        .model("c20", &[stubs[1].address])
        .model("also20", &[stubs[2].address])
        .shadow("[{model: c10, percent: 10}, {model: c20, percent: 20}, {model: also20, percent: 20}]")
        .start();
    send(&bench, 600);
    let sets = sampled(&bench, &["c10", "c20", "also20"]);
    assert_eq!(bench.metrics().count("shadowpair_shadow_skipped_total", &[]), 0.0, "nothing was shed");
    assert!(sets[0].is_subset(&sets[1]), "nested");
    assert_eq!(sets[1], sets[2], "candidates at one percentage see the same requests");
    // Six standard deviations: once in a billion runs by chance.
    assert!((16..=104).contains(&sets[0].len()), "about 60 of 600: {}", sets[0].len());
    assert!((61..=179).contains(&sets[1].len()), "about 120 of 600: {}", sets[1].len());
}

#[test]
fn the_control_asks_prod_a_second_time_by_a_draw_of_its_own() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address)
        .shadow("[{model: c, percent: 50}]")
        .route("control: {percent: 50, max_in_flight: 64}")
        .start();
    send(&bench, 200);
    let sets = sampled(&bench, &["p", "c"]);
    assert_eq!(p.seen().len(), 200 + sets[0].len());
    let marked = p.seen().iter().filter(|seen| seen.value("x-shadowpair-role").as_deref() == Some("control")).count();
    assert_eq!(marked, sets[0].len());
    let both = sets[0].intersection(&sets[1]).count();
    assert!(both < sets[0].len() && both > 0, "two draws, not one: {both} of {}", sets[0].len());
    let metrics = bench.metrics();
    assert_eq!(metrics.sum("shadowpair_share_ratio", &[("model", "p"), ("role", "control")]), 0.5);
    let made = metrics.count("shadowpair_pairs_total", &[]) as usize;
    for pair in bench.pairs(made).iter().filter(|pair| pair["candidate"]["model"] == "p") {
        assert_eq!((&pair["candidate"]["role"], &pair["prod"]["role"]), (&"control".into(), &"prod".into()));
        assert_eq!(pair["result"], "equal");
        assert_eq!(pair["sample_percent"], 50.0);
    }
}

#[test]
fn the_tally_counts_what_was_seen_sampled_and_skipped() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).shadow("[{model: c, percent: 12.5}]").route("copy_body: 1KiB").start();
    send(&bench, 100);
    let mut client = bench.client();
    for _ in 0..100 {
        client.ask(crate::support::request("POST /", &[], &[b'a'; 2000]));
    }
    send(&bench, 100);
    bench.settle();
    let metrics = bench.metrics();
    let made = metrics.count("shadowpair_pairs_total", &[]) as usize;
    let skipped = metrics.count("shadowpair_shadow_skipped_total", &[]) as u64;
    let pairs = bench.pairs(made);
    let tally = |pair: &serde_json::Value, key: &str| pair["tally"][key].as_u64().unwrap();
    let last = pairs.iter().max_by_key(|pair| tally(pair, "seen")).unwrap();
    assert!(tally(last, "seen") <= 300 && tally(last, "seen") > 200);
    assert_eq!(tally(last, "sampled"), made as u64 + skipped);
    assert_eq!(tally(last, "skipped"), skipped);
    assert_eq!(last["sample_percent"], 12.5);
    assert!(pairs.iter().all(|pair| tally(pair, "seen") >= tally(pair, "sampled")));
}
