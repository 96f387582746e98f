//! Floor 3: what librdkafka tells us, and what it may ask. Its callbacks run inside `poll`, on the delivery thread,
//! and must not panic; they leave their word here. Nothing that passes through here shows a secret of the file.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::ProducerContext;
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::kafka_secrets::Secrets;
use super::kafka_stats::KafkaStats;
use super::kafka_tokens::Tokens;
use super::pace::Quiet;
use crate::metrics::kafka::KafkaMetrics;

/// What librdkafka tells us, in its order.
pub(super) enum Event {
    /// A record is stored.
    Delivered(usize),
    /// A record is not; with its bytes.
    Failed { number: usize, code: Code, payload: Option<Vec<u8>> },
    /// The client is in trouble.
    Error { code: Code, reason: String },
    /// A token was given: what it lacked before is of the past.
    Token,
    /// Why a connection has ended, where librdkafka thinks that no error.
    Hint(String),
}

/// Where callbacks leave their word.
pub(super) struct Reports {
    events: Mutex<Vec<Event>>,
    quiet: Mutex<Quiet>,
    secrets: Arc<Secrets>,
    tokens: Tokens,
    stats: KafkaStats,
}

impl Reports {
    pub(super) fn new(secrets: Arc<Secrets>, tokens: Tokens, metrics: KafkaMetrics) -> Self {
        Self { events: Mutex::default(), quiet: Mutex::default(), secrets, tokens, stats: KafkaStats::new(metrics) }
    }

    fn push(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    /// All that was left since the last time.
    pub(super) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientContext for Reports {
    /// SASL OAUTHBEARER asks for its tokens; no other mechanism does.
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        let message = self.secrets.mask(message);
        // What a connection fails of mostly comes as an error too, and is told once, from there.
        if fac == "FAIL" {
            // Behind the name of librdkafka's thread.
            let reason = message.split_once("]: ").map_or(message.as_str(), |(_, reason)| reason);
            self.push(Event::Hint(reason.to_owned()));
        }
        if level as i32 > RDKafkaLogLevel::Warning as i32 || matches!(fac, "FAIL" | "ERROR") {
            return tracing::debug!(fac, "librdkafka: {message}");
        }
        let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held_back) = quiet.allow(Instant::now()) {
            tracing::warn!(fac, held_back, "librdkafka: {message}");
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        let reason = self.secrets.mask(reason);
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        // rdkafka's producer reports each error event twice.
        let again = matches!(events.last(), Some(Event::Error { code: last, reason: same }) if *last == code && *same == reason);
        if !again {
            events.push(Event::Error { code, reason });
        }
    }

    fn stats(&self, statistics: Statistics) {
        self.stats.told(&statistics);
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        let token = self.tokens.next(config)?;
        self.secrets.hold(&token.token);
        self.push(Event::Token);
        Ok(token)
    }
}

impl ProducerContext for Reports {
    /// The ticket's number.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        self.push(match result {
            Ok(_) => Event::Delivered(number),
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
                Event::Failed { number, code, payload: message.payload().map(<[u8]>::to_vec) }
            }
        });
    }
}
