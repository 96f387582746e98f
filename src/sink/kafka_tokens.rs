//! Floor 3: tokens for SASL OAUTHBEARER. A token comes from an OIDC issuer, which `kafka_oidc` asks because the
//! librdkafka that is built in has no HTTP client; from a file that something else keeps fresh (a Kubernetes
//! service-account token, a sidecar); or, for tests of a broker without security, it is an unsigned one, as librdkafka
//! itself would make it.

use std::path::PathBuf;
#[cfg(feature = "kafka-tls")]
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::client::OAuthToken;
use serde_json::{Value, json};

use super::SinkError;
use super::kafka_jwt::{LONGEST, READ_AGAIN, claims, end, is_token, milliseconds, now, subject};
#[cfg(feature = "kafka-tls")]
use super::kafka_oidc::{Issuer, IssuerError};
use super::kafka_oidc_config::{ENDPOINT, is_oidc, property};
use crate::config::process::KafkaSinkConfig;

/// Makes tokens that nobody has signed.
pub(super) const UNSECURED: &str = "enable.sasl.oauthbearer.unsecure.jwt";

/// How long an unsigned token holds where `sasl.oauthbearer.config` does not say.
const LIFE: Duration = Duration::from_secs(3600);

/// Where tokens come from.
#[derive(Debug, Clone)]
pub(super) enum Tokens {
    /// Nobody asks for any.
    None,
    /// An issuer: one for all the clients that follow one another.
    #[cfg(feature = "kafka-tls")]
    Issuer(Arc<Issuer>),
    /// A file.
    File(PathBuf),
    /// Made here, unsigned.
    Unsecured,
}

/// Why there is no token. Says nothing of the token itself.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum TokenError {
    #[error("no source of tokens: set `{ENDPOINT}`")]
    NoSource,
    #[error("the token file `{0}` cannot be read: {1}")]
    File(String, String),
    #[error("the token file `{0}` holds no JSON Web Token")]
    NoToken(String),
    #[error("the token in `{0}` has expired: what renews it has stopped")]
    Expired(String),
    #[error("`sasl.oauthbearer.config` has no `principal=NAME`")]
    NoPrincipal,
    #[cfg(feature = "kafka-tls")]
    #[error(transparent)]
    Issuer(#[from] IssuerError),
}

/// Whether unsigned tokens are to be made.
pub(super) fn is_unsecured(config: &KafkaSinkConfig) -> bool {
    property(config, UNSECURED).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// Whether tokens come from anywhere.
pub(super) fn has_source(config: &KafkaSinkConfig) -> bool {
    is_oidc(config) || is_unsecured(config) || property(config, ENDPOINT).and_then(path_of).is_some()
}

/// The path in a `file:` URL.
pub(super) fn path_of(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("file://")?;
    (path.starts_with('/') && path.len() > 1).then(|| PathBuf::from(path))
}

impl Tokens {
    /// As the properties say, which have been checked. Begins to ask an issuer.
    pub(super) fn of(config: &KafkaSinkConfig) -> Result<Self, SinkError> {
        #[cfg(feature = "kafka-tls")]
        if is_oidc(config) {
            return Ok(Self::Issuer(Issuer::start(config).map_err(SinkError::Thread)?));
        }
        Ok(match property(config, ENDPOINT).and_then(path_of) {
            Some(path) => Self::File(path),
            None if is_unsecured(config) => Self::Unsecured,
            None => Self::None,
        })
    }

    /// The next token; `config` is `sasl.oauthbearer.config`.
    pub(super) fn next(&self, config: Option<&str>) -> Result<OAuthToken, TokenError> {
        let now = now();
        match self {
            Self::None => Err(TokenError::NoSource),
            #[cfg(feature = "kafka-tls")]
            Self::Issuer(issuer) => Ok(issuer.token()?),
            Self::File(path) => {
                let shown = path.display().to_string();
                let unreadable = |error: std::io::Error| TokenError::File(shown.clone(), error.to_string());
                let size = std::fs::metadata(path).map_err(unreadable)?.len();
                if size > LONGEST {
                    return Err(TokenError::NoToken(shown));
                }
                let text = std::fs::read_to_string(path).map_err(unreadable)?;
                signed(text.trim(), &shown, now)
            }
            Self::Unsecured => unsigned(config.unwrap_or_default(), now),
        }
    }
}

/// A token from outside, with what it says of itself.
fn signed(token: &str, shown: &str, now: Duration) -> Result<OAuthToken, TokenError> {
    let no_token = || TokenError::NoToken(shown.to_owned());
    let claims = claims(token).filter(|_| is_token(token)).ok_or_else(no_token)?;
    let until = end(&claims).unwrap_or(now + READ_AGAIN);
    if until <= now {
        return Err(TokenError::Expired(shown.to_owned()));
    }
    let principal_name = subject(&claims).unwrap_or("shadowpair").to_owned();
    Ok(OAuthToken { token: token.to_owned(), principal_name, lifetime_ms: milliseconds(until) })
}

/// A token that nobody has signed: `principal=NAME lifeSeconds=N scope=A,B`.
fn unsigned(config: &str, now: Duration) -> Result<OAuthToken, TokenError> {
    let setting = |name: &str| config.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let principal = setting("principal").filter(|name| !name.is_empty()).ok_or(TokenError::NoPrincipal)?;
    let life = setting("lifeSeconds").and_then(|seconds| seconds.parse().ok()).map_or(LIFE, Duration::from_secs);
    let until = now.saturating_add(life);
    let mut claims = json!({"sub": principal, "iat": now.as_secs(), "exp": until.as_secs()});
    if let (Some(scopes), Some(claims)) = (setting("scope"), claims.as_object_mut()) {
        claims.insert("scope".to_owned(), scopes.split(',').collect());
    }
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let token = format!("{}.{}.", part(&json!({"alg": "none"})), part(&claims));
    Ok(OAuthToken { token, principal_name: principal.to_owned(), lifetime_ms: milliseconds(until) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000);

    fn jwt(claims: &Value) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    #[test]
    fn an_unsigned_token_says_who_and_for_how_long() {
        let token = unsigned("principal=bob lifeSeconds=60 scope=a,b", NOW).unwrap();
        assert_eq!((token.principal_name.as_str(), token.lifetime_ms), ("bob", 1_000_060_000));
        assert_eq!(
            claims(&token.token).unwrap(),
            json!({"sub": "bob", "iat": 1_000_000, "exp": 1_000_060, "scope": ["a", "b"]})
        );
        assert!(token.token.ends_with('.'), "no signature");
        assert_eq!(unsigned("lifeSeconds=60", NOW).err(), Some(TokenError::NoPrincipal));
    }

    #[test]
    fn a_token_from_a_file_is_taken_with_its_own_end_and_never_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let tokens = Tokens::File(file.path().to_owned());
        let write = |text: &str| std::fs::write(file.path(), text).unwrap();
        write(&format!("{}\n", jwt(&json!({"sub": "svc", "exp": 32_503_680_000_u64}))));
        let token = tokens.next(None).unwrap();
        assert_eq!((token.principal_name.as_str(), token.lifetime_ms), ("svc", 32_503_680_000_000));
        write(&jwt(&json!({"exp": 1})));
        assert!(matches!(tokens.next(None), Err(TokenError::Expired(_))));
        write("hunter2");
        let error = tokens.next(None).err().unwrap();
        assert!(matches!(error, TokenError::NoToken(_)) && !error.to_string().contains("hunter2"));
        drop(file);
        assert!(matches!(tokens.next(None), Err(TokenError::File(..))));
    }

    #[test]
    fn a_file_url_is_absolute() {
        assert_eq!(path_of("file:///run/token"), Some(PathBuf::from("/run/token")));
        for other in ["https://issuer/token", "file://host/x", "file:///", "/run/token"] {
            assert_eq!(path_of(other), None, "{other}");
        }
    }
}
