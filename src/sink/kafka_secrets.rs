//! Floor 3: what of `pairs.kafka.properties` must not be shown, and the files that they name. A value counts as secret
//! by its property's name; librdkafka's own words go through [`Secrets::mask`] before anybody reads them.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::kafka_oidc_config::{ENDPOINT, address, shown};
use crate::config::process::KafkaSinkConfig;
use crate::types::Secret;

/// Parts of the names of properties whose values are secret, or tell who somebody is.
const SECRET: &[&str] = &["password", "secret", "pem", "token", "username", "oauthbearer.config", "jaas", "client.id"];

/// Shorter ones are no secret, and would tear holes into the words around them.
const SHORTEST: usize = 4;

/// The values that no line may show.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    typed: Vec<Secret>,
    /// The token of this hour, which stands in no file of ours.
    token: Mutex<Option<Secret>>,
}

impl Secrets {
    /// Of this file.
    pub(super) fn of(config: &KafkaSinkConfig) -> Self {
        let secret = |name: &str| SECRET.iter().any(|part| name.contains(part)) && name != ENDPOINT;
        let values = config.properties.iter().filter(|(name, value)| secret(name) || hides(name, value.reveal()));
        let values = values.map(|(_, value)| value).filter(|value| value.reveal().len() >= SHORTEST);
        let mut typed: Vec<Secret> = values.cloned().collect();
        // One may hold another.
        typed.sort_by_key(|value| std::cmp::Reverse(value.reveal().len()));
        Self { typed, token: Mutex::default() }
    }

    /// From now on this token is not to be shown.
    pub(super) fn hold(&self, token: &str) {
        let held = (token.len() >= SHORTEST).then(|| Secret::new(token));
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }

    /// The text without any of them, in one line.
    pub(super) fn mask(&self, text: &str) -> String {
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let values = token.iter().chain(&self.typed);
        let masked = values.fold(text.to_owned(), |text, value| text.replace(value.reveal(), "…"));
        if masked.contains(['\n', '\r']) { masked.split_whitespace().collect::<Vec<_>>().join(" ") } else { masked }
    }
}

/// Whether the address of an issuer has parts that are not shown.
fn hides(name: &str, value: &str) -> bool {
    name == ENDPOINT && address(value.trim()).is_some_and(|uri| shown(&uri) != value.trim())
}

/// Certificates and keys in files. librdkafka reads them once; where one has changed, a new client reads it again.
#[derive(Debug)]
pub(super) struct Files(Vec<(PathBuf, Option<SystemTime>)>);

impl Files {
    /// Those that the properties name, as they are now.
    pub(super) fn of(config: &KafkaSinkConfig) -> Self {
        let named =
            config.properties.iter().filter(|(name, _)| name.starts_with("ssl.") && name.ends_with(".location"));
        let mut files = Self(named.map(|(_, value)| (PathBuf::from(value.reveal()), None)).collect());
        files.changed();
        files
    }

    /// Whether one is another than it was at the last look.
    pub(super) fn changed(&mut self) -> bool {
        let mut changed = false;
        for (path, seen) in &mut self.0 {
            let now = std::fs::metadata(path).and_then(|file| file.modified()).ok();
            changed |= now != *seen;
            *seen = now;
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Secret;

    fn config(properties: &[(&str, &str)]) -> KafkaSinkConfig {
        KafkaSinkConfig {
            brokers: vec!["127.0.0.1:1".to_owned()],
            topic: "t".to_owned(),
            key: None,
            create_topic: None,
            spool: None,
            properties: properties.iter().map(|(k, v)| ((*k).to_owned(), Secret::new(*v))).collect(),
        }
    }

    #[test]
    fn no_line_shows_a_secret_and_harmless_words_stay() {
        let secrets = Secrets::of(&config(&[
            ("sasl.password", "hunter2"),
            ("ssl.key.password", "hunter2-and-more"),
            ("sasl.username", "bob"),
            ("ssl.key.pem", "-----BEGIN\nabcdef"),
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.location", "/run/ca.crt"),
        ]));
        let line = "sasl_ssl://h:1: hunter2-and-more, hunter2 of bob with /run/ca.crt: -----BEGIN\nabcdef\nx";
        assert_eq!(secrets.mask(line), "sasl_ssl://h:1: …, … of bob with /run/ca.crt: … x");
    }

    #[test]
    fn what_an_issuer_was_told_and_has_given_is_not_shown_and_its_address_is_without_its_query() {
        let secrets = Secrets::of(&config(&[
            (ENDPOINT, "https://idp/token?key=hunter2"),
            ("sasl.oauthbearer.client.id", "the-client"),
            ("sasl.oauthbearer.client.credentials.client.secret", "hunter3"),
        ]));
        secrets.hold("e30.old.c2ln");
        secrets.hold("e30.e30.c2ln");
        let line = "the-client:hunter3 at https://idp/token?key=hunter2, https://idp/token: e30.e30.c2ln";
        assert_eq!(secrets.mask(line), "…:… at …, https://idp/token: …");
        assert!(!format!("{secrets:?}").contains("hunter3") && !format!("{secrets:?}").contains("e30"));
        let secrets = Secrets::of(&config(&[(ENDPOINT, "https://idp/token")]));
        assert_eq!(secrets.mask("at https://idp/token"), "at https://idp/token");
    }

    #[test]
    fn a_file_that_comes_goes_or_is_written_anew_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.crt");
        let mut files = Files::of(&config(&[("ssl.ca.location", path.to_str().unwrap()), ("linger.ms", "5")]));
        assert!(!files.changed());
        std::fs::write(&path, "1").unwrap();
        assert!(files.changed() && !files.changed());
        std::fs::remove_file(&path).unwrap();
        assert!(files.changed() && !files.changed());
    }
}
