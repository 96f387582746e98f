//! What must not leave the process, and every way by which it could: requests and answers that hide it in odd places,
//! and everything that is written or shown of them.

use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::h2::Frames;
use crate::support::pairs::lines;
use crate::support::stub::Seen;
use crate::support::{Act, Bench, Plan, Stub, answer, request};

/// What nobody may see. The number stands where a text cannot.
const SECRET: &str = "s3cr3t";
const NUMBER: &str = "70707070";

/// Everything is listed that could be, and values look at all that is hidden.
fn plan() -> (Plan, [Stub; 2]) {
    let (p, c) = (Stub::new(|seen| echo(seen, "")), Stub::new(|seen| echo(seen, "-other")));
    let plan = Plan::pair(p.address, c.address).server("hash_key: k3y");
    let plan = plan.compare(
        "{values: [{name: card, at: /card, kind: class}, {name: user, at: /user, kind: json}, {name: all, at: \"\"}, \
         {name: pins, at: /list/*/pin, kind: class}, {name: args, at: /args, kind: text}, {name: y, at: /y, kind: number}]}",
    )
    .route(
        "capture: {max_body: 1KiB, headers: [content-type, Authorization, proxy-authorization, cookie, set-cookie, \
         X-API-Key, api-key, x-goog-api-key, referer, location, x-hidden, traceparent], redact: [/user/id, \
         {at: /card, with: hash}, /list/*/pin, /a~1b/c~0d, /args/pin, /rows/1, /*/top, \"query:customer\", \
         {at: \"query:account\", with: hash}, \"header:x-hidden\", \"header:traceparent\"], keys: {\
         who: {json: /user/id, hash: true}, auth: {header: authorization, hash: true}, \
         account: {query: account, hash: true}, card: {json: /card, hash: true}, q: {query: q}, ref: {header: referer}}}",
    )
    .route("slices: {card: {json: /card, buckets: [10]}, q: {query: q}, ref: {header: referer}}");
    (plan, [p, c])
}

/// Answers with what was asked; the candidate says something else in its place.
fn echo(seen: &Seen, other: &str) -> Vec<Act> {
    let secret = format!("{SECRET}{other}");
    let body = if seen.value("content-encoding").is_some() {
        seen.body.clone()
    } else {
        let text = seen.body.iter().map(|byte| char::from(*byte)).collect::<String>();
        text.replace(SECRET, &secret).chars().map(|c| c as u8).collect()
    };
    let (location, cookie) = (format!("https://h/?code={secret}"), format!("sid={secret}"));
    let mut fields = vec![("set-cookie", cookie.as_str()), ("location", location.as_str()), ("x-hidden", &secret)];
    let coding = seen.value("content-encoding").unwrap_or_default();
    if !coding.is_empty() {
        fields.push(("content-encoding", &coding));
    }
    let mut bytes = answer("200 OK", &fields, &body);
    if seen.target().contains("/cut") {
        bytes.truncate(bytes.len() - 1);
        return vec![Act::Send(bytes), Act::Close];
    }
    vec![Act::Send(bytes)]
}

fn encoded(coding: &str, bytes: &[u8]) -> Vec<u8> {
    let level = flate2::Compression::default();
    match coding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "zstd" => zstd::encode_all(bytes, 3).unwrap(),
        // One block that is not compressed (RFC 7932 §9.2), and the empty last one.
        "br" => {
            let length = bytes.len() - 1;
            let head = (length as u32) << 4 | 1 << 20;
            let mut all = vec![head as u8, (head >> 8) as u8, (head >> 16) as u8];
            all.extend(bytes);
            all.push(3);
            all
        }
        other => panic!("{other}"),
    }
}

/// All that is written of it and shown of it, with texts in base64 read.
fn everything(bench: &Bench) -> String {
    let written = lines(&bench.folder());
    let mut all = written.concat();
    for pair in written.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        for part in ["request", "prod", "candidate"] {
            if pair[part]["body"]["encoding"] == "base64" {
                let bytes = STANDARD.decode(pair[part]["body"]["data"].as_str().unwrap()).unwrap();
                all += &String::from_utf8_lossy(&bytes);
            }
        }
    }
    for path in ["/metrics", "/api/v1/routes", "/api/v1/config", "/"] {
        all += &bench.admin_get(path).text();
    }
    all
}

#[track_caller]
fn assert_hidden(bench: &Bench, case: &str) {
    let all = everything(bench);
    for secret in [SECRET, NUMBER] {
        if let Some(at) = all.find(secret) {
            let around = all.get(at.saturating_sub(300)..(at + 100).min(all.len()));
            panic!("{case} shows {secret}: …{}…", around.unwrap_or(&all));
        }
    }
}

#[test]
fn what_is_redacted_in_a_body_is_shown_nowhere() {
    let (plan, _models) = plan();
    let bench = plan.start();
    let cases = [
        r#"{"user":{"id":"s3cr3t"},"y":1}"#,
        r#"{"user":{"id":{"deep":["s3cr3t",70707070]}},"y":1}"#,
        r#"{"us\u0065r":{"\u0069d":"s3cr3t"}}"#,
        r#"{"user":{"id":"s3cr3t","id":"s3cr3t"},"user":{"id":"s3cr3t"}}"#,
        r#"{"user":{"id":"s3cr3t"},"user":1,"y":NaN}"#,
        r#"{"card":70707070,"y":-Infinity}"#,
        r#"{"card":"s3cr3t"}"#,
        r#"{"card":{"no":"s3cr3t"}}"#,
        r#"{"list":[{"pin":"s3cr3t"},{"pin":70707070}],"y":2}"#,
        r#"{"list":{"x":{"pin":"s3cr3t"},"y":{"pin":["s3cr3t"]}}}"#,
        r#"{"a/b":{"c~d":"s3cr3t"},"a\/b":{"c\u007ed":"s3cr3t"}}"#,
        r#"{"args":"{\"pin\":\"s3cr3t\"}"}"#,
        r#"{"args":"\u007b\"pin\":\"s3cr3t\"}"}"#,
        r#"{"args":" [{\"pin\":\"s3cr3t\"}]"}"#,
        r#"{"args":{"pin":"s3cr3t"}}"#,
        r#"{"rows":[1,"s3cr3t",3]}"#,
        r#"{"rows":{"1":"s3cr3t"}}"#,
        r#"[{"top":"s3cr3t"},{"top":70707070}]"#,
        r#"{"x":{"top":"s3cr3t"}}"#,
    ];
    for (nth, body) in cases.iter().enumerate() {
        bench.ask(request(&format!("POST /{nth}"), &[], body.as_bytes()));
        bench.settle();
        assert_hidden(&bench, body);
    }
    for pair in bench.pairs(cases.len()) {
        for part in ["request", "prod", "candidate"] {
            assert!(matches!(pair[part]["body"]["encoding"].as_str(), Some("json" | "utf8")), "recorded: {pair}");
        }
    }
}

#[test]
fn an_encoded_body_is_redacted_as_the_plain_one_is() {
    let (plan, _models) = plan();
    let bench = plan.start();
    let body = br#"{"user":{"id":"s3cr3t"},"y":1}"#;
    let codings = ["gzip", "deflate", "zstd", "br", "gzip, zstd"];
    for coding in codings {
        let bytes = coding.split(", ").fold(body.to_vec(), |bytes, coding| encoded(coding, &bytes));
        bench.ask(request("POST /", &[("content-encoding", coding)], &bytes));
        bench.settle();
        assert_hidden(&bench, coding);
    }
    for pair in bench.pairs(codings.len()) {
        for part in ["request", "prod", "candidate"] {
            assert_eq!(pair[part]["body"]["data"], r#"{"user":{"id":null},"y":1}"#);
        }
    }
}

#[test]
fn a_body_in_which_nothing_can_be_hidden_is_not_recorded() {
    let (plan, _models) = plan();
    let bench = plan.start();
    let long = format!(r#"{{"user":{{"id":"s3cr3t"}},"pad":"{}"}}"#, "x".repeat(1024));
    let deep = format!("{}\"s3cr3t\"{}", "[".repeat(200), "]".repeat(200));
    let whole = r#"{"user":{"id":"s3cr3t"}}"#;
    let cases: [(&str, &str, &[u8]); 18] = [
        ("", "", br#"{"user":{"id":"s3cr3t""#),
        ("", "", b"s3cr3t"),
        ("", "", b"\"user\" = s3cr3t"),
        ("", "", "\u{feff}{\"user\":{\"id\":\"s3cr3t\"}}".as_bytes()),
        ("", "", b"{\"user\":{\"id\":\"s3cr3t\xff\"}}"),
        ("", "", b"{\"user\":{\"id\":\"s3cr3t\"}}\n{\"user\":{\"id\":\"s3cr3t\"}}\n"),
        ("", "", b"data: {\"user\":{\"id\":\"s3cr3t\"}}\n\n"),
        ("", "", b"{\"user\":{\"id\":\"s3cr3t\"}}\x00"),
        ("", "", b"{'user':{'id':'s3cr3t'}}"),
        ("", "", deep.as_bytes()),
        ("", "", long.as_bytes()),
        ("content-type", "application/x-www-form-urlencoded", b"user[id]=s3cr3t&password=s3cr3t"),
        ("content-type", "multipart/form-data; boundary=b", b"--b\r\n\r\ns3cr3t\r\n--b--\r\n"),
        ("content-type", "application/grpc", b"\x00\x00\x00\x00\x08\x0a\x06s3cr3t"),
        ("content-encoding", "gzip", whole.as_bytes()),
        ("content-encoding", "zstd, br, br, br, br", whole.as_bytes()),
        ("content-encoding", "br", b"s3cr3t"),
        ("content-encoding", "aws-chunked", b"18\r\n{\"user\":{\"id\":\"s3cr3t\"}}\r\n0\r\n"),
    ];
    for (name, value, body) in cases {
        let fields = if name.is_empty() { vec![] } else { vec![(name, value)] };
        bench.ask(request("POST /", &fields, body));
        bench.settle();
        assert_hidden(&bench, &format!("{value} {}", String::from_utf8_lossy(body)));
    }
    for pair in bench.pairs(cases.len()) {
        for part in ["request", "prod", "candidate"] {
            assert_eq!(pair[part]["body"]["reason"], "redaction_failed", "{pair}");
        }
    }
}

#[test]
fn a_leg_that_breaks_off_shows_nothing_of_what_came() {
    let (plan, _models) = plan();
    let bench = plan.start();
    bench.client().send(request("POST /cut", &[], br#"{"user":{"id":"s3cr3t"},"y":1}"#)).wire.rest();
    let pair = bench.pair();
    assert_hidden(&bench, "cut");
    assert_eq!(pair["result"], "both_failed");
    assert_eq!(pair["prod"]["body"]["reason"], "redaction_failed");
    assert_eq!(pair["request"]["body"]["data"], r#"{"user":{"id":null},"y":1}"#);
}

#[test]
fn what_a_query_hides_is_shown_nowhere_however_it_is_spelled() {
    let (plan, _models) = plan();
    let bench = plan.start();
    let queries = [
        "token=s3cr3t&a=1",
        "a=1&API_KEY=s3cr3t&api_Key=s3cr3t",
        "%6bey=s3cr3t&%4B%45%59=s3cr3t",
        "key=s3cr3t;sig=s3cr3t;Signature=s3cr3t",
        "&&code=s3cr3t&&secret=s3cr3t&password=s3cr3t&access_token=s3cr3t",
        "token=a=s3cr3t",
        "token[]=s3cr3t&user[password]=s3cr3t&%20token%20=s3cr3t",
        "a=1?token=s3cr3t",
        "q=https://h/?token=s3cr3t",
        "q=https%3A%2F%2Fh%2F%3Ftoken%3Ds3cr3t%26a%3D1",
        "q=https%253A%252F%252Fh%253Fsig%253Ds3cr3t",
        "customer=s3cr3t&Customer=s3cr3t&c%75stomer=s3cr3t;customer=s3cr3t",
        "account=s3cr3t&q=x%3Faccount%3Ds3cr3t",
    ];
    for query in queries {
        bench.ask(request(&format!("GET /?{query}"), &[], b""));
        bench.settle();
        assert_hidden(&bench, query);
    }
    let pairs = bench.pairs(queries.len());
    assert_eq!(pairs[0]["request"]["query"], "token=REDACTED&a=1");
    assert_eq!(pairs[8]["keys"]["q"], "https://h/?token=REDACTED", "the rest of it is shown");
}

#[test]
fn credentials_in_fields_are_shown_nowhere_however_they_are_spelled() {
    let (plan, _models) = plan();
    let bench = plan.start();
    let cases: [&[(&str, &str)]; 8] = [
        &[("AuThOrIzAtIoN", "Bearer s3cr3t")],
        &[("authorization", "Basic a"), ("Authorization", "Bearer s3cr3t")],
        &[
            ("PROXY-AUTHORIZATION", "s3cr3t"),
            ("x-api-key", "s3cr3t"),
            ("Api-Key", "s3cr3t"),
            ("X-Goog-Api-Key", "s3cr3t"),
        ],
        &[("cookie", "sid=s3cr3t"), ("Cookie", "s3cr3t"), ("set-cookie", "s3cr3t")],
        &[("x-hidden", "s3cr3t"), ("X-Hidden", "s3cr3t")],
        &[("traceparent", "00-s3cr3t-00")],
        &[("referer", "https://h/p?a=1&token=s3cr3t#access_token=s3cr3t")],
        &[("Referer", "https://h/p?customer=s3cr3t"), ("referer", "/?cb=%3Fsig%3Ds3cr3t")],
    ];
    for fields in cases {
        bench.ask(request("GET /", fields, b""));
        bench.settle();
        assert_hidden(&bench, &format!("{fields:?}"));
    }
    let pairs = bench.pairs(cases.len());
    assert_eq!(pairs[6]["keys"]["ref"], "https://h/p?a=1&token=REDACTED#access_token=REDACTED");
    for pair in &pairs {
        for name in ["authorization", "cookie", "set-cookie", "x-api-key"] {
            assert!(pair["request"]["headers"].get(name).is_none() && pair["prod"]["headers"].get(name).is_none());
        }
    }
}

#[test]
fn http2_and_grpc_hide_what_http1_does() {
    let (plan, _models) = plan();
    let bench = plan.start();
    let head = |path: &str| {
        let uri = format!("http://models.test{path}");
        Request::post(uri).header("authorization", "s3cr3t").header("x-hidden", "s3cr3t")
    };
    let mut client = bench.h2();
    let cookies = head("/?Token=s3cr3t").header("cookie", "a=s3cr3t").header("cookie", "b=s3cr3t");
    client.ask(cookies.body(Frames::bytes(r#"{"user":{"id":"s3cr3t"}}"#)).unwrap()).unwrap();
    let grpc = head("/inference.GRPCInferenceService/ModelInfer").header("content-type", "application/grpc");
    client.ask(grpc.body(Frames::bytes(b"\x00\x00\x00\x00\x08\x0a\x06s3cr3t".to_vec())).unwrap()).unwrap();
    bench.settle();
    assert_hidden(&bench, "h2");
    let pairs = bench.pairs(2);
    assert_eq!(pairs[0]["request"]["query"], "Token=REDACTED");
    assert_eq!(pairs[1]["request"]["body"]["reason"], "redaction_failed");
}

#[test]
fn one_value_has_one_hash_wherever_it_stands() {
    let (plan, _models) = plan();
    let bench = plan.start();
    bench.ask(request("POST /?account=70707070", &[], br#"{"card":"70707070"}"#));
    bench.ask(request("POST /?%61ccount=7070%37070", &[], b"{\"card\": 70707070}"));
    bench.settle();
    assert_hidden(&bench, "hashes");
    let mut hashes = std::collections::BTreeSet::new();
    for pair in bench.pairs(2) {
        let query = pair["request"]["query"].as_str().unwrap();
        hashes.insert(query.split_once('=').unwrap().1.to_owned());
        hashes.extend(["account", "card"].map(|key| pair["keys"][key].as_str().unwrap().to_owned()));
        for part in ["request", "prod", "candidate"] {
            let body: Value = serde_json::from_str(pair[part]["body"]["data"].as_str().unwrap()).unwrap();
            hashes.insert(body["card"].as_str().unwrap().to_owned());
        }
        let card = &pair["comparison"]["values"][0];
        assert_eq!([&card["result"], &card["prod_text"]], [&json!("equal"), &Value::Null], "flags only");
        assert_eq!(pair["slices"]["card"], ">=10");
    }
    assert_eq!(hashes.len(), 1, "{hashes:?}");
    assert!(hashes.iter().all(|hash| hash.starts_with("hmac:") && hash.len() == 69));
}

#[test]
fn no_log_of_any_level_shows_what_a_request_held() {
    let (plan, _models) = plan();
    for plan in [plan, Plan::prod(Stub::nobody()).server("hash_key: s3cr3t\n  admin_token: s3cr3t")] {
        let mut process = plan.spawn_under("RUST_LOG=trace; export RUST_LOG;");
        let fields = [("authorization", "Bearer s3cr3t"), ("cookie", "s3cr3t"), ("x-hidden", "s3cr3t")];
        for line in ["POST /?token=s3cr3t", "POST http://u:s3cr3t@models.test/?key=s3cr3t", "POST /\u{1}s3cr3t"] {
            let mut client = crate::support::Client::to(process.traffic);
            client.send(request(line, &fields, br#"{"user":{"id":"s3cr3t"}}"#));
            let _ = client.try_answer("POST");
        }
        let mut h2 = crate::support::h2::H2Client::to(process.traffic);
        let head = Request::post("http://models.test/?sig=s3cr3t").header("authorization", "s3cr3t");
        // Where nobody answers it is a 502 like any other.
        h2.ask(head.header("cookie", "s3cr3t").body(Frames::bytes(r#"{"card":"s3cr3t"}"#)).unwrap()).unwrap();
        let fields = [("authorization", "Bearer s3cr3t-wrong"), ("connection", "close")];
        crate::support::ask(process.admin, request("GET /api/v1/config?token=s3cr3t", &fields, b""));
        process.signal(Signal::TERM);
        assert_eq!(process.wait(), Some(0));
        let log = process.log();
        assert!(log.contains("TRACE"), "every level is on");
        let line = log.lines().find(|line| line.contains(SECRET));
        assert_eq!(line, None);
    }
}
