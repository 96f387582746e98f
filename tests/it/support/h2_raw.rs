//! HTTP/2 frame by frame, for what hyper would not do: a client that grants no window, a model that goes silent on one
//! connection, or that ends its stream in a frame of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::wire::PATIENCE;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// One frame.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A frame's bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).expect("length").to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A field, written out (RFC 7541 §6.2.2).
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.push(u8::try_from(text.len()).expect("short"));
        assert!(text.len() < 127);
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

/// One side of a connection.
pub(crate) struct Raw(pub(crate) TcpStream);

impl Raw {
    /// A client that says so much in its SETTINGS.
    pub(crate) fn client(address: SocketAddr, settings: &[u8]) -> Self {
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("set_read_timeout");
        let mut raw = Self(stream);
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").send(&frame(SETTINGS, 0, 0, settings));
        raw
    }

    /// Writes; it is no fault where the other side is gone.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> &mut Self {
        let _ = self.0.write_all(bytes);
        self
    }

    /// Asks for a path without a body.
    pub(crate) fn get(&mut self, stream: u32, more: &[(&str, &str)]) -> &mut Self {
        let mut block = vec![0x82, 0x86, 0x84];
        block.extend(more.iter().flat_map(|(name, value)| field(name, value)));
        self.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &block))
    }

    /// Asks for a path by name, without a body.
    pub(crate) fn ask(&mut self, stream: u32, method: &str, path: &str, authority: &str) -> &mut Self {
        let fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", authority)];
        let block: Vec<u8> = fields.iter().flat_map(|(name, value)| field(name, value)).collect();
        self.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &block))
    }

    /// The next frame; none where the connection has ended.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads to the end, and answers what asks whether it is still there; whether a GOAWAY stood before the end.
    pub(crate) fn hears_goodbye(&mut self) -> bool {
        let mut goodbye = false;
        while let Some(came) = self.next() {
            goodbye |= came.kind == GOAWAY;
            if came.kind == PING && came.flags & ACK == 0 {
                self.send(&frame(PING, ACK, 0, &came.payload));
            }
        }
        goodbye
    }

    /// Reads until such a frame comes on that stream.
    pub(crate) fn wait(&mut self, kind: u8, stream: u32) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            if frame.kind == kind && frame.stream == stream {
                return Some(frame);
            }
        }
    }
}

/// A model that speaks HTTP/2 as a closure says: it gets the connection's number, the connection, and each frame.
pub(crate) struct RawModel {
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl RawModel {
    pub(crate) fn new(script: impl Fn(usize, &mut Raw, &Frame) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("local_addr");
        let (accepted, script) = (Arc::<AtomicUsize>::default(), Arc::new(script));
        let count = Arc::clone(&accepted);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (script, number) = (Arc::clone(&script), count.fetch_add(1, Ordering::SeqCst));
                stream.set_nodelay(true).expect("set_nodelay");
                thread::spawn(move || serve(number, Raw(stream), &*script));
            }
        });
        Self { address, accepted }
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

fn serve(number: usize, mut raw: Raw, script: &dyn Fn(usize, &mut Raw, &Frame)) {
    let mut preface = [0; 24];
    if raw.0.read_exact(&mut preface).is_err() {
        return;
    }
    raw.send(&frame(SETTINGS, 0, 0, &[]));
    while let Some(came) = raw.next() {
        if came.kind == SETTINGS && came.flags & ACK == 0 {
            raw.send(&frame(SETTINGS, ACK, 0, &[]));
        }
        script(number, &mut raw, &came);
    }
}
