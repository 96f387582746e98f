//! Floor 1: the routing file. `raw` mirrors what is typed, `process` and `routing` hold only what is valid;
//! `load` goes from one to the other and finds every fault of a file at once.

pub mod process;
pub mod routing;

use process::Process;
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
}
