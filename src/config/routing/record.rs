//! What of a route's requests and answers is recorded, and how answers are compared.

use http::HeaderName;

use crate::types::{ModelName, Pointer, ValueKind};

/// `capture`.
#[derive(Debug, Clone, PartialEq)]
pub struct Capture {
    /// Whether request bodies are recorded.
    pub request: bool,
    /// What is recorded of answers.
    pub answers: CaptureAnswers,
    /// A larger body is recorded truncated, in bytes.
    pub max_body: usize,
    /// The fields that are recorded; never a credential.
    pub headers: Vec<HeaderName>,
    /// What is hidden.
    pub redact: Vec<Redact>,
    /// To join labels and to find a subject's records, by name.
    pub keys: Vec<(String, Key)>,
}

/// `capture.answers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureAnswers {
    /// Whole bodies.
    Full,
    /// Only `compare.values`.
    Values,
    /// Nothing.
    None,
}

/// One entry of `capture.redact`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redact {
    /// What is hidden.
    pub what: RedactWhat,
    /// Whether a keyed hash stands in its place; else it is removed.
    pub hash: bool,
}

/// What a redaction hides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedactWhat {
    /// A place in request and answers.
    Json(Pointer),
    /// A query parameter: `query:NAME`.
    Query(String),
    /// A field: `header:NAME`.
    Header(HeaderName),
}

/// Where a text is found in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In the JSON body.
    Json(Pointer),
    /// In a field.
    Header(HeaderName),
    /// In a query parameter.
    Query(String),
    /// In a cookie.
    Cookie(String),
}

/// One of `capture.keys`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Where it is found.
    pub from: Source,
    /// Whether a keyed hash stands in its place.
    pub hash: bool,
}

/// One of `slices`.
#[derive(Debug, Clone, PartialEq)]
pub struct Slice {
    /// Where it is found.
    pub from: Source,
    /// Ascending bounds that turn a number into `<10`, `10..100`, `>=1000`; empty is the value itself.
    pub buckets: Vec<Bucket>,
}

/// A bound of a bucketed slice.
#[derive(Debug, Clone, PartialEq)]
pub struct Bucket {
    /// The bound; it belongs to the bucket above.
    pub bound: f64,
    /// As it was written in the file, for the bucket's name.
    pub text: String,
}

/// `compare`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Compare {
    /// What decides; empty is everything outside `ignore`.
    pub values: Vec<ValueRule>,
    /// For values without their own, and for every other number.
    pub tolerance: Tolerance,
    /// Places that do not count.
    pub ignore: Vec<Pointer>,
}

/// One of `compare.values`.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueRule {
    /// Its name.
    pub name: String,
    /// Where it stands: for every model, or by model.
    pub at: ValueAt,
    /// What it holds.
    pub kind: ValueKind,
    /// How far numbers may differ; none is `compare.tolerance`.
    pub tolerance: Option<Tolerance>,
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueAt {
    /// At one place in every model's answer.
    Same(Pointer),
    /// At a place of its own in each model's answer: one entry for every model of the route.
    ByModel(Vec<(ModelName, Pointer)>),
}

impl ValueAt {
    /// The place in this model's answer.
    pub fn of(&self, model: &ModelName) -> Option<&Pointer> {
        match self {
            ValueAt::Same(pointer) => Some(pointer),
            ValueAt::ByModel(places) => places.iter().find(|(name, _)| name == model).map(|(_, at)| at),
        }
    }
}

/// How far numbers may differ: |a−b| ≤ max(absolute, relative × max(|a|, |b|)).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Tolerance {
    /// In the value's own unit.
    pub absolute: f64,
    /// As a share of the larger.
    pub relative: f64,
}
