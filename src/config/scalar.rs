//! Floor 1: what a scalar's text means as a size, duration, percentage or number. Pure. Each reader takes one spelling,
//! the documented one; where another is just as clear (`256KB`, `1:30`, `1e1`), the fault says how it is written here.
//! Guessing would be kinder once and cost somebody a night later.

use std::time::Duration;

/// Why a text is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    /// What was asked for: "a size".
    pub(super) expected: &'static str,
    /// The right spelling of what was probably meant. Made from the value, so not for one that came from the
    /// environment.
    pub(super) fix: Option<String>,
    /// How it is spelt in general.
    pub(super) form: &'static str,
}

fn wrong<T>(expected: &'static str, fix: Option<String>, form: &'static str) -> Result<T, Wrong> {
    Err(Wrong { expected, fix, form })
}

const SIZES: &[(&str, u64)] = &[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// `256KiB`, `1MiB`, `8GiB`, or plain bytes: `1024`.
pub(super) fn size(text: &str) -> Result<u64, Wrong> {
    let unit = SIZES.iter().find_map(|(unit, factor)| text.strip_suffix(unit).map(|number| (number, *factor)));
    let (number, factor) = unit.unwrap_or((text, 1));
    if let Some(size) = digits(number).and_then(|count| count.checked_mul(factor)) {
        return Ok(size);
    }
    wrong(
        "a size",
        meant_size(text),
        "write a whole number with KiB, MiB or GiB, as in `256KiB`; without a unit it is bytes",
    )
}

fn meant_size(text: &str) -> Option<String> {
    let (number, unit) = split_unit(text)?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" | "bytes" => 1.0,
        "k" | "kb" | "ki" | "kib" => 1024.0,
        "m" | "mb" | "mi" | "mib" => 1_048_576.0,
        "g" | "gb" | "gi" | "gib" => 1_073_741_824.0,
        "t" | "tb" | "ti" | "tib" => 1_099_511_627_776.0,
        _ => return None,
    };
    let bytes = number * factor;
    // Up to here every whole number of bytes is exact.
    if bytes.fract() != 0.0 || !(0.0..9e15).contains(&bytes) {
        return None;
    }
    Some(format!("write `{}`", show_size(bytes as u64)))
}

/// A size as the file spells it.
pub(super) fn show_size(bytes: u64) -> String {
    match SIZES.iter().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => bytes.to_string(),
    }
}

const DURATIONS: &[(&str, u64)] = &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Ten years: longer is a slip, and would overflow clocks.
const DURATION_MAX_MS: u64 = 3_650 * 86_400_000;

const DURATION_FORM: &str = "write a whole number with ms, s, m, h or d, as in `250ms` or `2s`";

/// `250ms`, `2s`, `5m`, `1h`, `45d`.
pub(super) fn duration(text: &str) -> Result<Duration, Wrong> {
    let found = DURATIONS.iter().find_map(|(unit, factor)| {
        let count = digits(text.strip_suffix(unit)?)?;
        Some(count.checked_mul(*factor).filter(|ms| *ms <= DURATION_MAX_MS))
    });
    match found {
        Some(Some(ms)) => Ok(Duration::from_millis(ms)),
        Some(None) => wrong("a duration of at most 3650d", None, DURATION_FORM),
        None => wrong("a duration", meant_duration(text), DURATION_FORM),
    }
}

fn meant_duration(text: &str) -> Option<String> {
    if let Some(number) = digits(text) {
        return Some(if number == 0 { "write `0s`".to_owned() } else { format!("write `{number}ms` or `{number}s`") });
    }
    let ms = clock_ms(text).or_else(|| compound_ms(text))?;
    if ms.fract() != 0.0 || !(0.0..=DURATION_MAX_MS as f64).contains(&ms) {
        return None;
    }
    Some(format!("write `{}`", show_duration(Duration::from_millis(ms as u64))))
}

/// `1:30`, which YAML 1.1 reads as 90.
fn clock_ms(text: &str) -> Option<f64> {
    let parts: Vec<&str> = text.split(':').collect();
    if !(2..=3).contains(&parts.len()) {
        return None;
    }
    let seconds = parts
        .into_iter()
        .try_fold(0_u64, |sum, part| sum.checked_mul(60)?.checked_add(part.parse::<u32>().ok()?.into()))?;
    Some(seconds as f64 * 1_000.0)
}

/// `1.5s`, `2 s`, `1m30s`, `5min`.
fn compound_ms(text: &str) -> Option<f64> {
    let (mut rest, mut sum) = (Some(text.trim()).filter(|text| !text.is_empty())?, 0.0);
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| c.is_alphabetic())?;
        let (number, tail) = rest.split_at(unit_at);
        let end = tail.find(|c: char| !c.is_alphabetic()).unwrap_or(tail.len());
        let factor = match tail[..end].to_lowercase().as_str() {
            "ms" | "msec" | "millis" => 1.0,
            "s" | "sec" | "secs" | "second" | "seconds" => 1_000.0,
            "m" | "min" | "mins" | "minute" | "minutes" => 60_000.0,
            "h" | "hour" | "hours" => 3_600_000.0,
            "d" | "day" | "days" => 86_400_000.0,
            _ => return None,
        };
        sum += number.trim().parse::<f64>().ok()? * factor;
        rest = tail[end..].trim_start();
    }
    Some(sum)
}

/// A duration as the file spells it.
pub(super) fn show_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if ms == 0 {
        return "0s".to_owned();
    }
    let (unit, factor) = DURATIONS.iter().rev().find(|(_, factor)| ms.is_multiple_of(*factor)).unwrap_or(&("ms", 1));
    format!("{}{unit}", ms / factor)
}

/// Hundredths of a per cent, 0 to 10,000.
pub(super) fn percent(text: &str) -> Result<u16, Wrong> {
    const FORM: &str = "write a number from 0 to 100 with at most two decimals, as in `5` or `0.25`";
    const EXPECTED: &str = "a percentage from 0 to 100";
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    // `.5` is clear; so is `0.5`.
    let whole = if whole.is_empty() && text.starts_with('.') { "0" } else { whole };
    let tidy = (1..=2).contains(&decimals.len()) && decimals.bytes().all(|b| b.is_ascii_digit());
    let points = digits(whole).filter(|_| tidy).and_then(|whole| {
        let hundredths = format!("{decimals:0<2}").parse::<u64>().ok()?;
        whole.checked_mul(100)?.checked_add(hundredths)
    });
    match points {
        Some(points) if points <= 10_000 => Ok(points as u16),
        Some(_) => wrong(EXPECTED, None, FORM),
        None => wrong(EXPECTED, meant_percent(text), FORM),
    }
}

fn meant_percent(text: &str) -> Option<String> {
    let number = text.trim_end_matches('%').trim().trim_start_matches('+').replace(',', ".");
    let meant = number.parse::<f64>().ok().filter(|value| (0.0..=100.0).contains(value))?;
    let rounded = (meant * 100.0).round() / 100.0;
    // What cannot be written with two decimals is the author's to decide.
    let close = if (rounded - meant).abs() < 1e-9 { "write" } else { "two decimals at most: write" };
    Some(format!("{close} `{rounded}`"))
}

/// A whole number between bounds, in digits.
pub(super) fn whole(text: &str, least: u64, most: u64) -> Result<u64, Wrong> {
    match digits(text) {
        Some(number) if (least..=most).contains(&number) => Ok(number),
        Some(number) if number < least => {
            wrong("a larger number", Some(format!("at least {least}")), "write a whole number, as in `16`")
        }
        Some(_) => wrong("a smaller number", Some(format!("at most {most}")), "write a whole number, as in `16`"),
        None => wrong("a whole number", meant_whole(text, least, most), "write a whole number in digits, as in `16`"),
    }
}

fn meant_whole(text: &str, least: u64, most: u64) -> Option<String> {
    let number = text.trim().replace(['_', ','], "").parse::<f64>().ok()?;
    let fits = number.fract() == 0.0 && (least as f64..=most as f64).contains(&number) && number < 9e15;
    fits.then(|| format!("write `{}`", number as u64))
}

/// A number that has a value: `0.001`, `1e-3`, `5`.
pub(super) fn number(text: &str) -> Result<f64, Wrong> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && !text.starts_with('+') => Ok(number),
        _ => wrong("a number", None, "write a number, as in `0.001` or `1e-3`"),
    }
}

/// `true` or `false`.
pub(super) fn truth(text: &str) -> Result<bool, Wrong> {
    let meant = match text {
        "true" | "True" | "TRUE" => return Ok(true),
        "false" | "False" | "FALSE" => return Ok(false),
        _ => match text.to_ascii_lowercase().as_str() {
            "yes" | "on" | "y" | "1" => Some("write `true`".to_owned()),
            "no" | "off" | "n" | "0" => Some("write `false`".to_owned()),
            _ => None,
        },
    };
    wrong("`true` or `false`", meant, "write `true` or `false`")
}

/// Digits only; no sign, no blank, and no leading zero, which some readers of YAML take for octal.
fn digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

/// `0.5 MiB` is 0.5 and `MiB`.
fn split_unit(text: &str) -> Option<(f64, &str)> {
    let at = text.find(|c: char| c.is_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number = number.trim().replace('_', "").parse::<f64>().ok()?;
    Some((number, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fix<T: std::fmt::Debug>(result: Result<T, Wrong>) -> String {
        let wrong = result.expect_err("wrong");
        wrong.fix.unwrap_or_else(|| wrong.form.to_owned())
    }

    #[test]
    fn sizes_have_one_spelling_and_the_others_are_told_it() {
        assert_eq!(size("256KiB"), Ok(262_144));
        assert_eq!(size("8GiB"), Ok(8 << 30));
        assert_eq!(size("1024"), Ok(1024));
        assert_eq!(size("0"), Ok(0));
        assert_eq!(fix(size("256KB")), "write `256KiB`");
        assert_eq!(fix(size("256kib")), "write `256KiB`");
        assert_eq!(fix(size("0.5MiB")), "write `512KiB`");
        assert_eq!(fix(size("1 MiB")), "write `1MiB`");
        assert_eq!(fix(size("1_000")), "write `1000`");
        for text in ["", "KiB", "-1KiB", "99999999999999999999GiB", "nanKiB", "1e400KiB", "5 apples"] {
            assert!(fix(size(text)).starts_with("write a whole number"), "{text}");
        }
    }

    #[test]
    fn durations_have_one_spelling_and_the_others_are_told_it() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("45d"), Ok(Duration::from_secs(45 * 86_400)));
        assert_eq!(fix(duration("250")), "write `250ms` or `250s`");
        assert_eq!(fix(duration("0")), "write `0s`");
        assert_eq!(fix(duration("1:30")), "write `90s`");
        assert_eq!(fix(duration("1.5s")), "write `1500ms`");
        assert_eq!(fix(duration("1m30s")), "write `90s`");
        assert_eq!(fix(duration("5 min")), "write `5m`");
        for text in ["", "s", "-1s", "99999999999999999999d", "4000d", "1:2:3:4", "ms5", "1:é"] {
            assert!(fix(duration(text)).starts_with("write a whole number"), "{text}");
        }
    }

    #[test]
    fn percentages_are_exact() {
        assert_eq!(percent("5"), Ok(500));
        assert_eq!(percent("0.25"), Ok(25));
        assert_eq!(percent(".5"), Ok(50));
        assert_eq!(percent("100"), Ok(10_000));
        assert_eq!(percent("100.00"), Ok(10_000));
        assert_eq!(fix(percent("05")), "write `5`");
        assert_eq!(fix(percent("1e1")), "write `10`");
        assert_eq!(fix(percent("5 %")), "write `5`");
        assert_eq!(fix(percent("0,5")), "write `0.5`");
        assert_eq!(fix(percent("5.001")), "two decimals at most: write `5`");
        for text in ["", ".", "-1", "100.01", "101", "nan", "five", "5.5.5"] {
            assert!(fix(percent(text)).starts_with("write a number from"), "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for text in ["256KiB", "10GiB", "1000", "0", "1TiB"] {
            assert_eq!(show_size(size(text).unwrap()), text);
        }
        for text in ["250ms", "90s", "45d", "0s", "5m"] {
            assert_eq!(show_duration(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn whole_numbers_and_truths_are_told_their_spelling() {
        assert_eq!(whole("16", 0, 100), Ok(16));
        assert_eq!(fix(whole("1e1", 0, 100)), "write `10`");
        assert_eq!(fix(whole("007", 0, 100)), "write `7`");
        assert_eq!(fix(whole("0", 1, 100)), "at least 1");
        assert_eq!(fix(whole("101", 1, 100)), "at most 100");
        assert_eq!(fix(truth("yes")), "write `true`");
        assert!(number("inf").is_err());
        assert_eq!(number("1e-3"), Ok(0.001));
    }
}
