//! Active health checks: who gets traffic while an endpoint says that it is not ready.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Act, Plan, Stub, answer, get, ok_json, until};

const CHECK: &str = "health: {path: /ready, interval: 50ms}";

/// A model whose readiness a test can switch.
fn model() -> (Stub, Arc<AtomicBool>) {
    let ready = Arc::new(AtomicBool::new(true));
    let seen_ready = Arc::clone(&ready);
    let stub = Stub::new(move |seen| match seen.target() {
        "GET /ready" if !seen_ready.load(Ordering::Relaxed) => {
            vec![Act::Send(answer("503 Service Unavailable", &[], b""))]
        }
        _ => vec![Act::Send(ok_json("{}"))],
    });
    (stub, ready)
}

fn asked(stub: &Stub) -> usize {
    stub.seen().iter().filter(|seen| seen.target() == "GET /").count()
}

#[test]
fn an_endpoint_that_is_not_ready_gets_nothing_while_another_is() {
    let ((one, one_ready), (two, two_ready)) = (model(), model());
    let bench = Plan::prod(one.address).endpoint("p", two.address).with("p", CHECK).start();
    let label = format!("http://{}", one.address);
    let up = |value: f64| bench.wait_metric("shadowpair_endpoint_up", &[("address", &label)], value);
    one_ready.store(false, Ordering::Relaxed);
    up(0.0);
    let before = (asked(&one), asked(&two));
    for _ in 0..20 {
        assert_eq!(bench.ask(get("/")).status, 200);
    }
    assert_eq!((asked(&one) - before.0, asked(&two) - before.1), (0, 20));

    two_ready.store(false, Ordering::Relaxed);
    let other = format!("http://{}", two.address);
    bench.wait_metric("shadowpair_endpoint_up", &[("address", &other)], 0.0);
    for _ in 0..40 {
        assert_eq!(bench.ask(get("/")).status, 200, "when all are unready, all are tried");
    }
    assert!(asked(&one) > before.0 && asked(&two) > before.1 + 20);

    one_ready.store(true, Ordering::Relaxed);
    up(1.0);
}

#[test]
fn checks_are_no_traffic() {
    let (p, _ready) = model();
    let bench = Plan::prod(p.address).with("p", CHECK).start();
    until("a few checks", || p.seen().len() >= 3);
    let metrics = bench.metrics();
    assert_eq!(metrics.count("shadowpair_requests_total", &[]), 0.0);
    assert_eq!(metrics.count("shadowpair_legs_total", &[]), 0.0);
    assert!(p.seen().iter().all(|seen| seen.value("x-request-id").is_none()));
}
