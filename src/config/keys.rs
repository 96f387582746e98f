//! Floor 1: every key of the routing file, block by block. Readers ask this table what is known (so that an unknown key
//! is told with those that are), and a test holds the JSON Schema against it.

/// A mapping with a fixed set of keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// What a message calls it.
    pub(super) name: &'static str,
    /// Its name under `$defs` in the JSON Schema; the whole file is `file`.
    pub(super) schema: &'static str,
    /// Its keys.
    pub(super) keys: &'static [&'static str],
}

/// Declares the blocks, and the list of all of them.
macro_rules! blocks {
    ($($name:ident = $text:literal, $schema:literal, [$($key:literal),+ $(,)?];)+) => {
        $(pub(super) static $name: Block = Block { name: $text, schema: $schema, keys: &[$($key),+] };)+

        /// All of them.
        #[cfg(test)]
        pub(super) static BLOCKS: &[&Block] = &[$(&$name),+];
    };
}

blocks! {
    FILE = "the routing file", "file", ["version", "server", "models", "routes", "pairs"];
    SERVER = "`server`", "server", [
        "listen", "admin", "admin_token", "workers", "shadow_threads", "drain", "drain_delay", "trusted_proxies", "labels", "hash_key",
        "limits",
    ];
    LISTEN = "a listener", "listener", ["address", "tls"];
    TLS = "`tls`", "tls", ["cert", "key", "client_ca"];
    LIMITS = "`limits`", "limits", [
        "connections", "header_bytes", "header_timeout", "idle_timeout", "request_bytes", "shadow_bytes",
    ];
    MODEL = "a model", "model", [
        "version", "endpoints", "protocol", "timeout", "max_connections", "credentials", "health", "rewrite",
    ];
    VERSION = "`version`", "versionFrom", ["json", "header"];
    TIMEOUT = "`timeout`", "timeout", ["connect", "first_byte", "idle", "total"];
    HEALTH = "`health`", "health", ["path", "interval"];
    REWRITE = "`rewrite`", "rewrite", ["path", "path_prefix", "host", "headers", "json"];
    REWRITE_HEADERS = "`rewrite.headers`", "rewriteHeaders", ["set", "remove"];
    ROUTE = "a route", "route", [
        "name", "match", "api", "prod", "fallback", "shadow", "control", "canary", "retry", "upgrade", "copy_body", "capture", "slices",
        "compare",
    ];
    MATCH = "`match`", "match", ["host", "path", "path_prefix", "methods", "headers"];
    SHADOW = "a shadow", "shadow", ["model", "percent", "timeout", "max_in_flight", "max_rps"];
    CONTROL = "`control`", "control", ["percent", "timeout", "max_in_flight", "max_rps"];
    CANARY = "`canary`", "canary", ["model", "percent", "sticky", "timeout", "pair_percent", "on_error"];
    STICKY = "`sticky`", "sticky", ["header", "cookie", "query", "json", "client_ip"];
    RETRY = "`retry`", "retry", ["attempts", "on", "idempotent"];
    CAPTURE = "`capture`", "capture", ["request", "answers", "max_body", "headers", "redact", "keys"];
    REDACT = "a redaction", "redaction", ["at", "with"];
    KEY = "a key", "key", ["json", "header", "query", "cookie", "hash"];
    SLICE = "a slice", "slice", ["json", "header", "query", "cookie", "buckets"];
    COMPARE = "`compare`", "compare", ["values", "tolerance", "ignore"];
    VALUE = "a value", "value", ["name", "at", "kind", "tolerance"];
    TOLERANCE = "`tolerance`", "tolerance", ["absolute", "relative"];
    PAIRS = "`pairs`", "pairs", ["kafka", "file", "spool"];
    FILE_SINK = "`file`", "fileSink", ["dir", "segment", "keep", "keep_for", "compress"];
    KAFKA_SINK = "`kafka`", "kafkaSink", ["brokers", "topic", "key", "create_topic", "properties"];
    CREATE_TOPIC = "`create_topic`", "createTopic", ["partitions", "replication", "retention"];
    SPOOL = "`spool`", "spool", ["dir", "max", "commit", "when_full"];
}
