//! Bodies in the record: captured as asked, cut at a character, decoded, and never with what must not be shown.

use std::io::Write;

use serde_json::{Value, json};

use crate::support::pairs::lines;
use crate::support::{Act, Plan, Stub, answer, get, ok_json, post, request};

#[test]
fn a_body_over_max_body_is_cut_between_characters_and_compared_whole() {
    let bodies: Vec<Vec<u8>> = vec![
        [vec![b'a'; 1023], "€uro".into()].concat(),
        [vec![b'a'; 1022], "🦀".into()].concat(),
        [vec![b'a'; 1023], vec![0xff, 0xfe], vec![b'b'; 100]].concat(),
        [vec![b'a'; 1022], vec![0xe2, 0x82], vec![b'b'; 100]].concat(),
        format!("{{\"y\":1,\"pad\":\"{}\"}}", "é".repeat(2000)).into_bytes(),
        vec![b'a'; 1024],
    ];
    let sent = bodies.clone();
    let script = move |seen: &crate::support::stub::Seen| {
        let nth: usize = seen.target()[5..].parse().unwrap();
        let status = if nth.is_multiple_of(2) { "200 OK" } else { "500 No" };
        vec![Act::Send(answer(status, &[], &sent[nth]))]
    };
    let (p, c) = (Stub::new(script.clone()), Stub::new(script));
    let bench = Plan::pair(p.address, c.address).compare_all().route("capture: {max_body: 1KiB}").start();
    for (nth, body) in bodies.iter().enumerate() {
        bench.ask(request(&format!("GET /{nth}"), &[], body));
        bench.settle();
    }
    for (nth, pair) in bench.pairs(bodies.len()).iter().enumerate() {
        for part in [&pair["request"], &pair["prod"], &pair["candidate"]] {
            assert_eq!(part["bytes"], bodies[nth].len(), "the true length");
            let kept = part["body"]["data"].as_str().unwrap();
            assert_eq!(part["body"]["truncated"], bodies[nth].len() > 1024, "{nth}");
            match part["body"]["encoding"].as_str().unwrap() {
                "utf8" => assert!(kept.len() <= 1024 && !kept.contains('\u{fffd}'), "{nth}: {kept}"),
                "base64" => assert!(kept.len() <= 1368, "{nth}"),
                other => panic!("{nth}: {other}"),
            }
        }
        if nth.is_multiple_of(2) {
            assert_eq!(pair["result"], "equal", "compared whole");
        }
    }
}

#[test]
fn a_character_cut_in_two_on_its_way_is_one_in_the_record() {
    let text = "data: {\"choices\":[{\"delta\":{\"content\":\"你好🦀\"}}]}\n\n";
    let whole = |seen: &crate::support::stub::Seen| seen.target().ends_with("/whole");
    let pieces = move |seen: &crate::support::stub::Seen| {
        let bytes = text.as_bytes();
        let cut: Vec<&[u8]> = match seen.target()[5..].parse() {
            Ok(offset) => vec![&bytes[..offset], &bytes[offset..]],
            Err(_) if whole(seen) => vec![bytes],
            Err(_) => bytes.chunks(1).collect(),
        };
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let chunk = |part: &[u8]| [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
        let acts = [head.to_vec()].into_iter().chain(cut.into_iter().map(chunk)).chain([b"0\r\n\r\n".to_vec()]);
        acts.map(Act::Send).collect()
    };
    let p = Stub::sending(answer("200 OK", &[("content-type", "text/event-stream")], text.as_bytes()));
    let c = Stub::new(pieces);
    let bench = Plan::pair(p.address, c.address).compare_all().start();
    let mut client = bench.client();
    let ways = (1..text.len()).map(|offset| format!("/{offset}")).chain(["/whole".into(), "/bytes".into()]);
    let ways: Vec<String> = ways.collect();
    for way in &ways {
        assert_eq!(client.ask(post(way, r#"{"x":1}"#)).text(), text);
    }
    for pair in bench.pairs(ways.len()) {
        assert_eq!(pair["comparison"]["equal"], true, "{pair}");
        assert!(!pair.to_string().contains('\u{fffd}'), "{pair}");
    }
    assert_eq!(c.seen().len(), ways.len());
}

#[test]
fn odd_paths_and_names_do_no_harm() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let name = "é".repeat(300);
    let block = format!("  - {{name: \"{name}\", prod: p, shadow: [{{model: c, percent: 100}}]}}");
    let bench = Plan::pair(p.address, c.address).routes(&block).start();
    let path = format!("/{}", "é🦀".repeat(500));
    let status = bench.ask(get(&path)).status;
    assert!(status == 200 || status == 400, "{status}");
    bench.ask(get("/plain"));
    let pairs = bench.pairs(if status == 200 { 2 } else { 1 });
    assert_eq!(pairs.last().unwrap()["route"], name.as_str());
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn compressed_bodies_are_decoded_for_the_record_and_compared_by_meaning() {
    let zipped = gzip(br#"{"y": 1.0}"#);
    let p = Stub::sending(answer("200 OK", &[("content-encoding", "gzip")], &zipped));
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(p.address, c.address).start();
    let asked = gzip(br#"{"x": 1}"#);
    let got = bench.ask(request("POST /", &[("content-encoding", "gzip")], &asked));
    assert_eq!(got.body, zipped, "the client gets the original");
    assert_eq!(c.one().body, asked, "and so does the candidate");
    let pair = bench.pair();
    assert_eq!((&pair["result"], &pair["prod"]["body"]["data"]), (&json!("equal"), &json!(r#"{"y": 1.0}"#)));
    assert_eq!(pair["prod"]["bytes"], zipped.len(), "the size on the wire");
    assert_eq!(pair["request"]["body"]["data"], r#"{"x": 1}"#);
}

#[test]
fn a_compressed_bomb_is_bounded() {
    let bomb = gzip(&vec![b'0'; 50 << 20]);
    let p = Stub::sending(answer("200 OK", &[("content-encoding", "gzip")], &bomb));
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(p.address, c.address).start();
    assert_eq!(bench.ask(get("/")).body.len(), bomb.len());
    assert_eq!(bench.pair()["result"], "uncompared");
}

#[test]
fn an_answer_over_copy_body_passes_whole_and_is_not_compared() {
    let big = answer("200 OK", &[], &vec![b'1'; 5000]);
    let (p, c) = (Stub::sending(big), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).route("copy_body: 1KiB").start();
    assert_eq!(bench.ask(get("/")).body.len(), 5000);
    let pair = bench.pair();
    assert_eq!((&pair["result"], &pair["prod"]["bytes"]), (&json!("uncompared"), &json!(5000)));
    assert_eq!(pair["prod"]["body"]["reason"], "too_large");
}

#[test]
fn what_the_route_does_not_capture_is_not_recorded() {
    let (p, c) = (Stub::json(r#"{"y":1,"s":"answer"}"#), Stub::json(r#"{"y":2,"s":"answer"}"#));
    for answers in ["values", "none"] {
        let capture = format!("capture: {{request: none, answers: {answers}}}");
        let bench = Plan::pair(p.address, c.address).route(capture).start();
        bench.ask(post("/", r#"{"x":"asked"}"#));
        let pair = bench.pair();
        for part in [&pair["request"], &pair["prod"], &pair["candidate"]] {
            assert_eq!(
                part["body"],
                json!({"encoding": "none", "data": null, "truncated": false, "reason": "not_captured"})
            );
            assert!(part["bytes"].as_u64().unwrap() > 0);
        }
        assert_eq!(pair["result"], "differs", "compared all the same");
        let text = lines(&bench.folder()).concat();
        assert!(!text.contains("asked") && !text.contains("answer\\"), "{text}");
        if answers == "values" {
            assert_eq!(pair["comparison"]["values"][0]["delta"], json!([1.0]));
        }
    }
}

#[test]
fn what_is_redacted_is_compared_but_not_shown() {
    let (p, c) =
        (Stub::json(r#"{"y":1,"user":{"id":"pippo"},"s":41}"#), Stub::json(r#"{"y":1,"user":{"id":"pluto"},"s":42}"#));
    let values = "{values: [{name: s, at: /s, kind: number}, {name: who, at: /user/id, kind: class}]}";
    let bench = Plan::pair(p.address, c.address)
        .server("hash_key: k3y")
        .compare(values)
        .route("capture: {redact: [/s, {at: /user/id, with: hash}, \"query:customer\"]}")
        .start();
    bench.ask(post("/?customer=topolino&b=1", r#"{"user":{"id":"paperino"},"x":2}"#));
    let pair = bench.pair();
    let text = lines(&bench.folder()).remove(0);
    for secret in ["pippo", "pluto", "topolino", "paperino", "41", "42"] {
        let shown = match secret {
            "41" | "42" => pair["prod"]["body"]["data"].as_str().unwrap().contains(secret),
            _ => text.contains(secret),
        };
        assert!(!shown, "{secret} is shown: {text}");
    }
    let asked: Value = serde_json::from_str(pair["request"]["body"]["data"].as_str().unwrap()).unwrap();
    assert_eq!(asked["x"], 2);
    assert!(asked["user"]["id"].as_str().unwrap().starts_with("hmac:"));
    assert!(pair["request"]["query"].as_str().unwrap().ends_with("b=1"));
    for value in pair["comparison"]["values"].as_array().unwrap() {
        assert_eq!(value["result"], "differs");
        for key in ["prod", "candidate", "delta", "prod_text", "candidate_text"] {
            assert_eq!(value[key], Value::Null, "flags only: {value}");
        }
    }
}

#[test]
fn where_redaction_needs_the_whole_the_body_is_not_recorded() {
    let (p, c) = (Stub::sending(answer("200 OK", &[], b"secret, not json")), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).route("capture: {redact: [/user/id]}").start();
    bench.ask(post("/", r#"{"user":{"id":"secret"}"#));
    let pair = bench.pair();
    assert_eq!(pair["request"]["body"]["reason"], "redaction_failed");
    assert_eq!(pair["prod"]["body"]["reason"], "redaction_failed");
    assert!(!lines(&bench.folder()).concat().contains("secret"));
}

#[test]
fn credentials_are_never_recorded_though_they_pass() {
    let p = Stub::sending(answer("200 OK", &[("set-cookie", "sid=s3cret"), ("x-ok", "1")], b"{\"y\":1}"));
    let c = Stub::json(r#"{"y":1}"#);
    let listed = "capture: {headers: [x-ok, authorization, cookie, set-cookie, x-api-key]}";
    let bench = Plan::pair(p.address, c.address).route(listed).start();
    let fields = [("authorization", "Bearer s3cret"), ("cookie", "a=s3cret"), ("x-api-key", "s3cret"), ("x-ok", "1")];
    let query = "/?api_key=s3cret&token=s3cret&x=1&Signature=s3cret&%6bey=s3cret";
    let got = bench.ask(request(&format!("GET {query}"), &fields, b""));
    assert_eq!(got.value("set-cookie").as_deref(), Some("sid=s3cret"));
    assert_eq!(p.one().target(), format!("GET {query}"));
    let pair = bench.pair();
    let text = lines(&bench.folder()).concat();
    assert!(!text.contains("s3cret"), "{text}");
    assert_eq!(pair["request"]["headers"], json!({"x-ok": "1"}));
    let query = pair["request"]["query"].as_str().unwrap();
    assert!(query.starts_with("api_key=REDACTED&token=REDACTED&x=1&"), "{query}");
}

#[test]
fn bodies_that_are_not_json_are_recorded_as_text_or_base64() {
    let (p, c) = (Stub::new(echo), Stub::new(echo));
    let bench = Plan::pair(p.address, c.address).compare_all().start();
    let inputs: [(&[u8], &str, &str); 6] = [
        (b"{\"p\": [NaN, Infinity]}", "utf8", "{\"p\": [NaN, Infinity]}"),
        ("caf\u{e9}\r\n\t\u{1}".as_bytes(), "utf8", "café\r\n\t\u{1}"),
        (b"\x00\xff\xfe", "base64", "AP/+"),
        (b"{\"a\": 1E400, \"b\": 6000000000000002181}", "json", "{\"a\": 1E400, \"b\": 6000000000000002181}"),
        (b"\"\\ud83e\\udd80\"", "json", "\"\\ud83e\\udd80\""),
        (b" 7 ", "json", " 7 "),
    ];
    for (body, ..) in inputs {
        assert_eq!(bench.ask(request("POST /", &[("content-type", "text/csv")], body)).body, body);
        bench.settle();
    }
    for (pair, (_, encoding, data)) in bench.pairs(inputs.len()).iter().zip(inputs) {
        for part in [&pair["request"], &pair["prod"], &pair["candidate"]] {
            assert_eq!((&part["body"]["encoding"], &part["body"]["data"]), (&json!(encoding), &json!(data)));
        }
        assert_eq!(pair["result"], "equal", "{data}");
    }
}

fn echo(seen: &crate::support::stub::Seen) -> Vec<Act> {
    vec![Act::Send(answer("200 OK", &[], &seen.body))]
}

#[test]
fn deep_and_hostile_json_does_no_harm() {
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let p = Stub::json(&deep);
    let c = Stub::new(move |_| vec![Act::Send(ok_json(&"{\"a\":".repeat(20_000)))]);
    let bench = Plan::pair(p.address, c.address).route("capture: {keys: {k: {json: /a/b}}}").start();
    assert_eq!(bench.ask(post("/", &deep)).text(), deep);
    assert_eq!(bench.pair()["result"], "uncompared");
}
