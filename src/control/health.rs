//! Active health checks: each endpoint of a model with `health` is asked at its interval. Two failures in a row make it
//! unready, one success ready again. Whoever picks an endpoint tries unready ones only where there are no others.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::config::routing::{Health, Model};
use crate::lifecycle;
use crate::live::LiveReader;
use crate::snapshot::Snapshot;
use crate::upstream::endpoint::Endpoint;

/// How often it is looked which checks are due.
const LOOK: Duration = Duration::from_millis(100);
/// The longest that one check may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Failures in a row that make an endpoint unready.
const FAILURES: u32 = 2;

/// Checks until the task is dropped.
pub async fn run(live: LiveReader<Snapshot>) {
    let mut due: HashMap<*const Endpoint, (Instant, Rc<std::cell::Cell<u32>>)> = HashMap::new();
    loop {
        let (snapshot, now) = (live.load(), Instant::now());
        let checked =
            snapshot.endpoints().filter_map(|(model, endpoint)| Some((model, endpoint, model.health.as_ref()?)));
        let mut kept = HashMap::new();
        for (model, endpoint, health) in checked {
            let key = Arc::as_ptr(endpoint);
            let (at, failures) = due.remove(&key).unwrap_or_else(|| (now, Rc::default()));
            let next = if at <= now {
                drop(lifecycle::local(check(
                    Arc::clone(model),
                    Arc::clone(endpoint),
                    health.clone(),
                    Rc::clone(&failures),
                )));
                now + health.interval
            } else {
                at
            };
            kept.insert(key, (next, failures));
        }
        due = kept;
        drop(snapshot);
        tokio::time::sleep(LOOK).await;
    }
}

async fn check(model: Arc<Model>, endpoint: Arc<Endpoint>, health: Health, failures: Rc<std::cell::Cell<u32>>) {
    let limit = health.interval.min(TIMEOUT);
    let ready =
        matches!(tokio::time::timeout(limit, ask(&endpoint, &health.path)).await, Ok(Ok(status)) if status < 400);
    failures.set(if ready { 0 } else { failures.get().saturating_add(1) });
    if ready || failures.get() == FAILURES {
        tracing::debug!(model = %model.name, endpoint = &*endpoint.url.label, ready, "health check");
        endpoint.checked(ready);
    }
}

/// Asks one endpoint over a connection of its own; its status.
async fn ask(endpoint: &Endpoint, path: &str) -> Result<u16, Box<dyn std::error::Error>> {
    let address = endpoint.choose(None).ok_or("its name has no address")?;
    let io = TokioIo::new(TcpStream::connect(address).await?);
    let request = Request::get(path);
    if endpoint.h2 {
        let executor = lifecycle::LocalExecutor;
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await?;
        let polling = lifecycle::local(async move { drop(connection.await) });
        let uri = format!("http://{}{path}", endpoint.host().to_str()?);
        let answer = sender.send_request(Request::get(uri).body(Empty::<Bytes>::new())?).await;
        polling.abort();
        return Ok(answer?.status().as_u16());
    }
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    let polling = lifecycle::local(async move { drop(connection.await) });
    let request = request.header(http::header::HOST, endpoint.host()).body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await;
    polling.abort();
    Ok(answer?.status().as_u16())
}
