//! What streams carry is the one answer that the same API would have given without streaming.

use super::*;

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
        let mut events: Vec<Value> =
            stream.split("data: ").filter_map(|event| serde_json::from_str(event).ok()).collect();
        let text = |event: &Value| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned);
        let before = events.len();
        let mut at = 2;
        while at + 1 < events.len() {
            if let (Some(one), Some(other)) = (text(&events[at]), text(&events[at + 1])) {
                events[at]["choices"][0]["delta"]["content"] = (one + &other).into();
                events.remove(at + 1);
            }
            at += 1;
        }
        assert!(events.len() + 1 < before, "{} of {before}", events.len());
        self::events(&events) + "data: [DONE]\n\n"
    };
    for stream in [AZURE, GROQ, CHAT] {
        assert_eq!(whole(&fewer(stream))["choices"], whole(stream)["choices"]);
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
