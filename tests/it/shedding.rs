//! Copies that are not made because the proxy is late, full or on its way out: each for real, counted under its reason,
//! with prod's answers as they are and an account that closes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crate::support::h2_raw::{DATA, GOAWAY, Raw};
use crate::support::metrics::{Metrics, admin_get};
use crate::support::stub::Seen;
use crate::support::{Act, Bench, Gate, Plan, Stub, ok_json, pairs, post, until};

const SKIPPED: &str = "shadowpair_shadow_skipped_total";

/// Answers at once, but a request for `/held` once the gate is open.
fn holding(gate: &Gate) -> impl Fn(&Seen) -> Vec<Act> + Send + Sync + use<> {
    let gate = gate.clone();
    move |seen| match seen.target() {
        "POST /held" | "GET /held" => vec![Act::Wait(gate.clone()), Act::Send(ok_json(r#"{"y":1}"#))],
        _ => vec![Act::Send(ok_json(r#"{"y":1}"#))],
    }
}

/// A drain under way. The pair files move to another folder when it is over.
struct Drain {
    thread: JoinHandle<usize>,
    kept: PathBuf,
    admin: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Drain {
    fn begin(bench: Bench) -> Self {
        let folder = tempfile::TempDir::new().unwrap();
        let (pairs, kept, admin) = (bench.folder(), folder.path().join("pairs"), bench.admin);
        let thread = std::thread::spawn({
            let kept = kept.clone();
            move || bench.drain_keeping(&pairs, &kept)
        });
        until("the drain has begun", || admin_get(admin, "/readyz").status == 503);
        Self { thread, kept, admin, _folder: folder }
    }

    fn wait_skipped(&self, count: f64) {
        until("the copy is refused", || {
            let metrics = Metrics::scrape(self.admin);
            metrics.assert_account();
            metrics.count(SKIPPED, &[("reason", "draining"), ("role", "shadow"), ("model", "c")]) == count
        });
        assert_eq!(Metrics::scrape(self.admin).count(SKIPPED, &[]), count, "for no other reason");
    }

    /// The pairs that stand in the folder when it is over; nothing was cut off.
    fn pairs(self) -> Vec<serde_json::Value> {
        assert_eq!(self.thread.join().unwrap(), 0, "no request was cut off");
        let pairs = pairs::read(&self.kept);
        pairs::assert_gapless(&pairs);
        pairs
    }
}

#[test]
fn a_request_whose_key_comes_during_the_drain_is_answered_and_not_copied() {
    let gate = Gate::default();
    let (p, c) = (Stub::new(holding(&gate)), Stub::json(r#"{"y":1}"#));
    // The arm is drawn, and after it the copies, once the key in the body has come.
    let bench = Plan::pair(p.address, c.address)
        .model("x", &[c.address])
        .route("canary: {model: x, percent: 0, sticky: {json: /user}}")
        .server("workers: 1")
        .drain("20s")
        .start();
    let (mut held, mut late, mut idle) = (bench.client(), bench.client(), bench.client());
    assert_eq!(idle.ask(post("/", "{}")).status, 200);
    held.send(post("/held", "{}"));
    bench.wait_metric("shadowpair_in_flight", &[("role", "prod")], 1.0);
    late.send("POST /late HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: 13\r\n\r\n");
    assert_eq!(late.answer().status, 100, "its head is read, and its body waited for");
    late.send("{\"user\":");
    bench.pairs(1);
    c.wait(2);
    let drain = Drain::begin(bench);
    assert!(idle.is_closed(), "the only worker knows of the drain");
    late.send("\"u1\"}");
    let answer = late.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"y":1}"#));
    assert_eq!(answer.value("connection").as_deref(), Some("close"));
    drain.wait_skipped(1.0);
    gate.open();
    assert_eq!(held.answer().status, 200);
    let pairs = drain.pairs();
    assert_eq!(pairs.len(), 2, "what was sampled before the drain is paired");
    assert!(pairs.iter().all(|pair| pair["result"] == "equal"), "{pairs:?}");
    // Copies keep no order: each has a connection of its own.
    let mut asked: Vec<String> = c.seen().iter().map(|seen| seen.target().to_owned()).collect();
    asked.sort();
    assert_eq!(asked, ["POST /", "POST /held"]);
}

#[test]
fn a_stream_that_crosses_the_goodbye_is_answered_and_not_copied() {
    let gate = Gate::default();
    let (p, c) = (Stub::new(holding(&gate)), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).server("workers: 1").drain("20s").start();
    let mut client = Raw::client(bench.traffic, &[]);
    client.ask(1, "GET", "/held", "models.test");
    c.wait(1);
    let drain = Drain::begin(bench);
    // A GOAWAY says at first that whatever is on its way is still taken; a client that has not heard it goes on.
    assert!(client.wait(GOAWAY, 0).is_some());
    client.ask(3, "GET", "/late", "models.test");
    assert_eq!(client.wait(DATA, 3).map(|frame| frame.payload), Some(br#"{"y":1}"#.to_vec()));
    drain.wait_skipped(1.0);
    gate.open();
    assert_eq!(client.wait(DATA, 1).map(|frame| frame.payload), Some(br#"{"y":1}"#.to_vec()));
    drop(client);
    let pairs = drain.pairs();
    assert_eq!(pairs.len(), 1, "what was sampled before the drain is paired");
    assert_eq!((&pairs[0]["result"], &pairs[0]["request"]["path"]), (&"equal".into(), &"/held".into()));
    assert_eq!(c.seen().len(), 1);
}

#[test]
fn a_copy_that_a_busy_lane_has_no_time_for_is_shed_as_lagging() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    // Each place that is set anew costs the lane one more reading of the whole body.
    let places: Vec<String> = (0..40).map(|nth| format!("/a{nth}: 1")).collect();
    let bench = Plan::pair(p.address, c.address)
        .shadow("[{model: c, percent: 100, timeout: 60s}]")
        .with("c", format!("rewrite: {{json: {{{}}}}}", places.join(", ")))
        .server("shadow_threads: 1")
        .start();
    let mut client = bench.client();
    let ended = |metrics: &Metrics| metrics.count("shadowpair_pairs_total", &[]) + metrics.count(SKIPPED, &[]);
    let mut asked = 0.0;
    let shed = || bench.metrics().count(SKIPPED, &[("reason", "lagging"), ("role", "shadow"), ("model", "c")]);
    // How fast this machine reads is not known: the body grows until the lane is late.
    for doublings in 0..6 {
        let large = format!("{{\"pad\":[{}1]}}", "1,".repeat((32 << 10) << doublings));
        for body in [&large, "{}"] {
            let answer = client.ask(post("/", body));
            assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"y":1}"#));
            asked += 1.0;
        }
        until("both copies are made or shed", || ended(&bench.metrics()) == asked);
        if shed() > 0.0 {
            break;
        }
    }
    assert!(shed() > 0.0, "the copy behind one that takes long is shed");
    let metrics = bench.metrics();
    assert_eq!(metrics.count(SKIPPED, &[]), shed(), "for no other reason");
    let made = (asked - shed()) as usize;
    let pairs = bench.pairs(made);
    assert!(pairs.iter().all(|pair| pair["result"] == "equal"), "{pairs:?}");
    assert_eq!((p.seen().len() as f64, c.seen().len()), (asked, made));
    assert!(metrics.sum("shadowpair_lane_lag_seconds", &[]) >= 0.0);
    assert_eq!(client.ask(post("/", "{}")).status, 200);
    assert_eq!(bench.pairs(made + 1)[made]["tally"]["skipped"], shed(), "and later ones are made");
}

/// Candidates of one route, and requests that prod does not answer: together as many pairs as may be under way.
const CANDIDATES: usize = 128;
const HELD: usize = 16_384 / CANDIDATES;

#[test]
fn with_all_pairs_under_way_that_there_may_be_no_more_copies_are_made() {
    let gate = Gate::default();
    let calls = Arc::<AtomicUsize>::default();
    let p = Stub::new(holding(&gate));
    let c = Stub::new({
        let calls = Arc::clone(&calls);
        move |_| {
            calls.fetch_add(1, Ordering::SeqCst);
            vec![Act::Send(ok_json(r#"{"y":1}"#))]
        }
    });
    let mut plan = Plan::prod(p.address).compare_all();
    let mut shadows = Vec::new();
    for nth in 0..CANDIDATES {
        plan = plan.model(&format!("c{nth}"), &[c.address]);
        shadows.push(format!("{{model: c{nth}, percent: 100, timeout: 60s}}"));
    }
    let bench = plan
        .shadow(&format!("[{}]", shadows.join(", ")))
        .route("capture: {request: none, answers: none}")
        .server("shadow_threads: 1")
        .start();
    let held: Vec<_> = (1..=HELD)
        .map(|nth| {
            let mut client = bench.client();
            client.send(post("/held", "{}"));
            until("each candidate has answered", || calls.load(Ordering::SeqCst) == nth * CANDIDATES);
            client
        })
        .collect();
    let metrics = bench.metrics();
    assert_eq!((metrics.count(SKIPPED, &[]), metrics.count("shadowpair_pairs_total", &[])), (0.0, 0.0));
    let mut client = bench.client();
    for nth in 1..=3 {
        assert_eq!(client.ask(post("/", "{}")).text(), r#"{"y":1}"#, "prod answers all the same");
        bench.wait_skipped("queue_full", (nth * CANDIDATES) as f64);
    }
    let metrics = bench.metrics();
    let refused = metrics.series(SKIPPED, &[("reason", "queue_full"), ("role", "shadow")]);
    assert_eq!(refused.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [3.0; CANDIDATES], "each of each request");
    gate.open();
    for mut client in held {
        assert_eq!(client.answer().text(), r#"{"y":1}"#);
    }
    let all = (HELD * CANDIDATES) as f64;
    let delivered = || bench.metrics().count("shadowpair_pairs_delivered_total", &[]);
    let mut before = 0.0;
    // So many take their time: what counts is that it goes on.
    while before < all {
        until("pairs are delivered", || delivered() > before);
        before = delivered();
    }
    assert_eq!(client.ask(post("/", "{}")).status, 200);
    bench.wait_metric("shadowpair_pairs_delivered_total", &[], all + CANDIDATES as f64);
    assert_eq!(bench.metrics().count(SKIPPED, &[]), (3 * CANDIDATES) as f64, "there is room again");
}
