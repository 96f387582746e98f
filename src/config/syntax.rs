//! Floor 1: what is not YAML, in words that say what to type instead. The parser's own words are written for those who
//! know its grammar.

use serde_saphyr::granit_parser::{ErrorKind, ScanError};

use super::fault::{Notes, Place};

/// Notes the fault at which the parser stopped.
pub(super) fn note(error: &ScanError, text: &str, notes: &mut Notes) {
    let marker = error.marker();
    let start = marker.byte_offset().unwrap_or_else(|| text.chars().take(marker.index()).map(char::len_utf8).sum());
    let (message, help) = explain(error.kind(), line_at(text, start));
    notes.fault(Place { start, end: start + 1 }, message, help);
}

fn line_at(text: &str, at: usize) -> &str {
    let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let start = text[..at].rfind('\n').map_or(0, |found| found + 1);
    text[start..].lines().next().unwrap_or_default()
}

fn explain(kind: &ErrorKind, line: &str) -> (String, &'static str) {
    let indented_by_tab = line.trim_start_matches([' ', '-']).starts_with('\t');
    match kind {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabAtBlockScalarStart
        | ErrorKind::TabInPlainScalar => ("a tab in the indentation".to_owned(), "YAML is indented with spaces"),
        _ if indented_by_tab => ("a tab in the indentation".to_owned(), "YAML is indented with spaces"),
        ErrorKind::UnknownAnchor => (
            "an alias without its anchor".to_owned(),
            "`*name` needs a `&name` before it; quote a text that begins with `*`",
        ),
        ErrorKind::RecursionLimitExceeded => ("nested too deep".to_owned(), "at most 64 levels are read"),
        ErrorKind::UnclosedQuotedScalar => ("a quote without its end".to_owned(), "close it with the same quote"),
        ErrorKind::UnclosedFlowCollection { .. }
        | ErrorKind::UnexpectedEofFlowMapping
        | ErrorKind::UnexpectedEofFlowSequence
        | ErrorKind::UnexpectedEofImplicitFlowMapping => {
            ("a `{` or `[` without its end".to_owned(), "close it with `}` or `]`")
        }
        // The most likely cause, and one that the parser's words do not hint at.
        _ if line.contains("${") => {
            (format!("not YAML: {kind}"), "inside `{ }` and `[ ]` a `${NAME}` stands in quotes: \"${NAME}\"")
        }
        ErrorKind::ExpectedFlowMappingSeparator => {
            ("a `,` or `}` is missing before this".to_owned(), "see where the mapping begins, and close it with `}`")
        }
        ErrorKind::ExpectedFlowSequenceSeparator => {
            ("a `,` or `]` is missing before this".to_owned(), "see where the list begins, and close it with `]`")
        }
        _ => (
            format!("not YAML: {kind}"),
            "see that keys are followed by `: `, and that those of one mapping begin in one column",
        ),
    }
}
