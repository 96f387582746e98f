//! The drain: what is under way ends well, what is idle ends at once, and the exit status tells which it was.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::h2::{Frames, H2Client, h2_post};
use crate::support::h2_raw::{DATA, Raw};
use crate::support::metrics::{Metrics, admin_get};
use crate::support::{Act, Client, End, Gate, Plan, Stub, get, ok_json, pairs, post, request, until};

#[test]
fn idle_and_silent_connections_end_at_once_and_the_slow_request_completes() {
    let gate = Gate::default();
    let wait = gate.clone();
    let p = Stub::new(move |seen| match seen.target() {
        "GET /slow" => vec![Act::Wait(wait.clone()), Act::Send(ok_json(r#"{"y":1}"#))],
        _ => vec![Act::Send(ok_json(r#"{"y":1}"#))],
    });
    let mut process = Plan::prod(p.address).drain("8s").spawn();
    let mut silent: Vec<Client> = (0..10).map(|_| Client::to(process.traffic)).collect();
    let mut half: Vec<Client> = (0..3).map(|_| Client::to(process.traffic)).collect();
    half.iter_mut().for_each(|client| {
        client.send("GET / HTTP/1.1\r\nhost");
    });
    let mut idle: Vec<Client> = (0..10).map(|_| Client::to(process.traffic)).collect();
    idle.iter_mut().for_each(|client| assert_eq!(client.ask(get("/")).status, 200));
    let mut h2: Vec<H2Client> = (0..3).map(|_| H2Client::to(process.traffic)).collect();
    h2.iter_mut().for_each(|client| {
        assert_eq!(client.ask(h2_post("/", Frames::bytes("{}"))).unwrap().head.status, 200);
    });
    let mut slow = Client::to(process.traffic);
    slow.send(get("/slow"));
    until("the slow request is with prod", || {
        p.received() > 0 && Metrics::scrape(process.admin).count("shadowpair_in_flight", &[]) == 1.0
    });
    process.signal(Signal::TERM);
    for client in silent.iter_mut().chain(&mut half) {
        let (bytes, end) = client.wire.rest();
        assert!(end != End::Silent && bytes.is_empty(), "{end:?} {bytes:?}");
    }
    assert!(idle.iter_mut().all(Client::is_closed));
    assert!(h2.iter_mut().all(H2Client::is_closed), "GOAWAY, then the end");
    assert_eq!((admin_get(process.admin, "/readyz").status, admin_get(process.admin, "/livez").status), (503, 200));
    gate.open();
    let answer = slow.answer();
    assert_eq!((answer.status, answer.value("connection").as_deref()), (200, Some("close")));
    assert_eq!(process.wait(), Some(0));
}

/// Asks whether it is ready and connects, again and again, until nobody accepts; what it said after the refusal.
fn ready_when_refused(process: &crate::support::Process) -> u16 {
    let mut ready = 200;
    until("connections are refused", || {
        let accepts = std::net::TcpStream::connect(process.traffic).is_ok();
        // Asked afterwards, so that a 200 proves that it was still ready when it refused.
        ready = admin_get(process.admin, "/readyz").status;
        !accepts
    });
    ready
}

#[test]
fn every_kind_of_connection_has_its_end_in_one_drain() {
    let gate = Gate::default();
    let wait = gate.clone();
    let p = Stub::new(move |seen| match seen.target() {
        "GET /slow" => vec![Act::Wait(wait.clone()), Act::Send(ok_json(r#"{"y":1}"#))],
        "GET /large" => vec![Act::Send(crate::support::answer("200 OK", &[], &vec![b'x'; 10_000_000]))],
        _ => vec![Act::Send(ok_json(r#"{"y":1}"#))],
    });
    let mut process = Plan::prod(p.address).drain("5s").spawn();
    let mut silent: Vec<Client> = (0..10).map(|_| Client::to(process.traffic)).collect();
    let mut idle: Vec<Client> = (0..10).map(|_| Client::to(process.traffic)).collect();
    idle.iter_mut().for_each(|client| assert_eq!(client.ask(get("/")).status, 200));
    let mut h2: Vec<Raw> = (0..5).map(|_| Raw::client(process.traffic, &[])).collect();
    h2.iter_mut().for_each(|client| {
        client.ask(1, "GET", "/", "models.test");
        assert!(client.wait(DATA, 1).is_some());
    });
    let (mut slow, mut unread) = (Client::to(process.traffic), Client::to(process.traffic));
    let asked = Instant::now();
    slow.send(get("/slow"));
    unread.send(get("/large"));
    let in_flight = || Metrics::scrape(process.admin).count("shadowpair_in_flight", &[]);
    until("both are with prod", || p.seen().len() == 17 && in_flight() == 2.0);
    unread.wire.head().unwrap();
    let begun = Instant::now();
    process.signal(Signal::TERM);
    assert_eq!(ready_when_refused(&process), 503, "not ready before anything is refused");
    for client in &mut silent {
        let (bytes, end) = client.wire.rest();
        assert!(end != End::Silent && bytes.is_empty(), "{end:?} {bytes:?}");
    }
    assert!(idle.iter_mut().all(Client::is_closed));
    assert!(h2.iter_mut().all(Raw::hears_goodbye), "GOAWAY, then the end");
    assert_eq!(in_flight(), 2.0, "while the others go on");
    std::thread::sleep(Duration::from_secs(2).saturating_sub(asked.elapsed()));
    gate.open();
    let answer = slow.answer();
    assert_eq!((answer.status, answer.value("connection").as_deref()), (200, Some("close")));
    assert_eq!(process.wait(), Some(1), "the unread answer was cut");
    assert!(begun.elapsed() < Duration::from_secs(8), "about five seconds: {:?}", begun.elapsed());
    drop(unread);
}

#[test]
fn an_answer_that_nobody_reads_is_cut_when_the_time_is_up() {
    let p = Stub::sending(crate::support::answer("200 OK", &[], &vec![b'x'; 64 << 20]));
    let mut process = Plan::prod(p.address).drain("1s").spawn();
    let mut client = Client::to(process.traffic);
    client.send(get("/"));
    until("the answer has begun", || Metrics::scrape(process.admin).count("shadowpair_in_flight", &[]) == 1.0);
    client.wire.head().unwrap();
    let start = Instant::now();
    process.signal(Signal::TERM);
    assert_eq!(process.wait(), Some(1), "a request was cut off");
    assert!(start.elapsed() < Duration::from_secs(5), "about a second: {:?}", start.elapsed());
}

#[test]
fn every_pair_stands_in_the_folder_when_the_program_has_ended() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let mut process = Plan::pair(p.address, c.address).spawn();
    let mut client = Client::to(process.traffic);
    for _ in 0..200 {
        assert_eq!(client.ask(post("/", "{}")).status, 200);
    }
    let mut made = 0.0;
    until("every copy is made or shed", || {
        let metrics = Metrics::scrape(process.admin);
        made = metrics.count("shadowpair_pairs_total", &[]);
        made + metrics.count("shadowpair_shadow_skipped_total", &[]) == 200.0
    });
    process.signal(Signal::INT);
    assert_eq!(process.wait(), Some(0), "SIGINT is SIGTERM");
    let pairs = pairs::read(&process.folder());
    pairs::assert_gapless(&pairs);
    assert_eq!(pairs.len() as f64, made);
    assert!(pairs.iter().all(|pair| pair["prod"]["outcome"] == "ok"));
}

#[test]
fn a_second_signal_ends_at_once() {
    let p = Stub::doing(vec![Act::Hang]);
    let mut process = Plan::prod(p.address).drain("60s").spawn();
    let mut client = Client::to(process.traffic);
    client.send(get("/"));
    until("the request is with prod", || p.received() > 0);
    process.signal(Signal::TERM);
    until("the drain has begun", || admin_get(process.admin, "/readyz").status == 503);
    process.signal(Signal::TERM);
    assert_ne!(process.wait(), Some(0));
}

#[test]
fn during_drain_delay_it_is_not_ready_but_still_accepts() {
    let p = Stub::json(r#"{"y":1}"#);
    let mut process = Plan::prod(p.address).server("drain_delay: 1s").spawn();
    process.signal(Signal::TERM);
    until("not ready", || admin_get(process.admin, "/readyz").status == 503);
    assert_eq!(crate::support::ask(process.traffic, get("/")).status, 200);
    assert_eq!(admin_get(process.admin, "/livez").status, 200);
    assert_eq!(process.wait(), Some(0));
}

#[test]
fn a_drain_within_the_process_cuts_nothing_and_writes_every_pair() {
    let gate = Gate::default();
    let p = Stub::json(r#"{"y":1}"#);
    let c = Stub::doing(vec![Act::Wait(gate.clone()), Act::Send(ok_json(r#"{"y":1}"#))]);
    let bench = Plan::pair(p.address, c.address).shadow("[{model: c, percent: 100, timeout: 20s}]").start();
    assert_eq!(bench.ask(request("POST /", &[], b"{}")).status, 200);
    until("the copy is with the candidate", || c.received() > 0);
    let opener = std::thread::spawn({
        let admin = bench.admin;
        move || {
            until("the drain has begun", || {
                std::net::TcpStream::connect(admin).is_err() || admin_get(admin, "/readyz").status == 503
            });
            gate.open();
        }
    });
    let folder = tempfile::TempDir::new().unwrap();
    let kept = folder.path().join("pairs");
    let pairs = bench.folder();
    assert_eq!(bench.drain_keeping(&pairs, &kept), 0);
    opener.join().unwrap();
    let pairs = crate::support::pairs::read(&kept);
    assert_eq!(pairs.len(), 1, "a copy under way has the drain's time to end");
    assert_eq!(pairs[0]["result"], "equal");
}

#[test]
fn an_http2_request_under_way_completes_before_the_goodbye() {
    let gate = Gate::default();
    let p = Stub::doing(vec![Act::Wait(gate.clone()), Act::Send(ok_json(r#"{"y":1}"#))]);
    let bench = Plan::prod(p.address).drain("8s").start();
    let mut client = bench.h2();
    let asking = std::thread::spawn(move || {
        let answer = client.ask(h2_post("/", Frames::bytes("{}")));
        (answer.map(|answer| answer.body), client.is_closed())
    });
    until("the request is with prod", || p.received() > 0);
    let admin = bench.admin;
    let draining = std::thread::spawn(move || bench.drain());
    until("the drain has begun", || admin_get(admin, "/readyz").status == 503);
    gate.open();
    let (body, closed) = asking.join().unwrap();
    assert_eq!((body.unwrap(), closed), (br#"{"y":1}"#.to_vec(), true));
    assert_eq!(draining.join().unwrap(), 0);
}

#[test]
fn a_disk_that_refuses_costs_the_client_nothing_and_is_counted() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    // A limit on file size stands for a full disk: what can be written is, and then the write fails.
    let mut process = Plan::pair(p.address, c.address).drain("2s").spawn_under("trap '' XFSZ; ulimit -f 128;");
    let mut client = Client::to(process.traffic);
    assert_eq!(client.ask(post("/", "{}")).status, 200);
    until("the first is delivered", || delivered(&process) == 1.0);
    for _ in 0..5 {
        assert_eq!(client.ask(request("POST /", &[], &vec![b'a'; 200_000])).status, 200);
    }
    until("the sink is down", || Metrics::scrape(process.admin).sum("shadowpair_sink_up", &[("sink", "file")]) == 0.0);
    let metrics = Metrics::scrape(process.admin);
    metrics.assert_account();
    assert!(metrics.sum("shadowpair_sink_errors_total", &[("sink", "file")]) >= 1.0);
    assert_eq!(admin_get(process.admin, "/readyz").status, 200);
    process.signal(Signal::TERM);
    assert_eq!(process.wait(), Some(0), "no request was cut off");
    let lines = process.log_lines();
    let lost = lines.iter().find_map(|line| line.get("pairs_dropped")?.as_u64());
    assert!(lost.is_some_and(|lost| lost >= 1), "the lost pairs are logged: {}", process.log());
    assert_eq!(pairs::read(&process.folder()).len(), 1, "whole lines only");
    assert!(process.log_lines().len() < 40, "{}", process.log());
}

fn delivered(process: &crate::support::Process) -> f64 {
    Metrics::scrape(process.admin).sum("shadowpair_pairs_delivered_total", &[("sink", "file")])
}
