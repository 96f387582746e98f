//! A model that a test scripts byte by byte: a raw TCP listener that records each request and then does what it is
//! told, however wrong. It runs on plain threads, so that nothing of it shares a runtime with the proxy under test.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use super::wire::{End, Framing, Head, Wire};
use super::{step_back, until};

/// A door that a test opens when it has seen what it waited for: time plays no part.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Lets everyone through, now and later.
    pub(crate) fn open(&self) {
        *self.0.0.lock().expect("gate") = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let open = self.0.0.lock().expect("gate");
        // Bounded, so that a failed test does not leave a thread behind for ever.
        let _ = self.0.1.wait_timeout_while(open, Duration::from_secs(30), |open| !*open).expect("gate");
    }
}

/// One thing a stub does.
#[derive(Clone)]
pub(crate) enum Act {
    /// Writes these bytes.
    Send(Vec<u8>),
    /// Writes these bytes again and again until the other side is gone.
    Flood(Vec<u8>),
    /// Lets time pass, where time is the input.
    Pause(Duration),
    /// Waits for the gate.
    Wait(Gate),
    /// Says nothing more until the other side is gone.
    Hang,
    /// Ends the connection with an RST.
    Reset,
    /// Ends the connection with a FIN.
    Close,
}

/// A request as it reached the stub.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Its head.
    pub(crate) head: Head,
    /// Its framing.
    pub(crate) framing: Framing,
    /// Its body.
    pub(crate) body: Vec<u8>,
    /// Fields after the last chunk.
    pub(crate) trailers: Vec<(String, Vec<u8>)>,
    /// Whether it came whole.
    pub(crate) end: End,
}

impl Seen {
    /// The request line without the version.
    pub(crate) fn target(&self) -> &str {
        self.head.start.rsplit_once(' ').map_or("", |(target, _)| target)
    }

    /// The only value of a field.
    pub(crate) fn value(&self, name: &str) -> Option<String> {
        self.head.value(name)
    }
}

/// When the script runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Accepted,
    Head,
    Whole,
}

type Script = dyn Fn(&Seen) -> Vec<Act> + Send + Sync;

struct Shared {
    seen: Mutex<Vec<Seen>>,
    open: Mutex<HashMap<usize, TcpStream>>,
    accepted: AtomicUsize,
    ended: AtomicUsize,
    received: Arc<AtomicUsize>,
    flooded: AtomicUsize,
    stop: AtomicBool,
    when: When,
    script: Box<Script>,
}

/// A scripted model.
pub(crate) struct Stub {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

impl Stub {
    fn start(when: When, script: Box<Script>) -> Self {
        step_back();
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("local_addr");
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            open: Mutex::default(),
            accepted: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            received: Arc::default(),
            flooded: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            when,
            script,
        });
        let all = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &all));
        Self { address, shared }
    }

    /// Does what the closure says once a request has come whole.
    pub(crate) fn new(script: impl Fn(&Seen) -> Vec<Act> + Send + Sync + 'static) -> Self {
        Self::start(When::Whole, Box::new(script))
    }

    /// Does what the closure says as soon as a head has come; the body is read afterwards.
    pub(crate) fn on_head(script: impl Fn(&Seen) -> Vec<Act> + Send + Sync + 'static) -> Self {
        Self::start(When::Head, Box::new(script))
    }

    /// Does this to every connection, before it has read a byte.
    pub(crate) fn on_accept(acts: Vec<Act>) -> Self {
        Self::start(When::Accepted, Box::new(move |_| acts.clone()))
    }

    /// Does this with every request.
    pub(crate) fn doing(acts: Vec<Act>) -> Self {
        Self::new(move |_| acts.clone())
    }

    /// Answers every request with these bytes.
    pub(crate) fn sending(answer: impl Into<Vec<u8>>) -> Self {
        Self::doing(vec![Act::Send(answer.into())])
    }

    /// Answers every request with 200 and this JSON.
    pub(crate) fn json(text: &str) -> Self {
        Self::sending(ok_json(text))
    }

    /// An address that refuses every connection: bound, so that no other test gets it, but nobody listens.
    pub(crate) fn nobody() -> SocketAddr {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};
        // No program that a test starts may inherit it.
        let flags = SocketFlags::CLOEXEC;
        let unheard = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).expect("socket");
        bind(&unheard, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("bind");
        let address = getsockname(&unheard).expect("getsockname");
        // It stays bound until the tests end.
        std::mem::forget(unheard);
        SocketAddr::try_from(address).expect("an internet address")
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("seen").clone()
    }

    /// Waits for so many requests.
    pub(crate) fn wait(&self, count: usize) -> Vec<Seen> {
        until("the stub has seen its requests", || self.seen().len() >= count);
        self.seen()
    }

    /// Waits for the first request, and there must be just one.
    pub(crate) fn one(&self) -> Seen {
        let mut seen = self.wait(1);
        assert_eq!(seen.len(), 1, "one request was expected");
        seen.remove(0)
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections that have ended.
    pub(crate) fn ended(&self) -> usize {
        self.shared.ended.load(Ordering::SeqCst)
    }

    /// Bytes that [`Act::Flood`] could write so far.
    pub(crate) fn flooded(&self) -> usize {
        self.shared.flooded.load(Ordering::SeqCst)
    }

    /// Waits until something of a request has come.
    pub(crate) fn wait_received(&self) {
        until("the request is with the stub", || self.received() > 0);
    }

    /// Bytes of requests that have come so far, whole or not.
    pub(crate) fn received(&self) -> usize {
        self.shared.received.load(Ordering::SeqCst)
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for (_, stream) in self.shared.open.lock().expect("open").drain() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        // Wakes the accept loop so that it sees `stop`.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let connection = shared.accepted.fetch_add(1, Ordering::SeqCst);
        shared.open.lock().expect("open").extend(stream.try_clone().map(|clone| (connection, clone)));
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let mut wire = Wire::counting(stream, Arc::clone(&shared.received));
            serve(&mut wire, &shared);
            // The last handle goes with `wire`, and with it the connection: by RST where `Act::Reset` asked for it.
            shared.open.lock().expect("open").remove(&connection);
            drop(wire);
            shared.ended.fetch_add(1, Ordering::SeqCst);
        });
    }
}

fn serve(wire: &mut Wire, shared: &Shared) {
    let empty = Head { raw: Vec::new(), start: String::new(), fields: Vec::new() };
    let nothing =
        |head| Seen { head, framing: Framing::Empty, body: Vec::new(), trailers: Vec::new(), end: End::Whole };
    if shared.when == When::Accepted {
        perform((shared.script)(&nothing(empty)), wire, &shared.flooded);
        return;
    }
    while let Ok(head) = wire.head() {
        let mut seen = Seen { framing: head.request_framing(), ..nothing(head) };
        if shared.when == When::Head && !perform((shared.script)(&seen), wire, &shared.flooded) {
            shared.seen.lock().expect("seen").push(seen);
            return;
        }
        let body = wire.body(seen.framing);
        (seen.body, seen.trailers, seen.end) = (body.bytes, body.trailers, body.end);
        let acts = if shared.when == When::Whole && seen.end == End::Whole { (shared.script)(&seen) } else { vec![] };
        shared.seen.lock().expect("seen").push(seen);
        if !perform(acts, wire, &shared.flooded) {
            return;
        }
    }
}

/// Does one thing after the other; false where the connection is over.
fn perform(acts: Vec<Act>, wire: &mut Wire, flooded: &AtomicUsize) -> bool {
    for act in acts {
        match act {
            Act::Send(bytes) => drop(wire.send(&bytes)),
            Act::Flood(bytes) => {
                while wire.send(&bytes) {
                    flooded.fetch_add(bytes.len(), Ordering::SeqCst);
                }
            }
            Act::Pause(time) => thread::sleep(time),
            Act::Wait(gate) => gate.pass(),
            Act::Hang => while wire.fill().is_ok() {},
            Act::Reset => {
                wire.reset();
                return false;
            }
            Act::Close => {
                wire.close();
                return false;
            }
        }
    }
    true
}

/// A whole answer.
pub(crate) fn answer(status: &str, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status}\r\n").into_bytes();
    for (name, value) in fields {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// 200 and this JSON.
pub(crate) fn ok_json(text: &str) -> Vec<u8> {
    answer("200 OK", &[("content-type", "application/json")], text.as_bytes())
}
