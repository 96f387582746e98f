//! Floor 1: secrets that were typed into the file, found by how a line looks. Readers mark the secrets that they read;
//! this is for lines that no reader gets to see (a syntax fault, a misspelt key), where the excerpt would show them.

/// Keys (or ends of keys) whose values are secret in the routing file or in librdkafka's properties.
const SECRET_KEYS: &[&str] =
    &["token", "hash_key", "password", "secret", "authorization", "api-key", "api_key", "key.pem", "jaas.config"];

/// Whether a key's value is secret by its name.
pub(super) fn is_secret_key(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    SECRET_KEYS.iter().any(|secret| key.ends_with(secret))
}

/// The line with what looks like a secret starred out, as many characters long as before.
pub(super) fn star_out(line: &str) -> String {
    let mut chars: Vec<char> = line.chars().collect();
    star_out_user_info(&mut chars);
    for colon in 0..chars.len() {
        if chars[colon] != ':' || chars.get(colon + 1).is_some_and(|c| !c.is_whitespace()) {
            continue;
        }
        let key_start = chars[..colon].iter().rposition(|c| matches!(c, ' ' | '\t' | '{' | ',')).map_or(0, |at| at + 1);
        let key: String = chars[key_start..colon].iter().filter(|c| !matches!(c, '"' | '\'')).collect();
        if is_secret_key(&key) {
            star_out_value(&mut chars, colon + 1);
        }
    }
    chars.into_iter().collect()
}

/// Up to the end of the value: the closing quote, else a comma or brace, a comment, or the line's end. A reference to
/// the environment and a nested mapping or list stay as they are.
fn star_out_value(chars: &mut [char], from: usize) {
    let Some(start) = (from..chars.len()).find(|&at| !chars[at].is_whitespace()) else { return };
    let (quote, first) = match chars[start] {
        q @ ('"' | '\'') => (Some(q), start + 1),
        _ => (None, start),
    };
    if matches!(chars.get(first), Some('{' | '[')) || matches!(chars.get(first..first + 2), Some(['$', '{'])) {
        return;
    }
    for at in first..chars.len() {
        let done = match quote {
            Some(quote) => chars[at] == quote,
            None => matches!(chars[at], ',' | '}') || (chars[at].is_whitespace() && chars.get(at + 1) == Some(&'#')),
        };
        if done {
            return;
        }
        chars[at] = '*';
    }
}

/// `http://user:password@host` becomes `http://*************@host`.
fn star_out_user_info(chars: &mut [char]) {
    for start in 3..chars.len() {
        if chars[start - 3..start] != [':', '/', '/'] {
            continue;
        }
        let end =
            (start..chars.len()).find(|&at| matches!(chars[at], '/' | '"' | '\'' | ' ' | ',')).unwrap_or(chars.len());
        if let Some(at) = chars[start..end].iter().rposition(|c| *c == '@') {
            chars[start..start + at].fill('*');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::star_out;

    #[test]
    fn what_looks_like_a_secret_is_starred_out_and_the_rest_stays() {
        assert_eq!(star_out("  admin_token: hunter2  # no"), "  admin_token: ******** # no");
        assert_eq!(star_out("{admin_token: \"a b\", x: 1}"), "{admin_token: \"***\", x: 1}");
        assert_eq!(star_out("sasl.password: x, y: 1"), "sasl.password: *, y: 1");
        assert_eq!(star_out("hash_key: ${file:/run/x}"), "hash_key: ${file:/run/x}");
        assert_eq!(star_out("at: \"http://u:p@h:1/\""), "at: \"http://***@h:1/\"");
        assert_eq!(star_out("tokens: 5"), "tokens: 5");
    }
}
