//! The pair record: every key in every record, and what stands there.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::support::h2::{Frames, h2_post};
use crate::support::pairs::lines;
use crate::support::{Act, Plan, Stub, answer, get, ok_json, post, request};

#[test]
fn every_key_stands_in_every_record_of_very_different_requests() {
    let p = Stub::new(|seen| match seen.target() {
        "GET /reset" => vec![Act::Reset],
        "GET /204" => vec![Act::Send(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())],
        "GET /text" => vec![Act::Send(answer("200 OK", &[("content-type", "text/plain")], b"caf\xc3\xa9"))],
        "GET /bytes" => vec![Act::Send(answer("200 OK", &[], b"\xff\xfe\x00"))],
        "GET /500" => vec![Act::Send(answer("500 No", &[], b"{}"))],
        _ => vec![Act::Send(ok_json(r#"{"y":1,"z":[1,2]}"#))],
    });
    let c = Stub::new(|seen| match seen.target() {
        "GET /hang" => vec![Act::Hang],
        "GET /differs" => vec![Act::Send(ok_json(r#"{"y":3}"#))],
        _ => vec![Act::Send(ok_json(r#"{"y":1,"z":[1,2]}"#))],
    });
    let bench = Plan::pair(p.address, c.address)
        .shadow("[{model: c, percent: 100, timeout: 1s}]")
        .route("control: {percent: 100}")
        .route("capture: {keys: {id: {json: /id}}}")
        .route("slices: {country: {header: x-country}}")
        .server("labels: {cluster: eu1}")
        .start();
    let paths = ["/", "/reset", "/204", "/text", "/bytes", "/500", "/hang", "/differs", "/a?b=c"];
    for path in paths {
        bench.ask(get(path));
    }
    bench.ask(post("/json", r#"{"id": 7}"#));
    bench.ask(request("POST /bin", &[("x-country", "DE")], b"\x00\x01\xff"));
    bench.ask("GET /old HTTP/1.0\r\nhost: t\r\n\r\n");
    bench.h2().ask(h2_post("/h2", Frames::bytes("{}"))).unwrap();
    let pairs = bench.pairs(26);
    let results: std::collections::BTreeSet<&str> = pairs.iter().filter_map(|pair| pair["result"].as_str()).collect();
    for result in ["equal", "differs", "candidate_failed", "prod_failed", "both_failed", "uncompared"] {
        assert!(results.contains(result), "{result} is not among {results:?}");
    }
    let made = bench.metrics();
    for result in results {
        let counted = made.count("shadowpair_pairs_total", &[("result", result)]);
        let count = pairs.iter().filter(|pair| pair["result"] == result).count();
        assert_eq!(counted as usize, count, "{result}");
    }
}

#[test]
fn a_pair_says_who_asked_what_of_whom() {
    let p = Stub::sending(answer("200 OK", &[("content-type", "application/json"), ("x-v", "7")], br#"{"y":1}"#));
    let c = Stub::json(r#"{"y":1, "meta": {"version": "c-3"}}"#);
    let bench = Plan::pair(p.address, c.address)
        .with("p", "version: {header: x-v}")
        .with("c", "version: {json: /meta/version}")
        .route("capture: {headers: [content-type, x-country, x-v, accept]}")
        .server("labels: {cluster: eu1, zone: \"1\"}")
        .start();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let fields = [
        ("x-request-id", "me-1"),
        ("traceparent", trace),
        ("X-Country", "DE"),
        ("x-country", "FR"),
        ("content-type", "application/json"),
    ];
    bench.ask(request("POST /a//b/%2e?q=%zz", &fields, b" {\"x\": 1.50}"));
    let pair = bench.pair();
    assert_eq!(pair["request_id"], "me-1");
    assert_eq!(pair["traceparent"], trace);
    assert_eq!(pair["labels"], json!({"cluster": "eu1", "zone": "1"}));
    assert_eq!((&pair["route"], &pair["arm"], &pair["bucket"]), (&json!("r"), &json!("prod"), &Value::Null));
    assert_eq!(pair["answered_by"], json!({"model": "p", "version": "7", "role": "prod", "status": 200}));
    assert_eq!(pair["tally"], json!({"seen": 1, "sampled": 1, "skipped": 0}));
    assert_eq!((&pair["protocol"], &pair["seq"]), (&json!("http/1.1"), &json!(1)));
    let asked = &pair["request"];
    assert_eq!(
        (&asked["method"], &asked["path"], &asked["query"]),
        (&json!("POST"), &json!("/a//b/%2e"), &json!("q=%zz"))
    );
    assert_eq!(asked["headers"], json!({"content-type": "application/json", "x-country": "DE, FR"}));
    assert_eq!((&asked["content_type"], &asked["bytes"]), (&json!("application/json"), &json!(12)));
    assert_eq!(
        asked["body"],
        json!({"encoding": "json", "data": " {\"x\": 1.50}", "truncated": false, "reason": null})
    );
    for (leg, model, role, version, stub) in [("prod", "p", "prod", "7", &p), ("candidate", "c", "shadow", "c-3", &c)] {
        let leg = &pair[leg];
        assert_eq!((&leg["model"], &leg["role"], &leg["version"]), (&json!(model), &json!(role), &json!(version)));
        assert_eq!(leg["endpoint"], format!("http://{}", stub.address));
        assert_eq!((&leg["reused"], &leg["outcome"], &leg["status"]), (&json!(false), &json!("ok"), &json!(200)));
        assert_eq!((&leg["grpc_status"], &leg["content_type"]), (&Value::Null, &json!("application/json")));
        let times =
            ["start_us", "sent_us", "first_byte_us", "total_us", "lag_us"].map(|key| leg[key].as_u64().unwrap());
        assert!(times[2] <= times[3], "the first byte comes before the last: {times:?}");
    }
    assert_eq!(pair["prod"]["headers"]["x-v"], "7");
    assert_eq!(pair["prod"]["bytes"], 7);
    assert_eq!(pair["result"], "equal");
    let hash = bench.metrics().series("shadowpair_config_info", &[])[0].0["hash"].clone();
    assert_eq!(pair["config"], hash.as_str());
    assert!(pair["producer"].as_str().unwrap().contains('-'));
}

#[test]
fn our_own_numbers_are_always_written_with_a_fraction() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":3}"#));
    let bench = Plan::pair(p.address, c.address).start();
    bench.ask(post("/", "{}"));
    bench.pair();
    let line = lines(&bench.folder()).remove(0);
    for text in ["\"sample_percent\":100.0", "\"prod\":[1.0]", "\"candidate\":[3.0]", "\"delta\":[2.0]"] {
        assert!(line.contains(text), "{text} is not in {line}");
    }
}

#[test]
fn values_are_compared_by_their_kind_and_tolerance() {
    let p = Stub::json(
        r#"{"n": 1.0, "v": [1, 2.5], "c": "cat", "t": "a", "j": {"a": 1, "b": 2}, "m": 5, "out": [{"s": 1}, {"s": 2}]}"#,
    );
    let c = Stub::json(
        r#"{"n": 1.0005, "v": [1, 2.25], "c": "dog", "t": "\u0061", "j": {"b": 2.0, "a": 1}, "out": [{"s": 1}, {"s": 4}]}"#,
    );
    let values = "{values: [{name: n, at: /n, kind: number, tolerance: {absolute: 0.001}}, {name: v, at: /v, kind: vector}, \
        {name: c, at: {p: /c, c: /c}, kind: class}, {name: t, at: /t, kind: text}, {name: j, at: /j, kind: json}, \
        {name: m, at: /m, kind: number}, {name: s, at: \"/out/*/s\", kind: number}]}";
    let bench = Plan::pair(p.address, c.address).compare(values).start();
    bench.ask(post("/", "{}"));
    let pair = bench.pair();
    let values = pair["comparison"]["values"].as_array().unwrap();
    let of = |name: &str| values.iter().find(|value| value["name"] == name).unwrap();
    let results: Vec<(&str, &str)> =
        values.iter().map(|v| (v["name"].as_str().unwrap(), v["result"].as_str().unwrap())).collect();
    assert_eq!(
        results,
        [
            ("n", "within_tolerance"),
            ("v", "differs"),
            ("c", "differs"),
            ("t", "equal"),
            ("j", "equal"),
            ("m", "uncompared"),
            ("s", "differs")
        ]
    );
    assert_eq!(of("v")["delta"], json!([0.0, -0.25]));
    assert_eq!((&of("c")["prod_text"], &of("c")["candidate_text"]), (&json!("cat"), &json!("dog")));
    assert_eq!((&of("c")["prod"], &of("c")["delta"]), (&Value::Null, &Value::Null));
    assert_eq!((&of("s")["prod"], &of("s")["candidate"]), (&json!([1.0, 2.0]), &json!([1.0, 4.0])));
    assert_ne!(pair["result"], "equal");
    let at = pair["comparison"]["differs_at"].as_array().unwrap();
    for pointer in ["/v/1", "/c", "/m", "/out/1/s"] {
        assert!(at.contains(&json!(pointer)), "{pointer} is not in {at:?}");
    }
    for pointer in ["/j/b", "/n"] {
        assert!(!at.contains(&json!(pointer)), "1 and 1.0 are equal, and what is within its tolerance does not differ");
    }
}

#[test]
fn without_values_everything_outside_ignore_decides() {
    let p = Stub::new(|seen| {
        vec![Act::Send(ok_json(match seen.target() {
            "GET /tolerance" => r#"{"id": "a", "y": 100.0}"#,
            _ => r#"{"id": "a", "y": [1, 2], "z": "\u0041"}"#,
        }))]
    });
    let c = Stub::new(|seen| {
        vec![Act::Send(ok_json(match seen.target() {
            "GET /equal" => "{\"z\":\"A\",\n\"y\": [1.0, 2e0], \"id\": \"b\"}",
            "GET /differs" => r#"{"id": "b", "y": [1, 3, 4], "z": "A"}"#,
            "GET /tolerance" => r#"{"id": "b", "y": 100.5}"#,
            _ => "no json",
        }))]
    });
    let bench = Plan::pair(p.address, c.address).compare("{ignore: [/id], tolerance: {relative: 0.01}}").start();
    for path in ["/equal", "/differs", "/tolerance", "/text"] {
        bench.ask(get(path));
        bench.settle();
    }
    let pairs = bench.pairs(4);
    let by = |path: &str| pairs.iter().find(|pair| pair["request"]["path"] == path).unwrap();
    assert_eq!(by("/equal")["result"], "equal");
    assert_eq!(by("/equal")["comparison"]["differs_at"], json!([]));
    assert_eq!(by("/differs")["result"], "differs");
    let at = by("/differs")["comparison"]["differs_at"].to_string();
    assert!(at.contains("/y") && !at.contains("/id"), "{at}");
    assert_eq!(by("/tolerance")["result"], "within_tolerance");
    assert_eq!(by("/tolerance")["comparison"]["within_tolerance"], true);
    assert_eq!(by("/tolerance")["comparison"]["equal"], false);
    assert!(by("/text")["result"] == "differs" || by("/text")["result"] == "uncompared", "{}", by("/text"));
}

#[test]
fn at_most_a_hundred_differing_places_are_named() {
    let all = |n: i32| format!("[{}]", (0..150).map(|k| (k + n).to_string()).collect::<Vec<_>>().join(","));
    let (p, c) = (Stub::json(&all(0)), Stub::json(&all(1)));
    let bench = Plan::pair(p.address, c.address).compare_all().start();
    bench.ask(get("/"));
    let pair = bench.pair();
    assert_eq!(pair["comparison"]["differs_at"].as_array().unwrap().len(), 100);
    assert_eq!(pair["comparison"]["differs_at_truncated"], true);
}

#[test]
fn keys_and_slices_are_taken_from_the_request() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address)
        .server("hash_key: very-secret")
        .route(
            "capture: {keys: {tx: {json: /id}, who: {header: x-user, hash: true}, q: {query: q}, sid: {cookie: lang}}}",
        )
        .route("slices: {country: {header: x-country}, amount: {json: /amount, buckets: [10, 100, 1000]}}")
        .start();
    let ask = |fields: &[(&str, &str)], query: &str, body: &str| {
        bench.ask(request(&format!("POST /{query}"), fields, body.as_bytes()));
        bench.settle();
    };
    ask(&[("x-user", "u1"), ("x-country", "DE"), ("cookie", "a=b; lang=de")], "?q=x", r#"{"id": 7, "amount": 10}"#);
    ask(&[("x-user", "u1"), ("x-country", "")], "", r#"{"id": "7", "amount": 9.99}"#);
    ask(&[("x-user", "u2")], "", r#"{"id": null, "amount": 1e3}"#);
    ask(&[], "", "no json");
    ask(&[], "", r#"{"id": {}, "amount": "many"}"#);
    let pairs = bench.pairs(5);
    let (one, two) = (&pairs[0], &pairs[1]);
    assert_eq!((&one["keys"]["tx"], &one["keys"]["q"], &one["keys"]["sid"]), (&json!("7"), &json!("x"), &json!("de")));
    assert_eq!(one["slices"], json!({"country": "DE", "amount": "10..100"}));
    let hashed = one["keys"]["who"].as_str().unwrap();
    assert!(hashed.starts_with("hmac:") && hashed.len() == 69, "{hashed}");
    assert_eq!(two["keys"]["who"], hashed, "the same of the same");
    assert_ne!(pairs[2]["keys"]["who"], hashed);
    assert_eq!(two["keys"]["tx"], "7", "7 and \"7\" are one key");
    assert_eq!((&two["slices"]["amount"], &pairs[2]["slices"]["amount"]), (&json!("<10"), &json!(">=1000")));
    for pair in &pairs[3..] {
        assert_eq!(pair["keys"], json!({"tx": null, "who": null, "q": null, "sid": null}));
        assert_eq!(pair["slices"], json!({"country": null, "amount": null}));
    }
    assert!(!lines(&bench.folder()).concat().contains("u1"), "the hashed key itself is nowhere");
}

#[test]
fn a_slow_upload_makes_no_model_slow() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).start();
    let mut client = bench.client();
    client.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 4\r\n\r\nab");
    std::thread::sleep(std::time::Duration::from_millis(300));
    client.send("cd");
    assert_eq!(client.answer().status, 200);
    let pair = bench.pair();
    let us = |leg: &str, key: &str| pair[leg][key].as_u64().unwrap();
    assert!(us("prod", "sent_us") >= 250_000, "the upload took its time: {}", pair["prod"]);
    assert!(us("prod", "total_us") < us("prod", "sent_us"), "prod did not: {}", pair["prod"]);
    assert!(us("candidate", "start_us") >= 250_000, "the copy started when the request was complete");
    assert!(us("candidate", "sent_us") < 250_000);
}

#[test]
fn pair_files_are_private_and_named_after_their_producer() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).start();
    bench.ask(get("/"));
    let pair = bench.pair();
    let file = std::fs::read_dir(bench.folder()).unwrap().next().unwrap().unwrap();
    let name = file.file_name().into_string().unwrap();
    assert!(name.starts_with("pairs-") && name.ends_with(".jsonl"), "{name}");
    assert!(name.contains(pair["producer"].as_str().unwrap()), "{name}");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_broker_that_is_away_costs_the_client_nothing() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let sink = format!("{{kafka: {{brokers: [\"{}\"], topic: t}}}}", Stub::nobody());
    let bench = Plan::pair(p.address, c.address).sink(&sink).drain("1s").start();
    let mut client = bench.client();
    for _ in 0..10 {
        assert_eq!(client.ask(post("/", "{}")).text(), r#"{"y":1}"#);
    }
    bench.wait_metric("shadowpair_pairs_total", &[], 10.0);
    bench.wait_metric("shadowpair_sink_up", &[("sink", "kafka")], 0.0);
    assert_eq!(bench.admin_get("/readyz").status, 200);
    bench.wait_metric("shadowpair_pairs_queue_depth", &[("sink", "kafka")], 10.0);
    assert_eq!(bench.drain(), 0, "no request was cut off");
}
