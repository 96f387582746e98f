//! Floor 3: what can be wrong with a property of `pairs.kafka.properties`, each with what would be right.

use std::fmt;

/// What is wrong with a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropertyFault {
    /// librdkafka does not know it.
    Unknown,
    /// librdkafka knows it, but does not take its value.
    Invalid,
    /// It would take away what shadowpair promises, or another key of the routing file sets it.
    Reserved,
    /// It belongs to TLS or SASL, and this build has neither.
    NoTls,
    /// No such SASL mechanism is built in.
    Mechanism,
    /// SASL is asked for, but no mechanism.
    NoMechanism,
    /// The mechanism needs a user and a password.
    NoUser,
    /// OAUTHBEARER has no source of tokens.
    NoTokens,
    /// It belongs to a way of OIDC that is not built in.
    Oidc,
    /// It does nothing, because no OIDC issuer is asked.
    NotOidc,
    /// It is no address of an OIDC issuer, nor of a token's file.
    Endpoint,
    /// Extensions of SASL cannot be sent.
    Extensions,
    /// Another is missing beside it.
    Needs(&'static str),
    /// It and another are one too many.
    Excludes(&'static str),
    /// It does nothing, because no SASL is asked for.
    NoSasl,
    /// It does nothing, because no TLS is asked for.
    NotEncrypted,
    /// A topic cannot be created with tokens.
    CreatesTopic,
}

impl fmt::Display for PropertyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PropertyFault::Needs(other) => return write!(f, "needs `{other}` beside it"),
            PropertyFault::Excludes(other) => {
                return write!(f, "cannot stand beside `{other}`: remove one of the two");
            }
            PropertyFault::Unknown => {
                "is not a property of librdkafka; its CONFIGURATION.md lists all there are"
            }
            PropertyFault::Invalid => {
                "has a value that librdkafka, as it is built here, does not take; its CONFIGURATION.md has the range of each property"
            }
            PropertyFault::Reserved => "is set by shadowpair itself; remove it",
            PropertyFault::NoTls => {
                "needs TLS or SASL, and this shadowpair was built without: build it with the feature `kafka-tls`, which is on by default"
            }
            PropertyFault::Mechanism => {
                "names no mechanism that is built in: it is one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER"
            }
            PropertyFault::NoMechanism => {
                "asks for SASL: add `sasl.mechanism`, one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER"
            }
            PropertyFault::NoUser => "needs `sasl.username` and `sasl.password` beside it",
            PropertyFault::NoTokens => {
                "is OAUTHBEARER: say where tokens come from with `sasl.oauthbearer.method: oidc` and the properties of its issuer, or with `sasl.oauthbearer.token.endpoint.url: file:///PATH`, a file that something else keeps fresh; for tests, `enable.sasl.oauthbearer.unsecure.jwt: true` and `sasl.oauthbearer.config: principal=NAME`"
            }
            PropertyFault::Oidc => {
                "belongs to a way of OIDC that is not built in: use the grant `client_credentials` with `sasl.oauthbearer.client.id` and `sasl.oauthbearer.client.secret`, or let something else fetch the token and name its file in `sasl.oauthbearer.token.endpoint.url: file:///PATH`"
            }
            PropertyFault::NotOidc => {
                "has no effect without an OIDC issuer: add `sasl.mechanism: OAUTHBEARER` and `sasl.oauthbearer.method: oidc`, or remove it"
            }
            PropertyFault::Endpoint => {
                "is no address of an OIDC issuer: with `sasl.oauthbearer.method: oidc` it is `https://HOST/PATH`, without a user; a token's file, `file:///PATH`, stands without that method"
            }
            PropertyFault::Extensions => {
                "cannot be sent from here: let the issuer put into the token what the brokers are to know, and remove it"
            }
            PropertyFault::NoSasl => {
                "has no effect without SASL: add `security.protocol: sasl_ssl` (or `sasl_plaintext`), or remove it"
            }
            PropertyFault::NotEncrypted => {
                "has no effect without TLS: add `security.protocol: ssl` (or `sasl_ssl`), or remove it"
            }
            PropertyFault::CreatesTopic => {
                "is OAUTHBEARER, with which a topic cannot be created from here: create it beforehand, and remove `create_topic`"
            }
        })
    }
}
