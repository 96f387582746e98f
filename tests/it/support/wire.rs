//! HTTP/1 read by hand, one byte stream at a time, so that a test sees what really went over the socket: hyper would
//! tidy up the very things (cut bodies, doubled lengths, odd spellings) that these tests are about.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long a test waits for a byte before it calls the other side silent.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// As its framing said.
    Whole,
    /// The connection closed first.
    Cut,
    /// The connection was reset first.
    Reset,
    /// Nothing more came within the time a test waits.
    Silent,
}

/// The head of a request or an answer.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    /// Every byte of it, the empty line included.
    pub(crate) raw: Vec<u8>,
    /// The request line or the status line.
    pub(crate) start: String,
    /// The fields in their order, names as they came.
    pub(crate) fields: Vec<(String, Vec<u8>)>,
}

impl Head {
    fn parse(raw: Vec<u8>) -> Self {
        let mut lines = raw.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let start = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
        let fields = lines.filter(|line| !line.is_empty()).map(field).collect();
        Self { raw, start, fields }
    }

    /// Every value of a field, in order.
    pub(crate) fn values(&self, name: &str) -> Vec<String> {
        let same = self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        same.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }

    /// The only value of a field; a test that asks for it fails where there are two.
    pub(crate) fn value(&self, name: &str) -> Option<String> {
        let mut values = self.values(name);
        assert!(values.len() < 2, "{name} stands there twice: {values:?}");
        values.pop()
    }

    fn length(&self) -> Option<usize> {
        self.values("content-length").first().and_then(|text| text.trim().parse().ok())
    }

    fn chunked(&self) -> bool {
        self.values("transfer-encoding").iter().any(|value| value.to_ascii_lowercase().contains("chunked"))
    }

    /// How a request's body is framed.
    pub(crate) fn request_framing(&self) -> Framing {
        match (self.chunked(), self.length()) {
            (true, _) => Framing::Chunked,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::Empty,
        }
    }

    /// How the body of an answer to this method is framed.
    pub(crate) fn answer_framing(&self, method: &str, status: u16) -> Framing {
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Framing::Empty;
        }
        match (self.chunked(), self.length()) {
            (true, _) => Framing::Chunked,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::Close,
        }
    }
}

fn field(line: &[u8]) -> (String, Vec<u8>) {
    let colon = line.iter().position(|&b| b == b':').unwrap_or(line.len());
    let value = line.get(colon + 1..).unwrap_or_default().trim_ascii();
    (String::from_utf8_lossy(&line[..colon]).into_owned(), value.to_vec())
}

/// What tells where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    Empty,
    /// `Content-Length`.
    Length(usize),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The end of the connection.
    Close,
}

/// A body and how it ended.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    /// Its bytes, chunk framing removed.
    pub(crate) bytes: Vec<u8>,
    /// Fields after the last chunk.
    pub(crate) trailers: Vec<(String, Vec<u8>)>,
    /// How it ended.
    pub(crate) end: End,
}

/// A socket and what was read from it but not yet asked for.
pub(crate) struct Wire {
    /// The socket.
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
    received: Arc<AtomicUsize>,
}

impl Wire {
    /// Wraps a connected socket.
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self::counting(stream, Arc::default())
    }

    /// Wraps a connected socket; what is read is added to the count.
    pub(crate) fn counting(stream: TcpStream, received: Arc<AtomicUsize>) -> Self {
        stream.set_nodelay(true).expect("set_nodelay");
        Self { stream, buffer: Vec::new(), received }
    }

    /// Connects; a read gives up after [`PATIENCE`].
    pub(crate) fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("set_read_timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("set_write_timeout");
        Self::new(stream)
    }

    /// Writes; false where the other side is gone.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Ends the connection with an RST.
    pub(crate) fn reset(&self) {
        let linger = rustix::net::sockopt::set_socket_linger(self.stream.as_fd(), Some(Duration::ZERO));
        linger.expect("SO_LINGER");
    }

    /// Ends the connection for every clone of the socket.
    pub(crate) fn close(&self) {
        // It may be gone already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Reads once; the number of bytes, or why there are none.
    pub(crate) fn fill(&mut self) -> Result<usize, End> {
        let mut piece = [0_u8; 16 << 10];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(End::Cut),
                Ok(n) => {
                    self.buffer.extend_from_slice(&piece[..n]);
                    self.received.fetch_add(n, Ordering::SeqCst);
                    return Ok(n);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(End::Silent);
                }
                Err(_) => return Err(End::Reset),
            }
        }
    }

    /// What was read and not yet asked for.
    pub(crate) fn peek(&self) -> &[u8] {
        &self.buffer
    }

    /// Reads up to and with the mark.
    fn upto(&mut self, mark: &[u8]) -> Result<Vec<u8>, End> {
        let mut from = 0;
        loop {
            let found = self.buffer[from..].windows(mark.len()).position(|window| window == mark);
            if let Some(at) = found {
                return Ok(self.buffer.drain(..from + at + mark.len()).collect());
            }
            from = self.buffer.len().saturating_sub(mark.len());
            self.fill()?;
        }
    }

    /// Reads a head.
    pub(crate) fn head(&mut self) -> Result<Head, End> {
        self.upto(b"\r\n\r\n").map(Head::parse)
    }

    /// Reads a body.
    pub(crate) fn body(&mut self, framing: Framing) -> Body {
        let mut body = Body { bytes: Vec::new(), trailers: Vec::new(), end: End::Whole };
        let end = match framing {
            Framing::Empty => Ok(()),
            Framing::Length(length) => self.exactly(length, &mut body.bytes),
            Framing::Chunked => self.chunks(&mut body),
            Framing::Close => self.all(&mut body.bytes),
        };
        body.end = end.err().unwrap_or(End::Whole);
        body
    }

    fn exactly(&mut self, length: usize, into: &mut Vec<u8>) -> Result<(), End> {
        let goal = into.len() + length;
        loop {
            let take = self.buffer.len().min(goal - into.len());
            into.extend(self.buffer.drain(..take));
            if into.len() == goal {
                return Ok(());
            }
            self.fill()?;
        }
    }

    fn all(&mut self, into: &mut Vec<u8>) -> Result<(), End> {
        loop {
            into.append(&mut self.buffer);
            match self.fill() {
                Ok(_) => {}
                Err(End::Cut) => return Ok(()),
                Err(end) => return Err(end),
            }
        }
    }

    fn chunks(&mut self, body: &mut Body) -> Result<(), End> {
        loop {
            let line = self.upto(b"\r\n")?;
            let text = String::from_utf8_lossy(&line);
            let digits = text.trim().split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("chunk size {text:?}"));
            if size == 0 {
                break;
            }
            self.exactly(size, &mut body.bytes)?;
            assert_eq!(self.upto(b"\r\n")?, b"\r\n", "a chunk ends with CRLF");
        }
        loop {
            let line = self.upto(b"\r\n")?;
            if line == b"\r\n" {
                return Ok(());
            }
            body.trailers.push(field(line.trim_ascii_end()));
        }
    }

    /// Everything until the connection ends, and how it ended: [`End::Cut`] is an orderly close.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, End) {
        loop {
            if let Err(end) = self.fill() {
                return (std::mem::take(&mut self.buffer), end);
            }
        }
    }
}
