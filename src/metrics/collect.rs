//! What is read at scrape time: the ledger in one go, so that its sum holds in every scrape, the byte budget and the
//! lanes' lag.

use std::collections::HashMap;
use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use crate::budget::Budget;
use crate::ledger::{Account, Ledger};
use crate::types::DropReason;

/// A number that is read at scrape time.
pub type Read = Box<dyn Fn() -> f64 + Send + Sync>;

/// Exposes the ledger, the budget and a few gauges.
pub struct PipelineCollector {
    ledger: Arc<Ledger>,
    sink: &'static str,
    gauges: Vec<(&'static str, &'static str, bool, Read)>,
    descs: Vec<Desc>,
}

const PAIRS: (&str, &str) = ("shadowpair_pairs_total", "Pairs made, by what they say.");
const RECOVERED: (&str, &str) = ("shadowpair_pairs_recovered_total", "Pairs found in the spool at start.");
const DELIVERED: (&str, &str) = ("shadowpair_pairs_delivered_total", "Pairs that the sink has confirmed.");
const DROPPED: (&str, &str) = ("shadowpair_pairs_dropped_total", "Pairs given up, by reason.");
const DEPTH: (&str, &str) = ("shadowpair_pairs_queue_depth", "Pairs made and not yet delivered, dropped or spooled.");
const QUEUE_BYTES: (&str, &str) = ("shadowpair_pairs_queue_bytes", "Bytes of the pairs in the sink's queue.");
const SPOOL_PAIRS: (&str, &str) =
    ("shadowpair_spool_pairs", "Pairs in the spool, those on their way from it included.");
const SPOOL_BYTES: (&str, &str) = ("shadowpair_spool_bytes", "Bytes of the spool, those not yet taken over included.");
const SPOOL_LIMIT: (&str, &str) =
    ("shadowpair_spool_limit_bytes", "The most bytes that the spool may hold; 0 without one.");

impl PipelineCollector {
    /// For this sink; `oldest` is the age of the oldest waiting pair, `lag` the lanes' worst of the last second, in
    /// seconds.
    pub fn new(ledger: Arc<Ledger>, budget: Arc<Budget>, sink: &'static str, oldest: Read, lag: Read) -> Self {
        let (used, limit) = (Arc::clone(&budget), budget);
        let gauges: Vec<(&'static str, &'static str, bool, Read)> = vec![
            ("shadowpair_pairs_oldest_seconds", "Age of the oldest waiting pair.", true, oldest),
            ("shadowpair_lane_lag_seconds", "How late lanes ran: the worst of the last second.", false, lag),
            (
                "shadowpair_shadow_bytes",
                "Bytes of all copies and waiting pairs.",
                false,
                Box::new(move || used.used() as f64),
            ),
            (
                "shadowpair_shadow_limit_bytes",
                "The most bytes of all copies and waiting pairs.",
                false,
                Box::new(move || limit.limit() as f64),
            ),
        ];
        let fixed = [PAIRS, RECOVERED, DELIVERED, DROPPED, DEPTH, QUEUE_BYTES, SPOOL_PAIRS, SPOOL_BYTES, SPOOL_LIMIT];
        let names = fixed.into_iter().chain(gauges.iter().map(|(name, help, ..)| (*name, *help)));
        let desc =
            |(name, help): (&str, &str)| Desc::new(name.to_owned(), help.to_owned(), Vec::new(), HashMap::new()).ok();
        let descs = names.filter_map(desc).collect();
        Self { ledger, sink, gauges, descs }
    }

    fn account(&self, account: &Account) -> Vec<MetricFamily> {
        let sink = [("sink", self.sink)];
        let made = account.made.iter().map(|(key, count)| {
            let route = key.route.as_ref().map_or("", |name| name.as_str());
            let model = key.model.as_ref().map_or("", |name| name.as_str());
            let labels =
                [("model", model), ("result", key.result.as_str()), ("role", key.role.as_str()), ("route", route)];
            counter(&labels, *count)
        });
        let dropped = DropReason::ALL
            .iter()
            .map(|reason| counter(&[("reason", reason.as_str()), sink[0]], account.dropped[*reason as usize]));
        vec![
            family(PAIRS, MetricType::COUNTER, made.collect()),
            family(RECOVERED, MetricType::COUNTER, vec![counter(&sink, account.recovered)]),
            family(DELIVERED, MetricType::COUNTER, vec![counter(&sink, account.delivered)]),
            family(DROPPED, MetricType::COUNTER, dropped.collect()),
            family(DEPTH, MetricType::GAUGE, vec![gauge(&sink, account.queued as f64)]),
            family(QUEUE_BYTES, MetricType::GAUGE, vec![gauge(&sink, account.queued_bytes as f64)]),
            family(SPOOL_PAIRS, MetricType::GAUGE, vec![gauge(&sink, account.spooled as f64)]),
            family(SPOOL_BYTES, MetricType::GAUGE, vec![gauge(&sink, account.spool_bytes as f64)]),
            family(SPOOL_LIMIT, MetricType::GAUGE, vec![gauge(&sink, account.spool_limit as f64)]),
        ]
    }
}

impl Collector for PipelineCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.account(&self.ledger.read());
        // Without a pair made there is no child, and a family without children is refused by scrapers.
        families.retain(|family| !family.get_metric().is_empty());
        families.extend(self.gauges.iter().map(|(name, help, by_sink, read)| {
            let labels: &[(&str, &str)] = if *by_sink { &[("sink", self.sink)] } else { &[] };
            family((name, help), MetricType::GAUGE, vec![gauge(labels, read())])
        }));
        families
    }
}

fn family((name, help): (&str, &str), kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn metric(labels: &[(&str, &str)]) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut label = LabelPair::default();
        label.set_name((*name).to_owned());
        label.set_value((*value).to_owned());
        label
    };
    Metric::from_label(labels.iter().map(pair).collect())
}

fn counter(labels: &[(&str, &str)], value: u64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    let mut metric = metric(labels);
    metric.set_counter(counter);
    metric
}

fn gauge(labels: &[(&str, &str)], value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = metric(labels);
    metric.set_gauge(gauge);
    metric
}
