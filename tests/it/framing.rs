//! Bodies of every kind, both ways: each arrives with the bytes and the kind of framing it had, as it comes.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::h2::H2Stub;
use crate::support::wire::Framing;
use crate::support::{Act, End, Gate, Plan, Stub, answer, get, ok_json, post, request, until};

#[test]
fn a_request_body_keeps_its_bytes_and_its_framing() {
    let p = Stub::json(r#"{"y":1}"#);
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(p.address, c.address).start();
    let big: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    let mut chunked = b"POST /chunked HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    chunked.extend_from_slice(b"3;ext=1\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n");
    let inputs: [(Vec<u8>, Framing, Vec<u8>); 7] = [
        (get("/none"), Framing::Empty, Vec::new()),
        (request("GET /zero", &[("content-length", "0")], b""), Framing::Length(0), Vec::new()),
        (post("/zero", ""), Framing::Length(0), Vec::new()),
        (request("POST /big", &[], &big), Framing::Length(big.len()), big.clone()),
        (chunked, Framing::Chunked, b"abc0123456789".to_vec()),
        (
            b"POST /empty-chunked HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
            Framing::Chunked,
            Vec::new(),
        ),
        (request("GET /with-body", &[], b"odd but allowed"), Framing::Length(15), b"odd but allowed".to_vec()),
    ];
    let mut client = bench.client();
    for (nth, (bytes, framing, body)) in inputs.into_iter().enumerate() {
        assert_eq!(client.ask(bytes).status, 200);
        for stub in [&p, &c] {
            let seen = stub.wait(nth + 1).remove(nth);
            assert_eq!(seen.framing, framing, "{}", seen.head.start);
            assert!(seen.body == body, "the bytes of {}", seen.head.start);
            assert!(seen.head.values("content-length").is_empty() || seen.head.values("transfer-encoding").is_empty());
        }
    }
    bench.pairs(7);
}

#[test]
fn a_chunked_body_on_a_get_passes() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    bench.ask("GET /q HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    let seen = p.one();
    assert_eq!((seen.framing, seen.body), (Framing::Chunked, b"abc".to_vec()));
}

#[test]
fn an_answers_body_keeps_its_bytes_and_its_framing() {
    let big: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    let sent = big.clone();
    let p = Stub::new(move |seen| match seen.target() {
        "GET /zero" => vec![Act::Send(answer("200 OK", &[], b""))],
        "GET /big" => vec![Act::Send(answer("200 OK", &[], &sent))],
        "GET /chunked" => vec![Act::Send(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n".to_vec(),
        )],
        "GET /empty-chunked" => {
            vec![Act::Send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_vec())]
        }
        _ => vec![Act::Send(b"HTTP/1.1 200 OK\r\n\r\nuntil the end".to_vec()), Act::Close],
    });
    let bench = Plan::prod(p.address).start();
    let ask = |path: &str| bench.ask(get(path));
    let zero = ask("/zero");
    assert_eq!((zero.value("content-length").as_deref(), zero.body.len()), (Some("0"), 0));
    let whole = ask("/big");
    assert_eq!(whole.value("content-length"), Some(big.len().to_string()));
    assert!(whole.body == big && whole.end == End::Whole);
    let chunked = ask("/chunked");
    assert_eq!(chunked.value("transfer-encoding").as_deref(), Some("chunked"));
    assert_eq!((chunked.text().as_str(), chunked.end), ("hello!", End::Whole));
    let empty = ask("/empty-chunked");
    assert_eq!((empty.status, empty.body.len(), empty.end), (200, 0, End::Whole));
    let until_close = ask("/close");
    assert_eq!((until_close.text().as_str(), until_close.end), ("until the end", End::Whole));
}

#[test]
fn an_http_1_0_model_is_understood() {
    let p = Stub::doing(vec![Act::Send(b"HTTP/1.0 200 OK\r\nx-a: 1\r\n\r\nold".to_vec()), Act::Close]);
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(p.address, c.address).start();
    let mut client = bench.client();
    for _ in 0..2 {
        let answer = client.ask(get("/"));
        assert_eq!(
            (answer.text().as_str(), answer.end, answer.value("x-a").as_deref()),
            ("old", End::Whole, Some("1"))
        );
    }
    assert!(bench.pairs(2).iter().all(|pair| pair["prod"]["outcome"] == "ok"));
}

#[test]
fn a_model_that_closes_after_each_answer_closes_no_client() {
    let p = Stub::doing(vec![Act::Send(answer("200 OK", &[("connection", "close")], b"bye")), Act::Close]);
    let bench = Plan::prod(p.address).start();
    let mut client = bench.client();
    for nth in 1..=10 {
        let answer = client.ask(post("/", "{}"));
        assert_eq!((answer.text().as_str(), answer.value("connection")), ("bye", None));
        assert_eq!(p.accepted(), nth);
    }
}

#[test]
fn a_body_that_a_model_sends_to_a_head_answers_no_later_request() {
    let p = Stub::sending(ok_json(r#"{"stray":1}"#));
    let bench = Plan::prod(p.address).server("workers: 1").start();
    let mut client = bench.client();
    for _ in 0..5 {
        let head = client.ask(request("HEAD /", &[], b""));
        assert!(head.status == 200 || head.status == 502, "{head:?}");
        let next = client.ask(get("/"));
        assert!(next.status == 502 || next.text() == r#"{"stray":1}"#, "{next:?}");
    }
}

#[test]
fn answers_without_a_body_have_none() {
    let p = Stub::new(|seen| {
        let bytes: &[u8] = match seen.target() {
            "HEAD /length" => b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n",
            "HEAD /chunked" => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "GET /204" => b"HTTP/1.1 204 No Content\r\n\r\n",
            _ => b"HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\netag: \"1\"\r\n\r\n",
        };
        vec![Act::Send(bytes.to_vec())]
    });
    let c = Stub::doing(vec![Act::Send(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())]);
    let bench = Plan::pair(p.address, c.address).start();
    let mut client = bench.client();
    let head = client.ask(request("HEAD /length", &[], b""));
    assert_eq!((head.status, head.value("content-length").as_deref()), (200, Some("10")));
    assert_eq!(client.ask(request("HEAD /chunked", &[], b"")).status, 200);
    let none = client.ask(get("/204"));
    assert_eq!((none.status, none.value("content-length"), none.value("transfer-encoding")), (204, None, None));
    let unchanged = client.ask(get("/304"));
    assert_eq!((unchanged.status, unchanged.value("etag").as_deref()), (304, Some("\"1\"")));
    for pair in bench.pairs(4) {
        for leg in ["prod", "candidate"] {
            let body = &pair[leg]["body"];
            assert_eq!((&body["encoding"], &body["reason"]), (&"none".into(), &"empty".into()), "{pair}");
            assert_eq!(pair[leg]["bytes"], 0);
        }
    }
    assert!(c.seen().iter().all(|seen| seen.framing == Framing::Empty), "nothing invented on the copies");
}

#[test]
fn what_has_no_body_is_answered_and_copied_as_it_is_with_a_limit_set() {
    let script = |seen: &crate::support::stub::Seen| {
        let bytes: &[u8] = match seen.target() {
            "HEAD /length" => b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n",
            "HEAD /chunked" => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "GET /chunked" => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET /304" => b"HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n",
            _ => b"HTTP/1.1 204 No Content\r\n\r\n",
        };
        vec![Act::Send(bytes.to_vec())]
    };
    let (p, c) = (Stub::new(script), Stub::new(script));
    let bench = Plan::pair(p.address, c.address).compare_all().route("capture: {max_body: 1KiB}").start();
    let chunked = b"POST /chunked HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_vec();
    let inputs = [
        (get("/"), 204, Framing::Empty),
        (post("/", ""), 204, Framing::Length(0)),
        (chunked, 204, Framing::Chunked),
        (request("HEAD /length", &[], b""), 200, Framing::Empty),
        (request("HEAD /chunked", &[], b""), 200, Framing::Empty),
        (get("/chunked"), 200, Framing::Empty),
        (get("/304"), 304, Framing::Empty),
    ];
    let count = inputs.len();
    let mut client = bench.client();
    for (nth, (bytes, status, framing)) in inputs.into_iter().enumerate() {
        let answer = client.ask(bytes);
        assert_eq!((answer.status, answer.body.len(), answer.end), (status, 0, End::Whole));
        // In turn, so that what each model has seen has the order of the requests.
        let seen = [&p, &c].map(|stub| stub.wait(nth + 1).remove(nth));
        assert_eq!((seen[0].framing, seen[1].framing), (framing, framing), "{}", seen[0].head.start);
        assert_eq!(seen[0].target(), seen[1].target());
    }
    let empty = serde_json::json!({"encoding": "none", "data": null, "truncated": false, "reason": "empty"});
    for pair in bench.pairs(count) {
        for part in [&pair["request"], &pair["prod"], &pair["candidate"]] {
            assert_eq!((&part["body"], &part["bytes"]), (&empty, &0.into()), "one fixed form");
        }
    }
    assert_eq!((p.seen().len(), c.seen().len()), (count, count), "each was copied once");
}

#[test]
fn trailers_pass_where_they_are_announced_and_asked_for() {
    let p = Stub::sending(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n",
    );
    let bench = Plan::prod(p.address).start();
    let answer = bench.ask(
        "POST / HTTP/1.1\r\nhost: t\r\nte: trailers\r\nconnection: te\r\ntrailer: x-mine\r\n\
         transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-mine: 5\r\n\r\n",
    );
    assert_eq!(answer.value("trailer").as_deref(), Some("x-sum"));
    assert_eq!(answer.trailers, [("x-sum".to_owned(), b"7".to_vec())]);
    let seen = p.one();
    assert_eq!(seen.value("te").as_deref(), Some("trailers"));
    assert_eq!(seen.trailers, [("x-mine".to_owned(), b"5".to_vec())]);
    let unasked = bench.ask(get("/"));
    assert_eq!((unasked.text().as_str(), unasked.end), ("ok", End::Whole));
}

#[test]
fn trailers_of_a_request_reach_the_candidate_too() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).start();
    bench.ask(
        "POST / HTTP/1.1\r\nhost: t\r\ntrailer: x-mine\r\ntransfer-encoding: chunked\r\n\r\n\
         2\r\nhi\r\n0\r\nx-mine: 5\r\n\r\n",
    );
    for stub in [&p, &c] {
        assert_eq!(stub.one().trailers, [("x-mine".to_owned(), b"5".to_vec())]);
    }
    bench.pairs(1);
}

#[test]
fn a_request_with_trailers_has_a_last_byte_like_any_other() {
    let ask = |trailer: &str| {
        format!(
            "POST / HTTP/1.1\r\nhost: t\r\n{trailer}transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-mine: 5\r\n\r\n"
        )
    };
    for protocol in ["http1", "h2"] {
        for trailer in ["trailer: x-mine\r\n", ""] {
            let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
            let (p2, c2) = (H2Stub::json(r#"{"y":1}"#), H2Stub::json(r#"{"y":1}"#));
            let (p, c) = if protocol == "h2" { (p2.address, c2.address) } else { (p.address, c.address) };
            let plan = Plan::pair(p, c).with("p", format!("protocol: {protocol}"));
            let bench = plan.with("c", format!("protocol: {protocol}")).start();
            assert_eq!(bench.ask(ask(trailer)).status, 200);
            let pair = bench.pair();
            assert!(pair["prod"]["sent_us"].is_u64() && pair["candidate"]["sent_us"].is_u64(), "{protocol}: {pair}");
        }
    }
    // The wait for the answer counts from then.
    let p = Stub::doing(vec![Act::Hang]);
    let bench = Plan::prod(p.address).with("p", "timeout: {first_byte: 100ms, idle: 0s}").start();
    assert_eq!(bench.ask(ask("trailer: x-mine\r\n")).status, 504);
}

#[test]
fn each_piece_of_an_answer_is_passed_on_at_once() {
    let gate = Gate::default();
    let p = Stub::doing(vec![
        Act::Send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec()),
        Act::Send(b"5\r\nfirst\r\n".to_vec()),
        Act::Wait(gate.clone()),
        Act::Send(b"4\r\nlast\r\n0\r\n\r\n".to_vec()),
    ]);
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(p.address, c.address).start();
    let mut client = bench.client();
    client.send(get("/"));
    let head = client.wire.head().unwrap();
    assert!(head.start.contains("200"));
    // The gate is shut: what comes now cannot have waited for the end.
    while !String::from_utf8_lossy(client.wire.peek()).contains("first") {
        client.wire.fill().unwrap();
    }
    gate.open();
    let body = client.wire.body(Framing::Chunked);
    assert_eq!((body.bytes.as_slice(), body.end), (&b"firstlast"[..], End::Whole));
    bench.pairs(1);
}

#[test]
fn each_piece_of_a_request_is_passed_on_at_once() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    let mut client = bench.client();
    client.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 200000\r\n\r\n");
    client.send(vec![b'a'; 100_000]);
    until("half of the body is with prod", || p.received() > 100_000);
    client.send(vec![b'b'; 100_000]);
    assert_eq!(client.answer().status, 200);
    assert_eq!(p.one().body.len(), 200_000);
}

#[test]
fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let p = Stub::on_head(|_| vec![Act::Send(answer("429 Too Many Requests", &[], b"later"))]);
    let bench = Plan::prod(p.address).start();
    let mut client = bench.client();
    client.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 10\r\n\r\n12345");
    let early = client.answer();
    assert_eq!((early.status, early.text().as_str()), (429, "later"));
    client.send("67890");
}

#[test]
fn an_early_answer_leaves_the_copy_whole_and_the_connection_usable() {
    let early = answer("429 Too Many Requests", &[], b"later");
    let p = Stub::on_head(move |_| vec![Act::Send(early.clone())]);
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(p.address, c.address).start();
    let mut client = bench.client();
    client.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 10\r\n\r\n12345");
    assert_eq!(client.answer().status, 429);
    client.send("67890");
    assert_eq!(c.one().body, b"1234567890");
    let pair = bench.pair();
    assert_eq!((&pair["request"]["bytes"], &pair["prod"]["status"]), (&10.into(), &429.into()));
}

#[test]
fn an_early_answer_that_is_the_connections_last_leaves_the_copy_whole() {
    let early = answer("429 Too Many Requests", &[], b"later");
    let p = Stub::on_head(move |_| vec![Act::Send(early.clone())]);
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(p.address, c.address).start();
    let mut client = bench.client();
    client.send("POST / HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: 10\r\n\r\n12345");
    assert_eq!(client.answer().value("connection").as_deref(), Some("close"));
    client.send("67890GET / HTTP/1.1\r\nhost: t\r\n\r\n");
    assert_eq!(c.one().body, b"1234567890");
    assert!(client.is_closed());
}

#[test]
fn a_large_upload_reaches_the_candidate_though_prod_refuses() {
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(Stub::nobody(), c.address).start();
    let body = vec![b'a'; 1_000_000];
    assert_eq!(bench.ask(request("POST /", &[], &body)).status, 502);
    assert!(c.one().body == body, "failures of prod are when the pair matters");
    assert_eq!(bench.pair()["result"], "prod_failed");
}

#[test]
fn an_early_answer_with_a_close_still_reaches_the_client() {
    let p = Stub::on_head(|_| vec![Act::Send(answer("503 Busy", &[("connection", "close")], b"busy")), Act::Close]);
    let bench = Plan::prod(p.address).start();
    for _ in 0..10 {
        let answer = bench.ask(request("POST /", &[], &vec![b'a'; 300_000]));
        assert!(
            (answer.status, answer.text().as_str()) == (503, "busy") || answer.status == 502,
            "prod's answer, or, where the RST was faster, a 502: {answer:?}"
        );
    }
}

#[test]
fn a_client_that_expects_100_is_told_to_go_on() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    let mut client = bench.client();
    client.send("POST / HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: 7\r\n\r\n");
    let go_on = client.answer();
    assert_eq!((go_on.status, go_on.reason.as_str()), (100, "Continue"));
    client.send(r#"{"x":1}"#);
    assert_eq!(client.answer().text(), r#"{"y":1}"#);
    assert_eq!(p.one().body, br#"{"x":1}"#);
}

#[test]
fn an_answer_that_nobody_reads_is_not_gathered() {
    let p = Stub::doing(vec![Act::Send(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()), Act::Flood(vec![b'x'; 64 << 10])]);
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(p.address, c.address).start();
    let mut client = bench.client();
    client.send(get("/"));
    let written = stands_still(|| p.flooded());
    assert!(written < 32 << 20, "sockets hold some, the proxy holds no more: {written}");
    drop(client);
    bench.pairs(1);
}

#[test]
fn an_upload_that_prod_does_not_read_is_not_gathered() {
    let gate = Gate::default();
    let p = Stub::on_head({
        let gate = gate.clone();
        move |_| vec![Act::Wait(gate.clone()), Act::Close]
    });
    let bench = Plan::prod(p.address).server("limits: {request_bytes: 1GiB}").start();
    let client = bench.client();
    let sent = Arc::new(AtomicUsize::new(0));
    let sending = std::thread::spawn({
        let (mut stream, sent) = (client.wire.stream.try_clone().unwrap(), Arc::clone(&sent));
        move || {
            let _ = stream.write_all(b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 1000000000\r\n\r\n");
            while stream.write_all(&[b'x'; 64 << 10]).is_ok() {
                sent.fetch_add(64 << 10, Ordering::SeqCst);
            }
        }
    });
    let written = stands_still(|| sent.load(Ordering::SeqCst));
    assert!(written < 32 << 20, "sockets hold some, the proxy holds no more: {written}");
    gate.open();
    client.wire.close();
    sending.join().unwrap();
}

/// Waits until a count has grown no more for a while, and gives it.
fn stands_still(count: impl Fn() -> usize) -> usize {
    let mut last = 0;
    until("it stands still", || {
        let before = std::mem::replace(&mut last, count());
        std::thread::sleep(std::time::Duration::from_millis(150));
        last > 0 && before == last
    });
    last
}
