//! Several endpoints of a model: they share the load, one that keeps failing is left alone, and prod's last never is.

use crate::support::{Act, Plan, Stub, get, ok_json, post, until};

fn up(bench: &crate::support::Bench, address: std::net::SocketAddr) -> f64 {
    bench.metrics().sum("shadowpair_endpoint_up", &[("address", &format!("http://{address}"))])
}

#[test]
fn two_endpoints_share_the_load() {
    let (one, two) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(one.address, c.address).endpoint("p", two.address).start();
    for _ in 0..100 {
        assert_eq!(bench.ask(post("/", "{}")).status, 200);
    }
    let (first, second) = (one.seen().len(), two.seen().len());
    assert_eq!(first + second, 100);
    assert!(first >= 20 && second >= 20, "{first} and {second}");
    let asked: Vec<String> = [&one, &two].iter().map(|stub| format!("http://{}", stub.address)).collect();
    for pair in bench.pairs(100) {
        assert!(asked.iter().any(|address| pair["prod"]["endpoint"] == address.as_str()), "{}", pair["prod"]);
    }
}

#[test]
fn an_endpoint_that_refuses_is_ejected() {
    let good = Stub::json(r#"{"y":1}"#);
    let bad = Stub::nobody();
    let bench = Plan::prod(good.address).endpoint("p", bad).start();
    let label = format!("http://{bad}");
    let ejected = || bench.metrics().count("shadowpair_endpoint_ejected_total", &[("address", &label)]);
    let mut failed = 0;
    for _ in 0..200 {
        if ejected() >= 1.0 {
            break;
        }
        failed += usize::from(bench.ask(post("/", "{}")).status != 200);
    }
    assert!(ejected() >= 1.0);
    assert_eq!((up(&bench, bad), up(&bench, good.address)), (0.0, 1.0));
    assert!(failed <= 5, "an unsent request goes to another endpoint, so few fail: {failed}");
    let before = bench.metrics().count("shadowpair_legs_total", &[("outcome", "connect_error")]);
    for _ in 0..20 {
        assert_eq!(bench.ask(post("/", "{}")).status, 200);
    }
    let after = bench.metrics().count("shadowpair_legs_total", &[("outcome", "connect_error")]);
    assert!(after - before <= 2.0, "it is left alone but for a probe now and then");
}

#[test]
fn prods_last_endpoint_is_never_ejected() {
    let p = Stub::doing(vec![Act::Close]);
    let bench = Plan::prod(p.address).start();
    for _ in 0..12 {
        assert_eq!(bench.ask(post("/", "{}")).status, 502);
    }
    assert_eq!(p.seen().len(), 12, "each was tried");
    assert_eq!(up(&bench, p.address), 1.0);
}

#[test]
fn a_candidate_that_keeps_failing_is_skipped_as_unhealthy() {
    let p = Stub::json(r#"{"y":1}"#);
    let c = Stub::nobody();
    let bench = Plan::pair(p.address, c).start();
    for nth in 1..=5 {
        assert_eq!(bench.ask(post("/", "{}")).status, 200);
        until("the leg has ended", || {
            bench.metrics().count("shadowpair_legs_total", &[("model", "c"), ("outcome", "connect_error")])
                >= f64::from(nth)
        });
    }
    until("it is ejected", || up(&bench, c) == 0.0);
    assert_eq!(bench.ask(post("/", "{}")).status, 200);
    bench.wait_skipped("unhealthy", 1.0);
    let pairs = bench.pairs(5);
    assert!(pairs.iter().all(|pair| pair["result"] == "candidate_failed"));
}

#[test]
fn an_ejected_endpoint_comes_back() {
    let p = Stub::json(r#"{"y":1}"#);
    let sick = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let well = std::sync::Arc::clone(&sick);
    let c = Stub::new(move |_| match well.load(std::sync::atomic::Ordering::SeqCst) {
        true => vec![Act::Reset],
        false => vec![Act::Send(ok_json(r#"{"y":1}"#))],
    });
    let bench = Plan::pair(p.address, c.address).start();
    for nth in 1..=5 {
        assert_eq!(bench.ask(get("/")).status, 200);
        c.wait(nth);
        until("the leg has ended", || bench.metrics().count("shadowpair_pairs_total", &[]) >= nth as f64);
    }
    until("it is ejected", || up(&bench, c.address) == 0.0);
    sick.store(false, std::sync::atomic::Ordering::SeqCst);
    until("it is asked again", || {
        assert_eq!(bench.ask(get("/")).status, 200);
        c.seen().len() > 5
    });
    until("it is back", || up(&bench, c.address) == 1.0);
}

#[test]
fn an_endpoint_may_be_a_name_and_that_name_the_host() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let named = format!("endpoints: [\"http://localhost:{}\"], rewrite: {{host: \"@endpoint\"}}", c.address.port());
    let bench = Plan::prod(p.address).model_of("c", &named).shadow("[{model: c, percent: 100}]").start();
    assert_eq!(bench.ask(post("/", "{}")).status, 200);
    assert_eq!(c.one().value("host"), Some(format!("localhost:{}", c.address.port())));
    assert_eq!(bench.pair()["candidate"]["endpoint"], format!("http://localhost:{}", c.address.port()));
}
