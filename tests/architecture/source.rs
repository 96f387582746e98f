//! Reads source files as text: blanks what is not code, finds imports and measures functions. Not a parser: it
//! knows just enough of Rust for the rules, and the rules' own tests hold it to that.

use std::path::Path;

/// One source file.
pub(crate) struct Source {
    /// Below `src`, with `/`.
    pub(crate) path: String,
    /// As it is.
    pub(crate) text: String,
    /// The same with comments and literals blanked and without its tests; lines stay where they are.
    pub(crate) code: String,
}

impl Source {
    /// The top-level module it belongs to: `config` for `config/raw.rs`, `live` for `live.rs`.
    pub(crate) fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// Its own path as a module: `["config", "raw"]`, `["config"]` for `config/mod.rs`, none for the roots.
    pub(crate) fn module_path(&self) -> Vec<&str> {
        let path = self.path.strip_suffix(".rs").unwrap();
        let mut parts: Vec<&str> = path.split('/').collect();
        if matches!(parts.last(), Some(&"mod" | &"lib" | &"main")) {
            parts.pop();
        }
        parts
    }

    /// Every path it names that begins in this crate, as segments from the root, with the line.
    pub(crate) fn imports(&self) -> Vec<(usize, Vec<String>)> {
        let own = self.module_path();
        let mut found = Vec::new();
        for (word, at) in words(&self.code) {
            let rest = &self.code[at + word.len()..];
            let base: Vec<String> = match word {
                "crate" | "shadowpair" if rest.starts_with("::") => Vec::new(),
                // `super::super` is read at its first `super`.
                "super" if !self.code[..at].ends_with("super::") => {
                    let ups = 1 + rest.matches_from_start("::super");
                    own[..own.len().saturating_sub(ups)].iter().map(ToString::to_string).collect()
                }
                _ => continue,
            };
            let rest = rest.trim_start_matches("::super");
            let Some(rest) = rest.strip_prefix("::") else { continue };
            let line = line_of(&self.code, at);
            for branch in branches(rest) {
                found.push((line, base.iter().cloned().chain(branch).collect()));
            }
        }
        found
    }
}

/// How often a pattern is repeated at the beginning.
trait MatchesFromStart {
    fn matches_from_start(&self, pattern: &str) -> usize;
}

impl MatchesFromStart for str {
    fn matches_from_start(&self, pattern: &str) -> usize {
        (self.len() - self.trim_start_matches(pattern).len()) / pattern.len()
    }
}

/// The first two segments of every path in the tail of a `use` or an expression: `a::{b, c::d}` has `a b` and
/// `a c`.
fn branches(tail: &str) -> Vec<Vec<String>> {
    let tail = tail.trim_start();
    let Some(group) = tail.strip_prefix('{') else {
        let name: String = tail.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let Some(rest) = tail[name.len()..].strip_prefix("::") else { return vec![vec![name]] };
        let mut below: Vec<_> = branches(rest).into_iter().map(|b| vec![name.clone(), b[0].clone()]).collect();
        below.dedup();
        return below;
    };
    let mut items = vec![String::new()];
    let mut depth = 0;
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => items.push(String::new()),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                items.last_mut().unwrap().push(c);
            }
        }
    }
    items.iter().filter(|item| !item.trim().is_empty()).flat_map(|item| branches(item)).collect()
}

/// Every identifier of a text, with where it begins.
fn words(code: &str) -> impl Iterator<Item = (&str, usize)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = 0;
    std::iter::from_fn(move || {
        let start = rest + code[rest..].find(is_word)?;
        let end = code[start..].find(|c| !is_word(c)).map_or(code.len(), |len| start + len);
        rest = end;
        Some((&code[start..end], start))
    })
}

/// The line of a place in a text, from 1.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    1 + text[..at].matches('\n').count()
}

/// The text with comments, strings and characters as blanks, byte for byte as long, lines kept.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let len = comment_len(rest).or_else(|| literal_len(rest, &out)).unwrap_or(0);
        if len == 0 {
            let c = rest.chars().next().unwrap();
            out.push(c);
            at += c.len_utf8();
            continue;
        }
        out.extend(rest[..len].bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }));
        at += len;
    }
    out
}

/// The length of the comment that the text begins with.
fn comment_len(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if !rest.starts_with("/*") {
        return None;
    }
    let (mut depth, mut at) = (0_u32, 0);
    loop {
        match rest.get(at..at + 2) {
            Some("/*") => (depth, at) = (depth + 1, at + 2),
            Some("*/") => (depth, at) = (depth - 1, at + 2),
            Some(_) => at += 1,
            None if at + 2 > rest.len() => return Some(rest.len()),
            None => at += 1,
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// The length of the string, raw string or character that the text begins with; `before` tells `r"` from `for"`.
fn literal_len(rest: &str, before: &str) -> Option<usize> {
    let after_word = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    if let Some(raw) = rest.strip_prefix('r').filter(|_| !after_word || before.ends_with('b')) {
        let hashes = raw.matches_from_start("#");
        if raw[hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let end = raw[hashes + 1..].find(&close)?;
            return Some(1 + hashes + 1 + end + close.len());
        }
    }
    if rest.starts_with('"') {
        return closing(rest, '"');
    }
    // A lifetime has no quote after its first character, or none at all.
    let inner = rest.strip_prefix('\'')?;
    let first = inner.chars().next()?;
    if first == '\\' || inner[first.len_utf8()..].starts_with('\'') { closing(rest, '\'') } else { None }
}

/// The length up to the quote that closes the one at the beginning.
fn closing(rest: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if c == quote && !escaped {
            return Some(at + 1);
        }
        escaped = c == '\\' && !escaped;
    }
    None
}

/// Every source file, without those that hold tests only.
pub(crate) fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
                found.push(source(name, std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// One file from its text.
pub(crate) fn source(path: String, text: String) -> Source {
    let blanked = blank(&text);
    let end = blanked.find("#[cfg(test)]\nmod ").unwrap_or(blanked.len());
    Source { path, code: blanked[..end].to_string(), text }
}

/// Every function with a body: name, line, lines.
pub(crate) fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    let mut after_fn = false;
    for (word, at) in words(code) {
        if std::mem::replace(&mut after_fn, word == "fn")
            && let Some(len) = body_len(&code[at..])
        {
            found.push((word.to_string(), line_of(code, at), 1 + code[at..at + len].matches('\n').count()));
        }
    }
    found
}

/// From a function's name to the brace that closes its body; none for a declaration.
fn body_len(code: &str) -> Option<usize> {
    let (mut depth, mut open) = (0_i32, false);
    for (at, c) in code.char_indices() {
        match c {
            ';' if depth == 0 => return None,
            '{' if depth == 0 => (depth, open) = (1, true),
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if open && depth == 0 {
            return Some(at + 1);
        }
    }
    None
}
