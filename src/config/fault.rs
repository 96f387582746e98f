//! Floor 1: what is wrong with a routing file, and how that is shown. A fault says where, what, and what would be
//! right, the way rustc does, because most readers meet the file's rules through it. It is complete in itself (its line
//! of the file included), so that the log, the admin interface and `check` can all show it long after the text is gone.
//!
//! No fault shows a secret: the excerpt is the line as it was written, with `${NAME}` and not its value, and secrets
//! that were typed into the file are starred out.

use std::fmt;

use super::secrets;

/// The most faults that one file is told of: a file of junk must not make a flood of its own.
const FAULTS_MAX: usize = 1_000;

/// The most characters of a source line that are shown around the marked place.
const EXCERPT_MAX: usize = 140;

/// How many bytes on either side of a place are looked at for its excerpt.
const WINDOW: usize = 2_048;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is taken, and probably does not do what its author thinks.
    Warning,
}

impl Severity {
    const fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// One thing that is wrong, ready to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// How bad it is.
    pub severity: Severity,
    /// The file's name, as it was given.
    pub file: String,
    /// Line and column, both from 1, the column in characters; none where the fault is the file itself.
    pub place: Option<(usize, usize)>,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: String,
    excerpt: Option<Excerpt>,
}

/// The marked line. Widths are terminal columns.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Excerpt {
    text: String,
    before: usize,
    marked: usize,
}

/// Escape sequences for a terminal; all empty elsewhere.
struct Paint {
    strong: &'static str,
    error: &'static str,
    warning: &'static str,
    rule: &'static str,
    end: &'static str,
}

const PLAIN: Paint = Paint { strong: "", error: "", warning: "", rule: "", end: "" };
const COLOUR: Paint =
    Paint { strong: "\x1b[1m", error: "\x1b[1;31m", warning: "\x1b[1;33m", rule: "\x1b[1;34m", end: "\x1b[0m" };

impl Fault {
    /// A fault of the file as a whole: it is missing, or is no text.
    pub(super) fn of_file(file: &str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: file.to_owned(),
            place: None,
            message: message.into(),
            help: help.into(),
            excerpt: None,
        }
    }

    /// As rustc would show it, with a line break at its end. `colour` is for terminals.
    pub fn render(&self, colour: bool) -> String {
        let paint = if colour { &COLOUR } else { &PLAIN };
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut out, paint);
        out
    }

    fn write(&self, out: &mut impl fmt::Write, paint: &Paint) -> fmt::Result {
        let Paint { strong, rule, end, .. } = paint;
        let level = match self.severity {
            Severity::Error => paint.error,
            Severity::Warning => paint.warning,
        };
        writeln!(out, "{level}{}{end}{strong}: {}{end}", self.severity.as_str(), self.message)?;
        let (line, column) = self.place.unwrap_or_default();
        let gutter = if line == 0 { 1 } else { line.to_string().len() };
        match self.place {
            Some(_) => writeln!(out, "{:gutter$}{rule}-->{end} {}:{line}:{column}", "", self.file)?,
            None => writeln!(out, "{:gutter$}{rule}-->{end} {}", "", self.file)?,
        }
        if let Some(Excerpt { text, before, marked }) = &self.excerpt {
            writeln!(out, "{:gutter$} {rule}|{end}", "")?;
            writeln!(out, "{rule}{line} |{end} {text}")?;
            let carets = "^".repeat(*marked);
            writeln!(out, "{:gutter$} {rule}|{end} {:before$}{level}{carets}{end}", "", "")?;
        }
        if !self.help.is_empty() {
            writeln!(out, "{:gutter$} {rule}={end} {strong}help{end}: {}", "", self.help)?;
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, &PLAIN)
    }
}

/// Why a file was refused: every error of it, and its warnings, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn new(faults: Vec<Fault>) -> Self {
        Self(faults)
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }

    /// How many errors there are.
    pub fn errors(&self) -> usize {
        self.0.iter().filter(|fault| fault.severity == Severity::Error).count()
    }

    /// All of them as rustc would show them, a blank line between two.
    pub fn render(&self, colour: bool) -> String {
        let each: Vec<String> = self.0.iter().map(|fault| fault.render(colour)).collect();
        each.join("\n")
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for Faults {}

/// A stretch of the file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Place {
    pub(super) start: usize,
    pub(super) end: usize,
}

/// A fault before its place was looked up in the text.
#[derive(Debug, PartialEq, Eq)]
struct Note {
    severity: Severity,
    at: Place,
    message: String,
    help: String,
}

/// Where readers leave what they find, so that one fault does not hide the next.
#[derive(Debug, Default)]
pub(super) struct Notes {
    notes: Vec<Note>,
    secrets: Vec<Place>,
}

impl Notes {
    /// The file is refused.
    pub(super) fn fault(&mut self, at: Place, message: impl Into<String>, help: impl Into<String>) {
        self.note(Severity::Error, at, message.into(), help.into());
    }

    /// The file is taken all the same.
    pub(super) fn warn(&mut self, at: Place, message: impl Into<String>, help: impl Into<String>) {
        self.note(Severity::Warning, at, message.into(), help.into());
    }

    /// What stands here is never shown.
    pub(super) fn secret(&mut self, at: Place) {
        self.secrets.push(at);
    }

    /// Whether the file is refused.
    pub(super) fn refused(&self) -> bool {
        self.notes.iter().any(|note| note.severity == Severity::Error)
    }

    fn note(&mut self, severity: Severity, at: Place, message: String, help: String) {
        self.notes.push(Note { severity, at, message, help });
    }

    /// Looks every place up in the text. What an alias repeats is told once.
    pub(super) fn into_faults(mut self, file: &str, text: &str) -> Vec<Fault> {
        self.notes.sort_by_key(|note| note.at.start);
        self.notes.dedup();
        let left_off = self.notes.len().saturating_sub(FAULTS_MAX);
        self.notes.truncate(FAULTS_MAX);
        let shown = hide(text, &self.secrets);
        let mut lines = Lines::new(text);
        let mut faults: Vec<Fault> = self.notes.into_iter().map(|note| lines.resolve(file, &shown, note)).collect();
        if left_off > 0 {
            let message = format!("{left_off} more faults are not shown");
            faults.push(Fault::of_file(file, message, "mend those above first"));
        }
        faults
    }
}

/// The text with its secrets starred out, byte for byte as long as before so that places stay true. Only what stands
/// between line breaks is starred.
fn hide(text: &str, secrets: &[Place]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for place in secrets {
        let Some(part) = bytes.get_mut(place.start..place.end) else { continue };
        // A reference to the environment is no secret, its value is.
        if part.windows(2).any(|pair| pair == b"${") {
            continue;
        }
        for byte in part.iter_mut().filter(|byte| !matches!(byte, b'\n' | b'\r')) {
            *byte = b'*';
        }
    }
    bytes
}

/// Walks the text forward once, however many faults are looked up.
struct Lines<'a> {
    text: &'a str,
    start: usize,
    number: usize,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, start: 0, number: 1 }
    }

    fn resolve(&mut self, file: &str, shown: &[u8], note: Note) -> Fault {
        let mut at = note.at.start.min(self.text.len());
        // A fault at the end of the file belongs to its last line, not to an empty one behind it.
        if at == self.text.len() {
            at = self.text.trim_end().len();
        }
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        if at < self.start {
            (self.start, self.number) = (0, 1);
        }
        while let Some(length) = self.text.get(self.start..at).and_then(|gap| gap.find('\n')) {
            self.start += length + 1;
            self.number += 1;
        }
        let rest = self.text.get(self.start..).unwrap_or_default();
        let line = rest.split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let column = line.get(..at - self.start).map_or(0, |before| before.chars().count());
        let length = self.text.get(at..note.at.end.max(at)).map_or(0, |marked| marked.chars().count());
        let (from, to) = window(line, at - self.start);
        let visible = shown.get(self.start + from..self.start + to).unwrap_or_default();
        let visible = String::from_utf8_lossy(visible);
        let visible = secrets::star_out_below(self.text.get(..self.start).unwrap_or_default(), &visible)
            .unwrap_or_else(|| secrets::star_out(&visible));
        let before = line.get(from..at - self.start).map_or(0, |before| before.chars().count());
        Fault {
            severity: note.severity,
            file: file.to_owned(),
            place: Some((self.number, column + 1)),
            message: note.message,
            help: note.help,
            excerpt: Some(excerpt(&visible, before, length)),
        }
    }
}

/// The bytes of a line that are looked at: all of a usual one, the neighbourhood of the place in a file that is one
/// endless line.
fn window(line: &str, at: usize) -> (usize, usize) {
    let mut from = at.saturating_sub(WINDOW);
    let mut to = (at + WINDOW).min(line.len());
    while !line.is_char_boundary(from) {
        from -= 1;
    }
    while !line.is_char_boundary(to) {
        to += 1;
    }
    (from, to)
}

/// The part of a line around the marked characters, with what a terminal could misread replaced.
fn excerpt(line: &str, column: usize, length: usize) -> Excerpt {
    let total = line.chars().count();
    let skipped = if total <= EXCERPT_MAX { 0 } else { column.saturating_sub(EXCERPT_MAX / 3) };
    let mut text = String::from(if skipped > 0 { "…" } else { "" });
    let (mut before, mut marked) = (usize::from(skipped > 0), 0);
    for (index, c) in line.chars().enumerate().skip(skipped).take(EXCERPT_MAX) {
        let (piece, width) = match c {
            '\t' => ("    ".to_owned(), 4),
            c if c.is_control() => ("\u{fffd}".to_owned(), 1),
            c => (c.to_string(), width_of(c)),
        };
        text.push_str(&piece);
        if index < column {
            before += width;
        } else if index < column + length {
            marked += width;
        }
    }
    if total > skipped + EXCERPT_MAX {
        text.push('…');
    }
    Excerpt { text: text.trim_end().to_owned(), before, marked: marked.max(1) }
}

/// Two columns for the usual wide scripts and pictures, so that the mark stands below its place.
fn width_of(c: char) -> usize {
    let wide = matches!(c as u32, 0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f | 0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd);
    if wide { 2 } else { 1 }
}

/// What somebody who wrote `word` most likely meant.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = plain(word);
    let near = |name: &&'a str| {
        let distance = distance(&wanted, &plain(name));
        (distance <= (wanted.len().max(name.chars().count()) / 3).max(1)).then_some(distance)
    };
    let ranked = known.into_iter().filter_map(|name| near(&name).map(|distance| (distance, name)));
    ranked.min_by_key(|(distance, _)| *distance).filter(|(distance, _)| *distance < wanted.len()).map(|(_, name)| name)
}

/// Case, `-` and `_` are slips of the same kind; the length is bounded because the distance is quadratic in it.
fn plain(word: &str) -> Vec<char> {
    word.chars().filter(|c| !matches!(c, '-' | '_')).take(64).flat_map(char::to_lowercase).collect()
}

/// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let replaced = last[j] + usize::from(x != y);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

/// Help for a word that is not among those known: the one that was meant, or all of them.
pub fn did_you_mean<'a>(word: &str, kind: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(name) = nearest(word, known.clone()) {
        return format!("did you mean `{name}`?");
    }
    let names: Vec<String> =
        known.into_iter().filter(|name| !name.is_empty()).take(40).map(|name| format!("`{name}`")).collect();
    match names.len() {
        0 => format!("there are no {kind}"),
        _ => format!("known {kind}: {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLOUR_CODES: &[&str] = &[COLOUR.strong, COLOUR.error, COLOUR.warning, COLOUR.rule, COLOUR.end];

    fn shown(text: &str, start: usize, end: usize) -> String {
        let mut notes = Notes::default();
        notes.fault(Place { start, end }, "wrong", "right");
        notes.into_faults("f", text).first().unwrap().render(false)
    }

    #[test]
    fn the_mark_stands_below_its_place() {
        let lines = |said: String| said.lines().skip(1).take(4).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(lines(shown("a: b\r\nc: dd\r\n", 9, 11)), [" --> f:2:4", "  |", "2 | c: dd", "  |    ^^"]);
        assert_eq!(lines(shown("版本: x", 8, 9)), [" --> f:1:5", "  |", "1 | 版本: x", "  |       ^"]);
        assert_eq!(lines(shown("\tx", 1, 2)), [" --> f:1:2", "  |", "1 |     x", "  |     ^"]);
        assert_eq!(lines(shown("x: 1\n\n", 6, 6)), [" --> f:1:5", "  |", "1 | x: 1", "  |     ^"]);
    }

    #[test]
    fn places_outside_the_text_and_inside_characters_are_survived() {
        for (start, end) in [(0, 0), (1, 2), (3, 1), (99, 100), (0, 99)] {
            assert!(shown("é🦀", start, end).starts_with("error: wrong"));
            assert!(shown("", start, end).starts_with("error: wrong"));
        }
    }

    #[test]
    fn an_endless_line_is_cut_to_the_neighbourhood_of_the_place() {
        let said = shown(&format!("{}bad{}", "x".repeat(100_000), "y".repeat(100_000)), 100_000, 100_003);
        assert!(said.len() < 1_000 && said.contains("xbady") && said.contains("f:1:100001"));
    }

    #[test]
    fn slips_of_the_pen_are_seen_through() {
        let known = ["percent", "timeout", "max_in_flight", "model"];
        assert_eq!(nearest("precent", known), Some("percent"));
        assert_eq!(nearest("maxInFlight", known), Some("max_in_flight"));
        assert_eq!(nearest("time-out", known), Some("timeout"));
        assert_eq!(nearest("mirror", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(did_you_mean("xyz", "keys", ["a", "bc"]), "known keys: `a`, `bc`");
    }

    #[test]
    fn colour_stands_around_the_same_text() {
        let mut notes = Notes::default();
        notes.warn(Place { start: 0, end: 1 }, "wrong", "right");
        let faults = Faults::new(notes.into_faults("f", "x"));
        let coloured = faults.render(true);
        assert!(coloured.starts_with("\x1b[1;33mwarning"));
        let bare = COLOUR_CODES.iter().fold(coloured, |text, code| text.replace(code, ""));
        assert_eq!(bare, faults.render(false));
        assert_eq!(faults.errors(), 0);
    }
}
