//! Floor 3: librdkafka's statistics as metrics. It counts from zero with each new client, while a counter of ours only
//! grows: so what is added is what has come since this client last told.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use prometheus::IntCounter;
use rdkafka::statistics::{Broker, Statistics};

use crate::metrics::kafka::KafkaMetrics;

/// The most brokers with series of their own; a cluster that changes its brokers' names all the time must not make more
/// and more of them.
const MAX_BROKERS: usize = 64;

/// One client's statistics.
#[derive(Debug)]
pub(super) struct KafkaStats {
    metrics: KafkaMetrics,
    /// What it last told, by broker and what it counts.
    last: Mutex<HashMap<(String, &'static str), u64>>,
}

impl KafkaStats {
    /// Of a client that was just made.
    pub(super) fn new(metrics: KafkaMetrics) -> Self {
        Self { metrics, last: Mutex::default() }
    }

    /// Takes over what the client tells.
    pub(super) fn told(&self, told: &Statistics) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let metrics = &self.metrics;
        metrics.queue_messages.set(i64::try_from(told.msg_cnt).unwrap_or(i64::MAX));
        metrics.queue_bytes.set(i64::try_from(told.msg_size).unwrap_or(i64::MAX));
        let mut add = |broker: &str, what, counter: &IntCounter, now: u64| {
            let before = last.insert((broker.to_owned(), what), now).unwrap_or(0);
            counter.inc_by(now.saturating_sub(before));
        };
        add("", "messages", &metrics.sent_messages, u64::try_from(told.txmsgs).unwrap_or(0));
        add("", "bytes", &metrics.sent_message_bytes, u64::try_from(told.txmsg_bytes).unwrap_or(0));
        // Those with a number are the cluster's; the others stand for an address of the file until its broker is known.
        let mut brokers: Vec<&Broker> = told.brokers.values().filter(|broker| broker.nodeid >= 0).collect();
        brokers.sort_by_key(|broker| broker.nodeid);
        for broker in brokers.into_iter().take(MAX_BROKERS) {
            let name = broker.nodename.as_str();
            metrics.broker_up.with_label_values(&[name]).set((broker.state == "UP").into());
            metrics.broker_requests.with_label_values(&[name]).set(broker.waitresp_cnt);
            if let Some(rtt) = broker.rtt.as_ref().filter(|rtt| rtt.cnt > 0) {
                let seconds = |micros: i64| micros as f64 / 1e6;
                metrics.broker_round_trip.with_label_values(&[name, "avg"]).set(seconds(rtt.avg));
                metrics.broker_round_trip.with_label_values(&[name, "p99"]).set(seconds(rtt.p99));
            }
            for (direction, now) in [("sent", broker.txbytes), ("received", broker.rxbytes)] {
                add(name, direction, &metrics.broker_bytes.with_label_values(&[name, direction]), now);
            }
            let disconnects = u64::try_from(broker.disconnects.unwrap_or(0)).unwrap_or(0);
            let failures = [
                ("error", broker.txerrs),
                ("retry", broker.txretries),
                ("timeout", broker.req_timeouts),
                ("disconnect", disconnects),
            ];
            for (kind, now) in failures {
                add(name, kind, &metrics.broker_failures.with_label_values(&[name, kind]), now);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sink::testing::kafka_metrics;

    fn told(messages: i64, sent: u64) -> Statistics {
        let broker = |id: i32| Broker {
            nodeid: id,
            nodename: format!("b{id}:9092"),
            state: "UP".to_owned(),
            txbytes: sent,
            ..Broker::default()
        };
        let brokers = (-1..100).map(|id| (id.to_string(), broker(id))).collect();
        Statistics { txmsgs: messages, msg_cnt: 7, brokers, ..Statistics::default() }
    }

    #[test]
    fn counters_grow_over_a_client_that_is_made_anew_and_brokers_are_bounded() {
        let metrics = kafka_metrics();
        let first = KafkaStats::new(metrics.clone());
        first.told(&told(10, 100));
        first.told(&told(15, 130));
        KafkaStats::new(metrics.clone()).told(&told(4, 20));
        assert_eq!((metrics.sent_messages.get(), metrics.queue_messages.get()), (19, 7));
        let sent = |broker: &str| metrics.broker_bytes.with_label_values(&[broker, "sent"]).get();
        assert_eq!([sent("b0:9092"), sent("b63:9092")], [150, 150]);
        let families = prometheus::core::Collector::collect(&metrics.broker_up);
        assert_eq!(families[0].get_metric().len(), MAX_BROKERS, "and none for what is only an address");
    }
}
