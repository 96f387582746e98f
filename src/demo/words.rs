//! Floor 7: how the demo writes numbers, paragraphs and commands that can be pasted into a shell.

/// `1234567` as `1,234,567`.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A share as `94.7 %`; nothing of nothing is `0.0 %`.
pub(super) fn percent(part: u64, whole: u64) -> String {
    let share = if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 };
    format!("{share:.1} %")
}

/// A paragraph broken into indented lines of at most 98 columns; a longer word stands alone.
pub(super) fn paragraph(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::from(" ");
    for word in text.split_whitespace() {
        if line.trim().is_empty() || line.chars().count() + word.chars().count() < 98 {
            line.push(' ');
        } else {
            lines.push_str(&line);
            lines.push('\n');
            line = String::from("  ");
        }
        line.push_str(word);
    }
    lines + &line + "\n"
}

/// A word as a POSIX shell reads it back.
pub(super) fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,+=@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three() {
        let written: Vec<String> = [0, 999, 1_000, 12_345, 1_234_567].map(thousands).into();
        assert_eq!(written, ["0", "999", "1,000", "12,345", "1,234,567"]);
    }

    #[test]
    fn a_share_has_one_decimal() {
        assert_eq!(percent(1917, 2000), "95.8 %");
        assert_eq!(percent(0, 0), "0.0 %");
    }

    #[test]
    fn a_paragraph_is_broken_between_words() {
        let text = paragraph(&["word"; 40].join(" "));
        assert!(text.lines().all(|line| line.starts_with("  word") && line.chars().count() <= 98));
        assert_eq!(text.split_whitespace().count(), 40);
        assert_eq!(paragraph("one two"), "  one two\n");
    }

    #[test]
    fn a_word_survives_the_shell() {
        assert_eq!(shell("./demo/pairs"), "./demo/pairs");
        assert_eq!(shell("my demo"), "'my demo'");
        assert_eq!(shell("it's"), r"'it'\''s'");
        assert_eq!(shell(""), "''");
    }
}
