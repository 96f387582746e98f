//! Why shadowpair answers in prod's place: one table from cause to status and words. The words name the route and the
//! cause, and nothing of what stands behind the proxy.

use http::StatusCode;

use crate::types::Role;
use crate::upload::UploadError;
use crate::upstream::error::CallError;

/// A cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// `Host` is missing, doubled, or no host.
    BadHost,
    /// The path cannot be passed on as it is.
    BadTarget,
    /// A `Content-Length` that is not one number.
    BadLength,
    /// A transfer coding other than `chunked`.
    Coding,
    /// CONNECT.
    Connect,
    /// TRACE.
    Trace,
    /// More than `header_bytes`.
    HeadTooLarge,
    /// No route matches.
    NoRoute,
    /// The body could not be read to its end.
    Upload(UploadError),
    /// The body has to be rewritten for this model and is larger than `copy_body`.
    RewriteTooLarge(Role),
    /// The body has to be rewritten for this model and cannot be. Only the canary is not asked for that, and prod is in its
    /// place, so no client hears of it.
    RewriteFailed(Role),
    /// A model did not answer.
    Model(Role, CallError),
}

impl Refusal {
    /// The status that the client gets.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadHost | Self::BadTarget | Self::BadLength => StatusCode::BAD_REQUEST,
            Self::Coding | Self::Connect => StatusCode::NOT_IMPLEMENTED,
            Self::Trace => StatusCode::METHOD_NOT_ALLOWED,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::RewriteTooLarge(_) | Self::Upload(UploadError::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Upload(UploadError::Stalled) => StatusCode::REQUEST_TIMEOUT,
            Self::Upload(UploadError::Broken | UploadError::Malformed) => StatusCode::BAD_REQUEST,
            Self::RewriteFailed(_) => StatusCode::BAD_GATEWAY,
            Self::Model(_, error) => model_status(error),
        }
    }

    /// The cause, for the client and the log.
    pub fn cause(&self) -> String {
        let text = match self {
            Self::BadHost => "the request needs exactly one valid Host",
            Self::BadTarget => "the request target is not a path that can be passed on",
            Self::BadLength => "Content-Length is not one number",
            Self::Coding => "the only transfer coding that is understood is chunked",
            Self::Connect => "CONNECT is not supported: this is a reverse proxy",
            Self::Trace => "TRACE is not allowed",
            Self::HeadTooLarge => "the request's head is larger than limits.header_bytes",
            Self::NoRoute => "no route matches the host, path, method and headers of this request",
            Self::RewriteTooLarge(role) => {
                let who = who(*role);
                return format!("the request body is larger than copy_body and has to be rewritten for {who}");
            }
            Self::RewriteFailed(role) => return format!("the request body cannot be rewritten for {}", who(*role)),
            Self::Upload(UploadError::TooLarge) => "the request body is larger than limits.request_bytes",
            Self::Upload(UploadError::Stalled) => "the request body stalled for longer than limits.idle_timeout",
            Self::Upload(UploadError::Broken) => "the request body ended too early",
            Self::Upload(UploadError::Malformed) => "the request body's chunks or trailers are malformed or too large",
            Self::Model(role, error) => return model_cause(*role, error),
        };
        text.to_owned()
    }

    /// Whether the connection cannot be trusted any more: it is not sure where the next request begins.
    pub fn closes(&self) -> bool {
        matches!(
            self,
            Self::BadHost
                | Self::BadTarget
                | Self::BadLength
                | Self::Coding
                | Self::Connect
                | Self::HeadTooLarge
                | Self::RewriteTooLarge(_)
                | Self::Upload(_)
        )
    }

    /// The answer's body.
    pub fn json(&self, route: Option<&str>) -> String {
        let text = match route {
            Some(route) => format!("route {route:?}: {}", self.cause()),
            None => self.cause(),
        };
        serde_json::json!({ "error": text }).to_string()
    }
}

fn model_status(error: &CallError) -> StatusCode {
    match error {
        CallError::Connect | CallError::Reset | CallError::Refused | CallError::Protocol => StatusCode::BAD_GATEWAY,
        CallError::ConnectTimeout | CallError::Timeout => StatusCode::GATEWAY_TIMEOUT,
        CallError::NoRoom | CallError::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
        CallError::Upload(error) => Refusal::Upload(*error).status(),
    }
}

fn who(role: Role) -> &'static str {
    match role {
        Role::Prod => "prod",
        Role::Fallback => "the fallback",
        _ => "the canary",
    }
}

fn model_cause(role: Role, error: &CallError) -> String {
    let who = who(role);
    match error {
        CallError::Connect => format!("{who} refused the connection"),
        CallError::ConnectTimeout => format!("{who} did not accept a connection in time"),
        CallError::Reset => format!("{who} broke the connection off before it answered"),
        CallError::Refused => format!("{who} refused the request twice, unread"),
        CallError::Protocol => format!("{who}'s answer was not HTTP"),
        CallError::Timeout => format!("{who} did not answer in time"),
        CallError::NoRoom => format!("{who} is at its max_connections"),
        CallError::Unhealthy => format!("every endpoint of {who} is ejected"),
        CallError::Upload(_) => "the request body could not be read".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_route_and_cause_as_json() {
        let refusal = Refusal::Model(Role::Prod, CallError::Connect);
        assert_eq!(refusal.status(), 502);
        let json: serde_json::Value = serde_json::from_str(&refusal.json(Some("a\"b\n"))).expect("JSON");
        assert_eq!(json["error"], "route \"a\\\"b\\n\": prod refused the connection");
    }
}
