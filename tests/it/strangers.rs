//! What a stranger can choose (methods, hosts, paths, statuses, slices) adds no series, whatever a scanner sends.

use std::collections::BTreeSet;

use crate::support::chance::Dice;
use crate::support::metrics::Metrics;
use crate::support::stub::Seen;
use crate::support::{Act, Bench, Client, Plan, Stub, answer};

/// Answers with the status that the request asks for. Those below 200 are no answer yet, so one follows them; 101 alone
/// would be the end of HTTP on this connection.
fn any_status(seen: &Seen) -> Vec<Act> {
    let status = seen.value("x-status").and_then(|status| status.parse().ok()).unwrap_or(200_u16);
    let head = format!("HTTP/1.1 {status} X\r\n\r\n").into_bytes();
    match status {
        101 => vec![Act::Send(head), Act::Close],
        100..200 => vec![Act::Send(head), Act::Send(answer("200 OK", &[], b"{}"))],
        204 | 304 => vec![Act::Send(head)],
        _ => vec![Act::Send(answer(&format!("{status} X"), &[], b"{}"))],
    }
}

/// One request of a scanner, below this path; where a route is, the model answers with this status.
fn scan(client: &mut Client, dice: &mut Dice, path: &str, status: u64) {
    let (method, host) = (dice.roll(10_000), dice.roll(1_000_000));
    let (place, country) = (dice.roll(1_000_000), dice.roll(1_000_000));
    let answer = client.ask(format!(
        "X{method:04} /{path}/stranger-{place} HTTP/1.1\r\nhost: stranger-{host}.test\r\nx-status: {status}\r\n\
         x-country: stranger-{country}\r\n\r\n"
    ));
    let right: &[u16] = match (path, u16::try_from(status).expect("a status")) {
        ("out", _) => &[404],
        (_, 101) => &[502],
        (_, 100..200) => &[200],
        (_, status) => &[status],
    };
    assert!(right.contains(&answer.status), "{path} with {status} became {}", answer.status);
}

/// Scans over a few kept connections at once.
fn scan_all(bench: &Bench, asked: &[(&str, u64)]) {
    std::thread::scope(|scope| {
        for (who, part) in asked.chunks(asked.len().div_ceil(4)).enumerate() {
            let (mut client, mut dice) = (bench.client(), Dice(who as u64 + 1));
            scope.spawn(move || part.iter().for_each(|(path, status)| scan(&mut client, &mut dice, path, *status)));
        }
    });
    bench.settle();
}

/// The names and labels of all series but those of the process.
fn series(metrics: &Metrics) -> BTreeSet<String> {
    let own = metrics.samples.iter().filter(|(name, ..)| !name.starts_with("process_"));
    own.map(|(name, labels, _)| format!("{name}{labels:?}")).collect()
}

#[test]
fn ten_thousand_requests_of_a_stranger_add_no_more_series_than_there_are_statuses() {
    let (p, c) = (Stub::new(any_status), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address)
        .matching("{path_prefix: /in}")
        .route("slices: {country: {header: x-country}}")
        .start();
    // First every status once, and a path that no route has: what may have series of its own has them then.
    let sweep: Vec<_> = (100..1000).map(|status| ("in", status)).chain([("out", 200)]).collect();
    scan_all(&bench, &sweep);
    let swept = series(&bench.metrics());
    let mut dice = Dice(7);
    let asked = (sweep.len()..10_000).map(|_| (["in", "out"][dice.roll(2) as usize], 100 + dice.roll(900)));
    let asked: Vec<_> = asked.collect();
    scan_all(&bench, &asked);
    let metrics = bench.metrics();
    let after = series(&metrics);
    assert_eq!(after.difference(&swept).collect::<Vec<_>>(), Vec::<&String>::new(), "no series more");
    assert!(after.iter().all(|series| !series.contains("stranger") && !series.contains("\"X")), "{after:?}");

    let counted = metrics.series("shadowpair_requests_total", &[]);
    assert_eq!(counted.iter().map(|(_, count)| count).sum::<f64>(), 10_000.0);
    let codes: BTreeSet<&str> = counted.iter().map(|(labels, _)| labels["code"].as_str()).collect();
    let named = |code: &&&str| code.parse().is_ok_and(|code: u16| (100..600).contains(&code));
    assert_eq!(codes.iter().filter(named).count(), codes.len() - 1, "those outside 100-599 are one value: {codes:?}");
    let lost: BTreeSet<&str> = metrics
        .series("shadowpair_requests_total", &[("code", "404"), ("answered_by", "proxy")])
        .iter()
        .map(|(labels, _)| labels["route"].as_str())
        .collect();
    assert_eq!(lost, BTreeSet::from([""]), "what no route takes is one value");
}
