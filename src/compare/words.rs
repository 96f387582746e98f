//! Floor 5: how numbers read in a report for people: as many digits as they are good for, units that fit, and a
//! share that is not all of it never shown as 100 %.

use super::report::{Estimate, Group, Share};

/// A name longer than this is cut: it is not a name but a text.
const NAME_CHARS: usize = 80;

/// What stands where nothing can be told.
pub(super) const NOTHING: &str = "–";

/// `1,234,567`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 pair was`, `2 pairs were`.
pub(super) fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// A share in per cent, with more digits near both ends: `97.3 %`, `99.96 %`, `0.04 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{} %", bare_percent(share))
}

fn bare_percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent == 0.0 || percent == 100.0 {
        return format!("{percent:.0}");
    }
    let from_end = percent.min(100.0 - percent);
    let digits = if from_end >= 0.095 {
        1
    } else if from_end >= 0.0095 {
        2
    } else {
        4
    };
    // What lies between two digits goes the same way however it was computed: 1 - 0.8425 reads as 0.1575 does.
    let percent = (percent * 1e9).round() / 1e9;
    format!("{percent:.digits$}")
}

/// The value of a share, as [`percent`].
pub(super) fn value(share: Share) -> String {
    share.value.map_or(NOTHING.into(), percent)
}

/// The interval of a share: `96.5–97.9 %`.
pub(super) fn interval(share: Share) -> String {
    match (share.low, share.high) {
        (Some(low), Some(high)) => format!("{}–{} %", bare_percent(low), bare_percent(high)),
        _ => NOTHING.into(),
    }
}

/// A time in the unit that fits: `870 µs`, `12.3 ms`, `4.56 s`.
pub(super) fn time(us: f64) -> String {
    let size = us.abs();
    if size < 1_000.0 {
        format!("{us:.0} µs")
    } else if size < 1_000_000.0 {
        format!("{} ms", three_digits(us / 1_000.0))
    } else {
        format!("{} s", three_digits(us / 1_000_000.0))
    }
}

/// A number of at least 1 with three significant digits.
fn three_digits(x: f64) -> String {
    let digits = if x.abs() >= 99.95 {
        0
    } else if x.abs() >= 9.995 {
        1
    } else {
        2
    };
    format!("{x:.digits$}")
}

/// A number of any size with three significant digits, without trailing zeros.
pub(super) fn number(x: f64) -> String {
    if x == 0.0 {
        return "0".into();
    }
    if !(1e-4..1e6).contains(&x.abs()) {
        return format!("{x:.2e}");
    }
    let digits = (2 - x.abs().log10().floor() as i32).clamp(0, 7) as usize;
    let text = format!("{x:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

/// A chance: `p = 0.03`, `p < 0.001`.
pub(super) fn chance(p: f64) -> String {
    if p < 0.001 {
        "p < 0.001".into()
    } else if p < 0.1 {
        format!("p = {p:.3}")
    } else {
        format!("p = {p:.2}")
    }
}

/// An estimate's value, written by `show`.
pub(super) fn estimate(estimate: Estimate, show: impl Fn(f64) -> String) -> String {
    estimate.value.map_or(NOTHING.into(), show)
}

/// An estimate's interval, written by `show`; an end that the sample cannot bound is open.
pub(super) fn range(estimate: Estimate, show: impl Fn(f64) -> String) -> String {
    match (estimate.low, estimate.high) {
        (Some(low), Some(high)) => format!("{} to {}", show(low), show(high)),
        (Some(low), None) => format!("from {}", show(low)),
        (None, Some(high)) => format!("up to {}", show(high)),
        (None, None) => NOTHING.into(),
    }
}

/// What a sentence and a column call the candidate.
pub(super) fn second(group: &Group) -> &str {
    if group.role == "control" { "its second call" } else { &group.candidate }
}

/// The beginning of a long name, cut between characters.
pub(super) fn cut(text: &str) -> String {
    match text.char_indices().nth(NAME_CHARS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(counted(1, "pair", "pairs"), "1 pair");
    }

    #[test]
    fn a_share_that_is_not_all_never_reads_as_all() {
        let shares = [0.0, 0.00001, 0.0004, 0.5, 0.973, 0.99, 0.9996, 0.999_99, 1.0];
        let texts = shares.map(percent);
        let expected = ["0 %", "0.0010 %", "0.04 %", "50.0 %", "97.3 %", "99.0 %", "99.96 %", "99.9990 %", "100 %"];
        assert_eq!(texts, expected);
    }

    #[test]
    fn times_have_the_unit_that_fits() {
        let texts = [0.0, 870.0, 12_345.0, 999_999.0, 1_500_000.0, -3_100.0].map(time);
        assert_eq!(texts, ["0 µs", "870 µs", "12.3 ms", "1000 ms", "1.50 s", "-3.10 ms"]);
    }

    #[test]
    fn numbers_keep_three_digits() {
        let texts = [0.0, 0.001234, 1.5, 1234.56, 1e-9, 1e9, -0.25].map(number);
        assert_eq!(texts, ["0", "0.00123", "1.5", "1235", "1.00e-9", "1.00e9", "-0.25"]);
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        assert_eq!(cut(&"€".repeat(81)).chars().count(), 81);
        assert!(cut(&"€".repeat(81)).ends_with("€…"));
        assert_eq!(cut("fraud"), "fraud");
    }
}
