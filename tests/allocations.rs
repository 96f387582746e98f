//! Heap allocations for each proxied request, held under a bound. The whole proxy runs in this process, between a model
//! and a client that allocate nothing per request, so that what is counted is the proxy's. A binary of its own, because
//! the allocator counts for the whole process, and with one test, because so would its neighbours.
//!
//! It counts what the debug build allocates; a release build allocates no more.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::alloc::System;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

use shadowpair::app;
use shadowpair::config::load;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Allocations and reallocations for a request over a kept-alive connection. Lower it when the proxy gets better; it
/// is never raised without a reason, and the reason stands in the commit.
const PLAIN: f64 = 23.0;

/// The same with a shadow at 100 %: the copy, the candidate's leg, the comparison, the record and its delivery.
const SHADOWED: f64 = 72.0;

/// So many that beats, timers and scrapes of the proxy's other threads do not count.
const REQUESTS: usize = 3_000;

#[test]
fn a_request_allocates_no_more_than_it_did() {
    // Lanes have the lowest priority: among equals they run in time, and no copy is shed.
    let _ = rustix::process::setpriority_process(None, 19);
    let (prod, candidate) = (model(), model());
    let plain = count("", prod, candidate);
    let shadow = "shadow: [{model: candidate, percent: 100}], compare: {values: [{name: y, at: /y, kind: number}]}";
    let shadowed = count(shadow, prod, candidate);
    println!("allocations for a request: {plain:.2} plain, {shadowed:.2} with a shadow");
    assert!(plain <= PLAIN, "{plain:.2} allocations for a plain request, not {PLAIN} at most");
    assert!(shadowed <= SHADOWED, "{shadowed:.2} allocations for a shadowed request, not {SHADOWED} at most");
}

/// Runs the proxy with a route of which this is a part; allocations for each of its requests.
fn count(part: &str, prod: SocketAddr, candidate: SocketAddr) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let pairs = folder.path().join("pairs");
    let yaml = format!(
        "version: 1\nserver: {{listen: 127.0.0.1:0, admin: 127.0.0.1:0, workers: 1, shadow_threads: 1}}\nmodels:\n  \
         prod: {{endpoints: [\"http://{prod}\"]}}\n  candidate: {{endpoints: [\"http://{candidate}\"]}}\nroutes:\n  - \
         {{name: all, match: {{path_prefix: /}}, prod: prod, {part}}}\npairs: {{file: {{dir: \"{}\"}}}}\n",
        pairs.display()
    );
    let loaded = load::from_str("allocations.yaml", &yaml).unwrap_or_else(|faults| panic!("{faults}\n{yaml}"));
    let app = app::start(loaded.config).unwrap_or_else(|error| panic!("{error}"));
    let mut client = Client::to(app.traffic[0]);
    let (warm_up, shadowed) = (REQUESTS / 10, !part.is_empty());
    // Connections, pools, buffers and maps that grow once.
    client.ask(warm_up);
    if shadowed {
        wait_for_pairs(&pairs, warm_up);
    }
    let region = Region::new(ALLOCATOR);
    client.ask(REQUESTS);
    if shadowed {
        wait_for_pairs(&pairs, warm_up + REQUESTS);
    }
    let change = region.change();
    assert_eq!(app.drain().cut, 0);
    (change.allocations + change.reallocations) as f64 / REQUESTS as f64
}

/// Waits until so many pairs stand in the folder. It looks rarely, because looking allocates.
fn wait_for_pairs(folder: &Path, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        thread::sleep(Duration::from_millis(200));
        let files = fs::read_dir(folder).into_iter().flatten().flatten();
        let lines = |bytes: Vec<u8>| bytes.iter().filter(|byte| **byte == b'\n').count();
        let found: usize = files.filter_map(|file| fs::read(file.path()).ok()).map(lines).sum();
        // A copy may be shed where the machine is busy; nine of ten must be there, or the count says little.
        if found >= count || (Instant::now() > deadline && found * 10 >= count * 9) {
            return;
        }
        assert!(Instant::now() < deadline, "{found} pairs of {count}");
    }
}

const BODY: &str = r#"{"id":"fixed","model":"iris","y":0.75,"data":[10.7919,11.5838,12.3757,13.1676,13.9595]}"#;

/// A client with one connection and buffers that it keeps.
struct Client {
    socket: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Client {
    fn to(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).expect("connect");
        socket.set_nodelay(true).expect("nodelay");
        let request = format!(
            "POST /v1/models/iris:predict HTTP/1.1\r\nhost: models.test\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{BODY}",
            BODY.len()
        );
        Self { socket, request: request.into_bytes(), buffer: vec![0; 64 << 10] }
    }

    /// Sends so many requests, each after the answer to the one before.
    fn ask(&mut self, count: usize) {
        for _ in 0..count {
            self.socket.write_all(&self.request).expect("write");
            let mut filled = 0;
            while message(&self.buffer[..filled]).is_none() {
                let read = self.socket.read(&mut self.buffer[filled..]).expect("read");
                assert!(read > 0, "the proxy hung up");
                filled += read;
            }
            assert!(self.buffer.starts_with(b"HTTP/1.1 200 "));
        }
    }
}

/// The size of a message that is here whole: its head and the body that it names.
fn message(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let length = bytes[..end].split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(15)?;
        name.eq_ignore_ascii_case(b"content-length:").then(|| std::str::from_utf8(value).ok()?.trim().parse().ok())?
    });
    let whole = end + length.unwrap_or(0);
    (bytes.len() >= whole).then_some(whole)
}

/// A model on threads of its own, one for each connection; where it listens.
fn model() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            thread::spawn(move || serve(socket));
        }
    });
    address
}

fn serve(mut socket: TcpStream) {
    let length = BODY.len();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{BODY}");
    let (mut buffer, mut filled) = (vec![0; 64 << 10], 0);
    while let Ok(read) = socket.read(&mut buffer[filled..])
        && read > 0
    {
        filled += read;
        while let Some(whole) = message(&buffer[..filled]) {
            buffer.copy_within(whole..filled, 0);
            filled -= whole;
            if socket.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}
