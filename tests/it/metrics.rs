//! What a scrape shows: every series of the file from the start, none that a stranger can add, and an account that closes.

use crate::support::metrics::Metrics;
use crate::support::{Plan, Stub, answer, ask, get, post, post_as, request};

const REASONS: [&str; 10] = [
    "in_flight",
    "rate",
    "memory",
    "lagging",
    "unhealthy",
    "body_too_large",
    "request_incomplete",
    "rewrite_failed",
    "queue_full",
    "draining",
];

#[test]
fn counters_of_all_that_the_file_names_stand_at_0_from_the_start() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let plan = Plan::pair(p.address, c.address).with("p", "version: \"1.10\"");
    let plan = plan.route("control: {percent: 10}").route("canary: {model: c, percent: 1}");
    let bench = plan.model("f", &[p.address]).route("fallback: f").start();
    let metrics = bench.metrics();
    let zero = |name: &str, labels: &[(&str, &str)]| assert_eq!(metrics.sum(name, labels), 0.0, "{name} {labels:?}");
    for reason in REASONS {
        zero(
            "shadowpair_shadow_skipped_total",
            &[("route", "r"), ("model", "c"), ("role", "shadow"), ("reason", reason)],
        );
        zero(
            "shadowpair_shadow_skipped_total",
            &[("route", "r"), ("model", "p"), ("role", "control"), ("reason", reason)],
        );
    }
    for result in [
        "equal",
        "within_tolerance",
        "differs",
        "uncompared",
        "prod_failed",
        "candidate_failed",
        "both_failed",
        "cancelled",
        "unmeasured",
    ] {
        zero("shadowpair_pairs_total", &[("route", "r"), ("model", "c"), ("role", "shadow"), ("result", result)]);
        zero("shadowpair_pairs_total", &[("route", "r"), ("model", "p"), ("role", "control"), ("result", result)]);
    }
    for outcome in ["ok", "http_error", "timeout", "connect_error", "reset", "protocol_error", "cancelled"] {
        zero("shadowpair_legs_total", &[("route", "r"), ("model", "p"), ("role", "prod"), ("outcome", outcome)]);
        zero("shadowpair_legs_total", &[("route", "r"), ("model", "c"), ("role", "shadow"), ("outcome", outcome)]);
    }
    for reason in ["queue_full", "spool_full", "disk", "rejected", "corrupt", "shutdown"] {
        zero("shadowpair_pairs_dropped_total", &[("sink", "file"), ("reason", reason)]);
    }
    for by in ["prod", "canary", "fallback", "proxy"] {
        zero("shadowpair_requests_total", &[("route", "r"), ("answered_by", by)]);
    }
    zero("shadowpair_pairs_delivered_total", &[("sink", "file")]);
    for name in [
        "shadowpair_pairs_recovered_total",
        "shadowpair_pairs_queue_depth",
        "shadowpair_pairs_queue_bytes",
        "shadowpair_pairs_oldest_seconds",
        "shadowpair_spool_pairs",
        "shadowpair_spool_bytes",
        "shadowpair_in_flight",
        "shadowpair_shadow_bytes",
        "shadowpair_client_connections",
        "shadowpair_accept_paused_total",
        "shadowpair_endpoint_ejected_total",
        "shadowpair_upstream_connections",
        "shadowpair_sink_errors_total",
    ] {
        zero(name, &[]);
    }
    let address = format!("http://{}", c.address);
    assert_eq!(metrics.sum("shadowpair_endpoint_up", &[("model", "c"), ("address", &address)]), 1.0);
    assert_eq!(metrics.sum("shadowpair_share_ratio", &[("role", "control")]), 0.1);
    assert_eq!(metrics.sum("shadowpair_sink_up", &[("sink", "file")]), 1.0);
    assert_eq!(metrics.sum("shadowpair_config_reloads_total", &[("outcome", "applied")]), 1.0);
    assert_eq!(metrics.sum("shadowpair_config_last_reload_successful", &[]), 1.0);
    assert!(metrics.sum("shadowpair_config_last_reload_success_timestamp_seconds", &[]) > 1.6e9);
    assert_eq!(metrics.series("shadowpair_build_info", &[("version", env!("CARGO_PKG_VERSION"))]).len(), 1);
    assert_eq!(metrics.series("shadowpair_config_info", &[])[0].0["hash"].len(), 12);
    assert_eq!(metrics.sum("shadowpair_model_info", &[("model", "p"), ("version", "1.10")]), 1.0);
    for name in ["shadowpair_shadow_limit_bytes", "shadowpair_lane_lag_seconds", "shadowpair_spool_limit_bytes"] {
        metrics.sum(name, &[]);
    }
    for name in ["process_cpu_seconds_total", "process_open_fds", "process_resident_memory_bytes"] {
        metrics.sum(name, &[]);
    }
    for name in ["shadowpair_request_duration_seconds_count", "shadowpair_leg_duration_seconds_count"] {
        assert_eq!(metrics.count(name, &[]), 0.0, "histograms appear at their first event");
    }
}

#[test]
fn each_request_is_counted_once_under_its_contracts_names() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":2}"#));
    let bench = Plan::pair(p.address, c.address).start();
    for _ in 0..5 {
        bench.ask(post("/", "{}"));
    }
    bench.wait_metric("shadowpair_pairs_delivered_total", &[("sink", "file")], 5.0);
    bench.wait_metric("shadowpair_requests_total", &[("route", "r"), ("answered_by", "prod"), ("code", "200")], 5.0);
    for (name, labels) in [
        ("shadowpair_request_duration_seconds_count", &[("route", "r"), ("answered_by", "prod")][..]),
        ("shadowpair_overhead_seconds_count", &[("route", "r")]),
        ("shadowpair_legs_total", &[("route", "r"), ("model", "p"), ("role", "prod"), ("outcome", "ok")]),
        ("shadowpair_legs_total", &[("route", "r"), ("model", "c"), ("role", "shadow"), ("outcome", "ok")]),
        ("shadowpair_leg_duration_seconds_count", &[("route", "r"), ("model", "p"), ("role", "prod")]),
        ("shadowpair_leg_first_byte_seconds_count", &[("route", "r"), ("model", "c"), ("role", "shadow")]),
        ("shadowpair_pairs_total", &[("route", "r"), ("model", "c"), ("role", "shadow"), ("result", "differs")]),
        ("shadowpair_delivery_seconds_count", &[("sink", "file")]),
    ] {
        bench.wait_metric(name, labels, 5.0);
    }
    let metrics = bench.metrics();
    assert_eq!(metrics.sum("shadowpair_requests_total", &[]), 5.0);
    let edge = |name: &str, le: &str| !metrics.series(name, &[("le", le)]).is_empty();
    assert!(edge("shadowpair_request_duration_seconds_bucket", "0.0005"));
    assert!(edge("shadowpair_request_duration_seconds_bucket", "600"));
    assert!(
        edge("shadowpair_overhead_seconds_bucket", "0.00001") || edge("shadowpair_overhead_seconds_bucket", "1e-05")
    );
    assert!(edge("shadowpair_overhead_seconds_bucket", "0.05"));
}

#[test]
fn the_first_skip_and_the_first_drop_are_an_increase_by_one() {
    // Each of these characters takes six in a record, where more is written than was copied; both copies fit.
    let controls = answer("200 OK", &[], &vec![1; 100_000]);
    let (p, c) = (Stub::sending(controls.clone()), Stub::sending(controls));
    let bench =
        Plan::pair(p.address, c.address).route("copy_body: 200KiB").server("limits: {shadow_bytes: 1MiB}").start();
    let names = ["shadowpair_shadow_skipped_total", "shadowpair_pairs_dropped_total"];
    let counters = || {
        let metrics = bench.metrics();
        names.map(|name| {
            let series = metrics.series(name, &[]).into_iter();
            series.map(|(labels, value)| (labels.clone(), value)).collect::<std::collections::BTreeMap<_, _>>()
        })
    };
    let before = counters();
    assert!(before.iter().flat_map(|counters| counters.values()).all(|value| *value == 0.0), "{before:?}");
    assert_eq!(bench.ask(request("POST /", &[], &vec![b'a'; 300_000])).status, 200);
    bench.wait_skipped("body_too_large", 1.0);
    assert_eq!(bench.ask(post("/", "{}")).body.len(), 100_000);
    bench.wait_metric("shadowpair_pairs_dropped_total", &[("sink", "file"), ("reason", "queue_full")], 1.0);
    for (before, after) in before.iter().zip(counters()) {
        assert_eq!(
            before.keys().collect::<Vec<_>>(),
            after.keys().collect::<Vec<_>>(),
            "no series came with its event"
        );
        assert_eq!(after.values().sum::<f64>(), 1.0, "just one grew: {after:?}");
    }
}

#[test]
fn a_scraper_that_asks_for_openmetrics_gets_what_it_can_read() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    for accept in ["text/plain", "application/openmetrics-text; version=1.0.0,text/plain;q=0.5", "*/*"] {
        let got = ask(bench.admin, request("GET /metrics", &[("accept", accept)], b""));
        assert_eq!(got.status, 200);
        let kind = got.value("content-type").unwrap();
        assert!(
            kind.starts_with("text/plain")
                || (kind.starts_with("application/openmetrics-text") && got.text().ends_with("# EOF\n")),
            "{kind}"
        );
        Metrics::parse(&got.text());
    }
}

#[test]
fn labels_are_escaped() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let name = "a\"b\n\\c";
    let models = format!("endpoints: [\"http://{}\"], version: {:?}", c.address, name);
    let block = format!("  - {{name: {name:?}, prod: p, shadow: [{{model: {name:?}, percent: 100}}]}}");
    let bench = Plan::prod(p.address).model_of(&format!("{name:?}"), &models).routes(&block).start();
    bench.ask(get("/"));
    bench.wait_metric("shadowpair_pairs_total", &[("route", name), ("model", name)], 1.0);
    assert_eq!(bench.metrics().sum("shadowpair_model_info", &[("model", name), ("version", name)]), 1.0);
}

#[test]
fn the_account_of_pairs_closes_in_every_scrape_under_load() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).start();
    let traffic = bench.traffic;
    let clients: Vec<_> = (0..3)
        .map(|who| {
            std::thread::spawn(move || {
                let mut client = crate::support::Client::to(traffic);
                for nth in 0..200 {
                    assert_eq!(client.ask(post_as(&format!("{who}-{nth}"), r#"{"x":1}"#)).status, 200);
                }
            })
        })
        .collect();
    let mut scrapes = 0;
    while clients.iter().any(|client| !client.is_finished()) {
        bench.metrics();
        scrapes += 1;
    }
    assert!(scrapes > 3, "{scrapes}");
    for client in clients {
        client.join().unwrap();
    }
    bench.settle();
    let metrics = bench.metrics();
    let skipped = metrics.count("shadowpair_shadow_skipped_total", &[]);
    assert_eq!(metrics.count("shadowpair_pairs_delivered_total", &[]) + skipped, 600.0);
}

#[test]
fn the_gauges_of_connections_follow_them() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    let mut client = bench.client();
    client.ask(get("/"));
    bench.wait_metric("shadowpair_client_connections", &[], 1.0);
    bench.wait_metric("shadowpair_upstream_connections", &[("model", "p")], 1.0);
    drop(client);
    bench.wait_metric("shadowpair_client_connections", &[], 0.0);
}
