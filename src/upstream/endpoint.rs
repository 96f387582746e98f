//! One endpoint of a model, shared by all threads and carried over a reload: its addresses, how many connections are
//! open to it, who waits for one, and whether it is ejected. Workers and lanes each keep a health of their own, so that
//! no lane can eject an endpoint that answers clients.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use http::HeaderValue;
use prometheus::{IntCounter, IntGauge};

use crate::config::routing::{EndpointUrl, Model, Protocol};
use crate::live::{LiveReader, LiveWriter, live};
use crate::metrics::Metrics;

/// Failures in a row that eject an endpoint.
const FAILURES: u64 = 5;
/// The first back-off; it doubles up to [`MAX_BACK_OFF`].
const BACK_OFF: Duration = Duration::from_secs(1);
/// The longest back-off.
const MAX_BACK_OFF: Duration = Duration::from_secs(60);

/// Which threads a call runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The answer path.
    Worker,
    /// Beside it.
    Lane,
}

impl Side {
    /// Whose calls run there, for the log.
    fn calls(self) -> &'static str {
        match self {
            Self::Worker => "for clients",
            Self::Lane => "for shadows and controls",
        }
    }
}

/// Both ends of something that the control plane swaps and callers read.
type Swapped<T> = (LiveWriter<T>, LiveReader<T>);

/// One endpoint.
#[derive(Debug)]
pub struct Endpoint {
    /// Its address as in the file.
    pub url: EndpointUrl,
    /// What is spoken to it.
    pub h2: bool,
    cap: AtomicUsize,
    /// Whether its health check says that it is not ready.
    unready: AtomicBool,
    /// Its address, where its host is no name.
    literal: Option<SocketAddr>,
    addresses: Swapped<Vec<SocketAddr>>,
    /// Grows when the addresses change.
    generation: AtomicU64,
    connections: AtomicUsize,
    /// Calls on the answer path that wait for a connection.
    pub wanted: AtomicUsize,
    /// Calls under way, for the choice between two.
    pub active: AtomicUsize,
    health: [Health; 2],
    /// The model's other endpoints.
    peers: Swapped<Vec<Weak<Endpoint>>>,
    up: IntGauge,
    ejected: IntCounter,
    open: IntGauge,
}

impl Endpoint {
    /// An endpoint that nobody has asked yet. A name has no address until it is resolved.
    pub fn new(url: &EndpointUrl, model: &Model, metrics: &Metrics) -> Arc<Self> {
        let literal = url.host.parse().ok().map(|ip| SocketAddr::new(ip, url.port));
        let addresses = literal.into_iter().collect();
        let labels = [model.name.as_str(), &*url.label];
        let up = metrics.endpoint_up.with_label_values(&labels);
        up.set(1);
        Arc::new(Self {
            url: url.clone(),
            h2: model.protocol == Protocol::H2,
            cap: AtomicUsize::new(model.max_connections),
            unready: AtomicBool::new(false),
            literal,
            addresses: live(Arc::new(addresses)),
            generation: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
            wanted: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            health: [Health::new(), Health::new()],
            peers: live(Arc::default()),
            up,
            ejected: metrics.endpoint_ejected.with_label_values(&labels),
            open: metrics.upstream_connections.with_label_values(&labels),
        })
    }

    /// Whether its host is a name, to be resolved.
    pub fn is_named(&self) -> bool {
        self.literal.is_none()
    }

    /// Its own name, as a `Host` field has it.
    pub fn host(&self) -> HeaderValue {
        let host = &self.url.host;
        let text = if host.contains(':') {
            format!("[{host}]:{}", self.url.port)
        } else {
            format!("{host}:{}", self.url.port)
        };
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("localhost"))
    }

    /// Where it stands now.
    pub fn addresses(&self) -> Arc<Vec<SocketAddr>> {
        self.addresses.1.load()
    }

    /// One of its addresses by chance, another than the one that was just tried where there is one. None while its name
    /// stands for nothing.
    pub fn choose(&self, tried: Option<SocketAddr>) -> Option<SocketAddr> {
        if self.literal.is_some() {
            return self.literal;
        }
        let addresses = self.addresses();
        let others: Vec<SocketAddr> = addresses.iter().copied().filter(|address| Some(*address) != tried).collect();
        fastrand::choice(others).or_else(|| fastrand::choice(addresses.iter()).copied())
    }

    /// Whether its name stands for several addresses.
    pub fn is_spread(&self) -> bool {
        self.literal.is_none() && self.addresses().len() > 1
    }

    /// Its name now stands for these.
    pub fn resolved(&self, addresses: Vec<SocketAddr>) {
        if *self.addresses() != addresses {
            self.addresses.0.store(Arc::new(addresses));
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// Grows whenever the addresses change.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A permit for one more connection, where the cap allows it. A share below the whole leaves the rest to others.
    pub fn permit(self: &Arc<Self>, share: Share) -> Option<Permit> {
        let cap = self.cap.load(Ordering::Relaxed);
        let cap = match share {
            _ if cap == 0 => usize::MAX,
            Share::Whole => cap,
            Share::Guest => cap * 4 / 5,
        };
        let take = |open: usize| (open < cap).then_some(open + 1);
        self.connections.fetch_update(Ordering::AcqRel, Ordering::Relaxed, take).ok()?;
        self.open.inc();
        Some(Permit(Arc::clone(self)))
    }

    /// Whether this side may ask it now. An endpoint whose back-off has passed lets one probe through a back-off.
    pub fn admits(&self, side: Side) -> bool {
        self.health[side as usize].admits()
    }

    /// Whether this side has ejected it, without claiming a probe.
    pub fn is_ejected(&self, side: Side) -> bool {
        self.health[side as usize].is_ejected()
    }

    /// A call on this side was answered.
    pub fn succeeded(&self, side: Side) {
        if self.health[side as usize].succeeded() {
            self.show_up();
            tracing::info!(endpoint = &*self.url.label, "endpoint answers again");
        }
    }

    /// Its model's file now says this.
    pub fn configure(&self, model: &Model) {
        self.cap.store(model.max_connections, Ordering::Relaxed);
        if model.health.is_none() {
            self.checked(true);
        }
    }

    /// What its health check found.
    pub fn checked(&self, ready: bool) {
        if self.unready.swap(!ready, Ordering::Relaxed) == ready {
            self.show_up();
            tracing::info!(endpoint = &*self.url.label, ready, "health check");
        }
    }

    /// Whether its health check says that it is ready; without one it is.
    pub fn is_ready(&self) -> bool {
        !self.unready.load(Ordering::Relaxed)
    }

    /// Up is what neither side has ejected and its health check does not speak against.
    fn show_up(&self) {
        let ejected = self.is_ejected(Side::Worker) || self.is_ejected(Side::Lane);
        self.up.set(i64::from(!ejected && self.is_ready()));
    }

    /// Makes the endpoints of one model known to one another.
    pub fn introduce(endpoints: &[Arc<Endpoint>]) {
        for endpoint in endpoints {
            let others = endpoints.iter().filter(|other| !Arc::ptr_eq(other, endpoint));
            endpoint.peers.0.store(Arc::new(others.map(Arc::downgrade).collect()));
        }
    }

    /// Whether this side has no other endpoint of the model left.
    fn is_last(&self, side: Side) -> bool {
        !self.peers.1.load().iter().filter_map(Weak::upgrade).any(|other| !other.is_ejected(side))
    }

    /// A call on this side found it refusing, broken or silent. Prod's last endpoint is never ejected, and only the
    /// call knows whether it is prod's (`spare_last`): a canary's is, so that its clients need not wait for it.
    pub fn failed(&self, side: Side, spare_last: bool) {
        if spare_last && self.is_last(side) {
            return;
        }
        if let Some(back_off) = self.health[side as usize].failed() {
            self.show_up();
            self.ejected.inc();
            let calls = side.calls();
            tracing::warn!(endpoint = &*self.url.label, calls, ?back_off, "endpoint ejected: it keeps failing");
        }
    }
}

/// How much of an endpoint's cap a call may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// All of it.
    Whole,
    /// Four fifths: a lane's call to prod leaves the last fifth to the answer path.
    Guest,
}

/// One open connection, counted as long as it is held.
#[derive(Debug)]
pub struct Permit(Arc<Endpoint>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
        self.0.open.dec();
    }
}

/// Failures in a row, doublings of the back-off and its end, packed into one atomic:
/// 40 bits of milliseconds, 8 bits of doublings plus one, 16 bits of failures. All zero is healthy.
#[derive(Debug)]
struct Health {
    packed: AtomicU64,
    epoch: Instant,
}

#[derive(Clone, Copy)]
struct Unpacked {
    until_ms: u64,
    ejections: u64,
    failures: u64,
}

impl Unpacked {
    fn of(packed: u64) -> Self {
        Self { until_ms: packed >> 24, ejections: (packed >> 16) & 0xff, failures: packed & 0xffff }
    }

    fn pack(self) -> u64 {
        (self.until_ms << 24) | (self.ejections.min(0xff) << 16) | self.failures.min(0xffff)
    }

    /// Ejected once more, from now on.
    fn ejected(self, now_ms: u64) -> Self {
        let next = Self { ejections: self.ejections + 1, failures: 0, ..self };
        Self { until_ms: now_ms + u64::try_from(next.back_off().as_millis()).unwrap_or(0), ..next }
    }

    fn back_off(self) -> Duration {
        let doublings = u32::try_from(self.ejections.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
        BACK_OFF.saturating_mul(1 << doublings).min(MAX_BACK_OFF)
    }
}

impl Health {
    fn new() -> Self {
        Self { packed: AtomicU64::new(0), epoch: Instant::now() }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX >> 24)
    }

    fn is_ejected(&self) -> bool {
        let state = Unpacked::of(self.packed.load(Ordering::Relaxed));
        state.ejections > 0 && self.now_ms() < state.until_ms
    }

    fn admits(&self) -> bool {
        let packed = self.packed.load(Ordering::Relaxed);
        let state = Unpacked::of(packed);
        if state.ejections == 0 {
            return true;
        }
        if self.now_ms() < state.until_ms {
            return false;
        }
        // Whoever begins the next back-off is the probe; a success ends it, and a failure has nothing to add.
        let claimed = state.ejected(self.now_ms()).pack();
        self.packed.compare_exchange(packed, claimed, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether it was ejected until now.
    fn succeeded(&self) -> bool {
        self.packed.load(Ordering::Relaxed) != 0 && Unpacked::of(self.packed.swap(0, Ordering::Relaxed)).ejections > 0
    }

    /// The back-off, where this failure begins one.
    fn failed(&self) -> Option<Duration> {
        let mut back_off = None;
        let step = |packed: u64| {
            let state = Unpacked::of(packed);
            let failures = state.failures + 1;
            back_off = None;
            if state.ejections > 0 {
                // Calls that were under way when it was ejected say nothing new.
                return None;
            }
            if failures < FAILURES {
                return Some(Unpacked { failures, ..state }.pack());
            }
            let ejected = state.ejected(self.now_ms());
            back_off = Some(ejected.back_off());
            Some(ejected.pack())
        };
        self.packed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).ok().and(back_off)
    }
}

/// Picks an endpoint: the least busy of two random ones that this side may ask. `last_resort` asks any of them where
/// none may be asked: prod's last endpoint is never ejected.
pub fn pick<'a>(
    endpoints: &'a [Arc<Endpoint>],
    side: Side,
    last_resort: bool,
    avoid: Option<&Arc<Endpoint>>,
) -> Option<&'a Arc<Endpoint>> {
    if let [only] = endpoints {
        return (last_resort || only.admits(side)).then_some(only);
    }
    // There are others, so the one that has just failed is not asked again, even as a last resort.
    let others = || endpoints.iter().filter(|endpoint| !avoid.is_some_and(|other| Arc::ptr_eq(other, endpoint)));
    let allowed: Vec<&Arc<Endpoint>> = others().filter(|endpoint| !endpoint.is_ejected(side)).collect();
    let ready: Vec<&Arc<Endpoint>> = allowed.iter().copied().filter(|endpoint| endpoint.is_ready()).collect();
    // When health checks fail all of them, all are tried.
    let healthy = if ready.is_empty() { allowed } else { ready };
    let chosen = two_choices(&healthy).filter(|endpoint| endpoint.admits(side));
    // A probe that another thread has claimed, or nothing healthy: whatever else this side may ask.
    chosen.or_else(|| healthy.into_iter().find(|endpoint| endpoint.admits(side))).or_else(|| {
        let all: Vec<&Arc<Endpoint>> = others().collect();
        if last_resort { two_choices(&all) } else { None }
    })
}

fn two_choices<'a>(endpoints: &[&'a Arc<Endpoint>]) -> Option<&'a Arc<Endpoint>> {
    match endpoints {
        [] => None,
        [one] => Some(one),
        many => {
            let first = fastrand::usize(..many.len());
            let second = (first + 1 + fastrand::usize(..many.len() - 1)) % many.len();
            let busy = |i: usize| many[i].active.load(Ordering::Relaxed);
            Some(if busy(second) < busy(first) { many[second] } else { many[first] })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_failures_eject_and_a_success_restores() {
        let health = Health::new();
        for _ in 0..4 {
            assert_eq!(health.failed(), None);
        }
        assert!(health.admits());
        assert_eq!(health.failed(), Some(BACK_OFF));
        assert!(health.is_ejected() && !health.admits());
        assert!(health.succeeded());
        assert!(health.admits() && !health.succeeded());
    }

    #[test]
    fn back_off_doubles_up_to_its_bound() {
        let after = |ejections| Unpacked { until_ms: 0, ejections, failures: 0 }.back_off();
        assert_eq!((after(1), after(2), after(3)), (BACK_OFF, BACK_OFF * 2, BACK_OFF * 4));
        assert_eq!((after(7), after(200)), (MAX_BACK_OFF, MAX_BACK_OFF));
    }

    #[test]
    fn an_expired_back_off_lets_one_probe_through() {
        let health = Health::new();
        health.packed.store(Unpacked { until_ms: 0, ejections: 1, failures: 0 }.pack(), Ordering::Relaxed);
        assert_eq!((health.admits(), health.admits()), (true, false));
    }
}
