//! Streams of every kind, whole, cut and broken: what they carry (`answers`), how they ended (`endings`), and what is one
//! (`kinds`).

use http::HeaderValue;
use http::header::CONTENT_ENCODING;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::watch::Watch;
use super::*;

mod answers;
mod endings;
mod kinds;

macro_rules! payload {
    ($name:literal) => {
        include_str!(concat!("../../../../tests/fixtures/payloads/", $name))
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

static NDJSON: std::sync::LazyLock<HeaderMap> = std::sync::LazyLock::new(ndjson);
static SSE_HEAD: std::sync::LazyLock<HeaderMap> = std::sync::LazyLock::new(sse);

/// Whether a stream that came in these pieces ended well.
fn ends_well(pieces: &[&[u8]], headers: &HeaderMap) -> bool {
    let mut watch = Watch::of(headers, Api::Auto).expect("a stream");
    pieces.iter().for_each(|piece| watch.saw(piece));
    watch.ended_well()
}

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
            let pieces: Vec<&[u8]> = body.chunks(1 + cut % 9).collect();
            prop_assert_eq!(ends_well(&[body], &SSE_HEAD), ends_well(&pieces, &SSE_HEAD));
        }
    }
}
