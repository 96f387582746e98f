//! Floor 1: secrets that were typed into the file, found by how a line looks. Readers mark the secrets that they read;
//! this is for lines that no reader gets to see (a syntax fault, a misspelt key), where the excerpt would show them.

use crate::types::{CREDENTIAL_QUERY, REDACTED};

/// Keys (or ends of keys) whose values are secret in the routing file or in librdkafka's properties.
const SECRET_KEYS: &[&str] = &[
    "token",
    "hash_key",
    "password",
    "passwd",
    "passphrase",
    "secret",
    "authorization",
    "-auth",
    "api-key",
    "api_key",
    "apikey",
    "private_key",
    "key.pem",
    "jaas.config",
    "oauthbearer.config",
    "oauthbearer.client.id",
    "credentials.client.id",
];

/// How many lines before a line are looked at for the key that it belongs to: a certificate's key fits.
const LINES_BACK: usize = 200;

/// Whether a key's value is secret by its name.
pub(super) fn is_secret_key(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    SECRET_KEYS.iter().any(|secret| key.ends_with(secret))
}

/// A path of ours with the values of credentials in its query masked.
pub(super) fn masked_query(path: &str) -> String {
    let Some((path, query)) = path.split_once('?') else { return path.to_owned() };
    let fields = query.split('&').map(|field| match field.split_once('=') {
        Some((name, _)) if is_credential(name) => format!("{name}={REDACTED}"),
        _ => field.to_owned(),
    });
    format!("{path}?{}", fields.collect::<Vec<_>>().join("&"))
}

fn is_credential(name: &str) -> bool {
    CREDENTIAL_QUERY.iter().any(|credential| name.eq_ignore_ascii_case(credential))
}

/// The line with what looks like a secret starred out, as many characters long as before.
pub(super) fn star_out(line: &str) -> String {
    let mut chars: Vec<char> = line.chars().collect();
    star_out_user_info(&mut chars);
    star_out_parameters(&mut chars);
    for colon in 0..chars.len() {
        // `cookie: NAME` says where a key is found, `cookie: NAME=VALUE` is one.
        let cookie = |key: &str| key.eq_ignore_ascii_case("cookie") && chars[colon..].contains(&'=');
        if key_before(&chars, colon).is_some_and(|key| is_secret_key(&key) || cookie(&key)) {
            star_out_value(&mut chars, colon + 1);
        }
    }
    chars.into_iter().collect()
}

/// A line that belongs to the value of a secret key above it, starred out wholly: a block of text, or a quoted one that
/// goes on. `before` is the text up to the line.
pub(super) fn star_out_below(before: &str, line: &str) -> Option<String> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let above = before.lines().rev().take(LINES_BACK).filter(|line| !line.trim().is_empty());
    let owner: Vec<char> = above.into_iter().find(|above| indent(above) < indent(line))?.chars().collect();
    let last = (0..owner.len()).filter_map(|colon| key_before(&owner, colon)).next_back();
    let star = |c: char| if c.is_whitespace() { c } else { '*' };
    last.filter(|key| is_secret_key(key)).map(|_| line.chars().map(star).collect())
}

/// The key that ends at a colon: one before a blank, or a quoted one as JSON has it.
fn key_before(chars: &[char], colon: usize) -> Option<String> {
    let quoted = colon > 0 && matches!(chars[colon - 1], '"' | '\'');
    if chars[colon] != ':' || !(quoted || chars.get(colon + 1).is_none_or(|c| c.is_whitespace())) {
        return None;
    }
    let end = chars[..colon].iter().rposition(|c| !c.is_whitespace())? + 1;
    let start = chars[..end].iter().rposition(|c| matches!(c, ' ' | '\t' | '{' | ',')).map_or(0, |at| at + 1);
    Some(chars[start..end].iter().filter(|c| !matches!(c, '"' | '\'')).collect())
}

/// Up to the end of the value: the closing quote, else the next key, a brace, a comment, or the line's end. A reference
/// to the environment and a nested mapping stay as they are.
fn star_out_value(chars: &mut [char], from: usize) {
    let mut start = from;
    loop {
        let Some(next) = (start..chars.len()).find(|&at| !chars[at].is_whitespace()) else { return };
        start = next;
        // An anchor or a tag.
        if !matches!(chars[start], '&' | '!') {
            break;
        }
        start = (start..chars.len()).find(|&at| chars[at].is_whitespace()).unwrap_or(chars.len());
    }
    let (quote, first) = match chars[start] {
        q @ ('"' | '\'') => (Some(q), start + 1),
        _ => (None, start),
    };
    if chars.get(first) == Some(&'{') || matches!(chars.get(first..first + 2), Some(['$', '{'])) {
        return;
    }
    let mut at = first;
    while at < chars.len() {
        let escaped = match quote {
            Some('"') => chars[at] == '\\',
            Some(quote) => chars[at] == quote && chars.get(at + 1) == Some(&quote),
            None => false,
        };
        let done = match quote {
            Some(quote) => chars[at] == quote && !escaped,
            None => ends_plain(chars, at),
        };
        if done {
            return;
        }
        chars[at] = '*';
        if let Some(next) = chars.get_mut(at + 1).filter(|_| escaped) {
            *next = '*';
        }
        at += if escaped { 2 } else { 1 };
    }
}

/// Whether a text without quotes ends here. In a block it may hold commas and braces of its own, so that these end it
/// only before another key, or where nothing else follows.
fn ends_plain(chars: &[char], at: usize) -> bool {
    let rest = &chars[at + 1..];
    match chars[at] {
        ',' => {
            let key = rest.iter().position(|c| matches!(c, ',' | '}')).map_or(rest, |end| &rest[..end]);
            key.contains(&':')
        }
        '}' => rest.iter().find(|c| !c.is_whitespace()).is_none_or(|c| matches!(c, ',' | '}' | ']' | '#')),
        c => c.is_whitespace() && rest.first() == Some(&'#'),
    }
}

/// `http://user:password@host` becomes `http://*************@host`, and `user:password@host` likewise. A password may hold
/// what ends a host.
fn star_out_user_info(chars: &mut [char]) {
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'');
    let mut start = 0;
    while start < chars.len() {
        let end = (start..chars.len()).find(|&at| ends(chars[at])).unwrap_or(chars.len());
        let word = &chars[start..end];
        if let Some(at) = word.iter().rposition(|c| *c == '@') {
            let scheme = word.windows(3).position(|three| three == [':', '/', '/']).filter(|found| *found < at);
            let from = match scheme {
                Some(found) => Some(found + 3),
                None => word[..at].contains(&':').then_some(0),
            };
            if let Some(from) = from {
                chars[start + from..start + at].fill('*');
            }
        }
        start = end + 1;
    }
}

/// `?token=abc` becomes `?token=***`.
fn star_out_parameters(chars: &mut [char]) {
    let mut at = 0;
    while at < chars.len() {
        at += 1;
        if !matches!(chars[at - 1], '?' | '&' | ';') {
            continue;
        }
        let Some(equals) = (at..chars.len()).find(|&at| !(chars[at].is_ascii_alphanumeric() || chars[at] == '_'))
        else {
            return;
        };
        let name: String = chars[at..equals].iter().collect();
        if chars[equals] == '=' && is_credential(&name) {
            let ends = |c: char| c.is_whitespace() || matches!(c, '&' | ';' | '#' | '"' | '\'' | '}' | ']');
            let end = (equals..chars.len()).find(|&at| ends(chars[at])).unwrap_or(chars.len());
            chars[equals + 1..end].fill('*');
            at = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{masked_query, star_out, star_out_below};

    #[test]
    fn what_looks_like_a_secret_is_starred_out_and_the_rest_stays() {
        for (line, shown) in [
            ("  admin_token: hunter2  # no", "  admin_token: ******** # no"),
            ("{admin_token: \"a b\", x: 1}", "{admin_token: \"***\", x: 1}"),
            ("{\"admin_token\":\"a b\",\"x\":1}", "{\"admin_token\":\"***\",\"x\":1}"),
            ("{'admin_token':'a''b','x':1}", "{'admin_token':'****','x':1}"),
            ("admin_token: \"a\\\"b\" # c", "admin_token: \"****\" # c"),
            ("admin_token : x", "admin_token : *"),
            ("admin_token: &a \"x,y\"", "admin_token: &a \"***\""),
            ("admin_token: a,b}c", "admin_token: *****"),
            ("sasl.password: x, y: 1", "sasl.password: *, y: 1"),
            ("{hash_key: x}, {y: 1}", "{hash_key: *}, {y: 1}"),
            ("hash_key: ${file:/run/x}", "hash_key: ${file:/run/x}"),
            ("at: \"http://u:p@h:1/\"", "at: \"http://***@h:1/\""),
            ("at: http://u:p/q,r@h:1", "at: http://*******@h:1"),
            ("at: [u:p@h:1]", "at: ****@h:1]"),
            ("at: http://h:1/?a=b&API_key=c#d", "at: http://h:1/?a=b&API_key=*#d"),
            ("{cookie: a=b}, {cookie: a}", "{cookie: ***}, {cookie: a}"),
            ("tokens: 5", "tokens: 5"),
            ("mail: me@example.com", "mail: me@example.com"),
        ] {
            assert_eq!(star_out(line), shown);
        }
    }

    #[test]
    fn lines_of_a_secret_block_are_starred_out() {
        let below = |before: &str, line| star_out_below(before, line);
        let stars = |line: &str| Some(line.to_owned());
        assert_eq!(below("a:\n  admin_token: |\n    one\n\n", "    two: 3"), stars("    **** *"));
        assert_eq!(below("a:\n  hash_key: \"on\n", "    e\""), stars("    **"));
        assert_eq!(below("a: {x: 1, hash_key: \"on\n", "  e\""), stars("  **"));
        assert_eq!(below("a:\n  admin_token: x\n", "  drain: 5s"), None);
        assert_eq!(below("", "admin: x"), None);
    }

    #[test]
    fn a_credential_in_the_query_of_a_path_is_masked() {
        assert_eq!(masked_query("/ready?a=1&Token=x&b=2"), "/ready?a=1&Token=REDACTED&b=2");
        assert_eq!(masked_query("/ready"), "/ready");
    }
}
