//! Floor 2: the reader behind [`Doc`]. Written by hand because it keeps places and tokens, which no general reader
//! does, and runs for every body of every pair; safe on hostile input by a depth limit and one pass.

use super::{Doc, Kind, MAX_DEPTH, Node};
use crate::types::scan::{digits, others_than_digits, unescaped};

/// Why a body is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It is not text.
    #[error("is not JSON: not UTF-8")]
    NotUtf8,
    /// It breaks the grammar at this byte.
    #[error("is not JSON: byte {0} is out of place")]
    Syntax(usize),
    /// It is nested deeper than [`MAX_DEPTH`].
    #[error("is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// Its places do not fit 32 bits.
    #[error("is larger than 4 GiB")]
    TooLarge,
}

/// Reads a body; see [`Doc::parse`].
pub(super) fn parse(body: &[u8]) -> Result<Doc<'_>, ParseError> {
    if u32::try_from(body.len()).is_err() {
        return Err(ParseError::TooLarge);
    }
    let text = std::str::from_utf8(body).map_err(|_| ParseError::NotUtf8)?;
    // As many as an array of numbers has, and a few keys: growing would copy them all.
    let nodes = Vec::with_capacity(body.len() / 8 + 16);
    let mut parser = Parser { bytes: body, pos: 0, nodes, strict: true };
    parser.skip_space();
    parser.value(0)?;
    parser.skip_space();
    if parser.pos < body.len() {
        return Err(parser.syntax());
    }
    Ok(Doc { text, nodes: parser.nodes, strict: parser.strict })
}

struct Parser<'a> {
    /// UTF-8, checked.
    bytes: &'a [u8],
    pos: usize,
    nodes: Vec<Node>,
    strict: bool,
}

impl Parser<'_> {
    fn syntax(&self) -> ParseError {
        ParseError::Syntax(self.pos)
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.pos).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.pos += 1;
        }
    }

    /// Adds a node that ends here. Places fit 32 bits: `parse` has seen to it, and no node is shorter than a byte.
    fn push(&mut self, kind: Kind, start: usize) -> usize {
        let at = self.nodes.len();
        self.nodes.push(Node { start: start as u32, end: self.pos as u32, next: at as u32 + 1, kind });
        at
    }

    fn value(&mut self, depth: usize) -> Result<(), ParseError> {
        match self.peek() {
            Some(b'{') => self.container(depth, Kind::Object, b'}'),
            Some(b'[') => self.container(depth, Kind::Array, b']'),
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word(b"true", Kind::True),
            Some(b'f') => self.word(b"false", Kind::False),
            Some(b'n') => self.word(b"null", Kind::Null),
            Some(b'N') => self.lenient_number(b"NaN"),
            Some(b'I') => self.lenient_number(b"Infinity"),
            _ => Err(self.syntax()),
        }
    }

    fn container(&mut self, depth: usize, kind: Kind, close: u8) -> Result<(), ParseError> {
        if depth == MAX_DEPTH {
            return Err(ParseError::TooDeep);
        }
        let open = self.push(kind, self.pos);
        self.pos += 1;
        self.skip_space();
        if kind == Kind::Array {
            self.numbers();
        }
        if self.peek() != Some(close) {
            loop {
                if kind == Kind::Object {
                    self.key()?;
                }
                self.value(depth + 1)?;
                self.skip_space();
                match self.peek() {
                    Some(b',') => self.pos += 1,
                    Some(byte) if byte == close => break,
                    _ => return Err(self.syntax()),
                }
                self.skip_space();
            }
        }
        self.pos += 1;
        self.nodes[open].end = self.pos as u32;
        self.nodes[open].next = self.nodes.len() as u32;
        Ok(())
    }

    /// The numbers that an array begins with and that are written as most are, each with the comma behind it: arrays of them
    /// are most of what models say. What is written in another way, and the last, is left to the others.
    fn numbers(&mut self) {
        while let Some((token, next)) = plain_number(&self.bytes[self.pos..]) {
            let (start, at) = (self.pos, self.nodes.len() as u32);
            let end = (start + token) as u32;
            self.nodes.push(Node { start: start as u32, end, next: at + 1, kind: Kind::Number });
            self.pos = start + next;
        }
    }

    fn key(&mut self) -> Result<(), ParseError> {
        if self.peek() != Some(b'"') {
            return Err(self.syntax());
        }
        self.string()?;
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.syntax());
        }
        self.pos += 1;
        self.skip_space();
        Ok(())
    }

    fn string(&mut self) -> Result<(), ParseError> {
        let start = self.pos;
        let mut kind = Kind::Plain;
        self.pos += 1;
        loop {
            self.pos += unescaped(&self.bytes[self.pos..]);
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    kind = Kind::Escaped;
                    self.escape()?;
                }
                _ => return Err(self.syntax()),
            }
        }
        self.pos += 1;
        self.push(kind, start);
        Ok(())
    }

    fn escape(&mut self) -> Result<(), ParseError> {
        self.pos += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.pos += 1,
            Some(b'u') => {
                self.pos += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|b| b.is_ascii_hexdigit()) {
                        return Err(self.syntax());
                    }
                    self.pos += 1;
                }
            }
            _ => return Err(self.syntax()),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), ParseError> {
        let start = self.pos;
        if self.peek() == Some(b'-') {
            self.pos += 1;
            if self.peek() == Some(b'I') {
                self.pos = start;
                return self.lenient_number(b"-Infinity");
            }
        }
        match self.peek() {
            Some(b'0') => self.pos += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.pos += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.pos += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.pos += 1;
            }
            self.digits()?;
        }
        self.push(Kind::Number, start);
        Ok(())
    }

    /// At least one digit.
    fn digits(&mut self) -> Result<(), ParseError> {
        let count = digits(&self.bytes[self.pos..]);
        self.pos += count;
        if count == 0 { Err(self.syntax()) } else { Ok(()) }
    }

    fn word(&mut self, word: &[u8], kind: Kind) -> Result<(), ParseError> {
        if !self.bytes[self.pos..].starts_with(word) {
            return Err(self.syntax());
        }
        let start = self.pos;
        self.pos += word.len();
        self.push(kind, start);
        Ok(())
    }

    fn lenient_number(&mut self, word: &[u8]) -> Result<(), ParseError> {
        self.strict = false;
        self.word(word, Kind::Number)
    }
}

/// Of a number without exponent, with a comma, at most one space and another number behind it, the length, and where that
/// other one begins. What is longer than sixteen bytes with these is left to the others.
fn plain_number(bytes: &[u8]) -> Option<(usize, usize)> {
    let sixteen = bytes.first_chunk::<16>()?;
    let sign = usize::from(sixteen[0] == b'-');
    let mut others = others_than_digits(*sixteen) >> (8 * sign);
    let whole = others.trailing_zeros() as usize / 8;
    let mut end = sign + whole;
    // A zero stands alone.
    if whole == 0 || (whole > 1 && sixteen[sign] == b'0') {
        return None;
    }
    if sixteen.get(end) == Some(&b'.') {
        others &= others - 1;
        end = sign + others.trailing_zeros() as usize / 8;
        if end == sign + whole + 1 {
            return None;
        }
    }
    match sixteen.get(end..end + 3)? {
        [b',', b' ', b'-' | b'0'..=b'9'] => Some((end, end + 2)),
        [b',', b'-' | b'0'..=b'9', _] => Some((end, end + 1)),
        _ => None,
    }
}

/// What a string with escapes says. Its escapes are well-formed: the parser has seen to it.
pub(super) fn unescape(raw: &str) -> Vec<u8> {
    let mut said = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((plain, escape)) = rest.split_once('\\') {
        said.extend_from_slice(plain.as_bytes());
        let mut chars = escape.chars();
        match chars.next() {
            Some('b') => said.push(8),
            Some('f') => said.push(12),
            Some('n') => said.push(b'\n'),
            Some('r') => said.push(b'\r'),
            Some('t') => said.push(b'\t'),
            Some('u') => {
                rest = unescape_unicode(chars.as_str(), &mut said);
                continue;
            }
            Some(c) => said.push(c as u8),
            None => {}
        }
        rest = chars.as_str();
    }
    said.extend_from_slice(rest.as_bytes());
    said
}

/// Adds the character of a `\u` escape, or of two that make a pair; returns what follows.
fn unescape_unicode<'a>(after_u: &'a str, said: &mut Vec<u8>) -> &'a str {
    let (first, rest) = hex_unit(after_u);
    if (0xd800..0xdc00).contains(&first)
        && let Some((second @ 0xdc00..0xe000, rest)) = rest.strip_prefix("\\u").map(hex_unit)
    {
        push_code(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00), said);
        return rest;
    }
    push_code(first, said);
    rest
}

fn hex_unit(text: &str) -> (u32, &str) {
    let (hex, rest) = text.split_at_checked(4).unwrap_or(("", text));
    (u32::from_str_radix(hex, 16).unwrap_or(0xfffd), rest)
}

/// Adds a code point as UTF-8; half a surrogate pair as the three bytes that its number would have (WTF-8), so that
/// it equals itself and nothing else.
fn push_code(code: u32, said: &mut Vec<u8>) {
    match char::from_u32(code) {
        Some(c) => said.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        None => said.extend([0xe0 | (code >> 12) as u8, 0x80 | (code >> 6 & 0x3f) as u8, 0x80 | (code & 0x3f) as u8]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    #[test]
    fn what_is_json_is_read_and_what_is_not_is_refused() {
        for good in ["0", " [ ] ", "{}", r#"{"a":[1,-0.5e+3,"x\n",true,false,null]}"#, "-0", "1E400", r#""\ud800""#] {
            assert!(parse(good.as_bytes()).is_ok_and(|doc| doc.is_strict()), "{good}");
        }
        let bad =
            ["", " ", "01", "1.", ".5", "+1", "-", "1e", "[1,]", "{\"a\"}", "{a:1}", "[1 2]", "\"\n\"", "nul", "1 2"];
        for bad in bad.into_iter().chain(["\u{feff}1", r#""\x""#, r#""\u12g4""#, "\"", "[", "{\"a\":1,}", "'a'"]) {
            assert!(matches!(parse(bad.as_bytes()), Err(ParseError::Syntax(_))), "{bad}");
        }
        assert_eq!(parse(b"\"\xff\"").unwrap_err(), ParseError::NotUtf8);
    }

    #[test]
    fn nan_and_infinity_are_read_but_are_not_strict() {
        let body = include_bytes!("../../../tests/fixtures/payloads/tfserving/nan.response.json");
        assert!(!parse(body).unwrap().is_strict());
        for bad in ["nan", "-NaN", "Inf", "+Infinity", "NaNs"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let trailing_dots = include_bytes!("../../../tests/fixtures/payloads/oip-v2/digits-not-strict.request.json");
        assert!(matches!(parse(trailing_dots), Err(ParseError::Syntax(_))));
    }

    #[test]
    fn nesting_ends_at_the_limit() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert_eq!(parse(nested(MAX_DEPTH + 1).as_bytes()).unwrap_err(), ParseError::TooDeep);
        assert_eq!(parse("[".repeat(10_000).as_bytes()).unwrap_err(), ParseError::TooDeep);
        assert_eq!(parse("{\"a\":".repeat(10_000).as_bytes()).unwrap_err(), ParseError::TooDeep);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_serde_json_agrees(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            agree(&body)?;
        }

        #[test]
        fn on_almost_json_serde_json_agrees(body in r#"[\[\]{}:,"\\ 0-9eE.+\-ntfu\n]{0,24}"#) {
            agree(body.as_bytes())?;
        }

        #[test]
        fn on_arrays_of_almost_numbers_serde_json_agrees(body in r#"\[((-?[0-9]{1,9}(\.[0-9]{0,9})?(e[0-9]?)?|-?[0-9]{1,2}(\.[0-9]{0,2})?| ),? ?){0,8}\]"#) {
            agree(body.as_bytes())?;
            if let Ok(doc) = parse(body.as_bytes()) {
                let values: Vec<&str> = doc.root().elements().map(|value| value.raw()).collect();
                let theirs: Vec<&serde_json::value::RawValue> = serde_json::from_str(&body).expect("they agree");
                prop_assert_eq!(values, theirs.iter().map(|value| value.get()).collect::<Vec<_>>());
            }
        }

        #[test]
        fn unescaping_agrees_with_serde_json(text in any::<String>(), escaped in r#"(\\u00[0-9a-f]{2}|\\[nrtbf/"]|\\ud83e\\udd80|[a-zé])*"#) {
            let sent = serde_json::to_string(&text).unwrap();
            for sent in [sent, format!("\"{escaped}\"")] {
                let doc = parse(sent.as_bytes()).unwrap();
                prop_assert_eq!(doc.root().as_text().to_str(), serde_json::from_str::<String>(&sent).unwrap());
            }
        }
    }

    fn agree(body: &[u8]) -> Result<(), TestCaseError> {
        let ours = parse(body).is_ok_and(|doc| doc.is_strict());
        let theirs = std::str::from_utf8(body).is_ok() && serde_json::from_slice::<IgnoredAny>(body).is_ok();
        prop_assert_eq!(ours, theirs);
        Ok(())
    }
}
