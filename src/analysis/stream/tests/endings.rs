//! How a stream ended is told while it passes, however it is cut on its way.

use super::*;

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
