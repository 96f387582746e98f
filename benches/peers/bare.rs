//! The floor of the stack that shadowpair is built on: hyper's server before hyper's client on one thread, and nothing
//! else. With `--candidate`, a copy of each request also goes out from a thread of its own, whose answer is read and
//! thrown away. No limits, no retries, no metrics: what a proxy costs above this is its own.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::rc::Rc;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;

use super::Options;

type Failed = Box<dyn Error>;
type Copied = Request<Full<Bytes>>;

/// Kept connections to one address.
struct Pool<B> {
    to: String,
    idle: RefCell<VecDeque<SendRequest<B>>>,
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    fn new(to: &str) -> Rc<Self> {
        Rc::new(Self { to: to.to_owned(), idle: RefCell::default() })
    }

    async fn ask(&self, request: Request<B>) -> Result<Response<Incoming>, Failed> {
        let kept = {
            let mut idle = self.idle.borrow_mut();
            let ready = idle.iter().rposition(SendRequest::is_ready);
            ready.and_then(|at| idle.remove(at))
        };
        let mut sender = match kept {
            Some(sender) => sender,
            None => {
                let socket = TcpStream::connect(&self.to).await?;
                socket.set_nodelay(true)?;
                let (sender, connection) = handshake(TokioIo::new(socket)).await?;
                drop(tokio::task::spawn_local(connection));
                sender
            }
        };
        let answer = sender.send_request(request).await?;
        // Ready again once the answer's body has been read.
        self.idle.borrow_mut().push_back(sender);
        Ok(answer)
    }
}

/// Runs until it is ended.
pub(crate) fn run(options: &Options) -> Result<(), Failed> {
    let prod = options.get("prod").ok_or("--prod ADDRESS is needed")?;
    let lane = options.get("candidate").map(|to| {
        let (door, copies) = unbounded_channel();
        let to = to.to_owned();
        std::thread::spawn(move || block_on(mirror(to, copies)));
        door
    });
    block_on(serve(options.get("listen").ok_or("--listen ADDRESS is needed")?, prod, lane))?
}

fn block_on<F: Future>(work: F) -> Result<F::Output, std::io::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(LocalSet::new().block_on(&runtime, work))
}

async fn serve(listen: &str, prod: &str, lane: Option<UnboundedSender<Copied>>) -> Result<(), Failed> {
    let listener = TcpListener::bind(listen).await?;
    println!("{}", listener.local_addr()?);
    let (plain, copied) = (Pool::<Incoming>::new(prod), Pool::<Full<Bytes>>::new(prod));
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let (plain, copied, lane) = (Rc::clone(&plain), Rc::clone(&copied), lane.clone());
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let (plain, copied, lane) = (Rc::clone(&plain), Rc::clone(&copied), lane.clone());
            async move {
                let answer = match lane {
                    None => plain.ask(request).await,
                    Some(lane) => ask_both(&copied, &lane, request).await,
                };
                // The connection breaks off where there is no answer.
                answer.map_err(|error| std::io::Error::other(error.to_string()))
            }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service);
        drop(tokio::task::spawn_local(connection));
    }
}

async fn ask_both(
    prod: &Pool<Full<Bytes>>,
    lane: &UnboundedSender<Copied>,
    request: Request<Incoming>,
) -> Result<Response<Incoming>, Failed> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    lane.send(with_body(head.clone(), body.clone()))?;
    prod.ask(with_body(head, body)).await
}

fn with_body(head: Parts, body: Bytes) -> Copied {
    Request::from_parts(head, Full::new(body))
}

async fn mirror(to: String, mut copies: UnboundedReceiver<Copied>) {
    let candidate = Pool::<Full<Bytes>>::new(&to);
    while let Some(copy) = copies.recv().await {
        let candidate = Rc::clone(&candidate);
        tokio::task::spawn_local(async move {
            if let Ok(answer) = candidate.ask(copy).await {
                let mut body = answer.into_body();
                while let Some(Ok(_)) = body.frame().await {}
            }
            Ok::<_, Infallible>(())
        });
    }
}
