//! shadowpair.

pub mod analysis;
pub mod budget;
pub mod compare;
pub mod config;
pub mod demo;
pub mod ledger;
pub mod lifecycle;
pub mod listener;
pub mod live;
pub mod logging;
pub mod metrics;
pub mod record;
pub mod sink;
pub mod types;
pub mod upload;
