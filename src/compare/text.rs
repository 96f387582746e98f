//! Floor 5: the comparison for people. Each group begins with sentences that a newcomer understands, then come the
//! tables behind them, then what to mind. Lines fit 100 columns.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::report::{Errors, Group, Read, Report};
use super::tables::{WIDTH, tables};
use super::words::{chance, count, counted, interval, percent, time};

/// Below this chance a difference is called real.
const SIGNIFICANT: f64 = 0.05;

/// Writes all of it.
pub(super) fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", wrapped(&opening(&report.read), ""))?;
    for group in &report.groups {
        let title = title(group);
        writeln!(out, "\n{title}\n{}", "═".repeat(title.chars().count()))?;
        for sentence in sentences(group) {
            writeln!(out, "{}", wrapped(&sentence, ""))?;
        }
        for (name, table) in tables(group) {
            writeln!(out, "\n{name}\n{}", table.trim_fmt())?;
        }
        mind(out, "Mind", &group.warnings)?;
    }
    mind(out, "Mind, of all that was read", &report.warnings)
}

fn mind(out: &mut dyn Write, title: &str, warnings: &[String]) -> io::Result<()> {
    if !warnings.is_empty() {
        writeln!(out, "\n{title}")?;
    }
    warnings.iter().try_for_each(|warning| writeln!(out, "{}", wrapped(&format!("  ! {warning}."), "    ")))
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
    let control = group.control_agreement.filter(|control| control.n > 0)?;
    let (share, disagreement) = (control.value?, 1.0 - group.agreement.value?);
    let (low, high) = (group.agreement.low?, group.agreement.high?);
    let verdict = if low <= share && share <= high || group.agreement.value? >= share {
        "the candidate differs no more than that".into()
    } else {
        format!("the candidate's disagreement of {} is beyond that", percent(disagreement))
    };
    Some(format!(
        "Asked twice, {} agreed with itself on {} of {} ({}): {verdict}.",
        group.prod,
        percent(share),
        counted(control.n, "pair", "pairs"),
        interval(control)
    ))
}

fn failures(group: &Group) -> String {
    let Errors { prod, candidate, difference, mcnemar_p, .. } = &group.errors;
    let (Some(prod_rate), Some(rate), Some(more)) = (prod.value, candidate.value, difference.value) else {
        return "No pair tells of failures: on each a leg was cancelled or not measured.".into();
    };
    let again = if group.role == "control" { "the second call" } else { &group.candidate };
    if prod.count + candidate.count == 0 {
        return format!("Neither side failed on any of {}.", counted(prod.n, "request", "requests"));
    }
    let verdict = if *mcnemar_p >= SIGNIFICANT {
        "which chance explains"
    } else if more > 0.0 {
        "which is worse than chance explains"
    } else {
        "which is better than chance explains"
    };
    format!(
        "{again} failed on {} of {}, {} on {}, {verdict} ({}).",
        percent(rate),
        counted(candidate.n, "request", "requests"),
        group.prod,
        percent(prod_rate),
        chance(*mcnemar_p)
    )
}

fn speed(group: &Group) -> Option<String> {
    let median = group.latency.total_us.median_difference;
    let (value, low, high) = (median.value?, median.low?, median.high?);
    let again = if group.role == "control" { "the second call" } else { &group.candidate };
    if low <= 0.0 && high >= 0.0 {
        return Some(format!(
            "{again} took as long as {} within {} at the median.",
            group.prod,
            time(low.abs().max(high))
        ));
    }
    let (word, low, high) = if value > 0.0 { ("longer", low, high) } else { ("less", high.abs(), low.abs()) };
    Some(format!(
        "At the median {again} took {} {word} than {} (95 % interval {} to {}).",
        time(value.abs()),
        group.prod,
        time(low),
        time(high)
    ))
}

fn coverage(group: &Group) -> Option<String> {
    let coverage = group.coverage;
    if coverage.seen == 0 {
        return None;
    }
    let mut text = format!(
        "{} of {} on the route were drawn for it ({})",
        count(coverage.sampled),
        counted(coverage.seen, "request", "requests"),
        percent(coverage.sampled as f64 / coverage.seen as f64)
    );
    if coverage.skipped > 0 {
        let _ = write!(text, ", {} of them skipped", count(coverage.skipped));
    }
    Some(text + ".")
}

/// The text in lines that fit; those after the first begin with `indent`.
fn wrapped(text: &str, indent: &str) -> String {
    let mut lines = String::new();
    let mut width = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if width > 0 && width + 1 + length > usize::from(WIDTH) {
            let _ = write!(lines, "\n{indent}{word}");
            width = indent.len() + length;
        } else {
            let space = if lines.is_empty() { "" } else { " " };
            let _ = write!(lines, "{space}{word}");
            width += space.len() + length;
        }
    }
    lines
}
