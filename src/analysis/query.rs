//! Floor 2: the query of a URL, field by field, as it was sent. What is shown of it keeps every byte but the values
//! that must be hidden; names are compared decoded, so that `%74oken` hides nothing.

use std::borrow::Cow;

use crate::types::{CREDENTIAL_QUERY, REDACTED};

/// One field of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field<'q> {
    /// Its name, decoded.
    pub name: Cow<'q, [u8]>,
    /// Its value as it was sent; none where there is no `=`.
    pub value: Option<&'q str>,
}

/// The fields in their order. `;` divides as `&` does, because to some servers it does, and a secret behind it would
/// otherwise be shown as part of its neighbour.
pub fn fields(query: &str) -> impl Iterator<Item = Field<'_>> {
    query.split(['&', ';']).map(field)
}

/// The decoded value of the first field with this name.
pub fn value(query: &str, name: &str) -> Option<String> {
    let value = fields(query).find(|field| *field.name == *name.as_bytes())?.value?;
    Some(String::from_utf8_lossy(&percent_decoded(value)).into_owned())
}

/// Where a field may begin in what is shown: also behind a `?` too many, or a `#`, as in the URL of a field or a value.
const BOUNDS: [char; 4] = ['&', ';', '?', '#'];

/// How deep values are looked into that are encoded within others, as the URL of a callback is.
const NESTED: u8 = 3;

/// The query with the values of credentials hidden, and of the fields for which `hide` gives something else.
pub fn redacted(query: &str, hide: impl Fn(&Field) -> Option<String>) -> String {
    redacted_below(query, &hide, NESTED)
}

fn redacted_below(query: &str, hide: &dyn Fn(&Field) -> Option<String>, depth: u8) -> String {
    let mut shown = String::with_capacity(query.len());
    for part in query.split_inclusive(BOUNDS) {
        let sent = part.trim_end_matches(BOUNDS);
        let (name, value) = sent.split_once('=').map_or((None, sent), |(name, value)| (Some(name), value));
        let own = name.and_then(|_| {
            let field = field(sent);
            if is_credential(&field) { Some(REDACTED.to_string()) } else { hide(&field) }
        });
        match (own.or_else(|| nested(value, hide, depth)), name) {
            (Some(instead), Some(name)) => shown.extend([name, "=", &instead]),
            (Some(instead), None) => shown.push_str(&instead),
            (None, _) => shown.push_str(sent),
        }
        shown.push_str(&part[sent.len()..]);
    }
    shown
}

/// Hides a value whole that has in it, encoded, what must be hidden.
fn nested(value: &str, hide: &dyn Fn(&Field) -> Option<String>, depth: u8) -> Option<String> {
    if !value.contains('%') {
        return None;
    }
    let decoded = String::from_utf8_lossy(&percent_decoded(value)).into_owned();
    if decoded == value {
        return None;
    }
    let changed = |depth: u8| redacted_below(&decoded, hide, depth) != decoded;
    // What is encoded deeper than anybody encodes is not looked at, so it is not shown.
    let hidden = depth.checked_sub(1).is_none_or(changed);
    hidden.then(|| REDACTED.into())
}

/// Whether the field is this one for some server: whatever its case, with blanks around it, or as a member, as in
/// `user[password]`. Which server reads it is not known here, and to hide more than was meant does no harm.
pub fn is_named(field: &[u8], name: &str) -> bool {
    let members = field.split(|byte| matches!(byte, b'[' | b']')).map(<[u8]>::trim_ascii);
    members.chain([field]).any(|member| member.eq_ignore_ascii_case(name.as_bytes()))
}

fn field(sent: &str) -> Field<'_> {
    match sent.split_once('=') {
        Some((name, value)) => Field { name: percent_decoded(name), value: Some(value) },
        None => Field { name: percent_decoded(sent), value: None },
    }
}

fn is_credential(field: &Field) -> bool {
    CREDENTIAL_QUERY.iter().any(|name| is_named(&field.name, name))
}

/// Decodes `%xx`, and `+` as a space, as forms do; a `%` that begins nothing stands for itself.
pub fn percent_decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.contains(['%', '+']) {
        return text.as_bytes().into();
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = bytes.get(at + 1..at + 3).filter(|hex| *byte == b'%' && hex.iter().all(u8::is_ascii_hexdigit));
        let code = hex.and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        decoded.push(match (code, byte) {
            (Some(code), _) => code,
            (None, b'+') => b' ',
            (None, other) => *other,
        });
        at += if code.is_some() { 3 } else { 1 };
    }
    decoded.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_hidden_however_they_are_spelled() {
        let query = "a=1&Token=x&%61pi_key=y&q=b;sig=z&secret&code=&key=a=b&x-key=%zz+";
        let shown = redacted(query, |_| None);
        let expected =
            "a=1&Token=REDACTED&%61pi_key=REDACTED&q=b;sig=REDACTED&secret&code=REDACTED&key=REDACTED&x-key=%zz+";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_credential_is_hidden_also_where_few_would_look() {
        for (query, shown) in [
            ("a=1?token=x", "a=1?token=REDACTED"),
            ("a=1#access_token=x&b=2", "a=1#access_token=REDACTED&b=2"),
            ("user[password]=x&token[]=y", "user[password]=REDACTED&token[]=REDACTED"),
            ("+token=x&%20key%20=y", "+token=REDACTED&%20key%20=REDACTED"),
            ("cb=https%3A%2F%2Fh%2F%3Fsig%3Dx&b=2", "cb=REDACTED&b=2"),
            ("cb=https%253A%252F%252Fh%253Fsig%253Dx", "cb=REDACTED"),
            ("a=%252525252525", "a=REDACTED"),
            ("a=100%25&b=%C3%A9", "a=100%25&b=%C3%A9"),
            ("tokens=1&keyed=2&a=token", "tokens=1&keyed=2&a=token"),
        ] {
            assert_eq!(redacted(query, |_| None), shown);
        }
    }

    #[test]
    fn other_fields_are_hidden_on_request_and_the_rest_stays() {
        let hide = |field: &Field| (*field.name == *b"customer").then(|| "hmac:00".to_string());
        assert_eq!(
            redacted("&&x=%C3%A9&customer=7;c%75stomer=8&", hide),
            "&&x=%C3%A9&customer=hmac:00;c%75stomer=hmac:00&"
        );
        assert_eq!(redacted("", hide), "");
    }

    #[test]
    fn the_first_value_of_a_name_is_found_decoded() {
        assert_eq!(value("a=1&b%20c=x+%C3%A9%ff;d&b c=2", "b c").unwrap(), "x é\u{fffd}");
        assert_eq!(value("a&a=1", "a"), None);
        assert_eq!(value("a=", "a").unwrap(), "");
    }

    proptest::proptest! {
        #[test]
        fn hiding_nothing_changes_nothing(query in "[a-z=&;+0-9é]{0,30}") {
            proptest::prop_assume!(!fields(&query).any(|field| is_credential(&field)));
            proptest::prop_assert_eq!(redacted(&query, |_| None), query);
        }
    }
}
