//! Time limits of calls, each by itself: none hides another, none is charged to the wrong side, none costs CPU.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::support::pairs::measured;
use crate::support::process::cpu_time;
use crate::support::wire::Framing;
use crate::support::{Act, End, Gate, Plan, Stub, post};

/// Prod hangs; how long the client waits for its 504.
fn waits(limits: &str) -> Duration {
    let p = Stub::doing(vec![Act::Hang]);
    let bench = Plan::prod(p.address).with("p", limits).start();
    let asked = Instant::now();
    let answer = bench.ask(post("/", r#"{"x":1}"#));
    assert_eq!(answer.status, 504, "{answer:?}");
    asked.elapsed()
}

#[test]
fn first_byte_is_kept_where_idle_is_longer() {
    assert!(waits("timeout: {first_byte: 200ms, idle: 6s}") < Duration::from_secs(3));
}

#[test]
fn first_byte_is_kept_where_there_is_no_idle() {
    assert!(waits("timeout: {first_byte: 200ms, idle: 0s}") < Duration::from_secs(3));
}

#[test]
fn a_call_without_a_first_byte_limit_waits_without_spinning() {
    let p = Stub::doing(vec![Act::Hang]);
    let plan = Plan::prod(p.address).server("workers: 1").with("p", "timeout: {first_byte: 0s, idle: 100ms}");
    let process = plan.spawn();
    let mut client = crate::support::Client::to(process.traffic);
    client.send(post("/", r#"{"x":1}"#));
    p.wait(1);
    std::thread::sleep(Duration::from_millis(300));
    let cpu = cpu_time(process.id());
    std::thread::sleep(Duration::from_secs(1));
    let used = cpu_time(process.id()) - cpu;
    assert!(used < Duration::from_millis(300), "{used:?} of CPU in a second");
}

#[test]
fn a_client_that_pauses_its_upload_is_no_fault_of_prods() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).with("p", "timeout: {first_byte: 5s, idle: 200ms}").start();
    let mut client = bench.client();
    client.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 10\r\n\r\n12345");
    std::thread::sleep(Duration::from_millis(700));
    client.send("67890");
    assert_eq!(client.answer().status, 200);
    assert_eq!(p.one().body, b"1234567890");
}

#[test]
fn clients_that_pause_their_uploads_eject_no_endpoint() {
    let (a, b) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let plan = Plan::prod(a.address).endpoint("p", b.address).server("limits: {idle_timeout: 600ms}");
    let bench = plan.with("p", "timeout: {first_byte: 5s, idle: 200ms}").start();
    let mut clients: Vec<_> = (0..30).map(|_| bench.client()).collect();
    for client in &mut clients {
        client.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 10\r\n\r\n12345");
    }
    let statuses: Vec<u16> = clients.iter_mut().map(|client| client.answer().status).collect();
    assert_eq!(statuses, [408; 30]);
    assert_eq!(bench.metrics().sum("shadowpair_endpoint_ejected_total", &[("model", "p")]), 0.0);
}

#[test]
fn prod_that_does_not_read_an_upload_is_a_504_after_idle() {
    let p = Stub::on_accept(vec![Act::Pause(Duration::from_secs(5))]);
    let bench = Plan::prod(p.address).with("p", "timeout: {first_byte: 5s, idle: 300ms}").start();
    let asked = Instant::now();
    let mut client = bench.client();
    client.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 60000000\r\n\r\n");
    let body = vec![b'x'; 1 << 20];
    client.wire.stream.set_write_timeout(Some(Duration::from_millis(500))).expect("set_write_timeout");
    while asked.elapsed() < Duration::from_secs(2) && client.wire.send(&body) {}
    assert_eq!(client.answer().status, 504);
    assert!(asked.elapsed() < Duration::from_secs(4));
}

const STREAM: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const QUIET: &str = "timeout: {first_byte: 1s, idle: 1s, total: 0s}";

#[test]
fn a_stream_that_says_only_comments_for_long_is_not_cut_and_each_passes_at_once() {
    let gates: Vec<Gate> = (0..10).map(|_| Gate::default()).collect();
    let p = Stub::doing({
        let mut acts = vec![Act::Send(STREAM.to_vec())];
        for gate in &gates {
            // The next one waits until this one is with the client: held back it would never come.
            acts.push(Act::Send(b"a\r\n: ping\r\n\r\n\r\n".to_vec()));
            acts.extend([Act::Pause(Duration::from_millis(500)), Act::Wait(gate.clone())]);
        }
        acts.push(Act::Send(b"f\r\ndata: {\"y\":1}\r\n\r\n0\r\n\r\n".to_vec()));
        acts
    });
    let bench = Plan::prod(p.address).with("p", QUIET).start();
    let mut client = bench.client();
    client.send(post("/", r#"{"x":1}"#));
    client.wire.head().unwrap();
    for (nth, gate) in gates.iter().enumerate() {
        let pings = |bytes: &[u8]| bytes.windows(6).filter(|part| part == b": ping").count();
        while pings(client.wire.peek()) <= nth {
            client.wire.fill().unwrap();
        }
        gate.open();
    }
    let body = client.wire.body(Framing::Chunked);
    assert_eq!(body.end, End::Whole);
    assert_eq!(String::from_utf8_lossy(&body.bytes), ": ping\r\n\r\n".repeat(10) + "data: {\"y\":1}\r\n");
}

#[test]
fn a_stream_whose_body_does_not_begin_within_idle_is_broken_off() {
    let p = Stub::doing(vec![Act::Send(STREAM.to_vec()), Act::Pause(Duration::from_secs(3))]);
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(p.address, c.address).with("p", QUIET).start();
    let answer = bench.ask(post("/", r#"{"x":1}"#));
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert!(matches!(answer.end, End::Cut | End::Reset), "{:?}", answer.end);
    let pair = bench.pair();
    assert_eq!((&pair["prod"]["outcome"], &pair["result"]), (&"timeout".into(), &"prod_failed".into()));
}

/// An address where connecting hangs: its queue is full and nobody accepts.
fn black_hole() -> (TcpListener, Vec<TcpStream>, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    rustix::net::listen(&listener, 0).expect("listen");
    let address = listener.local_addr().expect("local_addr");
    let short = Duration::from_millis(100);
    let held = (0..8).map_while(|_| TcpStream::connect_timeout(&address, short).ok()).collect();
    (listener, held, address)
}

#[test]
fn a_shadows_timeout_bounds_its_connecting_too() {
    let p = Stub::json(r#"{"y":1}"#);
    let (_listener, _held, hole) = black_hole();
    let plan = Plan::prod(p.address).model("c", &[hole]).with("c", "timeout: {connect: 5s}");
    let bench = plan.shadow("[{model: c, percent: 100, timeout: 200ms}]").start();
    let asked = Instant::now();
    assert_eq!(bench.ask(post("/", r#"{"x":1}"#)).status, 200);
    let pair = bench.pair();
    assert!(matches!(measured(&pair["candidate"], Duration::from_millis(200)), None | Some("timeout")), "{pair}");
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
}
