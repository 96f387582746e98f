//! The same over HTTP/2, frame by frame.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::h2_raw::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, Raw, RawModel, field, frame};
use crate::support::{Plan, Stub, get, post, until};

/// `SETTINGS_INITIAL_WINDOW_SIZE` 0.
const NO_WINDOW: &[u8] = &[0, 4, 0, 0, 0, 0];
/// `:status: 200`.
const OK: u8 = 0x88;

#[test]
fn a_client_that_grants_no_window_is_cut_off() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).server("limits: {idle_timeout: 300ms}").start();
    let mut raw = Raw::client(bench.traffic, NO_WINDOW);
    raw.get(1, &[(":authority", "t")]);
    assert!(raw.wait(HEADERS, 1).is_some(), "the head needs no window");
    let asked = Instant::now();
    assert!(raw.wait(RST_STREAM, 1).is_some(), "the stream is reset");
    assert!(asked.elapsed() < Duration::from_secs(3));
    bench.wait_metric("shadowpair_in_flight", &[], 0.0);
}

#[test]
fn a_client_that_grants_no_window_for_our_own_answer_is_cut_off() {
    let bench = Plan::prod(Stub::nobody()).server("limits: {idle_timeout: 300ms}").start();
    let mut raw = Raw::client(bench.traffic, NO_WINDOW);
    raw.get(1, &[(":authority", "t")]);
    assert!(raw.wait(HEADERS, 1).is_some());
    assert!(raw.wait(RST_STREAM, 1).is_some(), "the stream is reset");
    bench.wait_metric("shadowpair_in_flight", &[], 0.0);
}

#[test]
fn a_bad_authority_is_a_400() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    let mut raw = Raw::client(bench.traffic, &[]);
    raw.get(1, &[(":authority", "user@t")]);
    let head = raw.wait(HEADERS, 1);
    // `:status: 400` stands in the static table.
    assert!(head.is_none_or(|head| head.payload[0] == 0x8c));
    assert!(p.seen().is_empty());
}

#[test]
fn an_http2_answer_that_is_none_is_called_so() {
    // No `:status`; a field of the connection; an upper-case name.
    let blocks =
        [field("x", "y"), [vec![OK], field("connection", "close")].concat(), [vec![OK], field("X", "y")].concat()];
    for block in blocks {
        let p = RawModel::new(move |_, raw, came| {
            if came.kind == HEADERS {
                raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, came.stream, &block));
            }
        });
        let c = Stub::json(r#"{"y":1}"#);
        let bench = Plan::pair(p.address, c.address).with("p", "protocol: h2").start();
        let answer = bench.ask(post("/", "{}"));
        assert_eq!(answer.status, 502);
        assert!(answer.error().contains("was not HTTP"), "{}", answer.error());
        assert_eq!(bench.pair()["prod"]["outcome"], "protocol_error");
    }
}

#[test]
fn calls_that_end_with_their_connection_for_what_another_said_are_retried_as_after_a_reset() {
    // DATA on a stream that was never opened is an error of the connection.
    let p = RawModel::new(|number, raw, came| {
        if came.kind == HEADERS && number == 0 {
            raw.send(&frame(DATA, 0, came.stream + 100, b"x"));
        } else if came.kind == HEADERS {
            raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, came.stream, &[OK]));
        }
    });
    let bench = Plan::prod(p.address).with("p", "protocol: h2").route("retry: {attempts: 1, on: [reset]}").start();
    assert_eq!(bench.ask(get("/")).status, 200);
}

#[test]
fn a_model_that_ends_its_stream_in_a_frame_of_its_own_has_answered() {
    for (status, body) in [(OK, &b"hello"[..]), (0x89, &b""[..])] {
        let p = RawModel::new(move |_, raw, came| {
            if came.kind == HEADERS {
                let mut block = vec![status];
                if !body.is_empty() {
                    block.extend(field("content-length", "5"));
                }
                raw.send(&frame(HEADERS, END_HEADERS, came.stream, &block));
                raw.send(&frame(DATA, 0, came.stream, body));
                std::thread::sleep(Duration::from_millis(100));
                raw.send(&frame(DATA, END_STREAM, came.stream, b""));
            }
        });
        let c = Stub::json(r#"{"y":1}"#);
        let bench = Plan::pair(p.address, c.address).with("p", "protocol: h2").start();
        let answer = bench.ask(get("/"));
        assert_eq!(answer.body, body);
        let pair = bench.pair();
        assert_eq!(pair["prod"]["outcome"], "ok", "{}", pair["prod"]);
        assert_eq!(pair["answered_by"]["status"], answer.status);
    }
}

#[test]
fn an_http2_connection_that_has_gone_silent_is_given_up() {
    let p = RawModel::new(|number, raw, came| {
        if came.kind == HEADERS && number > 0 {
            raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, came.stream, &[OK]));
        }
    });
    let plan = Plan::prod(p.address).with("p", "protocol: h2").with("p", "timeout: {first_byte: 200ms, idle: 200ms}");
    let bench = plan.server("workers: 1").start();
    assert_eq!(bench.ask(get("/")).status, 504);
    assert_eq!(bench.ask(get("/")).status, 200);
    assert_eq!(p.accepted(), 2);
}

#[test]
fn a_model_that_answers_early_and_reads_on_gets_the_whole_upload() {
    let received = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&received);
    let p = RawModel::new(move |_, raw, came| {
        if came.kind == HEADERS {
            raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, came.stream, &[OK]));
        } else if came.kind == DATA {
            count.fetch_add(came.payload.len(), Ordering::SeqCst);
        }
    });
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(p.address, c.address).with("p", "protocol: h2").start();
    let mut client = bench.client();
    client.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 10\r\n\r\n12345");
    assert_eq!(client.answer().status, 200);
    for digit in ["6", "7", "8", "9", "0"] {
        std::thread::sleep(Duration::from_millis(20));
        client.send(digit);
    }
    assert_eq!(c.one().body, b"1234567890");
    assert_eq!(bench.pair()["candidate"]["outcome"], "ok");
    until("prod has it all", || received.load(Ordering::SeqCst) == 10);
    assert_eq!(client.ask(post("/", "{}")).status, 200);
}

#[test]
fn options_of_everything_reaches_an_http2_model() {
    let p = RawModel::new(|_, raw, came| {
        if came.kind == HEADERS {
            raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, came.stream, &[OK]));
        }
    });
    let bench = Plan::prod(p.address).with("p", "protocol: h2").matching("{methods: [OPTIONS]}").start();
    assert_eq!(bench.ask("OPTIONS * HTTP/1.1\r\nhost: t\r\n\r\n").status, 200);
}

#[test]
fn lengths_that_contradict_the_frames_never_reach_prod_as_a_request() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    for (length, body) in [("10", &b"12345"[..]), ("2", b"12345")] {
        let mut raw = Raw::client(bench.traffic, &[]);
        let mut block = vec![0x83, 0x86, 0x84];
        block.extend(field(":authority", "t"));
        block.extend(field("content-length", length));
        raw.send(&frame(HEADERS, END_HEADERS, 1, &block)).send(&frame(DATA, END_STREAM, 1, body));
        while let Some(came) = raw.next() {
            if came.stream == 1 {
                break;
            }
        }
    }
    bench.wait_metric("shadowpair_in_flight", &[], 0.0);
    assert!(p.seen().iter().all(|seen| seen.end != crate::support::End::Whole), "{:?}", p.seen());
}

/// A GOAWAY that names the last stream that was looked at.
fn goaway(last: u32, code: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// A model that says this to its first `bad` requests, and answers the others; and how many it has seen.
fn refusing(bad: usize, says: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static) -> (RawModel, Arc<AtomicUsize>) {
    refusing_some(move |nth| nth < bad, says)
}

/// The same, with those that it refuses counted from 0.
fn refusing_some(
    bad: impl Fn(usize) -> bool + Send + Sync + 'static,
    says: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static,
) -> (RawModel, Arc<AtomicUsize>) {
    let seen = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&seen);
    let model = RawModel::new(move |_, raw, came| {
        if came.flags & END_STREAM != 0 && matches!(came.kind, HEADERS | DATA) {
            let answer = frame(HEADERS, END_HEADERS | END_STREAM, came.stream, &[OK]);
            let refused = bad(count.fetch_add(1, Ordering::SeqCst));
            raw.send(&if refused { says(came.stream) } else { answer });
        }
    });
    (model, seen)
}

#[test]
fn what_a_model_refused_unread_goes_out_again_whatever_it_is() {
    const REFUSED_STREAM: u32 = 7;
    const ENHANCE_YOUR_CALM: u32 = 11;
    let refusals: [fn(u32) -> Vec<u8>; 3] =
        [|stream| reset(stream, REFUSED_STREAM), |_| goaway(0, 0), |_| goaway(0, ENHANCE_YOUR_CALM)];
    for says in refusals {
        let ((p, seen), (c, copies)) = (refusing(1, says), refusing(1, says));
        let plan = Plan::pair(p.address, c.address).with("p", "protocol: h2").with("c", "protocol: h2");
        let bench = plan.compare_all().start();
        assert_eq!(bench.ask(post("/", r#"{"x":1}"#)).status, 200);
        let pair = bench.pair();
        assert_eq!((&pair["prod"]["outcome"], &pair["candidate"]["outcome"]), (&"ok".into(), &"ok".into()));
        assert_eq!([seen.load(Ordering::SeqCst), copies.load(Ordering::SeqCst)], [2; 2]);
        assert_eq!(bench.metrics().sum("shadowpair_legs_total", &[("role", "prod")]), 1.0, "one call");
    }
}

#[test]
fn what_a_model_may_have_read_does_not_go_out_again() {
    const CANCEL: u32 = 8;
    let ends: [fn(u32) -> Vec<u8>; 3] = [
        |stream| reset(stream, CANCEL),
        |stream| [goaway(stream, 0), reset(stream, CANCEL)].concat(),
        |stream| [goaway(stream, 2), reset(stream, CANCEL)].concat(),
    ];
    for says in ends {
        let (p, seen) = refusing(9, says);
        let bench = Plan::prod(p.address).with("p", "protocol: h2").start();
        assert_eq!(bench.ask(post("/", r#"{"x":1}"#)).status, 502);
        assert_eq!(seen.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn a_model_that_refuses_everything_is_asked_twice() {
    let (p, seen) = refusing(99, |stream| reset(stream, 7));
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(p.address, c.address).with("p", "protocol: h2").start();
    assert_eq!(bench.ask(post("/", r#"{"x":1}"#)).status, 502);
    assert_eq!(seen.load(Ordering::SeqCst), 2);
    // What is not held from its first byte can go out once only.
    let (p, seen) = refusing(1, |stream| reset(stream, 7));
    let bench = Plan::pair(p.address, c.address).with("p", "protocol: h2").route("copy_body: 1KiB").start();
    assert_eq!(bench.ask(post("/", &"x".repeat(2000))).status, 502);
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}

#[test]
fn a_request_is_refused_twice_and_no_more_whatever_retry_says() {
    let (p, seen) = refusing(99, |stream| reset(stream, 7));
    let retry = "retry: {attempts: 1, on: [connect, reset], idempotent: true}";
    let bench = Plan::prod(p.address).with("p", "protocol: h2").route(retry).start();
    let answer = bench.ask(post("/", r#"{"x":1}"#));
    assert_eq!((answer.status, answer.error().contains("prod refused the request twice, unread")), (502, true));
    assert_eq!(seen.load(Ordering::SeqCst), 2);
}

#[test]
fn what_one_endpoint_refused_goes_to_another_and_back_where_that_is_ejected() {
    let (p, seen) = refusing(1, |stream| reset(stream, 7));
    let (other, others) = refusing(0, |_| Vec::new());
    let plan = Plan::prod(p.address).model("c", &[p.address, other.address]).with("c", "protocol: h2");
    let shadowed =
        |plan: Plan| plan.shadow("[{model: c, percent: 100, timeout: 1s}]").with("p", "protocol: h2").start();
    let bench = shadowed(plan);
    let counts = || seen.load(Ordering::SeqCst) + others.load(Ordering::SeqCst);
    for nth in 1..=8 {
        assert_eq!(bench.ask(post("/", r#"{"x":1}"#)).status, 200);
        bench.settle();
        bench.pairs(nth);
    }
    assert_eq!(counts(), 17, "one of them was refused, and went out again");
    assert!(others.load(Ordering::SeqCst) > 0);
    // The other one is not there, and soon ejected: nothing is left but to ask the one that refused again.
    let (c, copies) = refusing(0, |_| Vec::new());
    let (flaky, refused) = refusing_some(|nth| nth >= 20 && nth.is_multiple_of(2), |stream| reset(stream, 7));
    let plan = Plan::prod(c.address).with("p", "protocol: h2").model("c", &[Stub::nobody(), flaky.address]);
    let bench = plan.with("c", "protocol: h2").shadow("[{model: c, percent: 100, timeout: 1s}]").start();
    for _ in 0..40 {
        assert_eq!(bench.ask(post("/", r#"{"x":1}"#)).status, 200);
        bench.settle();
    }
    assert_eq!(copies.load(Ordering::SeqCst), 40);
    let metrics = bench.metrics();
    assert_eq!(metrics.sum("shadowpair_shadow_skipped_total", &[("reason", "unhealthy")]), 0.0);
    assert!(refused.load(Ordering::SeqCst) > 22, "some were refused");
}

#[test]
fn a_refused_request_goes_out_over_the_connection_that_is_there() {
    let (c, copies) = refusing(1, |stream| reset(stream, 7));
    let p = Stub::json(r#"{"y":1}"#);
    let plan = Plan::pair(p.address, c.address).with("c", "protocol: h2").with("c", "max_connections: 1");
    let bench = plan.start();
    assert_eq!(bench.ask(post("/", r#"{"x":1}"#)).status, 200);
    assert_eq!(bench.pair()["candidate"]["outcome"], "ok");
    assert_eq!((c.accepted(), copies.load(Ordering::SeqCst)), (1, 2));
}
