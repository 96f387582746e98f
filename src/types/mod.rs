//! Floor 0: the words everything else is written in. Small types whose constructors check, and the closed
//! sets (arms, roles, outcomes, reasons) whose spelling users see in records and metrics.

mod pointer;
pub mod scan;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;

pub use self::pointer::{Pointer, PointerError, Step};

/// Declares a closed set of words that records, metrics and logs spell the same way.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vmeta])* $variant),+ }

        impl $name {
            /// Every member, in the order of declaration; `self as usize` is its index here.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The spelling in records, metrics and the routing file.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }

            /// The member with this spelling.
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($text => Some($name::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.as_str()) }
        }
    };
}

words! {
    /// Which side the sticky key was assigned to.
    Arm { /// The prod model.
          Prod = "prod", /// The canary's candidate.
          Canary = "canary" }
}

words! {
    /// What one call to one model was made for.
    Role {
        /// The call whose answer the client gets (or that a canary's answer is compared with).
        Prod = "prod",
        /// A copy whose answer nobody waits for.
        Shadow = "shadow",
        /// A candidate that answers the client.
        Canary = "canary",
        /// The prod model asked a second time (A/A).
        Control = "control",
        /// An older model, asked when prod failed.
        Fallback = "fallback",
    }
}

words! {
    /// Who wrote the answer that the client got.
    AnsweredBy {
        /// The prod model.
        Prod = "prod",
        /// The canary.
        Canary = "canary",
        /// The fallback.
        Fallback = "fallback",
        /// shadowpair itself, with an error of its own.
        Proxy = "proxy",
    }
}

words! {
    /// How one leg ended.
    Outcome {
        /// A whole answer with a status below 400.
        Ok = "ok",
        /// A whole answer with a status of 400 and up.
        HttpError = "http_error",
        /// A gRPC answer whose `grpc-status` is not 0.
        GrpcError = "grpc_error",
        /// An error event in a stream, or a stream without its proper end.
        StreamError = "stream_error",
        /// A time limit ran out.
        Timeout = "timeout",
        /// No connection could be made.
        ConnectError = "connect_error",
        /// The model broke the connection off.
        Reset = "reset",
        /// What came back was not HTTP.
        ProtocolError = "protocol_error",
        /// The client left, or the proxy was drained.
        Cancelled = "cancelled",
        /// Our own thread ran too late to tell.
        Unmeasured = "unmeasured",
    }
}

words! {
    /// Why a sampled request was not copied to a candidate.
    SkipReason {
        /// `max_in_flight` calls are under way already, or the endpoint is at `max_connections`.
        InFlight = "in_flight",
        /// `max_rps` is used up.
        Rate = "rate",
        /// `limits.shadow_bytes` is used up.
        Memory = "memory",
        /// The lane runs late.
        Lagging = "lagging",
        /// Every endpoint of the candidate is ejected.
        Unhealthy = "unhealthy",
        /// The request body is larger than `copy_body`.
        BodyTooLarge = "body_too_large",
        /// The client stopped before the end of its body.
        RequestIncomplete = "request_incomplete",
        /// The candidate's rewrite cannot be applied to this request.
        RewriteFailed = "rewrite_failed",
        /// Too many pairs are under way between the answer path and the sink.
        QueueFull = "queue_full",
        /// The proxy is being drained.
        Draining = "draining",
    }
}

words! {
    /// Why a pair that was made was not delivered.
    DropReason {
        /// The sink's queue was full.
        QueueFull = "queue_full",
        /// The spool was full.
        SpoolFull = "spool_full",
        /// The disk refused the write.
        Disk = "disk",
        /// The broker refused the record for good.
        Rejected = "rejected",
        /// A stored record could not be read back.
        Corrupt = "corrupt",
        /// The drain's time ran out first.
        Shutdown = "shutdown",
    }
}

words! {
    /// What a pair says about its two legs.
    PairResult {
        /// Nothing that counts differs.
        Equal = "equal",
        /// Numbers differ, by no more than they may.
        WithinTolerance = "within_tolerance",
        /// Something that counts differs.
        Differs = "differs",
        /// A body cannot be read as the rules want.
        Uncompared = "uncompared",
        /// Only the prod leg failed.
        ProdFailed = "prod_failed",
        /// Only the candidate's leg failed.
        CandidateFailed = "candidate_failed",
        /// Both legs failed.
        BothFailed = "both_failed",
        /// A leg was cancelled.
        Cancelled = "cancelled",
        /// A leg could not be measured.
        Unmeasured = "unmeasured",
    }
}

words! {
    /// What a `compare.values` entry holds, and so how it is compared.
    ValueKind {
        /// A number, or an array of numbers element by element.
        Number = "number",
        /// A class label: equal or not.
        Class = "class",
        /// Text: equal or not.
        Text = "text",
        /// An array of numbers.
        Vector = "vector",
        /// Any JSON, compared by meaning.
        Json = "json",
    }
}

words! {
    /// How one value of a pair compares.
    ValueResult {
        /// Equal.
        Equal = "equal",
        /// Different by no more than the tolerance.
        WithinTolerance = "within_tolerance",
        /// Different.
        Differs = "differs",
        /// Missing on a side, or not of its kind.
        Uncompared = "uncompared",
    }
}

words! {
    /// What the bodies of a route mean.
    Api {
        /// Told from each body's shape.
        Auto = "auto",
        /// Open Inference Protocol v2 (KServe, Triton, MLServer).
        Oip = "oip",
        /// KServe's v1 `:predict`.
        KserveV1 = "kserve-v1",
        /// TensorFlow Serving's REST.
        Tfserving = "tfserving",
        /// MLflow's `/invocations`.
        Mlflow = "mlflow",
        /// Seldon's v1 protocol.
        Seldon = "seldon",
        /// OpenAI's API and what speaks like it.
        Openai = "openai",
        /// Nothing is assumed.
        None = "none",
    }
}

/// Declares a cheap-to-clone name.
macro_rules! names {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// A name that its caller has checked.
            pub fn new(name: impl Into<Arc<str>>) -> Self { Self(name.into()) }
            /// The name itself.
            pub fn as_str(&self) -> &str { &self.0 }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
    };
}

names!(
    /// A route's name, unique in its file.
    RouteName
);
names!(
    /// A model's name, unique in its file.
    ModelName
);

/// The longest request id that is believed; a longer one is replaced.
const REQUEST_ID_MAX: usize = 128;

/// The id that the client, the models and the pair share: 1 to 128 visible ASCII characters.
/// Kept as a field's value, which is what it is on its way to the models and back: a clone of it copies nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The client's own id, where it is one that can be passed on.
    pub fn from_client(value: &[u8]) -> Option<Self> {
        let fits = (1..=REQUEST_ID_MAX).contains(&value.len());
        if !fits || !value.iter().all(u8::is_ascii_graphic) {
            return None;
        }
        HeaderValue::from_bytes(value).ok().map(Self)
    }

    /// A new one: UUIDv7, so that ids sort by time.
    pub fn mint(unix_ms: u64) -> Self {
        let id = HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&uuid_text(unix_ms)));
        // Hexadecimal digits and dashes make a value.
        Self(id.unwrap_or_else(|_| HeaderValue::from_static("0")))
    }

    /// The id itself.
    pub fn as_str(&self) -> &str {
        // Visible ASCII by construction.
        self.0.to_str().unwrap_or_default()
    }

    /// The id as a field's value.
    pub fn value(&self) -> &HeaderValue {
        &self.0
    }
}

/// A UUID version 7 (RFC 9562 §5.7): 48 bits of Unix milliseconds, then 74 bits of chance.
pub fn uuid_v7(unix_ms: u64) -> String {
    String::from_utf8_lossy(&uuid_text(unix_ms)).into_owned()
}

/// Its 32 hexadecimal digits and four dashes. Every request gets one: `format!` takes twenty times as long.
fn uuid_text(unix_ms: u64) -> [u8; 36] {
    let high = (unix_ms << 16) | 0x7000 | u64::from(fastrand::u16(..) & 0x0fff);
    let low = (fastrand::u64(..) & 0x3fff_ffff_ffff_ffff) | 0x8000_0000_0000_0000;
    let mut bits = (u128::from(high) << 64) | u128::from(low);
    let mut text = [b'-'; 36];
    for (at, place) in text.iter_mut().enumerate().rev() {
        if !matches!(at, 8 | 13 | 18 | 23) {
            *place = b"0123456789abcdef"[(bits & 0xf) as usize];
            bits >>= 4;
        }
    }
    text
}

/// A share in hundredths of a per cent, 0 to 10,000: at most two decimals, so exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Percent(u16);

impl Percent {
    /// All of it.
    pub const ALL: Percent = Percent(10_000);

    /// From hundredths of a per cent (basis points).
    pub const fn from_basis_points(points: u16) -> Option<Self> {
        if points <= 10_000 { Some(Self(points)) } else { None }
    }

    /// In hundredths of a per cent, 0 to 10,000.
    pub const fn basis_points(self) -> u16 {
        self.0
    }

    /// In per cent, 0.0 to 100.0.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// As a share, 0.0 to 1.0.
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }
}

/// A text that must never be shown: `Debug` and `Display` hide it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps it.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The secret itself: for the place that needs it, never for a message.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Request and answer fields that carry credentials: never recorded, logged or shown, also when listed.
pub const CREDENTIAL_HEADERS: &[&str] =
    &["authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key", "x-goog-api-key"];

/// Query parameters that carry credentials: their values read [`REDACTED`] wherever a query is shown.
pub const CREDENTIAL_QUERY: &[&str] =
    &["key", "api_key", "token", "access_token", "sig", "signature", "password", "secret", "code"];

/// What stands in the place of a hidden value.
pub const REDACTED: &str = "REDACTED";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_v7_has_its_version_variant_and_time() {
        let id = uuid_v7(0x0123_4567_89ab);
        assert_eq!(&id[..13], "01234567-89ab");
        assert_eq!(&id[14..15], "7");
        assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"));
        assert_eq!(id.len(), 36);
    }

    #[test]
    fn request_id_must_be_short_and_visible() {
        assert!(RequestId::from_client(b"abc-1").is_some());
        assert!(RequestId::from_client(b"").is_none());
        assert!(RequestId::from_client(b"a b").is_none());
        assert!(RequestId::from_client(&[b'x'; 129]).is_none());
    }
}
