//! Floor 2: what the bodies of a route mean. Each API answers with fields that differ from call to call and say
//! nothing about the prediction (ids, times, usage, fingerprints, the model's own name); they do not count by default.

use std::sync::LazyLock;

use super::json::{Doc, Value, View};
use super::stream::is_gemini;
use crate::types::{Api, Pointer};

/// `/parameters` is where servers put notes about the call; the parameters of an output describe its data, and count.
const OIP: &[&str] = &["/id", "/model_name", "/model_version", "/parameters"];

/// `/meta/tags` is filled by the model itself, and counts.
const SELDON: &[&str] = &["/meta/puid", "/meta/requestPath", "/meta/routing", "/meta/metrics"];

/// Of chat completions, completions, embeddings and responses, and of the servers that speak like OpenAI, or do the
/// same in other words: `x_groq` (Groq), `timings` (llama.cpp), durations and counts (Ollama), `/content/*/id`
/// (Anthropic), names with capitals (Gemini).
const OPENAI: &[&str] = &[
    "/id",
    "/created",
    "/created_at",
    "/completed_at",
    "/model",
    "/usage",
    "/system_fingerprint",
    "/service_tier",
    "/x_groq",
    "/timings",
    "/choices/*/message/tool_calls/*/id",
    "/choices/*/message/audio/id",
    "/choices/*/message/audio/expires_at",
    "/output/*/id",
    "/output/*/call_id",
    "/total_duration",
    "/load_duration",
    "/prompt_eval_count",
    "/prompt_eval_duration",
    "/eval_count",
    "/eval_duration",
    "/content/*/id",
    "/responseId",
    "/createTime",
    "/modelVersion",
    "/usageMetadata",
];

fn pointers(texts: &[&str]) -> Vec<Pointer> {
    texts.iter().filter_map(|text| Pointer::parse(text).ok()).collect()
}

static OIP_POINTERS: LazyLock<Vec<Pointer>> = LazyLock::new(|| pointers(OIP));
static SELDON_POINTERS: LazyLock<Vec<Pointer>> = LazyLock::new(|| pointers(SELDON));
static OPENAI_POINTERS: LazyLock<Vec<Pointer>> = LazyLock::new(|| pointers(OPENAI));
static OIP_VERSION: LazyLock<Option<Pointer>> = LazyLock::new(|| Pointer::parse("/model_version").ok());
static OPENAI_VERSION: LazyLock<Option<Pointer>> = LazyLock::new(|| Pointer::parse("/model").ok());

/// The places that do not count by default. The answers of KServe v1, TensorFlow Serving and MLflow are predictions
/// and nothing else.
pub fn ignores(api: Api) -> &'static [Pointer] {
    match api {
        Api::Oip => &OIP_POINTERS,
        Api::Seldon => &SELDON_POINTERS,
        Api::Openai => &OPENAI_POINTERS,
        Api::Auto | Api::KserveV1 | Api::Tfserving | Api::Mlflow | Api::None => &[],
    }
}

/// Where an answer says which version of the model gave it.
pub fn version_pointer(api: Api) -> Option<&'static Pointer> {
    match api {
        Api::Oip => OIP_VERSION.as_ref(),
        Api::Openai => OPENAI_VERSION.as_ref(),
        _ => None,
    }
}

/// The route's API; for `auto` the one that the shape of an answer tells, `none` where it tells none.
pub fn resolve(api: Api, answer: Option<&Doc>) -> Api {
    match (api, answer) {
        (Api::Auto, Some(doc)) => of_shape(doc.root()),
        (Api::Auto, None) => Api::None,
        _ => api,
    }
}

fn of_shape(answer: Value) -> Api {
    let has = |key: &str, fits: fn(View) -> bool| answer.child(key).is_some_and(|value| fits(value.view()));
    let array = |view: View| matches!(view, View::Array);
    let object = |view: View| matches!(view, View::Object);
    let text = |view: View| matches!(view, View::Text(_));
    let flag = |view: View| matches!(view, View::Bool(_));
    let openai_words = ["chat.completion", "text_completion", "list", "response"];
    let openai_object = match answer.child("object").map(Value::view) {
        Some(View::Text(word)) => openai_words.iter().any(|known| word.is(known)),
        _ => false,
    };
    let ollama = has("created_at", text) && has("done", flag);
    let message = matches!(answer.child("type").map(Value::view), Some(View::Text(word)) if word.is("message"));
    let anthropic = message && has("role", text) && has("content", array);
    let gemini = is_gemini(answer);
    // What was put together from chunks that name no object.
    let first = answer.child("choices").and_then(|choices| choices.elements().next());
    let choices = first.and_then(|choice| choice.child("message")).is_some();
    let seldon_data = ["data", "strData", "jsonData", "binData"].iter().any(|key| answer.child(key).is_some());
    if !matches!(answer.view(), View::Object) {
        Api::None
    } else if has("model_name", text) && has("outputs", array) {
        Api::Oip
    } else if openai_object || ollama || anthropic || gemini || choices {
        Api::Openai
    } else if has("meta", object) && seldon_data {
        Api::Seldon
    } else {
        Api::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! payload {
        ($name:literal) => {
            include_bytes!(concat!("../../tests/fixtures/payloads/", $name)).as_slice()
        };
    }

    #[test]
    fn every_pointer_is_one() {
        for (texts, api) in [(OIP, Api::Oip), (SELDON, Api::Seldon), (OPENAI, Api::Openai)] {
            assert_eq!(ignores(api).iter().map(Pointer::as_str).collect::<Vec<_>>(), texts);
        }
        assert!(version_pointer(Api::Oip).is_some() && version_pointer(Api::Openai).is_some());
    }

    #[test]
    fn auto_tells_the_api_from_an_answer() {
        let told = |body: &[u8]| resolve(Api::Auto, Some(&Doc::parse(body).unwrap()));
        assert_eq!(told(payload!("oip-v2/iris.response.json")), Api::Oip);
        assert_eq!(told(payload!("openai/chat.response.json")), Api::Openai);
        assert_eq!(told(payload!("openai/embedding-512.response.json")), Api::Openai);
        assert_eq!(told(payload!("ollama/chat.response.json")), Api::Openai);
        assert_eq!(told(payload!("seldon-v1/strdata.response.json")), Api::Seldon);
        for body in [payload!("kserve-v1/iris.response.json"), b"[1]", b"{\"object\":\"car\"}", b"{\"id\":1}"] {
            assert_eq!(told(body), Api::None);
        }
        assert_eq!(resolve(Api::Mlflow, None), Api::Mlflow);
    }
}
