//! Answers that come as streams: passed on as they come, and recorded and compared as the one answer that they carry.

use std::io::Write;

use serde_json::{Value, json};

use crate::support::h2::{Frames, H2Stub};
use crate::support::{Act, Bench, Plan, Stub, answer, ok_json, post};

macro_rules! payload {
    ($name:literal) => {
        include_str!(concat!("../fixtures/payloads/", $name))
    };
}

const CHAT: &str = payload!("openai/chat-stream.response.sse");
const TOOLS: &str = payload!("openai/tools-stream.response.sse");
const AZURE: &str = payload!("azure-openai/joke-stream-a.response.sse");
const OTHER_JOKE: &str = payload!("azure-openai/joke-stream-b.response.sse");
const GROQ: &str = payload!("openai-compatible/groq-stream.response.sse");
const COMPLETION: &str = payload!("openai/completion-stream.response.sse");
const RESPONSES: &str = payload!("openai/responses-stream.response.sse");
const SINGLE_NEWLINE: &str = payload!("openai-compatible/kserve-vllm-single-newline.response.sse");
const GEMINI: &str = payload!("other-llm/gemini-stream-crlf.response.sse");
const ANTHROPIC: &str = payload!("other-llm/anthropic-tools-stream.response.sse");
const OLLAMA: &str = payload!("ollama/chat-stream.response.ndjson");

const SSE: &[(&str, &str)] = &[("content-type", "text/event-stream")];
const NDJSON: &[(&str, &str)] = &[("content-type", "application/x-ndjson")];

fn streaming(body: impl AsRef<[u8]>) -> Stub {
    Stub::sending(answer("200 OK", SSE, body.as_ref()))
}

/// In chunks of so many bytes each.
fn in_pieces(body: &[u8], size: usize) -> Stub {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = |part: &[u8]| [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
    let chunks = body.chunks(size).map(chunk).chain([b"0\r\n\r\n".to_vec()]);
    Stub::doing([head.to_vec()].into_iter().chain(chunks).map(Act::Send).collect())
}

fn between(p: &Stub, c: &Stub) -> Bench {
    Plan::pair(p.address, c.address).compare_all().start()
}

/// Asks once, and gives the client's bytes and the pair.
fn paired(bench: &Bench) -> (Vec<u8>, Value) {
    let got = bench.ask(post("/v1/chat/completions", r#"{"stream": true}"#));
    bench.settle();
    (got.body, bench.pair())
}

fn recorded(leg: &Value) -> Value {
    assert_eq!(leg["body"]["encoding"], "json", "{leg}");
    serde_json::from_str(leg["body"]["data"].as_str().unwrap()).unwrap()
}

/// The same answer of another day: other ids, times, usage and noise.
fn again(stream: &str) -> String {
    let noise = [
        ("\"id\":\"chatcmpl-", "\"id\":\"chatcmpl-other-"),
        ("\"id\":\"call_", "\"id\":\"call_other"),
        ("\"created\":17", "\"created\":18"),
        ("\"obfuscation\":\"", "\"obfuscation\":\"x"),
        ("\"total_tokens\":", "\"total_tokens\":1"),
        ("\"queue_time\":", "\"queue_time\":1"),
        ("\"id\":\"msg_", "\"id\":\"msg_other"),
        ("\"id\":\"toolu_", "\"id\":\"toolu_other"),
        ("\"responseId\": \"", "\"responseId\": \"x"),
        ("_duration\":", "_duration\":1"),
        ("\"id\":\"resp_", "\"id\":\"resp_other"),
        ("\"id\":\"cmpl-", "\"id\":\"cmpl-other-"),
    ];
    noise.iter().fold(stream.to_owned(), |stream, (old, new)| stream.replace(old, new))
}

#[test]
fn the_same_text_is_equal_whatever_ids_times_and_usage_are() {
    for stream in [CHAT, TOOLS, AZURE, GROQ, COMPLETION, RESPONSES, SINGLE_NEWLINE, GEMINI, ANTHROPIC] {
        assert_ne!(again(stream), stream);
        let (p, c) = (streaming(stream), in_pieces(again(stream).as_bytes(), 11));
        let bench = between(&p, &c);
        let (bytes, pair) = paired(&bench);
        assert_eq!(bytes, stream.as_bytes(), "the client gets the stream as it is");
        assert_eq!((&pair["result"], &pair["comparison"]["differs_at"]), (&json!("equal"), &json!([])), "{stream}");
        assert_eq!((&pair["prod"]["outcome"], &pair["candidate"]["outcome"]), (&json!("ok"), &json!("ok")));
        assert_eq!(pair["prod"]["bytes"], stream.len(), "the size on the wire");
        assert_eq!(pair["prod"]["content_type"], "text/event-stream");
        recorded(&pair["prod"]);
    }
}

#[test]
fn other_texts_differ_at_their_place() {
    let (p, c) = (streaming(AZURE), streaming(OTHER_JOKE));
    let (_, pair) = paired(&between(&p, &c));
    assert_eq!(pair["result"], "differs");
    let places: Vec<&str> =
        pair["comparison"]["differs_at"].as_array().unwrap().iter().map(|at| at.as_str().unwrap()).collect();
    assert!(places.contains(&"/choices/0/message/content"), "{places:?}");
    assert!(!places.iter().any(|at| ["/id", "/created", "/usage"].contains(at)), "{places:?}");
}

#[test]
fn a_stream_compares_with_an_answer_that_came_whole() {
    let whole = json!({"id": "x", "object": "chat.completion", "model": "m", "choices": [{"index": 0, "logprobs": null,
        "finish_reason": "stop", "message": {"role": "assistant", "refusal": null, "content": "\"This is a test.\""}}]});
    let (p, c) = (streaming(CHAT), Stub::json(&whole.to_string()));
    let values = "{values: [{name: said, at: /choices/0/message/content, kind: text}]}";
    let bench = Plan::pair(p.address, c.address).compare(values).start();
    let (_, pair) = paired(&bench);
    assert_eq!((&pair["result"], &pair["comparison"]["differs_at"]), (&json!("equal"), &json!([])), "{pair}");
    assert_eq!(pair["comparison"]["values"][0]["prod_text"], "\"This is a test.\"");
    assert_eq!(pair["prod"]["version"], "gpt-4-0613", "where the API says it");
}

#[test]
fn line_ends_comments_and_marks_do_not_count() {
    let lf = GEMINI.replace("\r\n", "\n");
    let with_comments = GEMINI.replace("data: {", ": ping\r\n\r\ndata: {");
    let odd = format!("\u{feff}{}", lf.replace("data: {", "event: message\nid: 7\ndata:{"));
    for stream in [lf.as_str(), &with_comments, &odd] {
        let (p, c) = (streaming(GEMINI), in_pieces(stream.as_bytes(), 1));
        assert_eq!(paired(&between(&p, &c)).1["comparison"]["equal"], true, "{stream}");
    }
}

#[test]
fn lines_of_json_are_a_stream_too() {
    let (p, c) = (answer("200 OK", NDJSON, OLLAMA.as_bytes()), answer("200 OK", NDJSON, again(OLLAMA).as_bytes()));
    let (p, c) = (Stub::sending(p), Stub::sending(c));
    let (bytes, pair) = paired(&between(&p, &c));
    assert_eq!(bytes, OLLAMA.as_bytes());
    assert_eq!(pair["result"], "equal", "{pair}");
    assert!(recorded(&pair["candidate"])["message"]["content"].as_str().unwrap().starts_with("Why did the"));
}

#[test]
fn a_compressed_stream_is_read_too() {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(again(CHAT).as_bytes()).unwrap();
    let fields = [("content-type", "text/event-stream"), ("content-encoding", "gzip")];
    let (p, c) = (streaming(CHAT), Stub::sending(answer("200 OK", &fields, &packer.finish().unwrap())));
    assert_eq!(paired(&between(&p, &c)).1["result"], "equal");
}

#[test]
fn a_compressed_stream_that_fails_is_told_in_the_pair() {
    for stream in failing() {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packer.write_all(stream.as_bytes()).unwrap();
        let fields = [("content-type", "text/event-stream"), ("content-encoding", "gzip")];
        let (p, c) = (streaming(CHAT), Stub::sending(answer("200 OK", &fields, &packer.finish().unwrap())));
        let (_, pair) = paired(&between(&p, &c));
        assert_eq!(
            (&pair["candidate"]["outcome"], &pair["result"]),
            (&json!("stream_error"), &json!("candidate_failed"))
        );
    }
}

#[test]
fn a_route_may_switch_it_off() {
    let stream = failing().swap_remove(0);
    let (p, c) = (streaming(&stream), streaming(&stream));
    let bench = Plan::pair(p.address, c.address).compare_all().route("api: none").start();
    let (_, pair) = paired(&bench);
    assert_eq!((&pair["result"], &pair["candidate"]["outcome"]), (&json!("equal"), &json!("ok")));
    assert_eq!(bench.metrics().sum("shadowpair_legs_total", &[("outcome", "stream_error")]), 0.0);
}

#[test]
fn what_must_not_be_shown_of_a_stream_is_not() {
    let (p, c) = (streaming(CHAT), streaming(CHAT.replace("test", "joke")));
    let redact = "capture: {redact: [/choices/*/message/content]}";
    let bench = Plan::pair(p.address, c.address).compare_all().route(redact).start();
    let (_, pair) = paired(&bench);
    assert_eq!(pair["comparison"]["differs_at"], json!(["/choices/0/message/content"]));
    assert_eq!(recorded(&pair["prod"])["choices"][0]["message"]["role"], "assistant");
    assert!(!pair.to_string().contains("joke") && !pair.to_string().contains("This is"), "{pair}");
}

#[test]
fn a_stream_of_a_kind_that_nobody_knows_is_its_bytes() {
    let odd = "data: {\"a\": 1}\n\ndata: {\"a\": 2}\n\n";
    let (p, c) = (streaming(odd), streaming(odd.replace("data: ", "data:")));
    let (_, pair) = paired(&between(&p, &c));
    assert_eq!((&pair["result"], &pair["prod"]["body"]["data"]), (&json!("differs"), &json!(odd)));
    let (p, c) = (streaming(CHAT), streaming(CHAT));
    let bench = Plan::pair(p.address, c.address).compare_all().route("api: none").start();
    let (_, pair) = paired(&bench);
    assert_eq!((&pair["result"], &pair["prod"]["body"]["data"]), (&json!("equal"), &json!(CHAT)));
}

/// A stream that ends as far as HTTP goes, but is not one that a client can use.
fn failing() -> Vec<String> {
    let begun = &CHAT[..CHAT.find("data: [DONE]").unwrap()];
    let half = CHAT.split_inclusive("\n\n").take(3).collect::<String>();
    vec![
        format!("{half}data: {{\"error\": {{\"message\": \"no memory\", \"code\": 500}}}}\n\ndata: [DONE]\n\n"),
        format!("{begun}event: error\ndata: {{\"message\": \"gone\"}}\n\n"),
        half.clone(),
        format!("{half}data: {{\"choi"),
        RESPONSES.replace("response.completed", "response.failed"),
        ANTHROPIC[..ANTHROPIC.find("event: message_stop").unwrap()].into(),
    ]
}

#[test]
fn a_candidate_that_fails_within_its_stream_has_failed() {
    for stream in failing() {
        for size in [5, 1 << 20] {
            let (p, c) = (streaming(CHAT), in_pieces(stream.as_bytes(), size));
            let bench = between(&p, &c);
            let (_, pair) = paired(&bench);
            let candidate = &pair["candidate"];
            assert_eq!(
                (&candidate["outcome"], &candidate["status"]),
                (&json!("stream_error"), &json!(200)),
                "{stream}"
            );
            assert_eq!((&pair["result"], &pair["comparison"]), (&json!("candidate_failed"), &Value::Null));
            let says = "the candidate ended with stream_error, status 200";
            assert_eq!(pair["comparison_error"], says);
            let labels = [("model", "c"), ("outcome", "stream_error")];
            assert_eq!(bench.metrics().sum("shadowpair_legs_total", &labels), 1.0);
        }
    }
}

#[test]
fn prods_failing_stream_reaches_the_client_as_it_is() {
    for stream in failing() {
        let (p, c) = (streaming(&stream), streaming(CHAT));
        let bench = between(&p, &c);
        let (bytes, pair) = paired(&bench);
        assert_eq!(bytes, stream.as_bytes());
        assert_eq!((&pair["result"], &pair["prod"]["outcome"]), (&json!("prod_failed"), &json!("stream_error")));
        let metrics = bench.metrics();
        assert_eq!(metrics.sum("shadowpair_legs_total", &[("model", "p"), ("outcome", "stream_error")]), 1.0);
        assert_eq!(metrics.sum("shadowpair_requests_total", &[("code", "200")]), 1.0);
    }
}

#[test]
fn an_error_says_the_same_with_and_without_a_stream() {
    let error = r#"{"error": {"message": "no memory"}}"#;
    let (p, c) = (streaming(CHAT), streaming(format!("data: {error}\n\n")));
    let (_, pair) = paired(&between(&p, &c));
    assert_eq!(pair["candidate"]["outcome"], "stream_error");
    assert_eq!(recorded(&pair["candidate"])["error"]["message"], "no memory");
    let (p, c) = (streaming(CHAT), Stub::sending(ok_json(error)));
    assert_eq!(paired(&between(&p, &c)).1["candidate"]["outcome"], "ok", "no stream, no failure of one");
}

#[test]
fn streams_over_http2_are_watched_too() {
    let serving = |body: String| {
        H2Stub::new(move |_| {
            let frames = body.as_bytes().chunks(40).fold(Frames::default(), |frames, part| frames.data(part.to_vec()));
            http::Response::builder().header("content-type", "text/event-stream").body(frames).unwrap()
        })
    };
    for (stream, outcome) in [(again(CHAT), "ok"), (failing().swap_remove(0), "stream_error")] {
        let (p, c) = (streaming(CHAT), serving(stream));
        let plan = Plan::prod(p.address).model("c", &[c.address]).with("c", "protocol: h2");
        let bench = plan.shadow("[{model: c, percent: 100, timeout: 1s}]").compare_all().start();
        let (_, pair) = paired(&bench);
        assert_eq!(pair["candidate"]["outcome"], outcome);
        assert_eq!(pair["result"] == "equal", outcome == "ok");
    }
}
