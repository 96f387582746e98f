//! An HTTP/1 client that writes what a test gives it, byte for byte, and reads answers by their framing.

use std::net::SocketAddr;

use serde_json::Value;

use super::wire::{Body, End, Head, Wire};

/// An answer as it came.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// The reason phrase.
    pub(crate) reason: String,
    /// The whole head.
    pub(crate) head: Head,
    /// The body.
    pub(crate) body: Vec<u8>,
    /// Fields after the last chunk.
    pub(crate) trailers: Vec<(String, Vec<u8>)>,
    /// How it ended.
    pub(crate) end: End,
}

impl Answer {
    /// The only value of a field.
    pub(crate) fn value(&self, name: &str) -> Option<String> {
        self.head.value(name)
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The text of `{"error"}`: the proxy's own answers have just this form.
    pub(crate) fn error(&self) -> String {
        assert_eq!(self.value("content-type").as_deref(), Some("application/json"), "{self:?}");
        let json: Value = serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        json["error"].as_str().unwrap_or_else(|| panic!("no error text: {json}")).to_owned()
    }
}

/// A connection to the proxy.
pub(crate) struct Client {
    /// The socket.
    pub(crate) wire: Wire,
}

impl Client {
    /// Connects.
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self { wire: Wire::to(address) }
    }

    /// Writes these bytes; it is no fault where the proxy has hung up.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.wire.send(bytes.as_ref());
        self
    }

    /// Reads the answer to a GET or POST, or how the connection ended instead.
    pub(crate) fn try_answer(&mut self, method: &str) -> Result<Answer, End> {
        let head = self.wire.head()?;
        let mut words = head.start.splitn(3, ' ');
        let status = words.nth(1).and_then(|word| word.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {:?}", head.start));
        let reason = words.next().unwrap_or_default().to_owned();
        let Body { bytes, trailers, end } = self.wire.body(head.answer_framing(method, status));
        Ok(Answer { status, reason, head, body: bytes, trailers, end })
    }

    /// Reads the answer to a GET or POST.
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer("GET").unwrap_or_else(|end| panic!("no answer: {end:?}"))
    }

    /// Sends a request and reads its answer.
    pub(crate) fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        let method =
            String::from_utf8_lossy(request.as_ref().split(|&b| b == b' ').next().unwrap_or_default()).into_owned();
        self.send(request);
        self.try_answer(&method).unwrap_or_else(|end| panic!("no answer: {end:?}"))
    }

    /// Whether the proxy ends the connection without another byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        let (bytes, end) = self.wire.rest();
        bytes.is_empty() && end != End::Silent
    }
}

/// Sends one request over a connection of its own.
pub(crate) fn ask(address: SocketAddr, request: impl AsRef<[u8]>) -> Answer {
    Client::to(address).ask(request)
}

/// A request: its first line without the version, its fields, its body. A body gets a `content-length`.
pub(crate) fn request(line: &str, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{line} HTTP/1.1\r\nhost: models.test\r\n").into_bytes();
    for (name, value) in fields {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    if line.starts_with("POST") || !body.is_empty() {
        bytes.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// A GET.
pub(crate) fn get(path: &str) -> Vec<u8> {
    request(&format!("GET {path}"), &[], b"")
}

/// A POST of JSON.
pub(crate) fn post(path: &str, json: &str) -> Vec<u8> {
    request(&format!("POST {path}"), &[("content-type", "application/json")], json.as_bytes())
}

/// A POST that names itself.
pub(crate) fn post_as(id: &str, json: &str) -> Vec<u8> {
    request("POST /", &[("x-request-id", id), ("content-type", "application/json")], json.as_bytes())
}
