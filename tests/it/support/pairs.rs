//! Pair records read back from the file sink, each held against the form that the contract gives it: every key, and in
//! every key one type, so that whoever reads any subset infers the same columns.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::schema;

/// Every whole line of every pair file.
pub(crate) fn lines(folder: &Path) -> Vec<String> {
    let Ok(files) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    for file in files.map(|file| file.expect("entry").path()) {
        let text = String::from_utf8(unpacked(&file)).expect("valid UTF-8");
        lines.extend(text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(ToOwned::to_owned));
    }
    lines
}

/// A file's bytes; of a compressed one those of all frames that are whole.
fn unpacked(file: &Path) -> Vec<u8> {
    let bytes = std::fs::read(file).expect("a pair file");
    if file.extension().is_none_or(|extension| extension != "zst") {
        return bytes;
    }
    let mut whole = Vec::new();
    let mut frames = zstd::Decoder::new(&bytes[..]).expect("zstd");
    let mut piece = [0; 4096];
    while let Ok(n @ 1..) = std::io::Read::read(&mut frames, &mut piece) {
        whole.extend_from_slice(&piece[..n]);
    }
    whole
}

/// Every pair, checked, in the order of `seq`.
pub(crate) fn read(folder: &Path) -> Vec<Value> {
    let read = lines(folder).into_iter().map(|line| {
        let pair: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        check(&pair, &line);
        schema::assert_pair(&pair);
        pair
    });
    let mut pairs: Vec<Value> = read.collect();
    pairs.sort_by_key(|pair| pair["seq"].as_u64());
    let ids: BTreeSet<&str> = pairs.iter().filter_map(|pair| pair["id"].as_str()).collect();
    assert_eq!(ids.len(), pairs.len(), "ids are unique");
    pairs
}

/// A gap in `seq` is a lost pair; where none was dropped there is none.
#[track_caller]
pub(crate) fn assert_gapless(pairs: &[Value]) {
    let seqs: Vec<u64> = pairs.iter().filter_map(|pair| pair["seq"].as_u64()).collect();
    assert_eq!(seqs, (1..=pairs.len() as u64).collect::<Vec<_>>(), "seq is gapless from 1");
}

/// A leg's outcome; [`None`] where the lane ran too late to tell, by more than a tenth of the leg's time limit.
pub(crate) fn measured(leg: &Value, limit: Duration) -> Option<&str> {
    let outcome = leg["outcome"].as_str()?;
    if outcome != "unmeasured" {
        return Some(outcome);
    }
    let late = leg["lag_us"].as_u64().map(Duration::from_micros);
    assert!(late.is_some_and(|late| late * 10 >= limit), "unmeasured, but in time: {leg}");
    None
}

/// What may stand under a key.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    TextOrNull,
    Integer,
    IntegerOrNull,
    /// A number that is always written with a fraction or an exponent.
    Fraction,
    Bool,
    BoolOrNull,
    Texts,
    Object,
    ObjectOrNull,
    Array,
    FractionsOrNull,
}

use Kind::{
    Array, Bool, BoolOrNull, Fraction, FractionsOrNull, Integer, IntegerOrNull, Object, ObjectOrNull, Text, TextOrNull,
    Texts,
};

const PAIR: &[(&str, Kind)] = &[
    ("schema", Text),
    ("id", Text),
    ("producer", Text),
    ("seq", Integer),
    ("labels", Texts),
    ("request_id", Text),
    ("traceparent", TextOrNull),
    ("time", Text),
    ("route", Text),
    ("config", Text),
    ("arm", Text),
    ("answered_by", Object),
    ("bucket", IntegerOrNull),
    ("keys", Texts),
    ("slices", Texts),
    ("sample_percent", Fraction),
    ("tally", Object),
    ("protocol", Text),
    ("request", Object),
    ("prod", Object),
    ("candidate", Object),
    ("result", Text),
    ("comparison", ObjectOrNull),
    ("comparison_error", TextOrNull),
];

const ANSWERED_BY: &[(&str, Kind)] =
    &[("model", TextOrNull), ("version", TextOrNull), ("role", Text), ("status", Integer)];

const TALLY: &[(&str, Kind)] = &[("seen", Integer), ("sampled", Integer), ("skipped", Integer)];

const REQUEST: &[(&str, Kind)] = &[
    ("method", Text),
    ("path", Text),
    ("query", TextOrNull),
    ("headers", Texts),
    ("content_type", TextOrNull),
    ("bytes", Integer),
    ("body", Object),
];

const LEG: &[(&str, Kind)] = &[
    ("model", Text),
    ("version", TextOrNull),
    ("role", Text),
    ("endpoint", TextOrNull),
    ("reused", BoolOrNull),
    ("outcome", Text),
    ("status", IntegerOrNull),
    ("grpc_status", IntegerOrNull),
    ("start_us", IntegerOrNull),
    ("sent_us", IntegerOrNull),
    ("first_byte_us", IntegerOrNull),
    ("total_us", IntegerOrNull),
    ("lag_us", Integer),
    ("content_type", TextOrNull),
    ("headers", Texts),
    ("bytes", Integer),
    ("body", Object),
];

const BODY: &[(&str, Kind)] = &[("encoding", Text), ("data", TextOrNull), ("truncated", Bool), ("reason", TextOrNull)];

const COMPARISON: &[(&str, Kind)] = &[
    ("equal", Bool),
    ("within_tolerance", Bool),
    ("values", Array),
    ("differs_at", Array),
    ("differs_at_truncated", Bool),
];

const VALUE: &[(&str, Kind)] = &[
    ("name", Text),
    ("kind", Text),
    ("result", Text),
    ("prod", FractionsOrNull),
    ("candidate", FractionsOrNull),
    ("delta", FractionsOrNull),
    ("prod_text", TextOrNull),
    ("candidate_text", TextOrNull),
];

/// Holds one record against the contract.
fn check(pair: &Value, line: &str) {
    shape(pair, PAIR, line);
    shape(&pair["answered_by"], ANSWERED_BY, line);
    shape(&pair["tally"], TALLY, line);
    shape(&pair["request"], REQUEST, line);
    body(&pair["request"]["body"], line);
    for leg in ["prod", "candidate"] {
        shape(&pair[leg], LEG, line);
        body(&pair[leg]["body"], line);
        let outcomes = [
            "ok",
            "http_error",
            "grpc_error",
            "stream_error",
            "timeout",
            "connect_error",
            "reset",
            "protocol_error",
            "cancelled",
            "unmeasured",
        ];
        assert!(outcomes.iter().any(|o| pair[leg]["outcome"] == *o), "outcome: {line}");
    }
    assert_eq!(pair["schema"], "shadowpair.pair.v1");
    assert_eq!(pair["id"].as_str().map(|id| (id.len(), &id[14..15])), Some((36, "7")), "a UUIDv7: {line}");
    let time = pair["time"].as_str().unwrap_or_default();
    assert!(time.len() == 27 && time.ends_with('Z') && &time[19..20] == ".", "microseconds, UTC: {time}");
    assert_ne!(pair["comparison"].is_null(), pair["comparison_error"].is_null(), "one of the two: {line}");
    if !pair["comparison"].is_null() {
        shape(&pair["comparison"], COMPARISON, line);
        for value in pair["comparison"]["values"].as_array().expect("checked") {
            shape(value, VALUE, line);
        }
        assert!(pair["comparison"]["differs_at"].as_array().expect("checked").iter().all(Value::is_string));
    }
}

fn body(body: &Value, line: &str) {
    shape(body, BODY, line);
    let none = body["encoding"] == "none";
    assert!(["json", "utf8", "base64", "none"].iter().any(|e| body["encoding"] == *e), "encoding: {line}");
    assert_eq!(none, body["data"].is_null(), "no data in a body that is none: {line}");
    assert_eq!(none, body["reason"].is_string(), "a body that is none says why: {line}");
}

fn shape(value: &Value, keys: &[(&str, Kind)], line: &str) {
    let object = value.as_object().unwrap_or_else(|| panic!("no object: {value} in {line}"));
    let have: BTreeSet<&str> = object.keys().map(String::as_str).collect();
    let want: BTreeSet<&str> = keys.iter().map(|(key, _)| *key).collect();
    assert_eq!(have, want, "the keys of {line}");
    for (key, kind) in keys {
        assert!(fits(&object[*key], *kind), "{key} is {} in {line}", object[*key]);
    }
}

fn fits(value: &Value, kind: Kind) -> bool {
    match kind {
        Text => value.is_string(),
        TextOrNull => value.is_string() || value.is_null(),
        Integer => value.is_u64(),
        IntegerOrNull => value.is_u64() || value.is_null(),
        Fraction => value.is_f64(),
        Bool => value.is_boolean(),
        BoolOrNull => value.is_boolean() || value.is_null(),
        Texts => value.as_object().is_some_and(|o| o.values().all(|v| v.is_string() || v.is_null())),
        Object => value.is_object(),
        ObjectOrNull => value.is_object() || value.is_null(),
        Array => value.is_array(),
        FractionsOrNull => {
            value.is_null() || value.as_array().is_some_and(|a| a.iter().all(|n| n.is_f64() || n.is_null()))
        }
    }
}
