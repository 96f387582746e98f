use std::io::{Read, Write};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::Response;
use proptest::prelude::*;

use super::*;
use crate::upstream::body::Framing;
use crate::upstream::trace::Trace;

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parsed(&bytes, false);
    }
}

fn parsed(bytes: &[u8], is_head: bool) -> Result<Option<head::Found>, CallError> {
    head::parse(&mut BytesMut::from(bytes), &mut Progress::new(4096), is_head)
}

fn answer(text: &str, is_head: bool) -> head::Answer {
    match parsed(text.as_bytes(), is_head) {
        Ok(Some(head::Found::Answer(answer))) => *answer,
        _ => panic!("no answer: {text:?}"),
    }
}

#[test]
fn how_an_answer_is_framed() {
    let until_close = || Decoder::UntilClose { closed: false };
    let cases = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Decoder::Length(5), true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5, 5\r\n\r\n", Decoder::Length(5), true),
        ("HTTP/1.1 200 OK\ncontent-length: 5\n\n", Decoder::Length(5), true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n", Decoder::chunked(), true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", Decoder::chunked(), true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\n", until_close(), false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n", Decoder::chunked(), false),
        ("HTTP/1.1 200 OK\r\n\r\n", until_close(), false),
        ("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", Decoder::Length(0), true),
        ("HTTP/1.1 304 Not Modified\r\n\r\n", Decoder::Length(0), true),
        ("HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n", Decoder::Length(0), false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: x, Close\r\n\r\n", Decoder::Length(5), false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n", Decoder::Length(5), false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\nconnection: Keep-Alive\r\n\r\n", Decoder::Length(5), true),
        (
            "HTTP/1.0 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\nconnection: close\r\n\r\n",
            Decoder::Length(5),
            false,
        ),
    ];
    for (text, body, keeps) in cases {
        let found = answer(text, false);
        assert_eq!((found.body, found.keeps), (body, keeps), "{text:?}");
    }
    assert_eq!(answer("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", true).body, Decoder::Length(0), "HEAD");
}

#[test]
fn what_is_no_answer() {
    let cases = [
        "SSH-2.0-x\r\n",
        "GET / HTTP/1.1\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 99 x\r\n\r\n",
        "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
        "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5, 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    ];
    for text in cases {
        assert!(matches!(parsed(text.as_bytes(), false), Err(CallError::Protocol)), "{text:?}");
    }
}

#[test]
fn fields_and_reason_pass_as_they_came() {
    let many: String = (0..200).map(|at| format!("x-{at}:  {at} \r\n")).collect();
    let found =
        answer(&format!("HTTP/1.1 200 Fine\r\n{many}x-empty:\r\nset-cookie: a\r\nset-cookie: \u{e4}\r\n\r\n"), false);
    assert_eq!(found.head.headers["x-199"], "199");
    assert_eq!(found.head.headers["x-empty"], "");
    let cookies: Vec<&[u8]> = found.head.headers.get_all("set-cookie").iter().map(|value| value.as_bytes()).collect();
    assert_eq!(cookies, [b"a".as_slice(), "\u{e4}".as_bytes()]);
    let reason = found.head.extensions.get::<hyper::ext::ReasonPhrase>().map(|reason| reason.as_bytes().to_vec());
    assert_eq!(reason, Some(b"Fine".to_vec()));
    assert!(answer("HTTP/1.1 200 OK\r\n\r\n", false).head.extensions.is_empty());
    let reason = |line: &str| {
        let found = answer(&format!("{line}\r\n\r\n"), false);
        found.head.extensions.get::<hyper::ext::ReasonPhrase>().map(|reason| reason.as_bytes().to_vec())
    };
    assert_eq!(reason("HTTP/1.1 200 Tout va tr\u{e8}s bien"), Some("Tout va tr\u{e8}s bien".as_bytes().to_vec()));
    assert_eq!(reason("\r\nHTTP/1.1 200 \u{e8}"), Some("\u{e8}".as_bytes().to_vec()), "a blank line before it");
    assert_eq!(reason("HTTP/1.1 200 "), Some(Vec::new()));
    assert_eq!(reason("HTTP/1.1 200"), Some(Vec::new()));
}

#[test]
fn a_head_may_come_byte_by_byte_but_not_without_end() {
    let text = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let (mut buffer, mut limits) = (BytesMut::new(), Progress::new(100));
    for (at, byte) in text.iter().enumerate() {
        buffer.extend_from_slice(&[*byte]);
        let found = head::parse(&mut buffer, &mut limits, false).expect("HTTP");
        assert_eq!(found.is_some(), at + 3 == text.len(), "after {at}");
        if found.is_some() {
            break;
        }
    }
    let mut limits = Progress::new(100);
    let mut buffer = BytesMut::from(&b"HTTP/1.1 200 OK\r\n"[..]);
    let refused = std::iter::from_fn(|| {
        buffer.extend_from_slice(b"x: y\r\n");
        Some(head::parse(&mut buffer, &mut limits, false).is_err())
    });
    assert!(refused.take(30).any(|refused| refused));
}

/// A connection, and its other end.
async fn connected(side: Side) -> (Http1, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let socket = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
    let (model, _) = listener.accept().expect("a connection");
    model.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    (Http1::new(socket, side), model)
}

fn send(connection: &mut Http1, method: Method, body: (&'static [u8], Framing), trailer: &[&'static str]) {
    let field = |name, value| (http::HeaderName::from_static(name), HeaderValue::from_static(value));
    let announced = trailer.iter().map(|names| field("trailer", names));
    let head = Head::of(method, "/a?b=c", announced.collect());
    let trailers = [field("x-sum", "7"), field("x-other", "8")].into_iter().collect();
    let body = LegBody::whole(Bytes::from_static(body.0), Some(trailers), body.1, Trace::start(Instant::now()));
    connection.send(&head, &HeaderValue::from_static("h"), body);
}

/// Reads until this is the end of what came.
fn read_until(model: &mut std::net::TcpStream, end: &str) -> String {
    let (mut text, mut byte) = (Vec::new(), [0]);
    while !text.ends_with(end.as_bytes()) {
        model
            .read_exact(&mut byte)
            .unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&text)));
        text.push(byte[0]);
    }
    String::from_utf8(text).expect("text")
}

async fn call(connection: &mut Http1) -> Result<Response<Bytes>, CallError> {
    let head = std::future::poll_fn(|cx| connection.poll_head(cx)).await?;
    let mut body = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| connection.poll_body(cx)).await {
        body.extend_from_slice(&frame?.into_data().unwrap_or_default());
    }
    Ok(Response::from_parts(head, Bytes::from(body)))
}

#[tokio::test]
async fn one_call_after_another_over_one_connection() {
    let (mut connection, mut model) = connected(Side::Worker).await;
    let answers = std::thread::spawn(move || {
        let first = read_until(&mut model, "body");
        model
            .write_all(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none")
            .expect("sent");
        let second = read_until(&mut model, "\r\n\r\n");
        model.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n").expect("sent");
        (first, second)
    });
    send(&mut connection, Method::POST, (b"body", Framing::Length(4)), &[]);
    assert_eq!(call(&mut connection).await.expect("an answer").into_body(), "one");
    assert!(connection.is_clean() && connection.is_open());
    send(&mut connection, Method::GET, (b"", Framing::None), &[]);
    assert_eq!(call(&mut connection).await.expect("an answer").into_body(), "two");
    let (first, second) = answers.join().expect("the model");
    assert_eq!(first, "POST /a?b=c HTTP/1.1\r\nhost: h\r\n\r\nbody");
    assert_eq!(second, "GET /a?b=c HTTP/1.1\r\nhost: h\r\n\r\n");
}

#[tokio::test]
async fn a_body_in_chunks_ends_with_the_trailers_that_were_announced() {
    let (mut connection, mut model) = connected(Side::Worker).await;
    let answers = std::thread::spawn(move || {
        let text = read_until(&mut model, "\r\n\r\n") + &read_until(&mut model, "\r\n\r\n");
        model.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("sent");
        text
    });
    send(&mut connection, Method::POST, (b"hello", Framing::Chunked), &["x-sum"]);
    call(&mut connection).await.expect("an answer");
    let text = answers.join().expect("the model");
    assert_eq!(text, "POST /a?b=c HTTP/1.1\r\nhost: h\r\ntrailer: x-sum\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n");
}

static LARGE: [u8; 8 << 20] = [b'x'; 8 << 20];

/// On an event loop that can run tasks of its own.
async fn on_loop<T>(test: impl Future<Output = T>) -> T {
    tokio::task::LocalSet::new().run_until(test).await
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_is_read_and_the_connection_is_not_kept() {
    let (mut connection, mut model) = connected(Side::Worker).await;
    let answers = std::thread::spawn(move || {
        read_until(&mut model, "\r\n\r\n");
        model.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno").expect("sent");
        // It reads no more, and stays.
        model
    });
    send(&mut connection, Method::POST, (&LARGE, Framing::Length(8 << 20)), &[]);
    assert_eq!(on_loop(call(&mut connection)).await.expect("an answer").into_body(), "no");
    assert!(!connection.is_clean());
    drop(answers.join());
}

#[tokio::test]
async fn a_request_goes_on_though_its_answer_has_begun_and_nobody_reads_that() {
    let (mut connection, mut model) = connected(Side::Worker).await;
    let (answered, begun) = std::sync::mpsc::channel();
    let answers = std::thread::spawn(move || {
        read_until(&mut model, "\r\n\r\n");
        model.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").expect("sent");
        begun.recv().expect("the answer's head is read");
        let mut rest = vec![0; LARGE.len()];
        model.read_exact(&mut rest).map(|()| {
            // What is written whole is no reason to say that nothing more is read.
            model.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket");
            let more = model.read(&mut [0]);
            model.write_all(b"ok").expect("sent");
            more.map_err(|error| error.kind())
        })
    });
    send(&mut connection, Method::POST, (&LARGE, Framing::Length(8 << 20)), &[]);
    let more = on_loop(async {
        std::future::poll_fn(|cx| connection.poll_head(cx)).await.expect("a head");
        answered.send(()).expect("the model waits");
        while !answers.is_finished() {
            tokio::task::yield_now().await;
        }
        answers.join().expect("the model").expect("the whole request")
    });
    assert_eq!(more.await.err(), Some(ErrorKind::WouldBlock));
    let body = std::future::poll_fn(|cx| connection.poll_body(cx)).await.expect("a frame").expect("a body");
    assert_eq!(body.into_data().expect("data"), "ok");
    assert!(!connection.is_clean());
}

#[tokio::test]
async fn answers_that_break_off_are_told_from_those_that_end_with_the_connection() {
    let cases: [(&str, Result<&str, CallError>); 6] = [
        ("HTTP/1.1 200 OK\r\n\r\nall of it", Ok("all of it")),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", Err(CallError::Reset)),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", Err(CallError::Reset)),
        ("HTTP/1.1 200 OK\r\nco", Err(CallError::Reset)),
        ("", Err(CallError::Reset)),
        ("HTTP/1.1 100 Continue\r\n\r\n", Err(CallError::Reset)),
    ];
    for (text, expected) in cases {
        let (mut connection, mut model) = connected(Side::Lane).await;
        model.write_all(text.as_bytes()).expect("sent");
        model.shutdown(std::net::Shutdown::Write).expect("a socket");
        send(&mut connection, Method::GET, (b"", Framing::None), &[]);
        let got = call(&mut connection).await.map(|answer| answer.into_body());
        assert_eq!(got, expected.map(Bytes::from), "{text:?}");
        assert!(!connection.is_clean() || !connection.is_open(), "{text:?}");
    }
}

#[tokio::test]
async fn interim_answers_without_end_are_refused() {
    let (mut connection, mut model) = connected(Side::Worker).await;
    let _ = model.write_all(&b"HTTP/1.1 100 Continue\r\n\r\n".repeat(MAX_INTERIM + 1));
    send(&mut connection, Method::GET, (b"", Framing::None), &[]);
    assert_eq!(call(&mut connection).await.err(), Some(CallError::Protocol));
}

#[tokio::test]
async fn an_idle_connection_that_was_closed_or_spoken_on_takes_no_call() {
    for said in [b"".as_slice(), b"HTTP/1.1 408 Request Timeout\r\n\r\n"] {
        let (connection, mut model) = connected(Side::Worker).await;
        assert!(connection.is_open());
        model.write_all(said).expect("sent");
        model.shutdown(std::net::Shutdown::Write).expect("a socket");
        connection.socket.readable().await.expect("readiness");
        assert!(!connection.is_open() && !connection.is_open(), "{said:?}");
    }
}
