//! What happens to a kept connection that nobody asks for anything, or to one that carries an answer and an upload at once,
//! whichever task polls it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::support::{Act, Gate, Plan, Stub, answer, get, ok_json, post, request, until};

/// More than all buffers on the way hold.
const LARGE: usize = 24 << 20;

/// A model that answers as soon as it has read a head, and reads the upload beside that.
fn answers_while_it_reads() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let mut writes = socket.try_clone().expect("a clone");
            std::thread::spawn(move || read_all(socket));
            std::thread::spawn(move || {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n");
                let _ = writes.write_all(head.as_bytes()).and_then(|()| writes.write_all(&vec![b'y'; LARGE]));
            });
        }
    });
    address
}

fn read_all(mut socket: TcpStream) {
    let mut piece = vec![0; 64 << 10];
    while socket.read(&mut piece).is_ok_and(|read| read > 0) {}
}

#[test]
fn a_client_that_reads_no_answer_before_it_has_sent_everything_can_send_everything() {
    let bench = Plan::prod(answers_while_it_reads()).server("limits: {request_bytes: 64MiB}").start();
    let mut client = bench.client();
    assert!(client.wire.send(&request("POST /", &[], &vec![b'x'; LARGE])), "the upload stalled");
    let whole = client.answer();
    assert_eq!((whole.status, whole.body.len()), (200, LARGE));
    assert!(whole.body.iter().all(|byte| *byte == b'y'));
}

#[test]
fn a_client_that_reads_slowly_gets_all_of_a_large_answer_and_the_connection_serves_the_next() {
    let body: Vec<u8> = (0..LARGE).map(|at| (at / 7) as u8).collect();
    let large = answer("200 OK", &[], &body);
    let p = Stub::new(move |_| vec![Act::Send(large.clone())]);
    let bench = Plan::prod(p.address).server("workers: 1").start();
    let mut client = bench.client();
    for _ in 0..2 {
        client.send(get("/"));
        // It begins to read when everything on the way is full.
        std::thread::sleep(Duration::from_millis(300));
        let whole = client.answer();
        assert!(whole.body == body, "{} bytes of {LARGE}, or others", whole.body.len());
    }
    assert_eq!(p.accepted(), 1);
}

#[test]
fn an_idle_connection_that_prod_closes_gives_its_place_back_without_another_request() {
    let p = Stub::new(|_| vec![Act::Send(ok_json("{}")), Act::Pause(Duration::from_millis(50)), Act::Close]);
    let bench = Plan::prod(p.address).with("p", "max_connections: 1, timeout: {connect: 5s}").start();
    for nth in 1..=5 {
        assert_eq!(bench.ask(post("/", "{}")).status, 200);
        until("prod has closed", || p.ended() == nth);
    }
    assert_eq!(p.accepted(), 5);
    let open = || bench.metrics().count("shadowpair_upstream_connections", &[("model", "p")]);
    until("the last has given its place back", || open() == 0.0);
}

#[test]
fn what_prod_sends_over_an_idle_connection_is_no_answer_to_the_next_request() {
    let gate = Gate::default();
    let late = gate.clone();
    let p = Stub::new(move |seen| match seen.target() {
        "POST /first" => {
            vec![Act::Send(ok_json("1")), Act::Wait(late.clone()), Act::Send(ok_json("\"stray\"")), Act::Hang]
        }
        _ => vec![Act::Send(ok_json("2"))],
    });
    let bench = Plan::prod(p.address).server("workers: 1").start();
    let mut client = bench.client();
    assert_eq!(client.ask(post("/first", "{}")).text(), "1");
    gate.open();
    until("the proxy has hung up", || p.ended() == 1);
    assert_eq!(client.ask(post("/second", "{}")).text(), "2");
}

#[test]
fn a_client_that_leaves_before_the_answers_end_closes_the_connection_to_prod() {
    let p = Stub::new(|_| vec![Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345".to_vec()), Act::Hang]);
    let bench = Plan::prod(p.address).start();
    let mut client = bench.client();
    client.send(get("/"));
    until("half the answer is here", || client.wire.fill().is_ok() && client.wire.peek().ends_with(b"12345"));
    drop(client);
    until("the connection is closed", || p.ended() == 1);
}

#[test]
fn one_client_after_another_uses_the_connection_of_the_one_before() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).server("workers: 1").start();
    // The one that used it last is still there, asleep, or gone.
    let mut stays = bench.client();
    for _ in 0..20 {
        assert_eq!(stays.ask(post("/", "{}")).status, 200);
        assert_eq!(bench.ask(post("/", "{}")).status, 200);
    }
    assert_eq!(p.accepted(), 1);
}
