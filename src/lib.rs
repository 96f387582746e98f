//! shadowpair.

pub mod config;
pub mod record;
pub mod types;
