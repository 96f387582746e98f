//! shadowpair.

pub mod analysis;
pub mod budget;
pub mod compare;
pub mod config;
pub mod ledger;
pub mod record;
pub mod types;
