//! A new routing file under a running proxy: how it is noticed, what follows it, what it must not cost.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::metrics::Metrics;
use crate::support::{Act, Answer, Client, Gate, Plan, Process, Stub, get, ok_json, pairs, post, until};

const RELOADS: &str = "shadowpair_config_reloads_total";
const GOOD: &str = "shadowpair_config_last_reload_successful";

fn says(y: u32) -> Stub {
    Stub::json(&format!("{{\"y\":{y}}}"))
}

fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.text()))
}

/// The file's text as this process would have it.
fn text(process: &Process, plan: &Plan) -> String {
    plan.yaml(&process.folder())
}

/// Puts the plan in force.
#[track_caller]
fn apply(process: &Process, plan: &Plan) {
    process.replace(&text(process, plan));
    let answer = process.reload();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn wait_reloads(process: &Process, outcome: &str, count: f64) {
    until("the reload is counted", || process.metrics().sum(RELOADS, &[("outcome", outcome)]) == count);
}

#[test]
fn a_call_says_what_became_of_the_file() {
    let (one, two) = (says(1), says(2));
    let plan = Plan::prod(one.address);
    let process = plan.clone().spawn();
    let unchanged = process.reload();
    assert_eq!((unchanged.status, &json(&unchanged)["outcome"]), (200, &"unchanged".into()));
    let hash = json(&unchanged)["config"].as_str().unwrap().to_owned();
    let next = Plan::prod(two.address).server("workers: 3").server("labels: {a: b}");
    process.replace(&text(&process, &next));
    let applied = process.reload();
    let said = json(&applied);
    assert_eq!((applied.status, &said["outcome"]), (200, &"applied".into()));
    assert_ne!(said["config"], hash.as_str());
    assert_eq!(said["needs_restart"], serde_json::json!(["server.workers", "server.labels"]));
    let metrics = process.metrics();
    let info = metrics.series("shadowpair_config_info", &[]);
    assert_eq!(info.len(), 1);
    assert_eq!(info[0].0["hash"], said["config"].as_str().unwrap());
    assert_eq!(crate::support::ask(process.traffic, get("/")).text(), r#"{"y":2}"#);
}

#[test]
fn a_bad_file_changes_nothing_and_is_loud() {
    let p = says(1);
    let process = Plan::prod(p.address).spawn();
    let good = std::fs::read_to_string(process.file()).unwrap();
    process.replace(&good.replace("prod: p", "prod: nobody\n    unknown: 1"));
    let refused = process.reload();
    assert_eq!(refused.status, 422);
    let faults = json(&refused)["faults"].to_string();
    assert!(faults.contains("nobody") && faults.contains("unknown"), "all of them: {faults}");
    assert!(!refused.error().is_empty());
    let metrics = process.metrics();
    // The look at the file may have been first, and then the call was the second to reject it.
    assert!(metrics.sum(RELOADS, &[("outcome", "rejected")]) >= 1.0);
    assert_eq!(metrics.sum(GOOD, &[]), 0.0);
    assert!(process.log().contains("rejected"), "{}", process.log());
    assert_eq!(crate::support::ask(process.traffic, get("/")).status, 200);
    process.replace(&good);
    assert_eq!(json(&process.reload())["outcome"], "unchanged");
    assert_eq!(process.metrics().sum(GOOD, &[]), 1.0);
}

#[test]
fn a_file_that_is_gone_is_a_rejected_reload_and_no_end() {
    let p = says(1);
    let process = Plan::prod(p.address).spawn();
    std::fs::remove_file(process.file()).unwrap();
    assert_eq!(process.reload().status, 422);
    assert_eq!(crate::support::ask(process.traffic, get("/")).status, 200);
}

#[test]
fn sighup_reads_the_file_again() {
    let (one, two) = (says(1), says(2));
    let process = Plan::prod(one.address).spawn();
    process.replace(&text(&process, &Plan::prod(two.address)));
    process.signal(Signal::HUP);
    until("the new prod answers", || crate::support::ask(process.traffic, get("/")).text() == r#"{"y":2}"#);
    assert_eq!(process.metrics().sum(RELOADS, &[("outcome", "applied")]), 2.0, "the first load counts too");
    let unchanged = || process.metrics().sum(RELOADS, &[("outcome", "unchanged")]);
    let before = unchanged();
    process.signal(Signal::HUP);
    until("the reload is counted", || unchanged() > before);
}

#[test]
fn a_renamed_file_is_noticed_also_with_the_time_and_size_of_the_old_one() {
    let (p, c) = (says(1), says(2));
    let share = |percent: u32| Plan::pair(p.address, c.address).shadow(&format!("[{{model: c, percent: {percent}}}]"));
    let process = share(10).spawn();
    let old = std::fs::metadata(process.file()).unwrap();
    let new = process.file().with_file_name("new.yaml");
    std::fs::write(&new, text(&process, &share(20))).unwrap();
    std::fs::File::options().write(true).open(&new).unwrap().set_modified(old.modified().unwrap()).unwrap();
    assert_eq!(std::fs::metadata(&new).unwrap().len(), old.len());
    std::fs::rename(new, process.file()).unwrap();
    wait_reloads(&process, "applied", 2.0);
    assert_eq!(process.metrics().sum("shadowpair_share_ratio", &[("model", "c")]), 0.2);
}

#[test]
fn a_configmaps_symlink_swap_is_noticed() {
    let (one, two) = (says(1), says(2));
    let process = Plan::prod(one.address).spawn();
    let file = process.file();
    let dir = file.parent().unwrap();
    let version = |name: &str, text: &str| {
        std::fs::create_dir(dir.join(name)).unwrap();
        std::fs::write(dir.join(name).join("shadowpair.yaml"), text).unwrap();
        symlink(name, dir.join("..data_tmp")).unwrap();
        std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    };
    version("..v1", &text(&process, &Plan::prod(one.address)));
    symlink("..data/shadowpair.yaml", dir.join("link")).unwrap();
    std::fs::rename(dir.join("link"), &file).unwrap();
    version("..v2", &text(&process, &Plan::prod(two.address)));
    std::fs::remove_dir_all(dir.join("..v1")).unwrap();
    wait_reloads(&process, "applied", 2.0);
    assert_eq!(crate::support::ask(process.traffic, get("/")).text(), r#"{"y":2}"#);
    assert_eq!(process.metrics().sum(RELOADS, &[("outcome", "rejected")]), 0.0);
}

#[test]
fn a_kept_connection_follows_at_its_next_request() {
    let (one, two) = (says(1), says(2));
    let process = Plan::prod(one.address).spawn();
    let mut client = Client::to(process.traffic);
    assert_eq!(client.ask(get("/")).text(), r#"{"y":1}"#);
    apply(&process, &Plan::prod(two.address));
    assert_eq!(client.ask(get("/")).text(), r#"{"y":2}"#);
}

#[test]
fn a_request_under_way_ends_with_the_models_it_began_with() {
    let gate = Gate::default();
    let slow = Stub::doing(vec![Act::Wait(gate.clone()), Act::Send(ok_json(r#"{"y":1}"#))]);
    let (c, two) = (says(1), says(2));
    let process = Plan::pair(slow.address, c.address).spawn();
    let mut client = Client::to(process.traffic);
    client.send(post("/", "{}"));
    slow.wait_received();
    let in_flight = [("route", "r"), ("role", "prod")];
    assert_eq!(process.metrics().sum("shadowpair_in_flight", &in_flight), 1.0);
    apply(&process, &Plan::prod(two.address));
    assert_eq!(process.metrics().sum("shadowpair_in_flight", &in_flight), 1.0, "carried over");
    assert_eq!(crate::support::ask(process.traffic, get("/")).text(), r#"{"y":2}"#);
    gate.open();
    assert_eq!(client.answer().text(), r#"{"y":1}"#);
    until("the pair of the old file is delivered", || {
        process.metrics().count("shadowpair_pairs_delivered_total", &[]) == 1.0
    });
    assert_eq!(process.metrics().sum("shadowpair_in_flight", &in_flight), 0.0);
    let pair = pairs::read(&process.folder()).remove(0);
    assert_eq!((&pair["prod"]["outcome"], &pair["candidate"]["model"]), (&"ok".into(), &"c".into()));
    until("the counts of the candidate that is gone move", || {
        let metrics = process.metrics();
        metrics.series("shadowpair_pairs_total", &[("model", "c")]).is_empty()
            && metrics.count("shadowpair_pairs_total", &[("model", ""), ("route", "")]) == 1.0
    });
}

/// A file with these routes, each by its own path prefix, all with the models of the plan.
fn routes(plan: Plan, names: &[&str]) -> Plan {
    let route = |name: &&str| {
        format!(
            "  - {{name: {name}, match: {{path_prefix: /{name}}}, prod: p, shadow: [{{model: c, percent: 100}}]}}\n"
        )
    };
    plan.routes(names.iter().map(route).collect::<String>().trim_end())
}

/// Series that name this route.
fn naming(metrics: &Metrics, route: &str) -> Vec<String> {
    let named = metrics.samples.iter().filter(|(_, labels, _)| labels.get("route").is_some_and(|name| name == route));
    named.map(|(name, ..)| name.clone()).collect()
}

#[test]
fn counts_go_on_by_name_and_those_of_a_removed_route_move_to_the_nameless() {
    let (p, c) = (says(1), says(1));
    let plan = Plan::pair(p.address, c.address);
    let process = routes(plan.clone(), &["kept", "gone"]).spawn();
    for path in ["/kept", "/gone", "/gone"] {
        assert_eq!(crate::support::ask(process.traffic, post(path, "{}")).status, 200);
    }
    until("the pairs are made", || process.metrics().count("shadowpair_pairs_delivered_total", &[]) == 3.0);
    let sum = |family: &str, route: &str| process.metrics().count(family, &[("route", route)]);
    apply(&process, &routes(plan.clone(), &["kept", "new"]));
    let families = ["shadowpair_requests_total", "shadowpair_pairs_total"];
    until("the removed route's series go", || naming(&process.metrics(), "gone").is_empty());
    for family in families {
        assert_eq!((sum(family, "kept"), sum(family, ""), sum(family, "new")), (1.0, 2.0, 0.0), "{family}");
    }
    assert_eq!(sum("shadowpair_legs_total", "kept"), 2.0);
    assert_eq!(sum("shadowpair_legs_total", ""), 4.0);
    assert!(process.metrics().series("shadowpair_legs_total", &[("route", ""), ("model", "p")]).is_empty());
    assert_eq!(crate::support::ask(process.traffic, post("/kept", "{}")).status, 200);
    assert_eq!(crate::support::ask(process.traffic, post("/gone", "{}")).status, 404);
    until("counting goes on", || sum("shadowpair_pairs_total", "kept") == 2.0);
    apply(&process, &routes(plan, &["kept", "gone"]));
    assert_eq!(crate::support::ask(process.traffic, post("/gone", "{}")).status, 200);
    until("a route that comes back counts anew", || sum("shadowpair_pairs_total", "gone") == 1.0);
    assert_eq!(sum("shadowpair_requests_total", "gone"), 1.0);
    until("its predecessor is taken down", || naming(&process.metrics(), "new").is_empty());
}

#[test]
fn a_new_share_takes_effect_at_once() {
    let (p, c) = (says(1), says(2));
    let share = |percent: u32| {
        Plan::prod(p.address)
            .model("c", &[c.address])
            .route(format!("canary: {{model: c, percent: {percent}, sticky: {{header: x-user-id}}}}"))
    };
    let process = share(0).spawn();
    let mut client = Client::to(process.traffic);
    let mut admitted = || -> BTreeSet<usize> {
        let ask = |nth: &usize| {
            let user = format!("u{nth}");
            let request = crate::support::request("POST /", &[("x-user-id", &user)], b"{}");
            client.ask(request).text() == r#"{"y":2}"#
        };
        (0..60).filter(ask).collect()
    };
    assert_eq!(admitted().len(), 0);
    apply(&process, &share(20));
    let some = admitted();
    apply(&process, &share(60));
    let more = admitted();
    assert!(some.is_subset(&more) && some.len() < more.len(), "{some:?} {more:?}");
    apply(&process, &share(20));
    assert_eq!(admitted(), some, "back where they were");
    apply(&process, &share(100));
    assert_eq!(admitted().len(), 60);
}

#[test]
fn an_ejected_endpoint_stays_ejected_over_a_reload() {
    let (p, nobody) = (says(1), Stub::nobody());
    let plan = Plan::prod(p.address).model("c", &[nobody]).route("canary: {model: c, percent: 100, on_error: prod}");
    let process = plan.clone().spawn();
    let mut client = Client::to(process.traffic);
    let ejected = |metrics: &Metrics| metrics.sum("shadowpair_endpoint_ejected_total", &[("model", "c")]);
    for _ in 0..6 {
        assert_eq!(client.ask(post("/", "{}")).status, 200);
    }
    assert_eq!(ejected(&process.metrics()), 1.0);
    let up = |metrics: &Metrics| metrics.sum("shadowpair_endpoint_up", &[("model", "c")]);
    apply(&process, &plan.with("c", "timeout: {connect: 2s}"));
    let metrics = process.metrics();
    assert_eq!((ejected(&metrics), up(&metrics)), (1.0, 0.0));
}

/// One of two files that differ in everything a reload can change.
fn variant(nth: usize, p: &[SocketAddr], c: &[SocketAddr]) -> Plan {
    let odd = nth % 2;
    let plan = Plan::prod(p[odd])
        .endpoint("p", p[2])
        .model(["c", "d"][odd], &[c[odd]])
        .model("x", &[c[2]])
        .shadow(&format!("[{{model: {}, percent: {}}}]", ["c", "d"][odd], 50 + odd))
        .route(format!("canary: {{model: x, percent: {}, sticky: {{header: x-user-id}}}}", 10 + odd * 30))
        .route("control: {percent: 5}");
    if odd == 0 { plan.with("p", "health: {path: /, interval: 200ms}") } else { plan.route("fallback: x") }
}

#[test]
fn nothing_is_lost_over_fifty_reloads_under_load() {
    let (p, c): (Vec<Stub>, Vec<Stub>) = (0..3).map(|_| (says(1), says(1))).unzip();
    let (p, c) = (addresses(&p), addresses(&c));
    let mut process = variant(0, &p, &c).spawn();
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (stop, asked, traffic) = (&stop, &asked, process.traffic);
            scope.spawn(move || hammer(traffic, client, stop, asked));
        }
        let _stops = Stops(&stop);
        for nth in 1..=50 {
            let before = asked.load(Ordering::SeqCst);
            let plan = variant(nth, &p, &c);
            process.replace(&text(&process, &plan));
            let answer = process.reload();
            let outcome = json(&answer)["outcome"].clone();
            // The look at the file may have been first.
            assert!(outcome == "applied" || outcome == "unchanged", "{}", answer.text());
            process.metrics();
            until("clients go on", || asked.load(Ordering::SeqCst) > before + 5);
        }
    });
    let asked = asked.load(Ordering::SeqCst) as f64;
    until("every answer is counted", || process.metrics().count("shadowpair_requests_total", &[]) == asked);
    let metrics = process.metrics();
    assert_eq!(metrics.count("shadowpair_requests_total", &[("code", "200")]), asked, "none was lost");
    until("no pair waits", || {
        let metrics = process.metrics();
        metrics.waiting() == 0.0 && metrics.count("shadowpair_in_flight", &[]) == 0.0
    });
    let made = process.metrics().count("shadowpair_pairs_total", &[]);
    process.signal(Signal::TERM);
    assert_eq!(process.wait(), Some(0));
    let pairs = pairs::read(&process.folder());
    pairs::assert_gapless(&pairs);
    assert!(pairs.len() as f64 >= made && made > 100.0, "{} of {made}", pairs.len());
}

/// Says stop also where the test fails, so that the clients end.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Asks over one kept connection until it is told to stop; every answer must be there and good.
fn hammer(traffic: SocketAddr, client: usize, stop: &AtomicBool, asked: &AtomicUsize) {
    let _stops = Stops(stop);
    let mut kept = Client::to(traffic);
    let mut nth = 0;
    while !stop.load(Ordering::SeqCst) {
        let user = format!("u{client}-{nth}");
        let answer = kept.ask(crate::support::request("POST /", &[("x-user-id", &user)], b"{}"));
        assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"y":1}"#), "{user}");
        assert_eq!(answer.value("connection"), None, "and the connection stays");
        asked.fetch_add(1, Ordering::SeqCst);
        nth += 1;
    }
}

fn addresses(stubs: &[Stub]) -> Vec<SocketAddr> {
    stubs.iter().map(|stub| stub.address).collect()
}

fn descriptors(process: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.id())).expect("fd").count()
}

/// Waits until what was there before has been taken down and idle connections are closed; series and descriptors.
fn at_rest(process: &Process) -> (BTreeSet<(String, Vec<(String, String)>)>, usize) {
    let series = || {
        let keys = process.metrics().samples.into_iter().filter(|(name, ..)| !name.starts_with("process_"));
        keys.map(|(name, labels, _)| (name, labels.into_iter().collect())).collect::<BTreeSet<_>>()
    };
    let mut last = (series(), descriptors(process));
    let mut same = 0;
    until("it is at rest", || {
        std::thread::sleep(Duration::from_millis(300));
        let open = process.metrics().count("shadowpair_upstream_connections", &[]);
        let now = (series(), descriptors(process));
        same = if now == last && open == 0.0 { same + 1 } else { 0 };
        last = now;
        same >= 5
    });
    last
}

#[test]
fn two_hundred_reloads_leave_nothing_behind() {
    let (p, c): (Vec<Stub>, Vec<Stub>) = (0..3).map(|_| (says(1), says(1))).unzip();
    let (p, c) = (addresses(&p), addresses(&c));
    let process = variant(0, &p, &c).spawn();
    let round = |from: usize, to: usize| {
        for nth in from..=to {
            apply(&process, &variant(nth, &p, &c));
            for user in 0..3 {
                let user = format!("u{user}");
                let request = crate::support::request("POST /", &[("x-user-id", &user)], b"{}");
                assert_eq!(crate::support::ask(process.traffic, request).status, 200);
            }
        }
    };
    round(1, 20);
    let (series, files) = at_rest(&process);
    round(21, 220);
    let (series_after, files_after) = at_rest(&process);
    let named = |set: &BTreeSet<(String, Vec<(String, String)>)>| -> BTreeSet<_> {
        set.iter().filter(|(name, _)| name != "shadowpair_config_info").cloned().collect()
    };
    let (before, after) = (named(&series), named(&series_after));
    let grown: Vec<_> = after.difference(&before).collect();
    assert!(grown.len() <= 2, "{} more series: {grown:?}", grown.len());
    assert!(files_after <= files + 2, "{files} descriptors before, {files_after} after");
}

#[test]
fn a_proxy_without_a_file_says_that_it_has_none() {
    let p = says(1);
    let bench = Plan::prod(p.address).start();
    let answer = crate::support::ask(
        bench.admin,
        crate::support::request("POST /api/v1/config/reload", &[("connection", "close")], b""),
    );
    assert_eq!(answer.status, 409);
    assert!(!answer.error().is_empty());
}
