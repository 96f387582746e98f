//! Floor 5: the comparison for people. Each group begins with sentences that a newcomer understands, then come the
//! tables behind them, then what to mind. Lines fit 100 columns.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::report::{Errors, Group, Read, Report};
use super::tables::{WIDTH, gates, producers, tables};
use super::words::{chance, count, counted, interval, percent, range, second, time};

/// The title above what the numbering of pairs says.
const PRODUCERS: &str = "Producers: is every pair here that was made?";
/// Below this chance a difference is called real.
const SIGNIFICANT: f64 = 0.05;

/// Writes all of it. Names come from traffic: a control character in one must not steer the reader's terminal.
pub(super) fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let mut text = Vec::new();
    write_raw(report, &mut text)?;
    let shown = |c: char| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c };
    let text: String = String::from_utf8_lossy(&text).chars().map(shown).collect();
    out.write_all(text.as_bytes())
}

fn write_raw(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", wrapped(&opening(&report.read), "", ""))?;
    for group in &report.groups {
        let title = title(group);
        writeln!(out, "\n{title}\n{}", "═".repeat(title.chars().count()))?;
        for sentence in sentences(group) {
            writeln!(out, "{}", wrapped(&sentence, "", ""))?;
        }
        for (name, table) in tables(group) {
            writeln!(out, "\n{name}\n{}", table.trim_fmt())?;
        }
        mind(out, "Mind", &group.warnings)?;
    }
    if !report.gates.is_empty() {
        writeln!(out, "\nGates: {}\n{}", gates_verdict(report), gates(&report.gates).trim_fmt())?;
    }
    writeln!(out, "\n{PRODUCERS}\n{}", wrapped(&numbering(&report.read), "", ""))?;
    writeln!(out, "{}", producers(&report.read).trim_fmt())?;
    mind(out, "Mind, of all that was read", &report.warnings)
}

fn gates_verdict(report: &Report) -> String {
    match report.failed_gates().count() as u64 {
        0 => "all passed".into(),
        failed => format!("{} of {} failed", count(failed), count(report.gates.len() as u64)),
    }
}

/// What the numbers prove, and what no number can.
fn numbering(read: &Read) -> String {
    let verdict = if read.untracked + read.seq_reused > 0 {
        "Whether a pair is missing cannot be told for all of them".to_owned()
    } else if read.missing > 0 {
        let missing = counted(read.missing, "pair is", "pairs are");
        format!("{missing} missing between the first and the last number of a producer")
    } else {
        "No pair is missing between the first and the last number of any".to_owned()
    };
    format!("{verdict}, whatever its route. What one made after its last number here, these sources cannot tell.")
}

fn mind(out: &mut dyn Write, title: &str, warnings: &[String]) -> io::Result<()> {
    if !warnings.is_empty() {
        writeln!(out, "\n{title}")?;
    }
    warnings.iter().try_for_each(|warning| writeln!(out, "{}", wrapped(&format!("{warning}."), "  ! ", "    ")))
}

fn opening(read: &Read) -> String {
    let mut text = format!("Read {} from {}", counted(read.pairs, "pair", "pairs"), read.sources.join(", "));
    if read.filtered > 0 {
        let _ = write!(text, " ({} others not asked for)", count(read.filtered));
    }
    if let (Some(from), Some(to)) = (&read.from, &read.to) {
        let _ = write!(text, ", {} to {}", seconds(from), seconds(to));
    }
    text + "."
}

/// A time without its fraction.
fn seconds(time: &str) -> String {
    time.split_once('.').map_or(time.into(), |(whole, _)| format!("{whole}Z"))
}

fn title(group: &Group) -> String {
    let Group { route, prod, candidate, role, .. } = group;
    match role.as_str() {
        "control" => format!("Route {route}: {prod} against itself (control)"),
        _ => format!("Route {route}: {candidate} ({role}) against {prod}"),
    }
}

fn sentences(group: &Group) -> Vec<String> {
    let mut all = vec![agreement(group)];
    all.extend(noise(group));
    all.push(failures(group));
    all.extend(speed(group));
    all.extend(coverage(group));
    all
}

fn agreement(group: &Group) -> String {
    let Group { prod, candidate, agreement, .. } = group;
    let who = match group.role.as_str() {
        "control" => format!("Asked twice, {prod} agreed with itself"),
        _ => format!("{candidate} agreed with {prod}"),
    };
    match agreement.value {
        Some(share) => format!(
            "{who} on {} of {} (95 % interval {}).",
            percent(share),
            counted(agreement.n, "pair", "pairs"),
            interval(*agreement)
        ),
        None => format!("No answers of {candidate} and {prod} could be compared, of {} pairs.", count(group.pairs)),
    }
}

/// What prod's own noise explains.
fn noise(group: &Group) -> Option<String> {
    let (control, beyond) = (group.control_agreement?, group.beyond_noise?);
    let (share, more) = (control.value?, beyond.value?);
    let verdict = if beyond.low? > 0.0 {
        format!("{} of the pairs differ beyond that noise", percent(more))
    } else {
        format!("{} differs no more than that noise, as far as these pairs can tell", group.candidate)
    };
    let (prod, pairs) = (&group.prod, counted(control.n, "pair", "pairs"));
    let interval = interval(control);
    Some(format!("Asked twice, {prod} agreed with itself on {} of {pairs} ({interval}): {verdict}.", percent(share)))
}

/// A sentence begins with a capital where its first word is not a model's name.
fn begin(group: &Group) -> &str {
    if group.role == "control" { "Its second call" } else { &group.candidate }
}

fn failures(group: &Group) -> String {
    let Errors { prod, candidate, difference, mcnemar_p, .. } = &group.errors;
    let (Some(prod_rate), Some(rate), Some(more)) = (prod.value, candidate.value, difference.value) else {
        return "No pair tells of failures: on each a leg was cancelled or not measured.".into();
    };
    if prod.count + candidate.count == 0 {
        return format!("Neither side failed on any of {}.", counted(prod.n, "request", "requests"));
    }
    let verdict = if *mcnemar_p >= SIGNIFICANT {
        "which may be chance"
    } else if more > 0.0 {
        "which is worse than chance explains"
    } else {
        "which is better than chance explains"
    };
    format!(
        "{} failed on {} of {}, {} on {}, {verdict} ({}).",
        begin(group),
        percent(rate),
        counted(candidate.n, "request", "requests"),
        group.prod,
        percent(prod_rate),
        chance(*mcnemar_p)
    )
}

fn speed(group: &Group) -> Option<String> {
    let median = group.latency.total_us.median_difference;
    let value = median.value?;
    let word = if value < 0.0 { "less" } else { "longer" };
    let chance = match (median.low, median.high) {
        (Some(low), Some(high)) if low > 0.0 || high < 0.0 => "",
        _ => ", which may be chance",
    };
    let interval = match median.low.or(median.high) {
        Some(_) => format!(" (95 % interval of the difference {})", range(median, time)),
        None => String::new(),
    };
    let (second, difference) = (second(group), time(value.abs()));
    Some(format!("At the median {second} took {difference} {word} than {}{chance}{interval}.", group.prod))
}

fn coverage(group: &Group) -> Option<String> {
    let coverage = group.coverage;
    if coverage.seen == 0 {
        return None;
    }
    let mut text = format!(
        "Up to its last pair it was sampled on {} of {} on the route ({})",
        count(coverage.sampled),
        counted(coverage.seen, "request", "requests"),
        percent(coverage.sampled as f64 / coverage.seen as f64)
    );
    if coverage.skipped > 0 {
        let _ = write!(text, ", {} of them skipped", count(coverage.skipped));
    }
    Some(text + ".")
}

/// Stands for a space where no line may end.
const GLUE: &str = "\u{a0}";

/// The text in lines that fit, the first after `first`, the others after `indent`.
fn wrapped(text: &str, first: &str, indent: &str) -> String {
    // A number and its unit stay together.
    let text =
        [" %", " µs", " ms"].iter().fold(text.to_owned(), |text, unit| text.replace(unit, &unit.replace(' ', GLUE)));
    let mut lines = String::from(first);
    let mut width = first.len();
    let mut space = "";
    for word in text.split(' ') {
        let length = word.chars().count();
        if !space.is_empty() && width + 1 + length > usize::from(WIDTH) {
            let _ = write!(lines, "\n{indent}{word}");
            width = indent.len() + length;
        } else {
            let _ = write!(lines, "{space}{word}");
            width += space.len() + length;
        }
        space = " ";
    }
    lines.replace(GLUE, " ")
}
