//! HTTP/2 with prior knowledge, both sides: a client and a model stub over hyper, each on a runtime and thread of its own.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, request};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::wire::PATIENCE;
use super::{step_back, until};

/// A body as a list of frames.
#[derive(Default)]
pub(crate) struct Frames(VecDeque<Part>);

enum Part {
    Frame(Frame<Bytes>),
    /// Lets the connection send what it has: a reset overtakes what still waits.
    Yield,
    Broken,
    Never,
}

impl Frames {
    /// These bytes in one frame; none where they are empty, so that the head ends the stream.
    pub(crate) fn bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() { Self::default() } else { Self::default().data(bytes) }
    }

    /// Adds a DATA frame, an empty one too.
    pub(crate) fn data(mut self, bytes: impl Into<Bytes>) -> Self {
        self.0.push_back(Part::Frame(Frame::data(bytes.into())));
        self
    }

    /// Adds a trailer.
    pub(crate) fn trailer(mut self, name: &'static str, value: &str) -> Self {
        let mut map = HeaderMap::new();
        map.insert(name, value.parse().expect("value"));
        self.0.push_back(Part::Frame(Frame::trailers(map)));
        self
    }

    /// Adds an RST_STREAM.
    pub(crate) fn broken(mut self) -> Self {
        self.0.extend((0..10).map(|_| Part::Yield));
        self.0.push_back(Part::Broken);
        self
    }

    /// Goes on, but never says how.
    pub(crate) fn never(mut self) -> Self {
        self.0.push_back(Part::Never);
        self
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.0.pop_front() {
            None => Poll::Ready(None),
            Some(Part::Frame(frame)) => Poll::Ready(Some(Ok(frame))),
            Some(Part::Broken) => Poll::Ready(Some(Err(io::Error::other("as scripted")))),
            Some(Part::Never) => {
                self.0.push_front(Part::Never);
                Poll::Pending
            }
            Some(Part::Yield) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

/// A message over HTTP/2.
#[derive(Debug, Clone)]
pub(crate) struct Message<Head> {
    /// Its pseudo-fields and fields.
    pub(crate) head: Head,
    /// Its body.
    pub(crate) body: Vec<u8>,
    /// Its trailers.
    pub(crate) trailers: HeaderMap,
    /// Whether it was broken off.
    pub(crate) broken: bool,
}

async fn gather<Head>(head: Head, mut incoming: Incoming) -> Message<Head> {
    let mut message = Message { head, body: Vec::new(), trailers: HeaderMap::new(), broken: false };
    while let Some(frame) = incoming.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => message.body.extend_from_slice(&data),
            Ok(Err(frame)) => message.trailers = frame.into_trailers().unwrap_or_default(),
            Err(_) => {
                message.broken = true;
                break;
            }
        }
    }
    message
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("runtime")
}

/// An answer, or why there is none.
pub(crate) type H2Answer = hyper::Result<Message<http::response::Parts>>;

/// A client; its connection makes progress while a test asks something of it.
pub(crate) struct H2Client {
    runtime: Runtime,
    sender: http2::SendRequest<Frames>,
    connection: Option<JoinHandle<hyper::Result<()>>>,
}

impl H2Client {
    /// Connects and shakes hands.
    pub(crate) fn to(address: SocketAddr) -> Self {
        let runtime = runtime();
        let (sender, connection) = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(address).await.expect("connect");
            let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
            let (sender, connection) = handshake.await.expect("handshake");
            (sender, tokio::spawn(connection))
        });
        Self { runtime, sender, connection: Some(connection) }
    }

    /// Sends a request and reads its answer.
    pub(crate) fn ask(&mut self, request: Request<Frames>) -> H2Answer {
        self.ask_all(vec![request]).remove(0)
    }

    /// Sends requests at once and reads their answers.
    pub(crate) fn ask_all(&mut self, requests: Vec<Request<Frames>>) -> Vec<H2Answer> {
        let runtime = &self.runtime;
        let mut send = |request| {
            let answer = self.sender.send_request(request);
            runtime.spawn(async {
                let (head, body) = answer.await?.into_parts();
                Ok(gather(head, body).await)
            })
        };
        let answers: Vec<JoinHandle<H2Answer>> = requests.into_iter().map(&mut send).collect();
        runtime.block_on(async {
            let mut all = Vec::new();
            for answer in answers {
                let answer = tokio::time::timeout(PATIENCE, answer).await;
                all.push(answer.expect("an answer in time").expect("no panic"));
            }
            all
        })
    }

    /// Sends a request and reads the head of its answer only.
    pub(crate) fn ask_head(&mut self, request: Request<Frames>) -> hyper::Result<Response<Incoming>> {
        let answer = self.sender.send_request(request);
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, answer).await }).expect("an answer in time")
    }

    /// Sends a request, and takes it back once this holds.
    pub(crate) fn cancel(&mut self, request: Request<Frames>, mut holds: impl FnMut() -> bool) {
        let answer = self.sender.send_request(request);
        self.runtime.block_on(async {
            let mut answer = Box::pin(answer);
            while !holds() {
                let soon = tokio::time::timeout(Duration::from_millis(5), &mut answer).await;
                assert!(soon.is_err(), "answered already");
            }
            drop(answer);
            // The connection's task has to run once more to say so.
            tokio::time::sleep(Duration::from_millis(50)).await;
        });
    }

    /// Whether the proxy ends the connection in an orderly way.
    pub(crate) fn is_closed(&mut self) -> bool {
        let Some(connection) = self.connection.take() else {
            return true;
        };
        let ended = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, connection).await });
        matches!(ended, Ok(Ok(Ok(()))))
    }
}

/// A POST to a path.
pub(crate) fn h2_post(path: &str, body: Frames) -> Request<Frames> {
    let uri = format!("http://models.test{path}");
    Request::post(uri).header("content-type", "application/json").body(body).expect("request")
}

type Script = dyn Fn(&Message<request::Parts>) -> Response<Frames> + Send + Sync;

/// A model that speaks HTTP/2 only.
pub(crate) struct H2Stub {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Message<request::Parts>>>>,
    stop: Arc<Notify>,
}

impl H2Stub {
    /// Answers each request as the closure says.
    pub(crate) fn new(script: impl Fn(&Message<request::Parts>) -> Response<Frames> + Send + Sync + 'static) -> Self {
        step_back();
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("local_addr");
        listener.set_nonblocking(true).expect("set_nonblocking");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(Notify::new());
        let accepting = accept(listener, Arc::clone(&seen), Arc::new(script));
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            runtime().block_on(async {
                tokio::select! { () = accepting => (), () = stopped.notified() => () }
            });
        });
        Self { address, seen, stop }
    }

    /// Answers every request with 200 and this JSON.
    pub(crate) fn json(text: &'static str) -> Self {
        Self::new(move |_| {
            let answer = Response::builder().header("content-type", "application/json");
            answer.body(Frames::bytes(text)).expect("answer")
        })
    }

    /// Waits for so many requests.
    pub(crate) fn wait(&self, count: usize) -> Vec<Message<request::Parts>> {
        let seen = || self.seen.lock().expect("seen").clone();
        until("the HTTP/2 stub has seen its requests", || seen().len() >= count);
        seen()
    }
}

impl Drop for H2Stub {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}

async fn accept(listener: TcpListener, seen: Arc<Mutex<Vec<Message<request::Parts>>>>, script: Arc<Script>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("from_std");
    while let Ok((stream, _)) = listener.accept().await {
        let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
        let service = service_fn(move |request: Request<Incoming>| {
            let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
            async move {
                let (head, body) = request.into_parts();
                let message = gather(head, body).await;
                let answer = script(&message);
                seen.lock().expect("seen").push(message);
                Ok::<_, Infallible>(answer)
            }
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
    }
}
