//! The fallback, and the table of who answers: every combination of what prod, the canary and the fallback can do.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::support::metrics::Metrics;
use crate::support::{Act, Answer, Bench, End, Plan, Stub, answer, get, ok_json, post, request};

/// What a model can do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Does {
    Ok,
    Refuses,
    Hangs,
    Resets,
    Fails500,
    BreaksOff,
}

use Does::{BreaksOff, Fails500, Hangs, Ok as Answers, Refuses, Resets};

const ALL: [Does; 6] = [Answers, Refuses, Hangs, Resets, Fails500, BreaksOff];

impl Does {
    fn outcome(self) -> &'static str {
        match self {
            Answers => "ok",
            Refuses => "connect_error",
            Hangs => "timeout",
            Resets | BreaksOff => "reset",
            Fails500 => "http_error",
        }
    }

    /// The status of its head; none where there is none.
    fn status(self) -> Option<u16> {
        match self {
            Answers | BreaksOff => Some(200),
            Fails500 => Some(500),
            Refuses | Hangs | Resets => None,
        }
    }

    fn stub(self) -> Option<Stub> {
        let begun = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_vec();
        Some(match self {
            Answers => Stub::json(r#"{"y":1}"#),
            Refuses => return None,
            Hangs => Stub::doing(vec![Act::Hang]),
            Resets => Stub::on_head(|_| vec![Act::Reset]),
            Fails500 => Stub::sending(answer("500 Oops", &[], b"boom")),
            BreaksOff => Stub::doing(vec![Act::Send(begun), Act::Pause(Duration::from_millis(30)), Act::Close]),
        })
    }
}

/// One row of the table; without a canary the client is on prod's arm and a shadow makes the pair.
#[derive(Debug, Clone, Copy)]
struct Row {
    canary: Option<Does>,
    prod: Does,
    fallback: Does,
}

impl Row {
    fn all() -> Vec<Self> {
        let canaries = ALL.map(Some).into_iter().chain([None]);
        let rows = canaries.flat_map(|canary| ALL.map(|prod| (canary, prod)));
        rows.flat_map(|(canary, prod)| ALL.map(|fallback| Self { canary, prod, fallback })).collect()
    }

    /// Who answers, and with what; none where nobody does.
    fn answers(self) -> (&'static str, Option<Does>) {
        match self.canary {
            Some(does @ (Answers | BreaksOff)) => return ("canary", Some(does)),
            _ if self.prod.status().is_some() => return ("prod", Some(self.prod)),
            _ => {}
        }
        match self.fallback.status() {
            Some(_) => ("fallback", Some(self.fallback)),
            None => ("proxy", None),
        }
    }

    /// The status of the proxy's own answer is prod's failure.
    fn status(self) -> u16 {
        let (_, does) = self.answers();
        does.and_then(Does::status).unwrap_or(if self.prod == Hangs { 504 } else { 502 })
    }

    /// Each leg of the answer path and beside it, by role.
    fn legs(self) -> BTreeMap<&'static str, &'static str> {
        let (by, _) = self.answers();
        let mut legs = BTreeMap::from([("prod", self.prod.outcome())]);
        legs.extend(self.canary.map(|does| ("canary", does.outcome())));
        if by == "fallback" || by == "proxy" {
            legs.insert("fallback", self.fallback.outcome());
        }
        if self.canary.is_none() {
            legs.insert("shadow", "ok");
        }
        legs
    }

    fn holds(self, answer: &Answer, pair: &Value, metrics: &Metrics, route: &str) {
        let (by, does) = self.answers();
        assert_eq!(answer.status, self.status(), "{self:?}");
        assert_eq!(answer.end == End::Whole, does != Some(BreaksOff), "{self:?}: {:?}", answer.end);
        let answered = &pair["answered_by"];
        assert_eq!((&answered["role"], &answered["status"]), (&by.into(), &self.status().into()), "{self:?}: {pair}");
        let arm = if self.canary.is_some() { "canary" } else { "prod" };
        assert_eq!(pair["arm"], arm, "{self:?}");
        assert_eq!(pair["prod"]["outcome"], self.prod.outcome(), "{self:?}: {pair}");
        let candidate = self.canary.map_or("ok", Does::outcome);
        assert_eq!(pair["candidate"]["outcome"], candidate, "{self:?}: {pair}");
        assert_eq!(pair["candidate"]["role"], if arm == "canary" { "canary" } else { "shadow" }, "{self:?}");
        let result = match (self.prod.outcome(), candidate) {
            ("ok", "ok") => "equal",
            ("ok", _) => "candidate_failed",
            (_, "ok") => "prod_failed",
            _ => "both_failed",
        };
        assert_eq!(pair["result"], result, "{self:?}");
        let code = self.status().to_string();
        let requests = metrics.series("shadowpair_requests_total", &[("route", route)]);
        for (labels, count) in requests {
            let this = labels["answered_by"] == by && labels["code"] == code;
            assert!((count - f64::from(u8::from(this))).abs() < 0.5, "{self:?}: {labels:?} {count}");
        }
        assert_eq!(metrics.sum("shadowpair_requests_total", &[("route", route)]), 1.0, "{self:?}");
        let asked = metrics.series("shadowpair_legs_total", &[("route", route)]).into_iter().filter(|leg| leg.1 > 0.0);
        let asked: Vec<_> = asked.map(|(labels, n)| (labels["role"].as_str(), labels["outcome"].as_str(), n)).collect();
        let expected: Vec<_> = self.legs().into_iter().map(|(role, outcome)| (role, outcome, 1.0)).collect();
        let mut sorted = asked;
        sorted.sort_by(|a, b| a.0.cmp(b.0));
        assert_eq!(sorted, expected, "{self:?}: each leg once, and no other");
    }
}

/// Every row has models of its own, so that none is ejected for what it did in another.
fn routing(rows: &[Row], addresses: &BTreeMap<Does, SocketAddr>) -> (Vec<(String, String)>, String) {
    let (mut models, mut routes) = (Vec::new(), String::new());
    for (nth, row) in rows.iter().enumerate() {
        let mut model = |role: &str, does: Does| {
            let limit = if does == Hangs { "250ms" } else { "60s" };
            let keys =
                format!("endpoints: [\"http://{}\"], timeout: {{first_byte: {limit}, idle: 60s}}", addresses[&does]);
            models.push((format!("{role}{nth}"), keys));
        };
        model("p", row.prod);
        model("f", row.fallback);
        let beside = match row.canary {
            Some(does) => {
                model("c", does);
                format!("canary: {{model: c{nth}, percent: 100}}")
            }
            None => "shadow: [{model: p, percent: 100}]".into(),
        };
        let _ = writeln!(
            routes,
            "  - {{name: r{nth}, match: {{path: /{nth}}}, prod: p{nth}, fallback: f{nth}, {beside}, \
             compare: {{values: [{{name: y, at: /y, kind: number}}]}}}}"
        );
    }
    (models, routes)
}

#[test]
fn whoever_fails_the_next_one_answers_and_all_of_it_is_told() {
    let rows = Row::all();
    let stubs: Vec<(Does, Option<Stub>)> = ALL.map(|does| (does, does.stub())).into_iter().collect();
    let nobody = Stub::nobody();
    let addresses = stubs.iter().map(|(does, stub)| (*does, stub.as_ref().map_or(nobody, |stub| stub.address)));
    let addresses: BTreeMap<Does, SocketAddr> = addresses.collect();
    let (models, routes) = routing(&rows, &addresses);
    let plan = models.iter().fold(Plan::prod(addresses[&Answers]), |plan, (name, keys)| plan.model_of(name, keys));
    let bench = plan.routes(routes.trim_end()).start();
    let answers = ask_all(&bench, rows.len());
    bench.settle();
    let pairs = bench.pairs(rows.len());
    let of_route: BTreeMap<&str, &Value> = pairs.iter().map(|pair| (pair["route"].as_str().unwrap(), pair)).collect();
    let metrics = by_route(bench.metrics());
    for (nth, (row, answer)) in rows.iter().zip(&answers).enumerate() {
        let route = format!("r{nth}");
        row.holds(answer, of_route[route.as_str()], &metrics[&route], &route);
    }
}

/// Each route's own series: a search through all of them for each row takes seconds.
fn by_route(metrics: Metrics) -> BTreeMap<String, Metrics> {
    let mut routes = BTreeMap::new();
    for sample in metrics.samples {
        let Some(route) = sample.1.get("route").cloned() else { continue };
        let empty = || Metrics { samples: Vec::new(), types: BTreeMap::new() };
        routes.entry(route).or_insert_with(empty).samples.push(sample);
    }
    routes
}

/// Clients at once: most of their time goes by while a model hangs.
const ASKING: usize = 16;

/// Every row's request, a few at once.
fn ask_all(bench: &Bench, count: usize) -> Vec<Answer> {
    let address = bench.traffic;
    let ask = |nth: usize| crate::support::ask(address, post(&format!("/{nth}"), "{}"));
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..ASKING)
            .map(|first| {
                scope.spawn(move || (first..count).step_by(ASKING).map(|nth| (nth, ask(nth))).collect::<Vec<_>>())
            })
            .collect();
        let mut answers: Vec<_> = asking.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        answers.sort_by_key(|(nth, _)| *nth);
        answers.into_iter().map(|(_, answer)| answer).collect()
    })
}

/// Prod `p` and the fallback `f`.
fn fallback(p: SocketAddr, f: SocketAddr) -> Plan {
    Plan::prod(p).model("f", &[f]).route("fallback: f")
}

#[test]
fn the_fallback_gets_the_request_from_its_first_byte_and_marked() {
    let p = Stub::new(|_| vec![Act::Reset]);
    let f = Stub::sending(ok_json(r#"{"y":3}"#));
    let bench = fallback(p.address, f.address).start();
    let body = vec![b'x'; 300_000];
    let fields = [("idempotency-key", "k"), ("x-request-id", "id")];
    assert_eq!(bench.ask(request("POST /", &fields, &body)).text(), r#"{"y":3}"#);
    let seen = f.one();
    assert!(seen.body == body && p.one().body == body);
    assert_eq!(seen.value("x-shadowpair-role").as_deref(), Some("fallback"));
    assert_eq!(seen.value("idempotency-key").as_deref(), Some("k-fallback"));
    assert_eq!(seen.value("x-request-id").as_deref(), Some("id"));
}

#[test]
fn an_error_that_prod_itself_gives_is_prods_answer() {
    let (p, f) = (Stub::sending(answer("503 Busy", &[], b"later")), Stub::json("{}"));
    let bench = fallback(p.address, f.address).start();
    assert_eq!(bench.ask(post("/", "{}")).text(), "later");
    assert_eq!(f.accepted(), 0);
}

#[test]
fn a_body_larger_than_copy_body_has_no_fallback_once_it_was_read() {
    let (p, f) = (Stub::doing(vec![Act::Reset]), Stub::json("{}"));
    let bench = fallback(p.address, f.address).route("copy_body: 1KiB").start();
    assert_eq!(bench.ask(request("POST /", &[], &[b'x'; 5000])).status, 502);
    assert_eq!(f.accepted(), 0);
}

#[test]
fn a_client_that_stalls_is_nobodys_failure() {
    let (p, f) = (Stub::json("{}"), Stub::json("{}"));
    let bench = fallback(p.address, f.address).server("limits: {idle_timeout: 300ms}").start();
    let mut client = bench.client();
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf");
    assert_eq!(client.answer().status, 408);
    assert_eq!(f.accepted(), 0);
}

#[test]
fn prod_is_tried_twice_before_the_fallback_where_the_route_retries() {
    let (p, f) = (Stub::doing(vec![Act::Reset]), Stub::json(r#"{"y":3}"#));
    let bench = fallback(p.address, f.address).start();
    assert_eq!(bench.ask(get("/")).text(), r#"{"y":3}"#);
    assert_eq!((p.seen().len(), f.seen().len()), (2, 1));
    assert_eq!(bench.metrics().sum("shadowpair_requests_total", &[("answered_by", "fallback"), ("code", "200")]), 1.0);
}

#[test]
fn where_both_fail_prods_error_is_told() {
    let p = Stub::doing(vec![Act::Hang]);
    let bench = fallback(p.address, Stub::nobody()).with("p", "timeout: {first_byte: 200ms}").start();
    let answer = bench.ask(post("/", "{}"));
    assert_eq!(answer.status, 504);
    assert!(answer.error().contains("prod did not answer in time"), "{}", answer.error());
}
