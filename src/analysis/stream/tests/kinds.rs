//! What is a stream of a known kind, and what only looks like one.

use super::*;

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

#[test]
fn what_keeps_a_connection_alive_adds_nothing() {
    let pings = "event: ping\ndata: keep-alive\n\ndata: null\n\ndata:\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\n";
    let stream = CHAT.replacen("\n\n", &format!("\n\n{pings}"), 3) + &events(&[chunk(0, json!({"content": "late"}))]);
    assert_eq!(whole(&stream), whole(CHAT));
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
