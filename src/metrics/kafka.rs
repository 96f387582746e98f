//! Floor 1: what librdkafka says of itself (its STATISTICS.md). Those without a broker stand there with every sink.

use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use super::Registrar;

/// The families of `shadowpair_kafka_*`.
#[derive(Debug, Clone)]
pub struct KafkaMetrics {
    /// Pairs in librdkafka's own queue, requests under way included.
    pub queue_messages: IntGauge,
    /// Their bytes.
    pub queue_bytes: IntGauge,
    /// Pairs sent, those sent again included.
    pub sent_messages: IntCounter,
    /// Their bytes, before compression.
    pub sent_message_bytes: IntCounter,
    /// Whether a connection to the broker is up.
    pub broker_up: IntGaugeVec,
    /// Seconds until it answers.
    pub broker_round_trip: GaugeVec,
    /// Requests that it has not answered.
    pub broker_requests: IntGaugeVec,
    /// Bytes to it and from it.
    pub broker_bytes: IntCounterVec,
    /// What failed.
    pub broker_failures: IntCounterVec,
}

impl KafkaMetrics {
    #[rustfmt::skip] // A table reads better than a dozen wrapped calls.
    pub(super) fn new(r: &mut Registrar<'_>) -> Option<Self> {
        Some(Self {
            queue_messages: r.add(IntGauge::new("shadowpair_kafka_queue_messages", "Pairs in librdkafka's queue, those on their way included (msg_cnt)."))?,
            queue_bytes: r.add(IntGauge::new("shadowpair_kafka_queue_bytes", "Bytes in librdkafka's queue, those on their way included (msg_size)."))?,
            sent_messages: r.add(IntCounter::new("shadowpair_kafka_sent_messages_total", "Pairs that librdkafka has sent, those sent again included (txmsgs)."))?,
            sent_message_bytes: r.add(IntCounter::new("shadowpair_kafka_sent_message_bytes_total", "Bytes of these before compression (txmsg_bytes)."))?,
            broker_up: r.gauges("shadowpair_kafka_broker_up", "1 while a connection to the broker is up.", &["broker"])?,
            broker_round_trip: r.add(GaugeVec::new(Opts::new("shadowpair_kafka_broker_round_trip_seconds", "How long the broker takes to answer, over the last statistics interval (rtt); stat is avg or p99."), &["broker", "stat"]))?,
            broker_requests: r.gauges("shadowpair_kafka_broker_requests_in_flight", "Requests that the broker has not answered (waitresp_cnt).", &["broker"])?,
            broker_bytes: r.counters("shadowpair_kafka_broker_bytes_total", "Bytes to and from the broker (txbytes, rxbytes); direction is sent or received.", &["broker", "direction"])?,
            broker_failures: r.counters("shadowpair_kafka_broker_failures_total", "What failed: kind is error (txerrs), retry (txretries), timeout (req_timeouts) or disconnect.", &["broker", "kind"])?,
        })
    }
}
