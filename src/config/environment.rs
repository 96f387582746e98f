//! Floor 1: `${NAME}`, `${NAME:-default}` and `${file:PATH}` in a scalar. What comes out is text that is never looked
//! at again, so that a value cannot smuggle in a second reference; and no message here holds a value, only the
//! reference as it was written.

use std::io::Read;

/// The most bytes of a `${file:PATH}`: it holds a token or a key, not a document.
const FILE_MAX: u64 = 64 << 10;

/// Looks one variable up. Injected, so that a test does not depend on (and must not change) the process's own.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Result<String, std::env::VarError>;

/// Why a reference gives no text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unresolved {
    pub(super) message: String,
    pub(super) help: String,
}

fn unresolved<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, Unresolved> {
    Err(Unresolved { message: message.into(), help: help.into() })
}

/// The text with every reference replaced; `$${X}` is the literal `${X}`.
pub(super) fn expand(written: &str, variables: Variables<'_>) -> Result<String, Unresolved> {
    let mut out = String::with_capacity(written.len());
    let mut rest = written;
    while let Some(at) = rest.find("${") {
        let (before, reference) = rest.split_at(at);
        let Some(end) = reference.find('}') else {
            return unresolved("a `${` without its `}`", "write `${NAME}`, or `$${` for the two characters themselves");
        };
        let (inside, after) = (&reference[2..end], &reference[end + 1..]);
        match before.strip_suffix('$') {
            Some(before) => {
                out.push_str(before);
                out.push_str(&reference[..=end]);
            }
            None => {
                out.push_str(before);
                out.push_str(&resolve(inside, variables)?);
            }
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn resolve(reference: &str, variables: Variables<'_>) -> Result<String, Unresolved> {
    if let Some(path) = reference.strip_prefix("file:") {
        return read_file(path);
    }
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    if default.is_some_and(|default| default.contains("${")) {
        return unresolved("a reference inside a reference", "a default is plain text: `${NAME:-default}`");
    }
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        let help =
            "write `${NAME}`, `${NAME:-default}` or `${file:PATH}`; `$${` stands for the two characters themselves";
        return unresolved(format!("`${{{reference}}}` is no reference to the environment"), help);
    }
    // As in a shell, `:-` stands in for a variable that is empty, too.
    match (variables(name), default) {
        (Ok(value), None) => Ok(value),
        (Ok(value), Some(_)) if !value.is_empty() => Ok(value),
        (Ok(_) | Err(std::env::VarError::NotPresent), Some(default)) => Ok(default.to_owned()),
        (Err(std::env::VarError::NotPresent), None) => unresolved(
            format!("the environment variable `{name}` is not set"),
            format!("set it, or give a default: `${{{name}:-default}}`"),
        ),
        (Err(std::env::VarError::NotUnicode(_)), _) => {
            unresolved(format!("the environment variable `{name}` is not UTF-8"), "give it a text in UTF-8")
        }
    }
}

/// The file's text without the line break that editors and `echo` leave at its end.
fn read_file(path: &str) -> Result<String, Unresolved> {
    if path.is_empty() {
        return unresolved("`${file:}` names no file", "write `${file:/run/secrets/NAME}`");
    }
    let cannot = |error: std::io::Error| Unresolved {
        message: format!("cannot read the file `{path}`: {}", reason(&error)),
        help: "it must be a file that this user may read; a relative path counts from the working directory".to_owned(),
    };
    // A pipe or a device could block for ever or never end.
    if !std::fs::metadata(path).map_err(cannot)?.is_file() {
        return unresolved(format!("`{path}` is not a regular file"), "`${file:PATH}` takes the path of a text file");
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(cannot)?;
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > FILE_MAX {
        return unresolved(format!("the file `{path}` is larger than 64KiB"), "`${file:PATH}` is for a token or a key");
    }
    let Ok(mut text) = String::from_utf8(bytes) else {
        return unresolved(format!("the file `{path}` is not UTF-8"), "`${file:PATH}` takes a text file");
    };
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    Ok(text)
}

/// An I/O error without the operating system's number behind it.
pub(super) fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let plain = text.split(" (os error").next().unwrap_or_default();
    let mut chars = plain.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::env::VarError;

    fn variables(name: &str) -> Result<String, VarError> {
        match name {
            "A" => Ok("a".into()),
            "EMPTY" => Ok(String::new()),
            "NESTED" => Ok("${A}".into()),
            _ => Err(VarError::NotPresent),
        }
    }

    fn expanded(text: &str) -> String {
        expand(text, &variables).expect("resolves")
    }

    #[test]
    fn references_are_replaced_once() {
        assert_eq!(expanded("x${A}y${A}"), "xaya");
        assert_eq!(expanded("${NESTED}"), "${A}");
        assert_eq!(expanded("$A $ {A} $$"), "$A $ {A} $$");
        assert_eq!(expanded("${B:-}${B:-d:-e}${EMPTY:-f}"), "d:-ef");
    }

    #[test]
    fn a_doubled_dollar_is_the_literal() {
        assert_eq!(expanded("$${A}"), "${A}");
        assert_eq!(expanded("$$${A}${A}"), "$${A}a");
    }

    #[test]
    fn what_cannot_be_resolved_says_how_it_is_written() {
        let message = |text| expand(text, &variables).expect_err("unresolved").message;
        assert_eq!(message("${B}"), "the environment variable `B` is not set");
        assert_eq!(message("${A"), "a `${` without its `}`");
        assert_eq!(message("${A-b}"), "`${A-b}` is no reference to the environment");
        assert_eq!(message("${file:/nowhere/x}"), "cannot read the file `/nowhere/x`: no such file or directory");
        assert_eq!(message("${file:/}"), "`/` is not a regular file");
    }

    #[test]
    fn a_file_gives_its_text_without_the_last_line_break() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "to ken\r\n").unwrap();
        assert_eq!(expanded(&format!("${{file:{}}}", path.display())), "to ken");
    }
}
