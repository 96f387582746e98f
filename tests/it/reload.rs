//! A new routing file while the proxy runs: what takes effect, what does not, and that nothing is lost meanwhile.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::metrics::{Metrics, admin_get};
use crate::support::{Client, Process, Stub, ask, get, post, request, until};

/// A routing file with one route of this name, and what else it says of it.
fn yaml(dir: &Path, p: SocketAddr, route: &str, more: &str) -> String {
    format!(
        "version: 1\nserver: {{listen: 127.0.0.1:0, admin: 127.0.0.1:0, drain: 3s}}\n\
         models:\n  p: {{endpoints: [\"http://{p}\"]}}\n  c: {{endpoints: [\"http://{p}\"]}}\n\
         routes:\n  - {{name: {route}, match: {{path_prefix: /}}, prod: p{more}}}\n\
         pairs: {{file: {{dir: \"{}\"}}}}\n",
        dir.join("pairs").display()
    )
}

struct Running {
    process: Process,
    p: Stub,
    file: std::path::PathBuf,
    dir: std::path::PathBuf,
}

impl Running {
    fn start(route: &str, more: &str) -> Self {
        let p = Stub::json(r#"{"y":1}"#);
        let dir = TempDir::new().unwrap();
        let path = dir.path().to_owned();
        let text = yaml(&path, p.address, route, more);
        let process = Process::serve("", &text, dir);
        Self { process, p, file: path.join("shadowpair.yaml"), dir: path }
    }

    fn text(&self, route: &str, more: &str) -> String {
        yaml(&self.dir, self.p.address, route, more)
    }

    /// As editors do it: a new file takes the old one's name.
    fn replace(&self, text: &str) {
        let new = self.dir.join("new.yaml");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &self.file).unwrap();
    }

    fn reload(&self) -> (u16, Value) {
        let answer = ask(self.process.admin, request("POST /api/v1/config/reload", &[], b""));
        (answer.status, serde_json::from_slice(&answer.body).unwrap())
    }

    fn metrics(&self) -> Metrics {
        Metrics::scrape(self.process.admin)
    }

    fn in_force(&self) -> String {
        let routes: Value = serde_json::from_slice(&admin_get(self.process.admin, "/api/v1/routes").body).unwrap();
        routes["routes"][0]["name"].as_str().unwrap().to_owned()
    }
}

#[test]
fn a_call_applies_a_good_file_and_rejects_a_bad_one_loudly() {
    let mut running = Running::start("old", "");
    running.replace(&running.text("new", ""));
    let (status, outcome) = running.reload();
    assert_eq!((status, outcome["config"].as_str().unwrap().len()), (200, 12), "{outcome}");
    assert_eq!(running.in_force(), "new");
    assert_eq!(running.reload().1["outcome"], "unchanged");

    running.replace("version: 1\nroots: []\n");
    let (status, outcome) = running.reload();
    assert_eq!((status, &outcome["outcome"]), (422, &"rejected".into()));
    assert!(outcome["faults"].to_string().contains("did you mean `routes`"), "{outcome}");
    assert_eq!(running.in_force(), "new", "a bad file changes nothing");
    assert_eq!(ask(running.process.traffic, get("/")).status, 200);
    let metrics = running.metrics();
    assert_eq!(metrics.sum("shadowpair_config_last_reload_successful", &[]), 0.0);
    assert_eq!(metrics.sum("shadowpair_config_reloads_total", &[("outcome", "rejected")]), 1.0);
    assert!(running.process.log().contains("routing file rejected"));
    let page: Value = serde_json::from_slice(&admin_get(running.process.admin, "/api/v1/routes").body).unwrap();
    assert_eq!(page["last_reload"]["outcome"], "rejected");

    running.process.signal(Signal::TERM);
    assert_eq!(running.process.wait(), Some(0));
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_takes_effect() {
    let running = Running::start("old", "");
    running.replace(&running.text("new", "").replace("drain: 3s", "drain: 4s, workers: 3"));
    let (status, outcome) = running.reload();
    assert_eq!((status, running.in_force().as_str()), (200, "new"));
    // Where the look at the file came first, the log has named them.
    let named = if outcome["outcome"] == "applied" {
        outcome["needs_restart"] == serde_json::json!(["server.workers", "server.drain"])
    } else {
        running.process.log().contains("server.workers, server.drain")
    };
    assert!(named, "{outcome}");
}

#[test]
fn a_signal_and_a_change_of_the_content_are_enough() {
    let running = Running::start("first", "");
    running.replace(&running.text("by-signal", ""));
    running.process.signal(Signal::HUP);
    until("the signal is followed", || running.in_force() == "by-signal");

    // An editor's rename that keeps the time stamp.
    let modified = std::fs::metadata(&running.file).unwrap().modified().unwrap();
    let new = running.dir.join("new.yaml");
    std::fs::write(&new, running.text("by-rename", "")).unwrap();
    std::fs::File::options().write(true).open(&new).unwrap().set_modified(modified).unwrap();
    std::fs::rename(&new, &running.file).unwrap();
    until("the rename is seen", || running.in_force() == "by-rename");

    // A ConfigMap: the file is a link through `..data`, which is swapped.
    for version in ["..1", "..2"] {
        std::fs::create_dir(running.dir.join(version)).unwrap();
        let text = running.text(&format!("swap{}", &version[2..]), "");
        std::fs::write(running.dir.join(version).join("shadowpair.yaml"), text).unwrap();
    }
    let swap = |to: &str| {
        std::os::unix::fs::symlink(to, running.dir.join("..tmp")).unwrap();
        std::fs::rename(running.dir.join("..tmp"), running.dir.join("..data")).unwrap();
    };
    swap("..1");
    std::fs::remove_file(&running.file).unwrap();
    std::os::unix::fs::symlink("..data/shadowpair.yaml", &running.file).unwrap();
    until("the link is followed", || running.in_force() == "swap1");
    swap("..2");
    until("the swap is seen", || running.in_force() == "swap2");
}

#[test]
fn a_kept_connection_follows_at_its_next_request_and_a_share_takes_effect() {
    let running = Running::start("r", ", shadow: [{model: c, percent: 0}]");
    let mut client = Client::to(running.process.traffic);
    assert_eq!(client.ask(post("/", "{}")).status, 200);
    running.replace(&running.text("r", ", shadow: [{model: c, percent: 100}]"));
    assert_eq!(running.reload().0, 200);
    assert_eq!(client.ask(post("/", "{}")).status, 200);
    until("the copy is made", || {
        running.metrics().count("shadowpair_pairs_total", &[("route", "r"), ("model", "c")]) == 1.0
    });
    assert_eq!(running.metrics().sum("shadowpair_share_ratio", &[("model", "c"), ("role", "shadow")]), 1.0);
    until("the pair is in its file", || {
        std::fs::read_dir(running.dir.join("pairs")).is_ok_and(|files| files.count() == 1)
    });
}

#[test]
fn counts_go_on_by_name_and_those_of_a_removed_route_move() {
    let running = Running::start("stays", ", shadow: [{model: c, percent: 100}]");
    assert_eq!(ask(running.process.traffic, post("/", "{}")).status, 200);
    running.replace(&running.text("stays", ", shadow: [{model: c, percent: 50}]"));
    assert_eq!(running.reload().0, 200);
    let of = |route: &str| running.metrics().count("shadowpair_requests_total", &[("route", route), ("code", "200")]);
    assert_eq!(of("stays"), 1.0, "carried over");
    running.replace(&running.text("comes", ", shadow: [{model: c, percent: 100}]"));
    assert_eq!(running.reload().0, 200);
    until("the removed route's counts have moved", || of("") == 1.0 && of("stays") == 0.0);
    let metrics = running.metrics();
    let lingering = ["requests_total", "legs_total", "shadow_skipped_total", "share_ratio", "in_flight", "pairs_total"];
    for family in lingering.map(|family| format!("shadowpair_{family}")) {
        assert!(metrics.series(&family, &[("route", "stays")]).is_empty(), "{family}");
    }
    assert_eq!(metrics.count("shadowpair_pairs_total", &[("route", "")]), 1.0);
    metrics.assert_account();
}

#[test]
fn no_answer_is_lost_over_fifty_reloads_and_nothing_grows() {
    let running = Running::start("r0", ", shadow: [{model: c, percent: 100}]");
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let traffic = running.process.traffic;
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
            std::thread::spawn(move || {
                let mut client = Client::to(traffic);
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(client.ask(post("/", r#"{"x":1}"#)).status, 200);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let files = || std::fs::read_dir(format!("/proc/{}/fd", running.process.id())).unwrap().count();
    let reload = |name: &str| {
        running.replace(&running.text(name, ", shadow: [{model: c, percent: 100}]"));
        // `unchanged` where the look at the file came first.
        assert_eq!(running.reload().0, 200);
        assert_eq!(running.in_force(), name);
    };
    for nth in 0..50 {
        let before = asked.load(Ordering::Relaxed);
        reload(&format!("r{}", nth % 7));
        until("traffic goes on", || asked.load(Ordering::Relaxed) > before);
    }
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().expect("no answer is lost"));
    let settled = || running.metrics().count("shadowpair_in_flight", &[]) == 0.0 && running.metrics().waiting() == 0.0;
    until("all is delivered", settled);
    let total = asked.load(Ordering::Relaxed) as f64;
    assert_eq!(running.metrics().count("shadowpair_requests_total", &[("code", "200")]), total);
    running.metrics().assert_account();

    let size = |metrics: &Metrics| metrics.series("shadowpair_legs_total", &[]).len();
    until("old series go", || size(&running.metrics()) < 100);
    let (series, open) = (size(&running.metrics()), files());
    for nth in 0..150 {
        reload(&format!("n{nth}"));
    }
    until("old series go again", || size(&running.metrics()) <= series);
    assert!(files() <= open + 8, "{} descriptors after, {open} before", files());
}

#[test]
fn endpoints_that_come_and_go_lose_no_answer() {
    let running = Running::start("r", "");
    let other = Stub::json(r#"{"y":2}"#);
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicUsize::new(0));
    let traffic = running.process.traffic;
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
            std::thread::spawn(move || {
                let mut client = Client::to(traffic);
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(client.ask(post("/", "{}")).status, 200);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let (one, two) = (format!("\"http://{}\"", running.p.address), format!("\"http://{}\"", other.address));
    for endpoints in [&two, &format!("{one}, {two}"), &one, &format!("{two}, {one}")].into_iter().cycle().take(40) {
        let text = running.text("r", "").replacen(&format!("[{one}]"), &format!("[{endpoints}]"), 1);
        let before = asked.load(Ordering::Relaxed);
        running.replace(&text);
        assert_eq!(running.reload().0, 200);
        until("traffic goes on", || asked.load(Ordering::Relaxed) >= before + 3);
    }
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().expect("no answer is lost"));
    assert!(!other.seen().is_empty(), "the new endpoint was asked");
    let metrics = running.metrics();
    let total = asked.load(Ordering::Relaxed) as f64;
    assert_eq!(metrics.count("shadowpair_requests_total", &[("answered_by", "prod"), ("code", "200")]), total);
}
