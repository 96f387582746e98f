//! The admin interface: open to probes and scrapers, closed to strangers, and silent about secrets.

use serde_json::Value;

use crate::support::{Answer, Bench, Plan, Stub, ask, get, post, request};

fn json(answer: &Answer) -> Value {
    assert_eq!(answer.value("content-type").as_deref(), Some("application/json"), "{answer:?}");
    serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.text()))
}

#[test]
fn probes_say_200_whatever_the_models_do() {
    let bench = Plan::pair(Stub::nobody(), Stub::nobody()).start();
    assert_eq!((bench.admin_get("/livez").status, bench.admin_get("/readyz").status), (200, 200));
    assert_eq!(bench.ask(get("/")).status, 502);
    assert_eq!((bench.admin_get("/livez").status, bench.admin_get("/readyz").status), (200, 200));
}

#[test]
fn the_routes_show_what_is_in_force_with_live_counts() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).route("control: {percent: 12.5}").start();
    bench.ask(post("/", "{}"));
    bench.settle();
    let routes = bench.admin_get("/api/v1/routes");
    assert_eq!(routes.status, 200);
    let text = json(&routes).to_string();
    for part in ["\"r\"", "\"p\"", "\"c\"", "12.5", "100"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn the_config_hides_every_secret() {
    let p = Stub::json(r#"{"y":1}"#);
    let sink =
        format!("{{kafka: {{brokers: [\"{}\"], topic: t, properties: {{client.id: s3cret-id}}}}}}", Stub::nobody());
    let bench = Plan::prod(p.address)
        .server("hash_key: s3cret-key\n  admin_token: s3cret-token")
        .sink(&sink)
        .drain("1s")
        .start();
    let answer = ask(bench.admin, request("GET /api/v1/config", &[("authorization", "Bearer s3cret-token")], b""));
    assert_eq!(answer.status, 200);
    let config = json(&answer);
    assert!(!config.to_string().contains("s3cret"), "{config}");
    assert!(config.to_string().contains("shadow_bytes"), "the effective file, defaults included: {config}");
}

#[test]
fn what_is_not_there_is_a_404_in_json() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    for path in ["/nothing", "/api/v1/nothing", "/api"] {
        let answer = bench.admin_get(path);
        assert_eq!(answer.status, 404, "{path}");
        assert!(!answer.error().is_empty());
    }
    let answer = ask(bench.admin, request("DELETE /metrics", &[("connection", "close")], b""));
    assert_eq!(answer.status, 405);
}

#[test]
fn the_admin_interface_is_not_on_the_traffic_port() {
    let p = Stub::json(r#"{"from":"prod"}"#);
    let bench = Plan::prod(p.address).start();
    for path in ["/livez", "/readyz", "/metrics", "/api/v1/config", "/"] {
        assert_eq!(bench.ask(get(path)).text(), r#"{"from":"prod"}"#, "{path}");
    }
}

fn beyond_loopback() -> (Stub, Bench) {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).admin("0.0.0.0:0").server("admin_token: \"t0ken\"").start();
    (p, bench)
}

#[test]
fn beyond_loopback_the_api_asks_for_the_token() {
    let (_p, bench) = beyond_loopback();
    let admin = std::net::SocketAddr::from(([127, 0, 0, 1], bench.admin.port()));
    let with = |path: &str, token: &str| ask(admin, request(&format!("GET {path}"), &[("authorization", token)], b""));
    for path in ["/api/v1/routes", "/api/v1/config"] {
        for token in ["", "Bearer", "Bearer wrong", "Bearer t0ke", "Bearer t0kenn", "Basic t0ken", "t0ken"] {
            let refused = with(path, token);
            assert_eq!(refused.status, 401, "{path} with {token:?}");
            assert!(!refused.error().contains("t0ken"));
        }
        assert_eq!(with(path, "Bearer t0ken").status, 200);
        assert_eq!(with(path, "bearer t0ken").status, 200, "the scheme's case does not count");
    }
}

#[test]
fn beyond_loopback_probes_and_scrapes_stay_open() {
    let (_p, bench) = beyond_loopback();
    let admin = std::net::SocketAddr::from(([127, 0, 0, 1], bench.admin.port()));
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(ask(admin, get(path)).status, 200, "{path}");
    }
}
