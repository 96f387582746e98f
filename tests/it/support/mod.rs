//! The bench: the whole proxy on port 0, scripted models behind it, clients before it that hide nothing.

pub(crate) mod bench;
pub(crate) mod chance;
pub(crate) mod client;
pub(crate) mod h2;
pub(crate) mod h2_raw;
pub(crate) mod metrics;
pub(crate) mod pairs;
pub(crate) mod plan;
pub(crate) mod process;
pub(crate) mod schema;
pub(crate) mod stub;
pub(crate) mod wire;

pub(crate) use bench::Bench;
pub(crate) use client::{Answer, Client, ask, get, post, post_as, request};
pub(crate) use plan::Plan;
pub(crate) use process::Process;
pub(crate) use stub::{Act, Gate, Stub, answer, ok_json};
pub(crate) use wire::End;

use std::time::{Duration, Instant};

/// Waits until it holds; a test that waits longer than ten seconds has failed.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Gives this thread, and those it starts, the lowest priority. Lanes have it anyway; among equals they run in time,
/// where a busy test of normal priority would starve them and the proxy would rightly shed its copies.
pub(crate) fn step_back() {
    // Where it is refused the test is only more sensitive to load.
    let _ = rustix::process::setpriority_process(None, 19);
}
