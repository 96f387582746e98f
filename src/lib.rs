//! shadowpair.

pub mod analysis;
pub mod budget;
pub mod config;
pub mod ledger;
pub mod record;
pub mod sink;
pub mod types;
