//! Floor 3: tokens for SASL OAUTHBEARER. The librdkafka that is built in has no HTTP client, so it cannot ask an OIDC
//! issuer itself; a token comes from a file that something else keeps fresh (a Kubernetes service-account token, a
//! sidecar), or, for tests of a broker without security, it is an unsigned one, as librdkafka itself would make it.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::client::OAuthToken;
use serde_json::{Value, json};

use crate::config::process::KafkaSinkConfig;

/// Turns the next one on.
pub(super) const UNSECURED: &str = "enable.sasl.oauthbearer.unsecure.jwt";
/// Where tokens come from: `file:///path`, as Kafka's Java clients spell it.
pub(super) const ENDPOINT: &str = "sasl.oauthbearer.token.endpoint.url";

/// How long an unsigned token holds where `sasl.oauthbearer.config` does not say.
const LIFE: Duration = Duration::from_secs(3600);
/// A token that does not say how long it holds is read again after that.
const READ_AGAIN: Duration = Duration::from_secs(60);
/// More is no token.
const LONGEST: u64 = 64 << 10;

/// Where tokens come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tokens {
    /// Nobody asks for any.
    None,
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
}

/// The path in a `file:` URL.
pub(super) fn path_of(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("file://")?;
    (path.starts_with('/') && path.len() > 1).then(|| PathBuf::from(path))
}

impl Tokens {
    /// As the properties say.
    pub(super) fn of(config: &KafkaSinkConfig) -> Self {
        let property = |name: &str| config.properties.get(name).map(|value| value.reveal());
        match property(ENDPOINT).and_then(path_of) {
            Some(path) => Self::File(path),
            None if property(UNSECURED).is_some_and(|value| value.eq_ignore_ascii_case("true")) => Self::Unsecured,
            None => Self::None,
        }
    }

    /// The next token; `config` is `sasl.oauthbearer.config`.
    pub(super) fn next(&self, config: Option<&str>) -> Result<OAuthToken, TokenError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        match self {
            Self::None => Err(TokenError::NoSource),
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

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// A token from outside, with what it says of itself.
fn signed(token: &str, shown: &str, now: Duration) -> Result<OAuthToken, TokenError> {
    let claims = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok());
    let claims = claims.and_then(|json| serde_json::from_slice::<Value>(&json).ok());
    let no_token = || TokenError::NoToken(shown.to_owned());
    let claims = claims.filter(|_| token.bytes().all(|b| b.is_ascii_graphic())).ok_or_else(no_token)?;
    let until = claims.get("exp").and_then(Value::as_f64).filter(|until| until.is_finite() && *until >= 0.0);
    let until = until.map_or(now + READ_AGAIN, |until| Duration::from_secs(until as u64));
    if until <= now {
        return Err(TokenError::Expired(shown.to_owned()));
    }
    let principal_name = claims.get("sub").and_then(Value::as_str).unwrap_or("shadowpair").to_owned();
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

    fn claims(token: &str) -> Value {
        let part = token.split('.').nth(1).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    fn jwt(claims: &Value) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    #[test]
    fn an_unsigned_token_says_who_and_for_how_long() {
        let token = unsigned("principal=bob lifeSeconds=60 scope=a,b", NOW).unwrap();
        assert_eq!((token.principal_name.as_str(), token.lifetime_ms), ("bob", 1_000_060_000));
        assert_eq!(
            claims(&token.token),
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
