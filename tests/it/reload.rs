//! A new routing file under a running proxy: how it is noticed, what follows it, what it must not cost.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::metrics::Metrics;
use crate::support::{Act, Answer, Client, Gate, Plan, Process, Stub, get, ok_json, pairs, post, until};

const RELOADS: &str = "shadowpair_config_reloads_total";
const GOOD: &str = "shadowpair_config_last_reload_successful";

pub(crate) fn says(y: u32) -> Stub {
    Stub::json(&format!("{{\"y\":{y}}}"))
}

pub(crate) fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.text()))
}

/// The file's text as this process would have it.
pub(crate) fn text(process: &Process, plan: &Plan) -> String {
    plan.yaml(&process.folder())
}

/// Puts the plan in force.
#[track_caller]
pub(crate) fn apply(process: &Process, plan: &Plan) {
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
    until("the log says so", || process.log().contains("rejected"));
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
