//! Active health checks: an endpoint that says it is not ready is left alone as long as another one is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::support::{Act, Bench, Plan, Stub, answer, get, ok_json, post, until};

const READY: u8 = 0;
const BUSY: u8 = 1;
const RESETS: u8 = 2;
const HANGS: u8 = 3;

/// A model with a readiness that a test can change.
struct Model {
    stub: Stub,
    state: Arc<AtomicU8>,
}

impl Model {
    fn new(state: u8) -> Self {
        let state = Arc::new(AtomicU8::new(state));
        let says = Arc::clone(&state);
        let stub = Stub::new(move |seen| match (seen.target(), says.load(Ordering::SeqCst)) {
            ("GET /ready", BUSY) => vec![Act::Send(answer("503 Loading", &[], b""))],
            ("GET /ready", RESETS) => vec![Act::Reset],
            ("GET /ready", HANGS) => vec![Act::Hang],
            ("GET /ready", _) => vec![Act::Send(answer("200 OK", &[], b""))],
            _ => vec![Act::Send(ok_json(r#"{"y":1}"#))],
        });
        Self { stub, state }
    }

    fn says(&self, state: u8) {
        self.state.store(state, Ordering::SeqCst);
    }

    /// Requests that were no checks.
    fn asked(&self) -> usize {
        self.stub.seen().iter().filter(|seen| seen.target() != "GET /ready").count()
    }

    fn checks(&self) -> usize {
        self.stub.seen().len() - self.asked()
    }
}

const HEALTH: &str = "health: {path: /ready, interval: 100ms}";

fn up(bench: &Bench, address: SocketAddr) -> f64 {
    bench.metrics().sum("shadowpair_endpoint_up", &[("address", &format!("http://{address}"))])
}

fn wait_up(bench: &Bench, model: &Model, value: f64) {
    until("the check has been heard", || up(bench, model.stub.address) == value);
}

#[test]
fn an_endpoint_that_is_not_ready_gets_no_traffic_until_it_is() {
    for trouble in [BUSY, RESETS, HANGS] {
        let (one, two) = (Model::new(READY), Model::new(trouble));
        let bench = Plan::prod(one.stub.address).endpoint("p", two.stub.address).with("p", HEALTH).start();
        wait_up(&bench, &two, 0.0);
        let before = two.asked();
        for _ in 0..30 {
            assert_eq!(bench.ask(post("/", "{}")).status, 200);
        }
        assert_eq!(two.asked(), before, "left alone, trouble {trouble}");
        assert_eq!(up(&bench, one.stub.address), 1.0);
        two.says(READY);
        wait_up(&bench, &two, 1.0);
        until("it is used again", || {
            bench.ask(post("/", "{}"));
            two.asked() > before
        });
    }
}

#[test]
fn when_all_fail_their_checks_all_are_tried() {
    let models = [Model::new(BUSY), Model::new(BUSY)];
    let bench = Plan::prod(models[0].stub.address).endpoint("p", models[1].stub.address).with("p", HEALTH).start();
    models.iter().for_each(|model| wait_up(&bench, model, 0.0));
    for _ in 0..40 {
        assert_eq!(bench.ask(post("/", "{}")).status, 200);
    }
    assert!(models.iter().all(|model| model.asked() >= 5), "{} and {}", models[0].asked(), models[1].asked());
}

#[test]
fn one_failed_check_alone_changes_nothing() {
    let (one, two) = (Model::new(READY), Model::new(READY));
    let bench = Plan::prod(one.stub.address)
        .endpoint("p", two.stub.address)
        .with("p", "health: {path: /ready, interval: 300ms}")
        .start();
    until("it is checked", || two.checks() >= 1);
    let before = two.checks();
    two.says(BUSY);
    until("it is checked once more", || two.checks() > before);
    two.says(READY);
    let after = two.checks();
    until("and again", || two.checks() > after);
    assert_eq!(up(&bench, two.stub.address), 1.0);
}

#[test]
fn a_candidates_only_endpoint_is_asked_although_its_check_fails() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Model::new(BUSY));
    let bench = Plan::pair(p.address, c.stub.address).with("c", HEALTH).start();
    wait_up(&bench, &c, 0.0);
    assert_eq!(bench.ask(get("/")).status, 200);
    assert_eq!(bench.pair()["candidate"]["outcome"], "ok");
}

#[test]
fn a_check_names_the_endpoint_as_its_host_and_is_no_leg() {
    let (p, other) = (Model::new(READY), Model::new(READY));
    let bench = Plan::prod(p.stub.address).endpoint("p", other.stub.address).with("p", HEALTH).start();
    until("it is checked", || p.checks() >= 2);
    let check = p.stub.seen().remove(0);
    assert_eq!(check.value("host"), Some(p.stub.address.to_string()));
    assert_eq!(check.value("x-shadowpair-role"), None);
    assert_eq!(bench.metrics().sum("shadowpair_legs_total", &[]), 0.0);
}

#[test]
fn an_unready_canary_of_several_is_left_alone() {
    let p = Stub::json(r#"{"y":1}"#);
    let (one, two) = (Model::new(READY), Model::new(BUSY));
    let bench = Plan::prod(p.address)
        .model("c", &[one.stub.address, two.stub.address])
        .with("c", HEALTH)
        .route("canary: {model: c, percent: 100}")
        .start();
    wait_up(&bench, &two, 0.0);
    let before = two.asked();
    (0..20).for_each(|_| assert_eq!(bench.ask(post("/", "{}")).status, 200));
    assert_eq!((two.asked(), one.asked() >= 20), (before, true));
}
