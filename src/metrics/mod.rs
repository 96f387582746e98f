//! Floor 1: every metric family of the contract, and the handles through which the rest of the house counts.
//! Counters stand at 0 from the start; histograms appear at their first event, so that 10,000 routes stay
//! scrapeable. [`local`] holds what a worker keeps to itself, [`collect`] what is read at scrape time,
//! `retire` takes series down.

pub mod collect;
pub mod kafka;
pub mod local;
mod retire;
pub mod versions;

use std::sync::{Arc, OnceLock};

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

use self::kafka::KafkaMetrics;
use crate::types::{Outcome, Role, SkipReason};

/// Seconds: 0.5 ms to 600 s.
const DURATION_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
    600.0,
];

/// Seconds: 10 µs to 50 ms.
const OVERHEAD_BUCKETS: &[f64] =
    &[0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05];

/// Every family.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Answers by route, author and status.
    pub requests: IntCounterVec,
    /// Seconds from a request's head to its answer's last byte.
    pub request_duration: HistogramVec,
    /// Seconds that the proxy itself added.
    pub overhead: HistogramVec,
    /// Calls by how they ended.
    pub legs: IntCounterVec,
    /// Seconds from a call's last request byte to its answer's last.
    pub leg_duration: HistogramVec,
    /// Seconds from a call's last request byte to its answer's first.
    pub leg_first_byte: HistogramVec,
    /// Copies not made.
    pub skipped: IntCounterVec,
    /// Calls under way.
    pub in_flight: IntGaugeVec,
    /// Shares as the file asks.
    pub share: GaugeVec,
    /// Whether an endpoint is used.
    pub endpoint_up: IntGaugeVec,
    /// Ejections.
    pub endpoint_ejected: IntCounterVec,
    /// Open connections to an endpoint.
    pub upstream_connections: IntGaugeVec,
    /// Open client connections.
    pub client_connections: IntGauge,
    /// Times that accepting waited.
    pub accept_paused: IntCounter,
    /// Versions by model.
    pub model_info: IntGaugeVec,
    /// The routing file in force.
    pub config_info: IntGaugeVec,
    /// Loads by outcome.
    pub config_reloads: IntCounterVec,
    /// Whether the last load was good.
    pub config_last_successful: IntGauge,
    /// When the last good load was.
    pub config_last_success_time: Gauge,
    /// Seconds from a pair's making to its confirmation.
    pub delivery_seconds: HistogramVec,
    /// Whether the sink takes pairs.
    pub sink_up: IntGaugeVec,
    /// The sink's errors.
    pub sink_errors: IntCounterVec,
    /// What librdkafka says of itself.
    pub kafka: KafkaMetrics,
    /// Log lines lost because the writer was too slow.
    pub log_dropped: IntCounter,
}

/// Registers families one after another and remembers the first refusal.
struct Registrar<'a> {
    registry: &'a Registry,
    failed: Option<prometheus::Error>,
}

impl Registrar<'_> {
    fn add<C: prometheus::core::Collector + Clone + 'static>(&mut self, made: prometheus::Result<C>) -> Option<C> {
        let registered = made.and_then(|family| {
            self.registry.register(Box::new(family.clone()))?;
            Ok(family)
        });
        registered.map_err(|error| self.failed.get_or_insert(error).to_string()).ok()
    }

    fn counters(&mut self, name: &str, help: &str, labels: &[&str]) -> Option<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauges(&mut self, name: &str, help: &str, labels: &[&str]) -> Option<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn histograms(&mut self, name: &str, help: &str, labels: &[&str]) -> Option<HistogramVec> {
        let buckets = if name.contains("overhead") { OVERHEAD_BUCKETS } else { DURATION_BUCKETS };
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }
}

impl Metrics {
    /// All families, registered; `log_dropped` counts the lines that logging lost.
    pub fn new(log_dropped: IntCounter) -> prometheus::Result<Arc<Self>> {
        let registry = Registry::new();
        let mut registrar = Registrar { registry: &registry, failed: None };
        let made = Self::families(&mut registrar, registry.clone(), log_dropped);
        let Some(metrics) = made else {
            return Err(registrar.failed.unwrap_or(prometheus::Error::Msg("a metric family is missing".into())));
        };
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        metrics.start_at_zero();
        Ok(Arc::new(metrics))
    }

    #[rustfmt::skip] // A table reads better than thirty wrapped calls.
    fn families(r: &mut Registrar<'_>, registry: Registry, log_dropped: IntCounter) -> Option<Self> {
        let leg = ["route", "model", "role"];
        let endpoint = ["model", "address"];
        Some(Self {
            requests: r.counters("shadowpair_requests_total", "Answers to clients.", &["route", "answered_by", "code"])?,
            request_duration: r.histograms("shadowpair_request_duration_seconds", "From a request's head to its answer's last byte.", &["route", "answered_by"])?,
            overhead: r.histograms("shadowpair_overhead_seconds", "Time the proxy itself added on the answer path.", &["route"])?,
            legs: r.counters("shadowpair_legs_total", "Calls to models by outcome.", &["route", "model", "role", "outcome"])?,
            leg_duration: r.histograms("shadowpair_leg_duration_seconds", "From a call's last request byte to its answer's last byte.", &leg)?,
            leg_first_byte: r.histograms("shadowpair_leg_first_byte_seconds", "From a call's last request byte to its answer's first byte.", &leg)?,
            skipped: r.counters("shadowpair_shadow_skipped_total", "Sampled requests that were not copied, by reason.", &["route", "model", "role", "reason"])?,
            in_flight: r.gauges("shadowpair_in_flight", "Calls under way.", &["route", "role"])?,
            share: r.add(GaugeVec::new(Opts::new("shadowpair_share_ratio", "The share of requests that the routing file asks for, 0 to 1."), &leg))?,
            endpoint_up: r.gauges("shadowpair_endpoint_up", "1 while the endpoint is used, 0 while it is ejected.", &endpoint)?,
            endpoint_ejected: r.counters("shadowpair_endpoint_ejected_total", "Times the endpoint was ejected.", &endpoint)?,
            upstream_connections: r.gauges("shadowpair_upstream_connections", "Open connections to the endpoint.", &endpoint)?,
            client_connections: r.add(IntGauge::new("shadowpair_client_connections", "Open client connections."))?,
            accept_paused: r.add(IntCounter::new("shadowpair_accept_paused_total", "Times that accepting waited for a free connection or descriptor."))?,
            model_info: r.gauges("shadowpair_model_info", "Always 1; the versions of each model.", &["model", "version"])?,
            config_info: r.gauges("shadowpair_config_info", "Always 1; the routing file in force.", &["hash"])?,
            config_reloads: r.counters("shadowpair_config_reloads_total", "Loads of the routing file by outcome.", &["outcome"])?,
            config_last_successful: r.add(IntGauge::new("shadowpair_config_last_reload_successful", "Whether the last load of the routing file was good."))?,
            config_last_success_time: r.add(Gauge::new("shadowpair_config_last_reload_success_timestamp_seconds", "When the last good load of the routing file was, Unix time."))?,
            delivery_seconds: r.histograms("shadowpair_delivery_seconds", "From a pair's making to the sink's confirmation.", &["sink"])?,
            sink_up: r.gauges("shadowpair_sink_up", "1 while the sink takes pairs.", &["sink"])?,
            sink_errors: r.counters("shadowpair_sink_errors_total", "Errors of the sink by kind.", &["sink", "kind"])?,
            kafka: KafkaMetrics::new(r)?,
            log_dropped: r.add(Ok(log_dropped))?,
            registry,
        })
    }

    /// Adds what is read at scrape time.
    pub fn register(&self, collector: impl prometheus::core::Collector + 'static) -> prometheus::Result<()> {
        self.registry.register(Box::new(collector))
    }

    fn start_at_zero(&self) {
        for outcome in ["applied", "unchanged", "rejected"] {
            self.config_reloads.with_label_values(&[outcome]);
        }
        let build = IntGaugeVec::new(Opts::new("shadowpair_build_info", "Always 1; this build."), &["version"]);
        if let Ok(build) = build {
            build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
            // The name is registered once, so this cannot be refused.
            let _ = self.registry.register(Box::new(build));
        }
    }

    /// The scrape, in Prometheus text format.
    pub fn render(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::with_capacity(64 << 10);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// Makes the children of one kind of call.
    pub fn leg(self: &Arc<Self>, route: &str, model: &str, role: Role) -> LegMetrics {
        let labels = [route, model, role.as_str()];
        LegMetrics {
            total: Outcome::ALL
                .iter()
                .map(|o| self.legs.with_label_values(&[route, model, role.as_str(), o.as_str()]))
                .collect(),
            in_flight: self.in_flight.with_label_values(&[route, role.as_str()]),
            duration: LazyHistogram::new(&self.leg_duration, &labels),
            first_byte: LazyHistogram::new(&self.leg_first_byte, &labels),
        }
    }

    /// Makes the children of a candidate's skips, and sets its share.
    pub fn candidate(&self, route: &str, model: &str, role: Role, share: f64) -> Vec<IntCounter> {
        self.share.with_label_values(&[route, model, role.as_str()]).set(share);
        let skip =
            |reason: &SkipReason| self.skipped.with_label_values(&[route, model, role.as_str(), reason.as_str()]);
        SkipReason::ALL.iter().map(skip).collect()
    }
}

/// A histogram's child that is made at its first event.
#[derive(Debug)]
pub struct LazyHistogram {
    family: HistogramVec,
    labels: Vec<String>,
    child: OnceLock<Histogram>,
}

impl LazyHistogram {
    /// A child to be.
    pub fn new(family: &HistogramVec, labels: &[&str]) -> Self {
        Self {
            family: family.clone(),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            child: OnceLock::new(),
        }
    }

    /// The child.
    pub fn get(&self) -> &Histogram {
        self.child.get_or_init(|| {
            let labels: Vec<&str> = self.labels.iter().map(String::as_str).collect();
            self.family.with_label_values(&labels)
        })
    }
}

/// The children of one route × model × role, shared by all threads.
#[derive(Debug)]
pub struct LegMetrics {
    /// By [`Outcome`].
    pub total: Vec<IntCounter>,
    /// Calls under way.
    pub in_flight: IntGauge,
    /// Whole calls.
    pub duration: LazyHistogram,
    /// To the first byte.
    pub first_byte: LazyHistogram,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_stand_at_zero_and_histograms_wait_for_their_first_event() {
        let metrics = Metrics::new(crate::logging::dropped_lines().expect("counter")).expect("families");
        let leg = metrics.leg("r", "m", Role::Prod);
        let text = String::from_utf8(metrics.render().expect("text")).expect("utf-8");
        assert!(text.contains(r#"shadowpair_legs_total{model="m",outcome="ok",role="prod",route="r"} 0"#));
        assert!(!text.contains("shadowpair_leg_duration_seconds_count"));
        leg.duration.get().observe(1.0);
        let text = String::from_utf8(metrics.render().expect("text")).expect("utf-8");
        assert!(text.contains("shadowpair_leg_duration_seconds_count"));
        assert!(text.contains("shadowpair_build_info"));
    }
}
