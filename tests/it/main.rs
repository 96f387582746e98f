//! The whole proxy on port 0, between scripted models and clients that hide nothing: every promise of the contract
//! that can be seen from outside. A test is named after what it promises; `support` holds what they share.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(unreachable_pub)]

mod support;

mod admin;
mod bad_input;
mod balance;
mod bench_itself;
mod between_versions;
mod canary;
mod canary_failures;
mod chaos;
mod churn;
mod cli;
mod closing;
mod comparing;
mod deploy;
mod endpoints;
mod fallback;
mod families;
mod faults;
mod forwarding;
mod framing;
mod health;
mod hostile;
mod hostile_h2;
mod http2;
mod kept;
mod limits;
mod metrics;
mod pair_files;
mod pairs;
mod pairs_bodies;
mod privacy;
mod reload;
mod retry;
mod rewriting;
mod sampling;
mod shadowing;
mod shedding;
mod shutdown;
mod strangers;
mod streams;
mod timing;
