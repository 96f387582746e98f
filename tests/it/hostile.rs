//! Clients and models that mean harm, or behave as if they did, over HTTP/1: what they send never reaches further, costs
//! more, or says more than it may.

use std::time::Duration;

use crate::support::{Act, Gate, Plan, Stub, answer, ask, get, post, until};

#[test]
fn a_101_that_nobody_asked_for_is_a_502() {
    let p = Stub::sending("HTTP/1.1 101 Switching Protocols\r\nupgrade: evil\r\nconnection: upgrade\r\n\r\n");
    let bench = Plan::prod(p.address).with("p", "timeout: {first_byte: 1s}").start();
    assert_eq!(bench.ask(post("/", "{}")).status, 502);
}

#[test]
fn a_model_that_sends_nothing_but_1xx_answers_is_a_502() {
    // It says something at last, but only after megabytes; a few before the answer are fine.
    let endless = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(100_000);
    let p = Stub::sending(format!("{endless}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"));
    let bench = Plan::prod(p.address).start();
    assert_eq!(ask(bench.traffic, get("/")).status, 502);
    let some = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(100);
    let p = Stub::sending(format!("{some}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"));
    let bench = Plan::prod(p.address).start();
    assert_eq!(ask(bench.traffic, get("/")).status, 200);
}

#[test]
fn an_answer_that_gives_its_length_twice_reaches_the_client() {
    let p = Stub::sending("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok");
    let bench = Plan::prod(p.address).start();
    let mut client = bench.client();
    client.send(post("/", "{}"));
    let answer = client.try_answer("POST").expect("an answer");
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"ok"[..]));
    assert_eq!(answer.head.values("content-length"), ["2"]);
}

#[test]
fn what_a_head_may_not_say_trailers_may_not_either() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).with("c", "credentials: strip").start();
    let names = "x-shadowpair-role, x-request-id, x-forwarded-for, x-api-key, connection, x-sum";
    let mut client = bench.client();
    let head = format!("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\ntrailer: {names}\r\nte: trailers");
    let trailers = "x-shadowpair-role: shadow\r\nx-request-id: forged\r\nx-forwarded-for: 6.6.6.6\r\n\
                    x-api-key: k\r\nconnection: x-sum\r\nx-sum: 7\r\n";
    client.send(format!("{head}\r\n\r\n2\r\n{{}}\r\n0\r\n{trailers}\r\n"));
    assert_eq!(client.answer().status, 200);
    let names = |stub: &Stub| stub.one().trailers.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(&p), ["x-api-key", "x-sum"]);
    assert_eq!(names(&c), ["x-sum"]);
}

#[test]
fn an_absolute_target_with_a_user_in_it_is_a_400() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).matching("{host: models.test}").start();
    let answer = bench.ask("GET http://models.test:x@evil.test/ HTTP/1.1\r\nhost: models.test\r\n\r\n");
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(bench.ask("GET http://user@models.test/ HTTP/1.1\r\nhost: models.test\r\n\r\n").status, 400);
    assert!(p.seen().is_empty());
}

#[test]
fn connection_does_not_strip_what_is_the_proxys_own() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    let fields = "connection: host, content-length, x-request-id, x-forwarded-for, x-secret\r\nx-secret: s\r\n";
    let head = format!("POST / HTTP/1.1\r\nhost: t\r\n{fields}x-request-id: mine\r\ncontent-length: 2\r\n\r\n{{}}");
    assert_eq!(bench.ask(head).status, 200);
    let seen = p.one();
    assert_eq!(seen.value("host").as_deref(), Some("t"));
    assert_eq!(seen.value("content-length").as_deref(), Some("2"));
    assert_eq!(seen.value("x-request-id").as_deref(), Some("mine"));
    assert!(seen.value("x-forwarded-for").is_some());
    assert_eq!(seen.value("x-secret"), None);
}

#[test]
fn a_field_that_connection_names_beside_odd_bytes_stays_on_its_hop() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    let head = b"GET / HTTP/1.1\r\nhost: t\r\nconnection: x-secret, \xff\r\nx-secret: s\r\n\r\n";
    assert_eq!(bench.ask(head).status, 200);
    assert_eq!(p.one().value("x-secret"), None);
}

#[test]
fn an_answer_in_tiny_chunks_keeps_to_the_memory_bound() {
    const TEXT: usize = 400_000;
    let p = Stub::json(r#"{"y":1}"#);
    let chunks = b"1\r\nx\r\n".repeat(TEXT);
    let c = Stub::doing(vec![
        Act::Send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec()),
        Act::Send(chunks),
        Act::Pause(Duration::from_secs(2)),
        Act::Send(b"0\r\n\r\n".to_vec()),
    ]);
    let plan = Plan::prod(p.address).model("c", &[c.address]).shadow("[{model: c, percent: 100, timeout: 8s}]");
    let process = plan.server("limits: {shadow_bytes: 2MiB}").spawn();
    let before = resident(process.id());
    for _ in 0..4 {
        assert_eq!(crate::support::ask(process.traffic, post("/", "{}")).status, 200);
    }
    let most = (0..30).map(|_| {
        std::thread::sleep(Duration::from_millis(100));
        resident(process.id())
    });
    let grown = most.max().unwrap_or_default().saturating_sub(before);
    assert!(grown < 24 << 20, "{grown} bytes for a budget of 2 MiB");
}

/// Bytes of memory that a process holds.
fn resident(id: u32) -> usize {
    let statm = std::fs::read_to_string(format!("/proc/{id}/statm")).expect("statm");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("pages") * 4096
}

#[test]
fn an_upload_that_goes_on_after_an_early_answer_is_shadowed_and_followed_by_the_next_request() {
    let p = Stub::on_head(|_| vec![Act::Send(answer("200 OK", &[], br#"{"y":1}"#))]);
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(p.address, c.address).server("limits: {header_timeout: 300ms}").start();
    let mut client = bench.client();
    client.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 10\r\n\r\n12");
    assert_eq!(client.answer().status, 200);
    for digit in ["3", "4", "5", "6", "7", "8", "9", "0"] {
        std::thread::sleep(Duration::from_millis(150));
        client.send(digit);
    }
    assert_eq!(c.one().body, b"1234567890");
    assert_eq!(client.ask(post("/", "{}")).status, 200);
    assert_eq!(bench.pairs(2).len(), 2);
}

#[test]
fn a_client_that_leaves_at_any_byte_leaves_nothing_behind() {
    let gate = Gate::default();
    let held = gate.clone();
    let p = Stub::doing(vec![
        Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n".to_vec()),
        Act::Wait(held),
        Act::Send(b"0123456789".to_vec()),
    ]);
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(p.address, c.address).start();
    let whole = "POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    for cut in 1..=whole.len() {
        let mut client = bench.client();
        client.send(&whole.as_bytes()[..cut]);
        if cut % 2 == 0 {
            client.wire.reset();
        }
    }
    gate.open();
    until("everything has ended", || bench.metrics().count("shadowpair_client_connections", &[]) == 0.0);
    bench.settle();
}

#[test]
fn a_memory_that_copies_have_filled_is_no_413_for_a_prod_that_is_rewritten() {
    let p = Stub::json(r#"{"y":1}"#);
    let c = Stub::doing(vec![Act::Hang]);
    let plan = Plan::prod(p.address).model("c", &[c.address]).with("p", r#"rewrite: {json: {/model: "m"}}"#);
    let plan = plan.shadow("[{model: c, percent: 100, timeout: 1s}]").server("limits: {shadow_bytes: 1MiB}");
    let bench = plan.start();
    let body = format!(r#"{{"x":"{}"}}"#, "a".repeat(400_000));
    let statuses: Vec<u16> = (0..5).map(|_| bench.ask(post("/", &body)).status).collect();
    assert_eq!(statuses, [200; 5]);
}
