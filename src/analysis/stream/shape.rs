//! Floor 2: what single events look like, whatever stream they are of.

use crate::analysis::json::{Value, View};

/// Whether an answer is Gemini's, or a part of one.
pub(crate) fn is_gemini(answer: Value) -> bool {
    let is_object = |value: Option<Value>| matches!(value.map(Value::view), Some(View::Object));
    let first = answer.child("candidates").and_then(|candidates| candidates.elements().next());
    let content = is_object(first.and_then(|first| first.child("content")));
    let ended = first.is_some_and(|first| first.child("finishReason").is_some());
    content || ended || is_object(answer.child("usageMetadata")) || is_object(answer.child("promptFeedback"))
}

/// Whether an event says that the model failed.
pub(super) fn is_error(event: Value) -> bool {
    let is =
        |key: &str, word: &str| matches!(event.child(key).map(Value::view), Some(View::Text(text)) if text.is(word));
    let says = |value: Value| match value.view() {
        View::Null => false,
        View::Text(text) => !text.is(""),
        _ => true,
    };
    let fails = event.child("error").is_some_and(|error| match error.view() {
        View::Text(_) => says(error),
        View::Object => error.members().any(|(_, value)| says(value)),
        _ => false,
    });
    fails || is("type", "error") || is("object", "error") || is("type", "response.failed")
}
