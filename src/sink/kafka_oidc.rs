//! Floor 3: tokens of an OIDC issuer, by the client-credentials grant (RFC 6749, 4.4), asked for as librdkafka would with
//! curl, which is not built in. librdkafka wants a token inside `poll`, on the delivery thread, which has the spool to
//! commit; so a thread of its own asks the issuer, keeps the newest token, and has the next one before librdkafka wants it.
//! What is told of a failure names the issuer and what it answered, never who asked, nor with which secret.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use rdkafka::client::OAuthToken;
use serde_json::Value;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use super::kafka_jwt::{LONGEST, READ_AGAIN, claims, end, is_token, milliseconds, now, subject};
use super::kafka_oidc_config::{CA_LOCATION, CA_PEM, ENDPOINT, ID, SCOPE, SECRET, address, property, shown};
use super::pace::Backoff;
use crate::config::process::KafkaSinkConfig;
use crate::lifecycle::{self, Priority};
use crate::types::Secret;

const THREAD: &str = "shadowpair-tokens";
/// The most that one question may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most that delivery waits for the very first answer; after an error librdkafka asks again in ten seconds only.
const FIRST: Duration = Duration::from_secs(2);
/// Between two questions after a failure.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Between two questions after a token, however soon it ends.
const LEAST: Duration = Duration::from_secs(1);
/// The most that is told of an issuer's own words.
const WORDS: usize = 200;

/// An issuer that is being asked until the last handle is gone.
pub(super) struct Issuer {
    slot: Arc<Slot>,
    endpoint: String,
    /// Its end is the thread's.
    _handle: mpsc::Sender<()>,
}

/// Where the newest answer is left; there is none before the first attempt has ended.
#[derive(Default)]
struct Slot {
    newest: Mutex<Option<Result<Token, IssuerFault>>>,
    changed: Condvar,
}

struct Token {
    text: Secret,
    principal: String,
    /// Since the Unix epoch.
    until: Duration,
}

/// How an issuer is asked.
struct Request {
    endpoint: Uri,
    id: Secret,
    secret: Secret,
    form: String,
    ca: Ca,
}

/// Whose certificates are believed.
enum Ca {
    System,
    Location(PathBuf),
    Pem(Secret),
}

/// Why an issuer gives no token.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("the OIDC issuer at {endpoint} {fault}")]
pub(super) struct IssuerError {
    endpoint: String,
    fault: IssuerFault,
}

#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
enum IssuerFault {
    #[error("has not answered yet")]
    Waiting,
    #[error("has not answered within {} s; mend it, the network, or `{ENDPOINT}`", PATIENCE.as_secs())]
    Timeout,
    #[error("cannot be asked: {0}; mend it, the network, or `{ENDPOINT}`")]
    Unreached(String),
    #[error("fails at TLS: {0}; mend `{CA_LOCATION}`, or the issuer's certificate")]
    Tls(String),
    #[error("is not asked: `{0}` {1}")]
    Ca(&'static str, String),
    #[error("answers {status}{words}{}", remedy(*status, words))]
    Refused { status: u16, words: String },
    #[error("answers {0}; mend it, or `{ENDPOINT}`")]
    NoToken(&'static str),
    #[error("answers with a token that has expired already: compare its clock with this one's")]
    Expired,
}

/// What mends a refusal.
fn remedy(status: u16, words: &str) -> String {
    let property = match (words.trim_start().split(':').next(), status) {
        (Some("invalid_client" | "unauthorized_client"), _) | (_, 401 | 403) => {
            return format!("; mend `{}` and `{}`", ID[0], SECRET[0]);
        }
        (Some("invalid_scope"), _) => SCOPE,
        (_, 300..=399 | 404 | 405 | 410) => ENDPOINT,
        _ => return String::new(),
    };
    format!("; mend `{property}`")
}

impl Issuer {
    /// Begins to ask the issuer that the properties name.
    pub(super) fn start(config: &KafkaSinkConfig) -> io::Result<Arc<Self>> {
        let request = Request::of(config).ok_or_else(|| io::Error::other("the OIDC issuer's address is none"))?;
        let (handle, ended) = mpsc::channel();
        let endpoint = shown(&request.endpoint);
        let slot = Arc::new(Slot::default());
        let keeper = Arc::clone(&slot);
        // Nobody joins it: a question that hangs must not hold the process's end up.
        drop(lifecycle::thread(THREAD, Priority::Background, move || keeper.renew(&request, &ended))?);
        Ok(Arc::new(Self { slot, endpoint, _handle: handle }))
    }

    /// The newest token. Waits only for the very first answer, and briefly.
    pub(super) fn token(&self) -> Result<OAuthToken, IssuerError> {
        self.slot.token().map_err(|fault| IssuerError { endpoint: self.endpoint.clone(), fault })
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Slot {
    /// What the last attempt has brought. Where that failed, librdkafka keeps the token before it, for as long as it holds.
    fn token(&self) -> Result<OAuthToken, IssuerFault> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(newest, FIRST, |newest| newest.is_none());
        let (newest, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match &*newest {
            Some(Ok(token)) if token.until > now() => Ok(OAuthToken {
                token: token.text.reveal().to_owned(),
                principal_name: token.principal.clone(),
                lifetime_ms: milliseconds(token.until),
            }),
            Some(Err(fault)) => Err(fault.clone()),
            _ => Err(IssuerFault::Waiting),
        }
    }

    /// Keeps a token here, until the last handle is gone.
    fn renew(&self, request: &Request, ended: &mpsc::Receiver<()>) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut pause = Duration::ZERO;
        lifecycle::restarting(THREAD, || {
            while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                // After a panic.
                pause = RETRY.1;
                let answer = request.ask();
                pause = if let Ok(token) = &answer {
                    backoff.succeeded();
                    // librdkafka wants the next one after 80 % of the rest: then it is to be here already.
                    (token.until.saturating_sub(now()) / 4 * 3).max(LEAST)
                } else {
                    let now = Instant::now();
                    backoff.failed(now);
                    backoff.pause(now)
                };
                *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
                self.changed.notify_all();
            }
        });
    }
}

impl Request {
    /// As the properties say, which have been checked.
    fn of(config: &KafkaSinkConfig) -> Option<Self> {
        let secret = |names: [&str; 2]| names.iter().find_map(|name| config.properties.get(*name)).cloned();
        let ca = match (property(config, CA_LOCATION), property(config, CA_PEM)) {
            (Some(path), _) if path != "probe" => Ca::Location(PathBuf::from(path)),
            (None, Some(pem)) => Ca::Pem(Secret::new(pem)),
            _ => Ca::System,
        };
        Some(Self {
            endpoint: property(config, ENDPOINT).and_then(address)?,
            id: secret(ID)?,
            secret: secret(SECRET)?,
            form: form(property(config, SCOPE)),
            ca,
        })
    }

    /// Asks once.
    fn ask(&self) -> Result<Token, IssuerFault> {
        let tls = TlsConfig::builder().provider(TlsProvider::NativeTls).root_certs(self.roots()?).build();
        let agent = ureq::Agent::config_builder()
            .tls_config(tls)
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            // The secret is for this address and no other.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent("shadowpair")
            .build()
            .new_agent();
        let question = agent
            .post(self.endpoint.clone())
            .header("accept", "application/json")
            .header("authorization", format!("Basic {}", self.basic()))
            .content_type("application/x-www-form-urlencoded");
        let mut answer = question.send(&self.form).map_err(failure)?;
        let body = answer.body_mut().with_config().limit(LONGEST).read_to_vec().map_err(failure)?;
        self.read(answer.status().as_u16(), &body, now())
    }

    /// Neither is encoded before, as RFC 6749 has it: librdkafka does not either, and issuers know that.
    fn basic(&self) -> String {
        STANDARD.encode(format!("{}:{}", self.id.reveal(), self.secret.reveal()))
    }

    /// Read anew each time, so that a file that was mended or renewed is taken.
    fn roots(&self) -> Result<RootCerts, IssuerFault> {
        let (name, found) = match &self.ca {
            // Of this distribution's bundle, which OpenSSL as it is linked in would not find: native-tls looks for it.
            Ca::System => return Ok(RootCerts::PlatformVerifier),
            _ if self.endpoint.scheme_str() != Some("https") => return Ok(RootCerts::PlatformVerifier),
            Ca::Pem(pem) => (CA_PEM, Ok(certificates(pem.reveal().as_bytes()))),
            Ca::Location(path) => (CA_LOCATION, certificates_at(path)),
        };
        match found {
            Ok(found) if found.is_empty() => Err(IssuerFault::Ca(name, "holds no certificate".to_owned())),
            Ok(found) => Ok(RootCerts::new_with_certs(&found)),
            Err(error) => Err(IssuerFault::Ca(name, format!("cannot be read: {error}"))),
        }
    }

    /// The token in an answer.
    fn read(&self, status: u16, body: &[u8], now: Duration) -> Result<Token, IssuerFault> {
        let json = serde_json::from_slice(body).unwrap_or(Value::Null);
        let text = |name: &str| json.get(name).and_then(Value::as_str);
        let success = (200..300).contains(&status);
        if !success || text("error").is_some() {
            let words = [text("error"), text("error_description")].into_iter().flatten();
            let words = words.map(|words| self.plain(words)).filter(|words| !words.is_empty()).collect::<Vec<_>>();
            let words = if words.is_empty() { String::new() } else { format!(" {}", words.join(": ")) };
            return Err(IssuerFault::Refused { status, words });
        }
        if !json.is_object() {
            return Err(IssuerFault::NoToken("with something that is no JSON object"));
        }
        let Some(token) = text("access_token").filter(|token| is_token(token)) else {
            return Err(IssuerFault::NoToken("without an `access_token`"));
        };
        let claims = claims(token).unwrap_or(Value::Null);
        let until = end(&claims).unwrap_or_else(|| now.saturating_add(holds_for(&json).unwrap_or(READ_AGAIN)));
        if until <= now {
            return Err(IssuerFault::Expired);
        }
        let principal = subject(&claims).unwrap_or(self.id.reveal()).to_owned();
        Ok(Token { text: Secret::new(token), principal, until })
    }

    /// An issuer's own words, in one line, bounded, without what must not be shown: some repeat who asked.
    fn plain(&self, words: &str) -> String {
        let hidden = [&self.basic(), self.secret.reveal(), self.id.reveal()];
        let words = hidden.iter().fold(words.to_owned(), |words, hidden| words.replace(hidden, "…"));
        let line = words.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
        let line = line.collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(WORDS) {
            Some((at, _)) => format!("{}…", &line[..at]),
            None => line,
        }
    }
}

/// How long a token holds that does not say so itself: some issuers write the number as text.
fn holds_for(answer: &Value) -> Option<Duration> {
    let life = answer.get("expires_in")?;
    let seconds = life.as_f64().or_else(|| life.as_str()?.trim().parse().ok())?;
    Some(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))
}

/// librdkafka sends a scope as it was typed, so who knows that has encoded it; only what no form can hold is encoded.
fn form(scope: Option<&str>) -> String {
    let mut form = "grant_type=client_credentials".to_owned();
    if let Some(scope) = scope {
        form.push_str("&scope=");
        for byte in scope.bytes() {
            match byte {
                b' ' => form.push('+'),
                _ if byte.is_ascii_graphic() => form.push(char::from(byte)),
                _ => form.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    form
}

fn certificates(pem: &[u8]) -> Vec<Certificate<'static>> {
    let certificate = |item| if let PemItem::Certificate(found) = item { Some(found) } else { None };
    parse_pem(pem).filter_map(Result::ok).filter_map(certificate).collect()
}

/// Of a file, or of all files of a folder.
fn certificates_at(path: &Path) -> io::Result<Vec<Certificate<'static>>> {
    if !path.is_dir() {
        return Ok(certificates(&std::fs::read(path)?));
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path)? {
        // What else stands there is none of ours.
        found.extend(std::fs::read(entry?.path()).map(|pem| certificates(&pem)).unwrap_or_default());
    }
    Ok(found)
}

/// Why there was no answer. Nothing of the question is in it.
fn failure(error: ureq::Error) -> IssuerFault {
    match error {
        ureq::Error::Timeout(_) => IssuerFault::Timeout,
        ureq::Error::NativeTls(cause) => IssuerFault::Tls(cause.to_string()),
        ureq::Error::Io(cause) => IssuerFault::Unreached(cause.to_string()),
        ureq::Error::BodyExceedsLimit(_) => IssuerFault::NoToken("with more than 64 KiB"),
        ureq::Error::BadUri(_) => IssuerFault::Unreached("no such address".to_owned()),
        other => IssuerFault::Unreached(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;

    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000);
    const CLIENT: &str = "the-client";
    const HIDDEN: &str = "hunter2";

    fn config(endpoint: &str, more: &[(&str, &str)]) -> KafkaSinkConfig {
        let issuer = [("sasl.oauthbearer.method", "oidc"), (ENDPOINT, endpoint), (ID[0], CLIENT), (SECRET[1], HIDDEN)];
        KafkaSinkConfig {
            brokers: vec!["127.0.0.1:1".to_owned()],
            topic: "t".to_owned(),
            key: None,
            create_topic: None,
            spool: None,
            properties: issuer.iter().chain(more).map(|(k, v)| ((*k).to_owned(), Secret::new(*v))).collect(),
        }
    }

    fn request() -> Request {
        Request::of(&config("https://idp.example/token?key=hunter2", &[])).unwrap()
    }

    fn jwt(claims: &Value) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    #[test]
    fn a_token_holds_as_long_as_it_says_or_its_answer_does() {
        let own = jwt(&json!({"sub": "svc", "exp": 1_000_300}));
        for (answer, principal, until) in [
            (json!({"access_token": own, "expires_in": 5}), "svc", 1_000_300),
            (json!({"access_token": jwt(&json!({})), "expires_in": 5}), CLIENT, 1_000_005),
            (json!({"access_token": "opaque", "expires_in": "90"}), CLIENT, 1_000_090),
            (json!({"access_token": "opaque", "token_type": "Bearer"}), CLIENT, 1_000_060),
            (json!({"access_token": "opaque", "expires_in": 1e300}), CLIENT, u64::MAX),
        ] {
            let token = request().read(200, answer.to_string().as_bytes(), NOW).ok().unwrap();
            assert_eq!((token.principal.as_str(), token.until.as_secs()), (principal, until), "{answer}");
        }
    }

    #[test]
    fn a_refusal_is_told_with_its_remedy_in_one_line_and_hides_who_asked() {
        let basic = request().basic();
        let long = "x".repeat(1000);
        for (status, answer, told) in [
            (401, json!({"error": "invalid_client"}), "answers 401 invalid_client; mend `sasl.oauthbearer.client.id`"),
            (
                400,
                json!({"error": "invalid_scope", "error_description": "of the-client:\nhunter2"}),
                "answers 400 invalid_scope: of …: …; mend `sasl.oauthbearer.scope`",
            ),
            (400, json!({"error_description": format!("{basic} {long}")}), "answers 400 … xxx"),
            (302, json!(null), "answers 302; mend `sasl.oauthbearer.token.endpoint.url`"),
            (503, json!("busy"), "answers 503"),
            (200, json!({"error": "bad_verification_code", "access_token": "x"}), "answers 200 bad_verification_code"),
            (200, json!([]), "no JSON object"),
            (200, json!({"access_token": 1}), "without an `access_token`"),
            (200, json!({"access_token": "hunter2\u{1}"}), "without an `access_token`"),
            (200, json!({"access_token": "hunter2", "expires_in": 0}), "expired already"),
            (200, json!({"access_token": jwt(&json!({"exp": 1})), "expires_in": 60}), "expired already"),
        ] {
            let fault = request().read(status, answer.to_string().as_bytes(), NOW).err().unwrap();
            let error = IssuerError { endpoint: shown(&request().endpoint), fault }.to_string();
            assert!(
                error.starts_with("the OIDC issuer at https://idp.example/token ") && error.contains(told),
                "{error}"
            );
            assert!(error.len() < 400 && !error.contains(['\n', '\0']), "{error}");
            for hidden in [HIDDEN, CLIENT, basic.as_str()] {
                assert!(!error.contains(hidden), "{error}");
            }
        }
    }

    #[test]
    fn a_scope_is_sent_as_it_was_typed_where_a_form_can_hold_it() {
        assert_eq!(form(None), "grant_type=client_credentials");
        assert_eq!(form(Some("a b api%3A//x/.default")), "grant_type=client_credentials&scope=a+b+api%3A//x/.default");
        assert_eq!(form(Some("é\n")), "grant_type=client_credentials&scope=%C3%A9%0A");
    }

    #[test]
    fn certificates_come_from_a_file_or_a_folder_and_what_holds_none_is_told() {
        let pem = |base64: &str| format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
        let dir = tempfile::tempdir().unwrap();
        let roots = |location: &Path| {
            let more = [(CA_LOCATION, location.to_str().unwrap())];
            let roots = Request::of(&config("https://h/token", &more)).unwrap().roots();
            roots.map(|roots| if let RootCerts::Specific(found) = roots { found.len() } else { 0 })
        };
        let ca = dir.path().join("ca.pem");
        assert!(roots(&ca).unwrap_err().to_string().contains("`https.ca.location` cannot be read"));
        std::fs::write(&ca, "hunter2").unwrap();
        assert!(roots(&ca).unwrap_err().to_string().contains("holds no certificate"));
        std::fs::write(&ca, pem("MAA=") + &pem("MAA=")).unwrap();
        std::fs::write(dir.path().join("other.crt"), pem("MAA=")).unwrap();
        assert_eq!((roots(&ca).unwrap(), roots(dir.path()).unwrap()), (2, 3));
        assert_eq!(roots(Path::new("probe")).unwrap(), 0, "the system's");
    }

    /// Answers questions, one connection each, and hands out what it was asked.
    fn issuer(answers: Vec<(u16, String)>) -> (String, mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, questions) = mpsc::channel();
        std::thread::spawn(move || {
            for (status, answer) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut head, mut length) = (String::new(), 0);
                while !head.ends_with("\r\n\r\n") {
                    let from = head.len();
                    reader.read_line(&mut head).unwrap();
                    if let Some(found) = head[from..].to_ascii_lowercase().strip_prefix("content-length:") {
                        length = found.trim().parse().unwrap();
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let _ = asked.send(head + &String::from_utf8(body).unwrap());
                let close = "connection: close\r\nlocation: http://127.0.0.1:1/";
                let length = answer.len();
                write!(stream, "HTTP/1.1 {status} x\r\n{close}\r\ncontent-length: {length}\r\n\r\n{answer}").unwrap();
            }
        });
        (format!("http://{address}/token?x=1"), questions)
    }

    #[test]
    fn an_issuer_is_asked_as_librdkafka_asks_and_again_until_the_last_handle_is_gone() {
        let lives = |token: &str| (200, json!({"access_token": token, "expires_in": 3}).to_string());
        let refuses = (307, json!({"error": "invalid_client"}).to_string());
        let (endpoint, questions) = issuer(vec![lives("one"), lives("two"), refuses]);
        let issuer = Issuer::start(&config(&endpoint, &[(SCOPE, "pairs")])).unwrap();
        let token = issuer.token().unwrap();
        assert_eq!((token.token.as_str(), token.principal_name.as_str()), ("one", CLIENT));
        let question = questions.recv().unwrap();
        assert!(question.starts_with("POST /token?x=1 HTTP/1.1\r\n"), "{question}");
        assert!(question.ends_with("\r\n\r\ngrant_type=client_credentials&scope=pairs"), "{question}");
        let lower = question.to_ascii_lowercase();
        assert!(lower.contains("accept: application/json\r\n"), "{question}");
        assert!(lower.contains("content-type: application/x-www-form-urlencoded\r\n"), "{question}");
        assert!(question.contains(&format!("Basic {}\r\n", STANDARD.encode("the-client:hunter2"))), "{question}");
        // Before the first has ended, the second is there; where the third is refused, that is told.
        let until = |what: &str, done: &dyn Fn() -> bool| {
            let deadline = Instant::now() + Duration::from_secs(30);
            while !done() {
                assert!(Instant::now() < deadline, "{what}");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        until("the second", &|| issuer.token().unwrap().token == "two");
        until("the third", &|| issuer.token().is_err_and(|error| error.to_string().contains("answers 307")));
        let shown = format!("{issuer:?}");
        assert!(!shown.contains("two") && !shown.contains("x=1"), "{shown}");
        let slot = Arc::downgrade(&issuer.slot);
        drop(issuer);
        until("the thread ends with its last handle", &|| slot.upgrade().is_none());
    }

    #[test]
    fn an_issuer_that_is_away_or_says_nothing_is_told_and_waited_for_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let silent = Issuer::start(&config(&format!("http://{address}/token"), &[])).unwrap();
        let began = Instant::now();
        assert_eq!(silent.token().err().unwrap().fault, IssuerFault::Waiting);
        assert!(began.elapsed() >= FIRST);
        drop(listener);
        let away = Issuer::start(&config(&format!("http://{address}/token?key=hunter2"), &[])).unwrap();
        let error = away.token().err().unwrap().to_string();
        let seen = format!("the OIDC issuer at http://{address}/token cannot be asked: ");
        assert!(error.starts_with(&seen) && error.to_lowercase().contains("connection refused"), "{error}");
    }
}
