//! HTTP/2 on either side, and what must not change when one side speaks it and the other does not.

use bytes::Bytes;
use http::{Method, Request, Response};

use crate::support::h2::{Frames, H2Stub, h2_post};
use crate::support::wire::Framing;
use crate::support::{Act, End, Plan, Stub, get, post, until};

#[test]
fn an_http2_client_is_answered_by_an_http1_model() {
    let p = Stub::sending(
        "HTTP/1.1 200 Fine\r\nx-a: 1\r\nx-a: 2\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\
         trailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n",
    );
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(p.address, c.address).start();
    let answer = bench.h2().ask(h2_post("/v2/x?a=%zz", Frames::bytes(r#"{"x":1}"#))).unwrap();
    assert_eq!((answer.head.status.as_u16(), answer.body.as_slice()), (200, &b"ok"[..]));
    assert_eq!(answer.head.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(answer.trailers["x-sum"], "7");
    assert!(answer.head.headers.get("connection").is_none());
    let seen = p.one();
    assert_eq!(seen.head.start, "POST /v2/x?a=%zz HTTP/1.1");
    assert_eq!(seen.value("host").as_deref(), Some("models.test"));
    assert_eq!(seen.body, br#"{"x":1}"#);
    let pair = bench.pair();
    assert_eq!(pair["protocol"], "h2");
    assert_eq!((&pair["request"]["path"], &pair["request"]["query"]), (&"/v2/x".into(), &"a=%zz".into()));
    assert_eq!(c.one().head.start, seen.head.start);
}

#[test]
fn an_http1_client_is_answered_by_an_http2_model() {
    let p = H2Stub::new(|_| {
        Response::builder().status(299).header("x-a", "1").header("x-a", "2").body(Frames::bytes(r#"{"y":1}"#)).unwrap()
    });
    let c = H2Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(p.address, c.address).with("p", "protocol: h2").with("c", "protocol: h2").start();
    let answer = bench.ask(post("/a//b?x=%zz", r#"{"x":1}"#));
    assert_eq!((answer.status, answer.text().as_str()), (299, r#"{"y":1}"#));
    assert_eq!(answer.reason, "", "HTTP/2 has none, and none is invented");
    assert_eq!(answer.head.values("x-a"), ["1", "2"]);
    for seen in [p.wait(1).remove(0), c.wait(1).remove(0)] {
        assert_eq!(seen.head.uri.path_and_query().unwrap().as_str(), "/a//b?x=%zz");
        assert_eq!(seen.head.uri.authority().unwrap(), "models.test");
        assert_eq!(seen.body, br#"{"x":1}"#);
        assert!(seen.head.headers.get("connection").is_none() && seen.head.headers.get("host").is_none());
    }
    let pair = bench.pair();
    assert_eq!((&pair["result"], &pair["protocol"]), (&"equal".into(), &"http/1.1".into()));
}

#[test]
fn trailers_pass_from_end_to_end_over_http2() {
    let p = H2Stub::new(|_| {
        let body = Frames::default().data("part").data("").trailer("grpc-status", "0");
        Response::builder().header("content-type", "application/x").body(body).unwrap()
    });
    let bench = Plan::prod(p.address).with("p", "protocol: h2").start();
    let body = Frames::default().data("in").trailer("x-mine", "5");
    let answer = bench.h2().ask(h2_post("/", body)).unwrap();
    assert_eq!((answer.body.as_slice(), &answer.trailers["grpc-status"]), (&b"part"[..], &"0".parse().unwrap()));
    assert_eq!(p.wait(1)[0].trailers["x-mine"], "5");
}

#[test]
fn an_answer_of_trailers_only_stays_one() {
    let p = H2Stub::new(|_| Response::builder().header("grpc-status", "5").body(Frames::default()).unwrap());
    let bench = Plan::prod(p.address).with("p", "protocol: h2").start();
    let answer = bench.h2().ask(h2_post("/", Frames::bytes("x"))).unwrap();
    assert_eq!(answer.head.headers["grpc-status"], "5");
    assert!(answer.body.is_empty() && answer.trailers.is_empty());
}

#[test]
fn bodies_that_are_not_there_stay_so() {
    let p = Stub::json(r#"{"y":1}"#);
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(p.address, c.address).route("capture: {max_body: 1KiB}").start();
    let mut client = bench.h2();
    let uri = "http://models.test/";
    let none = Request::get(uri).body(Frames::default()).unwrap();
    assert_eq!(client.ask(none).unwrap().head.status, 200);
    let empty = h2_post("/", Frames::default().data(Bytes::new()));
    assert_eq!(client.ask(empty).unwrap().head.status, 200);
    let head = Request::builder().method(Method::HEAD).uri(uri).body(Frames::default()).unwrap();
    assert!(client.ask(head).unwrap().body.is_empty());
    let framings = [&p, &c].map(|stub| {
        let mut all: Vec<_> =
            stub.wait(3).iter().map(|seen| (seen.target().to_owned(), format!("{:?}", seen.framing))).collect();
        all.sort();
        all
    });
    assert_eq!(framings[0], framings[1], "the copies are framed alike");
    for stub in [&p, &c] {
        for seen in stub.wait(3) {
            assert!(seen.body.is_empty());
            let post = seen.target().starts_with("POST");
            assert!(post || seen.framing == Framing::Empty, "nothing is invented: {seen:?}");
        }
    }
    for pair in bench.pairs(3) {
        assert_eq!(pair["request"]["body"]["reason"], "empty");
    }
}

#[test]
fn half_an_answer_is_an_rst_stream() {
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello".to_vec();
    let p = Stub::new(move |seen| match seen.target() {
        "POST /half" => vec![Act::Send(half.clone()), Act::Close],
        _ => vec![Act::Send(crate::support::ok_json("{}"))],
    });
    let bench = Plan::prod(p.address).start();
    let mut client = bench.h2();
    let answer = client.ask(h2_post("/half", Frames::bytes("{}"))).unwrap();
    assert_eq!((answer.body.as_slice(), answer.broken), (&b"hello"[..], true));
    assert_eq!(client.ask(h2_post("/whole", Frames::bytes("{}"))).unwrap().head.status, 200, "the others go on");
}

#[test]
fn an_http2_model_that_breaks_off_breaks_the_clients_transfer() {
    let p = H2Stub::new(|_| Response::new(Frames::default().data("hello").broken()));
    let bench = Plan::prod(p.address).with("p", "protocol: h2").start();
    let answer = bench.ask(get("/"));
    assert_eq!(answer.status, 200);
    assert_ne!(answer.end, End::Whole, "{answer:?}");
}

#[test]
fn errors_of_the_proxy_are_json_over_http2_too() {
    let bench = Plan::prod(Stub::nobody()).matching("{path_prefix: /r}").start();
    let mut client = bench.h2();
    for (path, status) in [("/r", 502), ("/none", 404)] {
        let answer = client.ask(h2_post(path, Frames::bytes("{}"))).unwrap();
        assert_eq!(answer.head.status, status);
        assert_eq!(answer.head.headers["content-type"], "application/json");
        let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert!(json["error"].is_string(), "{json}");
    }
}

#[test]
fn a_head_that_is_too_large_is_a_431_over_http2_too() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).server("limits: {header_bytes: 4KiB}").start();
    let mut client = bench.h2();
    let mut request = h2_post("/", Frames::bytes("{}"));
    request.headers_mut().insert("x-long", "a".repeat(5 << 10).parse().unwrap());
    assert_eq!(client.ask(request).unwrap().head.status, 431);
    assert_eq!(client.ask(h2_post("/", Frames::bytes("{}"))).unwrap().head.status, 200);
}

#[test]
fn an_authoritys_port_does_not_count() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).matching("{host: models.example.com}").start();
    let request = Request::get("http://Models.Example.com:8443/x").body(Frames::default()).unwrap();
    assert_eq!(bench.h2().ask(request).unwrap().head.status, 200);
    assert_eq!(p.one().value("host").as_deref(), Some("Models.Example.com:8443"));
}

#[test]
fn many_requests_share_one_http2_connection_to_a_model() {
    let p = H2Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).with("p", "protocol: h2").server("workers: 1").start();
    let mut client = bench.client();
    for _ in 0..50 {
        assert_eq!(client.ask(post("/", "{}")).status, 200);
    }
    assert_eq!(bench.metrics().count("shadowpair_upstream_connections", &[("model", "p")]), 1.0);
}

#[test]
fn a_stream_of_many_small_frames_passes_and_is_compared() {
    let many =
        |_: &_| Response::new((0..2000).fold(Frames::default(), |body, nth| body.data(format!("{},", nth % 10))));
    let (p, c) = (H2Stub::new(many), H2Stub::new(many));
    let bench =
        Plan::pair(p.address, c.address).with("p", "protocol: h2").with("c", "protocol: h2").compare_all().start();
    let answer = bench.h2().ask(h2_post("/", Frames::bytes("{}"))).unwrap();
    assert_eq!((answer.body.len(), answer.broken), (4000, false));
    assert_eq!(bench.pair()["result"], "equal");
}

#[test]
fn one_connection_carries_many_requests_at_once() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).start();
    let requests = (0..50).map(|nth| h2_post(&format!("/{nth}"), Frames::bytes(format!("[{nth}]")))).collect();
    let answers = bench.h2().ask_all(requests);
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer.body == br#"{"y":1}"#)));
    bench.pairs(50);
}

#[test]
fn large_bodies_pass_over_http2_in_both_directions() {
    let big: Vec<u8> = (0..5_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    let p = H2Stub::new(|seen| Response::new(Frames::bytes(seen.body.clone())));
    let bench = Plan::prod(p.address).with("p", "protocol: h2").start();
    let answer = bench.h2().ask(h2_post("/", Frames::bytes(big.clone()))).unwrap();
    assert!(answer.body == big && !answer.broken);
    assert!(bench.ask(crate::support::request("POST /", &[], &big)).body == big);
}

#[test]
fn an_http2_client_that_does_not_read_is_cut_off() {
    let head = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    let p = Stub::doing(vec![Act::Send(head), Act::Flood(vec![b'x'; 64 << 10])]);
    let bench = Plan::prod(p.address).server("limits: {idle_timeout: 300ms}").start();
    let mut client = bench.h2();
    let unread = client.ask_head(h2_post("/", Frames::bytes("{}"))).unwrap();
    assert_eq!(unread.status(), 200);
    // From here on the client's connection makes no progress, and grants no window.
    until("prod's call is ended", || p.ended() == 1);
    bench.wait_metric("shadowpair_in_flight", &[], 0.0);
}

#[test]
fn a_length_that_lies_is_never_passed_on_as_a_whole_request() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    for length in ["10", "3"] {
        let mut request = h2_post("/", Frames::default().data("hello"));
        request.headers_mut().insert("content-length", length.parse().unwrap());
        if let Ok(answer) = bench.h2().ask(request) {
            assert!(answer.broken || answer.head.status.is_client_error(), "{length}: {answer:?}");
        }
    }
    assert!(p.seen().iter().all(|seen| seen.end != End::Whole), "{:?}", p.seen());
}

#[test]
fn one_hanging_request_holds_up_none_of_its_connection() {
    let p = Stub::new(|seen| match seen.target() {
        "POST /hang" => vec![Act::Hang],
        _ => vec![Act::Send(crate::support::ok_json("{}"))],
    });
    let bench = Plan::prod(p.address).with("p", "timeout: {first_byte: 1s}").start();
    let paths = ["/hang", "/1", "/2", "/3"];
    let answers = bench.h2().ask_all(paths.iter().map(|path| h2_post(path, Frames::bytes("{}"))).collect());
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.as_ref().unwrap().head.status.as_u16()).collect();
    assert_eq!(statuses, [504, 200, 200, 200]);
}

#[test]
fn a_grpc_call_and_its_status_stand_in_the_pair() {
    let grpc = |status: &'static str| {
        move |_: &_| {
            let body = Frames::default().data(&b"\0\0\0\0\x01x"[..]).trailer("grpc-status", status);
            Response::builder().header("content-type", "application/grpc").body(body).unwrap()
        }
    };
    let (p, c) = (H2Stub::new(grpc("0")), H2Stub::new(grpc("5")));
    let bench = Plan::pair(p.address, c.address).with("p", "protocol: h2").with("c", "protocol: h2").start();
    let mut call = h2_post("/inference.GRPCInferenceService/ModelInfer", Frames::bytes(&b"\0\0\0\0\x01y"[..]));
    call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    call.headers_mut().insert("te", "trailers".parse().unwrap());
    let answer = bench.h2().ask(call).unwrap();
    assert_eq!(answer.trailers["grpc-status"], "0");
    let pair = bench.pair();
    assert_eq!(pair["protocol"], "grpc");
    assert_eq!((&pair["prod"]["grpc_status"], &pair["prod"]["outcome"]), (&0.into(), &"ok".into()));
    assert_eq!((&pair["candidate"]["grpc_status"], &pair["candidate"]["outcome"]), (&5.into(), &"grpc_error".into()));
    assert_eq!(pair["result"], "candidate_failed");
}

#[test]
fn a_grpc_answer_without_a_status_has_broken_off() {
    let grpc = |content_type: &'static str, trailers: bool| {
        H2Stub::new(move |_| {
            let body = Frames::default().data(&b"\0\0\0\0\x01x"[..]);
            let body = if trailers { body.trailer("grpc-status", "0") } else { body };
            Response::builder().header("content-type", content_type).body(body).unwrap()
        })
    };
    let ends = [("application/grpc+proto", "stream_error"), ("application/grpc-web+proto", "ok")];
    for (content_type, outcome) in ends {
        let (p, c) = (grpc(content_type, true), grpc(content_type, false));
        let bench = Plan::pair(p.address, c.address).with("p", "protocol: h2").with("c", "protocol: h2").start();
        bench.h2().ask(h2_post("/inference.GRPCInferenceService/ModelInfer", Frames::bytes("x"))).unwrap();
        let pair = bench.pair();
        assert_eq!((&pair["prod"]["outcome"], &pair["candidate"]["outcome"]), (&"ok".into(), &outcome.into()));
    }
}

#[test]
fn a_copy_crosses_when_the_body_has_ended_also_where_the_connections_own_tasks_read_it() {
    let (say, heard) = std::sync::mpsc::channel();
    let (say, heard) = (std::sync::Mutex::new(say), std::sync::Mutex::new(heard));
    let json = || Response::new(Frames::bytes(r#"{"y":1}"#));
    // Prod answers once the candidate was asked: a copy that waited for prod's answer would never come.
    let p = H2Stub::new(move |_| {
        let asked = heard.lock().unwrap().recv_timeout(std::time::Duration::from_secs(20));
        if asked.is_ok() { json() } else { Response::builder().status(500).body(Frames::default()).unwrap() }
    });
    let c = H2Stub::new(move |_| {
        let _ = say.lock().unwrap().send(());
        json()
    });
    let bench = Plan::pair(p.address, c.address).with("p", "protocol: h2").with("c", "protocol: h2").start();
    let body = Frames::default().data("{\"x\"").data(":1}");
    let answer = bench.h2().ask(h2_post("/", body)).unwrap();
    assert_eq!(answer.head.status, 200);
    assert_eq!(bench.pair()["result"], "equal");
}

#[test]
fn a_body_that_is_too_large_is_a_413_of_its_stream_only() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).server("limits: {request_bytes: 1KiB}").start();
    let mut client = bench.h2();
    for _ in 0..3 {
        let body = (0..8).fold(Frames::default(), |body, _| body.data(vec![b'a'; 512]));
        assert_eq!(client.ask(h2_post("/", body)).unwrap().head.status, 413);
        assert_eq!(client.ask(h2_post("/", Frames::bytes("{}"))).unwrap().head.status, 200);
    }
}

#[test]
fn a_client_that_resets_its_stream_half_way_is_a_499() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).start();
    let mut client = bench.h2();
    assert!(client.ask(h2_post("/", Frames::default().data("half").broken())).is_err());
    bench.wait_metric("shadowpair_requests_total", &[("code", "499")], 1.0);
    bench.wait_skipped("request_incomplete", 1.0);
    assert!(p.seen().iter().all(|seen| seen.end != End::Whole));
    assert_eq!(client.ask(h2_post("/", Frames::bytes("{}"))).unwrap().head.status, 200, "the others go on");
}

#[test]
fn a_client_that_cancels_while_it_waits_is_a_499() {
    let p = Stub::doing(vec![Act::Hang]);
    let bench = Plan::prod(p.address).start();
    let mut client = bench.h2();
    client.cancel(h2_post("/", Frames::bytes("{}")), || p.received() > 0);
    bench.wait_metric("shadowpair_requests_total", &[("code", "499")], 1.0);
    until("prod's call is ended", || p.ended() == 1);
}

#[test]
fn an_idle_connection_ends_with_a_goaway() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).server("limits: {idle_timeout: 200ms}").start();
    let mut client = bench.h2();
    assert_eq!(client.ask(h2_post("/", Frames::bytes("{}"))).unwrap().head.status, 200);
    assert!(client.is_closed());
}
