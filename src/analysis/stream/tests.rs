use http::HeaderValue;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::watch::Watch;
use super::*;

macro_rules! payload {
    ($name:literal) => {
        include_str!(concat!("../../../tests/fixtures/payloads/", $name))
    };
}

const CHAT: &str = payload!("openai/chat-stream.response.sse");
const COMPLETION: &str = payload!("openai/completion-stream.response.sse");
const TOOLS: &str = payload!("openai/tools-stream.response.sse");
const RESPONSES: &str = payload!("openai/responses-stream.response.sse");
const LOGPROBS: &str = payload!("openai/logprobs-stream.response.sse");
const AZURE: &str = payload!("azure-openai/joke-stream-a.response.sse");
const GROQ: &str = payload!("openai-compatible/groq-stream.response.sse");
const SINGLE_NEWLINE: &str = payload!("openai-compatible/kserve-vllm-single-newline.response.sse");
const TGI: &str = payload!("openai-compatible/tgi-generate-last.response.sse");
const GEMINI: &str = payload!("other-llm/gemini-stream-crlf.response.sse");
const ANTHROPIC: &str = payload!("other-llm/anthropic-tools-stream.response.sse");
const OLLAMA: &str = payload!("ollama/chat-stream.response.ndjson");

const SSE: [&str; 11] =
    [CHAT, COMPLETION, TOOLS, RESPONSES, LOGPROBS, AZURE, GROQ, SINGLE_NEWLINE, TGI, GEMINI, ANTHROPIC];

fn labelled(content_type: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers
}

fn sse() -> HeaderMap {
    labelled("text/event-stream; charset=utf-8")
}

fn ndjson() -> HeaderMap {
    labelled("application/x-ndjson")
}

/// The answer that a body with this head carries.
fn answer(body: impl AsRef<[u8]>, headers: &HeaderMap) -> Option<String> {
    read(body.as_ref(), headers, Api::Auto).and_then(|stream| stream.answer)
}

fn whole(body: &str) -> Value {
    let headers = if body.starts_with('{') { ndjson() } else { sse() };
    serde_json::from_str(&answer(body, &headers).expect("a stream of a known kind")).expect("JSON")
}

/// A stream of these events.
fn events(data: &[Value]) -> String {
    data.iter().map(|event| format!("data: {event}\n\n")).collect()
}

/// A chunk with one choice.
fn chunk(index: u64, delta: Value) -> Value {
    json!({"object": "chat.completion.chunk", "choices": [{"index": index, "delta": delta, "finish_reason": null}]})
}

#[test]
fn a_chat_is_the_one_answer_that_it_would_have_been() {
    let chat = whole(CHAT);
    assert_eq!(chat["object"], "chat.completion");
    assert_eq!(chat["id"], "chatcmpl-ASYMZ4oSykiIFK4lXLReDiKyAjsQl");
    assert_eq!(chat["usage"]["total_tokens"], 17);
    let message = json!({"role": "assistant", "content": "\"This is a test.\"", "refusal": null});
    assert_eq!(chat["choices"], json!([{"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"}]));
}

#[test]
fn calls_of_tools_are_put_together_each() {
    let calls = &whole(TOOLS)["choices"][0]["message"]["tool_calls"];
    let cities = ["Seattle, WA", "San Francisco, CA"];
    assert_eq!(calls.as_array().unwrap().len(), 2);
    for (call, city) in calls.as_array().unwrap().iter().zip(cities) {
        assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("get_current_weather")));
        assert!(call["id"].as_str().unwrap().starts_with("call_") && call.get("index").is_none());
        let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
        assert_eq!(arguments, json!({"location": city}));
    }
}

#[test]
fn completions_of_others_are_read_alike() {
    let text = whole(COMPLETION);
    assert!(text["choices"][0]["text"].as_str().unwrap().starts_with(" that isn’t"));
    assert_eq!((&text["object"], &text["choices"][0]["finish_reason"]), (&json!("text_completion"), &json!("length")));
    let azure = whole(AZURE);
    assert_eq!(azure["id"], "chatcmpl-DPTBaSsimU1JbOyrWiQNkSSfOPQE7");
    assert_eq!((azure.get("obfuscation"), &azure["created"]), (None, &json!(1_774_962_762)));
    assert!(azure["choices"][0]["message"]["content"].as_str().unwrap().ends_with('!'));
    let groq = whole(GROQ);
    assert_eq!(groq["x_groq"]["usage"]["total_tokens"], 91);
    assert!(groq["choices"][0]["message"]["content"].as_str().unwrap().starts_with('A'));
    assert_eq!(whole(SINGLE_NEWLINE)["choices"][0]["message"]["role"], "assistant");
    assert_eq!(whole(SINGLE_NEWLINE)["choices"][0]["message"]["content"], "  O,skie, what");
}

#[test]
fn numbers_keep_their_digits() {
    let text = answer(LOGPROBS, &sse()).unwrap();
    assert!(text.contains("-1.7432603e-6") && text.contains("-0.000056338537"));
    let tokens = whole(LOGPROBS)["choices"][0]["logprobs"]["content"].as_array().unwrap().len();
    assert_eq!(tokens, LOGPROBS.matches("\"top_logprobs\"").count());
}

#[test]
fn other_apis_are_put_together_too() {
    let response = whole(RESPONSES);
    assert_eq!((&response["object"], &response["status"]), (&json!("response"), &json!("completed")));
    assert_eq!(response["output"][0]["content"][0]["text"], "This is a test.");
    let message = whole(ANTHROPIC);
    assert_eq!((&message["type"], &message["stop_reason"]), (&json!("message"), &json!("tool_use")));
    assert_eq!((&message["usage"]["input_tokens"], &message["usage"]["output_tokens"]), (&json!(506), &json!(153)));
    let blocks = message["content"].as_array().unwrap();
    assert!(blocks[0]["text"].as_str().unwrap().len() > 20);
    assert_eq!(blocks[1]["input"], json!({"location": "San Francisco, CA", "unit": "celsius"}));
    assert_eq!(
        (&blocks[2]["name"], &blocks[2]["input"]),
        (&json!("get_time"), &json!({"timezone": "America/Los_Angeles"}))
    );
    let gemini = whole(GEMINI);
    let parts = gemini["candidates"][0]["content"]["parts"].as_array().unwrap();
    assert_eq!((parts.len(), &gemini["candidates"][0]["finishReason"]), (1, &json!("STOP")));
    assert!(parts[0]["text"].as_str().unwrap().ends_with("data-driven days."));
    assert_eq!(gemini["usageMetadata"]["totalTokenCount"], 1522);
    let ollama = whole(OLLAMA);
    assert!(ollama["message"]["content"].as_str().unwrap().starts_with("Why did the OpenTe"));
    assert_eq!((&ollama["done"], &ollama["eval_count"]), (&json!(true), &json!(50)));
    let tgi = "This is a picture of an anthropomorphic rabbit in a space suit.";
    assert_eq!(whole(TGI), json!({"generated_text": tgi}));
    let triton = |text| json!({"model_name": "m", "model_version": "1", "text_output": text});
    assert_eq!(whole(&events(&[triton("a"), triton("b")])), triton("ab"));
    let token = |text, whole| json!({"token": {"text": text, "special": false}, "generated_text": whole});
    assert_eq!(whole(&events(&[token("a", Value::Null), token("b", Value::Null)])), json!({"generated_text": "ab"}));
}

#[test]
fn choices_may_be_missing_interleaved_or_not_the_first() {
    let usage = [json!({"choices": null, "usage": {"n": 1}}), json!({"usage": {"n": 2}}), json!({"choices": []})];
    let mixed =
        [chunk(1, json!({"content": "b"})), chunk(0, json!({"content": "a"})), chunk(1, json!({"content": "c"}))];
    let both = whole(&events(&[mixed.as_slice(), &usage].concat()));
    let contents = |answer: &Value| -> Vec<(u64, String)> {
        let choices = answer["choices"].as_array().unwrap().iter();
        choices.map(|c| (c["index"].as_u64().unwrap(), c["message"]["content"].as_str().unwrap().into())).collect()
    };
    assert_eq!(contents(&both), [(0, "a".into()), (1, "bc".into())]);
    assert_eq!(both["usage"], json!({"n": 2}));
    assert_eq!(contents(&whole(&events(&mixed[..1]))), [(1, "b".into())]);
    let none = whole(&events(&[usage[2].clone(), usage[0].clone()]));
    assert_eq!(none["choices"], json!([]));
    let odd = [chunk(u64::MAX, json!({"content": "z"})), json!({"choices": [{"index": -1, "delta": null}]})];
    assert_eq!(whole(&events(&odd))["choices"].as_array().unwrap().len(), 2);
}

#[test]
fn calls_without_an_index_are_told_apart_by_their_ids() {
    let call =
        |id: Option<&str>, text: &str| chunk(0, json!({"tool_calls": [{"id": id, "function": {"arguments": text}}]}));
    let sent = [call(Some("a"), "1"), call(None, "2"), call(Some("a"), "3"), call(Some("b"), "4")];
    let calls = whole(&events(&sent))["choices"][0]["message"]["tool_calls"].clone();
    let expected = json!([{"id": "a", "function": {"arguments": "123"}}, {"id": "b", "function": {"arguments": "4"}}]);
    assert_eq!(calls, expected);
}

#[test]
fn what_a_delta_repeats_does_not_grow() {
    let delta = |text| {
        chunk(0, json!({"role": "assistant", "content": text, "function_call": {"name": "f", "arguments": text}}))
    };
    let message = whole(&events(&[delta("ha"), delta("ha")]))["choices"][0]["message"].clone();
    let call = json!({"name": "f", "arguments": "haha"});
    assert_eq!(message, json!({"role": "assistant", "content": "haha", "function_call": call}));
}

#[test]
fn an_escape_cut_in_two_is_one_character() {
    let parts = [r"\ud83e", r"\udd80 \u00e9", r#"\" \\"#];
    let chunk = |part| format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{part}\"}}}}]}}\n\n");
    let stream: String = parts.into_iter().map(chunk).collect();
    assert_eq!(whole(&stream)["choices"][0]["message"]["content"], "🦀 é\" \\");
}

#[test]
fn an_input_that_broke_off_stays_text() {
    let delta = json!({"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{\"a\": \"q"}});
    let start = json!({"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "input": {}}});
    assert_eq!(whole(&events(&[start, delta]))["content"][0]["input"], "{\"a\": \"q");
}

#[test]
fn what_is_no_stream_of_a_known_kind_stays_as_it_is() {
    let bodies = [
        "",
        "{}",
        "{\"choices\": []}",
        "data: {\"a\": 1}\n\n",
        "data: 7\n\n",
        "data: ping\n\n",
        ": only this\n\n",
        "[1]\n[2]",
    ];
    for body in bodies {
        assert_eq!(answer(body, &sse()), None, "{body:?}");
        assert_eq!(answer(body, &HeaderMap::new()), None, "{body:?}");
    }
    let odd = events(&[chunk(0, json!({"content": "a"}))]) + "data: <html>\n\n";
    assert_eq!(answer(odd, &sse()), None);
    assert_eq!(answer([CHAT.as_bytes(), b"data: \xff\n\n"].concat(), &sse()), None);
    assert_eq!(answer(b"{\"done\": true}", &labelled("application/json")), None);
}

#[test]
fn a_stream_is_known_by_its_look_whatever_its_head_says() {
    for body in SSE.into_iter().chain([OLLAMA]) {
        let said = answer(body, if body == OLLAMA { &NDJSON } else { &SSE_HEAD });
        assert!(said.is_some());
        for other in ["text/plain", "application/json"] {
            assert_eq!(answer(body, &labelled(other)), said);
        }
        let with_mark = format!("\u{feff}{body}");
        assert!(body == OLLAMA || answer(with_mark, &HeaderMap::new()) == said);
    }
}

#[test]
fn a_failure_is_the_answer_that_it_would_have_been() {
    let error = json!({"error": {"message": "no memory", "code": 500}});
    assert_eq!(whole(&events(std::slice::from_ref(&error))), error);
    assert_eq!(whole(&error.to_string()), error);
    let late = whole(&events(&[chunk(0, json!({"content": "a"})), error.clone()]));
    assert_eq!((&late["error"], &late["choices"][0]["message"]["content"]), (&error["error"], &json!("a")));
}

static NDJSON: std::sync::LazyLock<HeaderMap> = std::sync::LazyLock::new(ndjson);
static SSE_HEAD: std::sync::LazyLock<HeaderMap> = std::sync::LazyLock::new(sse);

/// Whether a stream that came in these pieces ended well.
fn ends_well(pieces: &[&[u8]], headers: &HeaderMap) -> bool {
    let mut watch = Watch::of(headers, Api::Auto).expect("a stream");
    pieces.iter().for_each(|piece| watch.saw(piece));
    watch.ended_well()
}

#[test]
fn whole_streams_end_well_however_they_are_cut_on_their_way() {
    for body in SSE.into_iter().chain([OLLAMA]) {
        let (headers, bytes) = (if body == OLLAMA { &NDJSON } else { &SSE_HEAD }, body.as_bytes());
        for size in [1, 2, 3, 7, 100, 1000, 1 << 20] {
            assert!(ends_well(&bytes.chunks(size).collect::<Vec<_>>(), headers), "{size}: {body}");
        }
    }
}

#[test]
fn a_stream_that_stops_half_way_does_not_end_well() {
    for body in [CHAT, COMPLETION, TOOLS, RESPONSES, LOGPROBS, GROQ, GEMINI, ANTHROPIC, OLLAMA] {
        let (headers, half) = (if body == OLLAMA { &NDJSON } else { &SSE_HEAD }, &body.as_bytes()[..body.len() / 2]);
        for size in [1, 7, 1 << 20] {
            assert!(!ends_well(&half.chunks(size).collect::<Vec<_>>(), headers), "{size}: {body}");
        }
    }
    // Its last words are there, only [DONE] is not: some servers never say it.
    assert!(ends_well(&[CHAT.strip_suffix("data: [DONE]\n\n").unwrap().as_bytes()], &SSE_HEAD));
    // A stream that never says how it ends cannot be told from one that broke off.
    assert!(ends_well(&[b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n"], &SSE_HEAD));
    assert!(ends_well(&[b"data: {\"text_output\": \"a\"}\n\n"], &SSE_HEAD));
}

#[test]
fn an_event_may_say_that_the_model_failed() {
    let bad = [
        json!({"error": {"message": "no memory"}}),
        json!({"error": "no memory", "error_type": "generation"}),
        json!({"object": "error", "message": "no memory"}),
        json!({"type": "error", "error": {"type": "overloaded_error"}}),
        json!({"type": "response.failed", "response": {"error": {"code": "server_error"}}}),
        json!({"object": "chat.completion.chunk", "choices": [{"delta": {}, "finish_reason": "error"}], "error": {"code": 502}}),
    ];
    for error in bad {
        let stream = events(&[chunk(0, json!({"content": "a"})), error.clone()]) + "data: [DONE]\n\n";
        for size in [1, 7, 1 << 20] {
            assert!(!ends_well(&stream.as_bytes().chunks(size).collect::<Vec<_>>(), &SSE_HEAD), "{error}");
        }
        assert!(!ends_well(&[error.to_string().as_bytes()], &NDJSON), "{error}");
    }
    assert!(!ends_well(&[b"event: error\ndata: no memory\n\n"], &SSE_HEAD));
}

#[test]
fn a_model_that_writes_of_errors_has_not_failed() {
    let text = "{\"error\": \"no\"}, \"finish_reason\": null, event: error\ndata: {\"type\": \"error\"}";
    let chunks = [
        chunk(0, json!({"content": text})),
        json!({"choices": [{"delta": {"error": "x"}, "finish_reason": "stop"}], "error": null}),
        json!({"type": "response.completed", "response": {"error": null}}),
    ];
    assert!(ends_well(&[events(&chunks).as_bytes()], &SSE_HEAD));
}

#[test]
fn a_line_may_be_as_long_as_it_likes() {
    let long = |event: Value| events(&[chunk(0, json!({"content": "a"})), event]);
    let text = "a".repeat(100_000);
    let bad = [
        json!({"error": {"message": text}}),
        json!({"id": text, "error": "no memory"}),
        json!({"type": "response.failed", "response": {"instructions": text}}),
        chunk(0, json!({"content": text})),
    ];
    for stream in bad.map(long) {
        for size in [1, 1460, 1 << 20] {
            assert!(!ends_well(&stream.as_bytes().chunks(size).collect::<Vec<_>>(), &SSE_HEAD), "{size}");
        }
    }
    let good = long(chunk(0, json!({"content": text}))) + "data: [DONE]\n\n";
    assert!(ends_well(&good.as_bytes().chunks(1460).collect::<Vec<_>>(), &SSE_HEAD));
}

#[test]
fn what_stands_deeper_does_not_end_a_stream() {
    let tool =
        json!({"model": "m", "message": {"tool_calls": [{"function": {"arguments": {"done": true}}}]}, "done": false});
    assert!(!ends_well(&[format!("{tool}\n").as_bytes()], &NDJSON));
    let parts = json!([{"functionCall": {"args": {"finishReason": "STOP"}}}]);
    let open = [
        json!({"candidates": [{"content": {"parts": parts}}]}),
        json!({"candidates": [{"content": {}, "finishReason": "FINISH_REASON_UNSPECIFIED"}]}),
        json!({"choices": [{"delta": {"x": {"finish_reason": "stop"}}, "finish_reason": null}]}),
        json!({"choices": [{"delta": {}, "finish_reason": null}, {"finish_reason": ""}]}),
        json!({"type": "message_start", "message": {"stop_reason": "x", "type": "message_stop"}}),
    ];
    for event in open {
        assert!(!ends_well(&[events(std::slice::from_ref(&event)).as_bytes()], &SSE_HEAD), "{event}");
    }
    let responses = events(&[json!({"type": "response.created"})]) + "data: [DONE]\n\n";
    assert!(!ends_well(&[responses.as_bytes()], &SSE_HEAD), "this kind does not end so");
}

#[test]
fn a_stream_that_stops_within_an_event_does_not_end_well() {
    let begun = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\n";
    assert!(ends_well(&[begun.as_bytes()], &SSE_HEAD));
    for end in 7..begun.len() - 3 {
        assert!(!ends_well(&[&begun.as_bytes()[..end]], &SSE_HEAD), "{}", &begun[..end]);
    }
    let cut = format!("{begun}data: {{\"choices\":[],\"usa");
    assert!(!ends_well(&[cut.as_bytes()], &SSE_HEAD));
    assert_eq!(whole(&cut)["choices"][0]["message"]["content"], "a", "what came is there");
    // Several lines of data are one event, and text that is no JSON is none of our business.
    let lines = "data: {\"choices\":[{\"delta\":{},\ndata: \"finish_reason\":\r\ndata: \"stop\"}]}\n\n";
    assert!(ends_well(&lines.as_bytes().chunks(1).collect::<Vec<_>>(), &SSE_HEAD));
    assert!(ends_well(&[b"data: {hello\n\ndata: [INFO] there\n\n"], &SSE_HEAD));
}

#[test]
fn an_error_among_predictions_is_one_of_them() {
    let rows = "{\"prediction\":1,\"error\":0.25}\n{\"prediction\":2,\"error\":\"x\"}\n";
    assert!(ends_well(&[rows.as_bytes()], &NDJSON));
    assert_eq!(answer(rows, &NDJSON), None);
    for error in [json!(false), json!(0), json!({}), json!([]), json!(""), json!(null), json!(0.5)] {
        let event = events(&[json!({"error": error})]);
        assert!(ends_well(&[event.as_bytes()], &SSE_HEAD), "{event}");
        assert_eq!(answer(&event, &SSE_HEAD), None, "{event}");
    }
    assert!(!ends_well(&[b"{\"error\":\"x\",\"error_type\":\"overloaded\"}"], &NDJSON));
}

#[test]
fn one_bad_row_among_good_ones_is_no_failure_of_the_stream() {
    let rows = |rows: &[&str]| ends_well(&[(rows.join("\n") + "\n").as_bytes()], &NDJSON);
    let (good, bad) = (r#"{"id":1,"y":1}"#, r#"{"id":2,"error":"bad row"}"#);
    assert!(rows(&[good, bad, good]) && rows(&[bad, good]));
    assert!(!rows(&[good, bad]) && !rows(&[bad]));
    assert!(rows(&[r#"{"generated_text":null,"y":1}"#]));
}

#[test]
fn a_reason_may_say_that_the_stream_broke_off() {
    let ends = |reason: Value| {
        let event = json!({"choices": [{"delta": {}, "finish_reason": reason}]});
        ends_well(&[events(&[chunk(0, json!({"content": "a"})), event]).as_bytes()], &SSE_HEAD)
    };
    assert!(ends(json!("stop")) && !ends(json!("error")) && !ends(json!("")) && !ends(json!(null)));
    let blank = json!({"choices": [{"delta": {}, "finish_reason": ""}]});
    assert!(!ends_well(&[events(&[blank]).as_bytes()], &SSE_HEAD));
}

#[test]
fn what_keeps_a_connection_alive_adds_nothing() {
    let pings = "event: ping\ndata: keep-alive\n\ndata: null\n\ndata:\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\n";
    let stream = CHAT.replacen("\n\n", &format!("\n\n{pings}"), 3) + &events(&[chunk(0, json!({"content": "late"}))]);
    assert_eq!(whole(&stream), whole(CHAT));
}

#[test]
fn a_stream_that_nobody_could_watch_is_judged_where_it_is_read() {
    let mut packed = sse();
    packed.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    let half = &CHAT[..CHAT.len() / 2];
    let judged =
        |body: &str, headers: &HeaderMap| read(body.as_bytes(), headers, Api::Auto).map(|stream| stream.ended_well);
    for headers in [&packed, &labelled("text/plain"), &HeaderMap::new()] {
        assert_eq!([judged(CHAT, headers), judged(half, headers)], [Some(true), Some(false)]);
    }
    assert_eq!(judged(half, &SSE_HEAD), Some(true), "watched on its way");
    assert_eq!(judged("data: {\"error\": \"x\", \"y\": 1}\n\n", &HeaderMap::new()), Some(true));
}

#[test]
fn calls_with_one_index_are_told_apart_by_ids_and_names() {
    let call = |id: Option<&str>, name: &str, text: &str| {
        chunk(0, json!({"tool_calls": [{"index": 0, "id": id, "function": {"name": name, "arguments": text}}]}))
    };
    let told = |sent: &[Value]| {
        let calls = whole(&events(sent))["choices"][0]["message"]["tool_calls"].clone();
        let calls = calls.as_array().unwrap().iter().map(|call| {
            (call["function"]["name"].as_str().unwrap().into(), call["function"]["arguments"].as_str().unwrap().into())
        });
        calls.collect::<Vec<(String, String)>>()
    };
    let two = [("f".to_owned(), "{}".to_owned()), ("pay".into(), "{}".into())];
    assert_eq!(told(&[call(Some("1"), "f", "{}"), call(Some("2"), "pay", "{}")]), two);
    assert_eq!(told(&[call(None, "f", "{}"), call(None, "pay", "{}")]), two);
    let again = [call(Some("1"), "get_", "{"), call(Some("1"), "get_", "\"a\""), call(None, "weather", ":1}")];
    assert_eq!(told(&again), [("get_weather".into(), "{\"a\":1}".into())]);
}

#[test]
fn pieces_beside_the_text_are_put_together_too() {
    let piece = |ids: Value, filter: Value, details: &str| {
        let details = json!([{"index": 0, "type": "reasoning.text", "text": details}]);
        json!({"choices": [{"index": 0, "token_ids": ids, "content_filter_results": filter,
            "delta": {"content": "x", "reasoning_details": details}}]})
    };
    let hate = json!({"hate": {"filtered": false}});
    let stream = [piece(json!([1]), hate.clone(), "a"), piece(json!([2]), json!({}), "b")];
    let choice = whole(&events(&stream))["choices"][0].clone();
    assert_eq!((&choice["token_ids"], &choice["content_filter_results"]), (&json!([1, 2]), &hate));
    let details = json!([{"index": 0, "type": "reasoning.text", "text": "ab"}]);
    assert_eq!(choice["message"], json!({"content": "xx", "reasoning_details": details}));
}

#[test]
fn what_every_piece_repeats_is_there_once_however_the_text_is_dealt_out() {
    // The same text in fewer chunks: each second one is joined to the one before.
    let fewer = |stream: &str| {
        let contents: Vec<String> = stream.split("\"content\":\"").map(str::to_owned).collect();
        assert!(contents.len() > 4);
        let mut events: Vec<Value> =
            stream.split("data: ").filter_map(|event| serde_json::from_str(event).ok()).collect();
        let text = |event: &Value| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned);
        let mut at = 2;
        while at + 1 < events.len() {
            if let (Some(one), Some(other)) = (text(&events[at]), text(&events[at + 1])) {
                events[at]["choices"][0]["delta"]["content"] = (one + &other).into();
                events.remove(at + 1);
            }
            at += 1;
        }
        self::events(&events) + "data: [DONE]\n\n"
    };
    for stream in [AZURE, GROQ, CHAT] {
        let other = fewer(stream);
        assert_ne!(events(&[json!(other)]), events(&[json!(stream)]));
        assert_eq!(whole(&other)["choices"], whole(stream)["choices"]);
    }
    assert_eq!(whole(AZURE)["choices"][0]["content_filter_results"]["hate"]["severity"], "safe");
    let detail = |text| {
        let detail = json!({"index": 0, "format": "v1", "type": "reasoning.text", "text": text});
        chunk(0, json!({"content": "", "reasoning_details": [detail]}))
    };
    let message = whole(&events(&[detail("a"), detail("a")]))["choices"][0]["message"].clone();
    assert_eq!(
        (&message["reasoning_details"][0]["text"], &message["reasoning_details"][0]["format"]),
        (&json!("aa"), &json!("v1"))
    );
}

#[test]
fn rows_that_only_look_like_anothers_stream_are_of_an_unknown_kind() {
    let rows = [
        "{\"candidates\":[{\"id\":1,\"score\":0.9}]}\n{\"candidates\":[{\"id\":2,\"score\":0.8}]}\n",
        "{\"id\":1,\"done\":true,\"score\":0.5}\n{\"id\":2,\"done\":true,\"score\":0.7}\n",
        "{\"id\":1,\"done\":false}\n{\"id\":2,\"done\":false}\n",
        "{\"model\":\"m\",\"done\":false,\"score\":1}\n{\"model\":\"m\",\"done\":false,\"score\":2}\n",
        "{\"model\":\"m\",\"response\":\"a\",\"done\":\"no\"}\n{\"done\":0}\n",
    ];
    for rows in rows {
        assert_eq!(answer(rows, &NDJSON), None, "{rows}");
        assert!(ends_well(&[rows.as_bytes()], &NDJSON), "{rows}");
    }
    let rows = rows.concat();
    assert_eq!(answer(rows.repeat(9) + OLLAMA, &NDJSON), None, "the first events tell");
}

#[test]
fn a_route_whose_bodies_mean_something_else_has_no_such_streams() {
    let known = |body: &str, api| read(body.as_bytes(), &SSE_HEAD, api).and_then(|stream| stream.answer).is_some();
    let triton = events(&[json!({"model_name": "m", "text_output": "a"})]);
    for api in Api::ALL {
        assert_eq!(known(CHAT, *api), matches!(api, Api::Auto | Api::Openai), "{api:?}");
        assert_eq!(known(&triton, *api), matches!(api, Api::Auto | Api::Oip), "{api:?}");
        assert_eq!(Watch::of(&SSE_HEAD, *api).is_some(), matches!(api, Api::Auto | Api::Openai | Api::Oip));
    }
}

#[test]
fn more_events_than_anybody_sends_are_not_read() {
    let chunk = "data: {\"choices\":[]}\n\n";
    assert!(answer(chunk.repeat(50_000), &SSE_HEAD).is_some());
    assert_eq!(answer(chunk.repeat(50_001), &SSE_HEAD), None);
}

#[test]
fn an_empty_text_may_be_all_that_was_generated() {
    let token = |whole: Value| json!({"token": {"text": "", "special": true}, "generated_text": whole});
    assert!(ends_well(&[events(&[token(Value::Null), token(json!(""))]).as_bytes()], &SSE_HEAD));
    assert!(!ends_well(&[events(&[token(Value::Null)]).as_bytes()], &SSE_HEAD));
}

#[test]
fn a_mark_before_the_first_line_does_not_hide_it() {
    assert!(!ends_well(&["\u{feff}{\"error\": \"x\"}\n".as_bytes()], &NDJSON));
    let blank = json!({"choices": [], "error": {"code": null, "message": ""}});
    assert!(ends_well(&[events(std::slice::from_ref(&blank)).as_bytes()], &SSE_HEAD), "an error that says nothing");
}

#[test]
fn an_input_that_was_cut_within_a_character_is_whole_again() {
    let delta = |part: &str| {
        format!("data: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"partial_json\":\"{part}\"}}}}\n\n")
    };
    let stream = [r#"{\"a\": \"\ud83e"#, r#"\udd80\"}"#].map(delta).concat();
    assert_eq!(whole(&stream)["content"][0]["input"], json!({"a": "🦀"}));
}

#[test]
fn a_message_of_calls_alone_has_no_text() {
    let call = json!([{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}]);
    for delta in [json!({"content": "", "tool_calls": call}), json!({"tool_calls": call})] {
        assert_eq!(whole(&events(&[chunk(0, delta)]))["choices"][0]["message"]["content"], Value::Null);
    }
    assert_eq!(whole(&events(&[chunk(0, json!({"content": ""}))]))["choices"][0]["message"]["content"], "");
}

#[test]
fn a_response_is_put_together_where_its_end_leaves_it_out() {
    let text = |response: &Value| response["output"][0]["content"][0]["text"].clone();
    let without = RESPONSES.split("event: response.completed").next().unwrap();
    assert_eq!(text(&whole(without)), "This is a test.");
    let cut = RESPONSES.split("event: response.output_text.done").next().unwrap();
    assert_eq!((text(&whole(cut)), &whole(cut)["output"][0]["role"]), (json!("This is a test."), &json!("assistant")));
    let empty = events(&[json!({"type": "response.completed", "response": {"status": "completed", "output": []}})]);
    assert_eq!(text(&whole(&format!("{without}{empty}"))), "This is a test.");
    let error = json!({"type": "error", "code": "server_error"});
    assert_eq!(whole(&format!("{cut}{}", events(std::slice::from_ref(&error)))), error);
}

#[test]
fn a_blocked_prompt_is_an_answer_of_gemini() {
    let blocked = json!({"promptFeedback": {"blockReason": "SAFETY"}, "responseId": "1"});
    let whole = whole(&events(std::slice::from_ref(&blocked)));
    assert_eq!((&whole["promptFeedback"], &whole["candidates"]), (&blocked["promptFeedback"], &json!([])));
}

#[test]
fn more_parts_than_anybody_sends_are_not_put_together() {
    let many = |unit: fn(usize) -> Value| events(&(0..2000).map(unit).collect::<Vec<_>>());
    let chunks = many(|at| json!({"choices": [{"index": at, "delta": {}}]}));
    let calls = many(|at| json!({"choices": [{"delta": {"tool_calls": [{"id": at.to_string()}]}}]}));
    let candidates = many(|at| json!({"candidates": [{"index": at}]}));
    let blocks = many(|at| json!({"type": "content_block_start", "index": at, "content_block": {}}));
    for stream in [chunks, calls, candidates, blocks] {
        assert_eq!(answer(&stream, &SSE_HEAD), None);
    }
    assert_eq!(answer(events(&[json!({"choices": [7, "x"]})]), &SSE_HEAD), None);
    assert_eq!(answer(events(&[json!({"choices": [{"delta": "x"}]})]), &SSE_HEAD), None);
}

#[test]
fn only_plain_streams_are_watched() {
    assert!(
        Watch::of(&HeaderMap::new(), Api::Auto).is_none()
            && Watch::of(&labelled("application/json"), Api::Auto).is_none()
    );
    let mut packed = sse();
    packed.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    assert!(Watch::of(&packed, Api::Auto).is_none());
    assert!(Watch::of(&labelled("Text/Event-Stream ;charset=x"), Api::Auto).is_some());
}

use http::header::CONTENT_ENCODING;

proptest! {
    #[test]
    fn a_text_is_the_same_however_it_is_dealt_out(parts in proptest::collection::vec(".{0,5}", 1..6)) {
        let deltas: Vec<Value> = parts.iter().map(|part| chunk(0, json!({"content": part}))).collect();
        let content = whole(&events(&deltas))["choices"][0]["message"]["content"].clone();
        prop_assert_eq!(content, parts.concat());
    }

    #[test]
    fn whatever_comes_is_read_without_a_fault(cut in 0usize..2000, at in 0usize..4000, byte in any::<u8>(), which in 0usize..11) {
        let mut bytes = SSE[which].as_bytes().to_vec();
        let (at, cut) = (at % bytes.len(), cut % bytes.len());
        bytes[at] = byte;
        for body in [&bytes[..], &bytes[cut..], &bytes[..cut]] {
            if let Some(json) = answer(body, &SSE_HEAD) {
                prop_assert!(Doc::parse(json.as_bytes()).is_ok());
            }
            ends_well(&[body], &SSE_HEAD);
        }
    }
}
