//! Bounds: what is too large, too slow or too many has one clear end, and costs the others nothing.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::metrics::{Metrics, admin_get};
use crate::support::process::cpu_time;
use crate::support::wire::Wire;
use crate::support::{Act, Client, Gate, Plan, Process, Stub, get, ok_json, post, request, until};

#[test]
fn a_body_that_says_it_is_too_large_is_a_413_before_it_is_read() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).server("limits: {request_bytes: 1KiB}").start();
    let mut client = bench.client();
    client.send("POST / HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: 1025\r\n\r\n");
    let answer = client.answer();
    assert_eq!(answer.status, 413, "not a 100");
    assert!(!answer.error().is_empty());
    assert!(p.seen().is_empty() && p.received() == 0);
    assert_eq!(bench.ask(request("POST /", &[], &[b'a'; 1024])).status, 200, "just as large as allowed");
    bench.wait_metric("shadowpair_requests_total", &[("code", "413"), ("answered_by", "proxy")], 1.0);
}

#[test]
fn a_body_that_turns_out_too_large_is_a_413_and_its_rest_no_request() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).server("limits: {request_bytes: 1KiB}").start();
    let mut client = bench.client();
    client.send("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n");
    for _ in 0..8 {
        client.send(format!("100\r\n{}\r\n", "a".repeat(256)));
    }
    client.send(format!("0\r\n\r\n{}", String::from_utf8_lossy(&get("/admin"))));
    let answer = client.answer();
    assert_eq!(answer.status, 413);
    assert!(!answer.error().is_empty());
    assert!(client.is_closed());
    assert!(p.seen().iter().all(|seen| !seen.target().contains("/admin")));
    assert!(p.seen().iter().all(|seen| seen.end != crate::support::End::Whole), "prod got no whole body");
}

#[test]
fn a_413_survives_a_client_that_goes_on_sending() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).server("limits: {request_bytes: 1KiB}").start();
    for _ in 0..5 {
        assert_eq!(bench.ask(request("POST /", &[], &vec![b'a'; 2_000_000])).status, 413);
    }
}

#[test]
fn a_head_that_is_too_large_is_a_431() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).server("limits: {header_bytes: 4KiB}").start();
    let with = |bytes: usize| bench.ask(request("GET /", &[("x-long", &"a".repeat(bytes))], b""));
    assert_eq!(with(3 << 10).status, 200);
    let answer = with(5 << 10);
    assert_eq!(answer.status, 431);
    assert!(!answer.error().is_empty());
    assert_eq!(with(60 << 10).status, 431, "also where it is much too large");
    assert_eq!(p.seen().len(), 1);
    let path = bench.ask(get(&format!("/{}", "a".repeat(5 << 10))));
    assert!(path.status == 431 || path.status == 414, "{}", path.status);
    let mut many = String::from("GET / HTTP/1.1\r\nhost: t\r\n");
    (0..2000).for_each(|n| many.push_str(&format!("x-{n}: 1\r\n")));
    assert_eq!(bench.ask(many + "\r\n").status, 431, "also where there are many fields");
}

#[test]
fn a_head_that_does_not_come_ends_the_connection() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).server("limits: {header_timeout: 200ms, idle_timeout: 200ms}").start();
    for beginning in ["", "G", "GET / HTTP/1.1\r\nhost: t\r\n", "PRI * HTTP/2.0\r\n"] {
        let mut client = bench.client();
        client.send(beginning);
        let (bytes, end) = client.wire.rest();
        assert_ne!(end, crate::support::End::Silent, "{beginning:?} is not waited for, for ever");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 408"), "{beginning:?}: {text}");
    }
    let mut kept = bench.client();
    assert_eq!(kept.ask(get("/")).status, 200);
    assert!(kept.is_closed(), "an idle connection ends too");
}

#[test]
fn a_slow_head_is_not_cut_by_the_idle_rule_of_another() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).server("limits: {header_timeout: 5s, idle_timeout: 100ms}").start();
    let mut client = bench.client();
    client.send("GET / HTTP/1.1\r\nhost: t\r\n");
    std::thread::sleep(Duration::from_millis(250));
    client.send("\r\n");
    assert_eq!(client.answer().status, 200);
}

#[test]
fn a_model_may_send_more_than_a_hundred_fields() {
    let fields: String = (0..300).map(|n| format!("x-{n}: {n}\r\n")).collect();
    let p = Stub::sending(format!("HTTP/1.1 200 OK\r\n{fields}content-length: 0\r\n\r\n"));
    let bench = Plan::prod(p.address).start();
    let answer = bench.ask(get("/"));
    assert_eq!((answer.status, answer.value("x-299").as_deref()), (200, Some("299")));
}

#[test]
fn a_model_may_send_a_large_head() {
    let long = "a".repeat(60_000);
    let p = Stub::sending(format!("HTTP/1.1 200 OK\r\nx-long: {long}\r\ncontent-length: 0\r\n\r\n"));
    let bench = Plan::prod(p.address).start();
    assert_eq!(bench.ask(get("/")).value("x-long"), Some(long));
}

#[test]
fn at_the_limit_of_connections_accepting_waits_and_is_counted() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).server("limits: {connections: 2}").start();
    let (mut first, mut second) = (bench.client(), bench.client());
    assert_eq!((first.ask(get("/1")).status, second.ask(get("/2")).status), (200, 200));
    assert_eq!(bench.metrics().sum("shadowpair_client_connections", &[]), 2.0);
    let mut third = bench.client();
    third.send(get("/3"));
    until("the pause is counted", || bench.metrics().count("shadowpair_accept_paused_total", &[]) >= 1.0);
    assert_eq!(p.seen().len(), 2);
    drop(first);
    assert_eq!(third.answer().status, 200);
}

#[test]
fn at_max_connections_a_request_waits_and_then_is_a_503() {
    let gate = Gate::default();
    let p = Stub::doing(vec![Act::Wait(gate.clone()), Act::Send(ok_json(r#"{"y":1}"#))]);
    let bench = Plan::prod(p.address).with("p", "max_connections: 1, timeout: {connect: 200ms}").start();
    let mut first = bench.client();
    first.send(get("/1"));
    until("the first is with prod", || p.received() > 0);
    let shed = bench.ask(get("/2"));
    assert_eq!(shed.status, 503);
    assert!(shed.value("retry-after").is_some());
    assert!(!shed.error().is_empty());
    gate.open();
    assert_eq!(first.answer().status, 200);
    assert_eq!(p.accepted(), 1);
    for _ in 0..10 {
        assert_eq!(bench.ask(get("/3")).status, 200, "whichever worker has the connection");
    }
    assert!(bench.metrics().count("shadowpair_upstream_connections", &[("model", "p")]) <= 1.0);
}

#[test]
fn a_shadow_at_max_connections_is_skipped() {
    let gate = Gate::default();
    let p = Stub::json(r#"{"y":1}"#);
    let c = Stub::doing(vec![Act::Wait(gate.clone()), Act::Send(ok_json(r#"{"y":1}"#))]);
    let bench = Plan::pair(p.address, c.address)
        .shadow("[{model: c, percent: 100, timeout: 20s}]")
        .with("c", "max_connections: 1")
        .start();
    assert_eq!(bench.ask(post("/", "{}")).status, 200);
    until("the first is with the candidate", || c.received() > 0);
    assert_eq!(bench.ask(post("/", "{}")).status, 200);
    bench.wait_skipped("in_flight", 1.0);
    gate.open();
    bench.pairs(1);
}

#[test]
fn the_control_never_takes_prods_last_connections() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).with("p", "max_connections: 1").route("control: {percent: 100}").start();
    let mut client = bench.client();
    for _ in 0..5 {
        assert_eq!(client.ask(post("/", "{}")).status, 200);
    }
    bench.wait_skipped("in_flight", 5.0);
    assert_eq!(p.seen().len(), 5);
}

/// Connections that ask for nothing whole, so that each is held.
fn hold(process: &Process, count: usize) -> Vec<Client> {
    let hold = |_| {
        let stream = TcpStream::connect_timeout(&process.traffic, Duration::from_secs(10)).expect("room to wait");
        let mut client = Client { wire: Wire::new(stream) };
        client.send("GET / HTTP/1.1\r\n");
        client
    };
    (0..count).map(hold).collect()
}

/// Watches it for two seconds: it uses less than a fifth of a core and logs at most a line a second.
fn assert_calm(process: &Process, mut meanwhile: impl FnMut()) {
    let (cpu, lines, from) = (cpu_time(process.id()), process.log_lines().len(), Instant::now());
    for _ in 0..8 {
        meanwhile();
        std::thread::sleep(Duration::from_millis(250));
    }
    let used = cpu_time(process.id()) - cpu;
    assert!(used < from.elapsed() / 5, "{used:?} of CPU in {:?}", from.elapsed());
    let logged = process.log_lines().len() - lines;
    assert!(logged as u64 <= from.elapsed().as_secs() + 1, "{logged} log lines in {:?}", from.elapsed());
}

/// Lets go of all that is held: then it answers again within two seconds, and there is room as before.
fn assert_recovers(process: &Process, held: Vec<Client>) {
    drop(held);
    let closed = Instant::now();
    assert_eq!(crate::support::ask(process.traffic, get("/")).status, 200);
    assert!(closed.elapsed() < Duration::from_secs(2), "{:?}", closed.elapsed());
    let mut later: Vec<Client> = (0..4).map(|_| Client::to(process.traffic)).collect();
    assert!(later.iter_mut().all(|client| client.ask(get("/")).status == 200));
    assert_eq!(admin_get(process.admin, "/readyz").status, 200);
    assert!(Metrics::scrape(process.admin).count("shadowpair_accept_paused_total", &[]) >= 1.0);
}

#[test]
fn with_few_descriptors_it_waits_without_spinning_and_recovers() {
    let p = Stub::json(r#"{"y":1}"#);
    let process = Plan::prod(p.address).server("workers: 1").spawn_under("ulimit -n 64;");
    let held = hold(&process, 200);
    until("the pause is counted", || {
        Metrics::scrape(process.admin).count("shadowpair_accept_paused_total", &[]) >= 1.0
    });
    assert_calm(&process, || assert_eq!(admin_get(process.admin, "/readyz").status, 200, "it stays usable"));
    assert_recovers(&process, held);
}

#[test]
fn out_of_descriptors_it_waits_without_spinning_and_recovers() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let p = Stub::json(r#"{"y":1}"#);
    let process = Plan::prod(p.address).server("workers: 1").spawn_under("ulimit -n 1024;");
    // Taken away only now: the limit of connections that it has set itself keeps it from getting there.
    let open = std::fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap().count() as u64;
    let limit = Rlimit { current: Some(open + 8), maximum: Some(1024) };
    let pid = Pid::from_raw(i32::try_from(process.id()).unwrap());
    prlimit(pid, Resource::Nofile, limit).unwrap();
    let held = hold(&process, 200);
    until("the refusal is logged", || process.log().contains("the system refuses another connection"));
    assert_calm(&process, || ());
    assert_recovers(&process, held);
}
