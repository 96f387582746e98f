use std::cell::Cell;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::pin::Pin;

use http::{HeaderMap, HeaderValue};
use http_body::Frame;

use super::*;

/// A client and the connection that serves it.
async fn connected() -> (std::net::TcpStream, Connection, Rc<ConnState>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let client = std::net::TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
    let (socket, _) = listener.accept().await.expect("accepted");
    let state = ConnState::new();
    (client, Connection::new(socket, b"", 64 << 10, Rc::clone(&state)), state)
}

/// A body of these frames; one that is missing breaks off.
struct Frames(std::vec::IntoIter<Option<Frame<Bytes>>>);

impl Frames {
    fn of(frames: Vec<Option<Frame<Bytes>>>) -> Self {
        Self(frames.into_iter())
    }

    fn text(text: &'static str) -> Self {
        Self::of(vec![Some(Frame::data(Bytes::from(text)))])
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        Poll::Ready(self.0.next().map(|frame| frame.ok_or("broken off")))
    }
}

type Asks = Request<Option<Http1Body>>;

async fn gathered(body: Option<Http1Body>) -> Result<String, body::BodyError> {
    let (mut body, mut all) = (body, Vec::new());
    while let Some(body) = &mut body {
        match poll_fn(|cx| body.poll_next(cx)).await {
            Some(frame) => all.extend_from_slice(&frame?.into_data().unwrap_or_default()),
            None => break,
        }
    }
    Ok(String::from_utf8_lossy(&all).into_owned())
}

/// What a client reads until the connection ends that asks this and then says no more, with dates left out.
async fn conversation<F>(asks: &str, service: impl Fn(Asks) -> F) -> String
where
    F: Future<Output = Response<Frames>>,
{
    let (mut client, mut connection, _) = connected().await;
    client.write_all(asks.as_bytes()).expect("sent");
    let talk = std::thread::spawn(move || {
        let mut all = String::new();
        let _ = client.read_to_string(&mut all);
        all
    });
    connection.run(service).await;
    drop(connection);
    let all = talk.join().expect("a client");
    all.split_inclusive("\r\n").filter(|line| !line.starts_with("date: ")).collect()
}

#[tokio::test]
async fn requests_are_answered_in_their_order_until_one_is_the_last() {
    let asks = "GET /1 HTTP/1.1\r\n\r\nPOST /2 HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi\
                POST /3 HTTP/1.1\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n2\r\nho\r\n0\r\n\r\nGET /4 HTTP/1.1\r\n\r\n";
    let got = conversation(asks, |request| async {
        let path = request.uri().path().to_owned();
        let body = gathered(request.into_body()).await.expect("a body");
        Response::new(Frames::of(vec![Some(Frame::data(Bytes::from(format!("{path}{body}"))))]))
    });
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n";
    let expected = format!(
        "{head}\r\n2\r\n/1\r\n0\r\n\r\n{head}\r\n4\r\n/2hi\r\n0\r\n\r\n{head}connection: close\r\n\r\n4\r\n/3ho\r\n0\r\n\r\n"
    );
    assert_eq!(got.await, expected);
}

#[tokio::test]
async fn an_answer_is_framed_as_its_fields_and_the_request_say() {
    let fields = |text: &'static str| {
        text.split_terminator('\n').map(|line| line.split_once(": ").expect("a field")).collect::<Vec<_>>()
    };
    let trailers = || {
        let mut map = HeaderMap::new();
        map.insert("x-sum", HeaderValue::from_static("7"));
        map.insert("x-other", HeaderValue::from_static("8"));
        Some(Frame::trailers(map))
    };
    let data = |text: &'static str| Some(Frame::data(Bytes::from(text)));
    let close = "connection: close";
    /// Method, more of its head, status, the answer's fields, its body, and what is written after the version.
    type Case = (&'static str, &'static str, u16, &'static str, Vec<Option<Frame<Bytes>>>, &'static str);
    let cases: &[Case] = &[
        (
            "GET",
            close,
            200,
            "content-length: 2\n",
            vec![data("h"), data("i")],
            "200 OK\r\ncontent-length: 2\r\nC\r\n\r\nhi",
        ),
        // More than it has said is not sent; less breaks off.
        ("GET", close, 200, "content-length: 2\n", vec![data("hiho")], "200 OK\r\ncontent-length: 2\r\nC\r\n\r\nhi"),
        ("GET", close, 200, "content-length: 4\n", vec![data("hi")], "200 OK\r\ncontent-length: 4\r\nC\r\n\r\nhi"),
        ("GET", close, 200, "", vec![data("hi"), None], "200 OK\r\ntransfer-encoding: chunked\r\nC\r\n\r\n2\r\nhi\r\n"),
        ("HEAD", close, 200, "content-length: 9\n", vec![], "200 OK\r\ncontent-length: 9\r\nC\r\n\r\n"),
        ("GET", close, 204, "content-length: 0\n", vec![], "204 No Content\r\nC\r\n\r\n"),
        ("GET", close, 304, "content-length: 9\n", vec![], "304 Not Modified\r\ncontent-length: 9\r\nC\r\n\r\n"),
        ("GET", close, 299, "connection: x\n", vec![], "299 \r\ntransfer-encoding: chunked\r\nC\r\n\r\n0\r\n\r\n"),
        (
            "GET",
            "connection: close\r\nte: trailers",
            200,
            "trailer: X-Sum\n",
            vec![data("hi"), trailers()],
            "200 OK\r\ntrailer: X-Sum\r\ntransfer-encoding: chunked\r\nC\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n",
        ),
        (
            "GET",
            close,
            200,
            "trailer: X-Sum\n",
            vec![data("hi"), trailers()],
            "200 OK\r\ntrailer: X-Sum\r\ntransfer-encoding: chunked\r\nC\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        ),
    ];
    for (method, asks, status, with, body, expected) in cases {
        let asks = format!("{method} / HTTP/1.1\r\n{asks}\r\n\r\n");
        let body = Cell::new(Some(body.iter().map(|frame| frame.as_ref().map(copy)).collect::<Vec<_>>()));
        let got = conversation(&asks, |_| async {
            let mut answer = Response::new(Frames::of(body.take().expect("asked once")));
            *answer.status_mut() = StatusCode::from_u16(*status).expect("a status");
            for (name, value) in fields(with) {
                answer.headers_mut().append(name, HeaderValue::from_static(value));
            }
            answer
        });
        assert_eq!(
            got.await,
            format!("HTTP/1.1 {}", expected.replace("C\r\n", "connection: close\r\n")),
            "{with} {status}"
        );
    }
    let old = conversation("GET / HTTP/1.0\r\n\r\n", |_| async { Response::new(Frames::text("hi")) });
    assert_eq!(old.await, "HTTP/1.0 200 OK\r\n\r\nhi");
}

fn copy(frame: &Frame<Bytes>) -> Frame<Bytes> {
    match (frame.data_ref(), frame.trailers_ref()) {
        (Some(data), _) => Frame::data(data.clone()),
        (None, trailers) => Frame::trailers(trailers.cloned().unwrap_or_default()),
    }
}

#[tokio::test]
async fn a_body_that_nobody_reads_ends_the_connection_unless_it_has_come_already() {
    let ask = |rest: &str| format!("POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\n{rest}");
    let refuse = |request: Asks| {
        drop(request);
        async { Response::new(Frames::text("no")) }
    };
    let whole = conversation(&ask("12\r\nGET / HTTP/1.1\r\nconnection: close\r\n\r\n"), refuse).await;
    assert_eq!(whole.matches("HTTP/1.1 200 OK").count(), 2, "{whole}");
    let half = conversation(&ask("12"), refuse).await;
    assert_eq!(half.matches("HTTP/1.1 200 OK").count(), 1, "{half}");
    assert!(half.contains("connection: close\r\n"), "{half}");
    let expects = conversation(&ask("").replace("\r\n\r\n", "\r\nexpect: 100-continue\r\n\r\n"), refuse).await;
    assert!(expects.starts_with("HTTP/1.1 200 OK") && expects.contains("connection: close"), "{expects}");
}

#[tokio::test]
async fn a_client_that_reads_nothing_before_it_has_sent_everything_can_send_what_nobody_wants() {
    const MUCH: usize = 32 << 20;
    let (mut client, mut connection, _) = connected().await;
    let talk = std::thread::spawn(move || {
        client.write_all(format!("POST / HTTP/1.1\r\ncontent-length: {MUCH}\r\n\r\n").as_bytes()).expect("sent");
        client.write_all(&vec![b'x'; MUCH]).expect("sent");
        client.read_exact(&mut vec![0; MUCH]).expect("an answer");
    });
    connection
        .run(|_| async { Response::new(Frames::of(vec![Some(Frame::data(Bytes::from(vec![b'y'; MUCH])))])) })
        .await;
    drop(connection);
    talk.join().expect("a client");
}

#[tokio::test]
async fn a_client_that_waits_for_it_is_told_to_go_on() {
    let asks = "POST / HTTP/1.1\r\ncontent-length: 2\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n";
    let (mut client, mut connection, _) = connected().await;
    let talk = std::thread::spawn(move || {
        client.write_all(asks.as_bytes()).expect("sent");
        let mut told = [0; 25];
        client.read_exact(&mut told).expect("a word");
        client.write_all(b"hi").expect("sent");
        let mut rest = String::new();
        client.read_to_string(&mut rest).expect("an answer");
        (told, rest)
    });
    let echo = |request: Asks| async {
        assert_eq!(gathered(request.into_body()).await.as_deref(), Ok("hi"));
        Response::new(Frames::text("ok"))
    };
    connection.run(echo).await;
    drop(connection);
    let (told, rest) = talk.join().expect("a client");
    assert_eq!(told.as_slice(), b"HTTP/1.1 100 Continue\r\n\r\n");
    assert!(rest.starts_with("HTTP/1.1 200 OK"), "{rest}");
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_request() {
    for asks in ["GET / HTTP/1.1\r\n\r\n", "POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\n12"] {
        let (mut client, mut connection, _) = connected().await;
        client.write_all(asks.as_bytes()).expect("sent");
        client.shutdown(Shutdown::Write).expect("a socket");
        let begun = Cell::new(0);
        let service = |request: Asks| {
            begun.set(begun.get() + 1);
            async {
                let _ = gathered(request.into_body()).await;
                std::future::pending::<Response<Frames>>().await
            }
        };
        connection.run(service).await;
        assert_eq!(begun.get(), 1);
    }
}

/// Asks twice, sending the body of the first request only when its answer has begun; what somebody who reads on gets of
/// that body, and what the client reads.
async fn read_on(first: &str, second: &str) -> (Result<String, body::BodyError>, String) {
    let (mut client, mut connection, _) = connected().await;
    client.write_all(first.as_bytes()).expect("sent");
    let second = second.to_owned();
    let talk = std::thread::spawn(move || {
        let mut begun = [0; 9];
        client.read_exact(&mut begun).expect("an answer");
        client.write_all(second.as_bytes()).expect("sent");
        let mut all = String::from_utf8_lossy(&begun).into_owned();
        client.read_to_string(&mut all).expect("the rest");
        all
    });
    let (kept, reads) = tokio::sync::oneshot::channel();
    let kept = Cell::new(Some(kept));
    let service = |request: Asks| {
        if let Some(kept) = kept.take() {
            let _ = kept.send(request.into_body());
        }
        async { Response::new(Frames::text("ok")) }
    };
    let serve = async {
        connection.run(service).await;
        drop(connection);
    };
    let ((), read) = tokio::join!(serve, async { gathered(reads.await.expect("a body")).await });
    (read, talk.join().expect("a client"))
}

#[tokio::test]
async fn a_body_that_somebody_reads_on_is_read_to_its_end_before_anything_else() {
    let head = "POST / HTTP/1.1\r\ncontent-length: 4\r\n";
    let next = "GET / HTTP/1.1\r\nconnection: close\r\n\r\n";
    let (read, all) = read_on(&format!("{head}\r\n"), &format!("1234{next}")).await;
    assert_eq!((read.as_deref(), all.matches("HTTP/1.1 200 OK").count()), (Ok("1234"), 2), "{all}");
    // After the last answer too, and what follows it is nobody's.
    let (read, all) = read_on(&format!("{head}connection: close\r\n\r\n"), &format!("1234{next}")).await;
    assert_eq!((read.as_deref(), all.matches("HTTP/1.1 200 OK").count()), (Ok("1234"), 1), "{all}");
}

#[tokio::test]
async fn a_client_that_was_never_told_to_go_on_is_not_believed_to_have_gone_on() {
    let head = "POST / HTTP/1.1\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n";
    let (_, all) = read_on(head, "GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!((all.matches("HTTP/1.1 ").count(), all.matches("connection: close").count()), (1, 1), "{all}");
}

#[tokio::test]
async fn a_body_does_not_keep_a_connection_open_that_has_ended() {
    let (mut client, mut connection, _) = connected().await;
    client.write_all(b"POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\n12").expect("sent");
    let kept = Cell::new(None);
    let service = |request: Asks| {
        kept.set(request.into_body());
        async { Response::new(Frames::of(vec![None])) }
    };
    connection.run(service).await;
    let reading = tokio::task::LocalSet::new();
    let read = reading.spawn_local(gathered(kept.take()));
    reading.run_until(tokio::task::yield_now()).await;
    drop(connection);
    assert_eq!(reading.run_until(read).await.expect("a reader"), Err(body::BodyError::BrokenOff));
    let _ = client.read_to_end(&mut Vec::new());
}

#[tokio::test]
async fn an_answer_that_only_the_close_would_end_is_reset_wherever_it_stops() {
    let stuck = vec![Some(Frame::data(Bytes::from_static(&[0; 8 << 20])))];
    for frames in [vec![Some(Frame::data(Bytes::from("half"))), None], stuck] {
        let (mut client, mut connection, _) = connected().await;
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("sent");
        let frames = Cell::new(Some(frames));
        let service = |_: Asks| async { Response::new(Frames::of(frames.take().expect("asked once"))) };
        // The first breaks off; the other is cut off while it is written, as a time limit would.
        let served = async {
            tokio::select! {
                () = connection.run(service) => {}
                () = async { for _ in 0..1000 { tokio::task::yield_now().await } } => {}
            }
        };
        served.await;
        drop(connection);
        let reset = client.read_to_end(&mut Vec::new()).expect_err("a reset");
        assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn blank_lines_between_requests_are_nothing() {
    let (mut client, mut connection, state) = connected().await;
    client.write_all(b"\r\n\nPOST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi\r\n").expect("sent");
    let service = |request: Asks| {
        let begun = state.begin();
        async move {
            assert_eq!(gathered(request.into_body()).await.as_deref(), Ok("hi"));
            drop(begun);
            Response::new(Frames::text("ok"))
        }
    };
    let mut answer = [0; 9];
    let idle = async {
        while client.peek(&mut answer).is_err() || state.waiting().0 != crate::listener::io::Waiting::Idle {
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    };
    client.set_nonblocking(true).expect("a socket");
    tokio::select! {
        () = connection.run(service) => panic!("it ended"),
        () = idle => {}
    }
    assert_eq!(state.waiting().0, crate::listener::io::Waiting::Idle);
}

#[tokio::test]
async fn what_is_no_head_gets_its_status_and_the_end() {
    let never = |_: Asks| async { Response::new(Frames::text("never")) };
    let got = conversation("GET / HTTP/1.1\r\nno colon\r\n\r\n", never).await;
    assert_eq!(got, "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
}
