//! Floor 3: one pair as one Kafka message, by CloudEvents' Kafka binding in binary mode, and what becomes of one
//! that the broker finds too large.

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;

use super::Encoded;
use super::queue::Waiting;
use crate::record::{Body, Pair};

/// The CloudEvents source of what this producer made.
pub(super) fn source(producer: &str) -> String {
    format!("/shadowpair/{producer}")
}

/// The message, with its ticket's number as what the delivery report brings back; `ours` is the source of pairs that do not
/// say who made them.
pub(super) fn message<'a>(
    topic: &'a str,
    ours: &str,
    pair: &'a Waiting,
    json: &'a [u8],
) -> BaseRecord<'a, str, [u8], usize> {
    let Encoded { key, id, time, route, source: named, .. } = &pair.pair;
    let named = named.as_deref().map(source);
    let fields = [
        ("ce_specversion", "1.0"),
        ("ce_id", id),
        ("ce_source", named.as_deref().unwrap_or(ours)),
        ("ce_type", "io.shadowpair.pair.v1"),
        ("ce_time", time),
        ("ce_subject", route),
        ("content-type", "application/json"),
    ];
    let headers = fields.into_iter().fold(OwnedHeaders::new_with_capacity(fields.len()), |headers, (key, value)| {
        headers.insert(Header { key, value: Some(value) })
    });
    BaseRecord::with_opaque_to(topic, pair.ticket.number).key(key.as_str()).payload(json).headers(headers)
}

/// Takes the bodies out of a record that the broker finds too large; the rest of it is worth keeping. False where
/// that made it no smaller.
pub(super) fn slim(encoded: &mut Encoded) -> bool {
    let Ok(mut pair) = serde_json::from_slice::<Pair>(&encoded.json) else { return false };
    for body in [&mut pair.request.body, &mut pair.prod.body, &mut pair.candidate.body] {
        if body.encoding != "none" {
            *body = Body::none("too_large");
        }
    }
    match serde_json::to_vec(&pair) {
        Ok(json) if json.len() < encoded.json.len() => {
            encoded.charge.shrink_to(json.len());
            encoded.json = json;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use crate::sink::testing::{encoded, pair_json};

    #[test]
    fn slimming_takes_the_bodies_and_their_bytes_and_leaves_a_whole_record() {
        let budget = Budget::new(1 << 20);
        let mut pair = encoded(&budget, &pair_json(5000));
        assert!(slim(&mut pair));
        let record: Pair = serde_json::from_slice(&pair.json).unwrap();
        assert_eq!(record.request.body, Body::none("too_large"));
        assert_eq!(record.prod.body, Body::none("empty"), "a reason that was there stays");
        assert_eq!((record.request.bytes, record.id.as_str()), (5000, "the-id"));
        assert_eq!(budget.used(), pair.json.len());
        assert!(!slim(&mut pair), "there is nothing left to take");
        assert!(!slim(&mut encoded(&budget, "no record")));
    }
}
