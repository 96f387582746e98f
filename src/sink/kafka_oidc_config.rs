//! Floor 3: the properties that say how tokens are had of an OIDC issuer, and what is wrong with them. They are
//! librdkafka's, with its meaning; they are obeyed here, because the librdkafka that is built in does not know them.

use http::Uri;
use http::uri::Scheme;

use super::PropertyFault;
use crate::config::process::KafkaSinkConfig;

/// `oidc` asks an issuer.
pub(super) const METHOD: &str = "sasl.oauthbearer.method";
/// Where tokens come from: an issuer's `https://…`, or `file:///path`, as Kafka's Java clients spell it.
pub(super) const ENDPOINT: &str = "sasl.oauthbearer.token.endpoint.url";
/// Who asks the issuer, and another name of the same.
pub(super) const ID: [&str; 2] = ["sasl.oauthbearer.client.id", "sasl.oauthbearer.client.credentials.client.id"];
/// How it proves that, and another name of the same.
pub(super) const SECRET: [&str; 2] =
    ["sasl.oauthbearer.client.secret", "sasl.oauthbearer.client.credentials.client.secret"];
/// What it asks for.
pub(super) const SCOPE: &str = "sasl.oauthbearer.scope";
/// In which way it asks.
const GRANT: &str = "sasl.oauthbearer.grant.type";
/// Whose certificate an issuer may have: a file or a folder.
pub(super) const CA_LOCATION: &str = "https.ca.location";
/// The same, the certificates themselves.
pub(super) const CA_PEM: &str = "https.ca.pem";

/// Not passed on to librdkafka.
const OURS: &[&str] = &[METHOD, ENDPOINT, ID[0], ID[1], SECRET[0], SECRET[1], SCOPE, GRANT, CA_LOCATION, CA_PEM];

/// Whether it is obeyed here and unknown to the librdkafka that is built in.
pub(super) fn is_ours(name: &str) -> bool {
    OURS.contains(&name)
}

/// A property's value, without blanks around it, unless nothing is left.
pub(super) fn property<'a>(config: &'a KafkaSinkConfig, name: &str) -> Option<&'a str> {
    config.properties.get(name).map(|value| value.reveal().trim()).filter(|value| !value.is_empty())
}

/// Whether an OIDC issuer is to be asked.
pub(super) fn is_oidc(config: &KafkaSinkConfig) -> bool {
    property(config, METHOD).is_some_and(|method| method.eq_ignore_ascii_case("oidc"))
}

/// Whether properties of an issuer are there, which have their own faults where they have no effect.
pub(super) fn names_an_issuer(config: &KafkaSinkConfig) -> bool {
    let names = |name: &str| name.starts_with("sasl.oauthbearer.") && name != "sasl.oauthbearer.config";
    config.properties.keys().any(|name| names(name) && !(name == METHOD && is_default(config)))
}

/// Whether the method is librdkafka's own default, which asks nobody.
fn is_default(config: &KafkaSinkConfig) -> bool {
    property(config, METHOD).is_some_and(|method| method.eq_ignore_ascii_case("default"))
}

/// The address of an issuer.
pub(super) fn address(url: &str) -> Option<Uri> {
    let uri: Uri = url.parse().ok()?;
    let web = uri.scheme() == Some(&Scheme::HTTPS) || uri.scheme() == Some(&Scheme::HTTP);
    // A user in there would be another than `sasl.oauthbearer.client.id`.
    let host = uri.authority().is_some_and(|host| !host.host().is_empty() && !host.as_str().contains('@'));
    (web && host).then_some(uri)
}

/// What of an address may be shown: a query may hold anything.
pub(super) fn shown(address: &Uri) -> String {
    let part = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let (scheme, authority) = (part(address.scheme_str()), part(address.authority().map(|host| host.as_str())));
    format!("{scheme}://{authority}{}", address.path())
}

/// What is wrong with a property of OIDC, given the others; `oauth` says whether the mechanism is OAUTHBEARER, and
/// `file` whether this one is the address of a token's file.
pub(super) fn fault(config: &KafkaSinkConfig, oauth: bool, name: &str, file: bool) -> Option<PropertyFault> {
    let value = property(config, name).unwrap_or_default();
    let has = |name: &str| property(config, name).is_some();
    let excludes = |other: &'static str| has(other).then_some(PropertyFault::Excludes(other));
    match name {
        "sasl.oauthbearer.extensions" => Some(PropertyFault::Extensions),
        // Assertions, metadata services, and what a later librdkafka may add.
        _ if !is_ours(name) => Some(PropertyFault::Oidc),
        GRANT if !value.eq_ignore_ascii_case("client_credentials") => Some(PropertyFault::Oidc),
        METHOD if is_default(config) => None,
        METHOD if !is_oidc(config) => Some(PropertyFault::Invalid),
        ENDPOINT if file && !is_oidc(config) => None,
        _ if !(oauth && is_oidc(config)) => Some(PropertyFault::NotOidc),
        METHOD => {
            let mut needed = [&[ENDPOINT][..], &ID, &SECRET].into_iter();
            needed.find(|names| !names.iter().any(|name| has(name))).map(|names| PropertyFault::Needs(names[0]))
        }
        ENDPOINT => address(value).is_none().then_some(PropertyFault::Endpoint),
        _ if name == ID[1] => excludes(ID[0]),
        _ if name == SECRET[1] => excludes(SECRET[0]),
        CA_PEM => excludes(CA_LOCATION),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_of_the_web_and_is_shown_without_its_query() {
        for (url, seen) in [
            ("https://idp.example/realms/a/token", "https://idp.example/realms/a/token"),
            ("http://[::1]:8080/token?key=hunter2#x", "http://[::1]:8080/token"),
            ("HTTPS://idp.example", "https://idp.example/"),
        ] {
            assert_eq!(address(url).map(|uri| shown(&uri)).as_deref(), Some(seen), "{url}");
        }
        for url in ["", "idp.example/token", "/token", "ftp://h/x", "file:///run/token", "https://me:hunter2@h/x"] {
            assert_eq!(address(url), None, "{url}");
        }
    }
}
