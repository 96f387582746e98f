//! Floor 7: the map. The README, then the house: modules in floor order, and the invariants.
//!
#![doc = include_str!("../README.md")]
//!
//! # The house
//!
//! A folder is a chapter; its `mod.rs` tells the chapter's story, its siblings are the details. A file imports only from
//! lower floors, from its own folder, or from a module further left on its floor; `tests/architecture.rs` holds that.
//! A newcomer begins at [`proxy`], the story of a request, and goes on to [`shadow`], the story of its copy.
//!
//! The request in one line: [`listener`] → [`proxy`] → route ([`snapshot`]) → [`upload`] → [`upstream`] (prod) → client;
//! beside it, on a lane, [`shadow`] → [`upstream`] (candidate) → [`analysis`] → [`sink`].
//!
//! | thread | priority | runs |
//! |---|---|---|
//! | acceptor | normal | accepts, and hands each connection to the least busy worker |
//! | worker, one per core | normal | the answer path and nothing else, on an event loop and connections of its own |
//! | lane, one per four workers | nice 19 | candidates' calls, on an event loop and connections of its own |
//! | analysis | nice 19 | comparison and record of each pair |
//! | delivery | nice 19 | files or Kafka |
//! | admin | normal | probes, metrics, API, name resolution |
//!
//! # Invariants
//!
//! 1. Nothing on the answer path waits for a shadow or a sink: both doors return at once and count what they refuse, by
//!    reason. A candidate cannot change a byte of the client's answer.
//! 2. Prod's answer is streamed, never gathered; the record's copy is made beside it, and bounded.
//! 3. A request takes one snapshot of the live state and uses nothing else of it.
//! 4. No lock is shared between workers on the answer path; no blocking write, name look-up or file call runs there.
//! 5. Every queue, buffer and pool has a bound. All that is kept is charged to one budget, `limits.shadow_bytes`.
//! 6. Caps of endpoints and shadows are process-wide; the last endpoint of a prod model is never ejected.
//! 7. One ledger gives a pair its `seq` and books what becomes of it, so that in every scrape made + recovered =
//!    delivered + dropped + waiting.
//! 8. A panic beside the answer path fails one pair, counted; every walk over foreign data has a depth limit.
//! 9. [`proxy`], [`control`] and [`compare`] never import one another.
//! 10. Routing, sampling, comparison and statistics are pure: no I/O, and time is an argument.
//! 11. serde for stored or user-written formats lives in [`record`] and `config/raw.rs` alone.
//! 12. Every thread and task starts through [`lifecycle`], so that a drain knows it. There is no `unsafe`.

// Floor 7: the composition root, the command line, the demo.
pub mod app;
pub mod cli;
pub mod demo;

// Floor 6: probes, metrics, API.
pub mod admin;

// Floor 5: the data plane, the control plane, the offline comparison.
pub mod compare;
pub mod control;
pub mod proxy;

// Floor 4: what a request sees, and the copy.
pub mod shadow;
pub mod snapshot;

// Floor 3: the request body, calls to models, delivery.
pub mod sink;
pub mod upload;
pub mod upstream;

// Floor 2: client connections, the one swap of live state, what two answers mean to each other.
pub mod analysis;
pub mod listener;
pub mod live;

// Floor 1: the record, the routing file, budget and ledger, metrics, logs, life cycle, timers, HTTP/1.1 on the wire.
pub mod alarm;
pub mod budget;
pub mod config;
pub mod ledger;
pub mod lifecycle;
pub mod logging;
pub mod metrics;
pub mod record;
pub mod wire;

// Floor 0: the words.
pub mod types;
