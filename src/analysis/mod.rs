//! Floor 2: what two answers mean to each other. Pure: no I/O, and time is an argument.

pub mod material;
pub mod stats;
