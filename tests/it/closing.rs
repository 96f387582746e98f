//! The kept connection that prod has just closed. The proxy cannot know whether a request that it sends into the close
//! is read, so what counts is that nearly all are answered, and that none is asked twice.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::support::stub::Seen;
use crate::support::{Act, Bench, Client, Plan, Stub, ok_json, post, request, until};

/// Four models of one proxy, each behind a path of its own, so that their clients share no kept connection.
fn apart(stubs: &[Stub]) -> Bench {
    let mut plan = Plan::prod(stubs[0].address);
    let mut routes = Vec::new();
    for (nth, stub) in stubs.iter().enumerate() {
        plan = plan.model(&format!("p{nth}"), &[stub.address]);
        routes.push(format!("  - {{name: r{nth}, match: {{path: /{nth}}}, prod: p{nth}}}"));
    }
    plan.routes(&routes.join("\n")).start()
}

#[test]
fn of_200_posts_that_each_meet_a_closed_connection_all_are_answered() {
    let closes = |_: &Seen| vec![Act::Send(ok_json(r#"{"y":1}"#)), Act::Pause(Duration::from_millis(50)), Act::Close];
    let stubs: Vec<Stub> = (0..4).map(|_| Stub::new(closes)).collect();
    let bench = apart(&stubs);
    std::thread::scope(|scope| {
        for (nth, stub) in stubs.iter().enumerate() {
            let traffic = bench.traffic;
            scope.spawn(move || {
                let (mut client, path) = (Client::to(traffic), format!("/{nth}"));
                for asked in 1..=50 {
                    let start = Instant::now();
                    assert_eq!(client.ask(post(&path, r#"{"x":1}"#)).status, 200, "{path}, request {asked}");
                    // The close stands between any two requests, also where this machine runs late.
                    until("prod has closed", || stub.ended() == asked);
                    std::thread::sleep(Duration::from_millis(100).saturating_sub(start.elapsed()));
                }
            });
        }
    });
    for stub in &stubs {
        assert_eq!((stub.seen().len(), stub.accepted()), (50, 50), "each was asked once, over a connection of its own");
    }
    bench.wait_metric("shadowpair_requests_total", &[("code", "200")], 200.0);
}

#[test]
fn of_500_posts_back_to_back_into_a_closing_prod_none_is_asked_twice() {
    // From 0 to 2 ms, in steps of a quarter, so that the close falls before, into and after the next request.
    let p = Stub::new(|seen| {
        let step = seen.value("x-step").and_then(|step| step.parse().ok()).unwrap_or(0);
        vec![Act::Send(ok_json(r#"{"y":1}"#)), Act::Pause(Duration::from_micros(250) * step), Act::Close]
    });
    let bench = Plan::prod(p.address).start();
    let mut client = bench.client();
    let mut failed = 0;
    for nth in 0..500 {
        let (id, step) = (format!("id-{nth}"), (nth % 9).to_string());
        let status = client.ask(request("POST /", &[("x-request-id", &id), ("x-step", &step)], b"{}")).status;
        assert!(status == 200 || status == 502, "{status}");
        failed += usize::from(status == 502);
    }
    let seen = p.seen();
    let ids: BTreeSet<_> = seen.iter().filter_map(|seen| seen.value("x-request-id")).collect();
    assert_eq!(ids.len(), seen.len(), "a POST that may have been read is not sent again");
    assert!(ids.len() >= 500 - failed, "whoever got an answer got it from prod");
    assert!(failed <= 5, "a handful of 500: {failed}");
    bench.wait_metric("shadowpair_requests_total", &[("code", "502")], failed as f64);
}

#[test]
fn prod_that_accepts_and_closes_is_asked_twice_at_most() {
    let p = Stub::on_accept(vec![Act::Close]);
    let bench = Plan::prod(p.address).start();
    for nth in 1..=20 {
        let answer = bench.ask(post("/", r#"{"x":1}"#));
        assert_eq!(answer.status, 502);
        assert!(!answer.error().is_empty());
        assert!(p.accepted() <= 2 * nth, "{} connects for {nth} requests", p.accepted());
    }
}
