//! Floor 7: `shadowpair demo`, the whole idea on a bare machine: two real models, the proxy before them, traffic
//! with known labels, the comparison, and what it means. The proxy is the one that `serve` runs, started from a
//! real routing file over real sockets: what the demo shows is what a user gets.

mod folder;
mod interrupt;
mod models;
mod progress;
mod server;
mod summary;
mod traffic;
mod words;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};

use self::folder::Folder;
use self::interrupt::Interrupt;
use self::models::Model;
use self::progress::Progress;
use self::server::ModelServer;
use self::summary::Summary;
use self::traffic::{Plan, Traffic};
use self::words::{paragraph, shell, thousands};
use crate::{app, compare, config};

/// The path that clients ask; the routing file turns it into each model's own.
const PATH: &str = "/v2/models/digits/infer";

/// `shadowpair demo [--requests N] [--dir DIR]`.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// How many requests are sent; at least one.
    pub requests: u64,
    /// Where the routing file and the pairs are left.
    pub dir: PathBuf,
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self { requests: 2000, dir: PathBuf::from("./shadowpair-demo") }
    }
}

/// Runs the demo and tells its story to `out`.
pub fn run(options: &DemoOptions, out: &mut dyn Write) -> Result<()> {
    ensure!(options.requests > 0, "a demo needs at least one request");
    let interrupt = Interrupt::watch()?;
    let folder = Folder::claim(&options.dir)?;
    if folder.again {
        let (dir, file) = (options.dir.display(), folder.file.display());
        writeln!(out, "{dir} holds a demo already and keeps it; this one's file is {file}.\n")?;
    }

    let (prod, candidate) = (Arc::new(models::linear()?), Arc::new(models::network()?));
    let servers = [ModelServer::start(Arc::clone(&prod))?, ModelServer::start(Arc::clone(&candidate))?];
    tell_models(out, &prod, &candidate, &servers)?;
    folder.write(servers[0].address, servers[1].address)?;

    let traffic = serve(options, &folder, &prod, &interrupt, out)?;
    drop(servers);

    if traffic.answered > 0 {
        writeln!(out, "4. Comparison, from the pairs alone\n")?;
        compare(&folder.pairs, out)?;
        tell_meaning(out, &folder, &traffic, &prod, &candidate)?;
    }
    tell_next(out, &folder, &program())?;
    Ok(())
}

/// The proxy's life: started as `serve` starts it, asked, drained, so that every pair is in its file.
fn serve(
    options: &DemoOptions,
    folder: &Folder,
    prod: &Arc<Model>,
    interrupt: &Interrupt,
    out: &mut dyn Write,
) -> Result<Traffic> {
    let file = folder.file.display();
    let loaded = config::load::from_path(&folder.file).map_err(|faults| anyhow!("{faults}"))?;
    let app = app::start(loaded.config).with_context(|| format!("the proxy does not start with {file}"))?;
    let address = app.traffic.first().copied();
    let sent = address.context("the proxy listens nowhere").and_then(|address| {
        writeln!(out, "2. Proxy: shadowpair on {address}, with the routing file {file}")?;
        writeln!(out, "3. Traffic: {} requests over 4 connections, 2 of them HTTP/2", thousands(options.requests))?;
        let plan =
            Plan { address, path: PATH, requests: options.requests, rows: models::rows()?, prod: Arc::clone(prod) };
        send(plan, interrupt, out)
    });
    // Drained whatever became of the traffic: the pairs that were made tell why.
    let drained = app.drain();
    if drained.pairs_dropped > 0 {
        let dropped = thousands(drained.pairs_dropped);
        writeln!(out, "   {dropped} pairs could not be written before the proxy's time to end was over.\n")?;
    }
    sent
}

fn send(plan: Plan, interrupt: &Interrupt, out: &mut dyn Write) -> Result<Traffic> {
    let mut progress = Progress::start(plan.requests);
    // A broken pipe shows at the next line that is written; the traffic need not stop for it.
    let traffic = traffic::run(plan, interrupt.pressed(), &mut |done| {
        let _ = progress.at(done, out);
    })?;
    drop(progress);
    let rate = traffic.answered as f64 / traffic.took.as_secs_f64().max(1e-9);
    let (answered, seconds) = (thousands(traffic.answered), traffic.took.as_secs_f64());
    if interrupt.is_pressed() {
        writeln!(out, "   Stopped by you after {answered} answers; another Ctrl-C ends at once.\n")?;
    } else {
        writeln!(out, "   {answered} answers in {seconds:.1} s ({rate:.0} a second)\n")?;
    }
    Ok(traffic)
}

fn compare(pairs: &Path, out: &mut dyn Write) -> Result<()> {
    let sources = vec![pairs.display().to_string()];
    let options = compare::Options { sources, ..compare::Options::default() };
    compare::run(&options, out, &mut |_| {})?;
    Ok(())
}

fn tell_models(out: &mut dyn Write, prod: &Model, candidate: &Model, servers: &[ModelServer; 2]) -> Result<()> {
    writeln!(out, "1. Models: two readers of handwritten digits, fitted with scikit-learn")?;
    writeln!(out, "   {:<14}  prod, logistic regression, on {}", prod.name, servers[0].address)?;
    writeln!(out, "   {:<14}  candidate, a small network, on {}", candidate.name, servers[1].address)?;
    Ok(())
}

fn tell_meaning(
    out: &mut dyn Write,
    folder: &Folder,
    traffic: &Traffic,
    prod: &Model,
    candidate: &Model,
) -> Result<()> {
    let answered = thousands(traffic.answered);
    let mut said = vec![format!(
        "Each of the {answered} answers that the clients got was {}'s own, byte for byte; {} was asked beside it, and \
         no client saw it or waited for it.",
        prod.name, candidate.name
    )];
    said.extend(Summary::read(&folder.pairs)?.sentences(prod.name, candidate.name));
    writeln!(out, "\nWhat it means\n")?;
    for sentence in said {
        writeln!(out, "{}", paragraph(&sentence))?;
    }
    Ok(())
}

/// Where to go on from here: commands that can be pasted as they stand.
fn tell_next(out: &mut dyn Write, folder: &Folder, program: &str) -> Result<()> {
    let program = shell(program);
    let (pairs, file) = (folder.pairs.display().to_string(), folder.file.display().to_string());
    let rows = format!("'{}/*.jsonl'", pairs.replace('\'', "''"));
    let query = format!(
        "select slices.digit, count(*) as pairs, avg((result = 'differs')::int) as differs from {rows} \
         where candidate.role = 'shadow' group by 1 order by 1"
    );
    writeln!(out, "What is left, and what to try next\n")?;
    writeln!(out, "  {pairs}  every request with both answers, one JSON line each")?;
    writeln!(out, "    {program} compare {}", shell(&pairs))?;
    writeln!(out, "    duckdb -c {}", double_quoted(&query))?;
    writeln!(out, "  {file}  the routing file: put your own models' addresses in it")?;
    writeln!(out, "    {program} check {}", shell(&file))?;
    writeln!(out, "    {program} serve -c {}", shell(&file))?;
    Ok(())
}

/// In double quotes for a POSIX shell: SQL is full of single ones.
fn double_quoted(text: &str) -> String {
    let escaped: String =
        text.chars().flat_map(|c| "\"\\$`".contains(c).then_some('\\').into_iter().chain([c])).collect();
    format!("\"{escaped}\"")
}

/// How the reader called this program, so that the next commands work as they stand.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "shadowpair".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_commands_can_be_pasted_whatever_the_folder_is_called() {
        let folder = Folder { file: "it's $x/f.yaml".into(), pairs: "it's $x/pairs".into(), again: false };
        let mut out = Vec::new();
        tell_next(&mut out, &folder, "target/release/shadowpair").expect("memory");
        let said = String::from_utf8(out).expect("UTF-8");
        for line in [
            r"    target/release/shadowpair compare 'it'\''s $x/pairs'",
            r"    target/release/shadowpair check 'it'\''s $x/f.yaml'",
            r"    target/release/shadowpair serve -c 'it'\''s $x/f.yaml'",
        ] {
            assert!(said.lines().any(|said| said == line), "{line:?} is not in {said:?}");
        }
        assert!(said.contains(r"from 'it''s \$x/pairs/*.jsonl' where"), "{said}");
    }

    #[test]
    fn no_request_at_all_is_refused() {
        let options = DemoOptions { requests: 0, ..DemoOptions::default() };
        let error = run(&options, &mut Vec::new()).expect_err("nothing to do");
        assert!(error.to_string().contains("at least one"), "{error}");
    }

    #[test]
    fn the_demos_routing_file_is_without_fault_or_warning() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = Folder::claim(root.path()).expect("claimed");
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 4001));
        folder.write(address, address).expect("written");
        let loaded = config::load::from_path(&folder.file).map_err(|faults| faults.to_string()).expect("a good file");
        assert!(loaded.warnings.is_empty());
    }

    #[test]
    fn the_readmes_routing_file_is_without_fault_or_warning() {
        let readme = include_str!("../../README.md");
        let (_, rest) = readme.split_once("```yaml\n").expect("a routing file");
        let (text, _) = rest.split_once("```").expect("its end");
        let loaded =
            config::load::from_str("README.md", text).map_err(|faults| faults.to_string()).expect("a good file");
        assert!(loaded.warnings.is_empty());
    }
}
