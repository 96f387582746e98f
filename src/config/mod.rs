//! Floor 1: the routing file. `raw` is what was typed (a tree with places, `environment` fills in its `${}`), `process`
//! and `routing` hold only what is valid; `load` goes from one to the other by way of `read`, block by block, and finds
//! every `fault` of a file at once. `effective` shows what a file came to, `schema` describes files and records to
//! other programs.

pub mod effective;
mod environment;
pub mod fault;
mod keys;
pub mod load;
pub mod process;
mod raw;
mod read;
pub mod routing;
mod scalar;
pub mod schema;
mod secrets;
mod syntax;
#[cfg(test)]
mod tests;

use process::Process;
pub use raw::Substituted;
use routing::Routing;

/// A whole, valid routing file.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What is fixed for the life of the process.
    pub process: Process,
    /// What may change while it runs.
    pub routing: Routing,
    /// The first 12 hex digits of the SHA-256 of the file's text, before substitution.
    pub hash: String,
    /// Where values came from the environment: whatever shows the file shows the reference and not the value.
    pub substituted: Substituted,
}
