//! The proxy as a program of its own: for exit statuses, signals, logs and limits of the operating system.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::metrics::Metrics;
use super::pairs;
use super::{Answer, ask, request, step_back, until};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_shadowpair");

/// Runs a command to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).stdin(Stdio::null()).output().expect("the program runs")
}

/// A running `shadowpair serve`.
pub(crate) struct Process {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    dir: TempDir,
    /// Where clients connect.
    pub(crate) traffic: SocketAddr,
    /// Where the admin interface listens.
    pub(crate) admin: SocketAddr,
}

impl Process {
    /// Starts it and waits until it says where it listens.
    pub(crate) fn serve(shell: &str, yaml: &str, dir: TempDir) -> Self {
        step_back();
        let file = dir.path().join("shadowpair.yaml");
        std::fs::write(&file, yaml).expect("the routing file");
        let mut child = Command::new("sh")
            .args(["-c", &format!("{shell} exec \"$0\" serve -c \"$1\""), PROGRAM])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, stderr) = (Arc::clone(&log), child.stderr.take().expect("stderr"));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().expect("log").push(line);
            }
        });
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut process = Self { child, log, dir, traffic: unknown, admin: unknown };
        until("the program says where it listens", || match process.addresses() {
            Some((traffic, admin)) => {
                (process.traffic, process.admin) = (traffic, admin);
                true
            }
            None => {
                let ended = process.child.try_wait().expect("try_wait");
                assert!(ended.is_none(), "{ended:?}: {}", process.log());
                false
            }
        });
        process
    }

    fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        let lines = self.log_lines();
        let find = |key: &str| lines.iter().find_map(|line| field(line, key)?.parse().ok());
        Some((find("address")?, find("admin")?))
    }

    /// The log so far, one JSON object a line.
    pub(crate) fn log_lines(&self) -> Vec<Value> {
        let lines = self.log.lock().expect("log");
        lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("log").join("\n")
    }

    /// The routing file.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("shadowpair.yaml")
    }

    /// A scrape; the account of pairs holds in each.
    pub(crate) fn metrics(&self) -> Metrics {
        let metrics = Metrics::scrape(self.admin);
        metrics.assert_account();
        metrics
    }

    /// Puts this text in the routing file's place, as an editor does: by renaming a new file.
    pub(crate) fn replace(&self, yaml: &str) {
        let new = self.dir.path().join("new.yaml");
        std::fs::write(&new, yaml).expect("the new file");
        std::fs::rename(new, self.file()).expect("rename");
    }

    /// Asks for a reload.
    pub(crate) fn reload(&self) -> Answer {
        let fields = [("connection", "close")];
        ask(self.admin, request("POST /api/v1/config/reload", &fields, b""))
    }

    /// The folder of the pair files.
    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.path().join("pairs")
    }

    /// The process's number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("kill");
    }

    /// Waits for its end; the exit status.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut code = None;
        until("the program ends", || {
            let ended = self.child.try_wait().expect("try_wait");
            code = ended.and_then(|status| status.code());
            ended.is_some()
        });
        code
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            // However it ended, what it wrote is as it should be.
            pairs::read(&self.folder());
        }
    }
}

/// A field of a log line, wherever the format puts it.
pub(crate) fn field(line: &Value, key: &str) -> Option<String> {
    let value = line.get(key).or_else(|| line.get("fields")?.get(key))?;
    value.as_str().map(ToOwned::to_owned)
}

/// CPU time that a process has used.
pub(crate) fn cpu_time(id: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("stat");
    let after = stat.rsplit_once(')').expect("the name in brackets").1;
    let ticks: u64 = after.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}
