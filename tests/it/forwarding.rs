//! What passes through unchanged, and the few fields that do not.

use crate::support::{Act, Client, End, Plan, Stub, answer, ask, get, ok_json, post, request};

/// The fields of a head in order, names in lower case, without those that the proxy may add or must set anew.
fn fields(head: &crate::support::wire::Head, without: &[&str]) -> Vec<(String, Vec<u8>)> {
    let all = head.fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    all.filter(|(name, _)| !without.contains(&name.as_str())).collect()
}

#[test]
fn the_answer_is_prods_to_the_byte() {
    let head = b"HTTP/1.1 207 Meant  So!\r\nX-Odd: caf\xe9 \t \"q\"\r\nx-twice: 1\r\nServer: prod/1\r\nx-twice: 2\r\n\
        set-cookie: a=1; Path=/\r\nset-cookie: b=2\r\nx-empty:\r\ndate: Mon, 01 Jan 2024 00:00:00 GMT\r\n\
        etag: W/\"1\"\r\nx-request-id: prods-own\r\ncontent-length: 4\r\n\r\n\x00\xff\r\n";
    let p = Stub::sending(*head);
    let bench = Plan::prod(p.address).start();
    let answer = bench.ask(get("/"));
    assert_eq!((answer.status, answer.reason.as_str()), (207, "Meant  So!"));
    assert_eq!(answer.body, b"\x00\xff\r\n");
    assert_eq!(answer.value("x-odd").map(|_| ()), Some(()));
    let names: Vec<String> = fields(&answer.head, &[]).into_iter().map(|(name, _)| name).collect();
    let grouped = ["x-odd", "x-twice", "x-twice", "server", "set-cookie", "set-cookie", "x-empty", "date", "etag"];
    assert_eq!(names[..9], grouped, "repeated fields stand together, all else in its order");
    let odd = answer.head.fields.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-odd")).unwrap();
    assert_eq!(odd.1, b"caf\xe9 \t \"q\"");
    assert_eq!(answer.head.values("x-twice"), ["1", "2"]);
    assert_eq!(answer.head.values("set-cookie"), ["a=1; Path=/", "b=2"]);
    assert_eq!(answer.value("date").as_deref(), Some("Mon, 01 Jan 2024 00:00:00 GMT"));
    assert_eq!(answer.value("x-request-id").as_deref(), Some("prods-own"));
    assert_eq!(answer.value("x-empty").as_deref(), Some(""));
    assert_eq!(answer.value("connection"), None);
    assert_eq!(answer.value("via"), None);
}

#[test]
fn date_and_request_id_are_added_where_prod_sent_none() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    let answer = bench.ask(get("/"));
    assert!(answer.value("date").is_some());
    assert_eq!(answer.value("x-request-id"), p.one().value("x-request-id"));
}

#[test]
fn the_request_reaches_prod_to_the_byte() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    bench.ask(
        b"POST /a//b/%2e%2e/../x;v=1?y=%zz&a=b&a=c&&= HTTP/1.1\r\nHost: Models.Example.com:8080\r\nX-Odd: caf\xe9\r\n\
          Accept: a\r\nx-twice: 1\r\nUser-Agent: t/1\r\nx-twice: 2\r\nContent-Type: application/json\r\n\
          Authorization: Bearer s\r\nContent-Length: 9\r\n\r\n{\"x\": 1 }",
    );
    let seen = p.one();
    assert_eq!(seen.head.start, "POST /a//b/%2e%2e/../x;v=1?y=%zz&a=b&a=c&&= HTTP/1.1");
    assert_eq!(seen.body, b"{\"x\": 1 }");
    let added = ["x-request-id", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "te"];
    let want: Vec<(String, Vec<u8>)> = [
        ("host", &b"Models.Example.com:8080"[..]),
        ("x-odd", b"caf\xe9"),
        ("accept", b"a"),
        ("x-twice", b"1"),
        ("x-twice", b"2"),
        ("user-agent", b"t/1"),
        ("content-type", b"application/json"),
        ("authorization", b"Bearer s"),
        ("content-length", b"9"),
    ]
    .iter()
    .map(|(name, value)| ((*name).to_owned(), value.to_vec()))
    .collect();
    let mut have = fields(&seen.head, &added);
    // `Host` may stand anywhere (RFC 9110 asks for it first, and hyper keeps it where it was).
    have.sort_by_key(|(name, _)| want.iter().position(|(n, _)| n == name));
    assert_eq!(have, want);
}

#[test]
fn every_method_passes() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    let mut client = bench.client();
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE", "X-ODD", "get"] {
        assert_eq!(client.ask(request(&format!("{method} /m"), &[], b"")).status, 200, "{method}");
    }
    let methods: Vec<String> = p.seen().iter().map(|seen| seen.target().replace(" /m", "")).collect();
    assert_eq!(methods, ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE", "X-ODD", "get"]);
}

#[test]
fn a_request_id_is_kept_minted_or_replaced() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    let with = |id: &str| request("GET /", &[("x-request-id", id)], b"");
    assert_eq!(bench.ask(with("mine-1")).value("x-request-id").as_deref(), Some("mine-1"));
    let long = "x".repeat(128);
    assert_eq!(bench.ask(with(&long)).value("x-request-id"), Some(long.clone()));
    for bad in [format!("{long}x"), "a b".into(), "é".into(), String::new()] {
        let minted = bench.ask(with(&bad)).value("x-request-id").unwrap();
        assert_eq!(minted.len(), 36, "{bad:?} became {minted:?}");
    }
    let minted = bench.ask(get("/")).value("x-request-id").unwrap();
    let seen = p.seen();
    assert_eq!(seen[0].value("x-request-id").as_deref(), Some("mine-1"));
    assert_eq!(seen[1].value("x-request-id"), Some(long));
    assert_eq!(seen[6].value("x-request-id"), Some(minted));
}

#[test]
fn of_two_request_ids_one_goes_on() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).start();
    let answer = bench.ask(request("GET /", &[("x-request-id", "one"), ("x-request-id", "two")], b""));
    let id = answer.value("x-request-id");
    for stub in [&p, &c] {
        assert_eq!(stub.one().value("x-request-id"), id, "just one, and the same everywhere");
    }
    assert_eq!(bench.pair()["request_id"].as_str().map(ToOwned::to_owned), id);
}

#[test]
fn every_address_of_a_list_serves() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).listen("[127.0.0.1:0, \"[::1]:0\"]").start();
    let addresses = bench.addresses();
    assert_eq!(addresses.len(), 2);
    for address in addresses {
        assert_eq!(ask(address, get("/")).status, 200, "{address}");
    }
    let seen = p.seen();
    assert_eq!(seen[1].value("x-forwarded-for").as_deref(), Some("::1"));
}

#[test]
fn an_untrusted_peers_forwarded_fields_are_replaced() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    let fields = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "evil.test")];
    bench.ask(request("GET /", &fields, b""));
    let seen = p.one();
    assert_eq!(seen.value("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(seen.value("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(seen.value("x-forwarded-host").as_deref(), Some("models.test"));
    assert_eq!(seen.value("via"), None);
}

#[test]
fn a_trusted_peers_forwarded_fields_are_believed() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).server("trusted_proxies: [127.0.0.0/8]").start();
    let fields =
        [("x-forwarded-for", "10.1.1.1, 10.2.2.2"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "front.test")];
    bench.ask(request("GET /", &fields, b""));
    bench.ask(get("/"));
    let seen = p.wait(2);
    assert_eq!(seen[0].head.values("x-forwarded-for").join(", "), "10.1.1.1, 10.2.2.2, 127.0.0.1");
    assert_eq!(seen[0].value("x-forwarded-proto").as_deref(), Some("https"));
    assert_eq!(seen[0].value("x-forwarded-host").as_deref(), Some("front.test"));
    assert_eq!(seen[1].value("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(seen[1].value("x-forwarded-proto").as_deref(), Some("http"));
}

#[test]
fn hop_by_hop_fields_stay_on_their_hop_in_both_directions() {
    let p = Stub::sending(answer(
        "200 OK",
        &[
            ("connection", "x-hop, keep-alive"),
            ("keep-alive", "timeout=5"),
            ("x-hop", "1"),
            ("x-end", "1"),
            ("proxy-authenticate", "Basic"),
            ("upgrade", "h2c"),
        ],
        b"",
    ));
    let bench = Plan::prod(p.address).start();
    let fields = [
        ("connection", "X-Mine, x-request-id, x-forwarded-for, upgrade, HTTP2-Settings"),
        ("x-mine", "1"),
        ("x-request-id", "kept"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABkAAQAAP__"),
        ("keep-alive", "1"),
        ("proxy-connection", "close"),
        ("te", "gzip"),
        ("x-end", "1"),
    ];
    let answer = bench.ask(request("GET /", &fields, b""));
    assert_eq!(answer.status, 200, "an upgrade that the route does not allow is dropped");
    for gone in ["x-hop", "keep-alive", "upgrade"] {
        assert_eq!(answer.value(gone), None, "{gone} is of prod's hop");
    }
    assert_eq!(answer.value("x-end").as_deref(), Some("1"));
    let seen = p.one();
    for gone in ["x-mine", "upgrade", "http2-settings", "keep-alive", "proxy-connection"] {
        assert_eq!(seen.value(gone), None, "{gone} is of the client's hop");
    }
    assert_eq!(seen.value("x-end").as_deref(), Some("1"));
    assert_eq!(seen.value("x-request-id").as_deref(), Some("kept"), "never the proxy's own");
    assert_eq!(seen.value("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert!(!seen.head.values("te").concat().contains("gzip"));
}

#[test]
fn a_clients_own_marks_are_stripped() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    bench.ask(request("GET /", &[("x-shadowpair-role", "shadow"), ("X-Shadowpair-Anything", "1")], b""));
    let seen = p.one();
    assert!(!String::from_utf8_lossy(&seen.head.raw).to_lowercase().contains("x-shadowpair"));
}

#[test]
fn a_fragment_is_dropped() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    bench.ask(get("/a?b=1#c"));
    assert_eq!(p.one().target(), "GET /a?b=1");
}

const BY_HOST: &str = "  - {name: r, match: {host: models.example.com}, prod: p}";

#[test]
fn a_hosts_port_case_and_trailing_dot_do_not_count() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).routes(BY_HOST).start();
    for host in ["models.example.com", "models.example.com:8080", "MODELS.Example.com", "models.example.com."] {
        let answer = bench.ask(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(answer.status, 200, "{host}");
        assert_eq!(p.seen().last().unwrap().value("host").as_deref(), Some(host), "passed on as it came");
    }
    for host in ["example.com", "xmodels.example.com", "[::1]:8080"] {
        let answer = bench.ask(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(answer.status, 404, "{host}");
        assert!(answer.error().contains("route"), "{}", answer.error());
    }
}

#[test]
fn an_absolute_target_wins_over_host_and_goes_on_in_origin_form() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).routes(BY_HOST).start();
    let answer = bench.ask("GET http://models.example.com/x?q=1 HTTP/1.1\r\nHost: other.test\r\n\r\n");
    assert_eq!(answer.status, 200);
    let seen = p.one();
    assert_eq!(seen.target(), "GET /x?q=1");
    assert_eq!(seen.value("host").as_deref(), Some("models.example.com"));
    assert_eq!(bench.ask("GET http://other.test/x HTTP/1.1\r\nHost: models.example.com\r\n\r\n").status, 404);
}

#[test]
fn an_absolute_target_without_a_path_asks_for_the_root() {
    let p = Stub::json("{}");
    let bench = Plan::prod(p.address).start();
    assert_eq!(bench.ask("GET http://models.test?q=1 HTTP/1.1\r\nhost: models.test\r\n\r\n").status, 200);
    assert_eq!(p.one().target(), "GET /?q=1");
}

#[test]
fn no_host_or_two_are_a_400() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    assert_eq!(bench.ask("GET / HTTP/1.1\r\n\r\n").status, 400);
    assert_eq!(bench.ask("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").status, 400);
    assert_eq!(bench.ask("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n").status, 400);
    assert_eq!(p.accepted(), 0);
}

#[test]
fn the_first_route_that_matches_wins() {
    let p = Stub::json(r#"{"y":1}"#);
    let routes = r"  - {name: tenant, match: {path_prefix: /v2, headers: {x-tenant: acme}}, prod: p}
  - {name: exact, match: {path: /v2/infer, methods: [POST]}, prod: p}
  - {name: below, match: {path_prefix: /v2/}, prod: p}";
    let bench = Plan::prod(p.address).routes(routes).start();
    let mut requests = 0.0;
    let mut goes_to = |line: &str, fields: &[(&str, &str)], route: &str| {
        let status = bench.ask(request(line, fields, b"")).status;
        assert_eq!(status, if route.is_empty() { 404 } else { 200 }, "{line}");
        requests += 1.0;
        bench.wait_metric("shadowpair_requests_total", &[], requests);
        bench.metrics().count("shadowpair_requests_total", &[("route", route)])
    };
    assert_eq!(goes_to("POST /v2/infer", &[("x-tenant", "acme")], "tenant"), 1.0);
    assert_eq!(goes_to("POST /v2/infer", &[("x-tenant", "acme2")], "exact"), 1.0);
    assert_eq!(goes_to("GET /v2/infer", &[], "below"), 1.0);
    assert_eq!(goes_to("GET /v2", &[], "below"), 2.0);
    assert_eq!(goes_to("GET /v2/", &[], "below"), 3.0);
    assert_eq!(goes_to("POST /v2/infer?x=1", &[], "exact"), 2.0);
    assert_eq!(goes_to("GET /v22", &[], ""), 1.0);
    assert_eq!(goes_to("GET /", &[], ""), 2.0);
}

#[test]
fn trace_is_405_connect_501_and_options_of_everything_404() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    let trace = bench.ask(request("TRACE /", &[], b""));
    assert_eq!(trace.status, 405);
    assert!(!trace.error().is_empty());
    let connect = bench.ask("CONNECT models.test:443 HTTP/1.1\r\nHost: models.test:443\r\n\r\n");
    assert_eq!(connect.status, 501);
    assert!(!connect.error().is_empty());
    assert_eq!(bench.ask("OPTIONS * HTTP/1.1\r\nHost: models.test\r\n\r\n").status, 404);
    assert_eq!(p.accepted(), 0);
}

#[test]
fn kept_connections_serve_many_requests_on_both_sides() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).server("workers: 1").start();
    let mut client = bench.client();
    for nth in 1..=20 {
        assert_eq!(client.ask(post("/", r#"{"x":1}"#)).status, 200);
        bench.wait_metric("shadowpair_pairs_total", &[], f64::from(nth));
    }
    assert_eq!((p.accepted(), c.accepted()), (1, 1));
    for (nth, pair) in bench.pairs(20).iter().enumerate() {
        assert_eq!((&pair["prod"]["reused"], &pair["candidate"]["reused"]), (&(nth > 0).into(), &(nth > 0).into()));
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let p = Stub::new(|seen| vec![Act::Send(ok_json(&format!("\"{}\"", seen.target())))]);
    let bench = Plan::prod(p.address).start();
    let mut client = bench.client();
    let mut all = post("/1", r#"{"x":1}"#);
    all.extend(get("/2"));
    all.extend(post("/3", "{}"));
    client.send(all);
    let targets: Vec<String> = (0..3).map(|_| client.answer().text()).collect();
    assert_eq!(targets, ["\"POST /1\"", "\"GET /2\"", "\"POST /3\""]);
}

#[test]
fn connection_close_is_obeyed() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).start();
    let mut client = bench.client();
    assert_eq!(client.ask(request("GET /", &[("connection", "close")], b"")).status, 200);
    assert!(client.is_closed());
}

#[test]
fn an_http_1_0_client_is_served() {
    let p = Stub::sending("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    let bench = Plan::prod(p.address).start();
    let mut client = bench.client();
    let answer = client.ask("GET /old HTTP/1.0\r\nHost: models.test\r\n\r\n");
    assert_eq!((answer.status, answer.text().as_str(), answer.end), (200, "abcde", End::Whole));
    assert_eq!(answer.value("transfer-encoding"), None, "HTTP/1.0 has no chunks");
    assert!(client.is_closed());
    assert_eq!(p.one().head.start, "GET /old HTTP/1.1");
    // Host came with HTTP/1.1.
    assert_ne!(Client::to(bench.traffic).ask("GET /old HTTP/1.0\r\n\r\n").status, 502);
}

#[test]
fn informational_answers_are_not_forwarded() {
    let p =
        Stub::sending("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    let bench = Plan::prod(p.address).start();
    let answer = ask(bench.traffic, get("/"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    assert_eq!(answer.value("link"), None);
}
