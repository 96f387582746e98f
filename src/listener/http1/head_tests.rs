use std::cell::Cell;
use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::head::{self, Head};
use crate::wire::Decoder;
use crate::wire::head::Progress;

fn parsed(bytes: &[u8]) -> Result<Option<Box<Head>>, StatusCode> {
    head::parse(&mut BytesMut::from(bytes), &mut Progress::new(4096))
}

fn head_of(text: &str) -> Head {
    *parsed(text.as_bytes()).expect("well-formed").expect("whole")
}

/// What a request is to whoever serves it: its line and its fields, or the status that it is refused with.
type Seen = Result<(String, Vec<(String, Vec<u8>)>), u16>;

fn seen<B>(request: &Request<B>) -> Seen {
    let line = format!("{} {} {:?}", request.method(), request.uri(), request.version());
    let fields = request.headers().iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
    let mut fields: Vec<_> = fields.collect();
    // hyper takes a length out that chunks make void, which changes the order of the other names.
    fields.sort_by(|(name, _), (other, _)| name.cmp(other));
    Ok((line, fields))
}

/// What hyper's server makes of the same bytes; none where it waits for more.
async fn seen_by_hyper(bytes: &[u8]) -> Option<Seen> {
    let (mut client, server) = tokio::io::duplex(64 << 10);
    let saw = Rc::new(Cell::new(None));
    let seeing = Rc::clone(&saw);
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        seeing.set(Some(seen(&request)));
        async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())) }
    });
    let connection = http1::Builder::new().max_headers(1024).serve_connection(TokioIo::new(server), service);
    client.write_all(bytes).await.expect("a pipe");
    let mut connection = pin!(connection);
    let mut answer = vec![0; 1024];
    let read = tokio::select! {
        _ = &mut connection => client.read(&mut answer).await.unwrap_or(0),
        read = client.read(&mut answer) => read.unwrap_or(0),
        () = async { for _ in 0..20 { tokio::task::yield_now().await } } => 0,
    };
    let status =
        std::str::from_utf8(&answer[..read]).ok().and_then(|text| text.get(9..12)).and_then(|code| code.parse().ok());
    saw.take().or(status.map(Err))
}

const LINES: &[&str] = &[
    "GET /x HTTP/1.1",
    "POST /x?y=z#w HTTP/1.1",
    "GET /x HTTP/1.0",
    "OPTIONS * HTTP/1.1",
    "GET http://a:1/x?y HTTP/1.1",
    "CONNECT a:1 HTTP/1.1",
    "GET  /x HTTP/1.1",
    "GET /x HTTP/2.0",
    "G\u{e4}T / HTTP/1.1",
    "GET /\u{e4}<x> HTTP/1.1",
    "PRI * HTTP/2.0",
];

const FIELDS: &[&str] = &[
    "host: a",
    "Host:b",
    "content-length: 5",
    "content-length: 5 ",
    "Content-Length: 6",
    "content-length: +5",
    "content-length: 5, 5",
    "content-length: 99999999999999999999",
    "transfer-encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "transfer-encoding: xchunked",
    "transfer-encoding: chunked, identity",
    "transfer-encoding : chunked",
    "connection: close",
    "expect: 100-continue",
    "x: \u{e4}\t",
    "x:",
    " folded",
    ": no name",
    "no colon",
    "x: \u{1}",
];

proptest! {
    #[test]
    fn heads_are_read_as_hyper_reads_them(
        line in prop::sample::select(LINES),
        fields in prop::collection::vec(prop::sample::select(FIELDS), 0..5),
        end in prop::sample::select(&["\r\n", "\n", "\r\n\r\n"][..]),
        odd in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut wire = line.as_bytes().to_vec();
        for field in &fields {
            wire.extend_from_slice(end.as_bytes());
            wire.extend_from_slice(field.as_bytes());
        }
        wire.extend_from_slice(b"\r\n\r\n");
        if let Some((at, byte)) = odd {
            let at = at.index(wire.len());
            wire[at] = byte;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let theirs = runtime.block_on(seen_by_hyper(&wire));
        let ours = match parsed(&wire) {
            Ok(head) => head.map(|head| seen(&Request::from_parts(head.parts, ()))),
            Err(status) => Some(Err(status.as_u16())),
        };
        // hyper says nothing to what claims to be HTTP/2, calls a length that it cannot count a head that is too large, and
        // hears no length after `Transfer-Encoding`.
        let h2 = wire.starts_with(b"PRI ");
        let huge = theirs == Some(Err(431)) && ours == Some(Err(400));
        let length = fields.iter().any(|field| field.starts_with(['c', 'C']) && !field.ends_with("close"));
        let strict = ours == Some(Err(400)) && length && fields.iter().any(|field| field.starts_with(['t', 'T']));
        prop_assert!(h2 || huge || strict || ours == theirs, "{:?}\n{:?}\n{:?}", String::from_utf8_lossy(&wire), ours, theirs);
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parsed(&bytes);
    }
}

#[test]
fn a_head_says_how_its_body_is_framed_and_whether_more_may_follow() {
    let head = head_of("POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 5\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(head.body, Decoder::Length(5));
    assert!(head.asked.keeps && head.parts.headers.get_all("content-length").iter().count() == 1);
    let twice = head_of("POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n");
    assert_eq!(twice.body, Decoder::chunked_request());
    assert!(!twice.asked.keeps && !twice.parts.headers.contains_key("content-length"));
    let old = head_of("GET / HTTP/1.0\r\nconnection: keep-alive\r\nexpect: 100-continue\r\n\r\n");
    assert!(old.asked.http10 && !old.asked.keeps && !old.continues);
    let last =
        head_of("HEAD / HTTP/1.1\r\nconnection: x, Close\r\nte: x, Trailers;q=1\r\nExpect: 100-Continue\r\n\r\n");
    assert!(last.asked.is_head && last.asked.wants_trailers && !last.asked.keeps && last.continues);
}

#[test]
fn heads_that_are_too_large_are_told_from_those_that_are_malformed() {
    let fields = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
    let mut roomy = Progress::new(1 << 20);
    let count = |text: String, progress: &mut Progress| head::parse(&mut BytesMut::from(text.as_bytes()), progress);
    assert_eq!(count(fields(1024), &mut roomy).map(|head| head.expect("whole").parts.headers.len()).ok(), Some(1024));
    assert_eq!(count(fields(1025), &mut roomy).err().map(|status| status.as_u16()), Some(431));
    let long = |length: usize| format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(length));
    assert_eq!(count(long(65_600), &mut roomy).err().map(|status| status.as_u16()), Some(414));
    assert_eq!(parsed(long(5_000).as_bytes()).err().map(|status| status.as_u16()), Some(431));
    assert_eq!(parsed(&[b'x'; 5_000]).err().map(|status| status.as_u16()), Some(431));
    assert_eq!(parsed(b"\x16\x03\x01\x02").err().map(|status| status.as_u16()), Some(400));
}
