//! The answer's head: a model's, unchanged but for hop-by-hop fields, or one of our own.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version};
use hyper::ext::ReasonPhrase;

use super::answering::Answering;
use super::error::Refusal;
use super::stream::{FromModel, Stream};
use crate::logging::limited;
use crate::types::RequestId;
use crate::upstream::answer::Answer;
use crate::upstream::capture::Capture;
use crate::upstream::headers;

/// A model's answer, to the client as it comes.
pub(super) fn pass_on(
    mut answering: Box<Answering>,
    answer: Answer,
    capture: Option<Capture>,
    id: &RequestId,
) -> Response<Stream> {
    let Answer { head, body } = answer;
    let status = head.status;
    let kept = if capture.is_some() { head.headers.clone() } else { HeaderMap::new() };
    let fields = headers::answer(head.headers, status, id);
    answering.responds();
    let from_model = FromModel::new(body, status.as_u16(), kept, capture, answering);
    let mut response = Response::new(Stream::Model(Box::new(from_model)));
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    if let Some(reason) = head.extensions.get::<ReasonPhrase>() {
        response.extensions_mut().insert(reason.clone());
    } else if head.version == Version::HTTP_2 || status.canonical_reason().is_none() {
        // HTTP/2 has no reason, and none is invented.
        response.extensions_mut().insert(ReasonPhrase::from_static(b""));
    }
    response
}

/// Refuses a request: nobody was asked, or nobody has answered.
pub(super) fn refuse(mut answering: Box<Answering>, refusal: &Refusal) -> Response<Stream> {
    answering.refused(refusal.status().as_u16());
    log(&answering, refusal);
    own(answering, refusal)
}

/// An answer that nobody is there to read: the guard counts a client that left.
pub(super) fn own(answering: Box<Answering>, refusal: &Refusal) -> Response<Stream> {
    let unread = answering.leaves_body_unread();
    if unread || refusal.closes() {
        answering.connection().connection().linger_on_close();
    }
    let json = Bytes::from(refusal.json(answering.route_name()));
    let id = answering.id.as_ref().map(|id| id.value().clone());
    let mut response = Response::new(Stream::Own(Some(json), answering));
    *response.status_mut() = refusal.status();
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(id) = id {
        fields.insert(headers::REQUEST_ID, id);
    }
    // A close that is not announced would meet the client's next request half-way.
    if unread || refusal.closes() {
        fields.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if refusal.status() == StatusCode::SERVICE_UNAVAILABLE {
        fields.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// One line a second at most for each cause: a model that is away, or a stranger who tries paths, would else fill the
/// log, and one kind must not hide another. A client that left is told by its guard.
fn log(answering: &Answering, refusal: &Refusal) {
    let (status, error) = (refusal.status().as_u16(), refusal.cause());
    if let Some(held_back) = limited::pass(&error) {
        let route = answering.route_name().unwrap_or_default();
        tracing::warn!(route, status, error, held_back, "request refused");
    }
}
