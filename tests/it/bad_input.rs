//! Requests that two readers could read in two ways, and those that nobody can read. Each is followed by a hidden
//! `GET /admin`: prod must never see it, and nothing ambiguous is ever sent on.

use crate::support::wire::Framing;
use crate::support::{End, Plan, Stub, get};

const HIDDEN: &str = "GET /admin HTTP/1.1\r\nhost: t\r\n\r\n";

/// Sends it with the hidden request behind; the statuses of all answers until the proxy closes.
fn statuses(bench: &crate::support::Bench, head: &str, body: &str) -> Vec<u16> {
    let mut client = bench.client();
    client.send(format!("{head}\r\n\r\n{body}"));
    let mut statuses = Vec::new();
    while let Ok(answer) = client.try_answer("POST") {
        statuses.push(answer.status);
    }
    assert_ne!(client.wire.rest().1, End::Silent, "the connection is closed after {head:?}");
    statuses
}

/// Nothing of the hidden request, and never two framings at once.
fn assert_clean(p: &Stub) {
    for seen in p.seen() {
        assert!(!seen.target().contains("/admin"), "{}", seen.head.start);
        let lengths = seen.head.values("content-length").len();
        let codings = seen.head.values("transfer-encoding").len();
        assert!(lengths + codings < 2, "two framings: {:?}", String::from_utf8_lossy(&seen.head.raw));
    }
}

#[test]
fn lengths_that_contradict_are_a_400_and_a_close() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    let post = "POST / HTTP/1.1\r\nhost: t\r\n";
    let inputs = [
        "content-length: 5\r\ncontent-length: 6",
        "content-length: +5",
        "content-length: 5, 6",
        "content-length: -5",
        "content-length: 0x5",
        "content-length: 5 5",
        "content-length: ",
        "content-length: 99999999999999999999",
        "transfer-encoding : chunked",
        "content-length : 5",
    ];
    for input in inputs {
        assert_eq!(statuses(&bench, &format!("{post}{input}"), &format!("hello{HIDDEN}")), [400], "{input}");
    }
    assert_clean(&p);
    assert!(p.seen().is_empty());
}

#[test]
fn equal_lengths_in_one_field_are_one_length_or_a_400() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    for input in ["content-length: 5, 5", "content-length: 5\r\ncontent-length: 5"] {
        let head = format!("POST / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n{input}");
        let statuses = statuses(&bench, &head, &format!("hello{HIDDEN}"));
        assert!(statuses == [400] || statuses == [200], "{input}: {statuses:?}");
    }
    assert_clean(&p);
    for seen in p.seen() {
        assert_eq!(seen.framing, Framing::Length(5));
        assert_eq!(seen.value("content-length").as_deref(), Some("5"), "one clean length");
    }
}

#[test]
fn a_length_beside_chunks_is_a_400_or_chunks_alone() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    for order in [
        "content-length: 4\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 4",
        "transfer-encoding: chunked\r\ncontent-length: 4\r\ncontent-length: 9",
    ] {
        let body = format!("5\r\nhello\r\n0\r\n\r\n{HIDDEN}");
        let statuses = statuses(&bench, &format!("POST / HTTP/1.1\r\nhost: t\r\n{order}"), &body);
        assert!(statuses == [400] || statuses == [200], "{order}: {statuses:?}");
    }
    assert_clean(&p);
    for seen in p.seen() {
        assert_eq!((seen.framing, seen.body.as_slice()), (Framing::Chunked, &b"hello"[..]));
    }
}

#[test]
fn unknown_transfer_codings_are_a_501_or_400_and_a_close() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    for coding in ["xchunked", "chunked, identity", "identity", "gzip, chunked", "chunked, chunked", "\"chunked\""] {
        let head = format!("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: {coding}");
        let statuses = statuses(&bench, &head, &format!("5\r\nhello\r\n0\r\n\r\n{HIDDEN}"));
        assert!(statuses == [501] || statuses == [400], "{coding}: {statuses:?}");
    }
    assert_clean(&p);
    assert!(p.seen().is_empty());
}

#[test]
fn chunks_in_http_1_0_are_a_400() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    let head = "POST / HTTP/1.0\r\nhost: t\r\ntransfer-encoding: chunked";
    let statuses = statuses(&bench, head, &format!("5\r\nhello\r\n0\r\n\r\n{HIDDEN}"));
    assert_eq!(statuses, [400]);
    assert!(p.seen().is_empty());
}

#[test]
fn a_bad_chunk_ends_the_request_and_the_connection() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    let head = "POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked";
    for chunk in ["0x5\r\nhello\r\n0\r\n\r\n", "5\r\nhelloX\r\n0\r\n\r\n", "-5\r\nhello\r\n", "fffffffffffffffff\r\nx"]
    {
        let statuses = statuses(&bench, head, &format!("{chunk}{HIDDEN}"));
        assert!(statuses.is_empty() || statuses == [400], "{chunk:?}: {statuses:?}");
    }
    assert_clean(&p);
    assert!(p.seen().iter().all(|seen| seen.end != End::Whole), "prod is not given a bad body as a whole one");
    bench.wait_metric("shadowpair_in_flight", &[], 0.0);
}

#[test]
fn bare_line_feeds_are_a_400_or_one_clean_framing() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    let hidden = HIDDEN.replace("\r\n", "\n");
    for behind in ["", HIDDEN, &hidden] {
        let mut client = bench.client();
        client.send(format!("POST /lf HTTP/1.1\nhost: t\nconnection: close\ncontent-length: 5\n\nhello{behind}"));
        let answer = client.answer();
        assert!(answer.status == 400 || answer.status == 200, "{answer:?}");
        assert_ne!(client.wire.rest().1, End::Silent);
    }
    assert_clean(&p);
    for seen in p.seen() {
        assert!(!String::from_utf8_lossy(&seen.head.raw).replace("\r\n", "").contains('\n'));
        assert_eq!((seen.framing, seen.body.as_slice()), (Framing::Length(5), &b"hello"[..]));
    }
}

#[test]
fn heads_that_cannot_be_read_get_a_400_and_a_close() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    for head in [
        "GET / HTTP/1.1\r\nhost: t\r\nno colon here",
        "GET / HTTP/1.1\r\nhost: t\r\nx: a\0b",
        "GET / HTTP/1.1\r\nhost: t\r\n folded: 1",
        "GET /",
        "GET / HTTP/9.9\r\nhost: t",
        "\u{1}\u{2}\u{3}",
        "GET /<raw> HTTP/1.1\r\nhost: t\r\n: empty",
    ] {
        let statuses = statuses(&bench, head, HIDDEN);
        assert!(statuses.is_empty() || statuses[0] / 100 == 4 || statuses[0] == 505, "{head:?}: {statuses:?}");
    }
    assert_clean(&p);
}

#[test]
fn targets_and_hosts_that_cannot_be_passed_on_are_a_400() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    for head in ["GET no-slash HTTP/1.1\r\nhost: t", "GET / HTTP/1.1\r\nhost: a b", "GET / HTTP/1.1\r\nhost: t/x"] {
        assert_eq!(bench.ask(format!("{head}\r\n\r\n")).status, 400, "{head:?}");
    }
    assert!(p.seen().is_empty());
}

#[test]
fn bytes_of_another_protocol_do_no_harm() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    let hello = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03";
    for bytes in [&hello[..], b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"\xff\xff\xff\xff", b"\r\n\r\n\r\n\r\n", b"PRI"] {
        let mut client = bench.client();
        client.send(bytes);
        client.wire.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_ne!(client.wire.rest().1, End::Silent, "{bytes:?}");
    }
    assert_eq!(bench.ask(get("/")).status, 200);
}

#[test]
fn the_body_of_a_refused_request_is_no_request() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).matching("{path_prefix: /in}").start();
    let bodies = [HIDDEN.to_owned(), format!("{}{HIDDEN}", "a".repeat(300_000))];
    for body in bodies {
        for line in ["POST /out", "TRACE /in", "POST /in\u{7f}"] {
            let mut client = bench.client();
            client.send(crate::support::request(line, &[], body.as_bytes()));
            client.send(get("/in/next"));
            let first = client.answer();
            assert!(first.status / 100 == 4, "{line}: {first:?}");
            if let Ok(second) = client.try_answer("GET") {
                assert_eq!((second.status, second.text().as_str()), (200, r#"{"y":1}"#), "{line}");
            }
        }
    }
    assert!(p.seen().iter().all(|seen| seen.target() == "GET /in/next"));
}

#[test]
fn a_codings_case_does_not_count() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    let answer = bench.ask("POST / HTTP/1.1\r\nhost: t\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
    assert_eq!(answer.status, 200);
    assert_eq!((p.one().framing, p.one().body), (Framing::Chunked, b"hi".to_vec()));
}
