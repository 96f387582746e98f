//! The bench must not lie: its stubs and clients, face to face, without a proxy between them.

use std::time::Duration;

use crate::support::h2::{Frames, H2Client, H2Stub, h2_post};
use crate::support::metrics::Metrics;
use crate::support::{Act, Client, End, Gate, Stub, answer, ask, get, ok_json, post, until};

#[test]
fn a_stub_records_and_answers_what_it_is_told() {
    let stub = Stub::json(r#"{"y":1}"#);
    let mut client = Client::to(stub.address);
    assert_eq!(client.ask(post("/a", "{}")).text(), r#"{"y":1}"#);
    client.send("POST /b HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-t: 1\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    let seen = stub.wait(2);
    assert_eq!((seen[0].target(), seen[1].body.as_slice()), ("POST /a", &b"hi"[..]));
    assert_eq!(seen[1].trailers, [("x-t".to_owned(), b"1".to_vec())]);
    assert_eq!((stub.accepted(), stub.ended()), (1, 0));
    drop(client);
    until("the stub has noticed", || stub.ended() == 1);
}

#[test]
fn a_client_tells_a_close_from_a_reset_from_a_whole() {
    let how = |act: Act| {
        let half = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".to_vec();
        let stub = Stub::doing(vec![Act::Send(half), Act::Pause(Duration::from_millis(20)), act]);
        let end = ask(stub.address, get("/")).end;
        drop(stub);
        end
    };
    assert_eq!(how(Act::Close), End::Cut);
    assert_eq!(how(Act::Reset), End::Reset);
    assert_eq!(how(Act::Send(b", end".to_vec())), End::Whole);
}

#[test]
fn a_gate_holds_until_it_is_opened() {
    let gate = Gate::default();
    let stub = Stub::on_head({
        let gate = gate.clone();
        move |_| {
            vec![
                Act::Send(b"HTTP/1.1 103 Early\r\n\r\n".to_vec()),
                Act::Wait(gate.clone()),
                Act::Send(answer("200 OK", &[], b"")),
            ]
        }
    });
    let mut client = Client::to(stub.address);
    client.send(get("/"));
    assert_eq!(client.answer().status, 103);
    gate.open();
    assert_eq!(client.answer().status, 200);
}

#[test]
fn a_flood_ends_with_its_reader() {
    let stub = Stub::doing(vec![Act::Send(ok_json("{}")), Act::Flood(vec![b'x'; 4096])]);
    let mut client = Client::to(stub.address);
    client.ask(get("/"));
    drop(client);
    until("the stub has noticed", || stub.ended() == 1);
}

#[test]
fn http2_stub_and_client_understand_each_other() {
    let stub = H2Stub::new(|seen| {
        let body = Frames::bytes(seen.body.clone()).trailer("x-t", "1");
        http::Response::new(body)
    });
    let mut client = H2Client::to(stub.address);
    let answer = client.ask(h2_post("/", Frames::bytes("hi").trailer("x-c", "2"))).unwrap();
    assert_eq!(
        (answer.body.as_slice(), &answer.trailers["x-t"], answer.broken),
        (&b"hi"[..], &"1".parse().unwrap(), false)
    );
    assert_eq!(stub.wait(1)[0].trailers["x-c"], "2");
}

#[test]
fn a_scrape_is_read_with_its_escapes() {
    let text = "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"q\\\"\\\\\\n\",y=\"}\"} 3\na_total{x=\"\",y=\"\"} 1e2\n";
    let metrics = Metrics::parse(text);
    assert_eq!(metrics.sum("a_total", &[]), 103.0);
    assert_eq!(metrics.sum("a_total", &[("x", "q\"\\\n"), ("y", "}")]), 3.0);
}
