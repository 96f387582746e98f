//! shadowpair.

pub mod analysis;
pub mod budget;
pub mod config;
pub mod demo;
pub mod ledger;
pub mod record;
pub mod types;
