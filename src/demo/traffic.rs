//! Floor 7: the demo's clients: the test rows over real, kept connections, half of them HTTP/2, each answer held against
//! what prod alone would have said, byte for byte. What they promise: they leave the machine room for the shadows, so that
//! the demo shows a service under load and not a flood that sheds every copy.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header, request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::models::{Model, PIXELS, Row};
use super::server;
use crate::lifecycle::{self, LocalExecutor, Priority};

/// One request each: 1,000 a second on a machine that can.
const PACE: Duration = Duration::from_millis(1);

/// The order of the rows is shuffled, and always the same.
const SEED: u64 = 20_240_601;

/// What is sent, and where.
#[derive(Debug)]
pub(super) struct Plan {
    /// The proxy's traffic port.
    pub(super) address: SocketAddr,
    /// The path that the route matches.
    pub(super) path: &'static str,
    /// How many requests.
    pub(super) requests: u64,
    /// Sent one after another in shuffled order, and again from the first when they are used up.
    pub(super) rows: Vec<Row>,
    /// Whose answers the clients must get.
    pub(super) prod: Arc<Model>,
}

/// What the clients saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Traffic {
    /// Requests answered by prod, byte for byte.
    pub(super) answered: u64,
    /// From the first request to the last answer.
    pub(super) took: Duration,
}

/// Sends the plan's requests until all are answered or `stop` turns true; the first answer that is not prod's
/// own is an error. `progress` is told how many are answered, at every per cent.
pub(super) fn run(plan: Plan, stop: watch::Receiver<bool>, progress: &mut dyn FnMut(u64)) -> Result<Traffic> {
    ensure!(!plan.rows.is_empty(), "there are no rows to send");
    let (tell, told) = mpsc::channel();
    // The lanes' own priority: on a single core, clients that kept it busy would leave the shadows none.
    let clients = move || send(plan, stop, tell);
    let thread =
        lifecycle::thread("demo-clients", Priority::Background, clients).context("no thread for the clients")?;
    for answered in told {
        progress(answered);
    }
    thread.join().map_err(|_| anyhow!("the clients stopped for a reason of their own"))?
}

type LocalBoxFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// What the clients share.
struct Run {
    plan: Plan,
    /// `plan.rows`, shuffled.
    order: Vec<usize>,
    started: Instant,
    next: AtomicU64,
    answered: AtomicU64,
    tell: mpsc::Sender<u64>,
}

fn send(plan: Plan, stop: watch::Receiver<bool>, tell: mpsc::Sender<u64>) -> Result<Traffic> {
    lifecycle::event_loop(async {
        let mut order: Vec<usize> = (0..plan.rows.len()).collect();
        fastrand::Rng::with_seed(SEED).shuffle(&mut order);
        let (next, answered) = (AtomicU64::new(0), AtomicU64::new(0));
        let run = Run { plan, order, started: Instant::now(), next, answered, tell };
        let client = |http2| client(&run, stop.clone(), http2);
        tokio::try_join!(client(false), client(true), client(false), client(true))?;
        Ok(Traffic { answered: run.answered.load(Ordering::Relaxed), took: run.started.elapsed() })
    })?
}

/// The one connection of a client.
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    /// HTTP/2 has scheme and authority in its target, HTTP/1.1 a `Host`.
    fn post(&self, plan: &Plan) -> request::Builder {
        match self {
            Sender::Http1(_) => Request::post(plan.path).header(header::HOST, plan.address.to_string()),
            Sender::Http2(_) => Request::post(format!("http://{}{}", plan.address, plan.path)),
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Sender::Http1(sender) => sender.send_request(request).await,
            Sender::Http2(sender) => sender.send_request(request).await,
        }
    }
}

/// What sends, and what has to be polled for it.
async fn handshake(stream: TcpStream, http2: bool) -> hyper::Result<(Sender, LocalBoxFuture<hyper::Result<()>>)> {
    let io = TokioIo::new(stream);
    if http2 {
        let (sender, connection) = http2::handshake(LocalExecutor, io).await?;
        return Ok((Sender::Http2(sender), Box::pin(connection)));
    }
    let (sender, connection) = http1::handshake(io).await?;
    Ok((Sender::Http1(sender), Box::pin(connection)))
}

/// One client: one connection, one request after another.
async fn client(run: &Run, mut stop: watch::Receiver<bool>, http2: bool) -> Result<()> {
    let stream = TcpStream::connect(run.plan.address).await.context("the proxy does not take connections")?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(stream, http2).await?;
    let stopped = async move {
        // An error means that nobody can stop the run any more.
        if stop.wait_for(|&stop| stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        () = stopped => Ok(()),
        done = ask_all(run, sender) => done,
        closed = connection => match closed {
            Ok(()) => bail!("the proxy closed a client's connection"),
            Err(error) => Err(error).context("a client's connection broke"),
        },
    }
}

async fn ask_all(run: &Run, mut sender: Sender) -> Result<()> {
    loop {
        let turn = run.next.fetch_add(1, Ordering::Relaxed);
        if turn >= run.plan.requests {
            return Ok(());
        }
        let due = u32::try_from(turn).ok().and_then(|turn| PACE.checked_mul(turn)).unwrap_or_default();
        tokio::time::sleep_until(run.started + due).await;
        let number = run.order[usize::try_from(turn).unwrap_or(0) % run.order.len()];
        ask(&run.plan, number, &mut sender).await?;
        let answered = run.answered.fetch_add(1, Ordering::Relaxed) + 1;
        let step = (run.plan.requests / 100).max(1);
        if answered.is_multiple_of(step) || answered == run.plan.requests {
            // The other end goes away only with the whole run.
            let _ = run.tell.send(answered);
        }
    }
}

/// Sends one row and holds the answer against prod's own.
async fn ask(plan: &Plan, number: usize, sender: &mut Sender) -> Result<()> {
    let row = &plan.rows[number];
    let body = Bytes::from(inference_request(number, row));
    let request = sender
        .post(plan)
        .header(header::CONTENT_TYPE, "application/json")
        .header("x-digit", row.digit.to_string())
        .body(Full::new(body.clone()))?;
    let answer = sender.send(request).await.with_context(|| format!("row {number} got no answer"))?;
    let status = answer.status();
    let got = answer.into_body().collect().await.with_context(|| format!("row {number} got half an answer"))?;
    let expected = server::answer(&plan.prod, &body).map_err(|wrong| anyhow!(wrong))?;
    if status != StatusCode::OK || got.to_bytes() != expected {
        bail!("row {number} got an answer ({status}) that is not {}'s own", plan.prod.name);
    }
    Ok(())
}

/// A row as the Open Inference Protocol has it: its number is the `id` by which labels can be joined later.
fn inference_request(number: usize, row: &Row) -> String {
    json!({
        "id": number.to_string(),
        "parameters": {"ink": row.ink()},
        "inputs": [{"name": "pixels", "shape": [1, PIXELS], "datatype": "FP64", "data": row.features().to_vec()}],
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::models::{linear, network, rows};
    use crate::demo::server::ModelServer;

    fn plan(server: &ModelServer, requests: u64) -> Plan {
        let prod = Arc::new(linear().expect("coefficients"));
        let (address, rows) = (server.address, rows().expect("rows"));
        Plan { address, path: "/v2/models/digits-linear/infer", requests, rows, prod }
    }

    fn prod() -> ModelServer {
        ModelServer::start(Arc::new(linear().expect("coefficients"))).expect("started")
    }

    #[test]
    fn every_request_is_answered_and_told() {
        let server = prod();
        let (_stop, stopped) = watch::channel(false);
        let mut told = Vec::new();
        let traffic = run(plan(&server, 25), stopped, &mut |answered| told.push(answered)).expect("answered");
        assert_eq!(traffic.answered, 25);
        assert_eq!(told, (1..=25).collect::<Vec<u64>>());
    }

    #[test]
    fn an_answer_that_is_not_prods_ends_the_run() {
        let mut model = network().expect("coefficients");
        model.name = "digits-linear";
        let impostor = ModelServer::start(Arc::new(model)).expect("started");
        let (_stop, stopped) = watch::channel(false);
        let error = run(plan(&impostor, 10), stopped, &mut |_| {}).expect_err("an impostor");
        assert!(error.to_string().contains("not digits-linear's own"), "{error}");
    }

    #[test]
    fn a_refusal_ends_the_run_and_names_its_status() {
        let server = prod();
        let (_stop, stopped) = watch::channel(false);
        let elsewhere = Plan { path: "/v2/models/other/infer", ..plan(&server, 10) };
        let error = run(elsewhere, stopped, &mut |_| {}).expect_err("no such model");
        assert!(error.to_string().contains("404"), "{error}");
    }

    #[test]
    fn a_run_that_is_stopped_says_how_far_it_came() {
        let server = prod();
        let (stop, stopped) = watch::channel(false);
        let mut stop = Some(stop);
        let traffic = run(plan(&server, 1_000), stopped, &mut |_| {
            if let Some(stop) = stop.as_ref() {
                let _ = stop.send(true);
            }
        });
        stop.take();
        let answered = traffic.expect("a clean stop").answered;
        assert!((10..1_000).contains(&answered), "{answered}");
    }

    #[test]
    fn a_proxy_that_is_not_there_is_an_error() {
        let server = prod();
        let plan = plan(&server, 1);
        drop(server);
        let (_stop, stopped) = watch::channel(false);
        let error = run(plan, stopped, &mut |_| {}).expect_err("nobody listens");
        assert!(error.to_string().contains("connections"), "{error}");
    }
}
