//! Floor 5: `shadowpair compare`, offline: how a candidate's answers differ from prod's, told from pair records.
//!
//! The story: a `source` yields the bytes of one record after another, from files or a topic. The `intake`
//! decides which of them count (one per id, of our schema, of the routes asked for) and adds each to the running
//! `totals` of its group, where it is forgotten: memory is bounded however much is read. A `summary` turns
//! the totals into a [`Report`], which the `gates` judge, and which other programs get as JSON and people as `text`.

mod files;
mod found;
mod gates;
mod intake;
mod kafka;
mod producers;
pub mod report;
mod seqs;
mod sketch;
mod source;
mod summary;
mod tables;
#[cfg(test)]
mod tests;
mod text;
mod totals;
mod values;
mod words;

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::analysis::stats::CONFIDENCE;
use crate::types::Role;

use gates::Bound;
use intake::{Intake, Taken};
pub use report::Report;
use source::Source;

/// What `shadowpair compare` is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Where the pairs are: folders (their `pairs-*.jsonl` and `.jsonl.zst`), files, `kafka://HOST:PORT/TOPIC`.
    /// Several are read as one; a pair that is in more than one counts once.
    pub sources: Vec<String>,
    /// Only pairs of this route.
    pub route: Option<String>,
    /// Only pairs of this candidate. The route's control is read all the same, to tell noise from change.
    pub candidate: Option<String>,
    /// Where the report goes as JSON; `-` is `out`, in place of the text.
    pub json: Option<PathBuf>,
    /// What must not be so of any candidate: `METRIC OP NUMBER`, metrics as the JSON report names them.
    pub fail_on: Vec<String>,
}

/// Reads all sources, writes the comparison to `out` as text (and to `options.json` as JSON) and returns it.
/// `progress` is told now and then how many records were read so far. An error is one for the user: what is
/// wrong with the sources or the options, and what would be right (exit status 2).
pub fn run(options: &Options, out: &mut dyn Write, progress: &mut dyn FnMut(u64)) -> anyhow::Result<Report> {
    let report = read(options, progress)?;
    let written = match options.json.as_deref() {
        Some(path) if path == Path::new("-") => json(&report, out),
        Some(path) => {
            save(&report, path)?;
            text::write(&report, out)
        }
        None => text::write(&report, out),
    };
    match written.and_then(|()| out.flush()) {
        // The reader of a pipe has seen enough (`| head`).
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(report),
        written => written.map(|()| report).context("the comparison cannot be written"),
    }
}

/// Reads all sources.
fn read(options: &Options, progress: &mut dyn FnMut(u64)) -> anyhow::Result<Report> {
    if options.sources.is_empty() {
        bail!("nothing to compare: name a folder of pairs, a .jsonl file, or kafka://HOST:PORT/TOPIC");
    }
    let bounds = options.fail_on.iter().map(|gate| Bound::parse(gate)).collect::<anyhow::Result<Vec<_>>>()?;
    let sources: Vec<Source> = options.sources.iter().map(|name| Source::parse(name)).collect::<Result<_, _>>()?;
    let mut intake = Intake::new(options.route.as_deref(), options.candidate.as_deref(), progress);
    for source in sources {
        source.read(&mut |found| intake.take(found))?;
    }
    let mut taken = intake.finish();
    taken.read.sources = options.sources.clone();
    if taken.read.pairs == 0 {
        bail!("{}", nothing(options, &taken));
    }
    let mut report = summarise(options, taken);
    report.gates = gates::judge(&bounds, &report);
    Ok(report)
}

/// What to do about sources without a pair that counts.
fn nothing(options: &Options, taken: &Taken) -> String {
    let names = |names: &std::collections::BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
    let places = options.sources.join(", ");
    if let Some(route) =
        options.route.as_ref().filter(|route| !taken.routes.is_empty() && !taken.routes.contains(*route))
    {
        return format!("{places}: no pairs of route `{route}`; there are pairs of {}", names(&taken.routes));
    }
    if let Some(candidate) = options.candidate.as_ref().filter(|_| taken.read.filtered > 0) {
        return format!(
            "{places}: no pairs of candidate `{candidate}`; there are pairs of {}",
            names(&taken.candidates)
        );
    }
    let read = &taken.read;
    if let Some(first) = read.unreadable_first.first() {
        let records = words::counted(read.unreadable, "record", "records");
        return format!("{places}: not one pair, but {records} that cannot be read, first {}: {}", first.at, first.why);
    }
    if read.other_schema > 0 {
        return format!(
            "{places}: all {} records are of another schema than {}",
            read.other_schema,
            crate::record::SCHEMA
        );
    }
    format!(
        "{places}: no pairs yet. A route makes them once it has `shadow` or `control` and serves requests; a file may \
         lag by its last flush"
    )
}

fn summarise(options: &Options, taken: Taken) -> Report {
    let asked = |candidate: &String| options.candidate.as_ref().is_none_or(|asked| asked == candidate);
    let shown = taken.groups.iter().filter(|(key, _)| asked(&key.candidate));
    let groups = shown.map(|(key, totals)| {
        let mut control = taken.groups.iter();
        let control = control.find(|(other, _)| {
            key.role != Role::Control
                && other.role == Role::Control
                && (&other.route, &other.prod) == (&key.route, &key.prod)
        });
        summary::group(key, totals, control.map(|(_, totals)| totals))
    });
    Report {
        schema: report::SCHEMA,
        confidence: CONFIDENCE,
        groups: groups.collect(),
        gates: Vec::new(),
        warnings: summary::reading_warnings(&taken),
        read: taken.read,
    }
}

fn json(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)
}

fn save(report: &Report, path: &Path) -> anyhow::Result<()> {
    let write = || {
        let mut file = BufWriter::new(File::create(path)?);
        json(report, &mut file)?;
        file.flush()
    };
    write().with_context(|| format!("{}: the JSON report cannot be written", path.display()))
}
