//! Floor 5: the tables of a comparison for people: a row for each thing, numbers to the right, one rule under the
//! header and nothing else. A table without rows is left out.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table};

use crate::types::{Outcome, PairResult};

use super::gates::found_text;
use super::report::{Gate, Group, Quantiles, Read, Share, Timing, Verdict};
use super::summary::SMALL_GROUP;
use super::words::{self, chance, count, estimate, interval, number, range, second, time, value};

/// How wide everything for people is, in columns.
pub(super) const WIDTH: u16 = 100;
/// The most rows of the longer tables; the JSON report has more.
const PLACES: usize = 8;
const SLICE_VALUES: usize = 8;
const PRODUCERS: usize = 8;

/// The tables that have something to show.
pub(super) fn tables(group: &Group) -> Vec<(&'static str, Table)> {
    let mut all = vec![("Results", results(group))];
    // A control is a yardstick: what it measures stands beside the candidate's. The JSON report has the rest.
    if group.role != "control" {
        all.extend([
            ("Values", values(group)),
            ("Numbers: Δ is candidate − prod", numbers(group)),
            ("How far distributions moved (KS test, population stability index)", shifts(group)),
            ("Classes that changed", changes(group)),
        ]);
    }
    all.extend([
        ("Where answers differ", places(group)),
        ("Failures", outcomes(group)),
        ("Time to the first byte and to the last, of answers that went well", latency(group)),
    ]);
    if group.role != "control" {
        all.push(("Agreement by slice", slices(group)));
    }
    all.retain(|(_, table)| !table.is_empty());
    all
}

/// An empty table; `text` columns at the left, the others to the right.
fn table(header: &[&str], text: usize) -> Table {
    let mut table = Table::new();
    // A rule under the header and nothing else.
    let style = NOTHING.header_separator(LineStyle::none().fill('─').junction('─'));
    table.load_style(style).set_width(WIDTH).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.to_vec());
    table.column_iter_mut().skip(text).for_each(|column| {
        column.set_cell_alignment(CellAlignment::Right);
    });
    table.column_iter_mut().for_each(|column| {
        column.set_padding((1, 1));
    });
    table
}

fn results(group: &Group) -> Table {
    let mut table = table(&["result", "pairs", "share", "95 % interval"], 1);
    let always = ["equal", "within_tolerance", "differs"];
    // In the order of the record's own list, which the map does not keep.
    for result in PairResult::ALL {
        let Some(share) = group.results.get(result.as_str()) else { continue };
        if share.count > 0 || always.contains(&result.as_str()) {
            let name = result.as_str().replace('_', " ");
            table.add_row(vec![name, count(share.count), value(*share), interval(*share)]);
        }
    }
    table
}

fn values(group: &Group) -> Table {
    let control = group.values.iter().any(|value| value.control_agreement.is_some());
    let mut header = vec!["value", "kind", "compared", "agreed", "95 % interval"];
    if control {
        header.push("prod with itself");
    }
    let mut table = table(&header, 2);
    for v in &group.values {
        let mut row =
            vec![v.name.clone(), v.kind.clone(), count(v.agreement.n), value(v.agreement), interval(v.agreement)];
        if control {
            row.push(v.control_agreement.map_or(words::NOTHING.into(), value));
        }
        table.add_row(row);
    }
    table
}

fn numbers(group: &Group) -> Table {
    let header = ["value", "mean Δ", "95 % interval", "mean |Δ|", "p50 |Δ|", "p99 |Δ|", "largest |Δ|"];
    let mut table = table(&header, 1);
    for v in &group.values {
        let Some(delta) = v.delta.filter(|delta| delta.mean.n > 0) else { continue };
        table.add_row(vec![
            v.name.clone(),
            estimate(delta.mean, number),
            range(delta.mean, number),
            estimate(delta.mean_abs, number),
            estimate(delta.p50_abs, number),
            estimate(delta.p99_abs, number),
            delta.max_abs.map_or(words::NOTHING.into(), number),
        ]);
    }
    table
}

fn shifts(group: &Group) -> Table {
    let mut table = table(&["value", "KS distance", "chance", "PSI", ""], 1);
    for v in &group.values {
        let Some(psi) = v.psi else { continue };
        let none = || words::NOTHING.to_owned();
        table.add_row(vec![
            v.name.clone(),
            v.ks.map_or_else(none, |ks| format!("{:.3}", ks.statistic)),
            v.ks.map_or_else(none, |ks| chance(ks.p)),
            format!("{psi:.3}"),
            moved(v.agreement, psi).into(),
        ]);
    }
    table
}

/// The customary reading of the population stability index. By chance alone a few answers seem to have moved far; so do
/// answers that are much alike by a step that the routing file allows, since the index knows no scale.
fn moved(agreement: Share, psi: f64) -> &'static str {
    match psi {
        _ if agreement.n < SMALL_GROUP => "few",
        psi if psi < 0.1 => "stable",
        _ if agreement.count == agreement.n => "within tolerance",
        psi if psi < 0.25 => "moved",
        _ => "moved far",
    }
}

fn changes(group: &Group) -> Table {
    let mut table = table(&["value", "prod", "candidate", "pairs"], 3);
    for v in &group.values {
        for change in &v.changes {
            table.add_row(vec![v.name.clone(), change.prod.clone(), change.candidate.clone(), count(change.pairs)]);
        }
        if v.changes_left_out > 0 {
            table.add_row(vec![v.name.clone(), "others".into(), String::new(), count(v.changes_left_out)]);
        }
    }
    table
}

fn places(group: &Group) -> Table {
    let mut table = table(&["place", "pairs", "share"], 1);
    for place in group.differs_at.iter().take(PLACES) {
        table.add_row(vec![place.pointer.clone(), count(place.share.count), value(place.share)]);
    }
    let hidden = group.differs_at.len().saturating_sub(PLACES);
    if hidden > 0 {
        table.add_row(vec![format!("and {hidden} or more others"), String::new(), String::new()]);
    }
    table
}

fn outcomes(group: &Group) -> Table {
    let errors = &group.errors;
    let second = second(group);
    let mut table = table(&["outcome", &group.prod, second], 1);
    let [prod, candidate] = [&errors.prod_outcomes, &errors.candidate_outcomes];
    if [prod, candidate].iter().all(|outcomes| outcomes.keys().all(|outcome| *outcome == "ok")) {
        return table;
    }
    for outcome in Outcome::ALL {
        let counts = [prod, candidate].map(|side| side.get(outcome.as_str()).copied().unwrap_or(0));
        if counts.iter().any(|n| *n > 0) {
            let [prod, candidate] = counts.map(count);
            table.add_row(vec![outcome.as_str().replace('_', " "), prod, candidate]);
        }
    }
    let rate = |share| format!("{} ({})", value(share), interval(share));
    table.add_row(vec!["failed".into(), rate(errors.prod), rate(errors.candidate)]);
    table.add_row(vec!["failed alone".into(), count(errors.prod_only), count(errors.candidate_only)]);
    table
}

fn latency(group: &Group) -> Table {
    let second = second(group);
    let mut table = table(&["time", &group.prod, "95 % interval", second, "95 % interval"], 1);
    let Timing { prod, candidate, .. } = group.latency.total_us;
    if prod.p50.n + candidate.p50.n == 0 {
        return table;
    }
    for (name, timing) in [("first byte", group.latency.first_byte_us), ("total", group.latency.total_us)] {
        let of = |quantiles: Quantiles| [("p50", quantiles.p50), ("p90", quantiles.p90), ("p99", quantiles.p99)];
        for ((q, prod), (_, candidate)) in of(timing.prod).into_iter().zip(of(timing.candidate)) {
            table.add_row(vec![
                format!("{name} {q}"),
                estimate(prod, time),
                range(prod, time),
                estimate(candidate, time),
                range(candidate, time),
            ]);
        }
    }
    table.add_row(vec!["answers".into(), count(prod.p50.n), String::new(), count(candidate.p50.n), String::new()]);
    table
}

fn slices(group: &Group) -> Table {
    let mut table = table(&["slice", "value", "compared", "agreed", "95 % interval", ""], 2);
    let mut last = (String::new(), 0);
    for slice in &group.slices {
        last = if last.0 == slice.slice { (last.0, last.1 + 1) } else { (slice.slice.clone(), 1) };
        if last.1 > SLICE_VALUES {
            continue;
        }
        let note = match (slice.small, slice.below) {
            (true, _) => "few",
            (false, true) => "below",
            _ => "",
        };
        table.add_row(vec![
            slice.slice.clone(),
            slice.value.clone().unwrap_or("(none)".into()),
            count(slice.agreement.n),
            value(slice.agreement),
            interval(slice.agreement),
            note.into(),
        ]);
    }
    table
}

/// What must not be so, and whether it is.
pub(super) fn gates(gates: &[Gate]) -> Table {
    let mut table = table(&["must not be", "of", "found", ""], 2);
    for gate in gates {
        let candidate = gate.candidate.as_deref().unwrap_or(words::NOTHING);
        let of = gate.role.as_ref().map_or(candidate.to_owned(), |role| format!("{candidate} ({role})"));
        let of = gate.route.as_ref().map_or(of.clone(), |route| format!("{route}: {of}"));
        let found = gate.found.map_or_else(|| gate.why.clone().unwrap_or_default(), found_text);
        let verdict = match gate.verdict {
            Verdict::Passed => "passed",
            Verdict::Failed => "FAILED",
            Verdict::Undecided => "UNDECIDED",
        };
        table.add_row(vec![gate.gate.clone(), of, found, verdict.into()]);
    }
    table
}

/// The producers, those with losses first.
pub(super) fn producers(read: &Read) -> Table {
    let mut table = table(&["producer", "pairs", "first", "last", "missing", "came twice"], 1);
    for producer in read.producers.iter().take(PRODUCERS) {
        let mut row = vec![producer.producer.clone()];
        let numbers = [producer.pairs, producer.first_seq, producer.last_seq, producer.missing, producer.duplicates];
        row.extend(numbers.map(count));
        table.add_row(row);
    }
    let hidden = read.producers_left_out + read.producers.len().saturating_sub(PRODUCERS) as u64;
    if hidden > 0 {
        table.add_row(vec![format!("and {} more", count(hidden))]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_alone_does_not_call_few_or_tolerated_answers_moved() {
        let read = |agreed, n, psi| moved(Share::of(agreed, n), psi);
        assert_eq!(["few", "few"], [read(0, 99, 9.0), read(99, 99, 0.0)]);
        assert_eq!(["within tolerance", "stable"], [read(100, 100, 9.0), read(100, 100, 0.05)]);
        assert_eq!(["stable", "moved", "moved far"], [0.05, 0.2, 9.0].map(|psi| read(99, 100, psi)));
    }
}
