//! A streaming shadow-deployment proxy: prod answers, candidates are asked beside it, and every request becomes one
//! comparable pair.

pub mod admin;
pub mod analysis;
pub mod app;
pub mod budget;
pub mod cli;
pub mod compare;
pub mod config;
pub mod control;
pub mod demo;
pub mod ledger;
pub mod lifecycle;
pub mod listener;
pub mod live;
pub mod logging;
pub mod metrics;
pub mod proxy;
pub mod record;
pub mod shadow;
pub mod sink;
pub mod snapshot;
pub mod types;
pub mod upload;
pub mod upstream;
