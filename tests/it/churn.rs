//! What goes and comes while clients ask: routing files, the proxy itself, endpoints of prod. No answer may be lost, and
//! nothing may be left behind.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::reload::{apply, json, says, text};
use crate::support::{Client, End, Plan, Process, Stub, pairs, post, post_as, until};

/// What the clients of a proxy on its way out have got.
#[derive(Default)]
struct Got {
    answers: AtomicUsize,
    lost: AtomicUsize,
    refused: AtomicUsize,
}

/// Asks until nobody accepts any more. An answer that says `connection: close`, and a close without a byte before the
/// request was read, are orderly ends: then it connects anew.
fn ask_to_the_end(traffic: SocketAddr, client: usize, got: &Got) {
    for nth in 0.. {
        let Ok(stream) = TcpStream::connect(traffic) else {
            got.refused.fetch_add(1, Ordering::SeqCst);
            return;
        };
        drop(stream.set_read_timeout(Some(Duration::from_secs(10))));
        let mut kept = Client { wire: crate::support::wire::Wire::new(stream) };
        for request in 0.. {
            kept.send(post_as(&format!("{client}-{nth}-{request}"), "{}"));
            match kept.try_answer("POST") {
                Ok(answer) if answer.status == 200 && answer.end == End::Whole => {
                    got.answers.fetch_add(1, Ordering::SeqCst);
                    if answer.value("connection").is_some() {
                        break;
                    }
                }
                Ok(_) => drop(got.lost.fetch_add(1, Ordering::SeqCst)),
                Err(_) => break,
            }
        }
    }
}

/// Runs clients over a whole drain; every request that reached prod was answered.
fn drain_under_load(plan: Plan, p: &Stub) {
    let mut process: Process = plan.spawn();
    let got = Got::default();
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (got, traffic) = (&got, process.traffic);
            scope.spawn(move || ask_to_the_end(traffic, client, got));
        }
        until("clients are at work", || got.answers.load(Ordering::SeqCst) > 100);
        process.signal(Signal::TERM);
    });
    assert_eq!(process.wait(), Some(0), "nothing was cut off");
    let count = |of: &AtomicUsize| of.load(Ordering::SeqCst);
    assert_eq!((count(&got.lost), count(&got.refused)), (0, 4));
    assert_eq!(count(&got.answers), p.seen().len(), "what reached prod was answered");
}

#[test]
fn no_answer_is_lost_when_the_proxy_is_drained_under_load() {
    let p = Stub::json(r#"{"y":1}"#);
    drain_under_load(Plan::prod(p.address), &p);
}

#[test]
fn no_answer_is_lost_over_a_drain_delay_under_load() {
    let p = Stub::json(r#"{"y":1}"#);
    drain_under_load(Plan::prod(p.address).server("drain_delay: 300ms"), &p);
}

/// An endpoint that can go and come back on the same port: it answers what it has accepted, then closes.
struct Comes {
    address: SocketAddr,
    here: std::sync::Arc<AtomicBool>,
    answered: std::sync::Arc<AtomicUsize>,
}

impl Comes {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let here = std::sync::Arc::new(AtomicBool::new(true));
        let answered = std::sync::Arc::<AtomicUsize>::default();
        let (stays, counts) = (std::sync::Arc::clone(&here), std::sync::Arc::clone(&answered));
        std::thread::spawn(move || serve(listener, &stays, &counts));
        Self { address, here, answered }
    }

    fn go(&self) {
        self.here.store(false, Ordering::SeqCst);
    }

    /// Listens again when this returns.
    fn come_back(&self) {
        self.here.store(true, Ordering::SeqCst);
        until("it is back", || TcpStream::connect(self.address).is_ok());
    }
}

/// Accepts while it is here; a connection ends after the answer under way when it is not.
fn serve(first: TcpListener, here: &std::sync::Arc<AtomicBool>, answered: &std::sync::Arc<AtomicUsize>) {
    let address = first.local_addr().unwrap();
    let mut listener = Some(first);
    loop {
        if !here.load(Ordering::SeqCst) {
            listener = None;
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        let open = listener.get_or_insert_with(|| TcpListener::bind(address).unwrap());
        open.set_nonblocking(true).unwrap();
        let Ok((stream, _)) = open.accept() else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (stays, counts) = (std::sync::Arc::clone(here), std::sync::Arc::clone(answered));
        std::thread::spawn(move || {
            let mut wire = crate::support::wire::Wire::new(stream);
            while stays.load(Ordering::SeqCst) {
                match wire.head() {
                    Ok(head) => {
                        wire.body(head.request_framing());
                        counts.fetch_add(1, Ordering::SeqCst);
                        wire.send(&crate::support::ok_json(r#"{"y":1}"#));
                    }
                    Err(End::Silent) => {}
                    Err(_) => return,
                }
            }
        });
    }
}

#[test]
fn no_answer_is_lost_while_endpoints_go_and_come() {
    let endpoints = [Comes::new(), Comes::new(), Comes::new()];
    let bench = Plan::prod(endpoints[0].address)
        .endpoint("p", endpoints[1].address)
        .endpoint("p", endpoints[2].address)
        .route("retry: {attempts: 1, on: [connect, reset], idempotent: true}")
        .start();
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let (stop, asked, traffic) = (&stop, &asked, bench.traffic);
            scope.spawn(move || {
                let mut kept = Client::to(traffic);
                while !stop.load(Ordering::SeqCst) {
                    let answer = kept.ask(post("/", "{}"));
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for nth in 0..8 {
            let more = |count: usize| {
                let goal = asked.load(Ordering::SeqCst) + count;
                until("clients go on", || asked.load(Ordering::SeqCst) >= goal || stop.load(Ordering::SeqCst));
            };
            endpoints[nth % 3].go();
            more(40);
            endpoints[nth % 3].come_back();
            more(20);
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert!(endpoints.iter().all(|endpoint| endpoint.answered.load(Ordering::SeqCst) > 0));
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

/// Names and labels of all series.
type Series = BTreeSet<(String, Vec<(String, String)>)>;

/// Waits until what was there before has been taken down and idle connections are closed; series and descriptors.
fn at_rest(process: &Process) -> (Series, usize) {
    let series = || {
        let keys = process.metrics().samples.into_iter().filter(|(name, ..)| !name.starts_with("process_"));
        keys.map(|(name, labels, _)| (name, labels.into_iter().collect())).collect::<Series>()
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
    // A histogram appears at its first event, and the control is asked by chance.
    let control = [("role", "control")];
    until("each kind of call was made once", || {
        round(1, 20);
        process.metrics().count("shadowpair_leg_first_byte_seconds_count", &control) > 0.0
    });
    let (series, files) = at_rest(&process);
    round(21, 220);
    let (series_after, files_after) = at_rest(&process);
    let named =
        |set: &Series| -> Series { set.iter().filter(|(name, _)| name != "shadowpair_config_info").cloned().collect() };
    let (before, after) = (named(&series), named(&series_after));
    let grown: Vec<_> = after.difference(&before).collect();
    assert!(grown.len() <= 2, "{} more series: {grown:?}", grown.len());
    assert!(files_after <= files + 2, "{files} descriptors before, {files_after} after");
}
