//! Floor 6: probes, metrics and the API, on a listener and an event loop of their own, so that traffic can neither
//! reach them nor slow them down. `/livez`, `/readyz` and `/metrics` are open; the API asks for the token.

mod page;
mod views;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt};

use crate::control::reload::{Outcome, Reloader};
use crate::lifecycle::{self, PhaseWatch};
use crate::listener::body::ClientBody;
use crate::listener::io::ConnState;
use crate::listener::{ConnLimits, DrainBell, serve};
use crate::live::LiveReader;
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;
use crate::types::Secret;

/// Requests to the admin interface at once; what comes beyond is shed, so that a scraper gone wild stays harmless.
const CONCURRENCY: usize = 32;
/// How long one of them may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Its connections' bounds.
const LIMITS: ConnLimits = ConnLimits {
    header_bytes: 32 << 10,
    header_timeout: Duration::from_secs(10),
    idle_timeout: Duration::from_secs(75),
};
/// How long accepting rests after an error.
const PAUSE: Duration = Duration::from_millis(100);

/// What the admin interface shows.
#[derive(Debug)]
pub struct Admin {
    /// The routing.
    pub live: LiveReader<Snapshot>,
    /// All metric families.
    pub metrics: Arc<Metrics>,
    /// Whether the process is ready.
    pub phase: PhaseWatch,
    /// The token that the API asks for.
    pub token: Option<Secret>,
    /// Whether the API is open without one: on loopback only.
    pub loopback: bool,
    /// Reads the routing file anew.
    pub reloader: Reloader,
}

/// Serves until the task is dropped.
pub async fn run(listener: TcpListener, admin: Admin) {
    let router = router(Arc::new(admin));
    // It answers probes until the very end of a drain.
    let bell = DrainBell::new();
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let state = ConnState::new();
                let (router, requests) = (router.clone(), Rc::clone(&state));
                let answer = move |request: http::Request<ClientBody>| {
                    let (router, guard) = (router.clone(), requests.begin());
                    // Nothing here reads a body.
                    let request = request.map(|_| Body::empty());
                    async move {
                        let answered = limited(router, request).await;
                        drop(guard);
                        answered
                    }
                };
                drop(lifecycle::local(serve(socket, LIMITS, Rc::clone(&bell), state, answer)));
            }
            Err(error) => {
                tracing::warn!(%error, "the admin interface cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn limited(router: Limited, request: Request) -> Response {
    match router.oneshot(request).await {
        Ok(response) => response,
        Err(_) => error(StatusCode::SERVICE_UNAVAILABLE, "the admin interface is busy; try again"),
    }
}

type Limited = tower::util::BoxCloneService<Request, Response, tower::BoxError>;

fn router(admin: Arc<Admin>) -> Limited {
    let api = Router::new()
        .route("/api/v1/routes", get(routes))
        .route("/api/v1/config", get(config))
        .route("/api/v1/config/reload", post(reload))
        .merge(page::routes())
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), authorize));
    let open = Router::new().route("/livez", get(livez)).route("/readyz", get(readyz)).route("/metrics", get(metrics));
    let router = open.merge(api).fallback(unknown).method_not_allowed_fallback(wrong_method).with_state(admin);
    let limits = ServiceBuilder::new().load_shed().concurrency_limit(CONCURRENCY).timeout(TIMEOUT);
    tower::util::BoxCloneService::new(limits.service(router))
}

fn error(status: StatusCode, text: &str) -> Response {
    (status, axum::Json(json!({ "error": text }))).into_response()
}

async fn unknown() -> Response {
    let known = "there are /, /livez, /readyz, /metrics, /api/v1/routes and /api/v1/config";
    error(StatusCode::NOT_FOUND, &format!("no such page; {known}"))
}

async fn wrong_method() -> Response {
    error(StatusCode::METHOD_NOT_ALLOWED, "this page does not take that method")
}

async fn livez() -> Response {
    (StatusCode::OK, "ok\n").into_response()
}

async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    if admin.phase.now().is_ready() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response()
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    match admin.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(failed) => error(StatusCode::INTERNAL_SERVER_ERROR, &format!("the metrics cannot be written: {failed}")),
    }
}

async fn routes(State(admin): State<Arc<Admin>>) -> Response {
    axum::Json(views::routes(&admin.live.load(), &admin.reloader.last())).into_response()
}

async fn config(State(admin): State<Arc<Admin>>) -> Response {
    axum::Json(&admin.live.load().masked).into_response()
}

async fn reload(State(admin): State<Arc<Admin>>) -> Response {
    match admin.reloader.reload().await {
        Some(Outcome::Applied { hash, needs_restart }) => {
            axum::Json(json!({ "outcome": "applied", "config": hash, "needs_restart": needs_restart })).into_response()
        }
        Some(Outcome::Unchanged { hash }) => {
            axum::Json(json!({ "outcome": "unchanged", "config": hash })).into_response()
        }
        Some(Outcome::Rejected(faults)) => {
            let rendered: Vec<String> = faults.iter().map(|fault| fault.render(false)).collect();
            let said = json!({ "outcome": "rejected", "error": "the routing file has faults; the old one stays in force", "faults": rendered });
            (StatusCode::UNPROCESSABLE_ENTITY, axum::Json(said)).into_response()
        }
        Some(Outcome::NoFile) => error(StatusCode::CONFLICT, "shadowpair was started without a routing file"),
        None => error(StatusCode::SERVICE_UNAVAILABLE, "shadowpair is on its way out"),
    }
}

async fn authorize(State(admin): State<Arc<Admin>>, headers: HeaderMap, request: Request, next: Next) -> Response {
    let allowed = match &admin.token {
        Some(token) => bearer(&headers).is_some_and(|given| equal(given.as_bytes(), token.reveal().as_bytes())),
        None => admin.loopback,
    };
    if allowed {
        return next.run(request).await;
    }
    let mut refused = error(StatusCode::UNAUTHORIZED, "this needs `Authorization: Bearer` with server.admin_token");
    refused.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    refused
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Compares in a time that does not tell how much of a guess is right.
fn equal(given: &[u8], wanted: &[u8]) -> bool {
    given.len() == wanted.len() && given.iter().zip(wanted).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

/// Whether an address can only be reached from this machine.
pub fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}
