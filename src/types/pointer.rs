//! Floor 0: places in JSON documents, as the routing file names them.

use std::sync::Arc;

/// One step of a [`Pointer`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// A key, or an index where the value is an array.
    Key(Box<str>),
    /// `*`: every key or element.
    Any,
}

/// A JSON Pointer (RFC 6901) in which `*` stands for any key or element.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pointer {
    text: Arc<str>,
    steps: Arc<[Step]>,
}

/// Why a text is not a JSON Pointer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PointerError {
    /// It is neither empty nor begins with `/`.
    #[error("a JSON Pointer begins with `/`, as in `/outputs/0/data`")]
    NoSlash,
    /// `~` is followed by neither 0 nor 1.
    #[error("in a JSON Pointer `~` is written `~0` and `/` inside a key `~1`")]
    Escape,
}

impl Pointer {
    /// Reads one; the empty text is the whole document.
    pub fn parse(text: &str) -> Result<Self, PointerError> {
        let steps: Vec<Step> = match text.strip_prefix('/') {
            None if text.is_empty() => Vec::new(),
            None => return Err(PointerError::NoSlash),
            Some(rest) => rest.split('/').map(parse_step).collect::<Result<_, _>>()?,
        };
        Ok(Self { text: text.into(), steps: steps.into() })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its steps from the top down.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether it can name more than one place.
    pub fn has_wildcard(&self) -> bool {
        self.steps.contains(&Step::Any)
    }
}

fn parse_step(raw: &str) -> Result<Step, PointerError> {
    if raw == "*" {
        return Ok(Step::Any);
    }
    let mut key = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        match (c, c == '~') {
            (_, false) => key.push(c),
            (_, true) => key.push(match chars.next() {
                Some('0') => '~',
                Some('1') => '/',
                _ => return Err(PointerError::Escape),
            }),
        }
    }
    Ok(Step::Key(key.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointer_unescapes_and_knows_wildcards() {
        let pointer = Pointer::parse("/a~1b/*/c~0d/0").expect("valid");
        assert_eq!(
            pointer.steps(),
            [Step::Key("a/b".into()), Step::Any, Step::Key("c~d".into()), Step::Key("0".into())]
        );
        assert!(pointer.has_wildcard());
        assert_eq!(Pointer::parse("outputs"), Err(PointerError::NoSlash));
        assert_eq!(Pointer::parse("/a~2"), Err(PointerError::Escape));
        assert_eq!(Pointer::parse("").expect("whole document").steps(), []);
    }
}
