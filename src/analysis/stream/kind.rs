//! Floor 2: what kind of stream it is, by the shape of its events, and how each of the smaller kinds is put together.
//! The larger ones are in `choices` (OpenAI) and `blocks` (Anthropic, Gemini).

use super::shape::is_gemini;
use super::tree::{Map, Tree};
use super::{blocks, choices, responses};
use crate::analysis::json::{Value, View};
use crate::types::Api;

/// A kind of stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Chat completions and completions of OpenAI, and of all who speak like it (vLLM, Azure, Groq, llama.cpp …).
    Choices,
    /// Responses of OpenAI.
    Responses,
    /// Messages of Anthropic.
    Messages,
    /// `streamGenerateContent` of Gemini.
    Candidates,
    /// `/api/chat` and `/api/generate` of Ollama.
    Ollama,
    /// `/generate_stream` of TGI.
    Tgi,
    /// `generate_stream` of Triton.
    Triton,
}

impl Kind {
    /// What an event tells; most tell it at once, some (errors, pings) do not.
    pub(super) fn of(event: Value) -> Option<Self> {
        let view = |key: &str| event.child(key).map(Value::view);
        let is_text = |key: &str| matches!(view(key), Some(View::Text(_)));
        if let Some(View::Text(word)) = view("type") {
            let word = word.to_str();
            if word.starts_with("response.") {
                return Some(Self::Responses);
            }
            if word.starts_with("message_") || word.starts_with("content_block_") {
                return Some(Self::Messages);
            }
        }
        let is_object = |key: &str| matches!(view(key), Some(View::Object));
        let is_flag = |key: &str| matches!(view(key), Some(View::Bool(_)));
        let dated = is_text("model") || is_text("created_at");
        if matches!(view("choices"), Some(View::Array)) {
            Some(Self::Choices)
        } else if is_gemini(event) {
            Some(Self::Candidates)
        } else if is_flag("done") && dated && (is_object("message") || is_text("response")) {
            Some(Self::Ollama)
        } else if is_object("token") && event.child("generated_text").is_some() {
            Some(Self::Tgi)
        } else if is_text("text_output") && is_text("model_name") {
            Some(Self::Triton)
        } else {
            None
        }
    }

    /// Whether a route's `api` may speak so. What it does not is a stream of an unknown kind.
    pub(super) fn is_of(self, api: Api) -> bool {
        match api {
            Api::Auto => true,
            Api::Openai => self != Self::Triton,
            Api::Oip => self == Self::Triton,
            Api::KserveV1 | Api::Tfserving | Api::Mlflow | Api::Seldon | Api::None => false,
        }
    }

    /// The one answer that these events make; none where they make none.
    pub(super) fn whole<'d>(self, events: &[Value<'d>]) -> Option<Tree<'d>> {
        let map = match self {
            Self::Choices => choices::whole(events)?,
            Self::Messages => blocks::message(events)?,
            Self::Candidates => blocks::candidates(events)?,
            Self::Responses => responses::whole(events)?,
            Self::Ollama => growing(events, &["response", "thinking", "logprobs"]),
            Self::Triton => growing(events, &["text_output"]),
            Self::Tgi => generated(events),
        };
        Some(Tree::Map(map))
    }
}

/// Some members grow from event to event, of the others the last counts.
fn growing<'d>(events: &[Value<'d>], grows: &[&str]) -> Map<'d> {
    let mut whole = Map::default();
    for (key, value) in events.iter().flat_map(|event| event.members()) {
        match key.raw() {
            // Ollama's: its texts and calls grow.
            "message" => whole.object("message", |message| {
                for (key, value) in value.members() {
                    match key.raw() {
                        "role" => message.keep("role", value),
                        key => message.add(key, value),
                    }
                }
            }),
            key if grows.contains(&key) => whole.add(key, value),
            key => whole.set(key, value),
        }
    }
    whole
}

/// TGI's last event holds the whole text; where it is missing, the tokens do.
fn generated<'d>(events: &[Value<'d>]) -> Map<'d> {
    let mut whole = Map::default();
    let mut tokens = Map::default();
    for event in events {
        for (key, value) in event.members() {
            match key.raw() {
                "generated_text" => whole.set("generated_text", value),
                "token" => {
                    let special = matches!(value.child("special").map(Value::view), Some(View::Bool(true)));
                    if let (Some(text), false) = (value.child("text"), special) {
                        tokens.add("text", text);
                    }
                }
                "index" | "top_tokens" => {}
                key if !matches!(value.view(), View::Null) => whole.set(key, value),
                _ => {}
            }
        }
    }
    if whole.get("generated_text").and_then(Tree::as_text).is_none()
        && let Some(text) = tokens.remove("text")
    {
        whole.insert("generated_text", text);
    }
    whole
}
