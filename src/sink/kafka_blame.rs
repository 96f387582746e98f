//! Floor 3: why no broker can be used, in one line: the brokers, what is wrong, and which property mends it.
//! librdkafka tells it in pieces (a connection's failure, then "all brokers down", then questions that time out);
//! only the first piece knows the reason, so it is kept, and what follows is put down to it.

use rdkafka::types::RDKafkaErrorCode as Code;

use super::kafka_errors::{Verdict, verdict};
use super::status::ErrorKind;

/// The reason for the trouble of this hour.
#[derive(Debug)]
pub(super) struct Blame {
    brokers: String,
    found: Option<(ErrorKind, String)>,
    /// Why there is no new token: it stands until there is one, though delivery may work with the last for a while.
    no_token: Option<String>,
    /// Questions in vain without a known reason.
    vain: u32,
}

/// What stands behind all that brokers say of a token that has ended.
const NO_TOKEN: &str = "there is no new token to log in with";

/// So many questions in vain are waited for a reason, which a connection may take seconds to find.
const PATIENCE: u32 = 3;

impl Blame {
    /// Of a client of these brokers.
    pub(super) fn new(brokers: &[String]) -> Self {
        Self { brokers: brokers.join(","), found: None, no_token: None, vain: 0 }
    }

    /// Delivery works.
    pub(super) fn clear(&mut self) {
        (self.found, self.vain) = (None, 0);
    }

    /// There is a token again.
    pub(super) fn has_token(&mut self) {
        if self.no_token.take().is_some() {
            self.clear();
        }
    }

    /// The kind of the reason that is known.
    pub(super) fn kind(&self) -> Option<ErrorKind> {
        self.found.as_ref().map(|(kind, _)| *kind)
    }

    /// Whether a failure that gives no reason is better not told yet, because its reason may follow.
    pub(super) fn may_still_tell(&mut self, kind: ErrorKind) -> bool {
        if self.found.is_some() || !matches!(kind, ErrorKind::Transport | ErrorKind::Timeout) {
            return false;
        }
        self.vain += 1;
        self.vain <= PATIENCE
    }

    /// Takes a reason up, if it is one.
    pub(super) fn learn(&mut self, code: Code, reason: &str) {
        if let Some((kind, what)) = diagnosis(code, reason) {
            let reason = reason.trim();
            let mut told = format!("brokers {}: {what} (librdkafka: {reason})", self.brokers);
            if what == NO_TOKEN {
                self.no_token = Some(told.clone());
            } else if let (ErrorKind::Authentication, Some(root)) = (kind, &self.no_token) {
                told.clone_from(root);
            }
            self.found = Some((kind, told));
        }
    }

    /// What an error of the client says about its brokers, and the reason where that is known.
    pub(super) fn hear(&mut self, code: Code, reason: &str) -> (ErrorKind, String) {
        self.learn(code, reason);
        let kind = match verdict(code) {
            Verdict::Retry(kind) => kind,
            _ => ErrorKind::Transport,
        };
        self.put_down(kind, reason)
    }

    /// What an error that says nothing itself is put down to.
    pub(super) fn put_down(&self, kind: ErrorKind, reason: &str) -> (ErrorKind, String) {
        match &self.found {
            // An answer of a broker (a topic, a right) has reasons of its own.
            Some(found) if matches!(kind, ErrorKind::Transport | ErrorKind::Timeout) || kind == found.0 => {
                found.clone()
            }
            _ => (kind, format!("brokers {}: {reason}", self.brokers)),
        }
    }
}

/// What the words of librdkafka and OpenSSL mean. None where they say only that it does not work.
fn diagnosis(code: Code, reason: &str) -> Option<(ErrorKind, &'static str)> {
    let text = reason.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let found = match code {
        Code::Authentication | Code::SaslAuthenticationFailed => (ErrorKind::Authentication, refused_user(&has)),
        Code::Resolve => (ErrorKind::Transport, "the name cannot be resolved; mend `brokers`, or the name service"),
        _ if has(&["connecting to a ssl listener"]) || hung_up(&text, "apiversion_query") => (
            ErrorKind::Tls,
            "they hung up on plaintext, as a TLS port does; set `security.protocol` to `ssl` or `sasl_ssl`",
        ),
        _ if has(&["connecting to a plaintext", "wrong version number", "packet length too long", "http request"]) => (
            ErrorKind::Tls,
            "they do not speak TLS on this port; use the TLS port in `brokers`, or set `security.protocol` to `plaintext` or `sasl_plaintext`",
        ),
        _ if has(&["require sasl authentication"]) || (!text.starts_with("sasl_") && hung_up(&text, "up")) => (
            ErrorKind::Authentication,
            "they hung up on a client that does not log in; set `security.protocol` to `sasl_ssl` or `sasl_plaintext`, and `sasl.mechanism`",
        ),
        _ if has(&["certificate verify failed", "verify broker certificate", "not provide a certificate"]) => (
            ErrorKind::Tls,
            "their certificate is not trusted: it was signed by another CA than `ssl.ca.location` holds, has expired, or is for another name than `brokers` has; `openssl s_client -connect HOST:PORT` shows it",
        ),
        _ if text.contains("alert") && has(&["certificate", "unknown ca", "handshake failure", "access denied"]) => (
            ErrorKind::Tls,
            "they do not accept this client's certificate, or miss one; mend `ssl.certificate.location` and `ssl.key.location`",
        ),
        _ if has(&["client ssl authentication might be required"]) => (
            ErrorKind::Tls,
            "they want a certificate of this client; set `ssl.certificate.location` and `ssl.key.location`",
        ),
        Code::SSL => (ErrorKind::Tls, "TLS does not come about; mend the properties that begin with `ssl.`"),
        _ if has(&["connection refused"]) => {
            (ErrorKind::Transport, "nothing listens there; start the broker, or mend `brokers`")
        }
        _ if has(&[
            "connection setup timed out",
            "no route to host",
            "network is unreachable",
            "connection timed out",
        ]) =>
        {
            (ErrorKind::Transport, "they cannot be reached; mend the network, or `brokers`")
        }
        _ => return None,
    };
    Some(found)
}

/// Whether a broker closed a connection as soon as it was in that state: `Disconnected: … (after 12ms in state UP)`.
fn hung_up(text: &str, state: &str) -> bool {
    let ended = text.split_once(": disconnected").or_else(|| text.split_once("connection reset by peer"));
    let when = ended.and_then(|(_, rest)| rest.rsplit_once(" (after ")?.1.split_once("ms in state "));
    when.is_some_and(|(time, rest)| {
        time.parse().is_ok_and(|ms: u32| ms < 2000) && rest.split([',', ')']).next() == Some(state)
    })
}

fn refused_user(has: &impl Fn(&[&str]) -> bool) -> &'static str {
    // Before all others: an issuer's own words follow.
    if has(&["failed to acquire sasl oauthbearer token"]) {
        NO_TOKEN
    } else if has(&["supported mechanisms"]) {
        "they do not offer this way to log in; mend `sasl.mechanism`, or `security.protocol` where they ask for none"
    } else if has(&["oauthbearer token", "invalid_token", "oauthbearer"]) {
        "they do not accept the token; mend what `sasl.oauthbearer.token.endpoint.url` or `sasl.oauthbearer.config` says"
    } else {
        "they refuse the user or the password; mend `sasl.username` and `sasl.password`, or add the user there"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_named_with_its_remedy() {
        for (code, reason, kind, remedy) in [
            (
                Code::SSL,
                "ssl://h:1/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: \
                 broker certificate could not be verified, verify that ssl.ca.location is correctly configured",
                ErrorKind::Tls,
                "ssl.ca.location",
            ),
            (
                Code::BrokerTransportFailure,
                "ssl://h:1/bootstrap: SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener?",
                ErrorKind::Tls,
                "`plaintext`",
            ),
            (
                Code::BrokerTransportFailure,
                "h:1/bootstrap: Disconnected: requesting ApiVersion: might be caused by incorrect security.protocol \
                 configuration (connecting to a SSL listener?) or broker version is < 0.10",
                ErrorKind::Tls,
                "`ssl`",
            ),
            (
                Code::BrokerTransportFailure,
                "h:1/bootstrap: Disconnected: connection closed by peer: receive 0 after POLLIN (after 9ms in state \
                 APIVERSION_QUERY, 3 identical error(s) suppressed)",
                ErrorKind::Tls,
                "`ssl`",
            ),
            (
                Code::BrokerTransportFailure,
                "ssl://h:1/bootstrap: Disconnected (after 9ms in state UP)",
                ErrorKind::Authentication,
                "sasl.mechanism",
            ),
            (
                Code::BrokerTransportFailure,
                "h:1/1: Receive failed: error:0A00045C:SSL routines::tlsv13 alert certificate required",
                ErrorKind::Tls,
                "ssl.certificate.location",
            ),
            (
                Code::Authentication,
                "sasl_ssl://h:1/bootstrap: SASL authentication error: Authentication failed",
                ErrorKind::Authentication,
                "sasl.password",
            ),
            (
                Code::Authentication,
                "Failed to acquire SASL OAUTHBEARER token: the OIDC issuer at https://h/ answers 400 x: supported mechanisms",
                ErrorKind::Authentication,
                "there is no new token",
            ),
            (
                Code::Authentication,
                "h:1: SASL PLAIN mechanism handshake failed: Broker: Unsupported SASL mechanism: broker's supported \
                 mechanisms: SCRAM-SHA-512",
                ErrorKind::Authentication,
                "sasl.mechanism",
            ),
            (Code::Resolve, "nosuch:1: Failed to resolve 'nosuch:1'", ErrorKind::Transport, "`brokers`"),
            (
                Code::BrokerTransportFailure,
                "h:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused",
                ErrorKind::Transport,
                "start the broker",
            ),
        ] {
            let (found, text) = Blame::new(&["h:1".to_owned()]).hear(code, reason);
            assert_eq!(found, kind, "{text}");
            assert!(text.starts_with("brokers h:1: ") && text.contains(remedy) && text.contains(reason), "{text}");
        }
    }

    #[test]
    fn what_brokers_say_of_a_token_that_has_ended_is_put_down_to_the_lack_of_another() {
        let mut blame = Blame::new(&["h:1".to_owned()]);
        let refused = "h:1: SASL authentication error: {\"status\":\"invalid_token\"}";
        let (_, reason) =
            blame.hear(Code::Authentication, "Failed to acquire SASL OAUTHBEARER token: the issuer answers 401");
        // Delivery works with the last one.
        blame.clear();
        assert_eq!(blame.hear(Code::Authentication, refused), (ErrorKind::Authentication, reason));
        blame.has_token();
        let (_, reason) = blame.hear(Code::Authentication, refused);
        assert!(reason.contains("do not accept the token"), "{reason}");
        blame.has_token();
        assert_eq!(blame.put_down(ErrorKind::Timeout, "x").1, reason);
    }

    #[test]
    fn what_follows_is_put_down_to_the_reason_until_it_is_mended() {
        let mut blame = Blame::new(&["h:1".to_owned()]);
        let (kind, _) = blame.hear(Code::AllBrokersDown, "1/1 brokers are down");
        assert_eq!(kind, ErrorKind::Transport);
        let (_, reason) = blame.hear(Code::Authentication, "Authentication failed");
        assert_eq!(blame.hear(Code::AllBrokersDown, "1/1 down"), (ErrorKind::Authentication, reason.clone()));
        assert_eq!(blame.put_down(ErrorKind::Timeout, "x"), (ErrorKind::Authentication, reason));
        assert_eq!(blame.put_down(ErrorKind::UnknownTopic, "no topic").0, ErrorKind::UnknownTopic);
        blame.clear();
        assert_eq!(blame.put_down(ErrorKind::Timeout, "x").0, ErrorKind::Timeout);
    }
}
