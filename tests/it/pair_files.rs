//! The files of pairs: whole lines whatever happens to their writer, readable while they are written, and never more of
//! them than is kept, however many processes write.

use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::pairs::{self, lines};
use crate::support::process::run;
use crate::support::{Client, Plan, Process, Stub, post, until};

fn spawn(p: &Stub, c: &Stub, dir: &Path, rest: &str) -> Process {
    let sink = format!("{{file: {{dir: \"{}\", {rest}}}}}", dir.display());
    Plan::pair(p.address, c.address).sink(&sink).spawn()
}

fn ask(process: &Process, count: usize) {
    let mut client = Client::to(process.traffic);
    for _ in 0..count {
        assert_eq!(client.ask(post("/", r#"{"x":1}"#)).status, 200);
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// A read that is missing where the files say that it has come.
fn compared(dir: &Path) -> Value {
    let output = run(&["compare", &dir.display().to_string(), "--json", "-"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["read"].clone()
}

#[test]
fn a_line_that_a_kill_tore_stays_the_last_one_and_costs_only_itself() {
    for compress in ["none", "zstd"] {
        let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
        let folder = TempDir::new().unwrap();
        let dir = folder.path().join("pairs");
        let mut first = spawn(&p, &c, &dir, &format!("compress: {compress}"));
        for asked in [4, 8] {
            ask(&first, 4);
            until("flushed while the file is live", || lines(&dir).len() == asked);
        }
        first.signal(Signal::KILL);
        assert_eq!(first.wait(), None);
        let [torn] = files(&dir).try_into().unwrap();
        let bytes = std::fs::read(&torn).unwrap();
        std::fs::write(&torn, &bytes[..bytes.len() - 20]).unwrap();
        let before = lines(&dir);
        assert!((1..8).contains(&before.len()), "the torn part is no line: {}", before.len());

        let second = spawn(&p, &c, &dir, &format!("compress: {compress}"));
        ask(&second, 3);
        until("written", || lines(&dir).len() == before.len() + 3);
        assert_eq!(files(&dir).len(), 2, "a file of its own");
        assert_eq!(std::fs::read(&torn).unwrap(), &bytes[..bytes.len() - 20], "what was torn is left as it was");
        let read = pairs::read(&dir);
        let producers: std::collections::BTreeSet<&str> =
            read.iter().map(|pair| pair["producer"].as_str().unwrap()).collect();
        assert_eq!(producers.len(), 2);
        let told = compared(&dir);
        assert_eq!(
            (&told["pairs"], &told["unfinished"], &told["unreadable"]),
            (&(read.len()).into(), &1.into(), &0.into())
        );
    }
}

#[test]
fn what_is_kept_is_a_bound_that_several_processes_hold_together() {
    const KEEP: u64 = 96 << 10;
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("pairs");
    let mut processes: Vec<Process> = (0..3).map(|_| spawn(&p, &c, &dir, "segment: 16KiB, keep: 96KiB")).collect();
    for round in 0..12 {
        for process in &processes {
            ask(process, 8);
            until("written", || process.metrics().waiting() == 0.0);
        }
        let sizes = files(&dir).into_iter().filter_map(|file| std::fs::metadata(file).ok());
        let held: u64 = sizes.map(|meta| meta.len()).sum();
        assert!(held <= KEEP, "{held} bytes in round {round}");
    }
    let made: f64 =
        processes.iter().map(|process| process.metrics().count("shadowpair_pairs_delivered_total", &[])).sum();
    assert_eq!(made, 3.0 * 12.0 * 8.0, "what `keep` deletes was delivered");
    for process in &mut processes {
        process.signal(Signal::TERM);
        assert_eq!(process.wait(), Some(0));
    }
    let read = compared(&dir);
    assert!(read["before_first"].as_u64() > Some(0) && read["missing"] == 0, "only beginnings were deleted: {read}");
}
