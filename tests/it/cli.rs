//! The program itself: exit statuses, what goes where, and plain words instead of back-traces.

use std::process::Output;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::process::{field, run};
use crate::support::{Plan, Stub, get};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Ended with this status, and without a panic.
fn assert_status(output: &Output, status: i32) {
    let all = text(&output.stderr) + &text(&output.stdout);
    assert_eq!(output.status.code(), Some(status), "{all}");
    assert!(!all.contains("panicked") && !all.contains("RUST_BACKTRACE"), "{all}");
}

fn file(dir: &TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn good(dir: &TempDir) -> String {
    let yaml =
        Plan::pair("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()).yaml(&dir.path().join("pairs"));
    file(dir, "good.yaml", &yaml)
}

#[test]
fn help_has_examples_everywhere() {
    let top = run(&["--help"]);
    assert_status(&top, 0);
    for command in ["serve", "check", "schema", "demo", "compare"] {
        assert!(text(&top.stdout).contains(command), "{command} is not in --help");
        let help = run(&[command, "--help"]);
        assert_status(&help, 0);
        assert!(text(&help.stdout).contains(&format!("shadowpair {command}")), "an example in {command} --help");
    }
    assert!(text(&run(&["--version"]).stdout).contains(env!("CARGO_PKG_VERSION")));
    assert_status(&run(&["no-such-command"]), 2);
}

#[test]
fn check_prints_the_effective_routes_of_a_good_file() {
    let dir = TempDir::new().unwrap();
    let output = run(&["check", &good(&dir)]);
    assert_status(&output, 0);
    let out = text(&output.stdout);
    assert!(out.contains('r') && out.contains('p') && out.contains("100"), "{out}");
}

#[test]
fn check_prints_every_fault_of_every_file_with_its_place() {
    let dir = TempDir::new().unwrap();
    let bad = "version: 1\nmodels:\n  p: {endpoints: [\"http://127.0.0.1:1\"], tiemout: {connect: 1s}}\nroutes:\n  \
        - {name: r, prod: q, shadow: [{model: p, percent: 101}]}\n";
    let (one, two) = (file(&dir, "one.yaml", bad), file(&dir, "two.yaml", "version: 7\n"));
    let output = run(&["check", &one, &two, &good(&dir)]);
    assert_status(&output, 2);
    let err = text(&output.stderr);
    for part in ["one.yaml:3:", "tiemout", "timeout", "one.yaml:5:", "101", "two.yaml:1:"] {
        assert!(err.contains(part), "{part} is not in {err}");
    }
}

#[test]
fn a_bad_or_missing_file_is_status_2_with_plain_words() {
    let dir = TempDir::new().unwrap();
    for command in ["check", "serve"] {
        let bad = file(&dir, "bad.yaml", "version: [1\n");
        let missing = dir.path().join("none.yaml").to_str().unwrap().to_owned();
        let folder = dir.path().to_str().unwrap().to_owned();
        for path in [bad, missing, folder] {
            let args: Vec<&str> = if command == "serve" { vec![command, "-c", &path] } else { vec![command, &path] };
            let output = run(&args);
            assert_status(&output, 2);
            assert!(text(&output.stderr).contains(path.rsplit('/').next().unwrap()), "{}", text(&output.stderr));
        }
    }
}

#[test]
fn what_comes_later_is_refused_and_not_ignored() {
    let dir = TempDir::new().unwrap();
    let yaml = std::fs::read_to_string(good(&dir)).unwrap();
    let upgrade = yaml.replace("    prod: p", "    prod: p\n    upgrade: [websocket]");
    let output = run(&["check", &file(&dir, "upgrade.yaml", &upgrade)]);
    assert_status(&output, 2);
    assert!(text(&output.stderr).contains("not yet supported"), "{}", text(&output.stderr));
}

#[test]
fn a_port_that_is_taken_is_status_1_and_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let dir = TempDir::new().unwrap();
    for plan in [Plan::prod(address).listen(address), Plan::prod(address).admin(address)] {
        let yaml = plan.yaml(&dir.path().join("pairs"));
        let output = run(&["serve", "-c", &file(&dir, "taken.yaml", &yaml)]);
        assert_status(&output, 1);
        assert!(text(&output.stderr).contains(&address.to_string()), "{}", text(&output.stderr));
    }
}

#[test]
fn a_folder_that_cannot_be_made_is_status_1_and_named() {
    let dir = TempDir::new().unwrap();
    let in_the_way = file(&dir, "pairs", "a file");
    let yaml = Plan::prod("127.0.0.1:1".parse().unwrap()).yaml(std::path::Path::new(&in_the_way));
    let output = run(&["serve", "-c", &file(&dir, "f.yaml", &yaml)]);
    assert_status(&output, 1);
    assert!(text(&output.stderr).contains("pairs"), "{}", text(&output.stderr));
}

#[test]
fn schemas_are_json() {
    for args in [&["schema"][..], &["schema", "routing"], &["schema", "pair"]] {
        let output = run(args);
        assert_status(&output, 0);
        let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(schema["$schema"].as_str().unwrap().contains("json-schema.org"), "{args:?}");
    }
    let pair: Value = serde_json::from_slice(&run(&["schema", "pair"]).stdout).unwrap();
    assert!(pair["properties"]["answered_by"].is_object());
}

#[test]
fn logs_are_json_where_nobody_looks_and_never_hold_a_secret() {
    let p = Stub::json(r#"{"y":1}"#);
    let mut process = Plan::prod(p.address).server("hash_key: s3cret-key\n  admin_token: s3cret-token").spawn();
    assert_eq!(crate::support::ask(process.traffic, get("/?token=s3cret-query")).status, 200);
    process.signal(Signal::TERM);
    assert_eq!(process.wait(), Some(0));
    let lines = process.log_lines();
    assert!(lines.iter().any(|line| field(line, "message").as_deref() == Some("listening")));
    assert!(!process.log().contains("s3cret"), "{}", process.log());
    assert!(!process.log().contains("panicked"));
}

#[test]
fn a_prod_that_fails_all_the_time_does_not_flood_the_log() {
    let mut process = Plan::prod(Stub::nobody()).spawn();
    let before = process.log_lines().len();
    let mut client = crate::support::Client::to(process.traffic);
    for _ in 0..200 {
        assert_eq!(client.ask(get("/")).status, 502);
    }
    process.signal(Signal::TERM);
    assert_eq!(process.wait(), Some(0));
    let lines = process.log_lines();
    let about = lines[before..]
        .iter()
        .filter(|line| field(line, "level").is_some_and(|level| level == "WARN" || level == "ERROR"));
    let count = about.count();
    assert!((1..=30).contains(&count), "one line now and then: {count}\n{}", process.log());
}

#[test]
fn a_log_line_about_a_long_name_of_many_bytes_is_whole() {
    let name = "é".repeat(300);
    let block = format!("  - {{name: \"{name}\", prod: p}}");
    let asked = "RUST_LOG=info,access=debug; export RUST_LOG;";
    let mut process = Plan::prod(Stub::nobody()).routes(&block).spawn_under(asked);
    assert_eq!(crate::support::ask(process.traffic, get(&format!("/{}", "%C3%A9".repeat(500)))).status, 502);
    process.signal(Signal::TERM);
    assert_eq!(process.wait(), Some(0));
    let lines = process.log_lines();
    assert!(lines.iter().any(|line| field(line, "route").is_some_and(|route| route.starts_with("éé"))), "{lines:?}");
    assert!(!process.log().contains('\u{fffd}') && !process.log().contains("panicked"), "{}", process.log());
}

#[test]
fn each_failed_request_is_logged_where_the_log_asks_for_it() {
    let asked = "RUST_LOG=info,access=debug; export RUST_LOG;";
    let mut process = Plan::prod(Stub::nobody()).spawn_under(asked);
    let mut client = crate::support::Client::to(process.traffic);
    for id in ["one", "two", "three"] {
        assert_eq!(client.ask(crate::support::request("GET /", &[("x-request-id", id)], b"")).status, 502);
    }
    process.signal(Signal::TERM);
    assert_eq!(process.wait(), Some(0));
    let lines = process.log_lines();
    let logged: Vec<String> = lines.iter().filter_map(|line| field(line, "request_id")).collect();
    assert_eq!(logged, ["one", "two", "three"]);
}

#[test]
fn each_kind_of_refusal_has_its_line_and_many_of_a_kind_have_few() {
    let limits = "limits: {request_bytes: 1KiB, header_bytes: 1KiB, idle_timeout: 300ms}";
    let p = Stub::doing(vec![crate::support::Act::Hang]);
    let plan = Plan::prod(p.address).with("p", "timeout: {first_byte: 200ms}").matching("{path_prefix: /only}");
    let mut process = plan.server(limits).server("workers: 1").spawn();
    let ask = |request: Vec<u8>| crate::support::ask(process.traffic, request).status;
    for _ in 0..30 {
        assert_eq!(ask(get("/other")), 404);
    }
    let large = "a".repeat(2000);
    assert_eq!(ask(crate::support::request("GET /only", &[("x", &large)], b"")), 431);
    assert_eq!(ask(crate::support::request("POST /only", &[], large.as_bytes())), 413);
    assert_eq!(ask(get("/only")), 504);
    let half = "POST /only HTTP/1.1\r\nhost: t\r\ncontent-length: 9\r\n\r\nhalf";
    let mut pausing = crate::support::Client::to(process.traffic);
    assert_eq!(pausing.send(half).answer().status, 408);
    let received = p.received();
    let mut leaving = crate::support::Client::to(process.traffic);
    leaving.send(half);
    crate::support::until("prod has the half", || p.received() > received);
    drop(leaving);
    crate::support::until("the line is there", || process.log().contains("\"status\":499"));
    process.signal(Signal::TERM);
    assert_eq!(process.wait(), Some(0));
    let lines = process.log_lines();
    let of = |status: u64| lines.iter().filter(|line| line["status"] == status).count();
    assert!((1..=10).contains(&of(404)), "{}: {}", of(404), process.log());
    assert_eq!([431, 413, 504, 408, 499].map(of), [1; 5], "{}", process.log());
}
