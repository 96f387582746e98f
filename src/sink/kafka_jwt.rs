//! Floor 3: what a token for SASL OAUTHBEARER says of itself: where it is a JSON Web Token, who it is for and when it
//! ends. Nobody here looks at its signature: the brokers do.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// A token that does not say how long it holds is taken anew after that.
pub(super) const READ_AGAIN: Duration = Duration::from_secs(60);
/// More bytes are no token.
pub(super) const LONGEST: u64 = 64 << 10;

/// The time now, as tokens count it.
pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A token's end as librdkafka wants it, which multiplies it by a thousand.
pub(super) fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX).min(i64::MAX / 1000)
}

/// Whether it can be sent as it is.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

/// What a JSON Web Token claims. None for a token that is none.
pub(super) fn claims(token: &str) -> Option<Value> {
    let part = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok()?).ok()
}

/// When it ends, if it says so.
pub(super) fn end(claims: &Value) -> Option<Duration> {
    let end = claims.get("exp").and_then(Value::as_f64).filter(|end| end.is_finite() && *end >= 0.0);
    end.map(|end| Duration::from_secs(end as u64))
}

/// Who it is for, if it says so, in a form that librdkafka takes.
pub(super) fn subject(claims: &Value) -> Option<&str> {
    claims.get("sub").and_then(Value::as_str).filter(|name| !name.is_empty() && !name.contains('\0'))
}
